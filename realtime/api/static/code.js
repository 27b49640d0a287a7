/** C# with its parts coloured, where highlight.js is there. */

import { h } from "./dom.js";

let loading = null;

/** A block of code; plain, and said to be so, without the library. */
export async function code(text, label) {
  const hljs = await (loading ??= load());
  const block = h("code");
  // The one place that takes markup: highlight.js escapes all text and adds nothing but <span class>, and the
  // page's policy runs no inline script.
  if (hljs) block.innerHTML = hljs.highlight(text, { language: "csharp", ignoreIllegals: true }).value;
  else block.textContent = text;
  return [
    !hljs && h("p", { class: "note" }, "Without colours: npm ci has not been run for realtime/api."),
    h("pre", { class: "code", tabindex: 0, role: "region", "aria-label": label }, block),
  ].filter(Boolean);
}

async function load() {
  try {
    const [{ default: hljs }, { default: csharp }] = await Promise.all([
      import("/vendor/highlight/core.min.js"),
      import("/vendor/highlight/languages/csharp.min.js"),
    ]);
    hljs.registerLanguage("csharp", csharp);
    return hljs;
  } catch {
    return null;
  }
}
