"""The OpenAI API's wire format, inbound and outbound."""
