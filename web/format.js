/** How times, names and texts are shown. */

import { h } from "./dom.js";

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const WEEKDAY = new Intl.DateTimeFormat(undefined, { weekday: "long" });
const DATE = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const FULL_DATE = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "long", timeStyle: "short" });

function daysAgo(time) {
  const midnight = new Date();
  midnight.setHours(0, 0, 0, 0);
  return Math.ceil((midnight - new Date(time)) / 86_400_000);
}

export const clock = (time) => CLOCK.format(new Date(time));
export const dateOf = (time) => DATE.format(new Date(time));
export const fullTime = (time) => FULL.format(new Date(time));

export function dayOf(time) {
  const days = daysAgo(time);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  return days < 7 ? WEEKDAY.format(new Date(time)) : FULL_DATE.format(new Date(time));
}

/** For lists: the time today, then the day, then the date. */
export function shortTime(time) {
  const days = daysAgo(time);
  if (days <= 0) return clock(time);
  if (days === 1) return "Yesterday";
  return days < 7 ? WEEKDAY.format(new Date(time)).slice(0, 3) : DATE.format(new Date(time));
}

export function lastSeen(time) {
  if (!time) return "Offline";
  const minutes = Math.floor((Date.now() - new Date(time)) / 60_000);
  if (minutes < 1) return "Last seen just now";
  if (minutes < 60) return `Last seen ${minutes} min ago`;
  const days = daysAgo(time);
  if (days <= 0) return `Last seen today at ${clock(time)}`;
  if (days === 1) return `Last seen yesterday at ${clock(time)}`;
  return `Last seen ${DATE.format(new Date(time))}`;
}

/** @type {WeakMap<object, {time: number, day: number}>} Dates are slow to take apart. */
const moments = new WeakMap();

/** A message's time in milliseconds, and a number for its day on this device. */
export function momentOf(message) {
  let known = moments.get(message);
  if (!known) {
    const date = new Date(message.created_at);
    moments.set(message, (known = { time: date.getTime(), day: date.getFullYear() * 1000 + date.getMonth() * 32 + date.getDate() }));
  }
  return known;
}

/**
 * A stranger's text on one line of ours: bidi controls that would turn what follows are left out, and one that is
 * all invisible shows as such.
 */
export function oneLine(text) {
  const shown = text.replace(/[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]/g, "").replace(/\s+/g, " ").trim();
  return /[^\p{C}\p{Z}\u200b-\u200d\u2060\ufeff\u3164\u115f\u1160]/u.test(shown) ? shown : "(blank)";
}

const LINK = /\bhttps?:\/\/[^\s<>"'`\u202a-\u202e\u2066-\u2069]+[^\s<>"'`.,:;!?)\]}\u202a-\u202e\u2066-\u2069]/gi;

/** A message's text as nodes: what looks like a link is one, all else is text. */
export function rich(text, mentions = []) {
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(LINK)) {
    nodes.push(...mentioned(text.slice(end, found.index), mentions));
    nodes.push(h("a", { href: found[0], target: "_blank", rel: "noopener noreferrer nofollow" }, found[0]));
    end = found.index + found[0].length;
  }
  return [...nodes, ...mentioned(text.slice(end), mentions)];
}

function mentioned(text, mentions) {
  if (!mentions.length) return plain(text);
  return text.split(/(@[a-z0-9._-]+)/gi).flatMap((part) =>
    part[0] === "@" && mentions.includes(part.slice(1).toLowerCase()) ? h("b.mention", {}, part) : plain(part));
}

const OVERRIDES = { "\u202d": "LRO", "\u202e": "RLO" };

/** Text, in which what would write letters backwards is shown, and does nothing. */
function plain(text) {
  return text.split(/([\u202d\u202e])/).filter(Boolean).map((part) =>
    part in OVERRIDES ? h("span.control", { "data-name": OVERRIDES[part], title: "A character that would write the rest backwards" }, part) : part);
}

const ONLY_EMOJI = /^(?:\p{Extended_Pictographic}(?:\ufe0f|\u200d|\p{Emoji_Modifier}|\p{Extended_Pictographic})*|\p{Regional_Indicator}{2}|\s){1,12}$/u;

/** One to three emoji and nothing else are shown large. */
export function isEmojiOnly(text) {
  if (text.length > 40 || !ONLY_EMOJI.test(text) || !text.trim()) return false;
  return [...new Intl.Segmenter().segment(text.replace(/\s/g, ""))].length <= 3;
}

export function initials(name) {
  const parts = oneLine(name).split(/[\s._-]+/).filter(Boolean);
  const letter = (part) => [...new Intl.Segmenter().segment(part)][0]?.segment ?? "";
  return (letter(parts[0] ?? "?") + (parts.length > 1 ? letter(parts.at(-1)) : "")).toUpperCase();
}

/** The same colour for the same name, everywhere. */
export function hue(name) {
  let hash = 0x811c9dc5;
  for (const character of name) hash = Math.imul(hash ^ character.codePointAt(0), 0x01000193) >>> 0;
  return (hash >>> 7) % 12;
}

export function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1024 ** 2 ? `${Math.round(bytes / 1024)} KiB` : `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
}

export function avatar(name, username, { online = null, group = false } = {}) {
  return h(`span.avatar.hue-${hue(username)}${group ? ".group" : ""}`, { "aria-hidden": "true" },
    h("span", {}, initials(name)),
    online === null ? null : h(`i.dot${online ? ".on" : ""}`));
}
