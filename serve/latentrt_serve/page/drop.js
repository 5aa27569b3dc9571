// Pictures that are dropped, pasted or chosen: their settings, or the picture itself to start from.
import { call } from "./api.js";
import { $ } from "./dom.js";
import { applySettings } from "./form.js";
import { useOfPicture } from "./models.js";
import { notice } from "./notice.js";
import { takeStart } from "./start.js";

async function asStart(file) {
  try {
    await takeStart(file, file.name || "pasted picture");
  } catch {
    notice(`${file.name || "That"} is not a picture that this browser can read.`);
  }
}

const WHAT = {
  init: "a start picture",
  mask: "a mask",
  segmentation: "a map of labels",
  controls: "control pictures",
  references: "reference pictures",
};

async function takeSettings(file) {
  const other = useOfPicture() === "none" ? {} : { "Use as start picture": () => asStart(file) };
  let recipe;
  try {
    recipe = await (await call("v1/recipes", { method: "POST", body: file, type: file.type || "image/png" })).json();
  } catch (error) {
    notice(`${file.name}: ${error.message.replace(/^picture: /, "")}.`, error.param === "picture" ? other : {});
    return;
  }
  const aside = applySettings(recipe.settings);
  const lacks = recipe.needs.map((name) => WHAT[name]).filter(Boolean);
  const model = aside.includes("model") ? ` Its model, ${recipe.settings.model}, is not on this server.` : "";
  const also = lacks.length ? ` It was made with ${lacks.join(" and ")}, which the file does not hold.` : "";
  notice(`The settings of ${file.name} are in the form (${recipe.tool}).${model}${also}`, other);
}

const imageIn = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));

/** Begins to take pictures. */
export function listenForPictures() {
  const veil = $("veil"), panel = $("start-panel");
  let depth = 0; // of elements that the pointer has entered
  const over = (change) => {
    depth = Math.max(0, depth + change);
    veil.hidden = depth === 0;
  };
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => hasFiles(event) && over(1));
  document.addEventListener("dragleave", (event) => hasFiles(event) && over(-1));
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    panel.classList.toggle("over", panel.contains(event.target));
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(-Infinity);
    panel.classList.remove("over");
    const file = imageIn(event.dataTransfer);
    if (file) (panel.contains(event.target) ? asStart : takeSettings)(file);
    else notice("That is not a picture.");
  });
  document.addEventListener("paste", (event) => {
    const file = imageIn(event.clipboardData);
    if (file && useOfPicture() !== "none") asStart(file);
  });
  $("start-choose").onclick = () => $("start-file").click();
  $("start-file").addEventListener("change", () => {
    const [file] = $("start-file").files;
    $("start-file").value = "";
    if (file) asStart(file);
  });
}
