"""What can go wrong while measuring."""


class TargetError(RuntimeError):
    """A server did not do what it is measured for."""
