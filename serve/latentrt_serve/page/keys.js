// The dialogs for the server's key and for the list of keys, and the shortcuts.
import { $ } from "./dom.js";

let waiting = null;

/** The key that the user types. wrong: whether one was refused already. */
export function askKey(wrong) {
  waiting ??= new Promise((resolve) => {
    const dialog = $("key-dialog");
    $("key-remark").textContent = wrong
      ? "That key was refused. Please look again."
      : "It is kept in this tab until you close it.";
    $("key").value = "";
    dialog.showModal();
    $("key-form").onsubmit = (event) => {
      event.preventDefault();
      dialog.close();
      waiting = null;
      resolve($("key").value.trim());
    };
  });
  return waiting;
}

const isText = (element) => element.matches("input:not([type=range]):not([type=radio]), textarea, select");

/** Shortcuts of the page. generate: starts a job. cancel: stops it, and returns whether there was one. */
export function listenForKeys({ generate, cancel }) {
  $("key-dialog").addEventListener("cancel", (event) => event.preventDefault()); // nothing works without the key
  $("help-open").onclick = () => $("help").showModal();
  $("help-close").onclick = () => $("help").close();
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const plain = !(event.ctrlKey || event.metaKey || event.altKey) && !isText(event.target);
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
    else if (event.key === "Escape" && cancel()) return;
    else if (plain && event.key === "/") $("prompt").focus();
    else if (plain && event.key === "?") $("help").showModal();
    else return;
    event.preventDefault();
  });
}
