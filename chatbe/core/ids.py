"""Ids: UUID version 7 (RFC 9562), so that the order of ids is the order of time."""

import uuid
from datetime import datetime

import uuid_utils


def uuid7() -> uuid.UUID:
    """A new id; needs no coordination between processes."""
    return uuid.UUID(int=uuid_utils.uuid7().int)


def uuid7_floor(moment: datetime) -> uuid.UUID:
    """No id made at or after this moment is lower."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)
