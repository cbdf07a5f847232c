// A complete chat with one person, on chatbe's JavaScript client.
//
// index.html names the chatbe; there it is the one that `make run` starts. The client is taken from it, so there is
// nothing to install. Messages are put into the page as text, never as HTML.

// Never from the page's address: a link could name a server of somebody else's, whose script would run here.
const server = document.querySelector('meta[name="chatbe-server"]').content;
const { Client } = await import(`${server}/static/chatbe/chatbe.js`);

const chat = new Client({ url: server, device: "A small web page" });
const at = (id) => document.getElementById(id);

// --- signing in: the session is kept in IndexedDB, so a reload goes on with it ---

at("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  at("problem").textContent = "";
  try {
    await chat.signIn(Object.fromEntries(new FormData(event.target)));
    enter();
  } catch (error) {
    at("problem").textContent = error.status === 401 ? "That name and password do not match." : error.message;
  }
});

// Only now: before, the browser would send the form itself, with the password in the address.
at("sign-in").querySelector("button").disabled = false;

function enter() {
  at("sign-in").hidden = true;
  at("chat").hidden = false;
  chat.connect(); // and it comes back by itself, whenever the connection is lost
}

// --- the conversation: what the client holds is the truth, drawn anew when it changes ---

let conversation = null;

at("peer").addEventListener("change", async () => {
  try {
    conversation = (await chat.openDirect(at("peer").value.trim())).id;
    await chat.history(conversation);
    draw();
  } catch (error) {
    at("status").textContent = error.message;
  }
});

function draw() {
  const held = chat.conversations.get(conversation);
  if (!held) return;
  const messages = [...held.messages.values()].sort((one, other) => one.seq - other.seq);
  const stored = messages.map(({ sender, body, deleted_at }) => line(deleted_at ? "(deleted)" : body, sender === chat.username ? "mine" : ""));
  const waiting = chat.unsent.filter(({ to }) => to.conversation === conversation).map(({ body }) => line(body, "mine waiting"));
  at("messages").replaceChildren(...stored, ...waiting);
  const peer = held.peer(chat.username);
  at("status").textContent = held.typing.has(peer) ? "is typing…" : chat.friends.get(peer)?.online ? "online" : "";
  if (held.lastSeq) chat.markRead(conversation, held.lastSeq);
}

function line(text, className) {
  const item = document.createElement("li");
  item.textContent = text;
  item.className = className;
  return item;
}

for (const event of ["message", "unsent", "typing", "presence", "friends", "reset"]) chat.on(event, draw);
chat.on("ended", ({ error }) => ((at("problem").textContent = error.message), (at("chat").hidden = true), (at("sign-in").hidden = false)));

// --- writing ---

at("body").addEventListener("input", () => conversation && chat.typing(conversation));
at("write").addEventListener("submit", (event) => {
  event.preventDefault();
  const body = at("body").value.trim();
  if (!body || !conversation) return;
  at("body").value = "";
  // It is shown as waiting until it is stored; a refusal says why.
  chat.send({ to: { conversation }, body }).catch((error) => (at("status").textContent = error.message));
});

if (await chat.resume()) enter();
