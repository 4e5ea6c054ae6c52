"""Figures of fresh initialisations, without data."""
