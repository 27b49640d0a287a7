/** Everything at a glance: figures, alerts, the last half hour, sessions. */

import { hear, Refused } from "./api.js";
import { alerts } from "./alerts.js";
import { charts } from "./charts.js";
import { h, problems } from "./dom.js";
import { count, duration, money, NONE, percent, rate, since } from "./format.js";
import { sessions } from "./sessions.js";
import { newSession } from "./speak.js";

/** Each card: its name, its figure, and what it is made of. */
const CARDS = [
  [
    "Tokens",
    (f) => count(f.tokensPrompt + f.tokensCompletion),
    (f) => `${count(f.tokensPrompt)} in, ${count(f.tokensCompletion)} out`,
  ],
  ["Cost", (f) => money(f.cost), () => "since midnight UTC"],
  ["Error rate", (f) => percent(f.errorRate), (f) => `${count(f.errors)} of ${count(f.calls)} calls`],
  ["Calls per minute", (f) => rate(f.callsPerMinute), () => "of the last five minutes"],
  ["Latency p50", (f) => duration(f.p50Ms), () => "of the last hour"],
  ["Latency p95", (f) => duration(f.p95Ms), () => "of the last hour"],
  ["Latency p99", (f) => duration(f.p99Ms), () => "of the last hour"],
  ["Active sessions", (f) => count(f.activeSessions), () => "now"],
  ["Alerts firing", (f) => count(f.alerts), () => "now"],
  ["Dead letters", (f) => count(f.deadLetters), () => "wait for a replay"],
  [
    "Lag",
    (f) => count(f.behind),
    (f) => ["messages not counted yet; last stored ", f.storedAt ? since(f.storedAt) : "never"],
  ],
];
const ABSENT = { "Dead letters": "deadLetters", Lag: "behind", "Alerts firing": "alerts" };

export function overview({ me, signal, connected }) {
  const figures = cards();
  const firing = alerts();
  const plots = charts(signal);
  const table = sessions(signal);
  const problem = problems();
  const on = {
    figures: (now) => {
      problem.show("");
      figures.show(now.figures, now.alerts);
      firing.show(now.alerts);
      plots.show(now.minutes);
      table.refresh();
    },
    trouble: ({ error }) => problem.show(`The figures cannot be read: ${error}`),
  };
  hear("/figures/stream", on, connected, signal).catch((error) => {
    if (!(error instanceof Refused)) throw error;
    connected("refused");
    problem.show(error.message);
  });
  return [
    h("div", { class: "heading" }, h("h1", {}, "Today"), me.canBegin && newSession()),
    problem.element,
    figures.element,
    firing.element,
    plots.element,
    table.element,
  ];
}

function cards() {
  const list = h("dl", { class: "cards" });
  const parts = CARDS.map(([name, figure, about]) => {
    const [value, note] = [h("dd", { class: "figure" }, NONE), h("dd", { class: "note" })];
    const card = h("div", { class: "card", "data-card": name }, h("dt", {}, name), value, note);
    list.append(card);
    return { name, figure, about, value, note, card };
  });
  const show = (now, alerts) => {
    for (const { name, figure, about, value, note, card } of parts) {
      card.hidden = name in ABSENT && now[ABSENT[name]] == null;
      const text = figure(now);
      if (value.textContent !== text) value.textContent = text;
      note.replaceChildren(...[about(now)].flat());
      card.dataset.tone = tone(name, now, alerts);
    }
  };
  return { element: h("section", { "aria-label": "Figures" }, list), show };
}

function tone(name, now, alerts) {
  const grave = alerts.some((one) => one.status === "firing" && one.labels.severity === "critical");
  if (name === "Alerts firing" && now.alerts > 0) return grave ? "bad" : "warn";
  if (name === "Dead letters" && now.deadLetters > 0) return "warn";
  if (name === "Error rate" && now.errorRate > 0.05) return now.errorRate > 0.1 ? "bad" : "warn";
  return "";
}
