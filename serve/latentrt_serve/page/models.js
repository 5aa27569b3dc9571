// The models of the server, and what each lets the user choose.
import { get } from "./api.js";
import { $, make } from "./dom.js";

export const server = { models: [], limits: {}, choices: {} };

// Tasks that the page has no editor for, and the field that a request of one's own would give.
const ELSEWHERE = { "layout-to-image": "layout", "vectors-to-image": "vectors" };

/** Asks the server for its models. */
export async function loadModels() {
  const known = await get("v1/capabilities");
  Object.assign(server, known, { choices: await get("v1/choices") });
  $("model").replaceChildren(...server.models.map((one) => make("option", { value: one.id }, one.id)));
  $("server").textContent = `version ${known.version}`;
}

/** The chosen model. */
export const model = () => server.models.find((one) => one.id === $("model").value) ?? server.models[0];

/** Whether the chosen model has a task. */
export const can = (task) => model().tasks.includes(task);

/** What the start picture is for: nothing, "edit", "enlarge", or "labels". */
export function useOfPicture() {
  if (can("super-resolution")) return "enlarge";
  if (can("semantic-synthesis")) return "labels";
  return can("image-to-image") ? "edit" : "none";
}

/** Shows the panels that the chosen model has a use for, and its choices. */
export function showModel() {
  const one = model();
  $("prompt-field").hidden = $("negative-field").hidden = !one.prompt;
  $("lora-field").hidden = !one.prompt || !server.choices.loras.length;
  $("lora").replaceChildren(...server.choices.loras.map((name) => make("option", { value: name }, name)));
  $("class-field").hidden = one.classes === null;
  const names = server.choices.classes[one.id] ?? [];
  $("classes").replaceChildren(...names.map((name, number) => make("option", { value: name.split(", ")[0], label: `${number}: ${name}` })));
  const use = useOfPicture();
  $("start-panel").hidden = use === "none";
  $("mode").hidden = $("strength-field").hidden = use !== "edit";
  $("mode").querySelector('[value="paint"]').parentElement.hidden = !can("inpainting");
  $("mode").querySelector('[value="extend"]').parentElement.hidden = !can("inpainting");
  $("size-panel").hidden = use === "enlarge" || use === "labels";
  fillChoices(one);
  remark(one);
}

function fillChoices(one) {
  const flow = server.choices.flow[one.id];
  const samplers = server.choices.samplers.filter((each) => each.flow === flow);
  fill($("sampler"), samplers, one.defaults.sampler);
  fill($("sigmas"), server.choices.curves, one.defaults.sigmas);
}

function fill(select, rows, usual) {
  const named = rows.find((row) => row.id === usual)?.label ?? usual;
  const own = make("option", { value: "" }, `${named} (the model's)`);
  const others = rows.filter((row) => row.id !== usual).map((row) => make("option", { value: row.id }, row.label));
  select.replaceChildren(own, ...others);
}

function remark(one) {
  const field = Object.entries(ELSEWHERE).find(([task]) => can(task))?.[1];
  const texts = {
    enlarge: "This model enlarges a picture: give it one below.",
    labels: "This model draws from a map of labels: give it one below.",
  };
  const text = field
    ? `This model draws from ${field}, which this page has no editor for. Send it to /v1/jobs in the field "${field}".`
    : texts[useOfPicture()] ?? (one.prompt || one.classes !== null ? "" : "This model takes no words: it draws what it knows.");
  $("model-remark").hidden = !text;
  $("model-remark").textContent = text;
}
