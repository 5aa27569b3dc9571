// The strip of steps, as the edge of a film: a hole for each step, filled once it is done.
import { $, make } from "./dom.js";

const MOST_HOLES = 75;

/** Shows the strip for a number of steps. */
export function showStrip(steps) {
  const holes = Math.min(steps, MOST_HOLES);
  $("strip").replaceChildren(...Array.from({ length: holes }, () => make("i")));
  $("strip").hidden = false;
  advance(0, steps);
}

/** Shows how many steps are done. */
export function advance(done, steps) {
  const strip = $("strip"), holes = strip.children;
  if (holes.length !== Math.min(steps, MOST_HOLES)) return showStrip(steps);
  strip.setAttribute("aria-valuemax", steps);
  strip.setAttribute("aria-valuenow", done);
  strip.setAttribute("aria-valuetext", `Step ${done} of ${steps}`);
  [...holes].forEach((hole, number) => hole.classList.toggle("done", number < Math.round((done / steps) * holes.length)));
}

/** Takes the strip away. */
export const hideStrip = () => {
  $("strip").hidden = true;
};
