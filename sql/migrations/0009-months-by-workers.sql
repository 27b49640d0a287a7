-- depends: 0008-data-duties
-- Workers make the months of events that they need, and need not own the table for it: the function does it as its
-- owner, whatever its caller may do himself.

ALTER FUNCTION slate.ensure_month(date) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
REVOKE EXECUTE ON FUNCTION slate.ensure_month(date) FROM public;
