// The page: puts its parts together.
import { expectedSize, listenToBench, showTab, startFields } from "./bench.js";
import { $, say } from "./dom.js";
import { listenForPictures } from "./drop.js";
import { clearErrors, showError } from "./errors.js";
import { applySettings, bodyOf, listenToForm, offerSeed, useModel } from "./form.js";
import { actionsOf, addPictures, listenToGallery, openPicture } from "./gallery.js";
import { Job } from "./job.js";
import { listenForKeys } from "./keys.js";
import { loadModels } from "./models.js";
import { clearNotice, notice } from "./notice.js";
import { insert, listenToPrompts } from "./prompt.js";
import { drawNoise, expect, fade, showPictures, showPreview, unfade } from "./stage.js";
import { takeStart } from "./start.js";

let running = null;

async function generate() {
  if (running) return;
  clearErrors();
  clearNotice();
  let body;
  try {
    body = { ...bodyOf(), ...startFields() };
  } catch (error) {
    showError(error);
    return;
  }
  const job = new Job({ accepted: () => showTable(body), preview: showPreview, queued: showPlace });
  busy(job);
  $("state").textContent = "Sending …";
  try {
    ended(await job.run(body));
  } catch (error) {
    if (job.id) fade();
    $("state").textContent = "";
    showError(error.message ? error : { message: "The page failed. Its console has the reason." });
    if (!error.message || error instanceof TypeError) console.error(error);
  } finally {
    busy(null);
  }
}

function busy(job) {
  running = job;
  const pressed = document.activeElement === $(job ? "generate" : "cancel");
  $("generate").hidden = Boolean(job);
  $("cancel").hidden = !job;
  $("cancel").disabled = false;
  document.title = job ? "… latentrt" : "latentrt";
  if (pressed) $(job ? "cancel" : "generate").focus(); // the button that stands in its place
}

function showTable(body) {
  unfade();
  $("actions").replaceChildren();
  showTab("result");
  expect(body.batch || 1, ...expectedSize());
  if (matchMedia("(max-width: 860px)").matches) $("stage").scrollIntoView({ block: "start" });
}

function showPlace(place) {
  const text = place ? `In the queue, ${place} before you` : "In the queue, next";
  if ($("state").textContent !== text) say(text);
  $("state").textContent = text;
}

function ended(entries) {
  if (!entries) {
    fade();
    $("state").textContent = "Cancelled.";
    say("Cancelled");
    return;
  }
  addPictures(entries);
  showPictures(entries, (number) => openPicture(entries[number]));
  const seeds = entries.map((entry) => entry.seed).join(", ");
  const [{ seconds, width, height }] = entries;
  $("state").textContent = `Seed ${seeds} · ${width} × ${height} · ${seconds.toFixed(1)} s`;
  say(`Done. Seed ${seeds}`);
  offerSeed(entries[0].seed);
  $("actions").replaceChildren(actionsOf(entries[0]));
  $("actions").hidden = entries.length > 1;
}

function cancel() {
  if (!running) return false;
  $("cancel").disabled = true;
  $("state").textContent = "Stopping …";
  running.cancel().catch((error) => notice(error.message));
  return true;
}

const USES = {
  "Use settings": (entry) => {
    const { init, mask, segmentation, task, ...settings } = entry.body; // the settings without the picture
    applySettings({ ...settings, seed: entry.seed });
    $("prompt").focus();
  },
  "Use as start picture": (entry) => takeStart(entry.blob, entry.name),
};

async function begin() {
  drawNoise($("noise"));
  listenForKeys({ generate, cancel });
  listenToPrompts();
  listenToForm();
  listenToBench();
  listenToGallery(USES);
  listenForPictures();
  $("notice-close").onclick = clearNotice;
  $("cancel").onclick = cancel;
  $("lora-add").onclick = () => insert(`<lora:${$("lora").value}:${$("lora-scale").value || 1}>`);
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  if (matchMedia("(max-width: 860px)").matches) $("settings").open = false;
  try {
    await loadModels();
  } catch (error) {
    notice(error.message, { "Try again": () => location.reload() });
    return;
  }
  useModel();
  document.body.dataset.ready = "yes";
}

begin();
