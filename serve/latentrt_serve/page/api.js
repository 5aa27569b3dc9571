// Calls of the server: the key, errors, and the stream of a job's events.
import { askKey } from "./keys.js";

const KEY = "latentrt-key";
// Whole numbers that a double cannot hold; in the server's answers only seeds are so long.
const LONG_NUMBER = /([[:,]\s*)(\d{16,20})(?=\s*[,\]}])/g;

/** What the server refuses. param: the field that is wrong, or null. */
export class Refused extends Error {
  constructor(status, error, retryAfter) {
    super(error.message);
    Object.assign(this, { status, code: error.code, param: error.param ?? null, retryAfter });
  }
}

function headers(type) {
  const key = sessionStorage.getItem(KEY);
  return { ...(type ? { "Content-Type": type } : {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

/** The answer to a call; asks for the key where the server wants one. Throws Refused. */
export async function call(path, { method = "GET", body, type, signal } = {}) {
  for (;;) {
    const answer = await reached(path, { method, body, signal, headers: headers(type) });
    if (answer.ok) return answer;
    if (answer.status !== 401) throw await refusal(answer);
    sessionStorage.setItem(KEY, await askKey(sessionStorage.getItem(KEY) !== null));
  }
}

async function reached(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { code: "unreachable", message: "The server does not answer. Is it still running?" });
  }
}

async function refusal(answer) {
  const told = await answer.json().catch(() => null);
  const error = told?.error ?? { code: "http_error", message: `The server answered with status ${answer.status}.` };
  return new Refused(answer.status, error, Number(answer.headers.get("Retry-After")) || null);
}

/** The JSON of an answer. */
export const get = async (path) => parsed(await (await call(path)).text());

/** The JSON of the answer to a JSON body. Long seeds, which are text here, are numbers there. */
export async function post(path, body, signal) {
  const text = JSON.stringify(body).replace(/"(seed|variation_seed)":"(\d{1,20})"/g, '"$1":$2');
  return parsed(await (await call(path, { method: "POST", body: text, type: "application/json", signal })).text());
}

const parsed = (text) => JSON.parse(text.replace(LONG_NUMBER, '$1"$2"'));

/** The events of a job until its end, as [kind, data]. Where the connection breaks it is "lost", and tried again. */
export async function* eventsOf(id) {
  for (let tries = 0; ; tries += 1) {
    try {
      for await (const [kind, data] of stream(await call(`v1/jobs/${id}/events`))) {
        tries = 0;
        yield [kind, data];
        if (["done", "failed", "cancelled"].includes(kind)) return;
      }
    } catch (error) {
      if (error instanceof Refused && error.status) throw error;
      if (tries > 5) throw error;
    }
    yield ["lost", {}];
    await new Promise((resolve) => setTimeout(resolve, 400 * 2 ** tries));
  }
}

async function* stream(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield eventIn(part);
  }
}

function eventIn(part) {
  const lines = Object.fromEntries(part.split("\n").map((line) => [line.split(":", 1)[0], line.replace(/^\w+: ?/, "")]));
  return [lines.event, parsed(lines.data ?? "{}")];
}
