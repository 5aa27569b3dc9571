// What the server refuses, beside the field that it names.
import { $, make, say } from "./dom.js";
import { notice } from "./notice.js";
import { point } from "./prompt.js";

const CHARACTER = /^(negative )?prompt: character (\d+): ([^\n]*)/;
const FIELD = /^(?:negative )?([a-z_]+)[:,]/;

/** Takes all messages away. */
export function clearErrors() {
  for (const shown of document.querySelectorAll(".wrong")) shown.remove();
  for (const control of document.querySelectorAll("[aria-invalid]")) settle(control);
  point("prompt", null);
  point("negative", null);
}

function settle(control) {
  control.removeAttribute("aria-invalid");
  control.removeAttribute("aria-describedby");
}

/** Shows an error beside its field, or above the picture where it has none. */
export function showError({ message, param }) {
  const found = CHARACTER.exec(message);
  if (found) {
    const field = found[1] ? "negative" : "prompt";
    point(field, { character: Number(found[2]), message: found[3] });
    $(field).focus();
    say(`Error in the ${field === "prompt" ? "prompt" : "negative prompt"}: ${found[3]}`);
    return;
  }
  const name = param ?? FIELD.exec(message)?.[1];
  const place = name && document.querySelector(`[data-field~="${CSS.escape(name)}"]:not([hidden])`);
  if (place) beside(place, name, message);
  else notice(message);
}

function beside(place, name, message) {
  const text = make("p", { className: "wrong", id: `wrong-${name}`, aria: { role: "alert" } }, sentence(message));
  place.append(text);
  place.closest("details")?.setAttribute("open", "");
  const control = place.querySelector(`#${CSS.escape(name)}`) ?? place.querySelector("input:not(.hidden), select, textarea, button");
  control?.setAttribute("aria-invalid", "true");
  control?.setAttribute("aria-describedby", text.id);
  control?.focus();
}

/** A message without the name of its field, which it stands beside. */
const sentence = (message) => {
  const text = message.replace(/^[a-z_]+: /, "");
  return text.charAt(0).toUpperCase() + text.slice(1);
};
