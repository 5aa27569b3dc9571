// The table in the middle: noise before the first picture, then previews, then the pictures.
import { $, make } from "./dom.js";

/** Draws the noise that every picture begins with, in grey. */
export function drawNoise(canvas) {
  const tile = canvas.getContext("2d");
  const dots = tile.createImageData(canvas.width, canvas.height);
  for (let at = 0; at < dots.data.length; at += 4) {
    const level = 128 + 90 * (Math.random() + Math.random() + Math.random() - 1.5);
    dots.data.set([level, level - 3, level - 9, 255], at);
  }
  tile.putImageData(dots, 0, 0);
}

/** Prepares places for a number of pictures of a size, each with noise in it. */
export function expect(count, width, height) {
  const places = Array.from({ length: count }, () => {
    const noise = make("canvas", { width: Math.round(width / 8) || 1, height: Math.round(height / 8) || 1 });
    noise.setAttribute("role", "img");
    noise.setAttribute("aria-label", "Noise, before the first preview");
    drawNoise(noise);
    return noise;
  });
  arrange(places, width, height);
  $("print").classList.add("developing");
}

function arrange(places, width, height) {
  const columns = places.length > 1 ? 2 : 1;
  const rows = Math.ceil(places.length / columns);
  const print = $("print");
  print.style.setProperty("--columns", columns);
  print.style.setProperty("--ratio", `${width * columns} / ${height * rows}`);
  print.style.setProperty("--proportion", (width * columns) / (height * rows));
  print.replaceChildren(...places);
}

/** Shows a preview in its place. */
export function showPreview(number, base64, step, steps) {
  const place = $("print").children[number];
  if (!place) return;
  const image = place instanceof HTMLImageElement ? place : make("img", { className: "preview" });
  image.src = `data:image/png;base64,${base64}`;
  image.alt = `Preview after step ${step} of ${steps}`;
  if (image !== place) place.replaceWith(image);
}

/** Shows finished pictures. open: called with the number of the one that is pressed. */
export function showPictures(entries, open) {
  const places = entries.map((entry, number) => {
    const image = make("img", { src: entry.url, alt: entry.alt });
    return make("button", { type: "button", className: "enlarge", onclick: () => open(number), title: "Show in large" }, image);
  });
  arrange(places, entries[0].width, entries[0].height);
  $("print").classList.remove("developing");
}

/** Leaves the last preview as it is, faded: the job did not finish. */
export function fade() {
  $("print").classList.remove("developing");
  $("print").classList.add("faded");
}

/** Begins anew after a picture that did not finish. */
export const unfade = () => $("print").classList.remove("faded");
