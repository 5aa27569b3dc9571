// The prompts: they grow with their text, and an error of their syntax is marked at its character.
import { post } from "./api.js";
import { $, button, later, make } from "./dom.js";

const NAMES = ["prompt", "negative"];

/** The place of a character in a JavaScript string; the server counts code points, from 1. */
const placeOf = (text, character) => [...text].slice(0, character - 1).join("").length;

/** Marks an error at its character, with its message below; takes the mark away for null. */
export function point(name, error) {
  const field = $(`${name}-field`), area = $(name), mirror = field.querySelector(".mirror");
  field.querySelector(".slip")?.remove();
  area.removeAttribute("aria-invalid");
  area.removeAttribute("aria-describedby");
  mirror.replaceChildren();
  if (!error) return;
  const place = error.character === null ? 0 : placeOf(area.value, error.character);
  const width = area.value.codePointAt(place) > 0xffff ? 2 : 1;
  mirror.append(area.value.slice(0, place), make("mark", {}, area.value.slice(place, place + width) || " "));
  mirror.append(`${area.value.slice(place + width)}\n`);
  mirror.scrollTop = area.scrollTop;
  field.append(slip(name, area, place, width, error));
  area.setAttribute("aria-invalid", "true");
  area.setAttribute("aria-describedby", `${name}-slip`);
}

function slip(name, area, place, width, { character, message }) {
  const go = () => {
    area.focus();
    area.setSelectionRange(place, place + width);
  };
  const where = character === null ? "" : button(`Character ${character}`, go, { className: "goto" });
  return make("p", { className: "slip", id: `${name}-slip` }, where, ` ${plain(message)}`);
}

/** A message without what only the command line has. */
const plain = (message) => {
  const text = message.replace(/,? or use --syntax \w+( for plain text)?/, "");
  return text.charAt(0).toUpperCase() + text.slice(1);
};

function grow(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

let asked = 0;

async function check() {
  const number = (asked += 1);
  const body = Object.fromEntries(NAMES.map((name) => [name, $(name).value]));
  const told = await post("v1/prompts/check", body).catch(() => null);
  if (!told || number !== asked) return; // a later question is on its way
  for (const name of NAMES) point(name, told.errors.find((error) => error.field === name) ?? null);
}

const checkLater = later(check, 250);

/** Puts a text into a prompt, as if it were typed. */
export function write(name, text) {
  $(name).value = text;
  changed(name);
}

function changed(name) {
  point(name, null);
  grow($(name));
  checkLater();
}

/** Inserts a text at the caret of the prompt. */
export function insert(text) {
  const area = $("prompt");
  const before = area.value.slice(0, area.selectionStart), space = before && !/\s$/.test(before) ? " " : "";
  area.setRangeText(space + text, area.selectionStart, area.selectionEnd, "end");
  area.focus();
  changed("prompt");
}

/** Begins to watch both prompts. */
export function listenToPrompts() {
  for (const name of NAMES) {
    const area = $(name);
    area.addEventListener("input", () => changed(name));
    area.addEventListener("scroll", () => {
      $(`${name}-field`).querySelector(".mirror").scrollTop = area.scrollTop;
    });
  }
}
