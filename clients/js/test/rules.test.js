/** The rules of the client, against a server that is made up: each order of frames can be forced. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, Closed, MemoryStorage, Refused, SignedOut } from "../src/chatbe.js";
import { Script, ack, message, next, welcome } from "./support.js";

const sync = { type: "synced", ref: "sync" };
const sends = (socket) => socket.sent.filter(({ type }) => type === "send");
const turn = () => new Promise((resolve) => setTimeout(resolve, 5));

test("the one-time password travels as a subprotocol, not in the address", async (t) => {
  const { socket } = await new Script().start(t);
  assert.deepEqual(socket.protocols, ["chatbe.v1", "otp.first-ticket"]);
  assert.equal(socket.url, "ws://chat.example/v1/ws");
});

test("the first frame is a sync, before anything that waits", async (t) => {
  const { client, socket } = await new Script().start(t);
  const sent = client.send({ to: "bob", body: "hello" });
  await turn();
  assert.deepEqual(socket.sent.map(({ type }) => type), ["sync", "send"]);
  assert.deepEqual(socket.sent[0], { type: "sync", ref: "sync", conversations: {}, others: "state" });
  socket.say(ack(socket.sent[1], 1, 1));
  await sent;
});

test("per seq the highest rev wins, in whatever order they come", async (t) => {
  const { client, socket } = await new Script().start(t);
  const told = [];
  client.on("message", ({ message: { rev }, isNew }) => told.push([rev, isNew]));
  for (const rev of [1, 5, 3, 5, 7]) socket.say(message(1, rev));
  assert.equal(client.conversations.get("c").messages.get(1).body, "body 7");
  assert.deepEqual(told, [[1, true], [5, false], [7, false]]);
});

test("a sync goes on from the highest rev of the stream, and from an ack that stands for its event", async (t) => {
  const script = new Script();
  const { client, socket } = await script.start(t);
  socket.say(message(1, 4));
  socket.say(sync);
  const sent = client.send({ to: { conversation: "c" }, body: "hello" });
  await turn();
  socket.say(ack(sends(socket)[0], 2, 5));
  assert.equal((await sent).rev, 5);
  assert.equal(client.conversations.get("c").messages.get(2).body, "hello");
  const opened = script.socket();
  socket.close(1012);
  const again = await opened;
  welcome(again);
  assert.deepEqual(again.sent[0].conversations, { c: 5 });
});

test("a duplicate's ack moves no cursor, and its message is read from the history", async (t) => {
  const script = new Script();
  const { client, socket } = await script.start(t);
  script.answers["GET /v1/conversations/c/messages"] = ({ url }) => {
    assert.equal(new URL(url).search, "?after=6&limit=1");
    return [200, { results: [message(7, 9, { sender: "alice", body: "hello" }).message], next: null, previous: null }];
  };
  const sent = client.send({ to: { conversation: "c" }, body: "hello" });
  await turn();
  const told = next(client, "message");
  socket.say(ack(sends(socket)[0], 7, 9, true));
  assert.equal((await sent).duplicate, true);
  assert.equal((await told).message.rev, 9);
  assert.equal(client.conversations.get("c").reached, 0);
});

test("what has no answer is sent again with the same client_id, in the same order", async (t) => {
  const script = new Script();
  const { client, socket } = await script.start(t);
  const bodies = ["one", "two", "three"];
  const answers = bodies.map((body) => client.send({ to: "bob", body }));
  await turn();
  const first = sends(socket);
  socket.say(ack(first[0], 1, 1));
  const opened = script.socket();
  socket.close(1006);
  const again = await opened;
  welcome(again);
  assert.deepEqual(sends(again).map(({ client_id }) => client_id), first.slice(1).map(({ client_id }) => client_id));
  sends(again).forEach((frame, index) => again.say(ack(frame, index + 2, index + 2)));
  assert.deepEqual((await Promise.all(answers)).map(({ seq }) => seq), [1, 2, 3]);
  assert.deepEqual(client.unsent, []);
});

test("what was refused for the time being goes again, and nothing to its target overtakes it", async (t) => {
  const { client, socket } = await new Script().start(t);
  const one = client.send({ to: "bob", body: "one" });
  await turn();
  socket.say({ type: "error", ref: sends(socket)[0].ref, code: "unavailable", detail: "", retry_after: 0.03 });
  const two = client.send({ to: "bob", body: "two" });
  const other = client.send({ to: "carol", body: "other" });
  await turn();
  assert.deepEqual(sends(socket).map(({ body }) => body), ["one", "other"]);
  while (sends(socket).length < 4) await turn();
  assert.deepEqual(sends(socket).map(({ body }) => body), ["one", "other", "one", "two"]);
  assert.equal(sends(socket)[2].client_id, sends(socket)[0].client_id);
  sends(socket).slice(1).forEach((frame, index) => socket.say(ack(frame, index + 1, index + 1)));
  await Promise.all([one, two, other]);
});

test("a refusal rejects; it is kept for another try only where that is asked for", async (t) => {
  for (const keepRefused of [false, true]) {
    const storage = new MemoryStorage();
    const { client, socket } = await new Script().start(t, { storage, keepRefused });
    const sent = client.send({ to: "bob", body: "hello" });
    await turn();
    socket.say({ type: "error", ref: sends(socket)[0].ref, code: "not_contact", detail: "Add them first." });
    await assert.rejects(sent, (error) => error instanceof Refused && error.code === "not_contact");
    await turn();
    assert.equal(client.unsent.length, keepRefused ? 1 : 0);
    assert.equal((await storage.entries("unsent/")).length, keepRefused ? 1 : 0);
    if (!keepRefused) continue;
    const again = client.resend(client.unsent[0].client_id);
    await turn();
    assert.equal(sends(socket)[1].client_id, sends(socket)[0].client_id);
    socket.say(ack(sends(socket)[1], 1, 1));
    await again;
    await turn();
    assert.equal((await storage.entries("unsent/")).length, 0);
  }
});

test("unsent messages outlive the client, and go out in their order", async (t) => {
  const storage = new MemoryStorage();
  const { client } = await new Script().start(t, { storage });
  const lost = ["one", "two"].map((body) => client.send({ to: "bob", body }));
  await turn();
  const ids = client.unsent.map(({ client_id }) => client_id);
  await client.close();
  for (const one of lost) await assert.rejects(one, Closed);
  const { client: second, socket } = await new Script().start(t, { storage });
  assert.deepEqual(second.unsent.map(({ body }) => body), ["one", "two"]);
  assert.deepEqual(sends(socket).map(({ client_id }) => client_id), ids);
});

test("bye names when to come back and brings the next one-time password", async (t) => {
  const script = new Script();
  const { client, socket } = await script.start(t, { firstBackoff: 60, longestBackoff: 60 });
  socket.say(sync);
  const waits = next(client, "status", ({ retryAt }) => retryAt !== null);
  const opened = script.socket();
  socket.say({ type: "bye", code: 1012, reconnect_after: 0.05, otp: "next-ticket" });
  socket.close(1012);
  const { retryAt } = await waits;
  assert.ok(retryAt - Date.now() <= 50);
  assert.deepEqual((await opened).protocols[1], "otp.next-ticket");
  assert.equal(script.calls.filter(({ name }) => name === "POST /v1/auth/otp").length, 0);
});

test("a one-time password that is not taken is replaced once", async (t) => {
  const script = new Script();
  const { client, socket } = await script.start(t);
  const second = script.socket();
  socket.close(4401);
  const ended = next(client, "ended");
  (await second).close(4401);
  assert.equal((await ended).error.code, "not_authenticated");
  assert.equal(script.sockets.length, 2);
});

test("a session that ended asks for its user, and keeps what is unsent", async (t) => {
  const storage = new MemoryStorage();
  const { client, socket } = await new Script().start(t, { storage });
  const sent = client.send({ to: "bob", body: "hello" });
  const rejected = assert.rejects(sent, SignedOut);
  await turn();
  const ended = next(client, "ended");
  socket.close(4001);
  assert.ok((await ended).error instanceof SignedOut);
  assert.equal(client.status, "signed-out");
  assert.equal(await storage.get("session"), undefined);
  assert.equal((await storage.entries("unsent/alice/")).length, 1);
  await rejected;
});

test("another epoch voids what is held", async (t) => {
  const script = new Script();
  const { client, socket } = await script.start(t);
  socket.say(message(1, 4));
  const opened = script.socket();
  socket.close(1012);
  const again = await opened;
  const reset = next(client, "reset");
  welcome(again, { epoch: "e2" });
  assert.deepEqual(await reset, { conversation: null });
  assert.deepEqual(again.sent[0].conversations, {});
  assert.equal(client.conversations.size, 0);
});

test("a reset conversation is dropped and goes on from the database's head", async (t) => {
  const { client, socket } = await new Script().start(t);
  socket.say(message(1, 40));
  const conversation = {
    id: "c", kind: "direct", title: null, rev: 30, last_seq: 20, member_count: 2, members: [], created_at: "",
  };
  socket.say({ type: "conversation", conversation, reset: true });
  const held = client.conversations.get("c");
  assert.deepEqual([held.reached, held.lastSeq, held.messages.size], [30, 20, 0]);
  socket.say({ type: "conversation", conversation, member: false });
  assert.equal(client.conversations.has("c"), false);
});

test("many calls with an old token renew it once", async (t) => {
  const script = new Script();
  const storage = new MemoryStorage();
  const { client } = await script.start(t, { storage });
  let good = "";
  script.answers["POST /v1/auth/token"] = () => {
    const tokens = script.tokens();
    good = `Bearer ${tokens.access_token}`;
    return [200, tokens];
  };
  script.answers["GET /v1/me"] = ({ headers }) => (headers.Authorization === good ? [200, {}] : [401, { code: "not_authenticated" }]);
  await Promise.all(Array.from({ length: 10 }, () => client.request("GET", "/v1/me")));
  const renewals = script.calls.filter(({ name }) => name === "POST /v1/auth/token");
  assert.equal(renewals.length, 1);
  assert.equal(`Bearer ${(await storage.get("session")).access_token}`, good);
});

test("a refresh token that another tab has spent is not spent again", async (t) => {
  const script = new Script();
  const storage = new MemoryStorage();
  const { client } = await script.start(t, { storage });
  const fresh = { ...(await storage.get("session")), access_token: "from-the-other-tab" };
  script.answers["GET /v1/me"] = ({ headers }) =>
    headers.Authorization === "Bearer from-the-other-tab" ? [200, {}] : [401, { code: "not_authenticated" }];
  await storage.set("session", fresh);
  await client.request("GET", "/v1/me");
  assert.equal(script.calls.some(({ name }) => name === "POST /v1/auth/token"), false);
});

test("marks that the server does not have yet are asked for again", async (t) => {
  const script = new Script();
  const { client, socket } = await script.start(t);
  socket.say(message(3, 3));
  socket.say(sync);
  client.markRead("c", 3);
  client.markRead("c", 2);
  assert.equal(client.conversations.get("c").unread, 0);
  const marks = (one) => one.sent.filter(({ type }) => type === "read").map(({ seq }) => seq);
  assert.deepEqual(marks(socket), [3]);
  const opened = script.socket();
  socket.close(1006);
  const again = await opened;
  welcome(again);
  again.say({ type: "marks", marks: { c: { alice: [1, 3], bob: [0, 0] } } });
  again.say(sync);
  assert.deepEqual(marks(again), [3]);
});

test("unread counts others' texts that are not deleted, after the read mark", async (t) => {
  const { client, socket } = await new Script().start(t);
  socket.say(message(1, 1));
  socket.say(message(2, 2, { kind: "system" }));
  socket.say(message(3, 3, { mentions: ["alice"] }));
  const held = client.conversations.get("c");
  assert.deepEqual([held.unread, held.unreadMentions], [2, 1]);
  socket.say(message(3, 4, { body: null, deleted_at: "2026-01-01T00:00:00.000000Z" }));
  assert.deepEqual([held.unread, held.unreadMentions], [1, 0]);
  socket.say({ type: "receipt", conversation: "c", username: "alice", read: 3, delivered: 3 });
  assert.equal(held.unread, 0);
});

test("unknown frames are ignored, and a listener that throws stops nothing", async (t) => {
  const { client, socket } = await new Script().start(t);
  const failure = next(client, "failure");
  client.on("message", () => { throw new Error("mine"); });
  socket.say({ type: "from-the-future" });
  socket.say(message(1, 1));
  assert.equal((await failure).error.message, "mine");
  assert.equal(client.conversations.get("c").messages.size, 1);
});

test("no more messages are held than was asked for", async (t) => {
  const { client, socket } = await new Script().start(t, { held: 100 });
  for (let seq = 1; seq <= 500; seq += 1) socket.say(message(seq, seq));
  const { messages } = client.conversations.get("c");
  assert.ok(messages.size <= 110);
  assert.ok(messages.has(500) && !messages.has(300));
});

test("a conversation that was left is not held again because somebody had been typing in it", async (t) => {
  const { client, socket } = await new Script().start(t);
  const conversation = {
    id: "c", kind: "group", title: "G", rev: 1, last_seq: 1, member_count: 2, members: [], created_at: "",
  };
  socket.say({ type: "conversation", conversation });
  socket.say({ type: "typing", conversation: "c", username: "bob", on: true });
  socket.say({ type: "conversation", conversation: { ...conversation, rev: 2 }, member: false });
  socket.say({ type: "typing", conversation: "c", username: "bob", on: false });
  assert.equal(client.conversations.size, 0);
});

test("a session that ended leaves alone what another tab has signed in to", async (t) => {
  const storage = new MemoryStorage();
  const { client, socket } = await new Script().start(t, { storage });
  const other = { ...(await storage.get("session")), session_id: "of-the-other-tab" };
  await storage.set("session", other);
  const ended = next(client, "ended");
  socket.close(4001);
  await ended;
  assert.deepEqual(await storage.get("session"), other);
});

test("renewed tokens do not replace another session in the storage", async (t) => {
  const script = new Script();
  const storage = new MemoryStorage();
  const { client } = await script.start(t, { storage });
  const other = { ...(await storage.get("session")), session_id: "of-the-other-tab" };
  await storage.set("session", other);
  let renewed = false;
  script.answers["POST /v1/auth/token"] = () => ((renewed = true), [200, script.tokens()]);
  script.answers["GET /v1/me"] = () => (renewed ? [200, {}] : [401, { code: "not_authenticated" }]);
  await client.request("GET", "/v1/me");
  assert.deepEqual(await storage.get("session"), other);
});

test("a changed profile does not bring back a refresh token that another tab has spent", async (t) => {
  const script = new Script();
  const storage = new MemoryStorage();
  const { client } = await script.start(t, { storage });
  const fresh = { ...(await storage.get("session")), refresh_token: "from-the-other-tab" };
  await storage.set("session", fresh);
  script.answers["PATCH /v1/me"] = () => [200, { username: "alice", display_name: "Alice" }];
  await client.changeProfile({ display_name: "Alice" });
  const kept = await storage.get("session");
  assert.deepEqual([kept.refresh_token, kept.user.display_name], ["from-the-other-tab", "Alice"]);
});

test("nobody sends before they have signed in", async (t) => {
  const script = new Script();
  const client = new Client({ url: "http://chat.example", storage: new MemoryStorage(), fetch: script.fetch, WebSocket: script.WebSocket });
  t.after(() => client.close());
  await assert.rejects(client.send({ to: "bob", body: "hello" }), SignedOut);
  assert.deepEqual(client.unsent, []);
});

test("a message with files is read again when that fails after its ack", async (t) => {
  const script = new Script();
  const { client, socket } = await script.start(t);
  const files = [{ id: "f", name: "lake.png" }];
  let tries = 0;
  script.answers["GET /v1/conversations/c/messages"] = () =>
    (tries += 1) < 3
      ? [503, { code: "unavailable", detail: "" }]
      : [200, { results: [message(1, 1, { sender: "alice", attachments: files }).message], next: null, previous: null }];
  const sent = client.send({ to: { conversation: "c" }, body: "look", attachments: ["f"] });
  await turn();
  const told = next(client, "message");
  socket.say(ack(sends(socket)[0], 1, 1));
  await sent;
  assert.deepEqual((await told).message.attachments, files);
});
