-- Messages that were read and are neither stored, nor duplicates, nor dead letters: none, or the ledger is wrong.
SELECT coalesce(sum(read - stored - duplicate - dead_lettered), 0)::bigint AS unaccounted
FROM slate.ledger
