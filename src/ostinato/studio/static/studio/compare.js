// Two takes side by side: one clock, and a switch between them that keeps the place.

import { clock, about, words } from "./takes.js";
import { whole } from "./picture.js";

const $ = (id) => document.getElementById(id);
let pair = [], which = 0, ticking = 0;

export async function open(takes) {
  close();
  $("compare").hidden = false;
  pair = await Promise.all(takes.map(async (take, i) => {
    const letter = "ab"[i];
    $(`name-${letter}`).textContent = `${letter.toUpperCase()}: ${words(take.recipe)} (${about(take)})`;
    const answer = await fetch(`v1/audio/takes/${take.take}.wav`);
    if (!answer.ok) throw new Error((await answer.json()).error);
    const blob = await answer.blob();
    const decoder = new OfflineAudioContext(1, 1, take.rate);
    const sound = await decoder.decodeAudioData(await blob.arrayBuffer());
    whole($(`picture-${letter}`), sound.getChannelData(0), take.rate);
    const element = new Audio(URL.createObjectURL(blob));
    element.onended = show;
    return element;
  }));
  which = 0;
  show();
}

function show() {
  if (pair.length < 2) return;
  const now = pair[which], playing = !now.paused && !now.ended;
  $("both").textContent = playing ? "Pause" : "Play";
  $("switch").textContent = `Hear ${"BA"[which]}`;
  for (const [i, letter] of ["a", "b"].entries()) $(`picture-${letter}`).parentElement.classList.toggle("heard", i === which);
  $("compare-status").textContent = `${playing ? "Playing" : "Ready:"} ${"AB"[which]}, ${clock(now.currentTime)}`;
}

function play() {
  const now = pair[which];
  if (!now) return;
  if (now.paused) now.play().then(show);
  else now.pause();
  clearInterval(ticking);
  ticking = setInterval(show, 250);
  show();
}

function change() {
  const [from, to] = [pair[which], pair[1 - which]];
  if (!to) return;
  const playing = !from.paused;
  from.pause();
  to.currentTime = Math.min(from.currentTime, to.duration || 0);
  which = 1 - which;
  if (playing) to.play().then(show);
  show();
}

export function close() {
  clearInterval(ticking);
  for (const element of pair) {
    element.pause();
    URL.revokeObjectURL(element.src);
  }
  pair = [];
  $("compare").hidden = true;
}

$("both").onclick = play;
$("switch").onclick = change;
$("close").onclick = close;
