"""How the schema came to be what it is. Only `_schema` runs this."""
