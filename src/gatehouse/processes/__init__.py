"""What runs in which process, and the small protocol between them."""
