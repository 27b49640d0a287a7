/** The last half hour by minute: three charts by uPlot, and the same as a table. */

import { empty, h } from "./dom.js";
import { clockTime, count, duration, money, NONE } from "./format.js";

const HEIGHT = 180;

/** Each chart: its name, what its figures are, and per line a name, a field, a colour of style.css, whether it is filled, and dashes. */
const CHARTS = [
  [
    "Calls and errors",
    count,
    [
      ["Calls", "calls", "--blue", true],
      ["Errors", "errors", "--red", true],
    ],
  ],
  ["Tokens", count, [["Tokens", "tokens", "--violet", true]]],
  [
    "Latency",
    duration,
    [
      ["p50", "p50Ms", "--green"],
      ["p95", "p95Ms", "--amber"],
      ["p99", "p99Ms", "--red", false, [4, 4]],
    ],
  ],
];

export function charts(signal) {
  const body = h("div", { class: "charts" });
  const note = empty("The charts come with the first figures.");
  const table = h("details", { class: "minutes" }, h("summary", {}, "As a table"));
  const plots = [];
  let minutes = [];
  let loading = null;

  /** The library, once it is asked for; null where it is not installed. */
  const library = () => (loading ??= load());

  async function show(now) {
    minutes = now;
    table.hidden = !now.length;
    if (table.open) fill();
    body.hidden = !now.length;
    if (!now.length) {
      note.textContent = "Figures by minute are for administrators.";
      return;
    }
    const uPlot = await library();
    note.hidden = uPlot !== null;
    body.hidden = uPlot === null;
    note.textContent = "There are no charts: npm ci has not been run for realtime/api. The table has the same figures.";
    if (uPlot === null || signal.aborted) return;
    if (!plots.length) draw(uPlot);
    for (const one of plots) one.show(minutes);
  }

  function draw(uPlot) {
    body.replaceChildren();
    plots.splice(0).forEach((one) => one.destroy());
    for (const chart of CHARTS) plots.push(plot(uPlot, body, chart));
  }

  function fill() {
    const rows = minutes.map((one) =>
      h(
        "tr",
        {},
        COLUMNS.map(([, cell], place) => h(place ? "td" : "th", {}, cell(one))),
      ),
    );
    const head = h(
      "thead",
      {},
      h(
        "tr",
        {},
        COLUMNS.map(([name]) => h("th", { scope: "col" }, name)),
      ),
    );
    const region = { class: "scroll", tabindex: 0, role: "region", "aria-label": "Figures by minute" };
    const before = table.querySelector(".scroll");
    const scrolled = before?.scrollTop ?? 0;
    if (before) before.querySelector("tbody").replaceChildren(...rows.reverse());
    else table.append(h("div", region, h("table", {}, head, h("tbody", {}, rows.reverse()))));
    table.querySelector(".scroll").scrollTop = scrolled;
  }

  table.addEventListener("toggle", () => table.open && fill());
  const redraw = async () => {
    if (!plots.length) return;
    draw(await library());
    for (const one of plots) one.show(minutes);
  };
  document.addEventListener("themechange", redraw, { signal });
  signal.addEventListener("abort", () => plots.splice(0).forEach((one) => one.destroy()));
  const element = h("section", { class: "panel" }, h("h2", {}, "The last 30 minutes"), note, body, table);
  return { element, show };
}

const COLUMNS = [
  ["Minute", (one) => clockTime(one.start)],
  ["Calls", (one) => count(one.calls)],
  ["Errors", (one) => count(one.errors)],
  ["Tokens", (one) => count(one.tokens)],
  ["Cost", (one) => money(one.cost)],
  ["p50", (one) => duration(one.p50Ms)],
  ["p95", (one) => duration(one.p95Ms)],
  ["p99", (one) => duration(one.p99Ms)],
];

async function load() {
  try {
    const { default: uPlot } = await import("/vendor/uplot/uPlot.esm.js");
    const style = h("link", { rel: "stylesheet", href: "/vendor/uplot/uPlot.min.css" });
    document.head.prepend(style); // ours comes after it
    return uPlot;
  } catch {
    return null;
  }
}

function plot(uPlot, parent, [name, format, lines]) {
  const area = h("div", { role: "img" });
  parent.append(h("figure", {}, h("figcaption", {}, name), area));
  const [text, grid] = [color("--muted"), color("--line")];
  const font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const axis = { stroke: text, font, ticks: { show: false }, grid: { stroke: grid, width: 1 } };
  const options = {
    width: width(area),
    height: HEIGHT,
    cursor: { sync: { key: "minutes" }, drag: { x: false, y: false } },
    scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] } },
    axes: [
      { ...axis, size: 34, space: 70, values: (_, splits) => splits.map((one) => CLOCK.format(one * 1000)) },
      { ...axis, size: 64, space: 36, values: (_, splits) => splits.map(format) },
    ],
    series: [
      { value: (_, at) => (at == null ? NONE : CLOCK.format(at * 1000)), label: "Minute" },
      ...lines.map(([label, , stroke, filled, dash]) => ({
        label,
        stroke: color(stroke),
        width: 2,
        dash, // where calls are few, p99 lies upon p95
        fill: filled ? color(stroke, 0.15) : undefined,
        points: { show: filled ? false : undefined, size: 5 },
        value: (_, value) => format(value),
      })),
    ],
  };
  const drawn = new uPlot(options, [[], ...lines.map(() => [])], area);
  const sized = new ResizeObserver(() => drawn.setSize({ width: width(area), height: HEIGHT }));
  sized.observe(area.parentElement);
  return {
    show: (minutes) => {
      drawn.setData([
        minutes.map((one) => Date.parse(one.start) / 1000),
        ...lines.map(([, field]) => minutes.map((one) => one[field])),
      ]);
      const latest = minutes.at(-2) ?? minutes.at(-1); // the last minute has only begun
      const values = lines.map(([label, field]) => `${label} ${format(latest[field])}`);
      area.setAttribute("aria-label", `${name} by minute; the last whole minute: ${values.join(", ")}`);
    },
    destroy: () => {
      sized.disconnect();
      drawn.destroy();
    },
  };
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });

const width = (area) => Math.max(200, area.parentElement.clientWidth);

/** A colour of style.css as a canvas takes it. */
function color(variable, alpha = 1) {
  const probe = h("span");
  probe.style.color =
    alpha < 1 ? `color-mix(in srgb, var(${variable}) ${alpha * 100}%, transparent)` : `var(${variable})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
