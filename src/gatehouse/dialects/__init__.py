"""Pure codecs between wire formats and core. No I/O; dialects do not know each other."""
