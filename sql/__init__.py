"""All SQL: migrations and named statements, read by `connectors.sql`."""
