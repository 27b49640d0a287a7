/** Talks to the service: requests with the user's token, and Server-Sent Events that come back after a break. */

const KEY = "slate-token";
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
const SILENCE_MS = 40_000; // the service says something every 15 s

let token = sessionStorage.getItem(KEY);

/** The service's answer is no; `status` is 0 where there was none. */
export class Refused extends Error {
  constructor(status, message, retryAfterS = 0) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

export const hasToken = () => token !== null;

/** Keep a token for this tab, or forget it with null. */
export function keepToken(value) {
  token = value;
  if (value === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, value);
}

export async function get(path, signal) {
  return (await ask(path, { signal })).json();
}

/** A picture as an address that the caller revokes. */
export async function picture(path, signal) {
  return URL.createObjectURL(await (await ask(path, { signal })).blob());
}

/** Send JSON; returns the answer's JSON, or null where it has none. */
export async function send(method, path, body) {
  const headers = { "content-type": "application/json" };
  const answer = await ask(path, { method, headers, body: body && JSON.stringify(body) });
  return answer.headers.get("content-type")?.includes("json") ? answer.json() : null;
}

async function ask(path, options) {
  // fetch would throw at what no header can hold
  if (!/^[\x21-\x7e]+$/.test(token ?? "")) throw signedOut(new Refused(401, "That is not a token."));
  let answer;
  try {
    const headers = { ...options.headers, authorization: `Bearer ${token}` };
    answer = await fetch(`/v1${path}`, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service cannot be reached.");
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  const why = new Refused(
    answer.status,
    body.error ?? `The service answers ${answer.status}.`,
    Number(answer.headers.get("retry-after") ?? 0),
  );
  throw answer.status === 401 ? signedOut(why) : why;
}

function signedOut(why) {
  document.dispatchEvent(new CustomEvent("signedout", { detail: why.message }));
  return why;
}

/**
 * Hear a stream until `signal` is aborted, and again after a break.
 *
 * `on` has a function for each event's name; `state` is told "live" and "reconnecting".
 * Throws Refused where it makes no sense to try again: 401, 403 and 404.
 */
export async function hear(path, on, state, signal) {
  const place = { last: null, pause: FIRST_PAUSE_MS };
  while (!signal.aborted) {
    let pause = 0;
    try {
      await read(path, on, state, signal, place);
    } catch (error) {
      if (signal.aborted) return;
      if ([401, 403, 404].includes(error.status)) throw error;
      if (!(error instanceof Refused) && !(error instanceof TypeError) && error.name !== "AbortError") throw error;
      pause = (error.retryAfterS ?? 0) * 1000;
    }
    if (signal.aborted) return;
    state("reconnecting");
    await sleep(Math.max(pause, place.pause * (0.5 + Math.random() / 2)), signal);
    place.pause = Math.min(place.pause * 2, LONGEST_PAUSE_MS);
  }
}

async function read(path, on, state, signal, place) {
  const silence = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE_MS);
  };
  heard();
  try {
    const headers = { accept: "text/event-stream", ...(place.last && { "last-event-id": place.last }) };
    const answer = await ask(path, { headers, signal: AbortSignal.any([signal, silence.signal]) });
    state("live");
    const text = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await text.read();
      if (done) return;
      heard();
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) tell(event, on, place);
    }
  } finally {
    clearTimeout(timer);
  }
}

function tell(event, on, place) {
  const fields = { event: "message", data: "" };
  for (const line of event.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
  }
  if (!fields.data) return;
  place.pause = FIRST_PAUSE_MS;
  place.last = fields.id ?? place.last;
  on[fields.event]?.(JSON.parse(fields.data));
}

/** Wait, or less where it is aborted. */
export function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

/**
 * Makes a function that reads again: at once, or when the pause since the last time is over, and then once more, for
 * an answer may be as old as the service keeps answers. The pause must be longer than that.
 */
export function rereader(load, pauseMs, signal) {
  let left = 0;
  let busy = false;
  return async (times = 2) => {
    left = Math.max(left, times);
    if (busy) return;
    busy = true;
    while (left > 0 && !signal.aborted) {
      left -= 1;
      await load();
      await sleep(pauseMs, signal);
    }
    busy = false;
  };
}
