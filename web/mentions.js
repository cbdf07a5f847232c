/** Offers the members of a group while one writes an `@`. */

import { avatar, oneLine } from "./format.js";
import { fill, h } from "./dom.js";
import { chat, nameOf } from "./session.js";

const MOST = 6;
const AT = /(?:^|[^\w@])@([a-z0-9._-]*)$/i;

/**
 * @param {HTMLTextAreaElement} input
 * @param {() => import("../clients/js/src/chatbe.js").Conversation | undefined} conversation
 */
export function mentions(input, conversation) {
  const list = h("ul.suggestions", { role: "listbox", id: "suggestions", "aria-label": "Members", hidden: true });
  let found = [];
  let at = 0;

  function candidates(word) {
    const { info } = conversation() ?? {};
    if (info?.kind !== "group") return [];
    const names = info.members.map(({ username }) => username).filter((name) => name !== chat.username);
    if (info.role !== "member") names.push("all");
    return names.filter((name) => name.startsWith(word) || nameOf(name).toLowerCase().startsWith(word)).slice(0, MOST);
  }

  function look() {
    const [, word] = AT.exec(input.value.slice(0, input.selectionStart)) ?? [];
    found = word === undefined || document.activeElement !== input ? [] : candidates(word.toLowerCase());
    at = 0;
    draw();
  }

  function draw() {
    list.hidden = !found.length;
    fill(list, found.map((name, index) => h("li.suggestion", {
      id: `suggestion-${index}`, role: "option", "aria-selected": String(index === at),
      // The text keeps the focus.
      onpointerdown: (event) => (event.preventDefault(), take(name)),
    },
      name === "all" ? null : avatar(oneLine(nameOf(name)), name),
      h("bdi.name", {}, name === "all" ? "Everyone" : oneLine(nameOf(name))), h("span.muted", {}, `@${name}`))));
    if (found.length) input.setAttribute("aria-activedescendant", `suggestion-${at}`);
    else input.removeAttribute("aria-activedescendant");
  }

  function take(name) {
    const before = input.value.slice(0, input.selectionStart).replace(/@[a-z0-9._-]*$/i, `@${name} `);
    input.setRangeText(before, 0, input.selectionStart, "end");
    found = [];
    draw();
    input.dispatchEvent(new InputEvent("input"));
  }

  input.setAttribute("aria-autocomplete", "list");
  input.setAttribute("aria-controls", "suggestions");
  input.addEventListener("input", look);
  input.addEventListener("blur", () => ((found = []), draw()));

  return {
    list,
    /** Whether a key was for the list. */
    takes(event) {
      if (!found.length) return false;
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (step) {
        at = (at + step + found.length) % found.length;
        draw();
      } else if (event.key === "Enter" || event.key === "Tab") {
        take(found[at]);
      } else if (event.key === "Escape") {
        found = [];
        draw();
      } else {
        return false;
      }
      event.preventDefault();
      event.stopPropagation();
      return true;
    },
  };
}
