"""Runs it: the stack on one machine and the console script `slate`."""
