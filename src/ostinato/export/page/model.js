// An exported model played with onnxruntime-web: what `ostinato.export.runtime` does, with the same graphs.

import * as ort from "./ort.mjs";
import { Tokenizer } from "./tokenizer.js";

const PIECE = 25; // frames of one piece of sound at the least

const floats = (data, dims) => new ort.Tensor("float32", data, dims);
const longs = (data, dims) => new ort.Tensor("int64", BigInt64Array.from(data, BigInt), dims);
const bools = (data, dims) => new ort.Tensor("bool", Uint8Array.from(data, Number), dims);
const number = (x) => floats([x], []);
const zeros = (dims) => new Float32Array(dims.reduce((a, b) => a * b, 1));

// Seeded random numbers: sfc32 (PractRand), and what is made of them.
export class Noise {
  constructor(seed, stream) {
    this.state = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, stream, 1];
    for (let i = 0; i < 12; i++) this.uniform();
  }

  uniform() { // in (0, 1)
    const s = this.state, sum = (s[0] + s[1] + s[3]++) | 0;
    s[0] = s[1] ^ (s[1] >>> 9);
    s[1] = (s[2] + (s[2] << 3)) | 0;
    s[2] = (((s[2] << 21) | (s[2] >>> 11)) + sum) | 0;
    return ((sum >>> 0) + 0.5) / 2 ** 32;
  }

  exponential(n) {
    return Float32Array.from({ length: n }, () => -Math.log(this.uniform()));
  }

  normal(n) { // Box and Muller, 1958
    return Float32Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(this.uniform())) * Math.cos(2 * Math.PI * this.uniform()));
  }
}

// A file of `folder` that is packed by gzip, whole; told: called with the bytes that came.
async function unpacked(url, told) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url} is not there (${answer.status}): export the page again`);
  const counted = answer.body.pipeThrough(new TransformStream({
    transform(chunk, out) {
      told(chunk.length);
      out.enqueue(chunk);
    },
  }));
  return new Response(counted.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

export class Model {
  static async load(folder, told) {
    const model = new Model();
    model.about = await (await fetch(`${folder}/ostinato.json`)).json();
    model.tokenizer = new Tokenizer(await (await fetch(`${folder}/tokenizer.json`)).json());
    const names = Object.keys(model.about.bytes), all = Object.values(model.about.bytes).reduce((a, b) => a + b, 0);
    let came = 0;
    const get = (name) => unpacked(`${folder}/${name}.bin`, (n) => told((came += n) / all));
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = await get("ort.wasm");
    model.graphs = {};
    for (const name of names.filter((name) => name.endsWith(".onnx"))) {
      const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
      model.graphs[name.slice(0, -5)] = await ort.InferenceSession.create(await get(name), options);
    }
    return model;
  }

  get rate() {
    return this.about.codec.sample_rate;
  }

  run(graph, inputs) {
    return this.graphs[graph].run(inputs);
  }

  // text -> one vector a token [1, s, w]
  async embed(text) {
    const ids = this.tokenizer.encode(text, this.about.text.max_tokens);
    return (await this.run("text", { ids: longs(ids, [1, ids.length]) })).embeddings;
  }

  async branches(prompt, guidance, { negative = "" } = this.about.sampling) {
    return guidance === 1 ? [await this.embed(prompt)] : [await this.embed(prompt), await this.embed(negative)];
  }

  scalars({ guidance, temperature, top_k, top_p }) {
    return { guidance: number(guidance), temperature: number(temperature), top_k: longs([top_k], []), top_p: number(top_p) };
  }

  // What `step` takes of the text at every frame, and the state before the first.
  async read(prompt, settings) {
    const { lm } = this.about, K = lm.codebooks, texts = [];
    for (const text of await this.branches(prompt, settings.guidance, settings)) texts.push(await this.run("read", { text }));
    const fresh = {};
    for (const [name, { shape, type }] of Object.entries(lm.state)) {
      const dims = [1, ...shape.slice(1)];
      fresh[name] = type === "int64" ? longs(zeros(dims), dims) : floats(zeros(dims), dims);
    }
    if (lm.reads === "cross") return [stackedTexts(texts), joined(texts.map(() => fresh))];
    const nothing = {
      codes: longs(Array(K).fill(lm.codebook_size + 1), [1, K]),
      noise: floats(new Float32Array(K * lm.codebook_size).fill(1), [1, K, lm.codebook_size]),
      ...this.scalars({ guidance: 1, temperature: 1, top_k: 0, top_p: 1 }),
    };
    const rows = [];
    for (const { prefix } of texts) {
      const [, s, d] = prefix.dims;
      let state = fresh;
      for (let i = 0; i < s; i++) {
        const vector = floats(prefix.data.slice(i * d, (i + 1) * d), [1, d]);
        state = this.after(await this.run("step", { ...nothing, prefix: vector, ...state }));
      }
      rows.push(state);
    }
    const dims = [texts.length, texts[0].prefix.dims[2]];
    return [{ prefix: floats(zeros(dims), dims) }, joined(rows)];
  }

  after(found) {
    return Object.fromEntries(Object.keys(this.about.lm.state).map((name) => [name, found[`next_${name}`]]));
  }

  // The language model's codes [K], frame after frame without end.
  async *frames(prompt, settings, noise) {
    const { codebooks: K, codebook_size: V, stride, offset } = this.about.lm;
    const scalars = this.scalars(settings), window = offset * (K - 1) + 1;
    let [text, state] = await this.read(prompt, settings);
    const recent = Array.from({ length: window }, () => Array(K).fill(V)); // steps; V stands where no code is
    for (let done = 0; ; done++) {
      const codes = longs(recent.at(-1), [1, K]), lots = floats(noise.exponential(K * V), [1, K, V]);
      const found = await this.run("step", { codes, noise: lots, ...scalars, ...text, ...state });
      state = this.after(found);
      const stands = (k) => done - offset * k >= 0 && (done - offset * k) % stride === 0;
      recent.push(Array.from(found.next_codes.data, (code, k) => (stands(k) ? Number(code) : V)));
      recent.shift();
      if (stands(K - 1)) yield Array.from({ length: K }, (_, k) => recent[offset * k][k]);
    }
  }

  // Coarse codes, frame by frame -> stretches {n, inputs}: as `ostinato.generation.windows` goes over a clip.
  async *refine(coarse, prompt, noise) {
    const { width: F, window: T, overlap, steps, sampling } = this.about.fine;
    const texts = await this.branches(prompt, sampling.guidance), [, , w] = texts[0].dims;
    const s = Math.max(...texts.map((text) => text.dims[1])), r = texts.length;
    const vectors = zeros([r, s, w]), mask = [];
    texts.forEach((text, i) => {
      vectors.set(text.data, i * s * w);
      for (let j = 0; j < s; j++) mask.push(j < text.dims[1]);
    });
    const given = { text: floats(vectors, [r, s, w]), text_mask: bools(mask, [r, s]), guidance: number(sampling.guidance), temperature: number(sampling.temperature) };
    const count = sampling.sampler === "ddpm" ? 1 + steps.length : 1;
    let codes = [], lots = [], path = steps.concat([0]).map(() => []), first = this.about.fine.first, last = false; // lots, path: of frames
    const more = Math.max(2, Math.ceil(first / 3));
    while (!last) {
      while (codes.length < first) {
        const { value, done } = await coarse.next();
        if (done) break;
        codes.push(value[0]);
        lots.push(Array.from({ length: count }, () => noise.normal(F)));
      }
      last = codes.length < first;
      const n = codes.length, known = path[0].length, end = last ? n : first - (first === T ? overlap : Math.min(overlap, Math.floor(first / 4)));
      if (end === known) return;
      const spread = (columns) => { // frames of F numbers -> [1, F, T]
        const out = new Float32Array(F * T);
        columns.forEach((column, t) => { for (let f = 0; f < F; f++) out[f * T + t] = column[f]; });
        return out;
      };
      const fixed = (x, columns) => { columns.forEach((column, t) => { for (let f = 0; f < F; f++) x[f * T + t] = column[f]; }); return x; };
      const column = (x, t) => Float32Array.from({ length: F }, (_, f) => x[f * T + t]);
      const dims = [1, F, T], coarseCodes = longs(Array.from({ length: T }, (_, t) => codes[t] ?? 0), [1, 1, T]);
      const real = bools(Array.from({ length: T }, (_, t) => t < n), [1, T]);
      let x = spread(lots.map((lot) => lot[0])), before = new Float32Array(F * T);
      const passed = [];
      for (const [i, step] of steps.entries()) {
        passed.push(fixed(x, path[i]));
        const fresh = spread(lots.map((lot) => lot[Math.min(i + 1, count - 1)]));
        const inputs = { x: floats(x, dims), before: floats(before, dims), noise: floats(fresh, dims), codes: coarseCodes, real, step: floats(step, [7]) };
        const found = await this.run("denoise", { ...given, ...inputs });
        [x, before] = [found.next_x.data.slice(), found.clean.data];
      }
      passed.push(fixed(x, path.at(-1)));
      const range = (from, to) => Array.from({ length: to - from }, (_, i) => from + i);
      yield { coarse: range(known, end).map((t) => [codes[t]]), fine: range(known, end).map((t) => column(x, t)) };
      const spare = Math.max(0, end - overlap);
      path = passed.map((latents) => range(spare, end).map((t) => column(latents, t)));
      [codes, lots, first] = [codes.slice(spare), lots.slice(spare), Math.min(T, first + more)];
    }
  }

  // The sound, piece by piece: Float32Array, then how many frames it is. `frames` in all, 0: without end.
  async *play(prompt, { frames = 0, seed = 0, settings = this.about.sampling, noise = null, onFrame = async () => {} } = {}) {
    const lots = (stream) => noise ?? new Noise(seed, stream);
    const coarse = this.counted(this.frames(prompt, settings, lots(1)), frames, onFrame);
    const { context, lookahead } = this.about.codec;
    let kept = null, sent = 0;
    for await (const part of this.about.fine ? this.refine(coarse, prompt, lots(2)) : this.plain(coarse)) {
      kept = kept ? Object.fromEntries(Object.keys(part).map((name) => [name, kept[name].concat(part[name])])) : part;
      const length = Object.values(kept)[0].length, end = context === null ? 0 : length - lookahead;
      if (end - sent >= PIECE) {
        yield this.decode(kept, sent, end);
        const spare = Math.max(0, end - context);
        kept = Object.fromEntries(Object.entries(kept).map(([name, columns]) => [name, columns.slice(spare)]));
        sent = end - spare;
      }
    }
    if (kept) yield this.decode(kept, sent, Object.values(kept)[0].length);
  }

  async *plain(frames) {
    for await (const codes of frames) yield { codes: [codes] };
  }

  async *counted(frames, count, onFrame) {
    let done = 0;
    for await (const codes of frames) {
      await onFrame(++done);
      yield codes;
      if (done === count) return;
    }
  }

  // kept: columns by input of `decode`; frames from start to end of them -> samples and codes.
  async decode(kept, start, end) {
    const { context, lookahead, hop } = this.about.codec;
    const [first, last] = context === null ? [0, end] : [Math.max(0, start - context), end + lookahead];
    const inputs = {};
    for (const [name, columns] of Object.entries(kept)) {
      const part = columns.slice(first, last), n = part.length, height = part[0].length;
      const flat = Array.from({ length: height * n }, (_, i) => part[i % n][Math.floor(i / n)]);
      inputs[name] = name === "fine" ? floats(Float32Array.from(flat), [1, height, n]) : longs(flat, [1, height, n]);
    }
    const found = await this.run("decode", inputs);
    return found.audio.data.slice((start - first) * hop, (end - first) * hop);
  }
}

// Keys and values of several texts [1, heads, s, w] as rows, padded to the longest, and which are real.
function stackedTexts(texts) {
  const lengths = texts.map((text) => Object.values(text)[0].dims[2]), s = Math.max(...lengths), found = {};
  for (const name of Object.keys(texts[0])) {
    const [, heads, , w] = texts[0][name].dims, out = zeros([texts.length, heads, s, w]);
    texts.forEach((text, i) => {
      for (let h = 0; h < heads; h++) {
        const size = lengths[i] * w;
        out.set(text[name].data.subarray(h * size, (h + 1) * size), (i * heads + h) * s * w);
      }
    });
    found[name] = floats(out, [texts.length, heads, s, w]);
  }
  const mask = lengths.flatMap((length) => Array.from({ length: s }, (_, j) => j < length));
  return { text_mask: bools(mask, [texts.length, s]), ...found };
}

// States of a row each as one of several rows.
function joined(states) {
  return Object.fromEntries(Object.entries(states[0]).map(([name, { dims, type, data }]) => {
    const all = new data.constructor(data.length * states.length);
    states.forEach((state, i) => all.set(state[name].data, i * data.length));
    return [name, new ort.Tensor(type, all, [states.length, ...dims.slice(1)])];
  }));
}
