"""Scores to masks: what competes, in which units, under which budget."""
