"""An exported program to a path graph."""
