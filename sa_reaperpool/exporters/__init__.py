"""For systems that collect figures; each needs its own library."""
