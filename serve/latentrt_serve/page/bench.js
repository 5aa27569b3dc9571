// The bench: the start picture in large, under the brush or between its handles.
import { clearMask, cursorRing, fillToolbar, maskCanvas, maskData } from "./brush.js";
import { $, button, make } from "./dom.js";
import { added, extension, handles, resetEdges } from "./edges.js";
import { onResize, size } from "./form.js";
import { model, server, useOfPicture } from "./models.js";
import { dropStart, onStart, renderStart, start } from "./start.js";

const STRENGTH = { change: 0.8, paint: 1, extend: 1 };
const ROOM = 0.3; // of the picture's sides, left free around it for handles to be pulled into
// Settings of a picture that mean nothing without one to start from.
const WITH_START = ["fit", "posterior", "image_guidance"];
let scale = 1;

/** What is done with the start picture: change, paint or extend. */
export const mode = () => document.querySelector('input[name="mode"]:checked').value;

/** The fields of a job that the start picture adds. Throws an object like an error of the server where it cannot. */
export function startFields() {
  const use = useOfPicture();
  if (use === "none") return {};
  if (!start.bitmap) return missing(use);
  const init = start.canvas.toDataURL("image/png");
  if (use === "enlarge") return { init, task: "upscale" };
  if (use === "labels") return { segmentation: init };
  const strength = Number($("strength").value), unsized = { width: undefined, height: undefined };
  if (mode() === "change") return { init, strength };
  if (mode() === "paint") {
    const mask = maskData();
    if (!mask) throw { param: "mask", message: "Paint over the part that is to be drawn anew." };
    return { init, mask, task: "inpaint", strength, ...unsized };
  }
  if (!extension().some(Boolean)) throw { param: "extend", message: "Pull an edge of the picture outwards first." };
  return { init, extend: extension(), overlay: true, strength, ...unsized };
}

function missing(use) {
  if (use === "edit") return Object.fromEntries(WITH_START.map((name) => [name, undefined]));
  throw { param: use === "enlarge" ? "init" : "segmentation", message: "This model needs a picture to start from." };
}

/** The size that the next picture will have. */
export function expectedSize() {
  if (!start.bitmap || useOfPicture() === "none") return size();
  const { width, height } = start.canvas;
  if (useOfPicture() === "enlarge") return [width * 4, height * 4];
  const [left, top, right, bottom] = mode() === "extend" ? extension() : [0, 0, 0, 0];
  return [width + left + right, height + top + bottom];
}

/** Shows the start picture or the result on the table. */
export function showTab(name) {
  const bench = name === "start" && Boolean(start.bitmap);
  document.querySelector(`input[name="tab"][value="${bench ? "start" : "result"}"]`).checked = true;
  $("tabs").hidden = !start.bitmap;
  $("bench").hidden = !bench;
  $("print").hidden = $("state").hidden = bench;
  $("toolbar").hidden = !bench || mode() === "change" || useOfPicture() !== "edit";
  $("actions").hidden = bench || !$("actions").children.length;
  if (bench) build();
}

function build() {
  const { canvas } = start;
  const ground = make("div", { className: `ground ${mode()}` });
  canvas.className = "picture";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "Start picture");
  const print = make("div", { className: "plate" }, canvas);
  ground.append(print);
  if (mode() === "paint") {
    print.append(maskCanvas(canvas.width, canvas.height), cursorRing());
    fillToolbar($("toolbar"));
  }
  if (mode() === "extend") {
    ground.append(...handles({ scale: () => scale, changed: (over) => place(over), most: roomOf }));
    $("toolbar").replaceChildren(make("span", { className: "remark" }, "Pull an edge to draw what lies beyond it."), make("span", { id: "extend-size" }), button("Reset", reset));
  }
  $("bench").replaceChildren(ground);
  place(true);
}

function reset() {
  resetEdges();
  build();
}

/** The most pixels that a side can have beyond it, by the server's limit. */
function roomOf(side) {
  const [width, height] = expectedSize(), { multiple } = model();
  const across = side === "left" || side === "right";
  const other = across ? height : width, own = (across ? width : height) - added[side];
  return Math.max(0, Math.floor((server.limits.pixels / other - own) / multiple) * multiple);
}

/** Lays the picture out on the bench. anew: whether its scale may change, which it must not under a moving pointer. */
function place(anew) {
  const ground = $("bench").firstElementChild;
  if (!ground || $("bench").hidden) return;
  const { width, height } = start.canvas, [across, down] = expectedSize();
  const room = mode() === "extend" ? ROOM : 0, { clientWidth, clientHeight } = $("frame");
  if (anew) scale = Math.min(clientWidth / (across + 2 * room * width), clientHeight / (down + 2 * room * height));
  Object.assign(ground.style, { width: `${across * scale}px`, height: `${down * scale}px` });
  const [left, top] = mode() === "extend" ? extension() : [0, 0], plate = ground.firstElementChild.style;
  Object.assign(plate, { left: `${left * scale}px`, top: `${top * scale}px` });
  Object.assign(plate, { width: `${width * scale}px`, height: `${height * scale}px` });
  if (mode() === "extend" && $("extend-size")) $("extend-size").textContent = `${width} × ${height} becomes ${across} × ${down}`;
}

function showStrength() {
  $("strength-out").textContent = Number($("strength").value).toFixed(2);
}

/** Begins to watch the start picture and what is done with it. */
export function listenToBench() {
  onResize(() => renderStart());
  onStart((another) => {
    if (another) clearMask();
    if (another) resetEdges();
    showTab(start.bitmap ? "start" : "result");
  });
  new ResizeObserver(() => place(true)).observe($("frame"));
  $("strength").addEventListener("input", showStrength);
  for (const one of document.querySelectorAll('input[name="mode"]')) {
    one.addEventListener("change", () => {
      $("strength").value = STRENGTH[mode()];
      showStrength();
      showTab("start");
    });
  }
  for (const one of document.querySelectorAll('input[name="tab"]')) one.addEventListener("change", () => showTab(one.value));
  $("start-remove").onclick = () => {
    dropStart();
    $("start-choose").focus();
  };
  showStrength();
}
