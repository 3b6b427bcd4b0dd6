"""Counters, histograms and their exposition."""
