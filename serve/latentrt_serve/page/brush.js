// The brush: paints the part of the start picture that is to be drawn anew, with a pointer or with keys.
import { $, button, make, say } from "./dom.js";

const MOST_UNDO = 30;
// Pixels are read back for taking back a stroke, and for the mask.
const penOf = (area) => area.getContext("2d", { willReadFrequently: true });
const brush = { size: 24, erasing: false, at: null, undo: [] };
let canvas = null, cursor = null;

/** The canvas of the mask, over a picture of this size; what was painted is kept and scaled. */
export function maskCanvas(width, height) {
  const old = canvas;
  if (old && old.width === width && old.height === height) return old;
  canvas = make("canvas", { className: "mask", width, height, tabIndex: 0 });
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", "Part to draw anew. Arrow keys move the brush, Space paints");
  if (old) penOf(canvas).drawImage(old, 0, 0, width, height);
  brush.size = old ? brush.size : Math.round(Math.min(width, height) / 6);
  brush.at = [width / 2, height / 2];
  brush.undo = [];
  listen(canvas);
  return canvas;
}

/** The ring that shows the brush. */
export function cursorRing() {
  cursor ??= make("i", { className: "ring", hidden: true });
  return cursor;
}

/** Takes all paint away. */
export function clearMask() {
  if (!canvas) return;
  keep();
  penOf(canvas).clearRect(0, 0, canvas.width, canvas.height);
}

/** The mask as a data URL, white where the picture is drawn anew; null where nothing is painted. */
export function maskData() {
  const { width, height } = canvas;
  const paint = penOf(canvas).getImageData(0, 0, width, height);
  let painted = false;
  for (let at = 0; at < paint.data.length; at += 4) {
    const white = paint.data[at + 3] > 127 ? 255 : 0;
    painted ||= white > 0;
    paint.data.set([white, white, white, 255], at);
  }
  if (!painted) return null;
  const mask = make("canvas", { width, height });
  mask.getContext("2d").putImageData(paint, 0, 0);
  return mask.toDataURL("image/png");
}

function keep() {
  brush.undo.push(penOf(canvas).getImageData(0, 0, canvas.width, canvas.height));
  if (brush.undo.length > MOST_UNDO) brush.undo.shift();
}

function undo() {
  const before = brush.undo.pop();
  if (before) penOf(canvas).putImageData(before, 0, 0);
}

/** Stripes of two colours, which are seen on any picture. */
function stripes(pen) {
  const side = 2 * Math.max(2, Math.round(canvas.width / 48)), tile = make("canvas", { width: side, height: side });
  const tilePen = tile.getContext("2d");
  for (let y = 0; y < side; y += 1) {
    for (let x = 0; x < side; x += 1) {
      tilePen.fillStyle = (x + y) % side < side / 2 ? "#e8431c" : "#ffe9dc";
      tilePen.fillRect(x, y, 1, 1);
    }
  }
  return pen.createPattern(tile, "repeat");
}

function stroke([x, y], [toX, toY]) {
  const pen = penOf(canvas);
  Object.assign(pen, { lineCap: "round", lineWidth: brush.size, strokeStyle: stripes(pen) });
  pen.globalCompositeOperation = brush.erasing ? "destination-out" : "source-over";
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(toX + 0.01, toY); // a dot has a length too
  pen.stroke();
}

function placeOf(event) {
  const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

function showRing() {
  if (!cursor || !canvas) return;
  const scale = canvas.clientWidth / canvas.width, across = brush.size * scale;
  const [x, y] = brush.at.map((part) => part * scale);
  Object.assign(cursor.style, { width: `${across}px`, height: `${across}px` });
  cursor.style.transform = `translate(${x - across / 2}px, ${y - across / 2}px)`;
  cursor.hidden = false;
}

function listen(area) {
  area.addEventListener("pointerdown", (event) => {
    area.setPointerCapture(event.pointerId);
    keep();
    brush.at = placeOf(event);
    stroke(brush.at, brush.at);
  });
  area.addEventListener("pointermove", (event) => {
    const next = placeOf(event);
    if (event.buttons) stroke(brush.at, next);
    brush.at = next;
    showRing();
  });
  area.addEventListener("focus", showRing);
  for (const name of ["pointerleave", "blur"]) area.addEventListener(name, () => (cursor.hidden = true));
  area.addEventListener("keydown", onKey);
}

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function onKey(event) {
  const move = MOVES[event.key];
  if (move) moveBy(move, event.shiftKey ? 4 : 1);
  else if (event.key === " ") dab();
  else if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
  else if (event.key === "[" || event.key === "]") setBrush(brush.size * (event.key === "]" ? 1.25 : 0.8));
  else if (event.key === "e") setErasing(!brush.erasing);
  else return;
  event.preventDefault();
  showRing();
}

function moveBy([x, y], times) {
  const far = Math.max(1, brush.size / 4) * times, limits = [canvas.width, canvas.height];
  brush.at = [x, y].map((part, axis) => Math.min(limits[axis], Math.max(0, brush.at[axis] + part * far)));
}

function dab() {
  keep();
  stroke(brush.at, brush.at);
  say(`${brush.erasing ? "Erased" : "Painted"} at ${brush.at.map(Math.round).join(", ")}`);
}

function setBrush(value) {
  brush.size = Math.round(Math.min(canvas.width, Math.max(2, value)));
  $("brush-size").value = brush.size;
}

function setErasing(erasing) {
  brush.erasing = erasing;
  $("brush-erase").setAttribute("aria-pressed", String(erasing));
  say(erasing ? "Eraser" : "Brush");
}

/** Fills the bar of tools under the picture. */
export function fillToolbar(bar) {
  const slider = make("input", { type: "range", id: "brush-size", min: 2, max: Math.round(canvas.width / 2), value: brush.size });
  slider.addEventListener("input", () => setBrush(Number(slider.value)));
  bar.replaceChildren(
    make("span", { className: "remark" }, "Paint over what is to be drawn anew."),
    make("label", {}, "Brush ", slider),
    button("Erase", () => setErasing(!brush.erasing), { id: "brush-erase", aria: { pressed: String(brush.erasing) } }),
    button("Undo", undo),
    button("Clear", clearMask, { id: "brush-clear" }),
  );
}
