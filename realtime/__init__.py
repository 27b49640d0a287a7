"""Makes events: the simulator."""
