/** The client against a real server, also with a network that fails. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Refused, SignedOut, Unreachable } from "../src/chatbe.js";
import { Link, PASSWORD, Person, SERVER, newStorage, next, pair, stored } from "./support.js";

test("two people chat: messages, receipts, typing and presence", async (t) => {
  const [alice, bob] = await pair(t);
  const heard = next(bob, "message");
  const ack = await alice.send({ to: bob.username, body: "Hello Bob!" });
  assert.equal(ack.seq, 1);
  const { message, isNew } = await heard;
  assert.deepEqual([message.body, message.sender, isNew], ["Hello Bob!", alice.username, true]);
  assert.equal(bob.conversations.get(ack.conversation).unread, 1);

  const read = next(alice, "receipt", ({ username, read: seq }) => username === bob.username && seq === 1);
  bob.markRead(ack.conversation, 1);
  await read;
  assert.equal(bob.conversations.get(ack.conversation).unread, 0);

  const typing = next(alice, "typing", ({ on }) => on);
  bob.typing(ack.conversation);
  assert.equal((await typing).username, bob.username);

  assert.equal(alice.friends.get(bob.username).online, true);
  const name = bob.username;
  const left = next(alice, "presence", ({ username, online }) => username === name && online === false);
  await bob.signOut();
  await left;
});

test("a wrong password, an unknown name and a bad field each say so", async (t) => {
  const alice = await Person.make(t, "alice");
  await assert.rejects(alice.signIn({ username: alice.username, password: "wrong" }), (error) => error instanceof Refused && error.status === 401 && error.detail.length > 0);
  await assert.rejects(alice.addContact("nobody-of-that-name"), (error) => error.status === 404);
  await assert.rejects(
    alice.register({ username: "!", email: "x", password: "y" }),
    (error) => error.status === 400 && error.errors.some(({ field }) => field === "username"),
  );
});

test("a message to somebody who is no contact is refused", async (t) => {
  const alice = await Person.make(t, "alice");
  const bob = await Person.make(t, "bob");
  alice.connect();
  await alice.live();
  await assert.rejects(alice.send({ to: bob.username, body: "psst" }), (error) => error instanceof Refused && error.code === "not_contact");
});

test("what is sent while offline waits, and arrives once and in order", async (t) => {
  const link = await Link.make(t);
  const [alice, bob] = await pair(t, { url: link.url });
  const { conversation } = await alice.send({ to: bob.username, body: "0" });
  const gone = next(alice, "status", ({ status }) => status === "offline");
  await link.close();
  await gone;
  const noted = next(alice, "unsent", () => alice.unsent.length === 50);
  const answers = Array.from({ length: 50 }, (_, index) => alice.send({ to: bob.username, body: String(index + 1) }));
  const missed = Array.from({ length: 3 }, (_, index) => bob.send({ to: { conversation }, body: `from bob ${index}` }));
  await Promise.all(missed);
  await noted;
  await link.open();
  await Promise.all(answers);
  assert.deepEqual(alice.unsent, []);
  const bodies = await stored(bob, conversation);
  assert.deepEqual(bodies.filter((body) => !body.startsWith("from bob")), Array.from({ length: 51 }, (_, index) => String(index)));
  await alice.live();
  const held = [...alice.conversations.get(conversation).messages.values()];
  assert.equal(held.length, 54);
});

test("an ack that is lost on its way leaves one message", async (t) => {
  const link = await Link.make(t);
  const [alice, bob] = await pair(t, { url: link.url });
  await link.cutInsteadOf('"ack"');
  const ack = await alice.send({ to: bob.username, body: "once" });
  assert.equal(await link.cuts(), 1);
  assert.deepEqual(await stored(bob, ack.conversation), ["once"]);
});

test("through a network that cuts again and again nothing is lost, doubled or disordered", async (t) => {
  const [one, other] = await Promise.all([Link.make(t), Link.make(t)]);
  const [alice, bob] = await pair(t, { url: one.url }, { url: other.url });
  const started = next(bob, "message");
  const { conversation } = await alice.send({ to: bob.username, body: "start" });
  await started;
  await Promise.all([one.cutEvery(13), other.cutEvery(17)]);
  const seen = [];
  bob.on("message", ({ message, isNew }) => isNew && message.sender === alice.username && seen.push(message.body));
  const bodies = Array.from({ length: 300 }, (_, index) => `m${index}`);
  const answers = [];
  for (const body of bodies) {
    answers.push(alice.send({ to: { conversation }, body }));
    if (answers.length % 20 === 0) await answers.at(-10);
  }
  await Promise.all(answers);
  assert.ok((await one.cuts()) + (await other.cuts()) > 0);
  await Promise.all([one.cutEvery(0), other.cutEvery(0)]);
  await Promise.all([alice.live(), bob.live()]);
  const last = bodies.at(-1);
  if (!seen.includes(last)) await next(bob, "message", ({ message }) => message.body === last);
  assert.deepEqual(seen, bodies);
  assert.deepEqual(await stored(bob, conversation), ["start", ...bodies]);
  for (const client of [alice, bob]) {
    const held = [...client.conversations.get(conversation).messages].sort(([a], [b]) => a - b);
    assert.deepEqual(held.map(([, { body }]) => body), ["start", ...bodies]);
  }
});

test("a second run sends what the first could not", async (t) => {
  const link = await Link.make(t);
  const storage = newStorage();
  const [alice, bob] = await pair(t, { url: link.url, storage });
  await link.close();
  const lost = alice.send({ to: bob.username, body: "from the first run" });
  await next(alice, "unsent");
  await alice.close();
  await assert.rejects(lost, { code: "closed" });
  await link.open();
  const heard = next(bob, "message");
  const again = new Person(t, "").client({ storage });
  assert.equal((await again.resume()).username, alice.username);
  assert.equal(again.unsent.length, 1);
  again.connect();
  assert.equal((await heard).message.body, "from the first run");
});

test("cursors that are kept bring exactly what was missed", async (t) => {
  const storage = newStorage();
  const [alice, bob] = await pair(t, { storage, keepCursors: true });
  const heard = next(alice, "message");
  const { conversation } = await bob.send({ to: alice.username, body: "before" });
  await heard;
  await alice.close();
  for (const body of ["one", "two", "three"]) await bob.send({ to: { conversation }, body });
  const again = new Person(t, "").client({ storage, keepCursors: true });
  await again.resume();
  const bodies = [];
  again.on("message", ({ message, live }) => bodies.push([message.body, live]));
  again.connect();
  await again.live();
  assert.deepEqual(bodies, [["one", false], ["two", false], ["three", false]]);
});

test("the history is paged, and all of it can be walked", async (t) => {
  const [alice, bob] = await pair(t);
  const answers = Array.from({ length: 250 }, (_, index) => alice.send({ to: bob.username, body: String(index + 1) }));
  const { conversation } = (await Promise.all(answers))[0];
  const newest = await bob.history(conversation, { limit: 20 });
  assert.deepEqual([newest.messages[0].seq, newest.messages.at(-1).seq, newest.more], [231, 250, true]);
  const older = await bob.history(conversation, { before: 231, limit: 200 });
  assert.deepEqual([older.messages[0].seq, older.messages.at(-1).seq, older.more], [31, 230, true]);
  const onwards = await bob.history(conversation, { after: 240, limit: 20 });
  assert.deepEqual([onwards.messages.length, onwards.more], [10, false]);
  assert.equal((await stored(bob, conversation)).length, 250);
});

test("unread counts are those of the server, and the list is by latest activity", async (t) => {
  const [alice, bob] = await pair(t);
  for (const body of ["one", "two"]) await alice.send({ to: bob.username, body });
  const again = new Person(t, "").client();
  await again.signIn({ username: bob.username, password: PASSWORD });
  const [conversation] = await again.loadConversations();
  assert.deepEqual([conversation.unread, conversation.lastMessage.body, conversation.peer(bob.username)], [2, "two", alice.username]);
});

test("who added me is listed until I answer", async (t) => {
  const [alice, bob] = await Promise.all([Person.make(t, "alice"), Person.make(t, "bob")]);
  await bob.addContact(alice.username);
  assert.deepEqual((await alice.contactRequests()).map(({ username }) => username), [bob.username]);
  await alice.addContact(bob.username);
  assert.deepEqual(await alice.contactRequests(), []);
});

test("a group: made, spoken in, and its roles as they are told", async (t) => {
  const [alice, bob] = await pair(t);
  const joined = next(bob, "conversation", ({ conversation }) => conversation?.info.kind === "group");
  const { id, info } = await alice.createGroup({ title: "Crew", members: [bob.username] });
  assert.equal(info.role, "owner");
  await joined;
  assert.equal((await bob.loadConversation(id)).info.role, "member");
  const promoted = next(bob, "conversation", ({ conversation }) => conversation?.info.role === "admin");
  await alice.setRole(id, bob.username, "admin");
  await promoted;
  const heard = next(bob, "message", ({ message }) => message.body === "Who is in?");
  const { seq } = await alice.send({ to: { conversation: id }, body: "Who is in?" });
  await heard;
  const read = next(alice, "receipt", ({ username, read: mark }) => username === bob.username && mark >= seq);
  bob.markRead(id, seq);
  await read;
  const readers = (await alice.readers(id, seq)).map(({ username }) => username);
  assert.ok(readers.includes(bob.username));
  const changed = next(bob, "message", ({ message }) => message.reactions["🎉"]?.count === 1);
  await alice.react(id, seq, "🎉");
  await changed;
  const left = next(bob, "conversation", ({ id: gone, conversation }) => gone === id && conversation === null);
  await alice.removeMember(id, bob.username);
  await left;
  assert.equal(bob.conversations.has(id), false);
});

test("a device that is revoked stops at once", async (t) => {
  const [alice] = await pair(t);
  const other = new Person(t, "").client({ device: "a phone" });
  await other.signIn({ username: alice.username, password: PASSWORD });
  other.connect();
  await other.live();
  const device = (await alice.devices()).find(({ current }) => !current);
  assert.equal(device.device, "a phone");
  const ended = next(other, "ended");
  await alice.revoke(device.id);
  assert.ok((await ended).error instanceof SignedOut);
  await assert.rejects(other.request("GET", "/v1/me"), SignedOut);
});

test("tokens renew themselves", async (t) => {
  const storage = newStorage();
  const alice = await Person.make(t, "alice", { storage });
  const before = await storage.get("session");
  const again = new Person(t, "").client({ storage });
  await storage.set("session", { ...before, access_until: 0 });
  await again.resume();
  const answers = await Promise.all(Array.from({ length: 5 }, () => again.request("GET", "/v1/me")));
  assert.equal(answers[4].username, alice.username);
  const after = await storage.get("session");
  assert.notEqual(after.refresh_token, before.refresh_token);
  assert.equal(after.session_id, before.session_id);
  // What was spent would end the session; the first client finds the fresh one in their storage.
  assert.equal((await alice.request("GET", "/v1/me")).username, alice.username);
});

test("a server that is away is told apart from one that says no", async (t) => {
  const link = await Link.make(t);
  const alice = await Person.make(t, "alice", { url: [link.url, SERVER] });
  await link.close();
  await assert.rejects(alice.request("GET", "/v1/me"), Unreachable);
  alice.connect();
  await alice.live();
  assert.equal((await alice.request("GET", "/v1/me")).username, alice.username);
});
