"""Makes the people of a run, in the database that the environment names: `python -m tests.faults.people N`.

All are contacts of each other. They share one password hash, so that it is computed once.
"""

from __future__ import annotations

import os
import sys

PASSWORD = "a lantern over still water 9"


def names(count: int) -> list[str]:
    """The usernames of so many people."""
    return [f"person{number:03d}" for number in range(count)]


def make(count: int) -> None:
    """Store them and their contacts."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "chatbe.settings"
    import django

    django.setup()
    from django.contrib.auth.hashers import make_password

    from accounts.models import Contact, User

    hashed = make_password(PASSWORD)
    people = User.objects.bulk_create([User(username=name, password=hashed) for name in names(count)])
    Contact.objects.bulk_create(
        [Contact(owner=owner, target=target) for owner in people for target in people if owner is not target]
    )


if __name__ == "__main__":
    make(int(sys.argv[1]))
