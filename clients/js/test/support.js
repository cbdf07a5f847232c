/** What the tests share: people on a real server, a proxy that fails on demand, and a server that is made up. */

import net from "node:net";
import { once } from "node:events";

import { Client, MemoryStorage } from "../src/chatbe.js";

const { CHATBE_URL } = process.env;
if (!CHATBE_URL) throw new Error("CHATBE_URL names the server to test against; tests/clients/test_js.py starts one.");
export const SERVER = CHATBE_URL;
export const PASSWORD = "a quiet river at dawn 7";
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
    const client = new Client({ url: SERVER, storage: new MemoryStorage(), firstBackoff: 0.05, longestBackoff: 0.5, ...options });
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

/** A TCP proxy in front of the server. */
export class Proxy {
  static async make(test) {
    const proxy = new Proxy();
    test.after(() => proxy.close());
    await proxy.open();
    return proxy;
  }

  constructor() {
    this.target = new URL(SERVER);
    this.port = 0;
    this.links = new Set();
    /** Called with each chunk that the server sends; false swallows it. */
    this.onAnswer = () => true;
    /** Called with each chunk that a client sends. */
    this.onRequest = () => undefined;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  async open() {
    this.server = net.createServer((client) => {
      const upstream = net.connect(Number(this.target.port), this.target.hostname);
      const link = { cut: () => (client.destroy(), upstream.destroy()) };
      this.links.add(link);
      for (const side of [client, upstream]) {
        side.on("error", link.cut);
        side.on("close", () => (link.cut(), this.links.delete(link)));
      }
      client.on("data", (data) => (this.onRequest(data, link), upstream.write(data)));
      upstream.on("data", (data) => this.onAnswer(data, link) && client.write(data));
    });
    this.server.listen(this.port, "127.0.0.1");
    await once(this.server, "listening");
    this.port = this.server.address().port;
  }

  /** Cut every connection. */
  cut() {
    for (const link of this.links) link.cut();
  }

  /** Cut every connection, and take none until `open`. */
  async close() {
    if (!this.server?.listening) return;
    const closed = once(this.server, "close");
    this.server.close();
    this.cut();
    await closed;
  }
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
