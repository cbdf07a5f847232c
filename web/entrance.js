/** Sign in and sign up. */

import { fill, h } from "./dom.js";
import { chat, explain } from "./session.js";

const HINTS = {
  username: "3 to 32 letters, digits, dots, dashes or underscores. It stays for ever.",
  password: "At least 8 characters, and not one that everybody uses.",
};

/**
 * @param {HTMLElement} root
 * @param {() => void} enter Called when somebody is signed in.
 * @param {string} [notice]
 */
export function entrance(root, enter, notice = "") {
  let isNew = false;
  const card = h("div.card");
  fill(root,
    h("main.entrance", {},
      h("section.pitch", { "aria-hidden": "true" },
        h("div.wordmark", {}, h("img", { src: "/static/web/icon.svg", alt: "", width: 44, height: 44 }), "chatbe"),
        h("p.headline", {}, "Say it once. ", h("br"), "It arrives."),
        h("div.sample", {},
          h("p.theirs", {}, "Ten o’clock at the bridge?"),
          h("p.mine", {}, "I’ll bring the second oar."),
          h("p.theirs", {}, "Then it is officially a boat ⛵")),
        h("p.small", {}, "No message lost, doubled or out of order, also on a train in a tunnel.")),
      card));

  function draw() {
    const error = h("p.error", { role: "alert" }, notice);
    notice = "";
    const submit = h("button.button.primary", { type: "submit" }, isNew ? "Create account" : "Sign in");
    const fields = isNew
      ? [
          field("username", "Username", { autocomplete: "username", autocapitalize: "none", spellcheck: false, minLength: 3, maxLength: 32 }),
          field("display_name", "Your name", { autocomplete: "name", maxLength: 64, required: false, placeholder: "as others see it" }),
          field("email", "Email", { type: "email", autocomplete: "email" }),
          field("password", "Password", { type: "password", autocomplete: "new-password" }),
        ]
      : [
          field("username", "Username or email", { autocomplete: "username", autocapitalize: "none", spellcheck: false }, false),
          field("password", "Password", { type: "password", autocomplete: "current-password" }, false),
        ];
    const form = h("form", {
      noValidate: true,
      onsubmit: async (event) => {
        event.preventDefault();
        const values = Object.fromEntries(new FormData(form));
        for (const one of form.querySelectorAll(".field-error")) one.textContent = "";
        for (const one of form.querySelectorAll("input")) one.removeAttribute("aria-invalid");
        error.textContent = "";
        submit.disabled = true;
        try {
          if (isNew) await chat.register(values);
          const { username, password } = values;
          await chat.signIn(username.includes("@") ? { email: username, password } : { username, password });
          enter();
        } catch (refused) {
          show(refused);
        } finally {
          submit.disabled = false;
        }
      },
    }, ...fields, error, submit);

    function show(refused) {
      if (!refused?.code) throw refused;
      let isShown = false;
      for (const { field: name, code, detail } of refused.errors ?? []) {
        const input = form.elements.namedItem(name);
        if (!input) continue;
        const place = form.querySelector(`#error-${name}`);
        place.textContent = place.textContent || (code === "blank" || code === "required" ? "Please fill this in." : detail);
        input.setAttribute("aria-invalid", "true");
        if (!isShown) input.focus();
        isShown = true;
      }
      if (!isShown) error.textContent = refused.status === 401 ? "That name and password do not match." : explain(refused);
    }

    fill(card,
      h("h1", {}, isNew ? "Create your account" : "Welcome back"),
      h("p.muted", {}, isNew ? "It takes a minute." : "Sign in to go on where you were."),
      form,
      h("p.switch", {}, isNew ? "Here before? " : "New here? ",
        h("button.link", { type: "button", onclick: () => ((isNew = !isNew), draw()) }, isNew ? "Sign in" : "Create an account")));
    form.querySelector("input").focus();
  }

  function field(name, label, properties, hasHint = true) {
    const hint = hasHint ? HINTS[name] : undefined;
    return h("div.field", {},
      h("label", { for: `field-${name}` }, label),
      h("input", {
        id: `field-${name}`, name, required: true, type: "text",
        "aria-describedby": `${hint ? `hint-${name} ` : ""}error-${name}`, ...properties,
      }),
      hint ? h("p.hint", { id: `hint-${name}` }, hint) : null,
      h("p.field-error", { id: `error-${name}` }));
  }

  draw();
}
