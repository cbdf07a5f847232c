/** Small helpers for the DOM. Text only ever becomes text nodes. */

import { icon } from "./icons.js";

/**
 * An element: properties by name; `on…` are listeners, `aria-…`, `data-…` and `role` attributes.
 *
 * @param {string} spec `tag.class.class`
 * @param {Record<string, any>} [properties]
 * @param {...any} children Nodes, strings, lists; null and false are left out.
 * @returns {HTMLElement}
 */
export function h(spec, properties = {}, ...children) {
  const [tag, ...classes] = spec.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role" || name === "for" || name === "list") {
      if (value !== false) element.setAttribute(name, String(value));
    } else element[name] = value;
  }
  element.append(...flat(children));
  return element;
}

export function fill(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

const toasts = document.getElementById("toasts");

export function toast(text, kind = "") {
  // An open dialog covers all else, to eyes and to screen readers.
  const place = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
  if (toasts.parentElement !== place) place.append(toasts);
  const one = h(`div.toast${kind ? `.${kind}` : ""}`, {}, text);
  toasts.append(one);
  setTimeout(() => one.remove(), 6000);
}

let announcing;

/** Say something to screen readers. */
export function announce(text) {
  clearTimeout(announcing);
  // Several at once are said as one.
  announcing = setTimeout(() => (document.getElementById("announcer").textContent = text), 120);
}

export function debounce(work, milliseconds) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), milliseconds);
  };
}

/** A modal dialog with a title; `content(close)` gives what is in it. Focus returns to where it was. */
export function dialog(title, content, { className = "" } = {}) {
  const before = document.activeElement;
  const id = `dialog-${Math.random().toString(36).slice(2)}`;
  const element = h(`dialog.dialog${className && `.${className}`}`, { "aria-labelledby": id });
  const close = () => element.close();
  element.addEventListener("close", () => {
    if (element.contains(toasts)) document.body.append(toasts);
    element.remove();
    if (before instanceof HTMLElement && before.isConnected) before.focus();
  });
  element.addEventListener("pointerdown", (event) => event.target === element && close());
  const closing = h("button.icon-button", { type: "button", "aria-label": "Close", title: "Close", onclick: close }, icon("close"));
  element.append(h("div.dialog-box", {}, h("header", {}, h("h2", { id }, title), closing), content(close)));
  document.body.append(element);
  element.showModal();
  (element.querySelector("[autofocus], input, textarea") ?? closing).focus();
  return close;
}

/** Ask before something that cannot be undone. */
export function confirmation(title, text, action, run) {
  dialog(title, (close) =>
    h("div.stack", {},
      h("p", {}, text),
      h("div.actions", {},
        h("button.button.quiet", { type: "button", onclick: close }, "Cancel"),
        h("button.button.danger", { type: "button", autofocus: true, onclick: async () => (close(), run()) }, action))),
  { className: "narrow" });
}

/** Show a menu at a place of the screen. */
export function menu(anchor, label, items) {
  const element = h("div.menu", { popover: "auto", role: "menu", "aria-label": label });
  const choices = items.filter(Boolean).map((item) =>
    item instanceof Node
      ? item
      : h(`button.menu-item${item.danger ? ".danger" : ""}`, {
          type: "button", role: "menuitem", onclick: () => (element.hidePopover(), item.run()),
        }, item.icon, h("span", {}, item.label)));
  element.append(...choices);
  element.addEventListener("keydown", (event) => {
    const buttons = [...element.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    buttons[(at + step + buttons.length) % buttons.length].focus();
  });
  element.addEventListener("toggle", ({ newState }) => {
    if (newState !== "closed") return;
    const hadFocus = element.contains(document.activeElement) || document.activeElement === document.body;
    element.remove();
    if (hadFocus && anchor instanceof HTMLElement && anchor.isConnected) anchor.focus();
  });
  (anchor.closest("dialog") ?? document.body).append(element);
  element.showPopover();
  const box = anchor.getBoundingClientRect();
  const own = element.getBoundingClientRect();
  const top = box.bottom + own.height + 12 > innerHeight ? Math.max(8, box.top - own.height - 6) : box.bottom + 6;
  element.style.top = `${top}px`;
  element.style.left = `${Math.min(Math.max(8, box.right - own.width), innerWidth - own.width - 8)}px`;
  element.querySelector("button")?.focus();
  return () => element.isConnected && element.hidePopover();
}
