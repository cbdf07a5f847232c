"""The time, in one place: wall clock in UTC, and its form on the wire."""

from datetime import UTC, datetime, timedelta

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds, always 27 characters: `2026-01-31T12:00:00.000000Z`."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


def optional_timestamp(moment: datetime | None) -> str | None:
    """As `timestamp`, and None for None."""
    return None if moment is None else timestamp(moment)


def moment(microseconds: int) -> datetime:
    """Unix microseconds as a time in UTC."""
    return _UNIX_EPOCH + timedelta(microseconds=microseconds)


def microseconds(moment: datetime) -> int:
    """The inverse of `moment`."""
    return (moment - _UNIX_EPOCH) // timedelta(microseconds=1)
