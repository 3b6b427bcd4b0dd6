"""The data plane: what happens to one call. `order.py` is the product on one screen."""
