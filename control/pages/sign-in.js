// Turns the link's token into a session. The token stands behind the #, so it reaches no log on its way here.
"use strict";

// What went wrong, in words; undefined if nothing did.
async function redeem(token) {
  try {
    const answer = await fetch("/api/session", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ token }),
    });
    return answer.ok ? undefined : (await answer.json()).detail;
  } catch {
    return "The server cannot be reached. Open the link again in a moment.";
  }
}

async function signIn() {
  const token = new URLSearchParams(location.hash.slice(1)).get("sign-in");
  if (!token) return;
  const state = document.getElementById("state");
  history.replaceState(null, "", "/");
  state.textContent = "Signing in…";
  state.classList.remove("error");
  const problem = await redeem(token);
  if (problem === undefined) {
    location.reload();
    return;
  }
  state.textContent = problem;
  state.classList.add("error");
}

// A link that is opened in the tab that asks for one changes nothing but what stands behind the #.
addEventListener("hashchange", signIn);
signIn();
