// The page: a sentence in, sound out. The model works in worker.js; ring-worklet.js plays what comes.

const $ = (id) => document.getElementById(id);
const worker = new Worker("worker.js", { type: "module" });
let rate = 0, context = null, node = null, take = [], sentence = "";

const say = (text) => ($("status").textContent = text);
globalThis.heard = null; // what the audio thread counted last

worker.onerror = ({ message }) => say(`It does not start (${message ?? "a file is missing"}): serve the folder anew, or export it again.`);
worker.onmessage = ({ data }) => {
  if (data.share !== undefined) $("came").value = data.share;
  if (data.ready) {
    rate = data.ready.rate;
    $("came").hidden = true;
    $("play").disabled = false;
    say("Ready. Nothing leaves this page: the music is made in it.");
  }
  if (data.pcm) {
    take.push(new Int16Array(data.pcm.slice(0)));
    $("save").disabled = false;
    node?.port.postMessage({ pcm: data.pcm }, [data.pcm]);
  }
  if (data.pace) show(data.pace, "Playing");
  if (data.end) {
    node?.port.postMessage({ type: "finish" });
    globalThis.done = data.end;
    show(data.end, "Made");
  }
  if (data.error) say(`It stopped: ${data.error}`);
};

function show({ made, spent }, what) {
  say(`${what} ${made.toFixed(1)} s of music in ${spent.toFixed(1)} s (real-time factor ${(spent / made).toFixed(2)})`);
}

async function play() {
  sentence = $("prompt").value.trim();
  if (!sentence) return say("Write a sentence that says what to play.");
  await stop();
  take = [];
  globalThis.done = null;
  context = new AudioContext({ sampleRate: rate, latencyHint: "playback" });
  await context.audioWorklet.addModule("ring-worklet.js");
  const processorOptions = { rate, target: 1 };
  node = new AudioWorkletNode(context, "ring", { numberOfInputs: 0, outputChannelCount: [1], processorOptions });
  node.port.onmessage = ({ data }) => {
    globalThis.heard = data;
    worker.postMessage({ heard: data.read });
  };
  node.connect(context.destination);
  worker.postMessage({ play: { prompt: sentence, seed: Number($("seed").value) || 0, seconds: Number($("seconds").value) } });
  say("Reading the sentence.");
  $("stop").disabled = false;
}

async function stop() {
  worker.postMessage({ stop: true });
  await context?.close();
  context = node = null;
  $("stop").disabled = true;
}

// What was made so far, as a 16-bit WAV.
function save() {
  const bytes = 2 * take.reduce((sum, piece) => sum + piece.length, 0), head = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((c, i) => head.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"), head.setUint32(4, 36 + bytes, true), text(8, "WAVEfmt "), head.setUint32(16, 16, true);
  head.setUint16(20, 1, true), head.setUint16(22, 1, true), head.setUint32(24, rate, true), head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true), head.setUint16(34, 16, true), text(36, "data"), head.setUint32(40, bytes, true);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([head, ...take], { type: "audio/wav" }));
  link.download = `${sentence.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 50) || "take"}.wav`;
  link.click();
  URL.revokeObjectURL(link.href);
}

$("form").onsubmit = (event) => {
  event.preventDefault();
  play().catch((error) => say(`It stopped: ${error.message}`));
};
$("stop").onclick = () => stop().then(() => say("Stopped."));
$("save").onclick = save;
