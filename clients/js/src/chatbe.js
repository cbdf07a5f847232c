/**
 * A client of chatbe: one account's live connection, for browsers and Node.js 20 or newer.
 *
 * It comes back by itself, sends again what has no answer yet (with the same `client_id`, so nothing is stored
 * twice), and ends in the state of the database after any absence. The rules it follows are those of
 * docs/protocol.md, "A client in full":
 *
 * - per (conversation, seq) the message with the highest rev wins;
 * - per conversation `reached` is the highest rev that the stream came to, and the next `sync` goes on from it;
 * - an `ack` with `duplicate: false` stands for its own event.
 *
 * One module, no dependencies, no build step. Times that applications see are RFC 3339 strings as the server
 * wrote them; durations are seconds.
 *
 * @module chatbe
 */

/** @typedef {"offline" | "connecting" | "syncing" | "live" | "signed-out"} Status */

/**
 * @typedef {object} User
 * @property {string} id
 * @property {string} username
 * @property {string} display_name
 * @property {string} created_at
 * @property {string} [email] Mine only.
 * @property {boolean} [read_receipts] Mine only: whether others see what I have read, and I what they have.
 */

/**
 * @typedef {object} Reaction
 * @property {number} count
 * @property {string[]} usernames At most 50 of them.
 */

/**
 * @typedef {object} Message
 * @property {string} id
 * @property {string} conversation
 * @property {number} seq Its place in the conversation: 1, 2, 3, …
 * @property {number} rev The conversation's change that made it what it is.
 * @property {string} kind `text` or `system`.
 * @property {string | null} sender Null for an erased account.
 * @property {string | null} body Null when it was deleted.
 * @property {string | null} client_id
 * @property {number | null} reply_to
 * @property {Record<string, Reaction>} reactions
 * @property {string} created_at
 * @property {string | null} edited_at
 * @property {string | null} deleted_at
 * @property {string[]} [mentions]
 * @property {Attachment[]} [attachments]
 */

/**
 * A file of a message.
 *
 * @typedef {object} Attachment
 * @property {string} id
 * @property {string} name
 * @property {string} content_type
 * @property {number} size
 * @property {number | null} width Of a picture, in pixels.
 * @property {number | null} height
 * @property {boolean} thumbnail Whether there is a small picture of it.
 */

/**
 * A file with addresses, which need no token and are good for a short time.
 *
 * @typedef {Attachment & {url: string, thumbnail_url: string | null, expires_at: string}} AttachmentLinks
 */

/**
 * What a search found: the message, and the part of its body that matches.
 *
 * @typedef {{message: Message, snippet: Array<{text: string, match: boolean}>}} Hit
 */

/** @typedef {{username: string, role: string}} Member */

/**
 * What all members see of a conversation; lists and single reads also have what is mine.
 *
 * @typedef {object} ConversationInfo
 * @property {string} id
 * @property {"direct" | "group"} kind
 * @property {string | null} title
 * @property {number} rev
 * @property {number} last_seq
 * @property {number} member_count
 * @property {Member[]} members At most 100 of them.
 * @property {string} created_at
 * @property {string} [description]
 * @property {string | null} [history]
 * @property {number} [purged_seq] Messages up to this one are gone for good.
 * @property {string} [role]
 * @property {number} [unread]
 * @property {number} [unread_mentions]
 * @property {number} [read_seq]
 * @property {number} [delivered_seq]
 * @property {string | null} [muted_until]
 * @property {Message | null} [last_message]
 * @property {number | null} [peer_read_seq]
 * @property {number | null} [peer_delivered_seq]
 */

/** @typedef {{read: number, delivered: number}} Marks */

/**
 * A contact of mine. `online` and `last_seen` are null unless they added me too.
 *
 * @typedef {object} Contact
 * @property {string} username
 * @property {string} display_name
 * @property {boolean} mutual
 * @property {boolean | null} online
 * @property {string | null} last_seen
 */

/**
 * A device that is signed in.
 *
 * @typedef {object} Device
 * @property {string} id
 * @property {string} device
 * @property {string} user_agent
 * @property {string | null} address
 * @property {string} created_at
 * @property {string | null} last_used_at
 * @property {string} expires_at
 * @property {boolean} current
 */

/**
 * The server's word that a change is committed.
 *
 * @typedef {object} Ack
 * @property {string} conversation
 * @property {number} seq
 * @property {number} rev
 * @property {string} id
 * @property {string | null} client_id
 * @property {string} created_at
 * @property {boolean} duplicate
 */

/** @typedef {{username: string} | {conversation: string}} Target */

/**
 * A message that is not acked yet.
 *
 * @typedef {object} Unsent
 * @property {string} client_id
 * @property {number} order
 * @property {Target} to
 * @property {string} body
 * @property {number | null} reply_to
 * @property {string[]} [attachments]
 * @property {string} created_at By this device's clock.
 * @property {{code: string, detail: string} | null} refused Why the server will not have it; null while it waits.
 */

/**
 * What is kept between two runs. Values can be stored as JSON.
 *
 * @typedef {object} Storage
 * @property {string} [name] Names it in the locks that several tabs share.
 * @property {(key: string) => Promise<any>} get Undefined when there is none.
 * @property {(key: string, value: any) => Promise<void>} set
 * @property {(key: string) => Promise<void>} delete
 * @property {(prefix: string) => Promise<Array<[string, any]>>} entries
 */

/**
 * @typedef {object} Options
 * @property {string | string[]} url The server's address, or several of the same chatbe, tried in turn.
 * @property {Storage} [storage] Default: IndexedDB in browsers, memory elsewhere.
 * @property {string} [device] What this device is called among the account's devices.
 * @property {"state" | "all"} [others] What a first sync asks of conversations that it has no cursor of: their
 *   present state (default), or all messages from the beginning.
 * @property {boolean} [keepCursors] Go on, in the next run, from where this one's streams came to. For applications
 *   that keep the messages themselves. Default: each run starts from the present state.
 * @property {boolean} [keepRefused] Keep messages that the server refused, for the user to send again or discard.
 * @property {number} [held] So many messages are held per conversation; beyond it, those of the lowest seq are let
 *   go. Default 20,000.
 * @property {number} [firstBackoff] Seconds. Default 0.5.
 * @property {number} [longestBackoff] Seconds. Default 30.
 * @property {typeof globalThis.fetch} [fetch]
 * @property {new (url: string, protocols: string[]) => WebSocket} [WebSocket] Node.js 20 has one with
 *   `--experimental-websocket`, 22 always.
 */

/**
 * @typedef {object} Events
 * @property {{status: Status, retryAt: number | null}} status `retryAt`: when it tries again, as of `Date.now()`.
 * @property {{message: Message, isNew: boolean, previous: Message | undefined, live: boolean}} message `isNew`: its
 *   place was empty before. `live`: after the sync, so it has just happened.
 * @property {{id: string, conversation: Conversation | null}} conversation Null: I am no longer a member.
 * @property {{conversation: string | null}} reset What was held of it (null: of all) is void; page the history.
 * @property {{conversation: string, username: string, read: number, delivered: number}} receipt
 * @property {{conversation: string, username: string, on: boolean}} typing
 * @property {{username: string, online: boolean | null, last_seen: string | null}} presence
 * @property {{total: number, online: number}} friends
 * @property {{username: string, added: boolean, mutual: boolean}} contact
 * @property {{conversation: string, until: string | null}} muted
 * @property {{client_id: string, state: "waiting" | "sent" | "refused" | "discarded"}} unsent
 * @property {{error: Error}} ended The client has stopped: the session ended, or the server refuses it.
 * @property {{code: string, detail: string}} refusal A frame that nobody waits for was refused.
 * @property {{error: unknown}} failure Something that this client survives: its storage failed, a listener threw.
 */

// --- errors ----------------------------------------------------------------------------------------------------

/** Whatever this client throws. */
export class ChatError extends Error {
  /**
   * @param {string} code
   * @param {string} detail
   */
  constructor(code, detail) {
    super(detail);
    this.name = new.target.name;
    this.code = code;
    /** For people to read. */
    this.detail = detail;
  }
}

/** The server said no. */
export class Refused extends ChatError {
  /**
   * @param {string} code
   * @param {string} detail
   * @param {{status?: number, retryAfter?: number | null, errors?: Array<{field: string, code: string, detail: string}>}} [more]
   */
  constructor(code, detail, { status = 0, retryAfter = null, errors = [] } = {}) {
    super(code, detail);
    /** Of HTTP; 0 when the socket said so. */
    this.status = status;
    /** Seconds. */
    this.retryAfter = retryAfter;
    /** What is wrong with which field. */
    this.errors = errors;
  }
}

/** No answer came; whether the call was carried out is unknown. */
export class Unreachable extends ChatError {
  /** @param {unknown} cause */
  constructor(cause) {
    super("unreachable", "The server cannot be reached.");
    this.cause = cause;
  }
}

/** The session has ended, or there never was one. */
export class SignedOut extends ChatError {
  constructor(detail = "Signed out.") {
    super("signed_out", detail);
  }
}

/** The client was closed before the answer came. What was sent may be stored. */
export class Closed extends ChatError {
  constructor() {
    super("closed", "The client was closed.");
  }
}

// --- storage ---------------------------------------------------------------------------------------------------

/**
 * Keeps nothing beyond this process.
 *
 * @implements {Storage}
 */
export class MemoryStorage {
  constructor() {
    this.name = `memory-${crypto.randomUUID()}`;
    /** @type {Map<string, string>} */
    this.values = new Map();
  }

  /** @param {string} key */
  async get(key) {
    const text = this.values.get(key);
    return text === undefined ? undefined : JSON.parse(text);
  }

  /**
   * @param {string} key
   * @param {any} value
   */
  async set(key, value) {
    this.values.set(key, JSON.stringify(value));
  }

  /** @param {string} key */
  async delete(key) {
    this.values.delete(key);
  }

  /**
   * @param {string} prefix
   * @returns {Promise<Array<[string, any]>>}
   */
  async entries(prefix) {
    return [...this.values]
      .filter(([key]) => key.startsWith(prefix))
      .map(([key, text]) => [key, JSON.parse(text)]);
  }
}

/**
 * Keeps values in the browser, shared by all tabs of the origin.
 *
 * @implements {Storage}
 */
export class IndexedDbStorage {
  constructor(name = "chatbe") {
    this.name = name;
    /** @type {Promise<IDBDatabase> | null} */
    this.opening = null;
  }

  /** @param {string} key */
  get(key) {
    return this.#do("readonly", (store) => store.get(key));
  }

  /**
   * @param {string} key
   * @param {any} value
   * @returns {Promise<void>}
   */
  set(key, value) {
    return this.#do("readwrite", (store) => store.put(value, key)).then(() => undefined);
  }

  /**
   * @param {string} key
   * @returns {Promise<void>}
   */
  delete(key) {
    return this.#do("readwrite", (store) => store.delete(key)).then(() => undefined);
  }

  /**
   * @param {string} prefix
   * @returns {Promise<Array<[string, any]>>}
   */
  async entries(prefix) {
    const range = IDBKeyRange.bound(prefix, `${prefix}\uffff`);
    /** @type {any[]} */
    let values = [];
    const keys = await this.#do("readonly", (store) => {
      const all = store.getAll(range);
      all.onsuccess = () => (values = all.result);
      return store.getAllKeys(range);
    });
    return keys.map((key, index) => [String(key), values[index]]);
  }

  /**
   * Run one transaction; resolves when it is complete, not when its request is.
   *
   * @template T
   * @param {IDBTransactionMode} mode
   * @param {(store: IDBObjectStore) => IDBRequest<T>} ask
   * @returns {Promise<T>}
   */
  async #do(mode, ask) {
    const database = await (this.opening ??= this.#open());
    return new Promise((resolve, reject) => {
      const transaction = database.transaction("values", mode);
      const request = ask(transaction.objectStore("values"));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error ?? request.error);
    });
  }

  /** @returns {Promise<IDBDatabase>} */
  #open() {
    return new Promise((resolve, reject) => {
      const request = indexedDB.open(this.name, 1);
      request.onupgradeneeded = () => request.result.createObjectStore("values");
      request.onsuccess = () => {
        // Another tab that deletes or upgrades the database must not wait for this one.
        request.result.onversionchange = request.result.onclose = () => {
          request.result.close();
          this.opening = null;
        };
        resolve(request.result);
      };
      request.onerror = () => {
        this.opening = null;
        reject(request.error);
      };
    });
  }
}

// --- state -----------------------------------------------------------------------------------------------------

/** A conversation as this client knows it. */
export class Conversation {
  /** @param {string} id */
  constructor(id) {
    this.id = id;
    /** The highest rev that the stream came to. */
    this.reached = 0;
    /** @type {ConversationInfo | null} The latest object that was told. */
    this.info = null;
    /** The highest seq that is known of. */
    this.lastSeq = 0;
    /** @type {Message | null} The message of the highest seq that is held. */
    this.lastMessage = null;
    /** Others' undeleted text messages that I have not read. */
    this.unread = 0;
    /** Those of them that mention me. */
    this.unreadMentions = 0;
    /** @type {string | null} */
    this.mutedUntil = null;
    /** @type {Map<number, Message>} By seq; not without gaps. */
    this.messages = new Map();
    /** @type {Map<string, Marks>} By username. */
    this.marks = new Map();
    /** @type {Map<string, ReturnType<typeof setTimeout>>} Who is typing. */
    this.typing = new Map();
  }

  /**
   * The other one of a direct conversation; null where there is none.
   *
   * @param {string} me
   * @returns {string | null}
   */
  peer(me) {
    if (this.info?.kind !== "direct") return null;
    return this.info.members.find(({ username }) => username !== me)?.username ?? null;
  }

  /**
   * Raise a member's marks; whether they moved.
   *
   * @param {string} username
   * @param {number} read
   * @param {number} delivered
   */
  moveMarks(username, read, delivered) {
    const known = this.marks.get(username) ?? { read: 0, delivered: 0 };
    const moved = { read: Math.max(known.read, read), delivered: Math.max(known.delivered, delivered, read) };
    this.marks.set(username, moved);
    return moved.read !== known.read || moved.delivered !== known.delivered;
  }

  /**
   * Keep a message unless one of a higher or the same rev is held for its place; whether it was.
   *
   * @param {Message} message
   */
  keep(message) {
    const known = this.messages.get(message.seq);
    if (known && known.rev >= message.rev) return false;
    this.messages.set(message.seq, message);
    this.lastSeq = Math.max(this.lastSeq, message.seq);
    if (!this.lastMessage || message.seq >= this.lastMessage.seq) this.lastMessage = message;
    return true;
  }

  /** @param {number} limit */
  letGo(limit) {
    // A tenth at a time, so that it does not sort for every message.
    if (this.messages.size <= limit * 1.1) return;
    const seqs = [...this.messages.keys()].sort((one, other) => one - other);
    for (const seq of seqs.slice(0, seqs.length - limit)) this.messages.delete(seq);
  }
}

// --- the client ------------------------------------------------------------------------------------------------

const ENDED = new Set([4001, 4003]);
const NOT_SIGNED_IN = 4401;
const OUR_FAULT = new Set([1003, 1007, 1009]);
/** Codes of refusals that pass. */
const TRY_AGAIN = new Set(["unavailable", "rate_limited"]);
/** HTTP answers on the way to a socket that may be better next time. */
const PASSING = new Set([0, 401, 404, 408, 429, 500, 502, 503, 504]);
/** A token or one-time password with less life left than this is not used any more; milliseconds. */
const SPARE = 10_000;
const OTP_LIFETIME = 55_000;
const TYPING_LIFETIME = 6_000;
const HTTP_TIMEOUT = 20_000;
const OPEN_TIMEOUT = 15_000;
/** So many frames wait for their ack at a time; the others wait here. */
const WINDOW = 32;
const MARK = "mark";

/**
 * @typedef {object} Pending
 * @property {Record<string, any>} frame
 * @property {string} key What its order is kept in: its target.
 * @property {Unsent | null} unsent
 * @property {boolean} stored Kept in the storage, so it may be written.
 * @property {boolean} written On the present socket.
 * @property {boolean} later The server has said "try again".
 * @property {(ack: Ack) => void} resolve
 * @property {(error: Error) => void} reject
 */

/**
 * @typedef {object} SessionRecord
 * @property {User} user
 * @property {string} session_id
 * @property {string} access_token
 * @property {number} access_until
 * @property {string} refresh_token
 */

/** One account's live connection. */
export class Client {
  /** @type {string[]} */ #urls;
  #at = 0;
  /** @type {Required<Omit<Options, "url" | "storage">>} */ #options;
  /** @type {Storage} */ #storage;
  /** @type {SessionRecord | null} */ #session = null;
  /** @type {{otp: string, until: number} | null} */ #otp = null;
  /** @type {Map<string, Set<(event: any) => void>>} */ #listeners = new Map();
  /** @type {AbortController | null} */ #running = null;
  /** @type {WebSocket | null} */ #socket = null;
  #streaming = false;
  /** @type {Map<string, Pending>} By ref, in the order of sending. */ #pending = new Map();
  #order = 0;
  #refs = 0;
  /** @type {Map<string, Marks>} What was asked for and is not confirmed yet. */ #marks = new Map();
  /** @type {ReturnType<typeof setTimeout> | null} */ #retry = null;
  /** @type {(() => void) | null} */ #wake = null;
  /** @type {string | null} */ #epoch = null;
  #failures = 0;
  #heartbeatInterval = 25;
  /** @type {ReturnType<typeof setTimeout> | null} */ #savingCursors = null;
  /** @type {Map<string, Promise<any>>} */ #refreshing = new Map();
  /** @type {Promise<void>} */ #writes = Promise.resolve();

  /** @param {Options} options */
  constructor(options) {
    this.#urls = [options.url].flat().map((url) => url.replace(/\/+$/, ""));
    this.#storage = options.storage ?? (typeof indexedDB === "undefined" ? new MemoryStorage() : new IndexedDbStorage());
    this.#options = {
      device: "chatbe-js",
      others: "state",
      keepCursors: false,
      keepRefused: false,
      held: 20_000,
      firstBackoff: 0.5,
      longestBackoff: 30,
      fetch: (...request) => globalThis.fetch(...request),
      WebSocket: globalThis.WebSocket,
      ...withoutUndefined(options),
    };
    /** @type {Status} */
    this.status = "offline";
    /** When it tries again, as of `Date.now()`; null when it is not waiting. */
    /** @type {number | null} */
    this.retryAt = null;
    /** @type {Map<string, Conversation>} By id. */
    this.conversations = new Map();
    /** @type {Map<string, {online: boolean, last_seen: string | null}>} The mutual contacts, by username. */
    this.friends = new Map();
    /** @type {Record<string, any>} What the server takes. */
    this.limits = {};
  }

  // --- who I am --------------------------------------------------------------------------------------------

  /** @returns {User | null} */
  get user() {
    return this.#session?.user ?? null;
  }

  /** My username; empty when nobody is signed in. */
  get username() {
    return this.#session?.user.username ?? "";
  }

  /** @returns {string | null} The id of this device's session. */
  get sessionId() {
    return this.#session?.session_id ?? null;
  }

  /**
   * Make an account. Signs nobody in.
   *
   * @param {{username: string, email: string, password: string, display_name?: string}} account
   * @returns {Promise<User>}
   */
  register(account) {
    return this.request("POST", "/v1/auth/register", { json: account, signed: false });
  }

  /**
   * Begin a session on this device, and keep it in the storage.
   *
   * @param {{username?: string, email?: string, password: string}} credentials
   * @returns {Promise<User>}
   */
  async signIn(credentials) {
    const answer = await this.request("POST", "/v1/auth/login", {
      json: { device: this.#options.device, ...credentials },
      signed: false,
    });
    if (this.#session && this.username !== answer.user.username) this.#forget();
    this.#useSession(answer, answer.user);
    await this.#write(() => this.#storage.set("session", this.#session));
    this.#otp = { otp: answer.otp, until: Date.now() + OTP_LIFETIME };
    await this.#restore();
    return answer.user;
  }

  /**
   * Go on with the session in the storage. Null when there is none.
   *
   * @returns {Promise<User | null>}
   */
  async resume() {
    this.#session = (await this.#storage.get("session")) ?? null;
    if (this.#session) await this.#restore();
    return this.user;
  }

  /** End this session: on the server, if it can be reached, and here. Unsent messages stay in the storage. */
  async signOut() {
    const session = this.#session;
    this.disconnect();
    if (session) {
      try {
        await this.request("POST", "/v1/auth/logout");
      } catch (error) {
        if (!(error instanceof ChatError)) throw error;
        this.#emit("failure", { error });
      }
    }
    await this.#dropSession();
    this.#setStatus("signed-out");
  }

  // --- the connection ----------------------------------------------------------------------------------------

  /** Connect, and come back whenever the connection is lost. Does nothing while it does so already. */
  connect() {
    if (this.#running) return;
    const stop = (this.#running = new AbortController());
    if (typeof addEventListener === "function") {
      const { signal } = stop;
      addEventListener("online", () => this.reconnectNow(), { signal });
      addEventListener("offline", () => this.#probe(), { signal });
      globalThis.document?.addEventListener(
        "visibilitychange",
        () => document.visibilityState === "visible" && (this.reconnectNow(), this.#probe()),
        { signal },
      );
    }
    this.#run(stop.signal).catch((error) => this.#end(error));
  }

  /** Leave, and stay away until `connect`; what was sent and is not acked waits until then. */
  disconnect() {
    this.#running?.abort();
    this.#running = null;
    if (this.status !== "signed-out") this.#setStatus("offline");
  }

  /** Leave for good: whoever waits for an answer gets `Closed`. Unsent messages stay in the storage. */
  async close() {
    this.disconnect();
    if (this.#retry) clearTimeout(this.#retry);
    for (const conversation of this.conversations.values()) for (const timer of conversation.typing.values()) clearTimeout(timer);
    for (const pending of this.#pending.values()) pending.reject(new Closed());
    this.#pending.clear();
    if (this.#savingCursors) {
      clearTimeout(this.#savingCursors);
      await this.#saveCursors();
    }
    await this.#writes;
  }

  /** Do not wait any longer before trying again. */
  reconnectNow() {
    this.#wake?.();
  }

  /**
   * Resolves when the stream is live; rejects when it will never be.
   *
   * @returns {Promise<void>}
   */
  async live() {
    if (this.status === "live") return;
    await new Promise((resolve, reject) => {
      const off = [
        this.on("status", ({ status }) => status === "live" && (off.forEach((stop) => stop()), resolve(undefined))),
        this.on("ended", ({ error }) => (off.forEach((stop) => stop()), reject(error))),
      ];
    });
  }

  /**
   * Call `listener` for each event of this type; returns what ends that.
   *
   * @template {keyof Events} T
   * @param {T} type
   * @param {(event: Events[T]) => void} listener
   * @returns {() => void}
   */
  on(type, listener) {
    let listeners = this.#listeners.get(type);
    if (!listeners) this.#listeners.set(type, (listeners = new Set()));
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  // --- messages ----------------------------------------------------------------------------------------------

  /**
   * Send a message; resolves when it is committed. It waits while there is no connection, is kept in the storage
   * until it is acked, and is sent with the same `client_id` however often it takes. Rejects with `Refused` when
   * the server says no, with `Closed` when the client is closed before (it then goes out in the next run).
   *
   * @param {{to: string | Target, body: string, reply_to?: number | null, client_id?: string, attachments?: string[]}} message
   *   `to`: a username, or `{conversation}`.
   * @returns {Promise<Ack>}
   */
  send({ to, body, reply_to = null, client_id = crypto.randomUUID(), attachments }) {
    // Nobody's message would be kept under nobody's name, and go out as that of whoever signs in next.
    if (!this.#session) return Promise.reject(new SignedOut());
    /** @type {Unsent} */
    const unsent = {
      client_id,
      order: ++this.#order,
      to: typeof to === "string" ? { username: to.toLowerCase() } : to,
      body,
      reply_to,
      created_at: new Date().toISOString(),
      refused: null,
      ...(attachments?.length ? { attachments } : {}),
    };
    const answer = this.#enqueue(unsent, false);
    const key = this.#unsentKey(client_id);
    this.#write(() => this.#storage.set(key, unsent)).then(() => {
      const pending = this.#pendingOf(client_id);
      if (!pending) return;
      pending.stored = true;
      this.#emit("unsent", { client_id, state: "waiting" });
      this.#flush();
    });
    return answer;
  }

  /** @returns {Unsent[]} What is not acked yet, in the order of sending; with `keepRefused` also what was refused. */
  get unsent() {
    return [
      ...[...this.#pending.values()].flatMap(({ unsent, stored }) => (unsent && stored ? [unsent] : [])),
      ...this.#refused.values(),
    ].sort((one, other) => one.order - other.order);
  }

  /** @type {Map<string, Unsent>} */ #refused = new Map();

  /**
   * Send a refused message again.
   *
   * @param {string} clientId
   * @returns {Promise<Ack>}
   */
  async resend(clientId) {
    const unsent = this.#refused.get(clientId);
    if (!unsent) throw new ChatError("not_found", "There is no such message.");
    this.#refused.delete(clientId);
    unsent.refused = null;
    unsent.order = ++this.#order;
    await this.#write(() => this.#storage.set(this.#unsentKey(clientId), unsent));
    const answer = this.#enqueue(unsent, true);
    this.#emit("unsent", { client_id: clientId, state: "waiting" });
    this.#flush();
    return answer;
  }

  /**
   * Give up a refused message.
   *
   * @param {string} clientId
   */
  async discard(clientId) {
    if (!this.#refused.delete(clientId)) return;
    await this.#write(() => this.#storage.delete(this.#unsentKey(clientId)));
    this.#emit("unsent", { client_id: clientId, state: "discarded" });
  }

  /**
   * Replace the body of my own message.
   *
   * @param {string} conversation
   * @param {number} seq
   * @param {string} body
   * @returns {Promise<Ack>}
   */
  edit(conversation, seq, body) {
    return this.#ask({ type: "edit", conversation, seq, body }, conversation);
  }

  /**
   * Delete a message for everyone.
   *
   * @param {string} conversation
   * @param {number} seq
   * @returns {Promise<Ack>}
   */
  delete(conversation, seq) {
    return this.#ask({ type: "delete", conversation, seq }, conversation);
  }

  /**
   * Put on a reaction, or take it off.
   *
   * @param {string} conversation
   * @param {number} seq
   * @param {string} emoji
   * @param {boolean} [on]
   * @returns {Promise<Ack>}
   */
  react(conversation, seq, emoji, on = true) {
    return this.#ask({ type: "react", conversation, seq, emoji, on }, conversation);
  }

  /**
   * I have read everything up to `seq`; told now, or as soon as there is a connection.
   *
   * @param {string} conversation
   * @param {number} seq
   */
  markRead(conversation, seq) {
    this.#mark(conversation, seq, seq);
    this.#countUnread(this.#conversation(conversation));
  }

  /**
   * Everything up to `seq` has come to this device.
   *
   * @param {string} conversation
   * @param {number} seq
   */
  markDelivered(conversation, seq) {
    this.#mark(conversation, 0, seq);
  }

  /**
   * I am typing, or stopped. Nothing happens without a connection.
   *
   * @param {string} conversation
   * @param {boolean} [on]
   */
  typing(conversation, on = true) {
    if (this.status === "live") this.#transmit({ type: "typing", conversation, on });
  }

  /**
   * A page of messages in rising seq, at most 200; the newest without `before` and `after`. They are held as well.
   * `more`: whether the history goes on in the direction that was asked for.
   *
   * @param {string} conversation
   * @param {{before?: number, after?: number, limit?: number}} [page]
   * @returns {Promise<{messages: Message[], more: boolean, previous: boolean, next: boolean}>}
   */
  async history(conversation, { before, after, limit = 50 } = {}) {
    const page = await this.request("GET", `/v1/conversations/${conversation}/messages`, {
      query: { before, after, limit },
    });
    const held = this.#conversation(conversation);
    for (const message of page.results) held.keep(message);
    return {
      // What the stream told since may be newer than the page.
      messages: page.results.map((/** @type {Message} */ message) => held.messages.get(message.seq) ?? message),
      more: Boolean(after === undefined ? page.previous : page.next),
      previous: Boolean(page.previous),
      next: Boolean(page.next),
    };
  }

  /**
   * All of a conversation's history, newest page first.
   *
   * @param {string} conversation
   * @param {{limit?: number}} [options]
   * @returns {AsyncGenerator<Message[], void, void>}
   */
  async *backlog(conversation, { limit = 200 } = {}) {
    /** @type {number | undefined} */
    let before;
    while (true) {
      const { messages, more } = await this.history(conversation, { before, limit });
      if (messages.length) yield messages;
      if (!more || !messages[0]) return;
      before = messages[0].seq;
    }
  }

  /**
   * Who has read a message, as far as they let others know.
   *
   * @param {string} conversation
   * @param {number} seq
   * @returns {Promise<Array<{username: string}>>}
   */
  readers(conversation, seq) {
    return this.#all(`/v1/conversations/${conversation}/messages/${seq}/readers`);
  }

  // --- people and conversations ------------------------------------------------------------------------------

  /**
   * My conversations by latest activity, all pages of them; they are held as well, with their unread counts.
   *
   * @returns {Promise<Conversation[]>}
   */
  async loadConversations() {
    return (await this.#all("/v1/conversations")).map((info) => this.#takeMine(info));
  }

  /**
   * One conversation with what is mine in it.
   *
   * @param {string} id
   * @returns {Promise<Conversation>}
   */
  async loadConversation(id) {
    return this.#takeMine(await this.request("GET", `/v1/conversations/${id}`));
  }

  /**
   * The direct conversation with somebody, made if need be.
   *
   * @param {string} username
   * @returns {Promise<Conversation>}
   */
  async openDirect(username) {
    return this.#takeMine(await this.request("POST", "/v1/conversations", { json: { kind: "direct", username } }));
  }

  /**
   * @param {{title: string, members: string[], description?: string, history?: string}} group
   * @returns {Promise<Conversation>}
   */
  async createGroup(group) {
    return this.#takeMine(await this.request("POST", "/v1/conversations", { json: { kind: "group", ...group } }));
  }

  /**
   * Mute a conversation until a time; null: no longer.
   *
   * @param {string} id
   * @param {string | null} until
   * @returns {Promise<void>}
   */
  mute(id, until) {
    return this.request("PUT", `/v1/conversations/${id}/mute`, { json: { until } });
  }

  /**
   * Rename or describe a group.
   *
   * @param {string} id
   * @param {{title?: string, description?: string, history?: string}} changes
   * @returns {Promise<Conversation>}
   */
  async changeConversation(id, changes) {
    return this.#takeMine(await this.request("PATCH", `/v1/conversations/${id}`, { json: changes }));
  }

  /**
   * Dissolve a group.
   *
   * @param {string} id
   * @returns {Promise<void>}
   */
  dissolve(id) {
    return this.request("DELETE", `/v1/conversations/${id}`);
  }

  /**
   * @param {string} id
   * @returns {Promise<Member[]>}
   */
  members(id) {
    return this.#all(`/v1/conversations/${id}/members`);
  }

  /**
   * @param {string} id
   * @param {string[]} usernames
   * @returns {Promise<any>}
   */
  addMembers(id, usernames) {
    return this.request("POST", `/v1/conversations/${id}/members`, { json: { usernames } });
  }

  /**
   * Remove a member, or leave.
   *
   * @param {string} id
   * @param {string} username
   * @returns {Promise<void>}
   */
  removeMember(id, username) {
    return this.request("DELETE", `/v1/conversations/${id}/members/${encodeURIComponent(username)}`);
  }

  /**
   * @param {string} id
   * @param {string} username
   * @param {string} role `owner`, `admin` or `member`.
   * @returns {Promise<any>}
   */
  setRole(id, username, role) {
    return this.request("PATCH", `/v1/conversations/${id}/members/${encodeURIComponent(username)}`, { json: { role } });
  }

  /** @returns {Promise<Contact[]>} */
  contacts() {
    return this.#all("/v1/contacts");
  }

  /**
   * @param {string} username
   * @returns {Promise<Contact>}
   */
  addContact(username) {
    return this.request("POST", "/v1/contacts", { json: { username } });
  }

  /**
   * @param {string} username
   * @returns {Promise<void>}
   */
  removeContact(username) {
    return this.request("DELETE", `/v1/contacts/${encodeURIComponent(username)}`);
  }

  /**
   * Those who added me and wait for me to add them.
   *
   * @returns {Promise<User[]>}
   */
  contactRequests() {
    return this.#all("/v1/contact-requests");
  }

  /** @returns {Promise<Array<{username: string, display_name: string, blocked_at: string}>>} */
  blocks() {
    return this.#all("/v1/blocks");
  }

  /**
   * @param {string} username
   * @returns {Promise<void>}
   */
  block(username) {
    return this.request("PUT", `/v1/blocks/${encodeURIComponent(username)}`);
  }

  /**
   * @param {string} username
   * @returns {Promise<void>}
   */
  unblock(username) {
    return this.request("DELETE", `/v1/blocks/${encodeURIComponent(username)}`);
  }

  /**
   * People by the beginning of their username; the first page.
   *
   * @param {string} search
   * @returns {Promise<User[]>}
   */
  async findUsers(search) {
    return (await this.request("GET", "/v1/users", { query: { search } })).results;
  }

  /** @returns {Promise<Device[]>} */
  devices() {
    return this.#all("/v1/auth/sessions");
  }

  /**
   * Sign a device out.
   *
   * @param {string} id
   * @returns {Promise<void>}
   */
  revoke(id) {
    return this.request("DELETE", `/v1/auth/sessions/${id}`);
  }

  /**
   * @param {{current_password: string, new_password: string}} passwords
   * @returns {Promise<void>}
   */
  changePassword(passwords) {
    return this.request("POST", "/v1/auth/password", { json: passwords });
  }

  /**
   * @param {{display_name?: string, email?: string, read_receipts?: boolean}} changes
   * @returns {Promise<User>}
   */
  async changeProfile(changes) {
    const user = await this.request("PATCH", "/v1/me", { json: changes });
    await this.#exclusively(async () => {
      await this.#adoptSession();
      if (!this.#session) return;
      this.#session = { ...this.#session, user };
      await this.#storeSession();
    });
    return user;
  }

  /**
   * Full text search over my conversations; the first page, or the one that `cursor` (a `next`) leads to.
   *
   * @param {string} q
   * @param {{conversation?: string, cursor?: string}} [where]
   * @returns {Promise<{results: Hit[], next: string | null}>}
   */
  search(q, { conversation, cursor } = {}) {
    return cursor ? this.request("GET", cursor) : this.request("GET", "/v1/search", { query: { q, conversation } });
  }

  /**
   * Addresses of files, at most 100 at a time; those that I may not fetch are left out.
   *
   * @param {string[]} ids
   * @returns {Promise<AttachmentLinks[]>}
   */
  async attachments(ids) {
    const query = ids.map((id) => `id=${encodeURIComponent(id)}`).join("&");
    return (await this.request("GET", `/v1/attachments?${query}`)).results;
  }

  /**
   * Upload a file as `multipart/form-data`; answers what the server says of it. Progress is known byte by byte in
   * browsers, at the end elsewhere. Then name its `id` in `attachments` of a send.
   *
   * @param {Blob} file
   * @param {{path?: string, name?: string, fields?: Record<string, string>, onProgress?: (sent: number, total: number) => void, signal?: AbortSignal}} [options]
   * @returns {Promise<any>}
   */
  async upload(file, { path = "/v1/attachments", name, fields = {}, onProgress, signal } = {}) {
    const form = new FormData();
    for (const [key, value] of Object.entries(fields)) form.set(key, value);
    form.set("file", file, name ?? (typeof File !== "undefined" && file instanceof File ? file.name : "file"));
    if (typeof XMLHttpRequest === "undefined") {
      const answer = await this.request("POST", path, { body: form, signal, timeout: 0 });
      onProgress?.(file.size, file.size);
      return answer;
    }
    const token = await this.#token();
    return new Promise((resolve, reject) => {
      const call = new XMLHttpRequest();
      call.open("POST", this.#urls[this.#at] + path);
      call.setRequestHeader("Authorization", `Bearer ${token}`);
      call.upload.onprogress = (event) => onProgress?.(event.loaded, event.total);
      call.onload = () => {
        const body = parsed(call.responseText);
        if (call.status < 300) resolve(body);
        else reject(refusal(call.status, call.statusText, body, call.getResponseHeader("Retry-After")));
      };
      call.onerror = () => reject(new Unreachable(null));
      call.onabort = () => reject(signal?.reason ?? new Closed());
      if (signal?.aborted) return reject(signal.reason);
      signal?.addEventListener("abort", () => call.abort());
      call.send(form);
    });
  }

  // --- HTTP --------------------------------------------------------------------------------------------------

  /**
   * One call with a good access token; answers the JSON of the answer, null when it has none. Rejects with
   * `Refused`, `Unreachable` or `SignedOut`.
   *
   * @param {string} method
   * @param {string} path Below the server's address, or an address that a list's `next` gave.
   * @param {{json?: any, body?: BodyInit, query?: Record<string, string | number | undefined>, signed?: boolean, signal?: AbortSignal, timeout?: number}} [options]
   * @returns {Promise<any>}
   */
  async request(method, path, options = {}) {
    if (options.signed === false) return this.#call(method, path, options, null);
    const token = await this.#token();
    try {
      return await this.#call(method, path, options, token);
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 401) throw error;
      // Too old by the server's clock, or ended.
      return this.#call(method, path, options, await this.#token(token));
    }
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {{json?: any, body?: BodyInit, query?: Record<string, string | number | undefined>, signal?: AbortSignal, timeout?: number}} options
   * @param {string | null} token
   */
  async #call(method, path, { json, body, query, signal, timeout = HTTP_TIMEOUT }, token) {
    const server = this.#urls[this.#at] ?? "";
    const url = new URL(path, `${server}/`);
    // A list's `next` is an address of the same server, whatever name a proxy made it call itself.
    const address = new URL(url.pathname + url.search, `${server}/`);
    for (const [name, value] of Object.entries(query ?? {})) {
      if (value !== undefined) address.searchParams.set(name, String(value));
    }
    /** @type {Record<string, string>} */
    const headers = { Accept: "application/json" };
    if (token) headers["Authorization"] = `Bearer ${token}`;
    if (json !== undefined) headers["Content-Type"] = "application/json";
    const signals = [signal, timeout ? AbortSignal.timeout(timeout) : undefined].filter((one) => one !== undefined);
    /** @type {Response} */
    let answer;
    let text;
    try {
      answer = await this.#options.fetch(address, {
        method,
        headers,
        body: json === undefined ? body : JSON.stringify(json),
        credentials: "omit",
        cache: "no-store",
        signal: signals.length ? AbortSignal.any(signals) : undefined,
      });
      text = await answer.text();
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Unreachable(error);
    }
    if (answer.ok) return text ? JSON.parse(text) : null;
    throw refusal(answer.status, answer.statusText, parsed(text), answer.headers.get("Retry-After"));
  }

  /**
   * Every page of a list.
   *
   * @param {string} path
   * @returns {Promise<any[]>}
   */
  async #all(path) {
    const found = [];
    /** @type {string | null} */
    let at = path;
    while (at) {
      const page = await this.request("GET", at);
      found.push(...page.results);
      at = page.next;
    }
    return found;
  }

  /**
   * A good access token, other than `spent`.
   *
   * @param {string} [spent]
   * @returns {Promise<string>}
   */
  async #token(spent) {
    const isGood = () => this.#session && this.#session.access_token !== spent && Date.now() < this.#session.access_until;
    if (!this.#session) throw new SignedOut();
    if (isGood()) return this.#session.access_token;
    // A refresh token used twice ends its session, so there is one use at a time: in this client, and, where the
    // platform has locks, among all tabs that share the storage.
    await this.#exclusively(async () => {
      await this.#adoptSession();
      const session = this.#session;
      if (!session) throw new SignedOut();
      if (isGood()) return;
      try {
        const { refresh_token } = session;
        const answer = await this.request("POST", "/v1/auth/token", { json: { refresh_token }, signed: false });
        if (this.#session !== session) return;
        this.#useSession(answer, session.user);
        await this.#storeSession();
      } catch (error) {
        if (!(error instanceof Refused) || error.status !== 401) throw error;
        if (this.#session === session) await this.#dropSession();
        throw new SignedOut("The session has ended.");
      }
    });
    if (!this.#session) throw new SignedOut();
    return this.#session.access_token;
  }

  /** @param {() => Promise<void>} work */
  async #exclusively(work) {
    const name = `chatbe-session-${this.#storage.name ?? "storage"}`;
    const locks = globalThis.navigator?.locks;
    if (locks) return locks.request(name, work);
    const before = this.#refreshing.get(name) ?? Promise.resolve();
    const mine = before.catch(() => undefined).then(work);
    this.#refreshing.set(name, mine);
    return mine;
  }

  /** Take the tokens that another tab may have renewed: ours are spent then. */
  async #adoptSession() {
    const kept = await this.#storage.get("session");
    if (kept && kept.session_id === this.#session?.session_id) this.#session = kept;
  }

  /** Write this session to the storage, unless another tab has begun another one there. */
  async #storeSession() {
    const session = this.#session;
    await this.#write(async () => {
      const kept = await this.#storage.get("session");
      if (session && (!kept || kept.session_id === session.session_id)) await this.#storage.set("session", session);
    });
  }

  /**
   * @param {Record<string, any>} tokens
   * @param {User} user
   */
  #useSession(tokens, user) {
    this.#session = {
      user,
      session_id: tokens["session_id"] ?? this.#session?.session_id,
      access_token: tokens["access_token"],
      access_until: Date.now() + lifetime(tokens["access_token"], tokens["access_token_expires_at"]) - SPARE,
      refresh_token: tokens["refresh_token"],
    };
  }

  async #dropSession() {
    const id = this.#session?.session_id;
    this.#forget();
    this.#session = null;
    this.#otp = null;
    await this.#write(async () => {
      // Another tab may have signed in meanwhile.
      if ((await this.#storage.get("session"))?.session_id === id) await this.#storage.delete("session");
    });
  }

  /** Forget what is held of an account; its unsent messages stay in the storage. */
  #forget() {
    for (const pending of this.#pending.values()) pending.reject(new SignedOut());
    this.#pending.clear();
    this.#refused.clear();
    this.#marks.clear();
    this.conversations.clear();
    this.friends.clear();
    this.#epoch = null;
  }

  /** A one-time password for the next socket. */
  async #ticket() {
    const kept = this.#otp;
    this.#otp = null;
    if (kept && Date.now() < kept.until) return kept.otp;
    return /** @type {string} */ ((await this.request("POST", "/v1/auth/otp")).otp);
  }

  // --- what is kept ------------------------------------------------------------------------------------------

  /** @param {string} clientId */
  #unsentKey(clientId) {
    return `unsent/${this.username}/${clientId}`;
  }

  /** Take up what the last run left: unsent messages and, if they are kept, cursors. */
  async #restore() {
    const entries = await this.#storage.entries(`unsent/${this.username}/`);
    /** @type {Unsent[]} */
    const unsent = entries.map(([, value]) => value).sort((one, other) => one.order - other.order);
    for (const one of unsent) {
      this.#order = Math.max(this.#order, one.order);
      if (one.refused) this.#refused.set(one.client_id, one);
      else if (!this.#pendingOf(one.client_id)) this.#enqueue(one, true).catch(() => undefined);
    }
    if (!this.#options.keepCursors) return;
    const kept = await this.#storage.get(`cursors/${this.username}`);
    if (!kept) return;
    this.#epoch = kept.epoch;
    for (const [id, rev] of Object.entries(kept.reached)) {
      const conversation = this.#conversation(id);
      conversation.reached = Math.max(conversation.reached, Number(rev));
    }
  }

  async #saveCursors() {
    this.#savingCursors = null;
    if (!this.#session || !this.#epoch) return;
    const reached = Object.fromEntries([...this.conversations.values()].map(({ id, reached: rev }) => [id, rev]));
    await this.#write(() => this.#storage.set(`cursors/${this.username}`, { epoch: this.#epoch, reached }));
  }

  #cursorsMoved() {
    if (this.#options.keepCursors) this.#savingCursors ??= setTimeout(() => this.#saveCursors(), 200);
  }

  /**
   * Write to the storage, one after another; a storage that fails is told of, and the client goes on without it.
   *
   * @param {() => Promise<void>} work
   * @returns {Promise<void>}
   */
  #write(work) {
    this.#writes = this.#writes.then(work).catch((error) => this.#emit("failure", { error }));
    return this.#writes;
  }

  // --- frames out --------------------------------------------------------------------------------------------

  /**
   * @param {Unsent} unsent
   * @param {boolean} stored
   * @returns {Promise<Ack>}
   */
  #enqueue(unsent, stored) {
    const { to, client_id, body, reply_to, attachments } = unsent;
    /** @type {Record<string, any>} */
    const frame = { type: "send", to, client_id, body };
    if (reply_to !== null) frame["reply_to"] = reply_to;
    if (attachments) frame["attachments"] = attachments;
    return this.#ask(frame, "username" in to ? `@${to.username}` : to.conversation, unsent, stored);
  }

  /**
   * Send a frame that is acked, again and again until it is.
   *
   * @param {Record<string, any>} frame
   * @param {string} key
   * @param {Unsent | null} [unsent]
   * @param {boolean} [stored]
   * @returns {Promise<Ack>}
   */
  #ask(frame, key, unsent = null, stored = true) {
    const ref = String(++this.#refs);
    return new Promise((resolve, reject) => {
      this.#pending.set(ref, {
        frame: { ...frame, ref }, key, unsent, stored, written: false, later: false, resolve, reject,
      });
      this.#flush();
    });
  }

  /** @param {string} clientId */
  #pendingOf(clientId) {
    for (const pending of this.#pending.values()) if (pending.unsent?.client_id === clientId) return pending;
    return undefined;
  }

  /** Write what waits, in its order, as far as the window allows. */
  #flush() {
    if (!this.#streaming) return;
    let written = 0;
    /** @type {Set<string>} Targets behind one that waits: nothing overtakes it. */
    const held = new Set();
    for (const pending of this.#pending.values()) {
      if (pending.written) {
        written += 1;
      } else if (pending.later || !pending.stored || held.has(pending.key) || written >= WINDOW) {
        held.add(pending.key);
      } else if (this.#transmit(pending.frame)) {
        pending.written = true;
        written += 1;
      }
    }
  }

  /**
   * @param {Record<string, any>} frame
   * @returns {boolean} Whether there was a socket to take it.
   */
  #transmit(frame) {
    if (this.#socket?.readyState !== 1) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  /**
   * @param {string} conversation
   * @param {number} read
   * @param {number} delivered
   */
  #mark(conversation, read, delivered) {
    const held = this.#conversation(conversation);
    const mine = held.marks.get(this.username) ?? { read: 0, delivered: 0 };
    if (mine.read >= read && mine.delivered >= delivered) return;
    held.moveMarks(this.username, read, delivered);
    const wanted = this.#marks.get(conversation) ?? { read: 0, delivered: 0 };
    wanted.read = Math.max(wanted.read, read);
    wanted.delivered = Math.max(wanted.delivered, delivered, read);
    this.#marks.set(conversation, wanted);
    if (this.status === "live") this.#writeMark(conversation, wanted);
  }

  /**
   * @param {string} conversation
   * @param {Marks} marks
   */
  #writeMark(conversation, { read, delivered }) {
    if (read) this.#transmit({ type: "read", conversation, seq: read, ref: MARK });
    if (delivered > read) this.#transmit({ type: "delivered", conversation, seq: delivered, ref: MARK });
  }

  /** @param {number | undefined} delay Seconds. */
  #tryAgainAfter(delay) {
    if (this.#retry) return;
    this.#retry = setTimeout(
      () => {
        this.#retry = null;
        for (const pending of this.#pending.values()) pending.later = false;
        this.#flush();
        if (this.status === "live") for (const [id, marks] of this.#marks) this.#writeMark(id, marks);
      },
      (delay ?? 1) * 1000 * (1 + Math.random() / 2),
    );
  }

  /** Ask for a sign of life; hang up when none comes. */
  #probe() {
    const socket = this.#socket;
    if (socket?.readyState !== 1) return;
    this.#heard = false;
    this.#transmit({ type: "heartbeat" });
    setTimeout(() => {
      if (this.#socket === socket && !this.#heard) this.#hangUp?.();
    }, 6_000);
  }

  #heard = true;
  /** @type {(() => void) | null} */ #hangUp = null;

  // --- the socket --------------------------------------------------------------------------------------------

  /**
   * Come back until there is nothing to come back to.
   *
   * @param {AbortSignal} signal
   */
  async #run(signal) {
    let refusedOtps = 0;
    while (!signal.aborted) {
      this.#setStatus("connecting");
      let code = 1006;
      /** @type {number | null} */
      let delay = null;
      try {
        const otp = await this.#ticket();
        if (signal.aborted) return;
        ({ code, delay } = await this.#oneSocket(otp, signal));
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Refused && PASSING.has(error.status)) delay = error.retryAfter;
        else if (!(error instanceof Unreachable)) throw error;
      }
      if (signal.aborted) return;
      if (ENDED.has(code)) {
        await this.#dropSession();
        throw new SignedOut(code === 4003 ? "The account is suspended." : "The session has ended.");
      }
      if (OUR_FAULT.has(code)) throw new ChatError("invalid", `The server did not understand this client (${code}).`);
      refusedOtps = code === NOT_SIGNED_IN ? refusedOtps + 1 : 0;
      if (refusedOtps > 1) throw new ChatError("not_authenticated", "The server takes no one-time password.");
      if (refusedOtps) continue;
      this.#at = (this.#at + 1) % this.#urls.length;
      if (delay === null) {
        const bound = Math.min(this.#options.longestBackoff, this.#options.firstBackoff * 2 ** Math.min(this.#failures, 30));
        delay = bound * (0.1 + 0.9 * Math.random());
      }
      this.#failures += 1;
      await this.#sleep(delay * 1000, signal);
    }
  }

  /**
   * @param {number} milliseconds
   * @param {AbortSignal} signal
   */
  async #sleep(milliseconds, signal) {
    this.#setStatus("offline", Date.now() + milliseconds);
    const over = new AbortController();
    await new Promise((resolve) => {
      const timer = setTimeout(() => resolve(undefined), milliseconds);
      this.#wake = () => (clearTimeout(timer), resolve(undefined));
      signal.addEventListener("abort", this.#wake, { signal: over.signal });
    });
    over.abort();
    this.#wake = null;
  }

  /**
   * Serve one socket until it is gone: its close code, and in how many seconds to come back if the server said.
   *
   * @param {string} otp
   * @param {AbortSignal} signal
   * @returns {Promise<{code: number, delay: number | null}>}
   */
  #oneSocket(otp, signal) {
    const address = `${(this.#urls[this.#at] ?? "").replace(/^http/, "ws")}/v1/ws`;
    return new Promise((resolve) => {
      const socket = new this.#options.WebSocket(address, ["chatbe.v1", `otp.${otp}`]);
      /** @type {number | null} */
      let delay = null;
      let spoke = Date.now();
      let heard = Date.now();
      let isOver = false;
      const over = new AbortController();
      const finish = (/** @type {number} */ code) => {
        if (isOver) return;
        isOver = true;
        over.abort();
        clearTimeout(opening);
        clearInterval(beating);
        if (this.#socket === socket) this.#socket = null;
        this.#streaming = false;
        this.#hangUp = null;
        for (const pending of this.#pending.values()) pending.written = false;
        resolve({ code, delay });
      };
      // A browser's close waits for the other side's, for minutes where the network is gone.
      const hangUp = () => (socket.close(), finish(1006));
      const opening = setTimeout(hangUp, OPEN_TIMEOUT);
      const beating = setInterval(() => {
        const now = Date.now();
        const interval = this.#heartbeatInterval * 1000;
        if (now - heard > interval * 2.5) hangUp();
        else if (socket.readyState === 1 && (now - spoke >= interval || now - heard >= interval)) {
          spoke = now;
          this.#transmit({ type: "heartbeat" });
        }
      }, 5_000);
      this.#socket = socket;
      this.#hangUp = hangUp;
      signal.addEventListener("abort", () => (socket.close(1000), finish(1000)), { signal: over.signal });
      socket.onmessage = ({ data }) => {
        if (isOver) return;
        this.#heard = true;
        heard = Date.now();
        const frame = JSON.parse(data);
        if (frame.type === "welcome") {
          clearTimeout(opening);
          this.#onWelcome(frame);
        } else if (frame.type === "bye") {
          delay = frame.reconnect_after;
          if (frame.otp) this.#otp = { otp: frame.otp, until: Date.now() + OTP_LIFETIME };
        } else {
          this.#onFrame(frame);
        }
      };
      socket.onclose = ({ code }) => finish(code);
      // Node.js 20 tells of a handshake that failed by this alone; everywhere else a close follows, and says no more.
      socket.onerror = () => socket.readyState !== 1 && finish(1006);
    });
  }

  /** @param {unknown} error */
  #end(error) {
    this.#running?.abort();
    this.#running = null;
    this.#setStatus(error instanceof SignedOut ? "signed-out" : "offline");
    this.#emit("ended", { error: error instanceof Error ? error : new Error(String(error)) });
  }

  /**
   * @param {Status} status
   * @param {number | null} [retryAt]
   */
  #setStatus(status, retryAt = null) {
    if (this.status === status && this.retryAt === retryAt) return;
    this.status = status;
    this.retryAt = retryAt;
    this.#emit("status", { status, retryAt });
  }

  // --- frames in ---------------------------------------------------------------------------------------------

  /** @param {Record<string, any>} frame */
  #onWelcome(frame) {
    this.#heartbeatInterval = frame["heartbeat_interval"];
    this.limits = frame["limits"] ?? {};
    if (this.#epoch !== null && this.#epoch !== frame["epoch"]) {
      this.conversations.clear();
      this.#marks.clear();
      this.#emit("reset", { conversation: null });
    }
    this.#epoch = frame["epoch"];
    const known = [...this.conversations.values()].filter(({ reached }) => reached > 0);
    this.#setStatus("syncing");
    this.#transmit({
      type: "sync",
      ref: "sync",
      conversations: Object.fromEntries(known.map(({ id, reached }) => [id, reached])),
      others: this.#options.others,
    });
    this.#streaming = true;
    for (const pending of this.#pending.values()) {
      pending.later = false;
      pending.written = false;
    }
    this.#flush();
  }

  /** @param {Record<string, any>} frame */
  #onFrame(frame) {
    switch (frame["type"]) {
      case "message": return this.#onMessage(frame["message"]);
      case "ack": return this.#onAck(/** @type {Ack & {ref: string | null}} */ (frame));
      case "error": return this.#onError(frame);
      case "conversation": return this.#onConversation(frame);
      case "marks": return this.#onMarks(frame["marks"]);
      case "receipt": return this.#onReceipt(frame);
      case "typing": return this.#onTyping(frame["conversation"], frame["username"], frame["on"]);
      case "friends": return this.#onFriends(frame);
      case "presence": return this.#onPresence(frame);
      case "muted":
        this.#conversation(frame["conversation"]).mutedUntil = frame["until"];
        return this.#emit("muted", { conversation: frame["conversation"], until: frame["until"] });
      case "contact":
        return this.#emit("contact", { username: frame["username"], added: frame["added"], mutual: frame["mutual"] });
      case "synced":
        this.#failures = 0;
        this.#setStatus("live");
        for (const [id, marks] of this.#marks) this.#writeMark(id, marks);
        return undefined;
      default:
        // What it does not know, a client ignores.
        return undefined;
    }
  }

  /** @param {Message} message */
  #onMessage(message) {
    const conversation = this.#conversation(message.conversation);
    conversation.reached = Math.max(conversation.reached, message.rev);
    this.#cursorsMoved();
    this.#take(conversation, message);
    const pending = message.sender === this.username && message.client_id ? this.#pendingOf(message.client_id) : null;
    if (pending) {
      // Another tab or an earlier socket has sent it; the ack to this one's repeat will find nobody waiting.
      const { conversation: id, seq, rev, created_at, client_id } = message;
      this.#settle(pending, { conversation: id, seq, rev, id: message.id, client_id, created_at, duplicate: true });
    }
  }

  /**
   * Hold a message of the stream, and tell.
   *
   * @param {Conversation} conversation
   * @param {Message} message
   */
  #take(conversation, message) {
    const previous = conversation.messages.get(message.seq);
    const isBeyond = message.seq > conversation.lastSeq;
    if (!conversation.keep(message)) return;
    conversation.letGo(this.#options.held);
    const isMine = message.sender === this.username;
    if (message.sender !== null && message.kind === "text") {
      // Sending moves the sender's own marks.
      conversation.moveMarks(message.sender, message.seq, message.seq);
      this.#onTyping(conversation.id, message.sender, false);
    }
    if (isBeyond && !isMine && message.kind === "text" && message.deleted_at === null) {
      conversation.unread += 1;
      if (message.mentions?.some((name) => name === this.username || name === "all")) conversation.unreadMentions += 1;
    } else if (isMine || (!previous?.deleted_at && message.deleted_at)) {
      this.#countUnread(conversation);
    }
    this.#emit("message", { message, isNew: !previous, previous, live: this.status === "live" });
  }

  /** @param {Ack & {ref: string | null}} frame */
  #onAck({ ref, ...ack }) {
    const pending = ref === null ? undefined : this.#pending.get(ref);
    const conversation = this.#conversation(ack.conversation);
    if (!ack.duplicate) {
      conversation.reached = Math.max(conversation.reached, ack.rev);
      this.#cursorsMoved();
    }
    if (!pending) return;
    const { unsent } = pending;
    if (unsent && !ack.duplicate && !unsent.attachments) {
      this.#take(conversation, {
        id: ack.id,
        conversation: ack.conversation,
        seq: ack.seq,
        rev: ack.rev,
        kind: "text",
        sender: this.username,
        body: unsent.body,
        client_id: unsent.client_id,
        reply_to: unsent.reply_to,
        reactions: {},
        created_at: ack.created_at,
        edited_at: null,
        deleted_at: null,
        ..."mentions" in ack ? { mentions: /** @type {string[]} */ (ack.mentions) } : {},
      });
    } else if (unsent && !conversation.messages.has(ack.seq)) {
      // It was stored before this stream began (or has more to it than was sent): read it as it is now.
      this.#read(ack.conversation, ack.seq);
    }
    this.#settle(pending, ack);
  }

  /**
   * Read a message of my own that is stored, and tell of it; again after a while where that fails, since no stream
   * will bring it.
   *
   * @param {string} conversation
   * @param {number} seq
   * @param {number} [failures]
   */
  async #read(conversation, seq, failures = 0) {
    const session = this.#session?.session_id;
    try {
      const { messages: [message] } = await this.history(conversation, { after: seq - 1, limit: 1 });
      if (message) this.#emit("message", { message, isNew: true, previous: undefined, live: this.status === "live" });
    } catch (error) {
      const passes = error instanceof Unreachable || (error instanceof Refused && PASSING.has(error.status) && error.status !== 404);
      if (!passes || !this.#running || failures > 9) {
        this.#emit("failure", { error });
        return;
      }
      const { firstBackoff, longestBackoff } = this.#options;
      await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(longestBackoff, firstBackoff * 2 ** failures)));
      if (this.#session?.session_id === session) await this.#read(conversation, seq, failures + 1);
    }
  }

  /**
   * @param {Pending} pending
   * @param {Ack} ack
   */
  #settle(pending, ack) {
    this.#pending.delete(pending.frame["ref"]);
    if (pending.unsent) {
      const { client_id } = pending.unsent;
      this.#write(() => this.#storage.delete(this.#unsentKey(client_id)));
      this.#emit("unsent", { client_id, state: "sent" });
    }
    pending.resolve(ack);
    this.#flush();
  }

  /** @param {Record<string, any>} frame */
  #onError(frame) {
    const { ref, code, detail, retry_after } = frame;
    const pending = this.#pending.get(ref ?? "");
    if (TRY_AGAIN.has(code) && (pending || ref === MARK)) {
      if (pending) {
        pending.later = true;
        pending.written = false;
      }
      this.#tryAgainAfter(retry_after);
      return;
    }
    if (!pending) {
      if (ref === MARK) this.#marks.clear();
      else this.#emit("refusal", { code, detail });
      return;
    }
    this.#pending.delete(ref);
    const { unsent } = pending;
    if (unsent) {
      const key = this.#unsentKey(unsent.client_id);
      if (this.#options.keepRefused) {
        unsent.refused = { code, detail };
        this.#refused.set(unsent.client_id, unsent);
        this.#write(() => this.#storage.set(key, unsent));
      } else {
        this.#write(() => this.#storage.delete(key));
      }
      this.#emit("unsent", { client_id: unsent.client_id, state: "refused" });
    }
    pending.reject(new Refused(code, detail, { retryAfter: retry_after ?? null }));
    this.#flush();
  }

  /** @param {Record<string, any>} frame */
  #onConversation(frame) {
    /** @type {ConversationInfo} */
    const info = frame["conversation"];
    if (frame["member"] === false) {
      this.conversations.delete(info.id);
      this.#marks.delete(info.id);
      this.#cursorsMoved();
      this.#emit("conversation", { id: info.id, conversation: null });
      return;
    }
    const conversation = this.#conversation(info.id);
    if (frame["reset"]) {
      conversation.messages.clear();
      conversation.marks.clear();
      conversation.lastMessage = null;
      conversation.reached = info.rev;
      conversation.lastSeq = info.last_seq;
      conversation.info = null;
    }
    conversation.reached = Math.max(conversation.reached, info.rev);
    this.#cursorsMoved();
    this.#takeInfo(conversation, info);
    if (frame["reset"]) this.#emit("reset", { conversation: info.id });
    this.#emit("conversation", { id: info.id, conversation });
  }

  /** @param {Record<string, Record<string, [number, number]>>} marks */
  #onMarks(marks) {
    for (const [id, members] of Object.entries(marks)) {
      const conversation = this.#conversation(id);
      for (const [username, [read, delivered]] of Object.entries(members)) {
        if (conversation.moveMarks(username, read, delivered)) {
          this.#emit("receipt", { conversation: id, username, ...this.#marksOf(conversation, username) });
        }
      }
      const wanted = this.#marks.get(id);
      const [read, delivered] = members[this.username] ?? [0, 0];
      if (wanted && wanted.read <= read && wanted.delivered <= delivered) this.#marks.delete(id);
      this.#countUnread(conversation);
    }
  }

  /** @param {Record<string, any>} frame */
  #onReceipt({ conversation: id, username, read, delivered }) {
    const conversation = this.#conversation(id);
    conversation.moveMarks(username, read, delivered);
    if (username === this.username) this.#countUnread(conversation);
    this.#emit("receipt", { conversation: id, username, ...this.#marksOf(conversation, username) });
  }

  /**
   * @param {Conversation} conversation
   * @param {string} username
   * @returns {Marks}
   */
  #marksOf(conversation, username) {
    return conversation.marks.get(username) ?? { read: 0, delivered: 0 };
  }

  /**
   * @param {string} id
   * @param {string} username
   * @param {boolean} on
   */
  #onTyping(id, username, on) {
    // It may be told of before its conversation is. It may also have been left, or forgotten, while its timer ran.
    const { typing } = (on ? this.#conversation(id) : this.conversations.get(id)) ?? {};
    if (!typing) return;
    const before = typing.get(username);
    clearTimeout(before);
    typing.delete(username);
    // It ends by itself, also where the news of its end was lost.
    if (on) typing.set(username, setTimeout(() => this.#onTyping(id, username, false), TYPING_LIFETIME));
    if (on !== (before !== undefined)) this.#emit("typing", { conversation: id, username, on });
  }

  /** @param {Record<string, any>} frame */
  #onFriends({ total, online, friends }) {
    this.friends = new Map(
      friends.map((/** @type {any} */ friend) => [friend.username, { online: friend.online, last_seen: friend.last_seen }]),
    );
    this.#emit("friends", { total, online });
  }

  /** @param {Record<string, any>} frame */
  #onPresence({ username, online, last_seen }) {
    if (online === null) this.friends.delete(username);
    else this.friends.set(username, { online, last_seen });
    this.#emit("presence", { username, online, last_seen });
  }

  // --- state -------------------------------------------------------------------------------------------------

  /** @param {string} id */
  #conversation(id) {
    let found = this.conversations.get(id);
    if (!found) this.conversations.set(id, (found = new Conversation(id)));
    return found;
  }

  /**
   * @param {Conversation} conversation
   * @param {ConversationInfo} info
   */
  #takeInfo(conversation, info) {
    if (!conversation.info || info.rev >= conversation.info.rev) {
      // Events have only what all members see; what is mine stays, but for my role, which stands among the members.
      const role = info.members.find(({ username }) => username === this.username)?.role;
      conversation.info = { ...conversation.info, ...(role && conversation.info?.role ? { role } : {}), ...info };
    }
    if (conversation.lastSeq < info.last_seq) conversation.lastSeq = info.last_seq;
    if (info.purged_seq) {
      for (const seq of conversation.messages.keys()) if (seq <= info.purged_seq) conversation.messages.delete(seq);
      if ((conversation.lastMessage?.seq ?? Infinity) <= info.purged_seq) conversation.lastMessage = null;
    }
  }

  /**
   * Hold what a list or a single read says, with what is mine.
   *
   * @param {ConversationInfo} info
   * @returns {Conversation}
   */
  #takeMine(info) {
    const conversation = this.#conversation(info.id);
    // The stream may have told of more since.
    const isCurrent = info.rev >= Math.max(conversation.reached, conversation.info?.rev ?? 0);
    this.#takeInfo(conversation, info);
    if (info.last_message) conversation.keep(info.last_message);
    conversation.moveMarks(this.username, info.read_seq ?? 0, info.delivered_seq ?? 0);
    const peer = conversation.peer(this.username);
    if (peer) conversation.moveMarks(peer, info.peer_read_seq ?? 0, info.peer_delivered_seq ?? 0);
    if (info.muted_until !== undefined) conversation.mutedUntil = info.muted_until;
    if (isCurrent && info.unread !== undefined) {
      const hasReadMore = this.#marksOf(conversation, this.username).read > (info.read_seq ?? 0);
      conversation.unread = info.unread;
      conversation.unreadMentions = info.unread_mentions ?? 0;
      if (hasReadMore) this.#countUnread(conversation);
    }
    return conversation;
  }

  /**
   * Count what is unread after my read mark, as far as the messages after it are held; else keep the lower of what
   * was known and what there can be.
   *
   * @param {Conversation} conversation
   */
  #countUnread(conversation) {
    const { read } = this.#marksOf(conversation, this.username);
    let unread = 0;
    let mentions = 0;
    for (let seq = read + 1; seq <= conversation.lastSeq; seq += 1) {
      const message = conversation.messages.get(seq);
      if (!message) {
        conversation.unread = Math.min(conversation.unread, conversation.lastSeq - read);
        conversation.unreadMentions = Math.min(conversation.unreadMentions, conversation.unread);
        return;
      }
      if (message.kind !== "text" || message.deleted_at || message.sender === this.username) continue;
      unread += 1;
      if (message.mentions?.some((name) => name === this.username || name === "all")) mentions += 1;
    }
    conversation.unread = unread;
    conversation.unreadMentions = mentions;
  }

  /**
   * @template {keyof Events} T
   * @param {T} type
   * @param {Events[T]} event
   */
  #emit(type, event) {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      try {
        listener(event);
      } catch (error) {
        // One listener's fault is neither the others' nor the stream's.
        if (type === "failure") queueMicrotask(() => { throw error; });
        else this.#emit("failure", { error });
      }
    }
  }
}

// --- small things ----------------------------------------------------------------------------------------------

/**
 * @template {object} T
 * @param {T} options
 * @returns {T}
 */
function withoutUndefined(options) {
  return /** @type {T} */ (Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)));
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    // Not from chatbe: a proxy's page.
    return null;
  }
}

/**
 * What a problem document says or, where there is none, what the status says.
 *
 * @param {number} status
 * @param {string} reason
 * @param {any} problem
 * @param {string | null} retryAfter
 */
function refusal(status, reason, problem, retryAfter) {
  const seconds = retryAfter === null ? NaN : Number(retryAfter);
  return new Refused(problem?.code ?? "unavailable", problem?.detail ?? (reason || `HTTP ${status}`), {
    status,
    retryAfter: Number.isFinite(seconds) ? seconds : null,
    errors: problem?.errors ?? [],
  });
}

/**
 * How long a token is good, in milliseconds, by the server's clock alone: it says when it was made.
 *
 * @param {string} token
 * @param {string} expiresAt
 */
function lifetime(token, expiresAt) {
  const expires = Date.parse(expiresAt);
  const claims = parsed(atob((token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/")));
  return typeof claims?.iat === "number" ? expires - claims.iat * 1000 : expires - Date.now();
}
