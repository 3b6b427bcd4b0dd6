"""One stage, one file, one class. Their order is in `gatehouse.pipeline.order`."""
