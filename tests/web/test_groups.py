"""Groups, and messages that live, on the page."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.support.people import Person, befriend, new_name
from tests.support.processes import AppServer
from tests.web.browser import Device
from tests.web.steps import choose, group, info, opened, pair, say, stored, write

MakeDevice = Callable[..., Device]


def act_on(page: Page, username: str, action: str) -> None:
    """Do something to a member."""
    page.get_by_role("button", name=f"Actions for {username}").click()
    page.get_by_role("menuitem", name=action).click()


def test_a_group_is_made_renamed_joined_and_left(device: MakeDevice, servers: list[AppServer]) -> None:
    alice, bob = pair(servers)
    carol = Person(servers[0].url, new_name("carol"))
    befriend(alice, carol)
    hers, his = device().sign_in(alice), device(servers[1]).sign_in(bob)
    hers.get_by_role("button", name="New chat").click()
    hers.get_by_role("button", name="New group").click()
    hers.get_by_label("Name of the group").fill("Saturday <b>lake</b>")
    hers.get_by_role("checkbox", name=bob.username).check()
    hers.get_by_role("button", name="Create group").click()
    expect(hers.locator(".thread-head h2")).to_have_text("Saturday <b>lake</b>")
    write(hers, f"Who is in, @{bob.username}?")

    his.get_by_role("link", name="Saturday").click()
    expect(his.locator(".row .body").last).to_have_text(f"Who is in, @{bob.username}?")
    expect(his.locator(".row .mention")).to_have_text(f"@{bob.username}")
    write(his, "Me!")
    expect(hers.locator(".row .sender")).to_have_text(bob.username)

    info(hers)
    hers.get_by_label("Name", exact=True).fill("The lake")
    hers.get_by_role("button", name="Save").click()
    expect(his.locator(".thread-head h2")).to_have_text("The lake")
    hers.get_by_role("button", name="Add members").click()
    hers.get_by_role("checkbox", name=carol.username).check()
    hers.get_by_role("button", name="Add", exact=True).click()
    expect(hers.get_by_role("list", name="Members").locator(".person")).to_have_count(3)
    expect(his.locator(".thread-head .status")).to_have_text("3 members")

    act_on(hers, carol.username, "Make an admin")
    expect(hers.locator(".person", has_text=carol.username).locator(".tag")).to_have_text("Admin")
    act_on(hers, carol.username, "Remove")
    hers.get_by_role("button", name="Remove", exact=True).click()
    expect(his.locator(".thread-head .status")).to_have_text("2 members")
    act_on(hers, bob.username, "Hand the group over")
    hers.get_by_role("button", name="Hand over").click()
    expect(hers.locator(".person", has_text=bob.username).locator(".tag")).to_have_text("Owner")
    hers.get_by_role("button", name="Leave group").click()
    hers.get_by_role("button", name="Leave", exact=True).click()
    expect(hers.get_by_text("You are no longer in this conversation.")).to_be_visible()
    expect(hers.locator(".conversation")).to_have_count(0)
    expect(his.locator(".row.system").last).to_contain_text("left")
    info(his)
    his.get_by_role("button", name="Dissolve group").click()
    his.get_by_role("button", name="Dissolve", exact=True).click()
    expect(his.locator(".conversation")).to_have_count(0)


def test_messages_are_edited_deleted_answered_and_reacted_to(
    device: MakeDevice, servers: list[AppServer]
) -> None:
    alice, bob = pair(servers)
    identity = group(alice, "Crew", bob)
    hers, his = opened(device(), alice, identity), opened(device(servers[1]), bob, identity)
    write(hers, "Tea at fuor?")
    expect(his.locator(".row .body").last).to_have_text("Tea at fuor?")
    # What has no ack yet cannot be edited.
    expect(stored(hers)).to_have_count(1)
    hers.get_by_label("Message", exact=True).press("ArrowUp")
    expect(hers.get_by_label("Message", exact=True)).to_have_value("Tea at fuor?")
    write(hers, "Tea at four?")
    expect(his.locator(".row .body").last).to_have_text("Tea at four?")
    expect(his.locator(".row .edited")).to_be_visible()

    choose(his, "Tea at four?", "Reply")
    write(his, "With biscuits")
    expect(hers.locator(".quote bdi")).to_have_text("Tea at four?")
    expect(stored(his)).to_have_count(1)
    his.locator(".row", has_text="Tea at four?").first.focus()
    his.keyboard.press("Enter")
    his.get_by_role("menuitemcheckbox", name="React with 🎉").click()
    expect(hers.locator(".reaction")).to_have_text("🎉1")
    hers.locator(".reaction").click()
    expect(his.locator(".reaction")).to_have_text("🎉2")
    his.locator(".reaction").click()
    expect(hers.locator(".reaction")).to_have_text("🎉1")

    choose(hers, "Tea at four?", "Read by")
    expect(hers.get_by_role("dialog").locator(".person")).to_contain_text(bob.username)
    hers.keyboard.press("Escape")
    choose(hers, "With biscuits", "Delete")
    hers.get_by_role("button", name="Delete", exact=True).click()
    expect(his.locator(".row .body").last).to_have_text("You deleted this message")
    expect(hers.locator(".row .body").last).to_have_text("This message was deleted")
    assert alice.history(identity)[-1]["body"] is None


def test_what_was_written_into_a_refused_edit_is_not_lost(
    device: MakeDevice, servers: list[AppServer]
) -> None:
    alice, bob = pair(servers)
    identity = group(alice, "Crew", bob)
    hers = opened(device(), alice, identity)
    write(hers, "Tea at fuor?")
    expect(stored(hers)).to_have_count(1)
    choose(hers, "Tea at fuor?", "Edit")
    seq = alice.history(identity)[-1]["seq"]
    alice.http.delete(f"/v1/conversations/{identity}/messages/{seq}").raise_for_status()
    expect(hers.locator(".row .body").last).to_have_text("You deleted this message")
    write(hers, "Tea at four?")
    expect(hers.locator(".toast.bad")).to_be_visible()
    expect(hers.get_by_label("Message", exact=True)).to_have_value("Tea at four?")


def test_who_was_removed_and_is_added_again_goes_on(device: MakeDevice, servers: list[AppServer]) -> None:
    alice, bob = pair(servers)
    identity = group(alice, "Crew", bob)
    his = opened(device(servers[1]), bob, identity)
    say(alice, identity, "before")
    expect(his.locator(".row .body").last).to_have_text("before")
    members = f"/v1/conversations/{identity}/members"
    alice.http.delete(f"{members}/{bob.username}").raise_for_status()
    expect(his.get_by_text("You are no longer in this conversation.")).to_be_visible()
    expect(his.locator(".composer")).to_have_js_property("inert", value=True)
    alice.http.post(members, json={"usernames": [bob.username]}).raise_for_status()
    expect(his.locator(".thread-head h2")).to_have_text("Crew")
    say(alice, identity, "after")
    expect(his.locator(".row .body").last).to_have_text("after")
    write(his, "back")
    expect(stored(his)).to_have_count(1)


def test_members_are_offered_after_an_at(device: MakeDevice, servers: list[AppServer]) -> None:
    alice, bob = pair(servers)
    identity = group(alice, "Crew", bob)
    page = opened(device(), alice, identity)
    box = page.get_by_label("Message", exact=True)
    page.get_by_text("Say hello to Crew.").wait_for()
    box.press_sequentially("Hello @")
    expect(page.get_by_role("option")).to_have_count(2)  # bob, and everyone
    box.press_sequentially("bo")
    expect(page.get_by_role("option")).to_have_count(1)
    box.press("Enter")
    expect(box).to_have_value(f"Hello @{bob.username} ")
    box.press("Enter")
    expect(page.locator(".row .mention")).to_have_text(f"@{bob.username}")


def test_mentions_are_counted_until_they_are_read(device: MakeDevice, servers: list[AppServer]) -> None:
    alice, bob = pair(servers)
    identity = group(alice, "Crew", bob)
    say(alice, identity, "one", f"two @{bob.username}")
    page = device(servers[1]).sign_in(bob)
    chat = page.get_by_role("link", name="Crew")
    expect(chat.get_by_label("2 unread")).to_be_visible()
    expect(chat.get_by_label("you were mentioned")).to_be_visible()
    say(alice, identity, "three")
    expect(chat.get_by_label("3 unread")).to_be_visible()
    chat.click()
    expect(page.locator(".divider")).to_have_text("New messages")
    expect(page.locator(".conversation .badge")).to_have_count(0)
    assert bob.http.get(f"/v1/conversations/{identity}").json()["unread"] == 0


def test_who_asks_is_accepted_or_blocked(device: MakeDevice, servers: list[AppServer]) -> None:
    alice = Person(servers[0].url, new_name("alice"))
    bob, eve = (Person(servers[1].url, new_name(name)) for name in ("bob", "eve"))
    page = device().sign_in(alice)
    page.get_by_text("No chats yet.").wait_for()
    bob.http.patch("/v1/me", json={"display_name": "Bob B."}).raise_for_status()
    bob.add(alice.username)
    eve.add(alice.username)
    asking = page.locator(".requests")
    expect(asking).to_contain_text("and 1 more added you")
    expect(page.locator(".toast").first).to_have_text("Bob B. added you to their contacts.")
    asking.click()
    page.get_by_role("button", name=f"Accept {bob.username}").click()
    expect(page.get_by_role("button", name=f"Chat with {bob.username}")).to_be_visible()
    page.get_by_role("button", name=f"Block {eve.username}").click()
    expect(page.get_by_role("button", name=f"Block {eve.username}")).to_have_count(0)
    assert [each["mutual"] for each in alice.http.get("/v1/contacts").json()["results"]] == [True]
    assert [each["username"] for each in alice.http.get("/v1/blocks").json()["results"]] == [eve.username]
    page.get_by_role("button", name="Close").click()
    expect(asking).to_be_hidden()
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name=f"Unblock {eve.username}").click()
    expect(page.get_by_text("Nobody.")).to_be_visible()
