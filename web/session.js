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

const listeners = new Set();

/** Call when people change; returns what ends that. */
export function onPeople(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export async function loadPeople() {
  const [all, blocks] = await Promise.all([chat.contacts(), chat.blocks()]);
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
  return error?.detail ?? error?.message ?? "That did not work.";
}

function deviceName() {
  const agent = navigator.userAgent;
  const browser = ["Edg", "Firefox", "Chrome", "Safari"].find((name) => agent.includes(name)) ?? "Browser";
  const system = ["Android", "iPhone", "iPad", "Windows", "Mac", "Linux"].find((name) => agent.includes(name));
  return `${browser === "Edg" ? "Edge" : browser}${system ? ` on ${system}` : ""}`;
}
