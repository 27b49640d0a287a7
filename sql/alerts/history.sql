-- What alert rules would have looked at between two times, by what the tables hold.
-- noqa: disable=RF02,AM06
SELECT
    tick,
    signal,
    key,
    detail,
    session_id,
    count,
    tokens,
    cost,
    bins::text AS bins
FROM (
    SELECT
        floor(extract(EPOCH FROM ts) / 2)::bigint AS tick,
        'calls' AS signal,
        name AS key,
        status AS detail,
        '' AS session_id,
        count(*) AS count,
        0::bigint AS tokens,
        0::bigint AS cost,
        CASE
            WHEN slate.bin(duration_ms) IS NULL THEN '{}' ELSE jsonb_build_object(slate.bin(duration_ms), count(*))
        END AS bins
    FROM public.spark_function_calls
    WHERE ts >= %(since)s AND ts < %(until)s
    GROUP BY 1, name, status, slate.bin(duration_ms)
    UNION ALL
    SELECT
        floor(extract(EPOCH FROM ts) / 2)::bigint,
        'usage',
        model,
        coalesce(user_id::text, ''),
        CASE WHEN %(sessions)s THEN session_id ELSE '' END,
        count(*),
        sum(tokens_prompt::bigint + tokens_completion)::bigint,
        (sum(cost_estimate) * 1000000)::bigint,
        '{}'
    FROM public.spark_usage
    WHERE ts >= %(since)s AND ts < %(until)s
    GROUP BY 1, model, user_id, 5
    UNION ALL
    SELECT
        floor(extract(EPOCH FROM ts) / 2)::bigint,
        'events',
        type,
        '',
        CASE WHEN type IN ('connected', 'disconnected') THEN session_id ELSE '' END,
        count(*),
        0,
        0,
        '{}'
    FROM public.spark_events
    WHERE ts >= %(since)s AND ts < %(until)s
    GROUP BY 1, type, 5
    UNION ALL
    SELECT
        floor(extract(EPOCH FROM ts) / 2)::bigint,
        signal,
        engine,
        CASE signal WHEN 'previews' THEN status ELSE meta ->> 'cache' END,
        '',
        count(*),
        0,
        0,
        '{}'
    FROM public.spark_previews
    CROSS JOIN (VALUES ('previews'), ('preview_cache')) AS signals (signal)
    WHERE
        ts >= %(since)s AND ts < %(until)s
        AND (signal = 'previews' OR meta ->> 'cache' IN ('hit', 'miss'))
    GROUP BY 1, signal, engine, 4
    UNION ALL
    SELECT
        floor(extract(EPOCH FROM stored_at) / 2)::bigint,
        'dead_letters',
        code,
        '',
        '',
        count(*),
        0,
        0,
        '{}'
    FROM slate.dead_letters
    WHERE stored_at >= %(since)s AND stored_at < %(until)s
    GROUP BY 1, code
) AS ticks
ORDER BY tick, signal, key
