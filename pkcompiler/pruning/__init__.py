"""Scores, schedules, masks."""
