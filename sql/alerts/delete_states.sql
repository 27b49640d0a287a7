-- Forget groups that are well.
DELETE FROM slate.alert_states AS old
USING unnest(%(rule)b::text[], %(fingerprint)b::text[]) AS gone (rule, fingerprint)
WHERE old.stream = %(stream)s AND old.rule = gone.rule AND old.fingerprint = gone.fingerprint
