/** The conversation list. */

import { debounce, fill, h } from "./dom.js";
import { avatar, fullTime, oneLine, shortTime } from "./format.js";
import { icon, ticks } from "./icons.js";
import { chat, explain, features, nameOf, onPeople, presence, requests, titleOf } from "./session.js";
import { attempt, newChat, settings } from "./dialogs.js";

const LEAD = 20;

/** What was found, with so little before the first match that it is in sight. */
function excerpt(snippet) {
  const [first, ...rest] = snippet.map(({ text, match }) => (match ? h("mark", {}, text) : text));
  const isLong = typeof first === "string" && first.length > LEAD && rest.length;
  return [isLong ? `…${[...first].slice(-LEAD).join("").replace(/^\S*\s+(?=\S)/, "")}` : first, ...rest];
}

/**
 * @param {{open: (id: string, seq?: number) => void}} options
 */
export function sidebar({ open }) {
  let current = "";
  let query = "";
  let isLoaded = false;
  let found = [];
  let further = null;
  let isLooking = false;
  const rows = new Map();
  const list = h("ul.conversations", { "aria-label": "Conversations" });
  const hits = h("div.hits");
  const asking = h("button.requests", { type: "button", hidden: true, onclick: () => newChat(open) });
  const me = h("button.me", { type: "button", "aria-label": "Settings", title: "Settings", onclick: () => settings() });
  const search = h("input", {
    type: "search", placeholder: features.has("search") ? "Search chats and messages" : "Search chats",
    "aria-label": "Search", autocomplete: "off",
    oninput: () => ((query = search.value.trim().toLowerCase()), forget(), (isLooking = features.has("search") && query.length > 1), draw(), look()),
    onkeydown: (event) => {
      if (event.key === "Escape" && search.value) (event.preventDefault(), (search.value = query = ""), forget(), (isLooking = false), draw());
      if (event.key === "ArrowDown") (event.preventDefault(), list.querySelector("a")?.focus());
    },
  });
  const element = h("nav.sidebar", { "aria-label": "Chats" },
    h("header", {},
      me,
      h("h1", {}, "Chats"),
      h("button.icon-button", { type: "button", "aria-label": "New chat", title: "New chat", onclick: () => newChat(open) }, icon("plus"))),
    h("div.search", { role: "search" }, icon("search"), search),
    h("div.scroll", { tabIndex: -1 }, asking, list, hits));

  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const links = [...list.querySelectorAll("a")];
    const next = links[links.indexOf(document.activeElement) + step];
    event.preventDefault();
    (next ?? (step < 0 ? search : null))?.focus();
  });

  function forget() {
    found = [];
    further = null;
  }

  const look = debounce(async () => {
    if (!isLooking) return;
    const asked = query;
    try {
      const { results, next } = await chat.search(asked);
      if (asked !== query) return;
      found = results;
      further = next;
    } catch (error) {
      if (!error.code) throw error;
      if (asked === query) fill(hits, h("p.empty", {}, explain(error)));
      return;
    } finally {
      if (asked === query) isLooking = false;
    }
    drawHits();
  }, 250);

  async function lookFurther(cursor) {
    await attempt(async () => {
      const { results, next } = await chat.search(query, { cursor });
      // The words may be others by now.
      if (cursor !== further) return;
      const seen = found.length;
      found = [...found, ...results];
      further = next;
      drawHits();
      hits.querySelectorAll("a")[seen]?.focus();
    });
  }

  function activity(conversation) {
    return conversation.lastMessage?.created_at ?? conversation.info?.created_at ?? "";
  }

  function preview(conversation) {
    const typing = [...conversation.typing.keys()];
    if (typing.length) return h("span.typing-text", {}, conversation.info?.kind === "group" ? `${nameOf(typing[0])} is typing…` : "typing…");
    const waiting = chat.unsent.findLast(({ to }) => to.conversation === conversation.id);
    if (waiting) return [icon(waiting.refused ? "warning" : "clock"), h("bdi", {}, oneLine(waiting.body))];
    const last = conversation.lastMessage;
    if (!last) return h("span", {}, "No messages yet");
    if (last.deleted_at) return h("i", {}, "Message deleted");
    const isMine = last.sender === chat.username;
    const who = last.kind === "text" && conversation.info?.kind === "group" ? (isMine ? "You: " : `${nameOf(last.sender)}: `) : "";
    const peer = conversation.peer(chat.username);
    const marks = conversation.marks.get(peer ?? "");
    const state = isMine && peer && last.kind === "text"
      ? h(`span.state${marks?.read >= last.seq ? ".read" : ""}`, {}, ticks(marks?.delivered >= last.seq ? 2 : 1))
      : null;
    return [state, who, h("bdi", {}, last.body ? oneLine(last.body) : "Attachment")];
  }

  function row(conversation) {
    const title = oneLine(titleOf(conversation));
    const peer = conversation.peer(chat.username);
    const { unread } = conversation;
    const isMuted = conversation.mutedUntil && new Date(conversation.mutedUntil) > new Date();
    const time = activity(conversation);
    const online = peer ? presence(peer) : null;
    return h("a.conversation", {
      href: `#/c/${conversation.id}`,
      "aria-current": conversation.id === current ? "page" : null,
    },
      avatar(title, peer ?? conversation.id, { online: peer ? online : null, group: !peer }),
      h("span.text", {},
        h("span.top", {},
          h("bdi.name", { title }, title),
          online ? h("span.unseen", {}, ", online") : null,
          time ? h("time", { dateTime: time, title: fullTime(time) }, shortTime(time)) : null),
        h("span.bottom", {},
          h("span.preview", {}, preview(conversation)),
          conversation.unreadMentions ? h("span.badge.at", { "aria-label": "you were mentioned" }, "@") : null,
          unread ? h(`span.badge${isMuted ? ".muted" : ""}`, { "aria-label": `${unread} unread` }, unread > 999 ? "999+" : String(unread)) : null)));
  }

  function draw() {
    const user = chat.user;
    if (user) fill(me, avatar(user.display_name || user.username, user.username));
    const all = [...chat.conversations.values()]
      .filter(({ info }) => info)
      .sort((one, other) => (activity(one) < activity(other) ? 1 : -1));
    // Names and what was said last come with the list; without them it would only flicker.
    const shown = !isLoaded ? [] : query
      ? all.filter((one) => titleOf(one).toLowerCase().includes(query) || one.peer(chat.username)?.includes(query))
      : all;
    asking.hidden = !requests.length || Boolean(query);
    if (requests.length) {
      const [{ username }, ...others] = requests;
      const who = h("bdi.name", {}, oneLine(nameOf(username)));
      fill(asking, avatar(oneLine(nameOf(username)), username), h("span.text", {}, h("span.top", {}, who),
        h("span.muted", {}, others.length ? `and ${others.length} more added you` : "added you")), h("span.badge", {}, String(requests.length)));
    }
    const focused = document.activeElement?.closest?.(".conversation")?.getAttribute("href");
    for (const id of rows.keys()) if (!chat.conversations.has(id)) rows.delete(id);
    fill(list, shown.map((conversation) => {
      const peer = conversation.peer(chat.username);
      const marks = conversation.marks.get(peer ?? "");
      const signature = JSON.stringify([
        titleOf(conversation), conversation.lastMessage?.rev, conversation.lastMessage?.seq, conversation.unread, conversation.unreadMentions,
        [...conversation.typing.keys()], marks, peer && presence(peer), conversation.id === current, conversation.mutedUntil,
        chat.unsent.filter(({ to }) => to.conversation === conversation.id).map(({ client_id, refused }) => [client_id, refused]),
        shortTime(activity(conversation) || new Date()),
      ]);
      let kept = rows.get(conversation.id);
      if (kept?.signature !== signature) rows.set(conversation.id, (kept = { signature, item: h("li", {}, row(conversation)) }));
      return kept.item;
    }));
    if (focused) list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    drawHits(shown.length);
    const unread = all.filter(({ unread: count }) => count).length;
    document.title = unread ? `(${unread}) chatbe` : "chatbe";
  }

  function drawHits(shown = list.children.length) {
    if (!isLoaded) {
      fill(hits, Array.from({ length: 6 }, () => h("div.skeleton", { "aria-hidden": "true" }, h("i"), h("b"), h("b"))));
      return;
    }
    const messages = found.map(({ message }) => message);
    fill(hits,
      messages.length ? h("h2", {}, "Messages") : null,
      messages.map((message, index) => {
        const conversation = chat.conversations.get(message.conversation);
        return h("a.conversation.hit", { href: `#/c/${message.conversation}/${message.seq}` },
          h("span.text", {},
            h("span.top", {}, h("bdi.name", {}, conversation ? oneLine(titleOf(conversation)) : "Conversation"),
              h("time", {}, shortTime(message.created_at))),
            h("span.preview", {}, `${nameOf(message.sender)}: `, h("bdi", {}, excerpt(found[index].snippet)))));
      }),
      further ? h("button.button.quiet", { type: "button", onclick: () => lookFurther(further) }, "Show more") : null,
      !shown && !messages.length
        ? query
          ? h("p.empty", {}, isLooking ? "Searching…" : "Nothing found.")
          : h("div.empty", {},
              h("p", {}, "No chats yet."),
              h("button.button.primary", { type: "button", onclick: () => newChat(open) }, "Start one"))
        : null);
  }

  // Many events come at a time; one drawing is enough.
  let isDue = false;
  function soon() {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => ((isDue = false), draw()));
  }
  for (const type of ["message", "conversation", "receipt", "typing", "presence", "friends", "unsent", "reset", "muted"]) chat.on(type, soon);
  onPeople(soon);
  // "Yesterday" begins at midnight.
  setInterval(soon, 60_000);

  return {
    element,
    draw,
    focusSearch: () => search.focus(),
    loaded: () => ((isLoaded = true), draw()),
    select: (id) => ((current = id), draw()),
  };
}
