"""Holds the meaning: events and their rows, and the dataflows that `python -m bytewax.run` starts."""
