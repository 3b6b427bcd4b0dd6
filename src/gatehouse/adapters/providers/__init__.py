"""Remote models: transport, credentials and one outbound codec each."""
