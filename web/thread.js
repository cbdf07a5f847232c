/** One conversation: its messages, and what one writes. */

import { announce, confirmation, fill, h, menu, toast } from "./dom.js";
import { attempt, groupInfo, readersOf, viewPicture } from "./dialogs.js";
import { avatar, clock, dayOf, fullTime, hue, isEmojiOnly, lastSeen, momentOf, oneLine, rich, size } from "./format.js";
import { icon, ticks } from "./icons.js";
import { blocked, chat, contacts, explain, features, loadPeople, nameOf, onPeople, post, presence, titleOf } from "./session.js";
import { mentions } from "./mentions.js";
import { VirtualList } from "./virtual.js";

const PAGE = 80;
const EARLIER = 200;
const TOGETHER = 5 * 60_000;
const TYPING_EVERY = 3000;
const QUICK = ["👍", "❤️", "😂", "🎉", "😮", "😢"];
const MORE = ["👏", "🙏", "🔥", "💯", "✅", "👀", "🤔", "😍", "🥳", "😅", "😭", "😡", "👎", "💪", "🤝", "🙌", "☕", "🍪", "🌱", "⛵", "🌞", "🌙", "💚", "🧡"];
const MOST_FILES = 10;
const PICTURE = /^image\/(png|jpeg|gif|webp)$/;
const draftKey = (id) => `chatbe-draft/${chat.username}/${id}`;

/** Addresses of files, asked for together. */
const links = new Map();
let asking = null;

/** Addresses are good for some minutes only, so each download asks for one that is. */
function download({ id, name }) {
  return attempt(async () => {
    const [found] = await chat.attachments([id]);
    if (found) h("a", { href: found.url, download: name }).click();
    else toast("This file is no longer there.", "bad");
  });
}

function linksOf(id) {
  const known = links.get(id);
  if (known && new Date(known.expires_at) - Date.now() > 10_000) return Promise.resolve(known);
  if (!asking || asking.ids.size >= 100) {
    const mine = (asking = { ids: new Set(), answer: null });
    mine.answer = new Promise((resolve) => setTimeout(resolve, 30)).then(async () => {
      if (asking === mine) asking = null;
      for (const one of await chat.attachments([...mine.ids])) links.set(one.id, one);
    });
  }
  asking.ids.add(id);
  return asking.answer.then(() => links.get(id));
}

/**
 * @param {string} id
 * @param {{back: () => void, seq?: number}} options
 */
export function thread(id, { back, seq: target }) {
  const offs = [];
  let isGone = false;
  /** The loaded stretch of the history. */
  let from = 0;
  let to = -1;
  let hasOlder = false;
  let hasNewer = false;
  let loading = null;
  let loaded = Promise.resolve();
  let state = "loading";
  let problem = "";
  /** My read mark when I came; null when nothing was unread. */
  let dividerAfter = null;
  let replyTo = null;
  let editing = null;
  let typingSaid = 0;
  let uploads = [];
  let unseen = 0;
  const quoted = new Map();

  const conversation = () => chat.conversations.get(id);
  const peer = () => conversation()?.peer(chat.username) ?? null;
  const isGroup = () => conversation()?.info?.kind === "group";

  // --- the frame ---------------------------------------------------------------------------------------------

  const head = h("header.thread-head");
  const scroller = h("div.scroller", { tabIndex: 0, role: "region", "aria-label": "Messages" });
  const notice = h("div.thread-notice");
  const toEnd = h("button.to-end", { type: "button", hidden: true, "aria-label": "To the newest message", onclick: () => toNewest() }, icon("down"), h("span.badge", { hidden: true }));
  const typingLine = h("div.typing-line", { "aria-live": "polite" });
  const list = new VirtualList(scroller, { render: row, signature, onScroll: scrolled, label: "Messages" });
  const banner = h("div.contact-banner");
  const context = h("div.context");
  const tray = h("div.tray");
  const input = h("textarea", {
    rows: 1, placeholder: "Write a message", "aria-label": "Message", autocomplete: "off", maxLength: 8000,
    enterKeyHint: "send", dir: "auto",
    oninput: written, onkeydown: keyed, onblur: () => stopTyping(),
    onpaste: (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length && features.has("attachments")) (event.preventDefault(), files.forEach(attach));
    },
  });
  const counter = h("span.counter", { "aria-live": "polite" });
  const sendButton = h("button.send", { type: "submit", "aria-label": "Send", title: "Send" }, icon("send"));
  const filePicker = h("input", { type: "file", multiple: true, hidden: true, tabIndex: -1, "aria-label": "Files", onchange: () => ([...filePicker.files].forEach(attach), (filePicker.value = "")) });
  const suggestions = mentions(input, conversation);
  const composer = h("form.composer", { onsubmit: (event) => (event.preventDefault(), submit()) },
    suggestions.list, context, tray,
    h("div.composer-row", {},
      features.has("attachments") ? [filePicker, h("button.icon-button", { type: "button", "aria-label": "Attach files", title: "Attach files", onclick: () => filePicker.click() }, icon("clip"))] : null,
      h("div.input-box", {}, input, counter),
      sendButton));
  const footer = h("footer", {}, composer);
  const element = h("section.thread", { "aria-label": "Conversation" },
    head, banner, h("div.scroll-frame", {}, scroller, notice, toEnd), typingLine, footer);

  if (features.has("attachments")) {
    // Leaving a child is no leaving, so what counts is whether anything still comes.
    let hovering = 0;
    const hover = (isOver) => {
      clearTimeout(hovering);
      if (isOver) hovering = setTimeout(() => hover(false), 200);
      element.classList.toggle("is-target", isOver);
    };
    element.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      hover(true);
    });
    element.addEventListener("drop", (event) => {
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      hover(false);
      [...event.dataTransfer.files].forEach(attach);
    });
  }

  // --- loading -----------------------------------------------------------------------------------------------

  async function load(around) {
    state = "loading";
    draw();
    try {
      if (!conversation()?.info || conversation().info.role === undefined) await chat.loadConversation(id);
      const held = conversation();
      if (isGone) return;
      // An empty page says nothing of what is told while it is on its way.
      const { lastSeq } = held;
      const page = await chat.history(id, around ? { before: around + PAGE / 2, limit: PAGE } : { limit: PAGE });
      if (isGone) return;
      const seqs = page.messages.map(({ seq }) => seq);
      from = seqs[0] ?? lastSeq + 1;
      to = seqs.at(-1) ?? lastSeq;
      hasOlder = page.previous;
      hasNewer = page.next;
      const read = held.marks.get(chat.username)?.read ?? 0;
      dividerAfter = held.unread ? read : null;
      state = "ready";
      if (!hasNewer) extend();
      drawHead();
      list.isAtEnd = !around;
      draw();
      if (around) reveal(around);
      else if (dividerAfter !== null && dividerAfter + 1 > from) list.scrollTo(keyOf(firstUnread()));
      seen();
    } catch (error) {
      if (!error?.code) throw error;
      if (isGone) return;
      state = "failed";
      problem = error.code === "not_found" ? "This conversation does not exist, or you are not in it." : explain(error);
      draw();
    }
  }

  function firstUnread() {
    const { messages } = conversation();
    for (let seq = Math.max(from, dividerAfter + 1); seq <= to; seq += 1) {
      const message = messages.get(seq);
      if (message && message.sender !== chat.username) return message;
    }
    return messages.get(to);
  }

  /** Take in what the stream has brought after the loaded stretch. */
  function extend() {
    const held = conversation();
    while (held.messages.has(to + 1)) to += 1;
    if (held.lastSeq > to && state === "ready") more("after");
  }

  async function more(direction) {
    if (loading || state !== "ready") return;
    loading = direction;
    notice.classList.toggle("is-loading", direction === "before");
    try {
      if (direction === "before") {
        const page = await chat.history(id, { before: from, limit: EARLIER });
        if (page.messages[0]) from = page.messages[0].seq;
        hasOlder = page.more;
      } else {
        const page = await chat.history(id, { after: to, limit: PAGE });
        if (page.messages.length) to = page.messages.at(-1).seq;
        hasNewer = page.more;
      }
    } catch (error) {
      if (!error?.code) throw error;
      toast(explain(error), "bad");
      await new Promise((resolve) => setTimeout(resolve, 2000));
    } finally {
      loading = null;
      notice.classList.remove("is-loading");
    }
    if (!isGone) draw();
  }

  async function toNewest() {
    unseen = 0;
    if (hasNewer) await load();
    list.scrollToEnd();
    scrolled();
    input.focus();
  }

  async function jump(seq) {
    if (seq < from || seq > to) await load(seq);
    else reveal(seq);
  }

  function reveal(seq) {
    const message = conversation().messages.get(seq);
    if (!message || !list.scrollTo(keyOf(message))) return;
    const one = list.element(keyOf(message));
    one?.classList.add("flash");
    one?.focus({ preventScroll: true });
    setTimeout(() => one?.classList.remove("flash"), 1600);
  }

  function scrolled() {
    if (state !== "ready") return;
    const [first, last] = list.seen();
    if (hasOlder && first < 25) more("before");
    if (hasNewer && last > list.items.length - 25) more("after");
    if (list.isAtEnd && !hasNewer) unseen = 0;
    toEnd.hidden = list.isAtEnd && !hasNewer;
    const badge = toEnd.querySelector(".badge");
    badge.hidden = !unseen;
    badge.textContent = String(unseen);
    seen();
  }

  /** Move my read mark to what I can see. */
  function seen() {
    if (state !== "ready" || document.visibilityState !== "visible" || !document.hasFocus() || !element.checkVisibility()) return;
    const [, last] = list.seen();
    const seq = list.isAtEnd && !hasNewer ? to : list.items[last]?.message?.seq;
    if (seq) chat.markRead(id, seq);
  }

  // --- rows --------------------------------------------------------------------------------------------------

  function keyOf(message) {
    return message.sender === chat.username && message.client_id ? message.client_id : `s${message.seq}`;
  }

  function items() {
    const held = conversation();
    const result = [];
    const known = new Set();
    const least = leastMarks(held);
    let previous = null;
    const add = (item) => {
      const { message } = item;
      item.at = momentOf(message);
      item.day = !previous || previous.at.day !== item.at.day;
      item.divider = dividerAfter !== null && message.seq > dividerAfter && (!previous || previous.message.seq <= dividerAfter) && message.sender !== chat.username;
      item.isFirst = item.day || item.divider || !previous || previous.message.sender !== message.sender || previous.message.kind !== message.kind
        || item.at.time - previous.at.time > TOGETHER;
      item.isLast = true;
      if (previous) previous.isLast = item.isFirst;
      previous = item;
      result.push(item);
    };
    for (let seq = from; seq <= to; seq += 1) {
      const message = held.messages.get(seq);
      if (!message) continue;
      if (message.client_id) known.add(message.client_id);
      add({ key: keyOf(message), message, state: message.sender === chat.username ? progress(least, message) : "" });
    }
    if (!hasNewer) {
      for (const unsent of chat.unsent) {
        const isHere = unsent.to.conversation === id || (unsent.to.username && unsent.to.username === peer());
        if (!isHere || known.has(unsent.client_id)) continue;
        add({
          key: unsent.client_id, unsent, state: unsent.refused ? "refused" : "waiting",
          message: {
            seq: Infinity, rev: 0, kind: "text", sender: chat.username, body: unsent.body, client_id: unsent.client_id,
            reply_to: unsent.reply_to, reactions: {}, created_at: unsent.created_at, edited_at: null, deleted_at: null,
            attachments: unsent.attachments?.map((file) => links.get(file) ?? unknownFile(file)),
          },
        });
      }
    }
    return result;
  }

  /** A file of a message that waits since an earlier run of the page. */
  function unknownFile(file) {
    linksOf(file).then((found) => found && soon(), () => undefined);
    return { id: file, name: "File", content_type: "", size: 0, width: null, height: null, thumbnail: false };
  }

  /** What a row is drawn anew for. */
  function signature({ message, state: progressed, day: isNewDay, divider, isFirst, isLast }) {
    return [
      message.rev, progressed, !message.rev && message.attachments?.map(({ name }) => name), isNewDay && dayOf(message.created_at), divider, isFirst, isLast, nameOf(message.sender),
      message.reply_to && (conversation()?.messages.get(message.reply_to) ?? quoted.get(message.reply_to))?.rev,
    ].join();
  }

  /** What all others have read and got; null where that is not told. */
  function leastMarks(held) {
    const others = (held.info?.members ?? []).filter(({ username }) => username !== chat.username);
    if (!others.length || held.info.member_count > 100) return null;
    const marks = others.map(({ username }) => held.marks.get(username) ?? { read: 0, delivered: 0 });
    return { read: Math.min(...marks.map(({ read }) => read)), delivered: Math.min(...marks.map(({ delivered }) => delivered)) };
  }

  function progress(least, { seq }) {
    if (!least || seq > least.delivered) return "sent";
    return seq > least.read ? "delivered" : "read";
  }

  const STATES = { waiting: "Waiting to be sent", sent: "Sent", delivered: "Delivered", read: "Read", refused: "Not sent" };

  function row(item) {
    const { message, state: progressed, unsent } = item;
    const isMine = message.sender === chat.username;
    if (message.kind !== "text") {
      return h("li.row.system", { tabIndex: -1 }, item.day && day(message), h("p", {}, message.body ?? ""));
    }
    const name = oneLine(nameOf(message.sender));
    const isDeleted = Boolean(message.deleted_at);
    const isBig = !isDeleted && message.body && isEmojiOnly(message.body) && !message.attachments?.length;
    const who = isMine ? "You" : name;
    const files = isDeleted ? [] : message.attachments ?? [];
    const isEdited = message.edited_at && !isDeleted;
    const room = `${isEdited ? "edited  " : ""}${clock(message.created_at)}`;
    const meta = h("span.meta", {},
      isEdited ? h("span.edited", {}, "edited") : null,
      h("time", { dateTime: message.created_at, title: fullTime(message.created_at) }, clock(message.created_at)),
      isMine && !isDeleted
        ? h(`span.state.${progressed}`, { role: "img", "aria-label": STATES[progressed], title: STATES[progressed] },
            progressed === "waiting" ? icon("clock") : progressed === "refused" ? icon("warning") : ticks(progressed === "sent" ? 1 : 2))
        : null);
    const bubble = h(`div.bubble${isBig ? ".big" : ""}${isDeleted ? ".deleted" : ""}${files.length ? ".has-files" : ""}`, {},
      !isMine && isGroup() && item.isFirst ? h(`bdi.sender.ink-${hue(message.sender ?? "")}`, {}, name) : null,
      message.reply_to && !isDeleted ? quote(message.reply_to) : null,
      isDeleted
        ? h("p.body", { "data-meta": room }, isMine ? "You deleted this message" : "This message was deleted")
        : message.body ? h("p.body", { dir: "auto", "data-meta": room }, rich(message.body, message.mentions)) : null,
      files.map(attachment),
      meta);
    const actions = unsent || isDeleted ? null : h("button.icon-button.row-menu", {
      type: "button", tabIndex: -1, "aria-label": "Actions", title: "Actions", "aria-haspopup": "menu",
      onclick: ({ currentTarget }) => openMenu(message, currentTarget),
    }, icon("more"));
    const element = h(`li.row.${isMine ? "mine" : "theirs"}${item.isFirst ? ".first" : ""}${item.isLast ? ".last" : ""}`, {
      tabIndex: -1, "aria-label": `${who}: ${isDeleted ? "deleted" : message.body ?? ""}, ${clock(message.created_at)}${isMine ? `, ${STATES[progressed]}` : ""}`,
      onkeydown: (event) => onRowKey(event, item),
    },
      item.day && day(message),
      item.divider && h("div.divider", { role: "separator" }, h("span", {}, "New messages")),
      h("div.line", {},
        !isMine && isGroup() ? (item.isLast ? avatar(name, message.sender ?? "") : h("span.avatar.none")) : null,
        bubble, actions),
      reactions(message),
      progressed === "refused"
        ? h("div.refused", { role: "alert" }, h("span", {}, reason(unsent.refused)),
            h("button.link", { type: "button", onclick: () => chat.resend(unsent.client_id).catch(() => undefined) }, "Try again"),
            h("button.link", { type: "button", onclick: () => chat.discard(unsent.client_id) }, "Delete"))
        : null);
    touchMenu(element, message, unsent || isDeleted);
    return element;
  }

  function reason({ code, detail }) {
    if (code === "not_contact") return "Not sent: add them to your contacts first.";
    if (code === "blocked") return "Not sent: they do not take messages from you.";
    return `Not sent: ${detail}`;
  }

  function day(message) {
    return h("div.day", { role: "separator" }, h("span", {}, dayOf(message.created_at)));
  }

  function quote(seq) {
    const original = conversation().messages.get(seq) ?? quoted.get(seq);
    if (!original && !quoted.has(seq)) {
      quoted.set(seq, null);
      chat.history(id, { after: seq - 1, limit: 1 }).then(
        ({ messages: [found] }) => (quoted.set(seq, found?.seq === seq ? found : null), draw()),
        () => quoted.delete(seq));
    }
    return h("button.quote", { type: "button", tabIndex: -1, "aria-label": "Show the message that this answers", onclick: () => jump(seq) },
      h("b", {}, original ? oneLine(original.sender === chat.username ? "You" : nameOf(original.sender)) : "…"),
      h("bdi", {}, original ? (original.deleted_at ? "Deleted message" : oneLine(original.body || "Attachment")) : "An earlier message"));
  }

  function reactions(message) {
    const all = Object.entries(message.reactions ?? {});
    if (!all.length || message.deleted_at) return null;
    return h("div.reactions", {}, all.map(([emoji, { count, usernames }]) => {
      const isMine = usernames.includes(chat.username);
      return h("button.reaction", {
        type: "button", tabIndex: -1, "aria-pressed": String(isMine), title: usernames.map(nameOf).join(", "), "aria-label": `${emoji}, ${count}`,
        onclick: () => attempt(() => chat.react(id, message.seq, emoji, !isMine)),
      }, emoji, h("span", {}, String(count)));
    }));
  }

  function attachment(one) {
    const name = oneLine(one.name);
    const isPicture = one.thumbnail || one.content_type.startsWith("image/");
    const button = h(isPicture ? "button.picture" : "button.file", {
      type: "button", tabIndex: -1, "aria-label": isPicture ? `Show ${name}` : `Download ${name}`,
      onclick: () => (isPicture ? viewPicture(one) : download(one)),
    });
    if (!isPicture) {
      button.append(icon("file"), h("span.text", {}, h("bdi", {}, name), h("small", {}, one.size ? size(one.size) : "")));
      return button;
    }
    const picture = h("img", { alt: name, decoding: "async", draggable: false });
    const scale = Math.min(1, 320 / Math.max(one.width ?? 320, one.height ?? 320));
    if (one.width && one.height) (picture.width = Math.round(one.width * scale), picture.height = Math.round(one.height * scale));
    linksOf(one.id).then((found) => found && (picture.src = found.thumbnail_url ?? found.url), () => undefined);
    button.append(picture);
    return button;
  }

  // --- what can be done with a message ---------------------------------------------------------------------

  function openMenu(message, anchor) {
    const isMine = message.sender === chat.username;
    const role = conversation().info?.role;
    const canChange = features.has("changes");
    let close = () => undefined;
    const choice = (emoji) => {
      const isOn = message.reactions?.[emoji]?.usernames.includes(chat.username) ?? false;
      return h("button", {
        type: "button", role: "menuitemcheckbox", "aria-checked": String(isOn), "aria-label": `React with ${emoji}`,
        onclick: () => (close(), attempt(() => chat.react(id, message.seq, emoji, !isOn))),
      }, emoji);
    };
    const quick = h("div.quick", { role: "group", "aria-label": "React" }, QUICK.map(choice), h("button.more", {
      type: "button", role: "menuitem", "aria-label": "More reactions", title: "More reactions",
      onclick: ({ currentTarget }) => {
        const more = MORE.map(choice);
        currentTarget.replaceWith(...more);
        quick.classList.add("all");
        more[0].focus();
      },
    }, icon("plus")));
    const react = canChange ? quick : null;
    close = menu(anchor, "Message actions", [
      react,
      { label: "Reply", icon: icon("reply"), run: () => answer(message) },
      message.body && { label: "Copy text", icon: icon("copy"), run: () => navigator.clipboard.writeText(message.body).then(() => toast("Copied.")) },
      isMine && isGroup() && { label: "Read by", icon: icon("people"), run: () => readersOf(id, message.seq) },
      canChange && isMine && message.body && { label: "Edit", icon: icon("edit"), run: () => edit(message) },
      canChange && (isMine || (isGroup() && role && role !== "member")) && {
        label: "Delete", icon: icon("trash"), danger: true,
        run: () => confirmation("Delete this message?", "It is deleted for everyone.", "Delete", () => attempt(() => chat.delete(id, message.seq))),
      },
    ]);
  }

  function touchMenu(element, message, isNone) {
    if (isNone) return;
    let timer;
    element.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch") timer = setTimeout(() => openMenu(message, element.querySelector(".bubble")), 450);
    });
    for (const type of ["pointerup", "pointercancel", "pointermove"]) element.addEventListener(type, () => clearTimeout(timer));
  }

  function onRowKey(event, { message, unsent }) {
    if (event.target !== event.currentTarget) return;
    const at = list.places.get(keyOf(message));
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step) {
      event.preventDefault();
      focusRow(at + step);
    } else if ((event.key === "Enter" || event.key === " ") && !unsent && !message.deleted_at && message.kind === "text") {
      event.preventDefault();
      openMenu(message, event.currentTarget);
    } else if (event.key === "Escape") {
      input.focus();
    } else if (event.key === "r" && !event.ctrlKey && !event.metaKey && !unsent) {
      event.preventDefault();
      answer(message);
    }
  }

  function focusRow(at) {
    const item = list.items[at];
    if (!item) {
      if (at >= list.items.length) input.focus();
      return;
    }
    if (!list.element(item.key)) list.scrollTo(item.key);
    const one = list.element(item.key);
    one.focus({ preventScroll: true });
    one.scrollIntoView({ block: "nearest" });
  }

  scroller.addEventListener("keydown", (event) => {
    if (event.target === scroller && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      event.preventDefault();
      focusRow(list.seen()[1]);
    }
  });

  function answer(message) {
    editing = null;
    replyTo = message;
    drawContext();
    input.focus();
  }

  function edit(message) {
    replyTo = null;
    editing = message;
    input.value = message.body;
    written();
    drawContext();
    input.focus();
  }

  function drawContext() {
    const message = editing ?? replyTo;
    context.hidden = !message;
    if (!message) return void fill(context);
    fill(context, icon(editing ? "edit" : "reply"),
      h("span.text", {}, h("b", {}, editing ? "Edit message" : `Reply to ${message.sender === chat.username ? "yourself" : oneLine(nameOf(message.sender))}`), h("bdi", {}, oneLine(message.body || "Attachment"))),
      h("button.icon-button.small", { type: "button", "aria-label": "Cancel", title: "Cancel", onclick: cancel }, icon("close")));
  }

  function cancel() {
    if (editing) input.value = "";
    editing = replyTo = null;
    drawContext();
    written();
    input.focus();
  }

  // --- writing -----------------------------------------------------------------------------------------------

  function length() {
    return [...input.value].length;
  }

  function written() {
    input.style.height = "auto";
    input.style.height = `${Math.min(input.scrollHeight, 180)}px`;
    const limit = chat.limits.max_body_characters ?? 4000;
    const left = limit - length();
    counter.textContent = left < 200 ? String(left) : "";
    counter.classList.toggle("over", left < 0);
    sendButton.disabled = left < 0 || (!input.value.trim() && !uploads.some(({ done }) => done));
    if (editing) return;
    if (input.value) sessionStorage.setItem(draftKey(id), input.value);
    else sessionStorage.removeItem(draftKey(id));
    const now = Date.now();
    if (!input.value.trim()) stopTyping();
    else if (now - typingSaid > TYPING_EVERY) {
      typingSaid = now;
      chat.typing(id);
    }
  }

  function stopTyping() {
    if (typingSaid) chat.typing(id, false);
    typingSaid = 0;
  }

  function keyed(event) {
    if (event.isComposing || suggestions.takes(event)) return;
    if (event.key === "Enter" && !event.shiftKey && !matchMedia("(pointer: coarse)").matches) {
      event.preventDefault();
      submit();
    } else if (event.key === "Escape" && (editing || replyTo)) {
      event.stopPropagation();
      cancel();
    } else if (event.key === "ArrowUp" && !input.value) {
      event.preventDefault();
      // The history may still be on its way.
      loaded.then(() => document.activeElement === input && upwards());
    }
  }

  /** To the message that is most likely meant: my own last one, to edit it, if nobody has answered since. */
  function upwards() {
    const last = list.items.at(-1);
    if (last && features.has("changes") && !last.unsent && last.message.sender === chat.username && !last.message.deleted_at && last.message.body) edit(last.message);
    else focusRow(list.items.length - 1);
  }

  async function submit() {
    const body = input.value;
    if (sendButton.disabled) return;
    if (editing) {
      const message = editing;
      cancel();
      if (body === message.body || (await attempt(() => chat.edit(id, message.seq, body))) || isGone || editing || input.value) return;
      // What was written is not lost.
      edit(message);
      input.value = body;
      written();
      return;
    }
    if (uploads.some(({ done }) => !done)) return void toast("Files are still on their way.");
    const attachments = uploads.map(({ done }) => done.id);
    for (const upload of uploads) forget(upload);
    stopTyping();
    post({ to: { conversation: id }, body, reply_to: replyTo?.seq ?? null, attachments });
    dividerAfter = null;
    replyTo = null;
    input.value = "";
    sessionStorage.removeItem(draftKey(id));
    drawContext();
    written();
    if (hasNewer) await load();
    list.scrollToEnd();
    input.focus();
  }

  function attach(file) {
    if (uploads.length >= MOST_FILES) return void toast(`A message takes ${MOST_FILES} files.`);
    const upload = {
      file, sent: 0, done: null, stop: new AbortController(),
      preview: PICTURE.test(file.type) ? URL.createObjectURL(file) : null,
      bar: h("progress", { max: 1, value: 0, "aria-label": `Uploading ${oneLine(file.name)}` }),
    };
    uploads.push(upload);
    drawTray();
    chat.upload(file, { signal: upload.stop.signal, onProgress: (sent, total) => (upload.bar.value = sent / total) }).then(
      (answered) => {
        links.set(answered.id, answered);
        upload.done = answered;
        drawTray();
      },
      (error) => {
        if (upload.stop.signal.aborted) return;
        forget(upload);
        toast(`${oneLine(file.name)}: ${explain(error)}`, "bad");
      });
  }

  function forget(upload) {
    uploads = uploads.filter((other) => other !== upload);
    if (upload.preview) URL.revokeObjectURL(upload.preview);
    drawTray();
  }

  function drawTray() {
    tray.hidden = !uploads.length;
    fill(tray, uploads.map((upload) => {
      const name = oneLine(upload.file.name);
      return h("div.upload", {},
        upload.preview ? h("img", { src: upload.preview, alt: "", width: 40, height: 40 }) : icon("file"),
        h("span.text", {}, h("bdi", { title: name }, name), upload.done ? h("small", {}, size(upload.done.size)) : upload.bar),
        h("button.icon-button.small", {
          type: "button", "aria-label": `Remove ${name}`, title: "Remove",
          onclick: () => {
            upload.stop.abort();
            if (upload.done) attempt(() => chat.request("DELETE", `/v1/attachments/${upload.done.id}`));
            forget(upload);
            input.focus();
          },
        }, icon("close")));
    }));
    written();
  }

  // --- around it -------------------------------------------------------------------------------------------

  function drawHead() {
    const held = conversation();
    const other = peer();
    const title = held?.info ? oneLine(titleOf(held)) : "";
    const typing = [...(held?.typing.keys() ?? [])];
    const status = !held?.info ? "" : typing.length
      ? isGroup() ? `${nameOf(typing[0])} is typing…` : "typing…"
      : isGroup() ? `${held.info.member_count} members`
      : presence(other) === null ? `@${other ?? "deleted"}`
      : presence(other) ? "Online" : lastSeen(chat.friends.get(other)?.last_seen);
    const isOnline = other ? presence(other) : null;
    fill(head,
      h("button.icon-button.back", { type: "button", "aria-label": "Back to chats", onclick: back }, icon("back")),
      held?.info ? avatar(title, other ?? id, { online: isOnline, group: isGroup() }) : null,
      h("div.text", {}, h("h2", { title }, h("bdi", {}, title)),
        h(`p.status${typing.length ? ".typing-text" : isOnline ? ".online" : ""}`, {}, status)),
      held?.info ? h("button.icon-button", { type: "button", "aria-label": "More", title: "More", "aria-haspopup": "menu", onclick: ({ currentTarget }) => headMenu(currentTarget) }, icon("more")) : null);
    drawBanner(other);
  }

  function drawBanner(other) {
    const isKnown = !other || contacts.has(other) || state !== "ready";
    const isBlocked = other && blocked.has(other);
    composer.inert = Boolean(isBlocked) || (state === "failed" && !conversation()?.info);
    banner.hidden = isKnown && !isBlocked;
    fill(banner, banner.hidden ? null : isBlocked
      ? [h("p", {}, "You blocked ", h("bdi", {}, oneLine(nameOf(other))), "."), h("button.button.small", { type: "button", onclick: () => change(() => chat.unblock(other)) }, "Unblock")]
      : [h("p", {}, h("bdi", {}, oneLine(nameOf(other))), " is not among your contacts."),
         h("button.button.small.primary", { type: "button", onclick: () => change(() => chat.addContact(other)) }, "Add"),
         h("button.button.small", { type: "button", onclick: () => block(other) }, "Block")]);
  }

  async function change(work, done) {
    if (await attempt(work, done)) await attempt(loadPeople);
  }

  function block(other) {
    confirmation(`Block ${oneLine(nameOf(other))}?`, "They can no longer write to you here, and neither of you sees whether the other is online.", "Block", () => change(() => chat.block(other)));
  }

  function headMenu(anchor) {
    const other = peer();
    const held = conversation();
    const isMuted = held.mutedUntil && new Date(held.mutedUntil) > new Date();
    menu(anchor, "Conversation", [
      isGroup() && { label: "Group and members", icon: icon("people"), run: () => groupInfo(held) },
      features.has("groups") && {
        label: isMuted ? "Unmute" : "Mute for a week", icon: icon("clock"),
        run: () => attempt(() => chat.mute(id, isMuted ? null : new Date(Date.now() + 7 * 86_400_000).toISOString())),
      },
      other && !contacts.has(other) && { label: "Add to contacts", icon: icon("plus"), run: () => change(() => chat.addContact(other)) },
      other && contacts.has(other) && { label: "Remove from contacts", icon: icon("trash"), run: () => change(() => chat.removeContact(other)) },
      other && (blocked.has(other)
        ? { label: "Unblock", icon: icon("block"), run: () => change(() => chat.unblock(other)) }
        : { label: "Block", icon: icon("block"), danger: true, run: () => block(other) }),
    ]);
  }

  function draw() {
    if (isGone) return;
    scroller.hidden = state === "failed";
    if (state === "failed") {
      fill(notice, h("div.empty", {}, icon("warning"), h("p", {}, problem), h("button.button", { type: "button", onclick: () => load(target) }, "Try again")));
    } else if (state === "loading" && !list.items.length) {
      fill(notice, h("div.loading", { role: "status", "aria-label": "Loading" }, h("i"), h("i"), h("i")));
    } else if (state === "ready") {
      const all = items();
      list.set(all);
      const title = conversation() ? oneLine(titleOf(conversation())) : "";
      fill(notice, all.length
        ? h("span.older", {}, "Loading earlier messages…")
        : h("div.empty", {}, avatar(title, peer() ?? id), h("p", {}, "Say hello to ", h("bdi", {}, title), ".")));
      notice.classList.toggle("covers", !all.length);
      toEnd.hidden = list.isAtEnd && !hasNewer;
    }
    notice.classList.toggle("covers", state !== "ready" || !list.items.length);
    const typing = [...(conversation()?.typing.keys() ?? [])];
    fill(typingLine, typing.length ? [h("span.dots", { "aria-hidden": "true" }, h("i"), h("i"), h("i")), h("bdi", {}, oneLine(nameOf(typing[0]))), typing.length > 1 ? `and ${typing.length - 1} more are typing` : "is typing"] : null);
  }

  let isDue = false;
  function soon() {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
      isDue = false;
      if (isGone) return;
      if (state === "ready" && !conversation()?.info) {
        state = "failed";
        problem = "You are no longer in this conversation.";
      }
      draw();
      drawHead();
      seen();
    });
  }

  offs.push(
    chat.on("message", ({ message, isNew, live }) => {
      if (message.conversation !== id) return;
      if (state === "ready" && !hasNewer && message.seq > to) extend();
      if (isNew && live && message.sender !== chat.username && message.kind === "text") {
        announce(`${nameOf(message.sender)}: ${message.body ?? ""}`);
        if (!list.isAtEnd || hasNewer) unseen += 1;
        if (list.isAtEnd && !document.hasFocus() && dividerAfter === null) dividerAfter = message.seq - 1;
        scrolled();
      }
      soon();
    }),
    // Who was removed may be added again.
    chat.on("conversation", ({ id: changed, conversation: held }) => changed === id && (held && state === "failed" ? load() : soon())),
    chat.on("receipt", ({ conversation: changed }) => changed === id && soon()),
    chat.on("typing", ({ conversation: changed }) => changed === id && soon()),
    chat.on("presence", soon),
    chat.on("friends", soon),
    chat.on("unsent", soon),
    chat.on("reset", ({ conversation: changed }) => (changed === id || changed === null) && load()),
    chat.on("status", ({ status }) => status === "live" && (state === "failed" ? load(target) : extendIfReady())),
    onPeople(soon),
  );

  function extendIfReady() {
    if (state === "ready" && !hasNewer && conversation()) (extend(), soon());
  }

  const looked = () => seen();
  addEventListener("focus", looked);
  document.addEventListener("visibilitychange", looked);
  const clockTimer = setInterval(drawHead, 60_000);

  input.value = sessionStorage.getItem(draftKey(id)) ?? "";
  drawContext();
  drawTray();
  drawHead();
  loaded = load(target);
  queueMicrotask(() => (written(), matchMedia("(pointer: fine)").matches && input.focus()));

  return {
    element,
    jump,
    destroy() {
      isGone = true;
      stopTyping();
      offs.forEach((off) => off());
      removeEventListener("focus", looked);
      document.removeEventListener("visibilitychange", looked);
      clearInterval(clockTimer);
      list.destroy();
      for (const { stop, preview } of uploads) {
        stop.abort();
        if (preview) URL.revokeObjectURL(preview);
      }
    },
  };
}
