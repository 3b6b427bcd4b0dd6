"""What may be lost: windows, slots, cached answers."""
