/** What happened in a session, the earliest first. */

import { get, picture, Refused } from "./api.js";
import { code } from "./code.js";
import { announce, empty, h, json, keyed, trouble } from "./dom.js";
import { bytes, clockTime, count, duration, money } from "./format.js";

const KINDS = {
  call: "Calls",
  script: "Scripts",
  preview: "Previews",
  build: "Builds",
  usage: "Usage",
  event: "Events",
};
const TONES = { success: "good", completed: "good", ready: "good", failed: "bad", error: "bad" };
const FRAME = /^[0-9a-f]{2}\/[0-9a-f]{32}\.png$/; // others are of stores that this service does not serve

export function timeline(signal) {
  const list = h("ol", { class: "timeline" });
  const none = empty("Nothing has happened in this session yet.");
  none.hidden = true; // until that is known
  const more = h("button", { type: "button", hidden: true }, "More");
  const filter = h("fieldset", { class: "filter", hidden: true }, h("legend", { class: "unseen" }, "What is shown"));
  const boxes = Object.entries(KINDS).map(([kind, name]) => box(kind, name, list));
  filter.append(...boxes.map((one) => one.element));
  more.addEventListener("click", () => more.next());
  list.addEventListener("keydown", closeByEscape);

  function show(items, next) {
    none.hidden = items.length > 0;
    filter.hidden = !items.length;
    for (const one of boxes) one.count(items);
    keyed(
      list,
      items,
      ({ kind, id }) => `${kind} ${id}`,
      (one) => moment(one, signal),
    );
    more.hidden = !next;
    more.next = next;
  }

  const element = h("section", { class: "panel" }, h("h2", {}, "Timeline"), filter, none, list, more);
  return { element, show };
}

/** A box that shows or hides a kind. */
function box(kind, name, list) {
  const number = h("span", { class: "note" });
  const input = h("input", {
    type: "checkbox",
    checked: true,
    onchange: () => list.classList.toggle(`without-${kind}`, !input.checked),
  });
  const element = h("label", {}, input, name, number);
  const tally = (items) => {
    const found = items.filter((one) => one.kind === kind).length;
    element.hidden = !found;
    number.textContent = count(found);
  };
  return { element, count: tally };
}

function closeByEscape(event) {
  const open = event.key === "Escape" && event.target.closest("details[open]");
  if (!open) return;
  open.open = false;
  open.querySelector("summary").focus();
}

function moment(one, signal) {
  const detail = one.detail ?? {};
  const [title, ...parts] = DRAW[one.kind](one, detail, signal);
  return h(
    "li",
    { "data-kind": one.kind, "data-id": one.id },
    clockTime(one.ts),
    h(
      "div",
      {},
      h(
        "p",
        { class: "title" },
        h("span", { class: "kind" }, one.kind),
        h("strong", {}, title),
        one.status && h("span", { class: "badge", "data-tone": TONES[one.status] ?? "" }, one.status),
      ),
      parts,
    ),
  );
}

/** By kind: the title, and what is below it. */
const DRAW = {
  event: (one, detail) => [one.title, said(detail), json("Payload", one.detail)],
  call: (one, detail) => [
    one.title,
    detail.durationMs != null && h("p", { class: "note" }, `took ${duration(detail.durationMs)}`),
    detail.error && h("p", { class: "wrong" }, detail.error),
    json("Arguments", detail.args),
    json("Output", detail.output),
  ],
  script: (one, detail) => [one.title, detail.prompt && h("blockquote", {}, detail.prompt), script(one, detail)],
  preview: (one, detail, signal) => [one.title, frame(one, detail.frameRef, signal), json("About it", detail.meta)],
  build: (one, detail) => [
    one.title || "no target",
    h("p", { class: "note" }, `job ${detail.jobId}, last heard of `, clockTime(detail.updatedAt)),
  ],
  usage: (one, detail) => [
    one.title,
    h(
      "p",
      { class: "note" },
      `${count(detail.tokensPrompt)} tokens in, ${count(detail.tokensCompletion)} out, ${money(detail.cost)}`,
    ),
  ],
};

/** What was said, of events that carry words. */
function said(detail) {
  const words = detail.delta?.text ?? detail.text ?? detail.prompt ?? detail.error;
  return typeof words === "string" && h("blockquote", {}, words);
}

/** A script's code, asked for when it is opened. */
function script({ id, title }, detail) {
  const body = h("div");
  const block = h("details", { class: "script" }, h("summary", {}, `Code, ${bytes(detail.bytes)}`), body);
  block.addEventListener("toggle", async () => {
    if (!block.open || body.childElementCount) return;
    body.replaceChildren(h("p", { class: "note" }, "Loading…"));
    try {
      const { scriptContent } = await get(`/scripts/${id}`);
      body.replaceChildren(copyButton(scriptContent), ...(await code(scriptContent, `Code of ${title}`)));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      body.replaceChildren();
      block.open = false;
      block.after(trouble(`The code cannot be read: ${error.message}`));
    }
  });
  return block;
}

function copyButton(text) {
  const button = h("button", { type: "button", class: "copy" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "The browser does not allow it";
    }
    announce(button.textContent);
  });
  return button;
}

/** A preview's picture, asked for when it comes into sight. */
function frame(one, reference, signal) {
  if (!reference) return null;
  if (!FRAME.test(reference)) return h("p", { class: "note" }, `picture kept elsewhere: ${reference}`);
  const place = h("div", { class: "frame" });
  const seen = new IntersectionObserver(async (entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    try {
      const address = await picture(`/frames/${reference}`, signal);
      const image = h("img", {
        src: address,
        alt: `Preview of ${one.title}`,
        onload: () => URL.revokeObjectURL(address),
      });
      place.replaceChildren(image);
    } catch (error) {
      if (error instanceof Refused) place.replaceChildren(h("p", { class: "note" }, `No picture: ${error.message}`));
      else if (error.name !== "AbortError") throw error;
    }
  });
  seen.observe(place);
  return place;
}
