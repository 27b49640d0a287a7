/** The page: who looks at it, and which view. */

import { get, hasToken, keepToken, Refused } from "./api.js";
import { h, trouble } from "./dom.js";
import { tick } from "./format.js";
import { overview } from "./overview.js";
import { session } from "./session.js";

const main = document.getElementById("main");
const who = document.getElementById("who");
const signOutButton = document.getElementById("sign-out");
const connection = document.getElementById("connection");
const STATES = {
  live: "Live",
  reconnecting: "Reconnecting…",
  loading: "Loading…",
  out: "Signed out",
  refused: "Not live",
};

let me = null;
let view = new AbortController();

function connected(state) {
  if (connection.dataset.state === state) return;
  connection.dataset.state = state;
  connection.textContent = STATES[state];
}

/** Show what the address names. */
function route() {
  if (takeToken()) {
    start();
    return;
  }
  if (!me || location.hash === "#main") return;
  view.abort();
  view = new AbortController();
  connected("loading");
  const page = { me, signal: view.signal, connected };
  const [, id] = location.hash.match(/^#\/sessions\/([^/]+)$/) ?? [];
  let content;
  if (id) content = session(decoded(id), page);
  else if (/^(#\/?)?$/.test(location.hash)) content = overview(page);
  else content = notFound();
  show(content);
}

function show(content) {
  main.replaceChildren(...content);
  const title = main.querySelector("h1");
  title.tabIndex = -1;
  title.focus({ preventScroll: true });
  document.title = `${title.textContent} · SLATE`;
  scrollTo(0, 0);
}

function decoded(id) {
  try {
    return decodeURIComponent(id);
  } catch {
    return id;
  }
}

function notFound() {
  connected("refused");
  return [
    h("h1", {}, "Nothing here"),
    h("p", {}, "There is no such view. ", h("a", { href: "#/" }, "See the overview"), "."),
  ];
}

/** Take a token from the address, where it must not stay. */
function takeToken() {
  const [, value] = location.hash.match(/^#token=(.+)$/) ?? [];
  if (!value) return false;
  history.replaceState(null, "", `${location.pathname}#/`);
  keepToken(decoded(value));
  return true;
}

async function start() {
  if (!hasToken()) {
    signIn();
    return;
  }
  try {
    me = await get("/me");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status !== 401) signIn(error.message); // what is 401 has come as "signedout"
    return;
  }
  const admin = me.permissions.includes("spark:admin");
  who.textContent = admin ? "Administrator" : `User ${me.userId.slice(0, 8)}`;
  who.title = me.userId;
  signOutButton.hidden = false;
  route();
}

function signOut(why) {
  keepToken(null);
  signIn(why);
}

function signIn(why = "") {
  me = null;
  view.abort();
  connected("out");
  who.textContent = "";
  signOutButton.hidden = true;
  const input = h("input", {
    id: "token",
    name: "token",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "about-token",
  });
  const form = h(
    "form",
    {
      class: "sign-in panel",
      onsubmit: (event) => {
        event.preventDefault();
        keepToken(input.value.trim());
        start();
      },
    },
    h("h1", {}, "Sign in"),
    why && trouble(why),
    h("label", { for: "token" }, "Token"),
    input,
    h("p", { id: "about-token", class: "note" }, "Your JSON Web Token for SPARK. It is kept in this tab only."),
    h("button", { class: "primary" }, "Sign in"),
  );
  show([form]);
  input.focus();
}

addEventListener("hashchange", route);
document.addEventListener("signedout", (event) => signOut(event.detail));
signOutButton.addEventListener("click", () => signOut(""));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
setInterval(tick, 1000);
takeToken();
start();
