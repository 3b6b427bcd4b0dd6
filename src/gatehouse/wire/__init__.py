"""Serving: bytes to core and back, no decisions."""
