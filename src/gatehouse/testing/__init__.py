"""Shipped for plug-in authors and for our own tests: fakes, a fault proxy, and one contract suite per port."""
