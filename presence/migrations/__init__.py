"""Presence keeps no tables; see `presence.registry`."""
