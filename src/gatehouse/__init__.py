"""Gatehouse: one door to every language model in an organisation."""

__version__ = "0.1.0"
