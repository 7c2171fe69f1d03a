// One clip: a button, a position to move, and how much of it was heard. One plays at a time.

import { el, icon } from "./dom.js";

const PLAY = "M7 4.5v15l13-7.5z";
const PAUSE = "M6 4.5h4.2v15H6zM13.8 4.5H18v15h-4.2z";
export const ALL_HEARD = 0.95; // of a clip: its position is known a few times a second
let playing = null;

export function silence() {
  playing?.pause();
}

export function player(name, source, heardBefore, onHeard) {
  const audio = new Audio();
  audio.preload = "auto";
  audio.src = source;
  const button = el("button", { type: "button", class: "play", onclick: toggle });
  const position = el("input", {
    type: "range", min: 0, max: 1, step: 0.01, value: 0, "aria-label": `Position in ${name}`,
    oninput: () => { if (audio.duration) audio.currentTime = position.value * audio.duration; },
  });
  const time = el("span", { class: "time", "aria-hidden": "true" }, "");
  const problem = el("p", { class: "problem", role: "alert" });
  const root = el("div", { class: "player" }, button, position, time, problem);
  let heard = heardBefore;

  function toggle() {
    if (!audio.paused) return audio.pause();
    problem.textContent = "";
    if (audio.error) audio.load();
    if (playing && playing !== audio) playing.pause();
    playing = audio;
    audio.play().catch((error) => { if (error.name !== "AbortError") broken(); });
  }

  function broken() {
    problem.textContent = `${name} could not be loaded. Press play to try again.`;
    show();
  }

  function show() {
    const on = !audio.paused && !audio.ended;
    button.replaceChildren(icon(on ? PAUSE : PLAY));
    button.setAttribute("aria-label", `${on ? "Pause" : "Play"} ${name}`);
    button.classList.toggle("on", on);
    const whole = audio.duration || 0;
    position.value = whole ? audio.currentTime / whole : 0;
    position.setAttribute("aria-valuetext", `${Math.floor(audio.currentTime)} of ${Math.round(whole)} seconds`);
    time.textContent = `${clock(audio.currentTime)} / ${clock(whole)}`;
    root.classList.toggle("heard", heard >= ALL_HEARD);
  }

  // Parts that were played, without what was skipped; a reload begins at what the server knows.
  function count() {
    let seconds = 0;
    for (let i = 0; i < audio.played.length; i += 1) seconds += audio.played.end(i) - audio.played.start(i);
    const share = audio.duration ? Math.min(1, seconds / audio.duration) : 0;
    if (share > heard) {
      heard = share;
      onHeard(heard, audio.paused || audio.ended);
    }
  }

  for (const event of ["play", "loadedmetadata", "seeked"]) audio.addEventListener(event, show);
  audio.addEventListener("timeupdate", () => { count(); show(); });
  for (const event of ["pause", "ended"]) {
    audio.addEventListener(event, () => { count(); onHeard(heard, true); show(); });
  }
  audio.addEventListener("error", broken);
  show();
  return root;
}

function clock(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
