-- The tables of the wire contract. `slate`, which is there before any migration, holds what this project needs beside
-- them.
CREATE TABLE public.spark_sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id text NOT NULL UNIQUE,
    user_id uuid,
    model text NOT NULL DEFAULT 'unknown',
    mode text NOT NULL DEFAULT 'hybrid' CHECK (mode IN ('creative', 'deterministic', 'hybrid')),
    started_at timestamptz,
    ended_at timestamptz,
    meta jsonb NOT NULL DEFAULT '{}',
    connected_at timestamptz,
    disconnected_at timestamptz,
    user_at timestamptz,
    model_at timestamptz,
    mode_at timestamptz,
    meta_at timestamptz
);
CREATE INDEX spark_sessions_active ON public.spark_sessions (started_at DESC) WHERE ended_at IS NULL;

CREATE SEQUENCE slate.event_row_id AS bigint CACHE 100;
CREATE TABLE public.spark_events (
    id bigint NOT NULL DEFAULT nextval('slate.event_row_id'),
    session_id text NOT NULL,
    type text NOT NULL,
    ts timestamptz NOT NULL,
    user_id uuid,
    project_id uuid,
    payload jsonb NOT NULL,
    PRIMARY KEY (id, ts)
) PARTITION BY RANGE (ts);
CREATE INDEX spark_events_ts_type ON public.spark_events (ts, type);

CREATE SEQUENCE slate.function_call_row_id AS bigint CACHE 100;
CREATE TABLE public.spark_function_calls (
    id bigint PRIMARY KEY DEFAULT nextval('slate.function_call_row_id'),
    session_id text NOT NULL,
    call_id text NOT NULL,
    name text NOT NULL,
    ts timestamptz NOT NULL,
    duration_ms integer CHECK (duration_ms >= 0),
    status text NOT NULL CHECK (status IN ('success', 'failed')),
    error text,
    args jsonb,
    output jsonb,
    user_id uuid,
    project_id uuid,
    updated_at timestamptz NOT NULL,
    UNIQUE (session_id, call_id)
);
CREATE INDEX spark_function_calls_ts ON public.spark_function_calls (ts);

CREATE SEQUENCE slate.telemetry_row_id AS bigint CACHE 100;
CREATE TABLE public.spark_telemetry (
    id bigint PRIMARY KEY DEFAULT nextval('slate.telemetry_row_id'),
    session_id text NOT NULL,
    kind text NOT NULL,
    ts timestamptz NOT NULL,
    data jsonb NOT NULL
);
CREATE INDEX spark_telemetry_ts ON public.spark_telemetry (ts);

CREATE SEQUENCE slate.usage_row_id AS bigint CACHE 100;
CREATE TABLE public.spark_usage (
    id bigint PRIMARY KEY DEFAULT nextval('slate.usage_row_id'),
    session_id text NOT NULL,
    ts timestamptz NOT NULL,
    model text NOT NULL,
    tokens_prompt integer NOT NULL DEFAULT 0 CHECK (tokens_prompt >= 0),
    tokens_completion integer NOT NULL DEFAULT 0 CHECK (tokens_completion >= 0),
    cost_estimate numeric(12, 6) NOT NULL DEFAULT 0 CHECK (cost_estimate >= 0),
    user_id uuid
);
CREATE INDEX spark_usage_ts ON public.spark_usage (ts);

CREATE SEQUENCE slate.preview_row_id AS bigint CACHE 100;
CREATE TABLE public.spark_previews (
    id bigint PRIMARY KEY DEFAULT nextval('slate.preview_row_id'),
    session_id text NOT NULL,
    engine text NOT NULL CHECK (
        engine IN ('unity', 'godot', 'pico8', 'gamemaker', 'rpgmaker', 'construct', 'renpy')
    ),
    ts timestamptz NOT NULL,
    status text NOT NULL CHECK (status IN ('idle', 'loading', 'ready', 'error')),
    frame_ref text,
    meta jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX spark_previews_ts ON public.spark_previews (ts);

CREATE SEQUENCE slate.script_row_id AS bigint CACHE 100;
CREATE TABLE public.spark_generated_scripts (
    id bigint PRIMARY KEY DEFAULT nextval('slate.script_row_id'),
    session_id text NOT NULL,
    script_name text NOT NULL,
    script_content text NOT NULL,
    prompt text,
    created_at timestamptz NOT NULL
);
CREATE INDEX spark_generated_scripts_created_at ON public.spark_generated_scripts (created_at);

CREATE TABLE public.spark_build_jobs (
    id text PRIMARY KEY,
    session_id text NOT NULL,
    build_target text,
    status text NOT NULL CHECK (status IN ('queued', 'building', 'completed', 'failed')),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    status_at timestamptz NOT NULL,
    target_at timestamptz
);
CREATE INDEX spark_build_jobs_created_at ON public.spark_build_jobs (created_at);

CREATE TABLE public.spark_usage_daily (
    day date NOT NULL,
    session_id text NOT NULL,
    model text NOT NULL,
    tokens_prompt bigint NOT NULL DEFAULT 0,
    tokens_completion bigint NOT NULL DEFAULT 0,
    cost_estimate numeric(14, 6) NOT NULL DEFAULT 0,
    PRIMARY KEY (day, session_id, model)
);

CREATE TABLE public.spark_errors_daily (
    day date NOT NULL,
    name text NOT NULL,
    success_count bigint NOT NULL DEFAULT 0,
    error_count bigint NOT NULL DEFAULT 0,
    error_rate numeric(6, 3) NOT NULL DEFAULT 0,
    PRIMARY KEY (day, name)
);

CREATE TABLE public.spark_events_daily (
    day date NOT NULL,
    type text NOT NULL,
    event_count bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (day, type)
);
