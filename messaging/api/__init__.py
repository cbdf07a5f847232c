"""The HTTP API of messaging."""
