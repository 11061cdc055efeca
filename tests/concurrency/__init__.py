"""Many processes on one vault."""
