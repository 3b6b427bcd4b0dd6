"""Models embedded beside the gateway."""
