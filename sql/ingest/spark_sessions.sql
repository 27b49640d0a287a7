-- Open or close sessions. Each column is that of the latest message which told it, whatever order they come in.
INSERT INTO public.spark_sessions AS old (
    session_id, user_id, model, mode, started_at, ended_at, meta,
    connected_at, disconnected_at, user_at, model_at, mode_at, meta_at
)
SELECT
    session_id,
    user_id,
    coalesce(model, 'unknown'),
    coalesce(mode, 'hybrid'),
    connected_at,
    disconnected_at,
    coalesce(meta::jsonb, '{}'),
    connected_at,
    disconnected_at,
    CASE WHEN user_id IS NOT NULL THEN coalesce(connected_at, disconnected_at) END,
    CASE WHEN model IS NOT NULL THEN coalesce(connected_at, disconnected_at) END,
    CASE WHEN mode IS NOT NULL THEN coalesce(connected_at, disconnected_at) END,
    CASE WHEN meta IS NOT NULL THEN coalesce(connected_at, disconnected_at) END
FROM
    unnest(
        %(session_id)b::text[], %(connected_at)b::timestamptz[], %(disconnected_at)b::timestamptz[],
        %(user_id)b::uuid[], %(model)b::text[], %(mode)b::text[], %(meta)b::text[]
    ) AS new (session_id, connected_at, disconnected_at, user_id, model, mode, meta)
ON CONFLICT (session_id) DO UPDATE SET
    started_at = least(old.started_at, excluded.started_at),
    connected_at = greatest(old.connected_at, excluded.connected_at),
    disconnected_at = greatest(old.disconnected_at, excluded.disconnected_at),
    ended_at = CASE
        WHEN
            greatest(old.connected_at, excluded.connected_at)
            > greatest(old.disconnected_at, excluded.disconnected_at)
            THEN NULL
        ELSE greatest(old.disconnected_at, excluded.disconnected_at)
    END,
    user_id = CASE
        WHEN excluded.user_at IS NULL OR excluded.user_at < old.user_at THEN old.user_id ELSE excluded.user_id
    END,
    user_at = greatest(old.user_at, excluded.user_at),
    model = CASE
        WHEN excluded.model_at IS NULL OR excluded.model_at < old.model_at THEN old.model ELSE excluded.model
    END,
    model_at = greatest(old.model_at, excluded.model_at),
    mode = CASE WHEN excluded.mode_at IS NULL OR excluded.mode_at < old.mode_at THEN old.mode ELSE excluded.mode END,
    mode_at = greatest(old.mode_at, excluded.mode_at),
    meta = CASE WHEN excluded.meta_at IS NULL OR excluded.meta_at < old.meta_at THEN old.meta ELSE excluded.meta END,
    meta_at = greatest(old.meta_at, excluded.meta_at)
