"""What chatbe is measured against: a bare sketch of the hot path, and a server built the usual way."""
