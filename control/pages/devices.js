// The operator's list of devices: drawn from the page itself at first, then from the event stream.
"use strict";

const list = document.getElementById("devices");
const link = document.getElementById("link");

const STATES = {
  attached: "reachable",
  away: "not connected",
  not_paired: "waiting for its agent",
};

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function facts(device) {
  const facts = [];
  if (device.state === "attached") {
    const over = device.transport === "quic" ? "QUIC" : "TLS, because UDP is blocked on its way";
    facts.push(["Tunnel", over]);
    facts.push(["Since", new Date(device.since * 1000).toLocaleString()]);
    facts.push(["Comes from", device.seen_as]);
    facts.push(["Agent", device.software]);
  }
  if (device.addresses.length > 0) facts.push(["Own addresses", device.addresses.join(", ")]);
  if (device.state === "not_paired") facts.push(["Next", "use its code with causeway-agent pair"]);
  if (device.state === "away") facts.push(["Next", "start causeway-agent run on the device"]);
  return facts;
}

function card(device) {
  const item = element("li", undefined, `device ${device.state}`);
  const heading = element("h2");
  if (device.state === "attached") {
    const anchor = element("a", device.name);
    anchor.href = device.url;
    heading.append(anchor);
  } else {
    heading.textContent = device.name;
  }
  const table = element("dl");
  for (const [name, value] of facts(device)) {
    table.append(element("dt", name), element("dd", value));
  }
  item.append(heading, element("p", STATES[device.state], "state"), element("p", device.host, "host"), table);
  return item;
}

function show(devices) {
  list.replaceChildren(...devices.map(card));
  if (devices.length === 0) list.append(element("li", "No devices yet.", "empty"));
}

function follow() {
  const events = new EventSource("/api/devices/events");
  events.addEventListener("open", () => { link.textContent = "live"; link.dataset.live = "yes"; });
  events.addEventListener("devices", (event) => show(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    link.textContent = events.readyState === EventSource.CLOSED ? "reload to go on" : "reconnecting…";
    delete link.dataset.live;
  });
}

document.getElementById("origin").textContent = location.origin;
document.getElementById("sign-out").addEventListener("click", async () => {
  await fetch("/api/session", { method: "DELETE" });
  location.reload();
});
show(JSON.parse(list.dataset.devices));
follow();
