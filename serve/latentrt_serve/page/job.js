// One job at a time: sent, watched, cancelled, its pictures fetched.
import { call, eventsOf, get, post } from "./api.js";
import { $, say } from "./dom.js";
import { advance, hideStrip, showStrip } from "./strip.js";

const POLL_MS = 1500;
const QUARTERS = [0.25, 0.5, 0.75];

/** A job of the server from its submission to its pictures. */
export class Job {
  /** on: functions `accepted(job)`, `preview(number, base64, step, steps)` and `queued(place)`. */
  constructor(on) {
    Object.assign(this, { on, id: null, step: 0, steps: 0, told: 0, stopped: false, sending: new AbortController() });
  }

  /** Sends the body and watches until the end. Returns the entries, or null for a cancelled job. Throws Refused. */
  async run(body) {
    const job = await post("v1/jobs", body, this.sending.signal);
    this.id = job.id;
    if (this.stopped) await this.cancel();
    this.steps = job.steps;
    this.on.accepted(job);
    showStrip(job.steps);
    const polling = setInterval(() => this.lookAtQueue(), POLL_MS);
    try {
      return await this.watch(body);
    } finally {
      clearInterval(polling);
      hideStrip();
    }
  }

  async watch(body) {
    for await (const [kind, data] of eventsOf(this.id)) {
      if (kind === "queued") this.on.queued(data.place);
      else if (kind === "running" || kind === "started") this.begin();
      else if (kind === "step") this.advance(data);
      else if (kind === "preview") this.on.preview(data.picture, data.b64_json, this.step, this.steps);
      else if (kind === "lost") $("state").textContent = "The connection is lost, trying again …";
      else if (kind === "done") return this.fetch(data, body);
      else if (kind === "failed") throw { message: data.error?.message ?? "The job failed." };
      else if (kind === "cancelled") return null;
    }
    return null;
  }

  begin() {
    if (this.began) return;
    this.began = true;
    $("state").textContent = "Drawing …";
    say("Drawing");
  }

  advance({ step, steps }) {
    this.begin();
    Object.assign(this, { step, steps });
    advance(step, steps);
    document.title = `${step}/${steps} latentrt`;
    $("state").textContent = step < steps ? `Step ${step} of ${steps}` : "Developing …";
    const told = QUARTERS.filter((part) => step / steps >= part).length;
    if (told > this.told) say(`Step ${step} of ${steps}`);
    this.told = told;
  }

  async lookAtQueue() {
    if (this.began) return;
    const job = await get(`v1/jobs/${this.id}`).catch(() => null);
    if (job?.state === "queued" && !this.began) this.on.queued(job.place);
  }

  async fetch(job, body) {
    const seconds = job.completed - job.started;
    return Promise.all(job.pictures.map((path, number) => entryOf(path, job.seeds[number], seconds, body)));
  }

  /** Asks the server to stop; the job ends within a step. */
  async cancel() {
    this.stopped = true;
    if (this.id) await call(`v1/jobs/${this.id}`, { method: "DELETE" });
  }
}

async function entryOf(path, seed, seconds, body) {
  const blob = await (await call(`${path.slice(1)}?format=png`)).blob();
  const { width, height } = await createImageBitmap(blob);
  const alt = body.prompt ? `Picture of: ${body.prompt}` : `Picture of ${body.class_label ?? body.model}, seed ${seed}`;
  return { url: URL.createObjectURL(blob), blob, alt, body, seed, width, height, seconds, name: fileName(body, seed) };
}

function fileName(body, seed) {
  const words = String(body.prompt || body.class_label || body.model).toLowerCase().replace(/<[^>]*>/g, "").match(/[\p{L}\p{N}]+/gu) ?? ["picture"];
  return `${words.slice(0, 6).join("-").slice(0, 50)}-${seed}.png`;
}
