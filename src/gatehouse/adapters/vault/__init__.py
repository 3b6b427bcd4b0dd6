"""Keys and secrets: the root, what derives from it, and signing."""
