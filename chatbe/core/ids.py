"""Ids: UUID version 7 (RFC 9562), so that the order of ids is the order of time."""

import uuid

import uuid_utils


def uuid7() -> uuid.UUID:
    """A new id; needs no coordination between processes."""
    return uuid.UUID(int=uuid_utils.uuid7().int)
