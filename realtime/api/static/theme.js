// Not a module: it runs before anything is drawn, so that the page never shows the wrong theme first.
const system = matchMedia("(prefers-color-scheme: dark)");

function chosen() {
  return localStorage.getItem("slate-theme");
}

function isDark() {
  return (chosen() ?? (system.matches ? "dark" : "light")) === "dark";
}

function applyTheme() {
  if (chosen()) document.documentElement.dataset.theme = chosen();
  document.getElementById("theme")?.setAttribute("aria-pressed", String(isDark()));
  document.dispatchEvent(new Event("themechange"));
}

applyTheme();
system.addEventListener("change", applyTheme);
document.addEventListener("DOMContentLoaded", () => {
  applyTheme();
  document.getElementById("theme").addEventListener("click", () => {
    localStorage.setItem("slate-theme", isDark() ? "light" : "dark");
    applyTheme();
  });
});
