// The form: from its fields to the body of a job, and from settings back to its fields.
import { $, button, make } from "./dom.js";
import { model, server, showModel, useOfPicture } from "./models.js";
import { write } from "./prompt.js";

const SHAPES = { Square: [1, 1], Portrait: [3, 4], Landscape: [4, 3], Wide: [16, 9], Tall: [9, 16] };
const NUMBERS = ["steps", "guidance", "width", "height", "batch"];
const CHOICES = ["sampler", "sigmas"];
// Settings of a picture that have no field here: they are sent as they are, until they are taken away.
const extras = new Map();
// Settings that are not of the picture, or that the bench decides.
const ELSEWHERE = ["batch", "previews", "loras", "model_hash", "extend", "overlay", "mask_blur", "mask_padding"];
const resized = new Set();

/** Calls `listener` whenever the size was changed. */
export const onResize = (listener) => resized.add(listener);

/** The size in the form: [width, height]. */
export const size = () => ["width", "height"].map((name) => Number($(name).value) || model().defaults[name]);

/** Puts a size into the form. */
export function setSize(width, height) {
  $("width").value = width;
  $("height").value = height;
  sizeChanged();
}

function sizeChanged() {
  const [width, height] = size();
  for (const each of $("shapes").children) {
    const [w, h] = sizeOf(SHAPES[each.textContent]);
    each.setAttribute("aria-pressed", String(w === width && h === height));
  }
  for (const listener of resized) listener(width, height);
}

/** The size of a shape with about as many pixels as the model's own, in its multiples. */
export function sizeOf([across, down]) {
  const { defaults, multiple } = model();
  const side = Math.sqrt((defaults.width * defaults.height) / (across * down));
  return [across, down].map((part) => Math.max(multiple, Math.round((part * side) / multiple) * multiple));
}

/** Sets everything to what the model has as its own. */
export function useModel() {
  showModel();
  const { defaults, multiple } = model();
  for (const name of ["width", "height"]) Object.assign($(name), { step: multiple, min: multiple });
  for (const name of ["steps", "guidance"]) setNumber(name, defaults[name]);
  $("steps").max = server.limits.steps;
  $("batch").max = server.limits.pictures;
  $("steps-range").max = Math.min(server.limits.steps, Math.max(60, defaults.steps));
  setNumber("steps", defaults.steps);
  setSize(defaults.width, defaults.height);
}

function setNumber(name, value) {
  $(name).value = value;
  const range = $(`${name}-range`);
  if (range) range.value = value;
}

/** The body of a job; without the start picture, which stands on the bench. */
export function bodyOf() {
  const body = { model: model().id, ...Object.fromEntries(extras) };
  if (model().prompt) Object.assign(body, { prompt: $("prompt").value, negative: $("negative").value || undefined });
  if (model().classes !== null) body.class_label = classOf($("class").value.trim());
  for (const name of NUMBERS) body[name] = $(name).value === "" ? undefined : Number($(name).value);
  if (useOfPicture() === "enlarge" || useOfPicture() === "labels") delete body.width, delete body.height;
  for (const name of CHOICES) body[name] = $(name).value || undefined;
  if ($("seed").value.trim()) body.seed = seedOf($("seed").value.trim());
  return { ...body, previews: Math.max(0, Math.min((body.steps || model().defaults.steps) - 1, 20)) };
}

const classOf = (text) => (/^\d+$/.test(text) ? Number(text) : text || undefined);
const seedOf = (text) => (/^\d{1,20}$/.test(text) ? text : Number(text)); // digits as text, which keeps 64 bits

/** Puts settings into the form; what it has no field for is kept and listed. Returns the names that were put aside. */
export function applySettings(settings) {
  const { model: wanted, prompt, negative, ...rest } = settings;
  const known = server.models.find((one) => one.id === wanted || one.name === wanted);
  if (known) $("model").value = known.id;
  useModel();
  if (prompt !== undefined) write("prompt", String(prompt));
  write("negative", String(negative ?? ""));
  extras.clear();
  for (const [name, value] of Object.entries(rest)) apply(name, value);
  sizeChanged();
  showExtras();
  return wanted && !known ? ["model"] : [];
}

function apply(name, value) {
  if (name === "class_label") $("class").value = value;
  else if (name === "seed") $("seed").value = value;
  else if (name === "strength") $("strength").value = value;
  else if (ELSEWHERE.includes(name)) return;
  else if (NUMBERS.includes(name) && typeof value === "number") setNumber(name, value);
  else if (CHOICES.includes(name) && typeof value === "string") choose(name, value);
  else extras.set(name, value);
}

function choose(name, value) {
  const usual = model().defaults[name];
  $(name).value = value === usual ? "" : value;
  if ($(name).selectedIndex < 0) extras.set(name, value);
}

function showExtras() {
  $("extras-panel").hidden = !extras.size;
  const chips = [...extras].map(([name, value]) => {
    const remove = button("×", () => dropExtra(name), { aria: { label: `Leave out ${name}` } });
    return make("li", { data: { field: name } }, `${name.replaceAll("_", " ")} ${shown(value)} `, remove);
  });
  $("extras").replaceChildren(...chips);
}

const shown = (value) => (Array.isArray(value) ? value.map((one) => Number(one.toPrecision?.(3) ?? one)).join(", ") : String(value));

function dropExtra(name) {
  extras.delete(name);
  showExtras();
}

/** Offers the seed of the last picture. */
export function offerSeed(seed) {
  const last = $("seed-last");
  last.hidden = false;
  last.title = `Seed ${seed}`;
  last.setAttribute("aria-label", `Use the last seed, ${seed}`);
  last.onclick = () => {
    $("seed").value = seed;
  };
}

/** Begins to watch the form. */
export function listenToForm() {
  const shapes = Object.keys(SHAPES).map((name) => button(name, () => setSize(...sizeOf(SHAPES[name])), { aria: { pressed: "false" } }));
  $("shapes").replaceChildren(...shapes);
  for (const name of ["width", "height"]) $(name).addEventListener("change", sizeChanged);
  $("swap").onclick = () => setSize(...size().reverse());
  for (const name of ["steps", "guidance"]) {
    $(`${name}-range`).addEventListener("input", (event) => setNumber(name, event.target.value));
    $(name).addEventListener("input", (event) => setNumber(name, event.target.value));
  }
  $("seed-random").onclick = () => {
    $("seed").value = "";
  };
  $("model").addEventListener("change", useModel);
}
