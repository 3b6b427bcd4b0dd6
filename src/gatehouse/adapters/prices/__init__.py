"""What models cost, when the operator did not say."""
