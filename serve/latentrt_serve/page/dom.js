// Elements: found by id, and made.

export const $ = (id) => document.getElementById(id);

/** An element. given: properties; `data` and `aria` are objects of their own. children: elements or texts. */
export function make(tag, given = {}, ...children) {
  const { data = {}, aria = {}, ...properties } = given;
  const element = Object.assign(document.createElement(tag), properties);
  Object.assign(element.dataset, data);
  for (const [name, value] of Object.entries(aria)) element.setAttribute(name === "role" ? name : `aria-${name}`, value);
  element.append(...children);
  return element;
}

/** A button that does something. */
export const button = (text, onclick, given = {}) => make("button", { type: "button", onclick, ...given }, text);

/** Tells a screen reader something, once. */
export function say(text) {
  $("live").textContent = "";
  requestAnimationFrame(() => {
    $("live").textContent = text;
  });
}

/** A function that runs once its calls have stopped for a while. */
export function later(run, milliseconds) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...given), milliseconds);
  };
}

/** A blob of a canvas, as PNG. */
export const blobOf = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
