"""The single checks of `slate doctor`: each gives rows of a table, and never raises for what it finds."""
