/**
 * What the tests share: people on a real server, links to it that fail on demand, and a server that is made up.
 * Runs in Node.js and in browsers; tests/clients/test_js.py starts both, with the server and the links' control.
 */

import { Client, IndexedDbStorage, MemoryStorage } from "../src/chatbe.js";

const { CHATBE_URL, CHATBE_LINKS } = globalThis.process?.env ?? Object.fromEntries(new URLSearchParams(location.search));
if (!CHATBE_URL) throw new Error("CHATBE_URL names the server to test against; tests/clients/test_js.py starts one.");
export const SERVER = CHATBE_URL;
export const PASSWORD = "a quiet river at dawn 7";

/** A storage that nobody has used. */
export function newStorage() {
  return typeof indexedDB === "undefined" ? new MemoryStorage() : new IndexedDbStorage(`test-${crypto.randomUUID()}`);
}

const PATIENCE = 20_000;

/** Frames that somebody waits for by what happened, not by how long it took. */
export function eventually(subscribe, what) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`not seen: ${what}`)), PATIENCE);
    subscribe((value) => (clearTimeout(timer), resolve(value)));
  });
}

/** The next event of a client that matches. */
export function next(client, type, matching = () => true) {
  return eventually((done) => {
    const off = client.on(type, (event) => matching(event) && (off(), done(event)));
  }, type);
}

/** A new account; `client(options)` makes clients of it, which end with the test. */
export class Person {
  constructor(test, name) {
    this.test = test;
    this.username = `${name}-${crypto.randomUUID().slice(0, 12)}`;
  }

  static async make(test, name, options) {
    const person = new Person(test, name);
    const client = person.client(options);
    await client.register({
      username: person.username, email: `${person.username}@example.org`, password: PASSWORD,
    });
    await client.signIn({ username: person.username, password: PASSWORD });
    return client;
  }

  client(options = {}) {
    const client = new Client({ url: SERVER, storage: newStorage(), firstBackoff: 0.05, longestBackoff: 0.5, ...options });
    this.test.after(() => client.close());
    return client;
  }
}

/** Two people, contacts of each other, both live. */
export async function pair(test, options = {}, otherOptions = {}) {
  const [alice, bob] = await Promise.all([Person.make(test, "alice", options), Person.make(test, "bob", otherOptions)]);
  await Promise.all([alice.addContact(bob.username), bob.addContact(alice.username)]);
  alice.connect();
  bob.connect();
  await Promise.all([alice.live(), bob.live()]);
  return [alice, bob];
}

/** All bodies of a conversation in the order of the database, read afresh. */
export async function stored(client, conversation) {
  const pages = [];
  for await (const page of client.backlog(conversation)) pages.unshift(page.map(({ body }) => body));
  return pages.flat();
}

/** A TCP link to the server. */
export class Link {
  static async make(test) {
    const link = new Link(await control("POST", "/links"));
    test.after(() => control("DELETE", `/links/${link.id}`));
    return link;
  }

  constructor({ id, url }) {
    this.id = id;
    this.url = url;
  }

  /** Cut every connection, and take none until `open`. */
  close() {
    return control("POST", `/links/${this.id}/close`);
  }

  open() {
    return control("POST", `/links/${this.id}/open`);
  }

  /** Reset the first connection on which the server says this, in its place. */
  cutInsteadOf(text) {
    return control("POST", `/links/${this.id}/cut-instead-of`, text);
  }

  /** Reset a connection in place of every so many pieces that the server sends, at any byte of any frame; 0: no more. */
  cutEvery(pieces) {
    return control("POST", `/links/${this.id}/cut-every`, String(pieces));
  }

  /** @returns {Promise<number>} How often it has cut by itself. */
  async cuts() {
    return (await control("GET", `/links/${this.id}`)).cuts;
  }
}

async function control(method, path, body) {
  const answer = await fetch(CHATBE_LINKS + path, { method, body });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status}`);
  return answer.json();
}

/** A server that says what the test makes it say. */
export class Script {
  constructor() {
    this.sockets = [];
    this.calls = [];
    this.waiting = [];
    /** Answers to HTTP calls, by "METHOD path". */
    this.answers = {
      "POST /v1/auth/login": () => [200, this.login()],
      "POST /v1/auth/otp": () => [200, { otp: "ticket" }],
      "POST /v1/auth/token": () => [200, this.tokens()],
    };
    const script = this;
    this.WebSocket = class {
      readyState = 0;
      sent = [];
      constructor(url, protocols) {
        this.url = url;
        this.protocols = protocols;
        script.sockets.push(this);
        queueMicrotask(() => {
          this.readyState = 1;
          for (const done of script.waiting.splice(0)) done(this);
        });
      }
      send(text) {
        this.sent.push(JSON.parse(text));
      }
      say(frame) {
        this.onmessage({ data: JSON.stringify(frame) });
      }
      close(code = 1005) {
        if (this.readyState === 3) return;
        this.readyState = 3;
        this.onclose({ code });
      }
    };
  }

  tokens() {
    const expires = new Date(Date.now() + 900_000).toISOString();
    const token = () => `x.${btoa(JSON.stringify({ iat: Math.floor(Date.now() / 1000), jti: crypto.randomUUID() }))}.x`;
    return { session_id: "s", access_token: token(), access_token_expires_at: expires, refresh_token: token() };
  }

  login() {
    return { ...this.tokens(), otp: "first-ticket", user: { username: "alice" } };
  }

  fetch = async (url, { method, body, headers }) => {
    const name = `${method} ${new URL(url).pathname}`;
    this.calls.push({ name, body: body && JSON.parse(body), headers });
    const [status, value] = this.answers[name]?.({ url, headers }) ?? [404, { code: "not_found", detail: name }];
    return new Response(value === null ? null : JSON.stringify(value), { status });
  };

  /** The next socket that is opened. */
  socket() {
    return eventually((done) => this.waiting.push(done), "a socket");
  }

  /** A signed-in client, connected, with its first socket past `welcome`. */
  async start(test, options = {}) {
    const client = new Client({
      url: "http://chat.example", storage: new MemoryStorage(), firstBackoff: 0.001, longestBackoff: 0.01,
      fetch: this.fetch, WebSocket: this.WebSocket, ...options,
    });
    test.after(() => client.close());
    await client.signIn({ username: "alice", password: "p" });
    const opened = this.socket();
    client.connect();
    const socket = await opened;
    welcome(socket);
    return { client, socket };
  }
}

export function welcome(socket, more = {}) {
  socket.say({ type: "welcome", user: "alice", epoch: "e1", heartbeat_interval: 25, limits: {}, ...more });
  socket.say({ type: "friends", total: 0, online: 0, friends: [] });
}

export function message(seq, rev, more = {}) {
  return {
    type: "message",
    message: {
      id: `m${seq}`, conversation: "c", seq, rev, kind: "text", sender: "bob", body: `body ${rev}`, client_id: null,
      reply_to: null, reactions: {}, created_at: "2026-01-01T00:00:00.000000Z", edited_at: null, deleted_at: null, ...more,
    },
  };
}

export function ack(frame, seq, rev, duplicate = false) {
  return {
    type: "ack", ref: frame.ref, conversation: "c", seq, rev, id: `m${seq}`, client_id: frame.client_id ?? null,
    created_at: "2026-01-01T00:00:00.000000Z", duplicate,
  };
}
