/** Alerts that fire or are about to, the gravest first. */

import { announce, empty, h, keyed } from "./dom.js";
import { since } from "./format.js";

const TONES = { critical: "bad", warning: "warn" };

export function alerts() {
  const list = h("ul", { class: "alerts" });
  const none = empty("No alert fires.");
  none.hidden = true; // until that is known
  let known = null;

  function show(items) {
    none.hidden = items.length > 0;
    keyed(list, items, ({ rule, fingerprint }) => `${rule} ${fingerprint}`, item);
    const firing = items.filter((one) => one.status === "firing").map((one) => one.rule);
    if (known) tell(known, firing);
    known = firing;
  }

  return { element: h("section", { class: "panel" }, h("h2", {}, "Alerts"), none, list), show };
}

function tell(before, now) {
  const begun = now.filter((rule) => !before.includes(rule));
  const over = before.filter((rule) => !now.includes(rule));
  if (begun.length) announce(`Alert: ${begun.join(", ")}`);
  else if (over.length) announce(`Resolved: ${over.join(", ")}`);
}

function item(alert) {
  const severity = alert.labels.severity ?? "warning";
  const others = Object.entries(alert.labels).filter(([name]) => !["severity", "alertname"].includes(name));
  return h(
    "li",
    { "data-severity": severity, "data-rule": alert.rule },
    h("strong", { class: "badge", "data-tone": TONES[severity] }, severity),
    h("span", { class: "rule" }, alert.rule),
    h("span", {}, `${alert.status}, began `, since(alert.startsAt ?? alert.since)),
    h("span", { class: "reason" }, alert.reason),
    others.map(([name, value]) => label(name, value)),
    alert.acknowledgedBy && h("span", { class: "note" }, `acknowledged by ${alert.acknowledgedBy}`),
  );
}

function label(name, value) {
  const text = `${name} ${value}`;
  if (name !== "session") return h("span", { class: "chip" }, text);
  return h("a", { class: "chip", href: `#/sessions/${encodeURIComponent(value)}` }, text);
}
