-- Migrations that were applied.
SELECT migration_id
FROM slate._yoyo_migration
