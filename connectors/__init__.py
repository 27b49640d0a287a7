"""Touches other systems: NATS, PostgreSQL, metrics, settings. No business meaning lives here."""
