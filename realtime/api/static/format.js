/** Figures and times as the reader's language writes them; `NONE` where there is none. */

import { h } from "./dom.js";

export const NONE = "–";

const unit = (name, digits, unitDisplay = "short") =>
  new Intl.NumberFormat(undefined, { style: "unit", unit: name, unitDisplay, maximumFractionDigits: digits });
const whole = new Intl.NumberFormat();
const tenths = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const dollars = new Intl.NumberFormat(undefined, {
  style: "currency",
  currency: "USD",
  minimumFractionDigits: 2,
  maximumFractionDigits: 4,
});
const share = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 2 });
const [milliseconds, seconds, minutes, hours, days] = [
  unit("millisecond", 0),
  unit("second", 2),
  unit("minute", 1),
  unit("hour", 1),
  unit("day", 1),
];
const [bytesUnit, kilobytes] = [unit("byte", 0, "long"), unit("kilobyte", 1)];
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "always", style: "short" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const short = new Intl.DateTimeFormat(undefined, {
  month: "short",
  day: "numeric",
  hour: "numeric",
  minute: "2-digit",
});
const dateAndClock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

const or = (format) => (value) => (value == null ? NONE : format(Number(value)));

export const count = or((value) => whole.format(value));
export const rate = or((value) => tenths.format(value));
export const money = or((value) => dollars.format(value));
export const percent = or((value) => share.format(value));
export const bytes = or((value) => (value < 1000 ? bytesUnit.format(value) : kilobytes.format(value / 1000)));

/** A length of time, of milliseconds. */
export const duration = or((ms) => {
  if (ms < 1000) return milliseconds.format(ms);
  if (ms < 60_000) return seconds.format(ms / 1000);
  if (ms < 3_600_000) return minutes.format(ms / 60_000);
  return ms < 86_400_000 ? hours.format(ms / 3_600_000) : days.format(ms / 86_400_000);
});

/** How long ago it was. */
export function ago(iso) {
  const past = Math.max(0, Math.round((Date.now() - Date.parse(iso)) / 1000));
  if (past < 60) return relative.format(-past, "second");
  if (past < 3600) return relative.format(-Math.round(past / 60), "minute");
  return past < 86_400
    ? relative.format(-Math.round(past / 3600), "hour")
    : relative.format(-Math.round(past / 86_400), "day");
}

/** Times of the reader's zone, with UTC in their titles: in full, of a list of days, and of a list of one day. */
export const time = (iso) => shown(iso, dateAndClock);
export const moment = (iso) => shown(iso, short);
export const clockTime = (iso) => shown(iso, clock);

function shown(iso, format) {
  if (!iso) return h("span", {}, NONE);
  return h("time", { datetime: iso, title: utc(iso) }, format.format(new Date(iso)));
}

/** How long ago, kept true by `tick`. */
export function since(iso) {
  return h("time", { datetime: iso, title: utc(iso), "data-since": true }, ago(iso));
}

/** Renew what `since` has made. */
export function tick() {
  for (const one of document.querySelectorAll("time[data-since]")) one.textContent = ago(one.dateTime);
}

function utc(iso) {
  return `${new Date(iso).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}
