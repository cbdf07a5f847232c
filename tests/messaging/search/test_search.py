"""`GET /v1/search`: what is found, what is not, and by whom."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from chatbe.core import clock
from chatbe.core.errors import Invalid
from messaging import groups, retention
from messaging import search as searching
from messaging.api.search import SearchThrottle
from messaging.models import Conversation, Membership, Message
from messaging.search import base, indexing
from messaging.search import postgres as segments
from tests.messaging.conftest import World
from tests.support.http import Device

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fanned_out")]


@pytest.fixture(autouse=True)
def _fresh_limits() -> None:
    SearchThrottle._buckets.clear()


@pytest.fixture(params=["fresh", "indexed"])
def indexed(request: pytest.FixtureRequest) -> Any:
    """Run a test twice on PostgreSQL: before and after there are segments."""
    if request.param == "fresh":
        return lambda: None
    if connection.vendor != "postgresql":
        pytest.skip("SQLite's index is made by triggers")
    return indexing.index_all


def found(device: Device, q: str, **query: Any) -> list[str]:
    """The bodies that are found, the newest first."""
    response = device.get("/v1/search", q=q, **{"order": "newest", **query})
    assert response.status_code == 200, response.content
    assert response.json()["previous"] is None
    return [result["message"]["body"] for result in response.json()["results"]]


def pages(device: Device, **query: Any) -> Iterator[list[dict[str, Any]]]:
    response = device.get("/v1/search", **query)
    while True:
        assert response.status_code == 200, response.content
        yield response.json()["results"]
        if response.json()["next"] is None:
            return
        response = device.http.get(response.json()["next"])


def talk(world: World, *bodies: str) -> tuple[Device, Device, str]:
    alice, bob = world.friends("alice", "bob")
    return alice, bob, world.say(alice, "bob", *bodies)[0].conversation


def test_words_phrases_alternatives_and_what_is_not_wanted(world: World, indexed: Any) -> None:
    alice, bob, _ = talk(
        world,
        "The quick brown fox",
        "A brown, quick dog",
        "Nothing here",
        "Quick! The fox is GONE",
        "fox-trot",
    )
    indexed()
    for q, bodies in {
        "quick": ["Quick! The fox is GONE", "A brown, quick dog", "The quick brown fox"],
        "QUICK fox": ["Quick! The fox is GONE", "The quick brown fox"],
        '"quick brown"': ["The quick brown fox"],
        '"brown quick"': ["A brown, quick dog"],
        "dog or gone": ["Quick! The fox is GONE", "A brown, quick dog"],
        "quick -fox": ["A brown, quick dog"],
        'quick -"quick brown"': ["Quick! The fox is GONE", "A brown, quick dog"],
        "dog or quick gone": ["Quick! The fox is GONE", "A brown, quick dog"],
        "trot": ["fox-trot"],
        "qui": [],
        "it's": [],
        "zebra": [],
    }.items():
        assert found(alice, q) == found(bob, q) == bodies, q


def test_what_looks_for_nothing_is_invalid(world: World) -> None:
    alice, _, _ = talk(world, "hello")
    for q in ("", " ", "-hello", "hello or -dog", "x" * 201, "a\0b"):
        response = alice.get("/v1/search", q=q)
        assert response.status_code == 400, q
        assert [error["field"] for error in response.json()["errors"]] == ["q"]
    assert alice.get("/v1/search").status_code == 400


def test_what_has_no_word_finds_nothing(world: World) -> None:
    alice, _, _ = talk(world, "hello 😀", "this or that")
    for q in ("!?", '""', "-", "😀", "or", "OR or", "-😀", "😀 or 🎉"):
        assert found(alice, q) == [], q
    assert found(alice, "hello or 😀") == ["hello 😀"]
    assert alice.get("/v1/search", q="😀", conversation=str(uuid4())).status_code == 404


def test_addresses_are_found_as_they_are_pasted(world: World, indexed: Any, settings: Any) -> None:
    settings.CHATBE_RATE_LIMITS = False
    link = "see http://x.y/z and https://example.com/a/b?c=d plus foo/bar.txt"
    other = (
        "mail to jane.doe@example.com, call +49-30-1234, run ~/bin/do_it.sh -v 1.2.3-rc4, R&D &amp; 😀bump"
    )
    alice, _, _ = talk(world, link, other, "unrelated")
    indexed()
    for q in (
        "https://example.com/a/b?c=d", "http://x.y/z", "x.y", "a/b", "bar.txt", "foo/bar.txt", "https", "example.com/a",
        "c=d", '"see http://x.y/z"',
    ):  # fmt: skip
        assert link in found(alice, q), q
    for q in (
        "jane.doe@example.com", "jane", "doe@example.com", "+49-30-1234", "1234", "do_it.sh", "~/bin/do_it.sh", "do_it",
        "1.2.3-rc4", "1.2.3", "rc4", "R&D", "&amp;", "😀bump", "bump",
    ):  # fmt: skip
        assert found(alice, q) == [other], q
    for q in ("example.org", "y.x", "b/a", "2.1", "https://example.com/b"):
        assert found(alice, q) == [], q
    assert found(alice, "example.com") == [other, link]
    assert found(alice, "example -jane.doe@example.com") == [link]
    (result,) = alice.get("/v1/search", q="example.com/a/b?c=d").json()["results"]
    assert "".join(piece["text"] for piece in result["snippet"]) in link
    assert {piece["text"] for piece in result["snippet"] if piece["match"]} <= {
        "example.com/a/b?c=d", "example", "com", "a", "b", "c", "d",
    }  # fmt: skip


@pytest.mark.parametrize(
    "q",
    ["'", '"', "a'b", "hello\\", "hello & | ! <-> (", "hello:*", "NEAR(hello dog)", "body: hello", "^hello",
     "hello*", '"hello" "', "or hello", "hello or", "-- hello", "AND hello", "%s hello %(x)s", "<b>hello</b>",
     "a < hello > b", "http://hello.example/x?y=z", "😀 hello", "hello\u2028".strip()],
)  # fmt: skip
def test_no_query_is_a_fault(world: World, q: str) -> None:
    alice, _, _ = talk(world, "hello dog")
    assert alice.get("/v1/search", q=q).status_code in {200, 400}


def test_parameters_that_are_malformed_are_invalid(world: World) -> None:
    alice, _, _ = talk(world, "hello")
    for name, value in (
        ("conversation", "x"), ("sender", "a b"), ("after", "yesterday"), ("before", "2026-13-01"),
        ("limit", "0"), ("order", "best"), ("cursor", "x"),
        ("cursor", "_" * 43), ("cursor", "////////////"), ("cursor", "_" * 32),
    ):  # fmt: skip
        response = alice.get("/v1/search", q="hello", **{name: value})
        assert response.status_code == 400, (name, value)
        assert [error["field"] for error in response.json()["errors"]] == [name]


def test_a_match_is_shown_in_pieces_that_are_plain_text(world: World, indexed: Any) -> None:
    body = "<b>Meet</b> me at \x02noon\x03 & don't be late"
    alice, _, _ = talk(world, body)
    indexed()
    (result,) = alice.get("/v1/search", q="noon late").json()["results"]
    assert result["message"]["body"] == body
    text = "".join(piece["text"] for piece in result["snippet"])
    assert text == body.replace("\x02", "").replace("\x03", "")
    if connection.vendor == "postgresql":
        assert [piece["text"] for piece in result["snippet"] if piece["match"]] == ["noon", "late"]


def test_a_long_message_is_shown_in_part(world: World) -> None:
    alice, _, _ = talk(world, "word " * 300 + "needle " + "word " * 300)
    (result,) = alice.get("/v1/search", q="needle").json()["results"]
    assert sum(len(piece["text"]) for piece in result["snippet"]) < 400
    assert [piece["text"] for piece in result["snippet"] if piece["match"]] == ["needle"]


def test_only_what_one_may_read_is_found(world: World, indexed: Any) -> None:
    alice, bob, carol = world.friends("alice", "bob", "carol")
    group = world.group(alice)
    world.say(alice, group.pk, "secret before")
    Membership.objects.create(conversation=group, user=bob.user, joined_seq=1, joined_rev=3)
    world.say(alice, group.pk, "secret after", "secret deleted", "secret system")
    world.say(alice, "carol", "secret for carol")
    Message.objects.filter(body="secret deleted").update(body=None, deleted_at=clock.now())
    Message.objects.filter(body="secret system").update(kind="system", sender=None)
    indexed()
    assert found(alice, "secret") == ["secret for carol", "secret after", "secret before"]
    assert found(bob, "secret") == ["secret after"]
    assert found(carol, "secret") == ["secret for carol"]
    assert found(bob, "secret", conversation=group.pk) == ["secret after"]
    for key in (group.pk, uuid4()):
        assert carol.get("/v1/search", q="secret", conversation=key).status_code == 404
    Membership.objects.filter(user=bob.user, conversation=group).update(active=False)
    assert found(bob, "secret") == []
    assert bob.get("/v1/search", q="secret", conversation=group.pk).status_code == 404
    assert APIClient().get("/v1/search?q=secret").status_code == 401


def test_what_is_edited_or_deleted_is_found_as_it_is_now(world: World, indexed: Any) -> None:
    alice, _, _ = talk(world, "apple", "pear", "plum")
    indexed()
    Message.objects.filter(body="apple").update(body="cherry")
    Message.objects.filter(body="pear").update(body=None, deleted_at=clock.now())
    Message.objects.filter(body="plum").delete()
    assert [found(alice, q) for q in ("apple", "pear", "plum", "cherry")] == [[], [], [], ["cherry"]]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT words::text FROM messaging_segment")
            assert cursor.fetchall() in ([], [("'cherry'",)])
    else:
        with connection.cursor() as cursor:
            cursor.execute("SELECT body FROM messaging_search")
            assert cursor.fetchall() == [("cherry",)]


def test_edits_and_deletions_over_http_are_found_as_they_are(world: World, indexed: Any) -> None:
    alice, bob, key = talk(world, "apple", "pear", "plum")
    indexed()
    path = f"/v1/conversations/{key}/messages"
    assert alice.patch(f"{path}/1", body="cherry").status_code == 200
    assert alice.http.delete(f"{path}/2").status_code == 204
    for device in (alice, bob):
        assert [found(device, q) for q in ("apple", "pear", "plum", "cherry")] == [
            [],
            [],
            ["plum"],
            ["cherry"],
        ]
    # Not even in the index.
    table, column = (
        ("messaging_segment", "words") if connection.vendor == "postgresql" else ("messaging_search", "body")
    )
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {column} FROM {table}")
        words = str(cursor.fetchall())
    assert "apple" not in words
    assert "pear" not in words


def test_members_of_a_group_find_what_it_lets_them_see(world: World, indexed: Any) -> None:
    alice, bob, carol = world.friends("alice", "bob", "carol")
    key = groups.group_create(owner=alice.user, title="Group", usernames=[]).pk
    world.say(alice, key, "heron before")
    groups.members_add(actor=alice.user, conversation=key, usernames=["bob"])
    groups.group_update(actor=alice.user, conversation=key, history="all")
    groups.members_add(actor=alice.user, conversation=key, usernames=["carol"])
    world.say(alice, key, "heron after")
    indexed()
    both = ["heron after", "heron before"]
    for query in ({}, {"conversation": key}):
        assert [found(each, "heron", **query) for each in (alice, bob, carol)] == [both, both[:1], both]
    # What the server says of a group is not searched.
    assert found(alice, "added") == []
    groups.member_remove(actor=alice.user, conversation=key, username="carol")
    world.say(alice, key, "heron while away")
    assert found(carol, "heron") == []
    groups.group_update(actor=alice.user, conversation=key, history="joined")
    groups.members_add(actor=alice.user, conversation=key, usernames=["carol"])
    assert found(carol, "heron") == []
    world.say(alice, key, "heron back again")
    assert found(carol, "heron", conversation=key) == ["heron back again"]
    groups.group_dissolve(actor=alice.user, conversation=key)
    for device in (alice, bob, carol):
        assert found(device, "heron") == []
        assert device.get("/v1/search", q="heron", conversation=key).status_code == 404


def test_what_is_purged_is_not_found(world: World, indexed: Any) -> None:
    alice, _, key = talk(world, "heron one", "heron two", "heron three")
    indexed()
    Message.objects.filter(seq__lte=2).update(created_at=clock.now() - timedelta(days=100))
    assert retention.purge(before=clock.now() - timedelta(days=90)) == 2
    assert found(alice, "heron") == found(alice, "heron", conversation=key) == ["heron three"]


def test_filters(world: World, indexed: Any) -> None:
    alice, bob, key = talk(world, "hello one")
    world.say(bob, "alice", "hello two")
    now = clock.now()
    Message.objects.filter(seq=1).update(created_at=now - timedelta(days=3))
    indexed()
    day = (now - timedelta(days=1)).date().isoformat()
    moment = (now - timedelta(days=1)).isoformat()
    assert found(alice, "hello", sender="BOB") == ["hello two"]
    assert found(alice, "hello", sender="nobody") == []
    assert found(alice, "hello", after=day) == found(alice, "hello", after=moment) == ["hello two"]
    assert found(alice, "hello", before=day, conversation=key) == ["hello one"]
    assert found(alice, "hello", before=day, after=day) == []


def fill(world: World, *, conversations: int, each: int) -> tuple[Device, list[UUID]]:
    """Conversations that were held at the same time; each third message has the word `common`, one is `rare`."""
    (alice,) = world.friends("alice")
    keys, rows = [], []
    began = clock.now() - timedelta(days=30)
    for number in range(conversations):
        group = world.group(alice)
        keys.append(group.pk)
        for seq in range(1, each + 1):
            word = "common" if seq % 3 == 0 else "rare" if seq == each // 2 else "other"
            rows.append(
                Message(
                    conversation=group, seq=seq, rev=seq + 1, sender=alice.user, client_id=uuid4(),
                    body=f"{word} {number} {seq}", created_at=began + timedelta(minutes=seq, seconds=number),
                )
            )  # fmt: skip
        Conversation.objects.filter(pk=group.pk).update(
            last_seq=each, head_rev=each + 1, active_at=began + timedelta(minutes=each)
        )
    Message.objects.bulk_create(rows)
    return alice, keys


@pytest.fixture(params=[segments.SCAN, 300])
def scan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How much a search reads at once, with limits of its ranges so small that every search meets them."""
    size: int = request.param
    monkeypatch.setattr(segments, "SCAN", size)
    monkeypatch.setattr(segments, "FIRST_RANGES", 1)
    monkeypatch.setattr(segments, "RANGES", 2)
    return size


@pytest.mark.usefixtures("scan")
@pytest.mark.parametrize("within", [False, True])
def test_pages_hold_everything_once_and_the_newest_first(world: World, indexed: Any, within: bool) -> None:
    alice, keys = fill(world, conversations=3, each=600)
    indexed()
    # Some came after the index was made.
    world.say(alice, keys[1], "common last", "rare last")
    query: dict[str, Any] = {"conversation": keys[1]} if within else {}
    for word in ("common", "rare"):
        SearchThrottle._buckets.clear()
        results = [
            result for page in pages(alice, q=word, limit=50, order="newest", **query) for result in page
        ]
        expected = Message.objects.filter(body__startswith=word, **query)
        order = ("-seq",) if within else ("-created_at", "-id")
        if connection.vendor == "sqlite":
            # By when they were stored, which is when they were sent.
            assert {result["message"]["id"] for result in results} == {str(row.pk) for row in expected}
            assert len(results) == expected.count()
        else:
            assert [result["message"]["id"] for result in results] == [
                str(row.pk) for row in expected.order_by(*order)
            ]


def test_the_best_match_comes_first_and_the_newer_of_equal_ones(world: World, indexed: Any) -> None:
    alice, bob, key = talk(
        world,
        "heron heron",
        "a heron, which stood there for a long while and then flew over the river to the other side",
        "a grey heron",
        "one more heron",
        "no bird at all",
    )
    indexed()
    expected = [
        "heron heron",
        "one more heron",
        "a grey heron",
        "a heron, which stood there for a long while and then flew over the river to the other side",
    ]
    assert found(alice, "heron", order="relevance") == found(bob, "heron", order="relevance") == expected
    assert found(bob, "heron", order="relevance", conversation=key) == expected
    (by_default,) = pages(bob, q="heron")
    assert [result["message"]["body"] for result in by_default] == expected


@pytest.mark.parametrize("within", [False, True])
def test_pages_by_relevance_hold_everything_once_whatever_is_sent_meanwhile(
    world: World, indexed: Any, within: bool, scan: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "RANKED", 100)
    alice, keys = fill(world, conversations=3, each=600)
    # Some are better than others.
    for row in Message.objects.filter(seq__in=range(30, 600, 30)):
        Message.objects.filter(pk=row.pk).update(body=f"common {row.seq}")
    indexed()
    query: dict[str, Any] = {"conversation": keys[1]} if within else {}
    expected = {str(row.pk): row for row in Message.objects.filter(body__startswith="common", **query)}
    results = []
    for number, page in enumerate(pages(alice, q="common", limit=30, **query)):
        SearchThrottle._buckets.clear()
        results += page
        if number in {0, 1, 5}:
            world.say(alice, keys[1], f"common meanwhile {number}")
            # One that is gone, and one that was found already and is changed.
            last = results[-1]["message"]["id"]
            Message.objects.filter(pk=last).update(body="common common common")
    ids = [result["message"]["id"] for result in results]

    def words(key: str) -> int:
        return len((expected[key].body or "").split())

    assert len(set(ids)) == len(ids)
    assert set(ids) == set(expected)
    if connection.vendor == "postgresql" and scan == segments.SCAN and within:
        # Within a window the better ones come first, in the next one again.
        window = [words(key) for key in ids[:100]]
        assert window == sorted(window)
        assert words(ids[0]) == words(ids[100]) == 2


def test_a_cursor_of_another_kind_of_search_is_no_fault(world: World) -> None:
    alice, keys = fill(world, conversations=2, each=40)
    inside, everywhere = (
        parse_qs(urlsplit(alice.get("/v1/search", q="common", limit=2, **query).json()["next"]).query)[
            "cursor"
        ][0]
        for query in ({"conversation": keys[0]}, {})
    )
    greatest = "AB________8"
    for cursor in (inside, everywhere, greatest):
        for query in ({"conversation": keys[0]}, {}):
            for order in ("relevance", "newest"):
                response = alice.get("/v1/search", q="common", limit=2, cursor=cursor, order=order, **query)
                assert response.status_code == 200, (cursor, query)


def test_the_number_of_queries_does_not_depend_on_what_is_found(world: World, indexed: Any) -> None:
    alice, keys = fill(world, conversations=4, each=40)
    indexed()
    counts = set()
    for q, query in (("common", {}), ("common", {"conversation": keys[0]}), ("rare", {}), ("nothing", {})):
        with CaptureQueriesContext(
            connection,
        ) as queries:
            alice.get("/v1/search", q=q, **query)
        counts.add(len(queries))
    assert max(counts) <= 9


def test_searches_are_limited(world: World, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.CHATBE_RATE_LIMITS = True
    monkeypatch.setattr(SearchThrottle, "capacity", 3)
    monkeypatch.setattr(SearchThrottle, "rate", 1e-6)
    alice, _, _ = talk(world, "hello")
    assert [alice.get("/v1/search", q="hello").status_code for _ in range(4)] == [200, 200, 200, 429]


@pytest.mark.pure
def test_queries_are_parsed_once_for_both() -> None:
    def parsed(text: str) -> list[tuple[list[str], list[str]]]:
        return [(each.wanted, each.unwanted) for each in base.parse(text)]

    assert parsed('a "b c" -d -"e f" or g') == [(["a", "b c"], ["d", "e f"]), (["g"], [])]
    assert parsed("or a or") == [(["a"], [])]
    assert parsed('"open') == [(["open"], [])]
    assert parsed("?") == parsed("") == parsed("or") == []
    for text in ("a or -b", "-a"):
        with pytest.raises(Invalid):
            parsed(text)
