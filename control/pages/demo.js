// The demo NAS's page: the files, an upload with its progress, and the clock.
"use strict";

const state = document.getElementById("state");
const progress = document.getElementById("progress");
const UNITS = ["B", "KiB", "MiB", "GiB"];

function size(octets) {
  let unit = 0;
  while (octets >= 1024 && unit < UNITS.length - 1) { octets /= 1024; unit += 1; }
  return `${unit === 0 ? octets : octets.toFixed(1)} ${UNITS[unit]}`;
}

async function list() {
  const files = await (await fetch("/files")).json();
  document.getElementById("files").replaceChildren(...files.map((file) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = `/files/${encodeURIComponent(file.name)}`;
    link.textContent = file.name;
    link.download = file.name;
    const octets = document.createElement("span");
    octets.textContent = size(file.size);
    item.append(link, octets);
    return item;
  }));
}

function upload(file) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", `/files/${encodeURIComponent(file.name)}`);
    request.upload.onprogress = (event) => { progress.value = event.loaded / event.total; };
    request.onload = () => (request.status < 300 ? resolve() : reject(new Error(request.responseText)));
    request.onerror = () => reject(new Error("The connection broke."));
    request.send(file);
  });
}

document.getElementById("file").addEventListener("change", async (event) => {
  for (const file of event.target.files) {
    progress.hidden = false;
    progress.value = 0;
    state.textContent = `Uploading ${file.name}…`;
    try {
      await upload(file);
      state.textContent = `${file.name} is on the NAS.`;
    } catch (error) {
      state.textContent = `${file.name}: ${error.message}`;
    }
    progress.hidden = true;
  }
  event.target.value = "";
  list();
});

function tick() {
  const clock = document.getElementById("clock");
  const socket = new WebSocket(`wss://${location.host}/clock`);
  socket.onmessage = (event) => { clock.textContent = new Date(Number(event.data)).toLocaleTimeString(); };
  socket.onclose = () => { clock.textContent = "reconnecting…"; setTimeout(tick, 1000); };
}

list();
tick();
