// What comes from the node: its stream of pictures, and answers to questions. All addresses are relative to the page.
const API = "api/v1/";
const KEPT = 300; // moments that charts show
const AGAIN_MS = [500, 1000, 2000, 5000];

let token = "";
try {
  token = sessionStorage.getItem("afflux-token") || "";
} catch {
  // A browser that keeps nothing asks again in the next window.
}

export function setToken(value) {
  token = value.trim();
  try {
    sessionStorage.setItem("afflux-token", token);
  } catch {}
}

function headers(more) {
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

async function failure(response) {
  let told = {};
  try {
    told = await response.json();
  } catch {}
  const error = new Error(told.message || `the node answered ${response.status}`);
  error.code = told.code;
  if (response.status === 401) window.dispatchEvent(new CustomEvent("afflux-locked"));
  return error;
}

export async function ask(path) {
  const response = await fetch(API + path, { headers: headers({ Accept: "application/json" }) });
  if (!response.ok) throw await failure(response);
  return response.json();
}

async function post(address, body) {
  const response = await fetch(address, {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify(body),
  });
  if (!response.ok) throw await failure(response);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

export const change = (path) => post(API + path, {});
export const call = (service, method, params) =>
  post(`rpc/${encodeURIComponent(service)}/${encodeURIComponent(method)}`, params);

// What charts show: time, and rates by job.
export const history = { at: [], jobs: new Map() };

function remember(picture) {
  history.at.push(picture.at_ms / 1000);
  for (const job of picture.jobs) {
    if (!history.jobs.has(job.id)) {
      history.jobs.set(job.id, { in: history.at.slice(1).map(() => null), out: history.at.slice(1).map(() => null) });
    }
  }
  for (const [id, rates] of history.jobs) {
    const job = picture.jobs.find((job) => job.id === id);
    if (!job) history.jobs.delete(id);
    rates.in.push(job ? job.in_rate : null);
    rates.out.push(job ? job.out_rate : null);
  }
  if (history.at.length > KEPT) {
    history.at.shift();
    for (const rates of history.jobs.values()) {
      rates.in.shift();
      rates.out.shift();
    }
  }
}

// Reads the stream until it ends; calls back with each picture.
async function read(show, signal) {
  const response = await fetch(API + "stream", { headers: headers({ Accept: "text/event-stream" }), signal });
  if (!response.ok) throw await failure(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
      if (data.length) {
        const picture = JSON.parse(data.join("\n"));
        remember(picture);
        show(picture);
      }
    }
  }
}

// Follows the stream for ever; `say` is told "live", or why it is not.
export function follow(show, say) {
  let tries = 0;
  let ended = false;
  let waiting = 0;
  let abort = new AbortController();
  const again = () => {
    if (ended) return;
    abort = new AbortController();
    const seen = (picture) => {
      tries = 0;
      say("live");
      show(picture);
    };
    read(seen, abort.signal)
      .then(() => say("the stream ended"), (error) => say(error.message))
      .then(() => {
        const pause = AGAIN_MS[Math.min(tries++, AGAIN_MS.length - 1)];
        if (!ended) waiting = setTimeout(again, pause);
      });
  };
  again();
  return () => {
    ended = true;
    clearTimeout(waiting);
    abort.abort();
  };
}
