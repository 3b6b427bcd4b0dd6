"""All I/O outwards; each adapter implements one port. Only `gatehouse.compose` imports them."""
