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
/** Whatever this client throws. */
export class ChatError extends Error {
    /**
     * @param {string} code
     * @param {string} detail
     */
    constructor(code: string, detail: string);
    code: string;
    /** For people to read. */
    detail: string;
}
/** The server said no. */
export class Refused extends ChatError {
    /**
     * @param {string} code
     * @param {string} detail
     * @param {{status?: number, retryAfter?: number | null, errors?: Array<{field: string, code: string, detail: string}>}} [more]
     */
    constructor(code: string, detail: string, { status, retryAfter, errors }?: {
        status?: number;
        retryAfter?: number | null;
        errors?: Array<{
            field: string;
            code: string;
            detail: string;
        }>;
    });
    /** Of HTTP; 0 when the socket said so. */
    status: number;
    /** Seconds. */
    retryAfter: number | null;
    /** What is wrong with which field. */
    errors: {
        field: string;
        code: string;
        detail: string;
    }[];
}
/** No answer came; whether the call was carried out is unknown. */
export class Unreachable extends ChatError {
    /** @param {unknown} cause */
    constructor(cause: unknown);
    cause: unknown;
}
/** The session has ended, or there never was one. */
export class SignedOut extends ChatError {
    constructor(detail?: string);
}
/** The client was closed before the answer came. What was sent may be stored. */
export class Closed extends ChatError {
    constructor();
}
/**
 * Keeps nothing beyond this process.
 *
 * @implements {Storage}
 */
export class MemoryStorage implements Storage {
    name: string;
    /** @type {Map<string, string>} */
    values: Map<string, string>;
    /** @param {string} key */
    get(key: string): Promise<any>;
    /**
     * @param {string} key
     * @param {any} value
     */
    set(key: string, value: any): Promise<void>;
    /** @param {string} key */
    delete(key: string): Promise<void>;
    /**
     * @param {string} prefix
     * @returns {Promise<Array<[string, any]>>}
     */
    entries(prefix: string): Promise<Array<[string, any]>>;
}
/**
 * Keeps values in the browser, shared by all tabs of the origin.
 *
 * @implements {Storage}
 */
export class IndexedDbStorage implements Storage {
    constructor(name?: string);
    name: string;
    /** @type {Promise<IDBDatabase> | null} */
    opening: Promise<IDBDatabase> | null;
    /** @param {string} key */
    get(key: string): Promise<any>;
    /**
     * @param {string} key
     * @param {any} value
     * @returns {Promise<void>}
     */
    set(key: string, value: any): Promise<void>;
    /**
     * @param {string} key
     * @returns {Promise<void>}
     */
    delete(key: string): Promise<void>;
    /**
     * @param {string} prefix
     * @returns {Promise<Array<[string, any]>>}
     */
    entries(prefix: string): Promise<Array<[string, any]>>;
    #private;
}
/** A conversation as this client knows it. */
export class Conversation {
    /** @param {string} id */
    constructor(id: string);
    id: string;
    /** The highest rev that the stream came to. */
    reached: number;
    /** @type {ConversationInfo | null} The latest object that was told. */
    info: ConversationInfo | null;
    /** The highest seq that is known of. */
    lastSeq: number;
    /** @type {Message | null} The message of the highest seq that is held. */
    lastMessage: Message | null;
    /** Others' undeleted text messages that I have not read. */
    unread: number;
    /** Those of them that mention me. */
    unreadMentions: number;
    /** @type {string | null} */
    mutedUntil: string | null;
    /** @type {Map<number, Message>} By seq; not without gaps. */
    messages: Map<number, Message>;
    /** @type {Map<string, Marks>} By username. */
    marks: Map<string, Marks>;
    /** @type {Map<string, ReturnType<typeof setTimeout>>} Who is typing. */
    typing: Map<string, ReturnType<typeof setTimeout>>;
    /**
     * The other one of a direct conversation; null where there is none.
     *
     * @param {string} me
     * @returns {string | null}
     */
    peer(me: string): string | null;
    /**
     * Raise a member's marks; whether they moved.
     *
     * @param {string} username
     * @param {number} read
     * @param {number} delivered
     */
    moveMarks(username: string, read: number, delivered: number): boolean;
    /**
     * Keep a message unless one of a higher or the same rev is held for its place; whether it was.
     *
     * @param {Message} message
     */
    keep(message: Message): boolean;
    /** @param {number} limit */
    letGo(limit: number): void;
}
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
    /** @param {Options} options */
    constructor(options: Options);
    /** @type {Status} */
    status: Status;
    /** When it tries again, as of `Date.now()`; null when it is not waiting. */
    /** @type {number | null} */
    retryAt: number | null;
    /** @type {Map<string, Conversation>} By id. */
    conversations: Map<string, Conversation>;
    /** @type {Map<string, {online: boolean, last_seen: string | null}>} The mutual contacts, by username. */
    friends: Map<string, {
        online: boolean;
        last_seen: string | null;
    }>;
    /** @type {Record<string, any>} What the server takes. */
    limits: Record<string, any>;
    /** @returns {User | null} */
    get user(): User | null;
    /** My username; empty when nobody is signed in. */
    get username(): string;
    /** @returns {string | null} The id of this device's session. */
    get sessionId(): string | null;
    /**
     * Make an account. Signs nobody in.
     *
     * @param {{username: string, email: string, password: string, display_name?: string}} account
     * @returns {Promise<User>}
     */
    register(account: {
        username: string;
        email: string;
        password: string;
        display_name?: string;
    }): Promise<User>;
    /**
     * Begin a session on this device, and keep it in the storage.
     *
     * @param {{username?: string, email?: string, password: string}} credentials
     * @returns {Promise<User>}
     */
    signIn(credentials: {
        username?: string;
        email?: string;
        password: string;
    }): Promise<User>;
    /**
     * Go on with the session in the storage. Null when there is none.
     *
     * @returns {Promise<User | null>}
     */
    resume(): Promise<User | null>;
    /** End this session: on the server, if it can be reached, and here. Unsent messages stay in the storage. */
    signOut(): Promise<void>;
    /** Connect, and come back whenever the connection is lost. Does nothing while it does so already. */
    connect(): void;
    /** Leave, and stay away until `connect`; what was sent and is not acked waits until then. */
    disconnect(): void;
    /** Leave for good: whoever waits for an answer gets `Closed`. Unsent messages stay in the storage. */
    close(): Promise<void>;
    /** Do not wait any longer before trying again. */
    reconnectNow(): void;
    /**
     * Resolves when the stream is live; rejects when it will never be.
     *
     * @returns {Promise<void>}
     */
    live(): Promise<void>;
    /**
     * Call `listener` for each event of this type; returns what ends that.
     *
     * @template {keyof Events} T
     * @param {T} type
     * @param {(event: Events[T]) => void} listener
     * @returns {() => void}
     */
    on<T extends keyof Events>(type: T, listener: (event: Events[T]) => void): () => void;
    /**
     * Send a message; resolves when it is committed. It waits while there is no connection, is kept in the storage
     * until it is acked, and is sent with the same `client_id` however often it takes. Rejects with `Refused` when
     * the server says no, with `Closed` when the client is closed before (it then goes out in the next run).
     *
     * @param {{to: string | Target, body: string, reply_to?: number | null, client_id?: string, attachments?: string[]}} message
     *   `to`: a username, or `{conversation}`.
     * @returns {Promise<Ack>}
     */
    send({ to, body, reply_to, client_id, attachments }: {
        to: string | Target;
        body: string;
        reply_to?: number | null;
        client_id?: string;
        attachments?: string[];
    }): Promise<Ack>;
    /** @returns {Unsent[]} What is not acked yet, in the order of sending; with `keepRefused` also what was refused. */
    get unsent(): Unsent[];
    /**
     * Send a refused message again.
     *
     * @param {string} clientId
     * @returns {Promise<Ack>}
     */
    resend(clientId: string): Promise<Ack>;
    /**
     * Give up a refused message.
     *
     * @param {string} clientId
     */
    discard(clientId: string): Promise<void>;
    /**
     * Replace the body of my own message.
     *
     * @param {string} conversation
     * @param {number} seq
     * @param {string} body
     * @returns {Promise<Ack>}
     */
    edit(conversation: string, seq: number, body: string): Promise<Ack>;
    /**
     * Delete a message for everyone.
     *
     * @param {string} conversation
     * @param {number} seq
     * @returns {Promise<Ack>}
     */
    delete(conversation: string, seq: number): Promise<Ack>;
    /**
     * Put on a reaction, or take it off.
     *
     * @param {string} conversation
     * @param {number} seq
     * @param {string} emoji
     * @param {boolean} [on]
     * @returns {Promise<Ack>}
     */
    react(conversation: string, seq: number, emoji: string, on?: boolean): Promise<Ack>;
    /**
     * I have read everything up to `seq`; told now, or as soon as there is a connection.
     *
     * @param {string} conversation
     * @param {number} seq
     */
    markRead(conversation: string, seq: number): void;
    /**
     * Everything up to `seq` has come to this device.
     *
     * @param {string} conversation
     * @param {number} seq
     */
    markDelivered(conversation: string, seq: number): void;
    /**
     * I am typing, or stopped. Nothing happens without a connection.
     *
     * @param {string} conversation
     * @param {boolean} [on]
     */
    typing(conversation: string, on?: boolean): void;
    /**
     * A page of messages in rising seq, at most 200; the newest without `before` and `after`. They are held as well.
     * `more`: whether the history goes on in the direction that was asked for.
     *
     * @param {string} conversation
     * @param {{before?: number, after?: number, limit?: number}} [page]
     * @returns {Promise<{messages: Message[], more: boolean, previous: boolean, next: boolean}>}
     */
    history(conversation: string, { before, after, limit }?: {
        before?: number;
        after?: number;
        limit?: number;
    }): Promise<{
        messages: Message[];
        more: boolean;
        previous: boolean;
        next: boolean;
    }>;
    /**
     * All of a conversation's history, newest page first.
     *
     * @param {string} conversation
     * @param {{limit?: number}} [options]
     * @returns {AsyncGenerator<Message[], void, void>}
     */
    backlog(conversation: string, { limit }?: {
        limit?: number;
    }): AsyncGenerator<Message[], void, void>;
    /**
     * Who has read a message, as far as they let others know.
     *
     * @param {string} conversation
     * @param {number} seq
     * @returns {Promise<Array<{username: string}>>}
     */
    readers(conversation: string, seq: number): Promise<Array<{
        username: string;
    }>>;
    /**
     * My conversations by latest activity, all pages of them; they are held as well, with their unread counts.
     *
     * @returns {Promise<Conversation[]>}
     */
    loadConversations(): Promise<Conversation[]>;
    /**
     * One conversation with what is mine in it.
     *
     * @param {string} id
     * @returns {Promise<Conversation>}
     */
    loadConversation(id: string): Promise<Conversation>;
    /**
     * The direct conversation with somebody, made if need be.
     *
     * @param {string} username
     * @returns {Promise<Conversation>}
     */
    openDirect(username: string): Promise<Conversation>;
    /**
     * @param {{title: string, members: string[], description?: string, history?: string}} group
     * @returns {Promise<Conversation>}
     */
    createGroup(group: {
        title: string;
        members: string[];
        description?: string;
        history?: string;
    }): Promise<Conversation>;
    /**
     * Mute a conversation until a time; null: no longer.
     *
     * @param {string} id
     * @param {string | null} until
     * @returns {Promise<void>}
     */
    mute(id: string, until: string | null): Promise<void>;
    /**
     * Rename or describe a group.
     *
     * @param {string} id
     * @param {{title?: string, description?: string, history?: string}} changes
     * @returns {Promise<Conversation>}
     */
    changeConversation(id: string, changes: {
        title?: string;
        description?: string;
        history?: string;
    }): Promise<Conversation>;
    /**
     * Dissolve a group.
     *
     * @param {string} id
     * @returns {Promise<void>}
     */
    dissolve(id: string): Promise<void>;
    /**
     * @param {string} id
     * @returns {Promise<Member[]>}
     */
    members(id: string): Promise<Member[]>;
    /**
     * @param {string} id
     * @param {string[]} usernames
     * @returns {Promise<any>}
     */
    addMembers(id: string, usernames: string[]): Promise<any>;
    /**
     * Remove a member, or leave.
     *
     * @param {string} id
     * @param {string} username
     * @returns {Promise<void>}
     */
    removeMember(id: string, username: string): Promise<void>;
    /**
     * @param {string} id
     * @param {string} username
     * @param {string} role `owner`, `admin` or `member`.
     * @returns {Promise<any>}
     */
    setRole(id: string, username: string, role: string): Promise<any>;
    /** @returns {Promise<Contact[]>} */
    contacts(): Promise<Contact[]>;
    /**
     * @param {string} username
     * @returns {Promise<Contact>}
     */
    addContact(username: string): Promise<Contact>;
    /**
     * @param {string} username
     * @returns {Promise<void>}
     */
    removeContact(username: string): Promise<void>;
    /**
     * Those who added me and wait for me to add them.
     *
     * @returns {Promise<User[]>}
     */
    contactRequests(): Promise<User[]>;
    /** @returns {Promise<Array<{username: string, display_name: string, blocked_at: string}>>} */
    blocks(): Promise<Array<{
        username: string;
        display_name: string;
        blocked_at: string;
    }>>;
    /**
     * @param {string} username
     * @returns {Promise<void>}
     */
    block(username: string): Promise<void>;
    /**
     * @param {string} username
     * @returns {Promise<void>}
     */
    unblock(username: string): Promise<void>;
    /**
     * People by the beginning of their username; the first page.
     *
     * @param {string} search
     * @returns {Promise<User[]>}
     */
    findUsers(search: string): Promise<User[]>;
    /** @returns {Promise<Device[]>} */
    devices(): Promise<Device[]>;
    /**
     * Sign a device out.
     *
     * @param {string} id
     * @returns {Promise<void>}
     */
    revoke(id: string): Promise<void>;
    /**
     * @param {{current_password: string, new_password: string}} passwords
     * @returns {Promise<void>}
     */
    changePassword(passwords: {
        current_password: string;
        new_password: string;
    }): Promise<void>;
    /**
     * @param {{display_name?: string, email?: string, read_receipts?: boolean}} changes
     * @returns {Promise<User>}
     */
    changeProfile(changes: {
        display_name?: string;
        email?: string;
        read_receipts?: boolean;
    }): Promise<User>;
    /**
     * Full text search over my conversations; the first page, or the one that `cursor` (a `next`) leads to.
     *
     * @param {string} q
     * @param {{conversation?: string, cursor?: string}} [where]
     * @returns {Promise<{results: Hit[], next: string | null}>}
     */
    search(q: string, { conversation, cursor }?: {
        conversation?: string;
        cursor?: string;
    }): Promise<{
        results: Hit[];
        next: string | null;
    }>;
    /**
     * Addresses of files, at most 100 at a time; those that I may not fetch are left out.
     *
     * @param {string[]} ids
     * @returns {Promise<AttachmentLinks[]>}
     */
    attachments(ids: string[]): Promise<AttachmentLinks[]>;
    /**
     * Upload a file as `multipart/form-data`; answers what the server says of it. Progress is known byte by byte in
     * browsers, at the end elsewhere. Then name its `id` in `attachments` of a send.
     *
     * @param {Blob} file
     * @param {{path?: string, name?: string, fields?: Record<string, string>, onProgress?: (sent: number, total: number) => void, signal?: AbortSignal}} [options]
     * @returns {Promise<any>}
     */
    upload(file: Blob, { path, name, fields, onProgress, signal }?: {
        path?: string;
        name?: string;
        fields?: Record<string, string>;
        onProgress?: (sent: number, total: number) => void;
        signal?: AbortSignal;
    }): Promise<any>;
    /**
     * One call with a good access token; answers the JSON of the answer, null when it has none. Rejects with
     * `Refused`, `Unreachable` or `SignedOut`.
     *
     * @param {string} method
     * @param {string} path Below the server's address, or an address that a list's `next` gave.
     * @param {{json?: any, body?: BodyInit, query?: Record<string, string | number | undefined>, signed?: boolean, signal?: AbortSignal, timeout?: number}} [options]
     * @returns {Promise<any>}
     */
    request(method: string, path: string, options?: {
        json?: any;
        body?: BodyInit;
        query?: Record<string, string | number | undefined>;
        signed?: boolean;
        signal?: AbortSignal;
        timeout?: number;
    }): Promise<any>;
    #private;
}
export type Status = "offline" | "connecting" | "syncing" | "live" | "signed-out";
export type User = {
    id: string;
    username: string;
    display_name: string;
    created_at: string;
    /**
     * Mine only.
     */
    email?: string | undefined;
    /**
     * Mine only: whether others see what I have read, and I what they have.
     */
    read_receipts?: boolean | undefined;
};
export type Reaction = {
    count: number;
    /**
     * At most 50 of them.
     */
    usernames: string[];
};
export type Message = {
    id: string;
    conversation: string;
    /**
     * Its place in the conversation: 1, 2, 3, …
     */
    seq: number;
    /**
     * The conversation's change that made it what it is.
     */
    rev: number;
    /**
     * `text` or `system`.
     */
    kind: string;
    /**
     * Null for an erased account.
     */
    sender: string | null;
    /**
     * Null when it was deleted.
     */
    body: string | null;
    client_id: string | null;
    reply_to: number | null;
    reactions: Record<string, Reaction>;
    created_at: string;
    edited_at: string | null;
    deleted_at: string | null;
    mentions?: string[] | undefined;
    attachments?: Attachment[] | undefined;
};
/**
 * A file of a message.
 */
export type Attachment = {
    id: string;
    name: string;
    content_type: string;
    size: number;
    /**
     * Of a picture, in pixels.
     */
    width: number | null;
    height: number | null;
    /**
     * Whether there is a small picture of it.
     */
    thumbnail: boolean;
};
/**
 * A file with addresses, which need no token and are good for a short time.
 */
export type AttachmentLinks = Attachment & {
    url: string;
    thumbnail_url: string | null;
    expires_at: string;
};
/**
 * What a search found: the message, and the part of its body that matches.
 */
export type Hit = {
    message: Message;
    snippet: Array<{
        text: string;
        match: boolean;
    }>;
};
export type Member = {
    username: string;
    role: string;
};
/**
 * What all members see of a conversation; lists and single reads also have what is mine.
 */
export type ConversationInfo = {
    id: string;
    kind: "direct" | "group";
    title: string | null;
    rev: number;
    last_seq: number;
    member_count: number;
    /**
     * At most 100 of them.
     */
    members: Member[];
    created_at: string;
    description?: string | undefined;
    history?: string | null | undefined;
    /**
     * Messages up to this one are gone for good.
     */
    purged_seq?: number | undefined;
    role?: string | undefined;
    unread?: number | undefined;
    unread_mentions?: number | undefined;
    read_seq?: number | undefined;
    delivered_seq?: number | undefined;
    muted_until?: string | null | undefined;
    last_message?: Message | null | undefined;
    peer_read_seq?: number | null | undefined;
    peer_delivered_seq?: number | null | undefined;
};
export type Marks = {
    read: number;
    delivered: number;
};
/**
 * A contact of mine. `online` and `last_seen` are null unless they added me too.
 */
export type Contact = {
    username: string;
    display_name: string;
    mutual: boolean;
    online: boolean | null;
    last_seen: string | null;
};
/**
 * A device that is signed in.
 */
export type Device = {
    id: string;
    device: string;
    user_agent: string;
    address: string | null;
    created_at: string;
    last_used_at: string | null;
    expires_at: string;
    current: boolean;
};
/**
 * The server's word that a change is committed.
 */
export type Ack = {
    conversation: string;
    seq: number;
    rev: number;
    id: string;
    client_id: string | null;
    created_at: string;
    duplicate: boolean;
};
export type Target = {
    username: string;
} | {
    conversation: string;
};
/**
 * A message that is not acked yet.
 */
export type Unsent = {
    client_id: string;
    order: number;
    to: Target;
    body: string;
    reply_to: number | null;
    attachments?: string[] | undefined;
    /**
     * By this device's clock.
     */
    created_at: string;
    /**
     * Why the server will not have it; null while it waits.
     */
    refused: {
        code: string;
        detail: string;
    } | null;
};
/**
 * What is kept between two runs. Values can be stored as JSON.
 */
export type Storage = {
    /**
     * Names it in the locks that several tabs share.
     */
    name?: string | undefined;
    /**
     * Undefined when there is none.
     */
    get: (key: string) => Promise<any>;
    set: (key: string, value: any) => Promise<void>;
    delete: (key: string) => Promise<void>;
    entries: (prefix: string) => Promise<Array<[string, any]>>;
};
export type Options = {
    /**
     * The server's address, or several of the same chatbe, tried in turn.
     */
    url: string | string[];
    /**
     * Default: IndexedDB in browsers, memory elsewhere.
     */
    storage?: Storage | undefined;
    /**
     * What this device is called among the account's devices.
     */
    device?: string | undefined;
    /**
     * What a first sync asks of conversations that it has no cursor of: their
     * present state (default), or all messages from the beginning.
     */
    others?: "all" | "state" | undefined;
    /**
     * Go on, in the next run, from where this one's streams came to. For applications
     * that keep the messages themselves. Default: each run starts from the present state.
     */
    keepCursors?: boolean | undefined;
    /**
     * Keep messages that the server refused, for the user to send again or discard.
     */
    keepRefused?: boolean | undefined;
    /**
     * So many messages are held per conversation; beyond it, those of the lowest seq are let
     * go. Default 20,000.
     */
    held?: number | undefined;
    /**
     * Seconds. Default 0.5.
     */
    firstBackoff?: number | undefined;
    /**
     * Seconds. Default 30.
     */
    longestBackoff?: number | undefined;
    fetch?: typeof fetch | undefined;
    /**
     * Node.js 20 has one with
     * `--experimental-websocket`, 22 always.
     */
    WebSocket?: (new (url: string, protocols: string[]) => WebSocket) | undefined;
};
export type Events = {
    /**
     * `retryAt`: when it tries again, as of `Date.now()`.
     */
    status: {
        status: Status;
        retryAt: number | null;
    };
    /**
     * `isNew`: its
     * place was empty before. `live`: after the sync, so it has just happened.
     */
    message: {
        message: Message;
        isNew: boolean;
        previous: Message | undefined;
        live: boolean;
    };
    /**
     * Null: I am no longer a member.
     */
    conversation: {
        id: string;
        conversation: Conversation | null;
    };
    /**
     * What was held of it (null: of all) is void; page the history.
     */
    reset: {
        conversation: string | null;
    };
    receipt: {
        conversation: string;
        username: string;
        read: number;
        delivered: number;
    };
    typing: {
        conversation: string;
        username: string;
        on: boolean;
    };
    presence: {
        username: string;
        online: boolean | null;
        last_seen: string | null;
    };
    friends: {
        total: number;
        online: number;
    };
    contact: {
        username: string;
        added: boolean;
        mutual: boolean;
    };
    muted: {
        conversation: string;
        until: string | null;
    };
    unsent: {
        client_id: string;
        state: "waiting" | "sent" | "refused" | "discarded";
    };
    /**
     * The client has stopped: the session ended, or the server refuses it.
     */
    ended: {
        error: Error;
    };
    /**
     * A frame that nobody waits for was refused.
     */
    refusal: {
        code: string;
        detail: string;
    };
    /**
     * Something that this client survives: its storage failed, a listener threw.
     */
    failure: {
        error: unknown;
    };
};
export type Pending = {
    frame: Record<string, any>;
    /**
     * What its order is kept in: its target.
     */
    key: string;
    unsent: Unsent | null;
    /**
     * Kept in the storage, so it may be written.
     */
    stored: boolean;
    /**
     * On the present socket.
     */
    written: boolean;
    /**
     * The server has said "try again".
     */
    later: boolean;
    resolve: (ack: Ack) => void;
    reject: (error: Error) => void;
};
export type SessionRecord = {
    user: User;
    session_id: string;
    access_token: string;
    access_until: number;
    refresh_token: string;
};
