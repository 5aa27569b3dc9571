// One message above the picture, with what can be done about it.
import { $, button, say } from "./dom.js";

/** Shows a message. actions: texts of buttons and what they do. */
export function notice(text, actions = {}) {
  $("notice-text").textContent = text;
  const buttons = Object.entries(actions).map(([name, run]) =>
    button(name, () => {
      clearNotice();
      run();
    }),
  );
  $("notice-actions").replaceChildren(...buttons);
  $("notice").hidden = false;
  $("notice").scrollIntoView({ block: "nearest" });
  say(text);
}

/** Takes the message away. */
export function clearNotice() {
  $("notice").hidden = true;
}
