/** The client that the whole page shares, and what it knows of people. */

import { Client, IndexedDbStorage } from "/static/chatbe/chatbe.js";

export const chat = new Client({
  url: location.origin,
  storage: new IndexedDbStorage("chatbe"),
  device: deviceName(),
  keepRefused: true,
});

/** What this server can do beyond 1-on-1 chat: `groups`, `changes`, `attachments`, `search`. */
export const features = new Set(document.querySelector('meta[name="chatbe-features"]').content.split(" ").filter(Boolean));

/** @type {Map<string, import("../clients/js/src/chatbe.js").Contact>} By username. */
export const contacts = new Map();
/** @type {Set<string>} Whom I blocked. */
export const blocked = new Set();
const names = new Map();

/** @type {import("../clients/js/src/chatbe.js").User[]} Who added me and waits for me to add them. */
export let requests = [];
const listeners = new Set();

/** Call when people change; returns what ends that. */
export function onPeople(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export async function loadPeople() {
  const [all, blocks, asking] = await Promise.all([chat.contacts(), chat.blocks(), chat.contactRequests()]);
  requests = asking;
  requests.forEach(learn);
  contacts.clear();
  for (const contact of all) {
    contacts.set(contact.username, contact);
    learn(contact);
  }
  blocked.clear();
  for (const one of blocks) {
    blocked.add(one.username);
    learn(one);
  }
  for (const listener of listeners) listener();
}

export function learn({ username, display_name }) {
  if (display_name) names.set(username, display_name);
}

export function nameOf(username) {
  if (username === null) return "Deleted account";
  if (username === chat.username) return chat.user?.display_name || username;
  return names.get(username) || username;
}

/** Whether somebody is online; null where that is not known. */
export function presence(username) {
  return chat.friends.get(username)?.online ?? null;
}

export function titleOf(conversation) {
  const { info } = conversation;
  if (!info) return "…";
  if (info.kind === "group") return info.title || "Group";
  return nameOf(conversation.peer(chat.username));
}

/** What to tell people about an error. */
export function explain(error) {
  const kind = error?.code;
  if (kind === "unreachable") return "The server cannot be reached. Check your connection and try again.";
  if (kind === "rate_limited") return `Too many tries. Wait ${Math.ceil(error.retryAfter ?? 10)} seconds and try again.`;
  if (kind === "signed_out") return "You are signed out.";
  return error?.errors?.[0]?.detail ?? error?.detail ?? error?.message ?? "That did not work.";
}

const SENDING = "chatbe-sending";
const sendingKey = (clientId) => `${SENDING}/${chat.username}/${clientId}`;

/**
 * Send a message. It is noted first, at once, so that a page that is closed at this very moment finds it again; the
 * client's own storage takes a moment. How it goes on is shown at the message.
 */
export function post(message) {
  const whole = { ...message, client_id: crypto.randomUUID() };
  localStorage.setItem(sendingKey(whole.client_id), JSON.stringify({ ...whole, noted: performance.timeOrigin + performance.now() }));
  chat.send(whole).catch(() => undefined);
}

chat.on("unsent", ({ client_id }) => localStorage.removeItem(sendingKey(client_id)));

/** Send what an earlier page had noted only. By its `client_id` it is stored once, whatever had become of it. */
export function postWhatWasNoted() {
  const prefix = sendingKey("");
  const noted = Object.keys(localStorage).filter((key) => key.startsWith(prefix)).map((key) => JSON.parse(localStorage.getItem(key)));
  for (const { noted: _, ...message } of noted.sort((one, other) => one.noted - other.noted)) {
    if (chat.unsent.some(({ client_id }) => client_id === message.client_id)) localStorage.removeItem(sendingKey(message.client_id));
    else chat.send(message).catch(() => undefined);
  }
}

function deviceName() {
  const agent = navigator.userAgent;
  const browser = ["Edg", "Firefox", "Chrome", "Safari"].find((name) => agent.includes(name)) ?? "Browser";
  const system = ["Android", "iPhone", "iPad", "Windows", "Mac", "Linux"].find((name) => agent.includes(name));
  return `${browser === "Edg" ? "Edge" : browser}${system ? ` on ${system}` : ""}`;
}
