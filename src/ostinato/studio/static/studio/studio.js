// The page: what is asked, what plays, what was made.

import * as compare from "./compare.js";
import { Picture } from "./picture.js";
import { Player } from "./player.js";
import * as list from "./takes.js";

const $ = (id) => document.getElementById(id);
const EXAMPLES = [
  "A slow Bach chorale played on church organ",
  "A fast techno track with synthesizers and drums",
  "A calm solo piano piece in a minor key",
  "A cheerful folk dance with fiddle and accordion",
  "A quiet string quartet, slow and warm",
];
const SETTINGS = ["guidance", "temperature", "top_k", "top_p"];
const picture = new Picture($("spectrogram"), $("waveform"));
let models = [], takes = list.load(), current = null, chosen = [], before = null, paused = false, speed = 0;

const player = new Player({
  queue: ({ place }) => status(place === 1 ? "You are next." : `You are number ${place} in the queue.`),
  begin(message) {
    current = { take: message.take, rate: message.rate, recipe: message.recipe, before: message.before, made: 0 };
    picture.clear(message.rate);
    status("Making the first sound…");
    buttons();
  },
  pcm(samples) {
    current.made += samples.length;
    picture.push(samples);
  },
  turn(message) {
    current.recipe = message.recipe;
    current.made = message.from;
    current.turn = { sample: message.sample, prompt: message.prompt };
    picture.mark();
  },
  pace(message) {
    speed = message.speed;
  },
  counters: show,
  end(message) {
    current.recipe = message.recipe;
    keep();
  },
  error(words) {
    notice(words);
    keep();
    if (current) player.finish();
    else {
      player.stop();
      status("Nothing is playing.");
    }
    buttons();
  },
});

function status(text) {
  if ($("status").textContent !== text) $("status").textContent = text; // a screen reader reads it at every change
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function show(counters) {
  if (!current) return;
  const at = list.clock(counters.read / current.rate), ahead = (counters.end - counters.read) / current.rate;
  const now = current.turn && counters.read < current.turn.sample ? "Going over to: " : "";
  const prompt = current.recipe.turns.at(-1).prompt;
  if (counters.over) finished();
  else if (paused) status(`Paused at ${at}: ${prompt}`);
  else if (counters.playing) status(`${now}${prompt}`);
  else if (counters.read) status(`Waiting for more: this machine makes ${speed.toFixed(2)} s of music a second, and 1 is needed.`);
  const slow = speed && speed < 1 && counters.underruns ? " Too slow to go on without pauses." : "";
  const pauses = counters.underruns ? `, ${counters.underruns} pause${counters.underruns > 1 ? "s" : ""}` : "";
  $("numbers").textContent = `${at} heard, ${ahead.toFixed(1)} s ahead${pauses}${speed ? `, made at ${speed.toFixed(1)} × real time` : ""}.${slow}`;
}

function finished() {
  status("At its end.");
  player.stop();
  current = null;
  buttons();
}

function buttons() {
  $("pause").disabled = $("steer").disabled = $("fork").disabled = !current;
  $("stop").disabled = !player.socket; // who waits in the queue may leave it
  $("pause").textContent = paused ? "Resume" : "Pause";
}

// Put what is playing on the list; once more of it is there, in its place.
function keep() {
  if (!current?.made) return;
  const recipe = { ...current.recipe, samples: current.made };
  takes = [{ take: current.take, rate: current.rate, recipe, when: Date.now() }, ...takes.filter(({ take }) => take !== current.take)];
  list.save(takes);
  draw();
}

function asked() {
  const found = { prompt: $("prompt").value, seed: Number($("seed").value), model: $("model").value, sampling: {} };
  if ($("seconds").value) found.seconds = Number($("seconds").value);
  for (const name of SETTINGS) if ($(name).value !== "") found.sampling[name] = Number($(name).value);
  if ($("steps").value !== "" && !$("steps-field").hidden) found.steps = Number($("steps").value);
  if (before) found.before = before;
  return found;
}

// Whether all that is filled in can be sent; `required` takes spaces for a sentence.
function ready() {
  $("prompt").value = $("prompt").value.trim();
  return $("ask").reportValidity();
}

function start(what) {
  keep();
  notice("");
  current = null;
  paused = false;
  speed = 0;
  compare.close();
  status("Asking the server…");
  $("numbers").textContent = "";
  player.play(what);
  buttons();
}

async function stop() {
  if (!player.socket) return;
  keep();
  await player.stop();
  current = null;
  status("Stopped.");
  buttons();
}

function act(label, does, name = "button") {
  const element = document.createElement(name);
  element.textContent = label;
  if (name === "button") {
    element.type = "button";
    element.onclick = does;
  } else element.href = does;
  return element;
}

function draw() {
  $("empty").hidden = takes.length > 0;
  $("takes").replaceChildren(...takes.map((take) => {
    const item = document.createElement("li"), acts = document.createElement("div");
    const [title, about] = ["words", "about"].map((name) => Object.assign(document.createElement("div"), { className: name }));
    title.textContent = list.words(take.recipe);
    about.textContent = list.about(take);
    acts.className = "acts";
    acts.append(
      act("WAV", () => download(take, "wav")),
      act("FLAC", () => download(take, "flac")),
      act("Make it again", () => start({ recipe: take.recipe })),
      act(chosen.includes(take.take) ? "Chosen to compare" : "Compare", () => choose(take)),
      act("Delete", () => {
        takes = takes.filter((other) => other !== take);
        list.save(takes);
        draw();
      }),
    );
    item.append(title, about, acts);
    return item;
  }));
}

async function download(take, suffix) {
  try {
    const answer = await fetch(`v1/audio/takes/${take.take}.${suffix}`);
    if (!answer.ok) return notice((await answer.json()).error);
    const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") ?? "")?.[1] ?? `ostinato.${suffix}`;
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(await answer.blob()), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch {
    notice("The server is gone, so the file is not there to download.");
  }
}

async function choose(take) {
  chosen = chosen.includes(take.take) ? chosen.filter((name) => name !== take.take) : [...chosen, take.take].slice(-2);
  draw();
  const pair = chosen.map((name) => takes.find((other) => other.take === name)).filter(Boolean);
  if (pair.length < 2) return compare.close();
  try {
    await stop();
    await compare.open(pair);
  } catch (error) {
    compare.close();
    notice(`These two cannot be compared: ${error.message}`);
  }
}

async function read(file) {
  const limit = models.limits.upload;
  if (file.size > limit) return notice(`${file.name} is too large: at most ${limit / 2 ** 20} MiB are taken.`);
  $("drop").textContent = `Reading ${file.name}…`;
  try {
    const query = new URLSearchParams({ name: file.name, model: $("model").value });
    const answer = await fetch(`v1/audio/read?${query}`, { method: "POST", body: file });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    held(file.name, found);
  } catch (error) {
    release();
    notice(error instanceof TypeError ? "The server is gone; nothing was uploaded." : `${file.name}: ${error.message}`);
  }
}

function held(name, found) {
  before = found.before;
  notice("");
  const again = found.recipe ? [act("Make it again", () => start({ recipe: found.recipe }))] : [];
  $("drop").className = "held";
  $("drop").replaceChildren(`The music goes on from ${name}. `, ...again, act("Leave it out", release));
  if (found.title && !$("prompt").value) $("prompt").value = found.title;
}

function release(event) {
  event?.stopPropagation();
  before = null;
  $("drop").className = "";
  $("drop").textContent = DROP;
}

function choices() {
  const model = models.models.find(({ name }) => name === $("model").value);
  for (const name of SETTINGS) $(name).placeholder = model.sampling[name];
  $("steps-field").hidden = model.steps === null;
  $("steps").placeholder = model.steps ?? "";
  release();
}

const DROP = $("drop").textContent;
$("ask").onsubmit = (event) => {
  event.preventDefault();
  if (ready()) start(asked());
};
document.querySelector("details").addEventListener("invalid", (event) => (event.currentTarget.open = true), true); // or nobody sees why
$("pause").onclick = () => {
  paused = !paused;
  player.pause(paused);
  buttons();
};
$("stop").onclick = stop;
$("steer").onclick = () => ready() && player.steer($("prompt").value);
$("fork").onclick = () => {
  $("seed").value = Math.floor(Math.random() * 1e9);
  player.fork(Number($("seed").value));
};
$("model").onchange = choices;
$("drop").onclick = (event) => {
  if (event.target === $("drop")) $("file").click();
};
$("drop").onkeydown = (event) => {
  // Not as an expression: a handler that returns false swallows the key, Tab too, and nobody gets past.
  if (event.target !== $("drop") || !["Enter", " "].includes(event.key)) return;
  event.preventDefault();
  $("file").click();
};
$("file").onchange = () => $("file").files[0] && read($("file").files[0]).then(() => ($("file").value = ""));
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) read(event.dataTransfer.files[0]);
});
addEventListener("pagehide", keep);
list.watch((kept) => {
  takes = kept;
  draw();
});
$("examples").append(...EXAMPLES.map((text) => act(text, () => ($("prompt").value = text))));
draw();
buttons();
try {
  models = await (await fetch("v1/models")).json();
  $("model").append(...models.models.map(({ name }) => new Option(name, name)));
  choices();
} catch {
  notice("The server is gone; start it again and reload this page.");
}
globalThis.studio = { player, picture }; // for the tests, which read the audio thread's own counters
