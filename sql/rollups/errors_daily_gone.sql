-- Forget days and functions of which no call is left, because it turned out to be another day's or function's.
DELETE FROM public.spark_errors_daily AS old
USING unnest(%(day)b::date[], %(name)b::text[]) AS new (day, name)
WHERE old.day = new.day AND old.name = new.name AND old.success_count = 0 AND old.error_count = 0
