"""Benchmarks: Gatehouse with everything on beside a bare relay and other gateways, against the same canned upstream. `make bench`."""
