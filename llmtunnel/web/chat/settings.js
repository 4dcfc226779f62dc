/** The settings of a conversation: system prompt and temperature, and the model server's API key. */

import { el } from "../shell/dom.js";

/** The highest temperature that OpenAI's API accepts. */
const HOTTEST = 2;

/** @typedef {{system: string, temperature: number | null, key: string}} Settings */

/**
 * Let the person change the settings, and return them; null if they have cancelled.
 *
 * @param {Settings} settings
 * @returns {Promise<Settings | null>}
 */
export function editSettings({ system, temperature, key }) {
  const prompt = el("textarea", { id: "system", rows: "5", placeholder: "You are a helpful assistant." });
  prompt.value = system;
  const heat = el("input", {
    ...{ id: "temperature", type: "number", min: "0", max: String(HOTTEST), step: "0.1" },
    ...{ inputmode: "decimal", placeholder: "The server's own" },
  });
  heat.value = temperature === null ? "" : String(temperature);
  const secret = el("input", { id: "key", type: "password", autocomplete: "off", placeholder: "None" });
  secret.value = key;
  const dialog = el(
    "dialog",
    { class: "settings", "aria-labelledby": "settings-title" },
    el(
      "form",
      { method: "dialog" },
      el("h2", { id: "settings-title" }, "Chat settings"),
      el("label", { for: "system" }, "System prompt"),
      prompt,
      el("label", { for: "temperature" }, "Temperature"),
      heat,
      el("p", { class: "help" }, `0 to ${HOTTEST}. Lower is more predictable.`),
      el("label", { for: "key" }, "API key of the model server"),
      secret,
      el("p", { class: "help" }, "Only if the server requires one. It stays in this page's memory."),
      el(
        "div",
        { class: "buttons" },
        // No submit button: Enter in a field presses the first one of those.
        el("button", { type: "button", click: () => dialog.close() }, "Cancel"),
        el("button", { type: "submit", value: "save", class: "primary" }, "Save"),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      const chosen = heat.value === "" ? null : Number(heat.value);
      resolve(
        dialog.returnValue === "save"
          ? { system: prompt.value, temperature: chosen, key: secret.value.trim() }
          : null,
      );
    });
  });
}
