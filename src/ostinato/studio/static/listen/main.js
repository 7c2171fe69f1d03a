// The listening test: consent, checks, one page a prompt, thanks. The server knows where a listener is; this shows it.

import { choice, el } from "./dom.js";
import { Outbox } from "./outbox.js";
import { ALL_HEARD, player, silence } from "./player.js";

const main = document.getElementById("main");
const trouble = document.getElementById("trouble");
const outbox = new Outbox(showTrouble, refused);
let test = null;

function showTrouble(on) {
  if (on === (trouble.textContent !== "")) return;
  trouble.textContent = on
    ? "The server cannot be reached. Please leave this page open: what you answered is sent as soon as it is back."
    : "";
}

function refused(error, entry) {
  if (entry.path === "/api/heard") return; // of a page that is closed already
  if (error.status === 401) return begin();
  main.querySelector("#missing")?.replaceChildren(error.message);
}

async function begin() {
  const found = await outbox.call("/api/state");
  test = found.test;
  document.getElementById("title").textContent = test.title;
  show(found.state);
}

async function act(path, body) {
  try {
    const found = await outbox.call(path, body);
    show(found.state);
  } catch (error) {
    refused(error, { path });
  }
}

function show(state) {
  silence();
  const views = { consent: consentView, headphones: headphonesView, page: pageView, thanks: thanksView };
  const heading = { consent: "Consent", headphones: "Sound check", thanks: "Thank you" }[state.stage]
    ?? `${test.mode === "pairs" ? "Pair" : "Prompt"} ${state.page + 1} of ${state.pages}`;
  document.title = `${heading} – ${test.title}`;
  const progress = document.getElementById("progress");
  progress.hidden = state.stage !== "page";
  if (state.stage === "page") [progress.max, progress.value] = [state.pages, state.page];
  main.replaceChildren(...views[state.stage](state, heading).flat().filter((part) => part !== null));
  document.getElementById("footer").replaceChildren(...(state.stage === "consent" ? [] : [withdrawal()]));
  window.scrollTo(0, 0);
  const title = main.querySelector("h1");
  title.tabIndex = -1;
  title.focus({ preventScroll: true }); // a screen reader reads where it is now
}

function definitions(open) {
  return el("details", { open }, el("summary", {}, "What to listen for"),
    el("dl", {}, test.scales.map(({ name, definition }) => [
      el("dt", {}, title(name)), el("dd", { id: `about-${name}` }, definition)])));
}

function consentView(state) {
  const agree = el("input", { type: "checkbox", id: "agree" });
  const missing = el("p", { id: "missing", role: "alert" });
  const start = () => {
    if (agree.checked) return act("/api/begin", { consent: true, another: state.another === true });
    missing.textContent = "Please tick the box first, if you agree.";
    agree.focus();
  };
  const marks = test.mode === "pairs"
    ? "Of each pair, say which clip is better in three ways, or that there is no difference."
    : "Rate each clip from 1 (poor) to 5 (excellent) in three ways.";
  return [
    el("h1", {}, test.title),
    test.consent.map((paragraph) => el("p", {}, paragraph)),
    el("h2", {}, "What you will do"),
    el("p", {}, `Read a text, and hear the clips that were made for it. ${marks}`),
    test.heard_in_full ? el("p", {}, "A clip can be rated once you have heard all of it.") : null,
    test.attention ? el("p", {}, attentionText()) : null,
    definitions(true),
    el("label", { class: "agree" }, agree, el("span", {}, "I have read this, and I agree to take part.")),
    missing,
    el("button", { type: "button", class: "next", onclick: start }, "Begin"),
  ];
}

function attentionText() {
  return test.mode === "pairs"
    ? "One clip of the test is a check: its music stops, and beeps follow. Choose that clip, in all three ways."
    : "One clip of the test is a check: its music stops, and beeps follow. Rate it with as many points as there are "
      + "beeps, in all three ways.";
}

function headphonesView() {
  const answers = new Array(test.trials).fill(null);
  const missing = el("p", { id: "missing", role: "alert" });
  const trials = answers.map((_, i) => el("section", { class: "clip" },
    el("h2", {}, `Tones ${i + 1} of ${test.trials}`),
    player(`tones ${i + 1}`, `/check/${i}`, 0, () => {}),
    choice({
      legend: "Which tone is the quietest?", name: `trial-${i}`,
      options: ["First", "Second", "Third"].map((label, value) => ({ label, value })),
      onpick: (value) => { answers[i] = value; },
    })));
  const done = () => {
    const i = answers.indexOf(null);
    if (i < 0) return act("/api/headphones", { answers });
    missing.textContent = `Please answer tones ${i + 1}.`;
    trials[i].querySelector("input[type=radio]").focus();
  };
  return [
    el("h1", {}, "Sound check"),
    el("p", {}, "Please put on headphones. Play this noise, set the volume so that it is comfortable, and leave it so "
      + "until the end."),
    el("section", { class: "clip" }, player("noise", "/check/volume", 0, () => {})),
    el("p", {}, "Now play these tones, and say which of the three is the quietest. You may play them again."),
    el("div", { class: "clips" }, trials), missing,
    el("button", { type: "button", class: "next", onclick: done }, "Go on"),
  ];
}

function pageView(state, heading) {
  const marks = new Map(); // by clip and scale, what is chosen
  const missing = el("p", { id: "missing", role: "alert" });
  const rate = (clip, scale, value) => {
    marks.set(`${clip.id} ${scale}`, value);
    missing.textContent = "";
    outbox.put(`${clip.id} ${scale}`, "/api/rating", { clip: clip.id, scale, value });
  };
  for (const clip of state.clips) {
    for (const [scale, value] of Object.entries(clip.ratings)) marks.set(`${clip.id} ${scale}`, value);
  }
  const view = test.mode === "pairs" ? pairCards : scaleCards;
  const last = state.page === state.pages - 1;
  const next = el("button", { type: "button", class: "next", onclick: submit }, last ? "Finish" : "Next");

  async function submit() {
    const open = [...main.querySelectorAll(".choice")].filter((set) => !set.querySelector(":checked"));
    if (open.length) {
      const [first] = open;
      const clip = first.closest(".clip")?.querySelector("h2")?.textContent;
      const where = [clip, first.querySelector("legend").textContent].filter(Boolean).join(", ");
      missing.textContent = first.disabled
        ? `Please listen to ${clip ?? "both clips"} to the end, then rate.`
        : `${open.length} ${open.length === 1 ? "answer is" : "answers are"} missing; the first: ${where}.`;
      (first.disabled ? main.querySelector(".play") : first.querySelector("input")).focus();
      return;
    }
    next.disabled = true;
    await outbox.settled();
    await act("/api/page", { page: state.page });
    next.disabled = false;
  }

  return [
    el("h1", {}, heading),
    el("blockquote", { class: "prompt" }, state.prompt),
    definitions(state.page === 0),
    test.attention ? el("p", { class: "hint" }, attentionText()) : null,
    ...view(state, marks, rate),
    missing, next,
  ];
}

// A clip with its player. onFull: called once all of it was heard, now or before.
function card(clip, name, onFull, ...below) {
  const heading = el("h2", { id: `name-${clip.id}` }, name);
  const check = (share, rest) => {
    if (share >= ALL_HEARD) onFull();
    if (rest || share >= ALL_HEARD) {
      outbox.put(`${clip.id} heard`, "/api/heard", { clip: clip.id, share });
    }
  };
  return el("section", { class: "clip", "aria-labelledby": heading.id }, heading,
    player(name, `/clips/${clip.id}`, clip.heard, check), ...below);
}

function scaleCards(state, marks, rate) {
  const cards = state.clips.map((clip, i) => {
    const locked = test.heard_in_full && clip.heard < ALL_HEARD;
    const sets = test.scales.map(({ name }) => choice({
      legend: title(name), name: `${clip.id}-${name}`, value: marks.get(`${clip.id} ${name}`), disabled: locked,
      describedby: `about-${name}`,
      options: [1, 2, 3, 4, 5].map((value) => ({ value, label: value, said: ends(value) })),
      onpick: (value) => rate(clip, name, value),
    }));
    const unlock = () => sets.forEach((set) => { set.disabled = false; });
    return card(clip, `Clip ${letter(i)}`, unlock, el("div", { class: "scales" }, sets));
  });
  return [el("p", { class: "hint" }, "1 is poor, 5 is excellent."), el("div", { class: "clips" }, cards)];
}

function pairCards(state, marks, rate) {
  const [first, second] = state.clips;
  const full = new Set(state.clips.filter((clip) => clip.heard >= ALL_HEARD));
  const sets = test.scales.map(({ name }) => choice({
    legend: title(name), name: `pair-${name}`, value: marks.get(`${first.id} ${name}`),
    disabled: test.heard_in_full && full.size < 2, describedby: `about-${name}`,
    options: [
      { value: 1, label: "Clip A" }, { value: 0.5, label: "No difference" }, { value: 0, label: "Clip B" },
    ],
    onpick: (value) => rate(first, name, value),
  }));
  const cards = [first, second].map((clip, i) => card(clip, `Clip ${letter(i)}`, () => {
    full.add(clip);
    if (full.size === 2) sets.forEach((set) => { set.disabled = false; });
  }));
  return [
    el("div", { class: "clips pair" }, cards),
    el("section", { class: "scales", "aria-label": "Which clip is better" }, el("h2", {}, "Which clip is better?"), sets),
  ];
}

function thanksView() {
  return [
    el("h1", {}, "Thank you"),
    el("p", {}, "All your answers are saved. You can close this page now."),
    el("button", {
      type: "button", class: "quiet", onclick: () => show({ stage: "consent", another: true }),
    }, "Someone else would like to listen on this device"),
  ];
}

function withdrawal() {
  const dialog = el("dialog", { "aria-labelledby": "sure" },
    el("p", { id: "sure" }, "Delete all your answers? This cannot be undone."),
    el("div", { class: "row" },
      el("button", { type: "button", class: "danger", onclick: () => { dialog.close(); act("/api/withdraw", {}); } },
        "Delete my answers"),
      el("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Keep them")));
  const open = el("button", { type: "button", class: "link", onclick: () => dialog.showModal() },
    "Stop and delete my answers");
  return el("div", {}, open, dialog);
}

function title(name) {
  return name[0].toUpperCase() + name.slice(1);
}

function letter(i) {
  return String.fromCharCode(65 + i);
}

function ends(value) {
  return { 1: "1, poor", 5: "5, excellent" }[value] ?? String(value);
}

window.addEventListener("beforeunload", (event) => {
  if (outbox.pending) event.preventDefault();
});
begin();
