"""The folder that a run leaves: written, resumed, read, compared."""
