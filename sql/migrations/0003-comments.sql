-- depends: 0002-bookkeeping

-- What every table and column means, and in which unit; a test finds those without. Times of events are event time
-- (the publisher's, else when JetStream stored the message); `day` is the UTC date of event time.

COMMENT ON TABLE public.spark_sessions IS
'Sessions of the assistant, one row each, from spark.session.*; each fact is that of the latest message that told it';
COMMENT ON COLUMN public.spark_sessions.id IS 'Identity of the row';
COMMENT ON COLUMN public.spark_sessions.session_id IS 'Identity of the session, as its publisher names it';
COMMENT ON COLUMN public.spark_sessions.user_id IS 'User, if told';
COMMENT ON COLUMN public.spark_sessions.model IS 'Model that answers; unknown until told';
COMMENT ON COLUMN public.spark_sessions.mode IS 'creative, deterministic or hybrid; hybrid until told';
COMMENT ON COLUMN public.spark_sessions.started_at IS
'Event time of the earliest connection; NULL while only a disconnection has come';
COMMENT ON COLUMN public.spark_sessions.ended_at IS
'Event time of the latest disconnection; NULL while the session is active, also after a reconnection';
COMMENT ON COLUMN public.spark_sessions.meta IS 'Fields of the latest connection that have no column';
COMMENT ON COLUMN public.spark_sessions.connected_at IS 'Event time of the latest connection';
COMMENT ON COLUMN public.spark_sessions.disconnected_at IS 'Event time of the latest disconnection';
COMMENT ON COLUMN public.spark_sessions.user_at IS 'Event time of the message that told user_id';
COMMENT ON COLUMN public.spark_sessions.model_at IS 'Event time of the message that told model';
COMMENT ON COLUMN public.spark_sessions.mode_at IS 'Event time of the message that told mode';
COMMENT ON COLUMN public.spark_sessions.meta_at IS 'Event time of the message that told meta';

COMMENT ON TABLE public.spark_events IS
'Everything that happened in sessions, one row an event, partitioned by month of event time (UTC)';
COMMENT ON COLUMN public.spark_events.id IS 'Identity of the row, not in order of time';
COMMENT ON COLUMN public.spark_events.session_id IS 'Session in which it happened';
COMMENT ON COLUMN public.spark_events.type IS 'What happened, such as generate_unity_script.completed';
COMMENT ON COLUMN public.spark_events.ts IS 'Event time';
COMMENT ON COLUMN public.spark_events.user_id IS 'User, if told';
COMMENT ON COLUMN public.spark_events.project_id IS 'Project, if told';
COMMENT ON COLUMN public.spark_events.payload IS 'Payload of the event, else its fields that have no column';

COMMENT ON TABLE public.spark_function_calls IS
'Function calls of sessions, one row a call however often it is told: the first message by event time gives name, '
'arguments and ts, the last one the outcome';
COMMENT ON COLUMN public.spark_function_calls.id IS 'Identity of the row, not in order of time';
COMMENT ON COLUMN public.spark_function_calls.session_id IS 'Session that called';
COMMENT ON COLUMN public.spark_function_calls.call_id IS
'Identity of the call in its session; of the event where the older form of the message gives none';
COMMENT ON COLUMN public.spark_function_calls.name IS 'Function';
COMMENT ON COLUMN public.spark_function_calls.ts IS 'Event time of the first message about the call';
COMMENT ON COLUMN public.spark_function_calls.duration_ms IS 'How long the call took, milliseconds';
COMMENT ON COLUMN public.spark_function_calls.status IS 'success or failed';
COMMENT ON COLUMN public.spark_function_calls.error IS 'Why it failed';
COMMENT ON COLUMN public.spark_function_calls.args IS 'Arguments';
COMMENT ON COLUMN public.spark_function_calls.output IS 'Result';
COMMENT ON COLUMN public.spark_function_calls.user_id IS 'User, if told';
COMMENT ON COLUMN public.spark_function_calls.project_id IS 'Project, if told';
COMMENT ON COLUMN public.spark_function_calls.updated_at IS 'Event time of the last message about the call';

COMMENT ON TABLE public.spark_telemetry IS 'Measurements of clients, one row each, of single messages and of batches';
COMMENT ON COLUMN public.spark_telemetry.id IS 'Identity of the row, not in order of time';
COMMENT ON COLUMN public.spark_telemetry.session_id IS 'Session that was measured';
COMMENT ON COLUMN public.spark_telemetry.kind IS 'What was measured';
COMMENT ON COLUMN public.spark_telemetry.ts IS 'Event time';
COMMENT ON COLUMN public.spark_telemetry.data IS
'The measurement, with those fields of its message that the contract does not know';

COMMENT ON TABLE public.spark_usage IS 'Tokens that sessions used, one row a report';
COMMENT ON COLUMN public.spark_usage.id IS 'Identity of the row, not in order of time';
COMMENT ON COLUMN public.spark_usage.session_id IS 'Session that used them';
COMMENT ON COLUMN public.spark_usage.ts IS 'Event time';
COMMENT ON COLUMN public.spark_usage.model IS 'Model that was used';
COMMENT ON COLUMN public.spark_usage.tokens_prompt IS 'Tokens read by the model';
COMMENT ON COLUMN public.spark_usage.tokens_completion IS 'Tokens written by the model';
COMMENT ON COLUMN public.spark_usage.cost_estimate IS 'Estimated cost, US dollars';
COMMENT ON COLUMN public.spark_usage.user_id IS 'User, if told';

COMMENT ON TABLE public.spark_previews IS 'Steps of previews, one row each';
COMMENT ON COLUMN public.spark_previews.id IS 'Identity of the row, not in order of time';
COMMENT ON COLUMN public.spark_previews.session_id IS 'Session that asked for the preview';
COMMENT ON COLUMN public.spark_previews.engine IS
'Game engine: unity, godot, pico8, gamemaker, rpgmaker, construct or renpy';
COMMENT ON COLUMN public.spark_previews.ts IS 'Event time';
COMMENT ON COLUMN public.spark_previews.status IS 'idle, loading, ready or error';
COMMENT ON COLUMN public.spark_previews.frame_ref IS 'Where the frame can be fetched, if there is one';
COMMENT ON COLUMN public.spark_previews.meta IS
'What the contract does not know, such as format and error, beside its own fields';

COMMENT ON TABLE public.spark_generated_scripts IS 'Scripts that the assistant wrote, one row a version';
COMMENT ON COLUMN public.spark_generated_scripts.id IS 'Identity of the row, not in order of time';
COMMENT ON COLUMN public.spark_generated_scripts.session_id IS 'Session in which it was written';
COMMENT ON COLUMN public.spark_generated_scripts.script_name IS 'Name of the script';
COMMENT ON COLUMN public.spark_generated_scripts.script_content IS 'Its source code, whole';
COMMENT ON COLUMN public.spark_generated_scripts.prompt IS 'What the user asked for, if told';
COMMENT ON COLUMN public.spark_generated_scripts.created_at IS 'Event time';

COMMENT ON TABLE public.spark_build_jobs IS
'Build jobs, one row each; a finished job stays finished, in whatever order its messages come';
COMMENT ON COLUMN public.spark_build_jobs.id IS 'Identity of the job, as its publisher names it';
COMMENT ON COLUMN public.spark_build_jobs.session_id IS 'Session that started it';
COMMENT ON COLUMN public.spark_build_jobs.build_target IS 'What it builds for, if told';
COMMENT ON COLUMN public.spark_build_jobs.status IS
'queued, building, completed or failed; a job that timed out has failed';
COMMENT ON COLUMN public.spark_build_jobs.created_at IS 'Event time of its earliest message';
COMMENT ON COLUMN public.spark_build_jobs.updated_at IS 'Event time of its latest message';
COMMENT ON COLUMN public.spark_build_jobs.status_at IS 'Event time of the message that told status';
COMMENT ON COLUMN public.spark_build_jobs.target_at IS 'Event time of the message that told build_target';

COMMENT ON TABLE public.spark_usage_daily IS 'Tokens and cost by UTC day, session and model: the sums of spark_usage';
COMMENT ON COLUMN public.spark_usage_daily.day IS 'UTC date of spark_usage.ts';
COMMENT ON COLUMN public.spark_usage_daily.session_id IS 'Session';
COMMENT ON COLUMN public.spark_usage_daily.model IS 'Model';
COMMENT ON COLUMN public.spark_usage_daily.tokens_prompt IS 'Tokens read by the model that day';
COMMENT ON COLUMN public.spark_usage_daily.tokens_completion IS 'Tokens written by the model that day';
COMMENT ON COLUMN public.spark_usage_daily.cost_estimate IS 'Estimated cost that day, US dollars';

COMMENT ON TABLE public.spark_errors_daily IS
'Outcomes of function calls by UTC day and function: counted from spark_function_calls';
COMMENT ON COLUMN public.spark_errors_daily.day IS 'UTC date of spark_function_calls.ts';
COMMENT ON COLUMN public.spark_errors_daily.name IS 'Function';
COMMENT ON COLUMN public.spark_errors_daily.success_count IS 'Calls that succeeded';
COMMENT ON COLUMN public.spark_errors_daily.error_count IS 'Calls that failed';
COMMENT ON COLUMN public.spark_errors_daily.error_rate IS 'error_count / (success_count + error_count), 0 to 1';

COMMENT ON TABLE public.spark_events_daily IS 'Events by UTC day and type: counted from spark_events';
COMMENT ON COLUMN public.spark_events_daily.day IS 'UTC date of spark_events.ts';
COMMENT ON COLUMN public.spark_events_daily.type IS 'Type of event';
COMMENT ON COLUMN public.spark_events_daily.event_count IS 'Events of that type that day';

COMMENT ON SCHEMA slate IS 'What SPARK on SLATE keeps beside the tables of the wire contract';

COMMENT ON TABLE slate.event_ids IS 'Identities of stored events: the same one is stored once, over all tables';
COMMENT ON COLUMN slate.event_ids.id IS 'BLAKE2b hash, 16 bytes, of the event''s identity';
COMMENT ON COLUMN slate.event_ids.day IS 'When it was stored';

COMMENT ON TABLE slate.progress IS 'How far each partition of a stream is written, and the account of its messages';
COMMENT ON COLUMN slate.progress.stream IS 'JetStream stream';
COMMENT ON COLUMN slate.progress.partition IS
'Partition of the stream, from 0; -1 is what the stream holds under its own subject';
COMMENT ON COLUMN slate.progress.created IS
'When the stream was created: another time means another stream of that name';
COMMENT ON COLUMN slate.progress.seq IS
'Stream sequence up to which the partition is written; reading resumes after it';
COMMENT ON COLUMN slate.progress.read IS 'Messages read';
COMMENT ON COLUMN slate.progress.stored IS 'Messages of which at least a part is stored';
COMMENT ON COLUMN slate.progress.duplicate IS 'Messages whose identity was stored already';
COMMENT ON COLUMN slate.progress.dead_lettered IS 'Messages that could not be stored';
COMMENT ON COLUMN slate.progress.owner IS 'Worker that wrote last';
COMMENT ON COLUMN slate.progress.updated_at IS 'When it was written last';

COMMENT ON TABLE slate.gaps IS 'Sequences that left the stream before they were read';
COMMENT ON COLUMN slate.gaps.id IS 'Identity of the row';
COMMENT ON COLUMN slate.gaps.stream IS 'JetStream stream';
COMMENT ON COLUMN slate.gaps.partition IS 'Partition of the stream that was to read them';
COMMENT ON COLUMN slate.gaps.first_seq IS 'First stream sequence that is gone';
COMMENT ON COLUMN slate.gaps.last_seq IS 'Last stream sequence that is gone';
COMMENT ON COLUMN slate.gaps.reason IS 'Why they are gone';
COMMENT ON COLUMN slate.gaps.found_at IS 'When it was noticed';

COMMENT ON VIEW slate.ledger IS
'The account of each partition: read = stored + duplicate + dead_lettered, and what was lost before it was read';
COMMENT ON COLUMN slate.ledger.stream IS 'JetStream stream';
COMMENT ON COLUMN slate.ledger.partition IS
'Partition of the stream, from 0; -1 is what the stream holds under its own subject';
COMMENT ON COLUMN slate.ledger.seq IS 'Stream sequence up to which the partition is written';
COMMENT ON COLUMN slate.ledger.read IS 'Messages read';
COMMENT ON COLUMN slate.ledger.stored IS 'Messages of which at least a part is stored';
COMMENT ON COLUMN slate.ledger.duplicate IS 'Messages whose identity was stored already';
COMMENT ON COLUMN slate.ledger.dead_lettered IS 'Messages that could not be stored';
COMMENT ON COLUMN slate.ledger.lost IS
'Stream sequences that were gone before they were read: at most so many messages';
COMMENT ON COLUMN slate.ledger.updated_at IS 'When the partition was written last';

COMMENT ON TABLE slate.dead_letters IS 'Messages, or elements of them, that could not be stored, as they came';
COMMENT ON COLUMN slate.dead_letters.id IS 'Identity of the row';
COMMENT ON COLUMN slate.dead_letters.received_at IS 'When it was written here';
COMMENT ON COLUMN slate.dead_letters.stage IS
'Where it failed: decode (not JSON), subject, validate (the contract), store (PostgreSQL refused it), or publisher '
'(it came on spark.dlq)';
COMMENT ON COLUMN slate.dead_letters.code IS 'Kind of fault, one of few';
COMMENT ON COLUMN slate.dead_letters.reason IS 'What is wrong, in a sentence';
COMMENT ON COLUMN slate.dead_letters.path IS
'JSON path of what is wrong, such as $.events[3].kind; empty for the whole';
COMMENT ON COLUMN slate.dead_letters.subject IS 'Subject on which it was published';
COMMENT ON COLUMN slate.dead_letters.stream IS 'JetStream stream';
COMMENT ON COLUMN slate.dead_letters.partition IS 'Partition of the stream';
COMMENT ON COLUMN slate.dead_letters.seq IS 'Stream sequence';
COMMENT ON COLUMN slate.dead_letters.stored_at IS 'When JetStream stored it';
COMMENT ON COLUMN slate.dead_letters.element IS 'Index of the element that failed; NULL for the whole message';
COMMENT ON COLUMN slate.dead_letters.payload IS
'The body, as it came; of one element of a batch, a batch of that element alone';
COMMENT ON COLUMN slate.dead_letters.headers IS 'The NATS headers, as they came; empty where there are none';
COMMENT ON COLUMN slate.dead_letters.replayed_at IS 'When it was last published again; NULL while it waits';

COMMENT ON FUNCTION slate.advance IS
'Moves partitions from where the caller left them, in the transaction that stores what was read; SL001 if another '
'worker has moved one';
COMMENT ON FUNCTION slate.ensure_month IS
'Makes the partition of spark_events for the month of a day (UTC); its name, or NULL when it was there';
COMMENT ON SEQUENCE slate.event_row_id IS 'spark_events.id';
COMMENT ON SEQUENCE slate.function_call_row_id IS 'spark_function_calls.id';
COMMENT ON SEQUENCE slate.telemetry_row_id IS 'spark_telemetry.id';
COMMENT ON SEQUENCE slate.usage_row_id IS 'spark_usage.id';
COMMENT ON SEQUENCE slate.preview_row_id IS 'spark_previews.id';
COMMENT ON SEQUENCE slate.script_row_id IS 'spark_generated_scripts.id';
