// The contact sheet: the pictures of this session, newest first, and the large view of each.
import { $, button, make, say } from "./dom.js";

const entries = [];
let uses = {};

/** What can be done with a picture: functions by the text of their button, each takes the entry. */
export const listenToGallery = (given) => {
  uses = given;
  $("view").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && $("view").open) turn(step);
  });
  $("view").addEventListener("click", (event) => {
    if (event.target === $("view")) $("view").close(); // beside the picture
  });
};

/** Adds pictures. entry: url, blob, alt, body, seed, width, height, seconds, name. */
export function addPictures(added) {
  entries.unshift(...added);
  show();
}

function show() {
  $("gallery-empty").hidden = entries.length > 0;
  $("gallery").replaceChildren(
    ...entries.map((entry) => {
      const image = make("img", { src: entry.url, alt: entry.alt, loading: "lazy" });
      return make("li", {}, make("button", { type: "button", onclick: () => openPicture(entry) }, image));
    }),
  );
}

/** Shows a picture in large, with its settings. */
export function openPicture(entry) {
  const view = $("view"), at = entries.indexOf(entry);
  const image = make("img", { src: entry.url, alt: entry.alt });
  image.style.setProperty("--proportion", entry.width / entry.height);
  const turns = [button("←", () => turn(-1), { aria: { label: "Newer picture" } }), button("→", () => turn(1), { aria: { label: "Older picture" } })];
  turns[0].disabled = at <= 0;
  turns[1].disabled = at >= entries.length - 1;
  const close = button("×", () => view.close(), { className: "quiet close", aria: { label: "Close" } });
  const top = make("div", { className: "line top" }, ...turns, make("span", { className: "grow remark" }, `${at + 1} of ${entries.length}`), close);
  const side = make("div", { className: "facts" }, ...wordsOf(entry), settingsOf(entry), actionsOf(entry, () => view.close()), remover(entry, view));
  view.replaceChildren(top, make("div", { className: "large" }, image), side);
  view.dataset.at = at;
  if (!view.open) view.showModal();
}

function turn(step) {
  const next = entries[Number($("view").dataset.at) + step];
  if (!next) return;
  openPicture(next);
  say(next.alt);
}

function remover(entry, view) {
  return button("Remove from the sheet", () => {
    entries.splice(entries.indexOf(entry), 1);
    URL.revokeObjectURL(entry.url);
    view.close();
    show();
  }, { className: "quiet" });
}

const LABELS = { class_label: "class", sigmas: "noise curve" };
const HIDDEN = ["prompt", "init", "mask", "segmentation", "previews", "batch", "seed", "width", "height", "overlay", "task"];

const wordsOf = ({ body }) => (body.prompt ? [make("p", { className: "prompt" }, body.prompt)] : []);

function settingsOf({ body, seed, width, height, seconds }) {
  const rows = { ...body };
  for (const name of HIDDEN) delete rows[name];
  const more = { seed, size: `${width} × ${height}`, ...(seconds ? { "took": `${seconds.toFixed(1)} s` } : {}) };
  if (body.init) more.start = { inpaint: "a picture, painted over", upscale: "a picture, enlarged" }[body.task] ?? (body.extend ? "a picture, extended" : "a picture");
  const pairs = Object.entries({ ...rows, ...more }).filter(([, value]) => value !== undefined && value !== "");
  return make("dl", {}, ...pairs.flatMap(([name, value]) => [make("dt", {}, LABELS[name] ?? name.replaceAll("_", " ")), make("dd", {}, String(value))]));
}

/** The buttons of a picture. after: called before each of them does its work. */
export function actionsOf(entry, after = () => {}) {
  const download = make("a", { href: entry.url, download: entry.name, className: "button" }, "Download");
  const others = Object.entries(uses).map(([text, use]) =>
    button(text, () => {
      after();
      use(entry);
    }),
  );
  return make("div", { className: "act" }, download, ...others);
}
