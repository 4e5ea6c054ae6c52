"""The language, without torch."""
