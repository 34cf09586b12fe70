// Whether this network's name server says where lan. in front of a device's name leads. A script never hears why it reaches nobody, so it
// goes by how soon: a name that is held back is given up as soon as one that nobody has, and an address at which nobody answers later.
"use strict";

// How long a name server may take to say that there is no such name, in milliseconds.
const PATIENCE = 4000;

const form = document.getElementById("test");
const input = document.getElementById("name");
const state = document.getElementById("state");
const link = document.getElementById("open");
const zone = form.dataset.zone;

// The label of a device, of what a person types or pastes; undefined if it is none.
function labelOf(text) {
  let name = text.trim().toLowerCase().replace(/^https:\/\//, "").replace(/[:/].*$/, "").replace(/\.$/, "");
  if (name.endsWith(`.${zone}`)) name = name.slice(0, -zone.length - 1);
  name = name.replace(/^lan\./, "");
  return /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name) ? name : undefined;
}

function addressOf(label) {
  const port = location.port && `:${location.port}`;
  return `https://lan.${label}.${zone}${port}/`;
}

const options = { credentials: "omit", cache: "no-store", referrerPolicy: "no-referrer" };

// What the agent says of the way by which it was reached, "direct" or "relay"; or "reached" if somebody else answers.
async function wayTo(label) {
  const address = addressOf(label);
  const anybody = fetch(address, { ...options, mode: "no-cors" });
  anybody.catch(() => {}); // it is looked at only if the agent says nothing
  try {
    const answer = await fetch(`${address}.well-known/causeway/lan`, options);
    const way = (await answer.text()).trim();
    if (answer.ok && (way === "direct" || way === "relay")) return way;
  } catch {
    // It may be somebody who answers no script of ours.
  }
  await anybody;
  return "reached";
}

// The same; "failed" if nobody is reached, and "waiting" if it is not known in time.
async function ask(label) {
  let timer;
  const late = new Promise((resolve) => { timer = setTimeout(resolve, PATIENCE, "waiting"); });
  const outcome = await Promise.race([wayTo(label).catch(() => "failed"), late]);
  clearTimeout(timer);
  return outcome;
}

// Whether the browser has been told to look at nothing in the visitor's own network.
async function isForbidden() {
  try {
    const found = await navigator.permissions.query({ name: "local-network-access" });
    return found.state === "denied";
  } catch {
    return false; // a browser that does not ask
  }
}

// What a test has shown, in words, and whether something is to be done.
async function examine(label) {
  const name = `lan.${label}.${zone}`;
  if (await isForbidden()) {
    return [`Your browser does not let this page look into your own network. Allow it in the page's settings, and test again.`, true];
  }
  const nobody = `nobody-${Math.random().toString(36).slice(2, 12)}`;
  const [device, control] = await Promise.all([ask(label), ask(nobody)]);
  if (device === "direct") return [`${name} leads straight to the device here: nothing is held back.`, false];
  if (device === "relay") return [`${name} leads to the relay: the device does not say where it is at home (causeway-agent run --lan report), or it leads there from this network.`, true];
  if (device === "reached") return [`${name} is answered here, and not by the device's agent. If the device says where it is at home, nothing is held back.`, false];
  if (control !== "failed") return ["Your network's name server takes too long to say anything. Test again in a moment.", true];
  if (device === "waiting") {
    return [`${name} is not held back here, but nobody answers where it leads. Are you in the device's own network, and does its agent listen there (causeway-agent run --direct)?`, false];
  }
  return [`${name} does not lead to the device here. Most likely your router holds it back, or the device does not say where it is at home (causeway-agent run --lan report). Open it: if your browser says that it finds no server of that name, it is one of these; if it says anything else, it is neither.`, true];
}

async function test() {
  const label = labelOf(input.value);
  if (label === undefined) {
    show(`This is no name of a device. One looks like mynas, or mynas.${zone}.`, true);
    return;
  }
  history.replaceState(null, "", `#${label}`);
  input.value = label;
  link.hidden = true;
  link.firstElementChild.href = addressOf(label);
  for (const place of document.querySelectorAll(".lan")) place.textContent = `lan.${label}.${zone}`;
  show("Testing…", false);
  form.querySelector("button").disabled = true;
  const [text, isAmiss] = await examine(label);
  show(text, isAmiss);
  link.hidden = !isAmiss;
  form.querySelector("button").disabled = false;
}

function show(text, isAmiss) {
  state.textContent = text;
  state.classList.toggle("error", isAmiss);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  test();
});

// A link can name a device; whatever else stands there is no link of ours.
try {
  input.value = decodeURIComponent(location.hash.slice(1));
} catch {
  input.value = "";
}
