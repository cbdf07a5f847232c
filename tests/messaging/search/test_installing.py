"""An upgrade finds what was stored before it, and can be taken back."""

from __future__ import annotations

from tests.support.processes import Deployment

FIND = """
from accounts.models import User
from messaging.search import Order, search
for user in User.objects.order_by("pk")[:2]:
    page = search(user=user, query="garden or river or coffee", order=Order.NEWEST, limit=200)
    print(len(page.results), page.results[-1].message.id, page.results[0].message.id)
"""


def test_what_was_stored_before_there_was_an_index_is_found(deployment: Deployment) -> None:
    deployment.manage("seed", "--users", "4", "--messages", "1200", "--verbosity", "0")

    def found() -> str:
        return deployment.manage("shell", "--no-imports", "-c", FIND)

    before = found()
    assert int(before.split()[0]) > 0
    deployment.manage("migrate", "messaging", "0006", "--verbosity", "0")
    deployment.manage("migrate", "--verbosity", "0")
    assert found() == before
    deployment.manage("search_index", "--verbosity", "0")
    assert found() == before
