// Replaces the view as it changes. Without this script, the page is the same, and still.
"use strict";

const live = document.getElementById("live");
const totals = document.getElementById("totals");
const pause = document.getElementById("pause");
let source = null;
let isPaused = false;
let isDown = false; // a pointer: what is below it stays until it is up

// What the reader has opened, and where the keyboard is, stays as it was.
function keep(change) {
  const open = new Set([...live.querySelectorAll("details[open][id]")].map((each) => each.id));
  const focused = document.activeElement;
  const places = [...live.querySelectorAll("a, summary, [tabindex]")];
  const place = places.indexOf(focused);
  const address = focused && focused.getAttribute("href");
  const scrolled = [...live.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
  change();
  for (const id of open) {
    const again = document.getElementById(id);
    if (again) again.open = true;
  }
  live.querySelectorAll(".scroll").forEach((each, index) => {
    each.scrollLeft = scrolled[index] || 0;
  });
  if (place < 0) return;
  const now = [...live.querySelectorAll("a, summary, [tabindex]")];
  const same = address && now.find((each) => each.getAttribute("href") === address);
  const next = same || now[Math.min(place, now.length - 1)];
  if (next) next.focus({ preventScroll: true });
}

function begin() {
  const view = location.pathname + location.search;
  source = new EventSource("/live?view=" + encodeURIComponent(view));
  source.onmessage = (event) => {
    const found = JSON.parse(event.data);
    totals.textContent = found.totals;
    // A trace that is no longer kept stays as it was seen last.
    if (found.body === null || isDown || String(getSelection())) return;
    keep(() => { live.innerHTML = found.body; });
  };
  source.onerror = () => {
    if (source && source.readyState === EventSource.CLOSED) totals.textContent = "the connection is lost";
  };
}

function end() {
  if (source) source.close();
  source = null;
}

function toggle() {
  isPaused = !isPaused;
  look();
  pause.setAttribute("aria-pressed", String(isPaused));
  pause.textContent = isPaused ? "Go on" : "Pause";
}

// A browser has six connections to one place: a page that nobody sees needs none.
function look() {
  end();
  if (!isPaused && !document.hidden) begin();
}

// "/" goes to the first filter, j and k to the next and the previous row.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (event.key === "/") {
    const field = document.querySelector("form input:not([type=hidden])");
    if (field) { event.preventDefault(); field.focus(); }
    return;
  }
  if (event.key !== "j" && event.key !== "k") return;
  const rows = [...live.querySelectorAll("tbody th a, tbody summary")];
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  const to = event.key === "j" ? at + 1 : at - 1;
  rows[Math.max(0, Math.min(to, rows.length - 1))].focus();
});

pause.hidden = false;
pause.addEventListener("click", toggle);
document.addEventListener("visibilitychange", look);
window.addEventListener("pagehide", end);
window.addEventListener("pageshow", look);
for (const [name, down] of [["pointerdown", true], ["pointerup", false], ["pointercancel", false]]) {
  window.addEventListener(name, () => { isDown = down; });
}
