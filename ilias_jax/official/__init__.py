"""The files that the official toolkit and its users exchange."""
