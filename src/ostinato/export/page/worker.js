// Makes music away from the page. In: {play: {prompt, seed, seconds}}, {heard: samples}, {stop}. Out: {share}, {ready},
// {pcm}, {pace}, {end}, {error}.

import { Model } from "./model.js";

const AHEAD = 30; // s of music that may be made before they are heard

let model = null, current = 0, heard = 0, wake = () => {};

onmessage = ({ data }) => {
  if (data.stop || data.play) current++;
  if (data.heard !== undefined) heard = data.heard;
  wake();
  if (data.play) play(data.play, current).catch(tell);
};

const tell = (error) => postMessage({ error: error.message ?? String(error) });

async function play({ prompt, seed, seconds }, mine) {
  heard = 0;
  const { rate, about } = model, frameRate = rate / about.codec.hop, began = performance.now();
  let made = 0, waited = 0;
  const onFrame = async (done) => { // between two frames messages come in
    if (done % 10 === 0) await new Promise((go) => setTimeout(go));
    if (current !== mine) throw new Stopped();
    const spent = (performance.now() - began - waited) / 1000;
    if (done % 10 === 0) postMessage({ pace: { made: done / frameRate, spent } });
  };
  try {
    const frames = seconds ? Math.max(1, Math.round(seconds * frameRate)) : 0;
    for await (const sound of model.play(prompt, { frames, seed, onFrame })) {
      const pcm = Int16Array.from(sound, (x) => Math.max(-32768, Math.min(32767, Math.floor(x * 32768))));
      made += pcm.length;
      postMessage({ pcm: pcm.buffer }, [pcm.buffer]);
      const from = performance.now();
      while (current === mine && made - heard > AHEAD * rate) await new Promise((go) => (wake = go));
      waited += performance.now() - from;
    }
    postMessage({ end: { made: made / rate, spent: (performance.now() - began - waited) / 1000 } });
  } catch (error) {
    if (!(error instanceof Stopped)) throw error;
  }
}

class Stopped extends Error {}

Model.load("model", (share) => postMessage({ share })).then((found) => {
  model = found;
  postMessage({ ready: { rate: model.rate, name: model.about.model } });
}, tell);
