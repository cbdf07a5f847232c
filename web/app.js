/** The page: who is here, what is open, and whether there is a connection. */

import { fill, h, toast } from "./dom.js";
import { entrance } from "./entrance.js";
import { icon } from "./icons.js";
import { oneLine } from "./format.js";
import { chat, contacts, explain, loadPeople, nameOf, postWhatWasNoted } from "./session.js";
import { sidebar } from "./sidebar.js";
import { thread } from "./thread.js";

const root = document.getElementById("app");
let side = null;
let open = null;
let openId = "";
let pane = null;

function welcome(notice) {
  for (const one of document.querySelectorAll("dialog[open]")) one.close();
  document.title = "chatbe";
  open?.destroy();
  open = side = null;
  openId = "";
  entrance(root, enter, notice);
}

function enter() {
  side = sidebar({ open: (id) => (location.hash = `#/c/${id}`) });
  pane = h("main.pane");
  fill(root, h("div.shell", {}, connectionBar(), h("div.columns", {}, side.element, pane)));
  route();
  side.draw();
  postWhatWasNoted();
  chat.connect();
}

function route() {
  if (!side) return;
  const [, id = "", seq] = /^#\/c\/([0-9a-f-]{36})(?:\/(\d+))?$/.exec(location.hash) ?? [];
  root.classList.toggle("is-open", Boolean(id));
  if (id && id === openId) {
    if (seq) open.jump(Number(seq));
    return;
  }
  open?.destroy();
  open = null;
  openId = id;
  side.select(id);
  if (id) {
    open = thread(id, { back: () => (location.hash = ""), seq: seq ? Number(seq) : undefined });
    fill(pane, open.element);
  } else {
    fill(pane, h("div.nothing-open", {},
      h("img", { src: "/static/web/icon.svg", alt: "", width: 72, height: 72 }),
      h("h2", {}, "Pick a chat"),
      h("p", {}, "or search with ", h("kbd", {}, "Ctrl"), " ", h("kbd", {}, "K"))));
  }
}

/** Tells when there is no connection, and when it is tried again. */
function connectionBar() {
  const text = h("span");
  const again = h("button.link", { type: "button", onclick: () => chat.reconnectNow() }, "Try now");
  const bar = h("div.connection", { role: "status", hidden: true }, icon("cloud"), text, again);
  let since = Date.now();
  const draw = () => {
    const { status, retryAt } = chat;
    if (status === "live" || status === "signed-out") since = 0;
    else since ||= Date.now();
    // A change of servers takes a moment, and is nobody's business.
    bar.hidden = !since || (Date.now() - since < 1500 && navigator.onLine);
    const waiting = chat.unsent.filter(({ refused }) => !refused).length;
    const seconds = retryAt ? Math.max(0, Math.ceil((retryAt - Date.now()) / 1000)) : 0;
    const what = navigator.onLine ? "No connection" : "You are offline";
    const said = `${what}. ${waiting ? `${waiting} ${waiting === 1 ? "message waits" : "messages wait"}, and will be sent.` : "You can go on writing."}`;
    if (text.textContent !== said) text.textContent = said;
    again.hidden = !seconds;
    again.textContent = seconds > 1 ? `Try now (${seconds} s)` : "Try now";
  };
  chat.on("status", draw);
  chat.on("unsent", draw);
  setInterval(draw, 500);
  return bar;
}

async function refresh() {
  try {
    await Promise.all([loadPeople(), chat.loadConversations()]);
    side?.loaded();
    for (const { id, lastSeq, lastMessage } of chat.conversations.values()) {
      if (lastMessage && lastMessage.sender !== chat.username) chat.markDelivered(id, lastSeq);
    }
  } catch (error) {
    if (!error?.code) throw error;
    if (error.code !== "signed_out") toast(explain(error), "bad");
  }
}

chat.on("status", ({ status }) => status === "live" && refresh());
chat.on("ended", ({ error }) => {
  if (error.code === "signed_out") welcome(error.message);
  else toast(explain(error), "bad");
});
chat.on("refusal", ({ detail }) => toast(detail, "bad"));
chat.on("failure", ({ error }) => console.error(error));
chat.on("message", ({ message, isNew, live }) => {
  if (isNew && live && message.sender !== chat.username) chat.markDelivered(message.conversation, message.seq);
});
chat.on("contact", ({ username, added, mutual }) => {
  const isNews = added && !mutual && !contacts.has(username);
  loadPeople().then(
    () => isNews && toast(`${oneLine(nameOf(username))} added you to their contacts.`),
    (error) => chat.status === "live" && toast(explain(error), "bad"));
});
// A conversation that begins while the page is open comes without what is mine in it.
chat.on("conversation", ({ id, conversation }) => {
  const { info } = conversation ?? {};
  // Nor is my role among the first hundred members of a large group.
  if (info && (info.role === undefined || info.member_count > info.members.length) && chat.status === "live") {
    chat.loadConversation(id).then(() => side?.draw(), () => undefined);
  }
});

addEventListener("hashchange", route);
addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k" && side) {
    event.preventDefault();
    if (matchMedia("(max-width: 759px)").matches) location.hash = "";
    side.focusSearch();
  } else if (event.key === "Escape" && openId && !document.querySelector("dialog[open], [popover]:popover-open") && matchMedia("(max-width: 759px)").matches) {
    location.hash = "";
  }
});

if (await chat.resume()) enter();
else welcome();
