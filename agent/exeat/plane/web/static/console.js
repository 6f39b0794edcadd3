// What pages do beyond their links and forms. Each works without: this makes them quicker, and the live table live.
"use strict";

const ROWS_MAX = 300; // of the live table; older ones are in the store

// Empty fields of a filter would only make its address longer.
document.addEventListener("htmx:configRequest", (event) => {
  if (event.detail.verb !== "get") return;
  for (const [name, value] of [...event.detail.formData.entries()]) if (value === "") event.detail.formData.delete(name);
});

// A refusal has its sentence in the answer, and is shown where the page has a place for it.
document.addEventListener("htmx:beforeSwap", (event) => {
  const place = document.querySelector("[data-problems]");
  if (event.detail.xhr.status >= 400 && event.detail.requestConfig.verb !== "get") return;
  if (event.detail.xhr.status >= 400 && place && event.detail.target.id === place.dataset.problems) {
    event.detail.shouldSwap = true;
    event.detail.isError = false;
    event.detail.target = place;
    event.detail.swapOverride = "innerHTML";
    event.detail.selectOverride = "unset";
  } else if (event.detail.xhr.status < 400 && place) {
    place.replaceChildren();
  }
});

// Live verdicts: pause keeps the place, going on catches up.
const live = document.querySelector("[data-live]");
if (live) {
  const rows = document.getElementById("live-rows");
  const state = document.getElementById("live-state");
  const button = document.getElementById("live-pause");
  const held = [];
  let isPaused = false;

  const tell = (word, kind) => {
    state.textContent = word;
    state.className = "pulse " + kind;
  };
  const trim = () => {
    while (rows.rows.length > ROWS_MAX) rows.deleteRow(-1);
    document.getElementById("live-empty").hidden = rows.rows.length > 0;
  };
  const pause = (paused) => {
    isPaused = paused;
    button.textContent = paused ? "Go on" : "Pause";
    button.setAttribute("aria-pressed", String(paused));
    if (!paused) {
      for (const html of held.splice(0)) htmx.swap(rows, html, { swapStyle: "afterbegin" });
      trim();
    }
    tell(paused ? "Paused" : "Live", paused ? "" : "on");
  };

  button.hidden = false;
  button.addEventListener("click", () => pause(!isPaused));
  live.addEventListener("htmx:sseOpen", () => { if (!isPaused) tell("Live", "on"); });
  live.addEventListener("htmx:sseError", async () => {
    tell("The plane does not answer; trying again", "off");
    const page = await fetch(location.href, { redirect: "manual" }).catch(() => null);
    if (page && page.type === "opaqueredirect") location.reload(); // the session has ended: to the sign-in page
  });
  live.addEventListener("htmx:sseBeforeMessage", (event) => {
    if (!isPaused || event.target !== rows) return;
    event.preventDefault();
    held.push(event.detail.data);
    if (held.length > ROWS_MAX) held.shift();
    tell("Paused, more has come", "");
  });
  live.addEventListener("htmx:sseMessage", trim);
}
