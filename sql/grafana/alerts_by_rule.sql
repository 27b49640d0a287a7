-- Rules by how often they fired in the time that is shown and how long their alerts lasted (seconds), those that are
-- over; the most frequent first.
SELECT
    rule,
    count(*) FILTER (WHERE state = 'firing') AS fired,
    count(*) FILTER (WHERE state = 'resolved') AS ended,
    avg(extract(EPOCH FROM ends_at - starts_at))::float AS mean_seconds,
    max(extract(EPOCH FROM ends_at - starts_at))::float AS longest_seconds
FROM slate.alerts
WHERE $__timeFilter(created_at)
GROUP BY rule
ORDER BY fired DESC, rule ASC
