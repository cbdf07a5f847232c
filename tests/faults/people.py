"""Makes the people of a run, in the database that the environment names: `python -m tests.faults.people N M`.

N people, all contacts of each other, with M sessions, dealt out in turn; prints the sessions' tokens as
JSON. So nobody signs in by password at the start: what is tested is not how long a hash takes.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta

PASSWORD = "a lantern over still water 9"


def names(count: int) -> list[str]:
    """The usernames of so many people."""
    return [f"person{number:03d}" for number in range(count)]


def make(people_count: int, session_count: int) -> list[dict[str, str]]:
    """Store them, their contacts and sessions; returns the tokens of each session."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "chatbe.settings"
    import django

    django.setup()
    from django.conf import settings
    from django.contrib.auth.hashers import make_password

    from accounts.models import Contact, Session, User
    from accounts.tokens import tokens_for
    from chatbe.core import clock, ids

    hashed = make_password(PASSWORD)
    people = User.objects.bulk_create([User(username=name, password=hashed) for name in names(people_count)])
    Contact.objects.bulk_create(
        [Contact(owner=owner, target=target) for owner in people for target in people if owner is not target]
    )
    now = clock.now()
    sessions = Session.objects.bulk_create(
        [
            Session(
                user=people[number % people_count],
                refresh_jti=ids.uuid7(),
                expires_at=now + settings.CHATBE_SESSION_LIFETIME - timedelta(seconds=1),
            )
            for number in range(session_count)
        ]
    )
    tokens = [tokens_for(session=session, refresh_jti=session.refresh_jti, now=now) for session in sessions]
    return [
        {
            "access_token": each.access_token,
            "access_token_expires_at": clock.timestamp(each.access_token_expires_at),
            "refresh_token": each.refresh_token,
        }
        for each in tokens
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(make(int(sys.argv[1]), int(sys.argv[2]))))
