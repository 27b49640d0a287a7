/** Elements without markup: what comes from the server only ever becomes text or the value of a harmless attribute. */

/** An element. An attribute `onclick` is a listener; true is one without a value, false and null none. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

const drawn = new WeakMap();

/**
 * Make the children of `parent` those of `items`. What has not changed is left alone; what has is drawn anew, and
 * keeps the focus and the parts that were open.
 */
export function keyed(parent, items, keyOf, draw) {
  const old = new Map([...parent.children].map((child) => [drawn.get(child)?.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const state = JSON.stringify(item);
    let node = old.get(key);
    if (!node || drawn.get(node).state !== state) {
      const before = node;
      node = draw(item);
      drawn.set(node, { key, state });
      if (before) {
        if (before === place) place = node;
        replace(before, node);
      }
    }
    old.delete(key);
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of old.values()) node.remove();
}

function replace(before, after) {
  const open = [...before.querySelectorAll("details")].map((one) => one.open);
  const focused = [...before.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  before.replaceWith(after);
  after.querySelectorAll("details").forEach((one, number) => (one.open = open[number] ?? one.open));
  if (focused >= 0) after.querySelectorAll(FOCUSABLE)[focused]?.focus();
}

const FOCUSABLE = "a, button, summary, [tabindex]";

/** Say something to those who cannot see it change. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/** A sentence where there is nothing to show. */
export function empty(text) {
  return h("p", { class: "empty" }, text);
}

/** What went wrong, in words. */
export function trouble(text) {
  return h("p", { class: "trouble", role: "alert" }, text);
}

/** A place for what goes wrong: shown and said once, however often it is told; "" takes it away. */
export function problems() {
  const element = h("div");
  const show = (text) => {
    if (element.textContent !== text) element.replaceChildren(...(text ? [trouble(text)] : []));
  };
  return { element, show };
}

/** JSON that can be opened, or nothing where there is none. */
export function json(label, value) {
  if (value == null || (typeof value === "object" && !Object.keys(value).length)) return null;
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return h(
    "details",
    {},
    h("summary", {}, label),
    h("pre", { tabindex: 0, role: "region", "aria-label": label }, text),
  );
}
