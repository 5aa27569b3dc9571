// The start picture: taken from a file, the clipboard or another picture, and brought to the size of the form.
import { $, make } from "./dom.js";
import { size, setSize, sizeOf } from "./form.js";
import { model, useOfPicture } from "./models.js";

const listeners = new Set();
// bitmap: as it was given. canvas: at the size of the form.
export const start = { bitmap: null, blob: null, name: "", canvas: null };

/** Calls `listener` whenever the start picture changed, with whether it is another one or has another size alone. */
export const onStart = (listener) => listeners.add(listener);

/** Takes a picture as the one to start from. Throws for a file that the browser cannot read. */
export async function takeStart(blob, name = "picture") {
  const bitmap = await createImageBitmap(blob);
  Object.assign(start, { bitmap, blob, name, canvas: null });
  if (useOfPicture() === "edit") setSize(...fitting(bitmap));
  renderStart(true);
}

/** Takes the start picture away. */
export function dropStart() {
  Object.assign(start, { bitmap: null, blob: null, name: "", canvas: null });
  tell(true);
}

/** The size that a picture is drawn at: its own if the model can draw it, else the nearest of its shape. */
function fitting({ width, height }) {
  const { multiple, defaults } = model();
  const pixels = width * height, usual = defaults.width * defaults.height;
  const fits = width % multiple === 0 && height % multiple === 0;
  return fits && pixels <= 2 * usual && pixels >= usual / 4 ? [width, height] : sizeOf([width, height]);
}

/** Brings the picture to the size of the form again. */
export function renderStart(another = false) {
  if (!start.bitmap) return;
  const { bitmap } = start;
  const [width, height] = useOfPicture() === "edit" ? size() : [bitmap.width, bitmap.height];
  start.canvas = make("canvas", { width, height });
  const pen = start.canvas.getContext("2d");
  pen.fillStyle = "#fff"; // under transparent parts
  pen.fillRect(0, 0, width, height);
  cover(pen, bitmap, width, height);
  tell(another);
}

function cover(pen, bitmap, width, height) {
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  const [w, h] = [bitmap.width * scale, bitmap.height * scale];
  pen.imageSmoothingEnabled = scale !== 1;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
}

function tell(another) {
  const { bitmap, canvas, name } = start;
  $("start-drop").hidden = Boolean(bitmap);
  $("start-given").hidden = !bitmap;
  if (bitmap) {
    const thumb = $("start-thumb"), pen = thumb.getContext("2d");
    cover(pen, canvas, thumb.width, thumb.height);
    const scaled = bitmap.width === canvas.width && bitmap.height === canvas.height;
    $("start-about").textContent =
      `${name}, ${bitmap.width} × ${bitmap.height}` + (scaled ? "" : `, used at ${canvas.width} × ${canvas.height}`);
  }
  for (const listener of listeners) listener(another);
}
