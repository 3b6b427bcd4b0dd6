"""The data plane's own HTTP/1.1 server, on httptools."""
