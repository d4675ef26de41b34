"""Measurements and the papers' experiments."""
