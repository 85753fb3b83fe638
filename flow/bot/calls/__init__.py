"""The calls of a process: which run here, and how each begins and ends."""
