/** Sessions that this page holds: begin one, say something, hear what happens, end it. */

import { hear, Refused, send } from "./api.js";
import { announce, h, json, problems } from "./dom.js";
import { duration } from "./format.js";

const KEY = "slate-begun";
const MODES = ["", "creative", "deterministic", "hybrid"];

const begun = () => JSON.parse(sessionStorage.getItem(KEY) ?? "[]");

/** Whether this tab began the session, and has not seen its end. */
export const begunHere = (id) => begun().includes(id);

function remember(ids) {
  sessionStorage.setItem(KEY, JSON.stringify(ids));
}

/** A button, and the dialog that it opens. */
export function newSession() {
  const problem = problems();
  const mode = h(
    "select",
    { id: "mode" },
    MODES.map((one) => h("option", { value: one }, one || "as usual")),
  );
  const model = h("input", {
    id: "model",
    autocomplete: "off",
    placeholder: "as usual",
    pattern: "[A-Za-z0-9._\\-]{1,100}",
  });
  const begin = h("button", { class: "primary" }, "Begin");
  const form = h(
    "form",
    { onsubmit: submit },
    h("h2", { id: "new-session" }, "New session"),
    problem.element,
    h("label", { for: "mode" }, "Mode"),
    mode,
    h("label", { for: "model" }, "Model"),
    model,
    h("p", { class: "actions" }, begin, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel")),
  );
  const dialog = h("dialog", { "aria-labelledby": "new-session" }, form);

  async function submit(event) {
    event.preventDefault();
    begin.disabled = true;
    problem.show("");
    try {
      const wish = { ...(mode.value && { mode: mode.value }), ...(model.value && { model: model.value }) };
      const { sessionId: id } = await send("POST", "/sessions", wish);
      remember([...begun(), id]);
      dialog.close();
      location.hash = `#/sessions/${encodeURIComponent(id)}`;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      problem.show(inWords(error));
    } finally {
      begin.disabled = false;
    }
  }

  const button = h("button", { type: "button", class: "primary", onclick: () => dialog.showModal() }, "New session");
  return h("div", {}, button, dialog);
}

function inWords({ message, retryAfterS }) {
  return retryAfterS ? `${message}. Try again in ${duration(retryAfterS * 1000)}.` : message;
}

/** What is said and done in a session of this page, and a box to say more. */
export function conversation(id, signal) {
  const path = `/sessions/${encodeURIComponent(id)}`;
  const over = new AbortController();
  const log = h("div", { class: "log", tabindex: 0, role: "log", "aria-label": "Conversation", "aria-live": "off" });
  const problem = problems();
  const input = h("textarea", { id: "input", rows: 3, maxlength: 32_000, required: true });
  const say = h("button", { class: "primary" }, "Say it");
  const cancel = h(
    "button",
    { type: "button", disabled: true, onclick: () => act("POST", "/cancel") },
    "Cancel the turn",
  );
  const end = h("button", { type: "button", onclick: () => act("DELETE", "") }, "End the session");
  const form = h(
    "form",
    { onsubmit: submit },
    h("label", { for: "input" }, "Say something"),
    input,
    h("p", { class: "actions" }, say, cancel, end),
  );
  const show = teller(log, { turn: (busy) => (cancel.disabled = !busy), ended });

  async function act(method, rest, body) {
    problem.show("");
    try {
      await send(method, path + rest, body);
      return true;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      problem.show(inWords(error));
      return false;
    }
  }

  async function submit(event) {
    event.preventDefault();
    const text = input.value.trim();
    if (!text) return;
    say.disabled = true;
    if (await act("POST", "/inputs", { text })) {
      show({ type: "Said", text });
      input.value = "";
    }
    say.disabled = false;
  }

  function ended() {
    remember(begun().filter((one) => one !== id));
    form.hidden = true;
    over.abort();
  }

  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  hear(`${path}/live`, { happening: show }, () => {}, AbortSignal.any([signal, over.signal])).catch((error) => {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 404) show({ type: "Disconnected" });
    else problem.show(error.message);
  });
  return h("section", { class: "panel" }, h("h2", {}, "Conversation"), log, problem.element, form);
}

/** Makes a function that shows a happening at the end of `log`. */
function teller(log, { turn, ended }) {
  const calls = new Map();
  let answer = null;

  const add = (...nodes) => {
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    log.append(...nodes);
    if (follows) log.scrollTop = log.scrollHeight;
  };
  const note = (text) => add(h("p", { class: "note" }, text));
  const shows = {
    Said: ({ text }) => {
      answer = null;
      turn(true);
      add(h("p", { class: "said" }, text));
    },
    TextDelta: ({ text }) => {
      turn(true);
      if (!answer) add((answer = h("p", { class: "answer" })));
      answer.append(text);
      add();
    },
    CallStarted: ({ callId: id, name, arguments: args }) => {
      turn(true);
      answer = null;
      const state = h("span", { class: "badge" }, "running");
      const call = h(
        "div",
        { class: "call" },
        h("p", { class: "title" }, h("strong", {}, name), state),
        json("Arguments", args),
      );
      calls.set(id, { call, state });
      add(call);
    },
    CallEnded: ({ callId: id, output, error, durationMs: ms }) => {
      const { call, state } = calls.get(id) ?? {};
      if (!call) return;
      state.textContent = `${error ? "failed" : "done"} in ${duration(ms)}`;
      state.dataset.tone = error ? "bad" : "good";
      call.append(...[error && h("p", { class: "wrong" }, error), json("Output", output)].filter(Boolean));
    },
    Reconnected: ({ reason }) => {
      answer?.remove(); // it will be said again
      answer = null;
      note(`Connected again: ${reason}`);
    },
    Failed: ({ message, fatal, retryAfterS: wait }) => {
      add(h("p", { class: "wrong" }, wait ? inWords({ message, retryAfterS: wait }) : message));
      if (fatal) note("The session is of no more use.");
    },
    TurnEnded: ({ status, text, reason }) => {
      turn(false);
      answer = null;
      if (status !== "completed") note(`The turn is ${status}${reason ? `: ${reason}` : ""}`);
      announce(text || `The turn is ${status}`);
    },
    Disconnected: () => {
      turn(false);
      note("The session is over.");
      ended();
    },
  };
  return (happening) => shows[happening.type]?.(happening);
}
