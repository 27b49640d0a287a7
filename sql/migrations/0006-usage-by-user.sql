-- depends: 0005-alerts
-- What a user has used this month is asked for at the start of a session.

CREATE INDEX spark_usage_user_ts ON public.spark_usage (user_id, ts) WHERE user_id IS NOT NULL;
