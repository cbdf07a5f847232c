/** New chats and groups, people, settings and devices. */

import { confirmation, debounce, dialog, fill, h, toast } from "./dom.js";
import { avatar, fullTime, lastSeen, oneLine } from "./format.js";
import { icon } from "./icons.js";
import { blocked, chat, contacts, explain, features, learn, loadPeople, nameOf, presence, titleOf } from "./session.js";

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

function person(username, ...more) {
  const name = oneLine(nameOf(username));
  return h("li.person", {},
    avatar(name, username, { online: presence(username) }),
    h("span.text", {}, h("bdi.name", {}, name), h("span.muted", {}, `@${username}`)),
    ...more);
}

/** Find somebody to chat with, or make a group. */
export function newChat(open) {
  dialog("New chat", (close) => {
    let people = [];
    const chosen = new Set();
    let isGroup = false;
    const list = h("ul.people", { "aria-label": "People" });
    const title = h("input", { placeholder: "Name of the group", "aria-label": "Name of the group", maxLength: 100, oninput: draw });
    const make = h("button.button.primary", {
      type: "button",
      onclick: () => attempt(async () => {
        const conversation = await chat.createGroup({ title: title.value.trim(), members: [...chosen] });
        close();
        open(conversation.id);
      }),
    }, "Create group");
    const bottom = h("div.group-bar", {}, title, make);
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
      fill(list,
        mine.map((username) => isGroup ? choice(username) : person(username,
          h("button.button.small.primary", { type: "button", "aria-label": `Chat with ${username}`, onclick: () => start(username) }, "Chat"),
          h("button.icon-button.small", {
            type: "button", title: "Remove from contacts", "aria-label": `Remove ${username} from contacts`,
            onclick: () => attempt(() => chat.removeContact(username)).then(loadPeople).then(draw),
          }, icon("trash")))),
        isGroup ? null : others.map((username) => person(username,
          h("button.button.small", { type: "button", "aria-label": `Add ${username}`, onclick: () => add(username) }, icon("plus"), "Add"))),
        !mine.length && !others.length
          ? h("li.empty", {}, asked ? "Nobody found." : "No contacts yet. Find people by their username.")
          : null);
    }

    function choice(username) {
      const box = h("input", {
        type: "checkbox", checked: chosen.has(username), "aria-label": nameOf(username),
        onchange: () => (box.checked ? chosen.add(username) : chosen.delete(username), (make.disabled = !title.value.trim() || !chosen.size)),
      });
      return person(username, box);
    }

    async function add(username) {
      if (await attempt(() => chat.addContact(username))) await loadPeople();
      draw();
    }

    async function start(username) {
      await attempt(async () => {
        const conversation = await chat.openDirect(username);
        close();
        open(conversation.id);
      });
    }

    draw();
    return h("div.stack", {}, h("div.search", {}, icon("search"), search), groupSwitch, list, bottom);
  });
}

/** Profile, looks, devices, blocked people, password. */
export function settings() {
  dialog("Settings", (close) => {
    const { user } = chat;
    const name = h("input", { id: "display-name", value: user.display_name ?? "", maxLength: 64, autocomplete: "name" });
    const devices = h("ul.devices", {}, h("li.muted", {}, "Loading…"));
    const blocks = h("ul.people");
    const theme = h("div.segments", { role: "radiogroup", "aria-label": "Theme" },
      ["system", "light", "dark"].map((value) => h("label", {},
        h("input", {
          type: "radio", name: "theme", value, checked: (localStorage.getItem("chatbe-theme") ?? "system") === value,
          onchange: () => setTheme(value),
        }),
        h("span", {}, value[0].toUpperCase() + value.slice(1)))));

    async function drawDevices() {
      await attempt(async () => {
        const all = await chat.devices();
        fill(devices, all.map((device) => h("li.device", {},
          h("span.text", {},
            h("bdi.name", {}, oneLine(device.device || device.user_agent || "Unknown device")),
            h("span.muted", {}, device.current ? "This device" : lastSeen(device.last_used_at ?? device.created_at).replace("Last seen", "Active"),
              " · since ", fullTime(device.created_at))),
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

/** A group: its members, and what one may do with it. */
export function groupInfo(conversation) {
  dialog("Group", (close) => {
    const title = h("input", { value: conversation.info.title ?? "", maxLength: 100, "aria-label": "Name of the group" });
    const list = h("ul.people", { "aria-label": "Members" });
    const newcomer = h("select", { "aria-label": "Somebody to add" });
    let mine = conversation.info.role ?? "member";

    async function load() {
      await attempt(async () => {
        const members = await chat.members(conversation.id);
        mine = members.find(({ username }) => username === chat.username)?.role ?? mine;
        const isHead = mine !== "member";
        const names = new Set(members.map(({ username }) => username));
        fill(list, members.map(({ username, role }) => person(username,
          role === "member" ? null : h("span.tag", {}, role),
          mine === "owner" && role !== "owner"
            ? h("button.button.small.quiet", {
                type: "button",
                onclick: () => attempt(() => chat.setRole(conversation.id, username, role === "admin" ? "member" : "admin")).then(load),
              }, role === "admin" ? "Make member" : "Make admin")
            : null,
          isHead && username !== chat.username && role !== "owner"
            ? h("button.icon-button.small", {
                type: "button", "aria-label": `Remove ${username}`, title: "Remove",
                onclick: () => attempt(() => chat.removeMember(conversation.id, username)).then(load),
              }, icon("trash"))
            : null)));
        fill(newcomer, h("option", { value: "" }, "Add somebody…"),
          [...contacts.keys()].filter((name) => !names.has(name)).map((name) => h("option", { value: name }, nameOf(name))));
        newcomer.hidden = title.disabled = !isHead;
      });
    }
    newcomer.onchange = () => newcomer.value && attempt(() => chat.addMembers(conversation.id, [newcomer.value])).then(load);
    load();
    return h("div.stack", {},
      h("form.inline", {
        onsubmit: (event) => (event.preventDefault(), attempt(() => chat.changeConversation(conversation.id, { title: title.value.trim() }), "Renamed.")),
      }, title, h("button.button", { type: "submit" }, "Rename")),
      list, newcomer,
      h("div.actions", {},
        h("button.button.danger", {
          type: "button", onclick: () => confirmation("Leave the group?", `You will no longer get the messages of “${titleOf(conversation)}”.`, "Leave",
            async () => (await attempt(() => chat.removeMember(conversation.id, chat.username))) && close()),
        }, "Leave group")));
  });
}
