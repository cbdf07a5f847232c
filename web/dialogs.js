/** New chats and groups, people, settings and devices. */

import { confirmation, debounce, dialog, fill, h, menu, toast } from "./dom.js";
import { avatar, dateOf, lastSeen, oneLine, size } from "./format.js";
import { icon } from "./icons.js";
import { blocked, chat, contacts, explain, features, learn, loadPeople, nameOf, onPeople, presence, requests, titleOf } from "./session.js";

/** Do something that the server may refuse; whether it was done. */
export async function attempt(work, done) {
  try {
    await work();
  } catch (error) {
    if (!error?.code) throw error;
    toast(explain(error), "bad");
    return false;
  }
  if (done) toast(done);
  return true;
}

/** Fill a place; where that fails, it says so in place of "Loading…". */
async function load(place, work) {
  if (!(await attempt(work)) && place.querySelector(".loads")) {
    fill(place, h(`${place.matches("ul") ? "li" : "p"}.muted`, {}, "This could not be loaded."));
  }
}

function person(username, ...more) {
  const name = oneLine(nameOf(username));
  return h("li.person", {},
    avatar(name, username, { online: presence(username) }),
    h("span.text", {}, h("bdi.name", {}, name), h("span.muted", {}, `@${username}`)),
    ...more);
}

/** Find somebody to chat with, answer those who ask, or make a group. */
export function newChat(open) {
  dialog("New chat", (close) => {
    let people = [];
    const chosen = new Set();
    let isGroup = false;
    const asking = h("section", { "aria-label": "Who added you" });
    const list = h("ul.people", { "aria-label": "People" });
    const title = h("input", { placeholder: "Name of the group", "aria-label": "Name of the group", maxLength: 100, oninput: draw });
    const make = h("button.button.primary", { type: "submit" }, "Create group");
    const bottom = h("form.group-bar", {
      onsubmit: (event) => {
        event.preventDefault();
        attempt(async () => {
          const conversation = await chat.createGroup({ title: title.value.trim(), members: [...chosen] });
          close();
          open(conversation.id);
        });
      },
    }, title, make);
    const search = h("input", {
      type: "search", placeholder: "Find people by username", "aria-label": "Find people by username", autocomplete: "off",
      autocapitalize: "none", spellcheck: false, autofocus: true, oninput: () => (draw(), look()),
    });
    const groupSwitch = features.has("groups")
      ? h("button.button.quiet", { type: "button", "aria-pressed": "false", onclick: () => ((isGroup = !isGroup), draw()) }, icon("people"), "New group")
      : null;
    const look = debounce(async () => {
      const asked = search.value.trim().toLowerCase();
      people = [];
      if (asked) {
        await attempt(async () => {
          const users = await chat.findUsers(asked);
          users.forEach(learn);
          if (asked === search.value.trim().toLowerCase()) people = users.map(({ username }) => username);
        });
      }
      draw();
    }, 200);

    function draw() {
      const asked = search.value.trim().toLowerCase();
      const mine = [...contacts.keys()].filter((name) => name.includes(asked) || nameOf(name).toLowerCase().includes(asked));
      const others = people.filter((name) => !contacts.has(name) && name !== chat.username);
      groupSwitch?.setAttribute("aria-pressed", String(isGroup));
      bottom.hidden = !isGroup;
      make.disabled = !title.value.trim() || !chosen.size;
      asking.hidden = isGroup || Boolean(asked) || !requests.length;
      fill(asking, h("h3", {}, "Added you"), h("ul.people", {}, requests.map(({ username }) => person(username,
        h("button.button.small.primary", { type: "button", "aria-label": `Accept ${username}`, onclick: () => change(() => chat.addContact(username)) }, "Accept"),
        h("button.icon-button.small", { type: "button", title: "Block", "aria-label": `Block ${username}`, onclick: () => change(() => chat.block(username)) }, icon("block"))))));
      fill(list,
        !isGroup && !asked && requests.length && mine.length ? h("li", {}, h("h3", {}, "Your contacts")) : null,
        mine.map((username) => isGroup ? choice(username, chosen, draw) : person(username,
          h("button.button.small.primary", { type: "button", "aria-label": `Chat with ${username}`, onclick: () => start(username) }, "Chat"),
          h("button.icon-button.small", {
            type: "button", title: "Remove from contacts", "aria-label": `Remove ${username} from contacts`,
            onclick: () => change(() => chat.removeContact(username)),
          }, icon("trash")))),
        isGroup ? null : others.map((username) => person(username,
          h("button.button.small", { type: "button", "aria-label": `Add ${username}`, onclick: () => change(() => chat.addContact(username)) }, icon("plus"), "Add"))),
        !mine.length && !others.length && asking.hidden
          ? h("li.empty", {}, asked ? "Nobody found." : "No contacts yet. Find people by their username.")
          : null);
    }

    async function change(work) {
      if (await attempt(work)) await attempt(loadPeople);
      draw();
      // The button that was pressed may be gone.
      if (!element().contains(document.activeElement)) search.focus();
    }

    const element = () => search.closest("dialog");

    async function start(username) {
      await attempt(async () => {
        const conversation = await chat.openDirect(username);
        close();
        open(conversation.id);
      });
    }

    const off = onPeople(() => (search.isConnected ? draw() : off()));
    draw();
    return h("div.stack", {}, h("div.search", {}, icon("search"), search), groupSwitch, asking, list, bottom);
  });
}

/** A person with a box to choose them. */
function choice(username, chosen, changed) {
  const box = h("input", {
    type: "checkbox", checked: chosen.has(username), "aria-label": nameOf(username),
    onchange: () => (box.checked ? chosen.add(username) : chosen.delete(username), changed()),
  });
  const row = person(username, box);
  row.classList.add("choice");
  row.addEventListener("click", (event) => event.target !== box && box.click());
  return row;
}

/** Who has read a message of a group. */
export function readersOf(id, seq) {
  dialog("Read by", () => {
    const list = h("ul.people", {}, h("li.muted.loads", {}, "Loading…"));
    load(list, async () => {
      const readers = (await chat.readers(id, seq)).filter(({ username }) => username !== chat.username);
      fill(list, readers.length ? readers.map(({ username }) => person(username)) : h("li.empty", {}, "Nobody yet, as far as they let you know."));
    });
    return list;
  }, { className: "narrow" });
}

/** A picture in full size. */
export function viewPicture(one) {
  const name = oneLine(one.name);
  dialog(name, () => {
    const frame = h("div.frame", {}, h("p.muted.loads", {}, "Loading…"));
    load(frame, async () => {
      const [found] = await chat.attachments([one.id]);
      if (!found) return void fill(frame, h("p.muted", {}, "This picture is no longer there."));
      fill(frame,
        h("img", { src: found.url, alt: name, width: one.width, height: one.height }),
        h("a.button", { href: found.url, download: one.name }, icon("download"), "Download", h("span.muted", {}, size(one.size))));
    });
    return frame;
  }, { className: "viewer" });
}

/** Profile, looks, devices, blocked people, password. */
export function settings() {
  dialog("Settings", (close) => {
    const { user } = chat;
    const name = h("input", { id: "display-name", value: user.display_name ?? "", maxLength: 64, autocomplete: "name" });
    const devices = h("ul.devices", {}, h("li.muted.loads", {}, "Loading…"));
    const blocks = h("ul.people");
    const theme = h("div.segments", { role: "radiogroup", "aria-label": "Theme" },
      ["system", "light", "dark"].map((value) => h("label", {},
        h("input", {
          type: "radio", name: "theme", value, checked: (localStorage.getItem("chatbe-theme") ?? "system") === value,
          onchange: () => setTheme(value),
        }),
        h("span", {}, value[0].toUpperCase() + value.slice(1)))));

    const receipts = h("input", {
      type: "checkbox", id: "read-receipts", checked: user.read_receipts ?? true,
      onchange: async () => {
        if (!(await attempt(() => chat.changeProfile({ read_receipts: receipts.checked }), "Saved."))) receipts.checked = !receipts.checked;
      },
    });
    // Another device may have changed it.
    chat.request("GET", "/v1/me").then(({ read_receipts: isOn }) => (receipts.checked = isOn ?? true), () => undefined);

    async function drawDevices() {
      await load(devices, async () => {
        const all = await chat.devices();
        fill(devices, all.map((device) => h("li.device", {},
          h("span.text", {},
            h("bdi.name", {}, oneLine(device.device || device.user_agent || "Unknown device")),
            h("span.muted", {}, device.current ? "This device" : lastSeen(device.last_used_at ?? device.created_at).replace("Last seen", "Active"),
              " · since ", dateOf(device.created_at))),
          device.current ? h("span.tag", {}, "current") : h("button.button.small.danger", {
            type: "button", "aria-label": `Sign out ${device.device || "this device"}`,
            onclick: () => attempt(() => chat.revoke(device.id), "Device signed out.").then(drawDevices),
          }, "Sign out"))));
      });
    }

    function drawBlocks() {
      fill(blocks, blocked.size
        ? [...blocked].map((username) => person(username, h("button.button.small", {
            type: "button", "aria-label": `Unblock ${username}`,
            onclick: () => attempt(() => chat.unblock(username)).then(loadPeople).then(drawBlocks),
          }, "Unblock")))
        : h("li.muted", {}, "Nobody."));
    }

    drawDevices();
    drawBlocks();
    const passwordForm = h("form.stack", {
      onsubmit: async (event) => {
        event.preventDefault();
        const values = Object.fromEntries(new FormData(passwordForm));
        if (await attempt(() => chat.changePassword(values), "Password changed. Other devices are signed out.")) {
          passwordForm.reset();
          drawDevices();
        }
      },
    },
      h("input", { type: "text", autocomplete: "username", value: user.username, hidden: true, "aria-label": "Username" }),
      h("input", { type: "password", name: "current_password", placeholder: "Current password", "aria-label": "Current password", autocomplete: "current-password", required: true }),
      h("input", { type: "password", name: "new_password", placeholder: "New password", "aria-label": "New password", autocomplete: "new-password", required: true }),
      h("button.button", { type: "submit" }, "Change password"));

    return h("div.stack.sections", {},
      h("section.profile", {},
        avatar(user.display_name || user.username, user.username),
        h("form", {
          onsubmit: (event) => (event.preventDefault(), attempt(() => chat.changeProfile({ display_name: name.value.trim() }), "Saved.")),
        },
          h("label", { for: "display-name" }, "Your name"),
          h("div.inline", {}, name, h("button.button", { type: "submit" }, "Save")),
          h("p.hint", {}, `@${user.username}`))),
      h("section", {}, h("h3", {}, "Theme"), theme),
      features.has("groups") ? h("section", {}, h("h3", {}, "Privacy"), h("div.check", {}, receipts,
        h("label", { for: "read-receipts" }, "Show others what I have read", h("span.hint", {}, "Without it you do not see what they have read either.")))) : null,
      h("section", {}, h("h3", {}, "Devices"), devices),
      h("section", {}, h("h3", {}, "Blocked people"), blocks),
      h("details", {}, h("summary", {}, "Change password"), passwordForm),
      h("button.button.danger", {
        type: "button", onclick: async () => {
          if (chat.unsent.length && !confirmLeaving()) return;
          close();
          await chat.signOut();
          location.hash = "";
          location.reload();
        },
      }, "Sign out"));
  });
}

function confirmLeaving() {
  return window.confirm("Some messages have not been sent yet. They stay on this device and go out when you sign in again. Sign out?");
}

function setTheme(value) {
  if (value === "system") {
    localStorage.removeItem("chatbe-theme");
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem("chatbe-theme", value);
    document.documentElement.dataset.theme = value;
  }
}

const ROLES = { owner: "Owner", admin: "Admin", member: "Member" };

/** A group: its name, its members, and what one may do with it. */
export function groupInfo(conversation) {
  const { id } = conversation;
  dialog("Group", (close) => {
    const title = h("input", { id: "group-title", value: conversation.info.title ?? "", maxLength: 100, required: true });
    const description = h("textarea", { id: "group-description", value: conversation.info.description ?? "", rows: 2, maxLength: 500 });
    const history = h("input", { type: "checkbox", id: "group-history", checked: conversation.info.history === "all" });
    const save = h("button.button", { type: "submit" }, "Save");
    const form = h("form.stack", {
      onsubmit: (event) => {
        event.preventDefault();
        const changes = { title: title.value.trim(), description: description.value.trim(), history: history.checked ? "all" : "joined" };
        attempt(() => chat.changeConversation(id, changes), "Saved.");
      },
    },
      h("div", {}, h("label", { for: "group-title" }, "Name"), title),
      h("div", {}, h("label", { for: "group-description" }, "What it is about"), description),
      h("div.check", {}, history, h("label", { for: "group-history" }, "New members see earlier messages")),
      save);
    const list = h("ul.people", { "aria-label": "Members" }, h("li.muted.loads", {}, "Loading…"));
    const count = h("h3", {}, "Members");
    const add = h("button.button", { type: "button", onclick: () => addMembers(id, members, show) }, icon("plus"), "Add members");
    const actions = h("div.actions");
    let members = [];

    async function show() {
      if (!list.isConnected && members.length) return;
      await load(list, async () => {
        members = await chat.members(id);
        const mine = members.find(({ username }) => username === chat.username)?.role ?? "member";
        const isHead = mine !== "member";
        const isReadable = isHead || description.value;
        for (const field of [title, description, history]) field.disabled = !isHead;
        description.parentElement.hidden = !isReadable;
        save.hidden = !isHead;
        add.hidden = !isHead;
        count.textContent = `${members.length} ${members.length === 1 ? "member" : "members"}`;
        fill(list, members.map(({ username, role }) => {
          const choices = [
            mine === "owner" && role !== "owner" && {
              label: role === "admin" ? "Make a member" : "Make an admin", icon: icon("person"),
              run: () => change(() => chat.setRole(id, username, role === "admin" ? "member" : "admin")),
            },
            mine === "owner" && role !== "owner" && {
              label: "Hand the group over", icon: icon("people"),
              run: () => confirmation("Hand the group over?", `${oneLine(nameOf(username))} becomes its owner, and you an admin.`, "Hand over", () => change(() => chat.setRole(id, username, "owner"))),
            },
            username !== chat.username && (mine === "owner" || (mine === "admin" && role === "member")) && {
              label: "Remove", icon: icon("trash"), danger: true,
              run: () => confirmation(`Remove ${oneLine(nameOf(username))}?`, "They no longer get the messages of this group.", "Remove", () => change(() => chat.removeMember(id, username))),
            },
          ].filter(Boolean);
          return person(username,
            role === "member" ? null : h("span.tag", {}, ROLES[role]),
            choices.length
              ? h("button.icon-button.small", {
                  type: "button", "aria-label": `Actions for ${username}`, title: "Actions", "aria-haspopup": "menu",
                  onclick: ({ currentTarget }) => menu(currentTarget, `Actions for ${username}`, choices),
                }, icon("more"))
              : null);
        }));
        const isAlone = members.length === 1;
        fill(actions,
          mine === "owner" && h("button.button.danger", {
            type: "button", onclick: () => confirmation("Dissolve the group?", "It ends for everybody, with all its messages.", "Dissolve",
              async () => (await attempt(() => chat.dissolve(id))) && close()),
          }, "Dissolve group"),
          mine === "owner" && !isAlone ? null : h("button.button.danger", {
            type: "button", onclick: () => confirmation("Leave the group?", `You will no longer get the messages of “${titleOf(conversation)}”.`, "Leave",
              async () => (await attempt(() => chat.removeMember(id, chat.username))) && close()),
          }, "Leave group"));
      });
    }

    async function change(work) {
      if (await attempt(work)) await show();
    }

    const off = chat.on("conversation", ({ id: changed, conversation: held }) => {
      if (!list.isConnected) off();
      else if (changed === id) held ? show() : close();
    });
    show();
    return h("div.stack.sections", {}, form, h("section", {}, h("div.section-head", {}, count, add), list), actions);
  });
}

function addMembers(id, members, done) {
  dialog("Add members", (close) => {
    const chosen = new Set();
    const already = new Set(members.map(({ username }) => username));
    const others = [...contacts.keys()].filter((name) => !already.has(name));
    const confirm = h("button.button.primary", {
      type: "button", disabled: true, onclick: async () => (await attempt(() => chat.addMembers(id, [...chosen]))) && (close(), done()),
    }, "Add");
    const changed = () => (confirm.disabled = !chosen.size);
    return h("div.stack", {},
      h("ul.people", { "aria-label": "Contacts" }, others.length
        ? others.map((username) => choice(username, chosen, changed))
        : h("li.empty", {}, "All your contacts are here already.")),
      h("div.actions", {}, h("button.button.quiet", { type: "button", onclick: close }, "Cancel"), confirm));
  }, { className: "narrow" });
}
