// The edges of the start picture: pulled out with a pointer or with keys, to draw what lies beyond.
import { make } from "./dom.js";
import { model } from "./models.js";

export const SIDES = ["left", "top", "right", "bottom"];
const OUTWARDS = { left: [-1, 0], top: [0, -1], right: [1, 0], bottom: [0, 1] };
const KEYS = { ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowDown: [0, 1] };
export const added = { left: 0, top: 0, right: 0, bottom: 0 };

/** The pixels beyond each side: left, top, right, bottom. */
export const extension = () => SIDES.map((side) => added[side]);

/** Sets all sides to nothing. */
export function resetEdges() {
  for (const side of SIDES) added[side] = 0;
}

/** The handles of the four sides. scale: says how many pixels of the screen one of the picture takes. changed: called after each pull, with whether it is over. */
export function handles({ scale, changed, most }) {
  return SIDES.map((side) => {
    const handle = make("button", { type: "button", className: `handle ${side}` });
    handle.setAttribute("role", "slider");
    handle.setAttribute("aria-label", `Pixels beyond the ${side} edge`);
    handle.setAttribute("aria-valuemin", 0);
    const set = (pixels, over) => {
      const step = model().multiple;
      added[side] = Math.min(most(side), Math.max(0, Math.round(pixels / step) * step));
      describe(handle, side);
      changed(over);
    };
    describe(handle, side);
    listen(handle, side, set, scale);
    return handle;
  });
}

function describe(handle, side) {
  handle.setAttribute("aria-valuenow", added[side]);
  handle.setAttribute("aria-valuetext", `${added[side]} pixels`);
}

function listen(handle, side, set, scale) {
  const [x, y] = OUTWARDS[side];
  let from = null;
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    from = { x: event.clientX, y: event.clientY, pixels: added[side], scale: scale() };
  });
  handle.addEventListener("pointermove", (event) => {
    if (from) set(from.pixels + ((event.clientX - from.x) * x + (event.clientY - from.y) * y) / from.scale, false);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    handle.addEventListener(name, () => {
      if (from) set(added[side], true);
      from = null;
    });
  }
  handle.addEventListener("keydown", (event) => {
    const move = KEYS[event.key];
    if (!move) return;
    event.preventDefault();
    const far = (move[0] * x + move[1] * y) * model().multiple * (event.shiftKey ? 4 : 1);
    if (far) set(added[side] + far, true);
  });
}
