"""What presence tells to the rest of the server: the status of users. Blocking, from any thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from accounts.models import User
from accounts.selectors import Status
from presence import registry


def statuses(user_ids: Sequence[UUID]) -> Mapping[UUID, Status]:
    """Whether each of `user_ids` is online, and when they were last seen (None: never).

    Asks the registry once, and the database at most once. When the registry does not answer,
    everyone counts as offline, last seen as the database has it.
    """
    if not user_ids:
        return {}
    known = registry.read([str(user) for user in user_ids])
    found: dict[UUID, Status] = {}
    strangers = []
    for user in user_ids:
        status = known.get(str(user))
        if status is None or status.last_seen is None:
            strangers.append(user)
        else:
            found[user] = Status(online=status.online, last_seen=status.last_seen)
    if strangers:
        stored = User.objects.filter(pk__in=strangers).values_list("pk", "last_seen_at")
        found.update((user, Status(online=False, last_seen=seen)) for user, seen in stored)
    return found
