// Turns the link's token into a session. The token stands behind the #, so it reaches no log on its way here.
"use strict";

async function signIn(token) {
  const state = document.getElementById("state");
  history.replaceState(null, "", "/");
  state.textContent = "Signing in…";
  const answer = await fetch("/api/session", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ token }),
  });
  if (answer.ok) {
    location.reload();
    return;
  }
  const problem = await answer.json();
  state.textContent = problem.detail;
  state.classList.add("error");
}

const token = new URLSearchParams(location.hash.slice(1)).get("sign-in");
if (token) signIn(token);
