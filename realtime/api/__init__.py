"""The HTTP service: reads as JSON, live updates, sessions for browsers, and a page to watch it all."""
