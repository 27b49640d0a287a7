-- Nothing can be held against the totals of a month any more. Said before it goes, so that no audit comes in between.
INSERT INTO slate.dropped_months (month)
VALUES (%(month)s)
ON CONFLICT (month) DO NOTHING
