"""Fetching what a call points to."""
