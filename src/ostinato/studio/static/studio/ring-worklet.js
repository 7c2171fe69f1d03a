// Plays what is pushed into a ring of samples; where there is none, silence, which it counts. It never repeats old sound.
// Positions are samples of the take, at its own rate: the audio context runs at that rate, too.

const SECONDS = 40; // more than the server is ever ahead, with a file that one goes on from

class Ring extends AudioWorkletProcessor {
  constructor(options) {
    super();
    this.rate = options.processorOptions.rate;
    this.ring = new Float32Array(SECONDS * this.rate);
    this.skip = 0; // samples to come that were heard already
    this.read = 0; // position of the next sample to play
    this.end = 0; // position after the last one that is there
    this.target = options.processorOptions.target * this.rate; // samples to wait for, at first and after an underrun
    this.playing = false; // false: waiting for `target`
    this.paused = false;
    this.finished = false; // nothing more will come
    this.underruns = 0;
    this.silent = 0; // samples of silence between the first sound and the last
    this.dropped = 0; // samples that came when the ring was full
    this.level = 0; // of late, root mean square
    this.told = 0;
    this.gain = 0; // moves to 1 while playing, so that beginnings and ends do not click
    this.port.onmessage = ({ data }) => this.take(data);
  }

  take(data) {
    if (data.pcm) this.push(new Int16Array(data.pcm));
    else if (data.type === "turn") {
      this.end = Math.max(this.read, Math.min(this.end, data.from));
      this.skip = this.end - data.from; // above 0 where that was heard already
    }
    else if (data.type === "pause") this.paused = data.paused;
    else if (data.type === "finish") this.finished = true;
  }

  push(pcm) {
    let from = 0;
    if (this.skip) {
      from = Math.min(this.skip, pcm.length);
      this.skip -= from;
    }
    for (let i = from; i < pcm.length; i++) {
      if (this.end - this.read >= this.ring.length) {
        this.dropped += pcm.length - i;
        break;
      }
      this.ring[this.end++ % this.ring.length] = pcm[i] / 32768;
    }
  }

  process(_, outputs) {
    const out = outputs[0][0];
    const there = this.end - this.read;
    if (!this.playing && !this.paused && there && (there >= this.target || this.finished)) this.playing = true;
    let sum = 0;
    const active = this.playing && !this.paused;
    for (let i = 0; i < out.length; i++) {
      if (active && this.read < this.end) {
        this.gain = Math.min(1, this.gain + 1 / 128);
        out[i] = this.ring[this.read++ % this.ring.length] * this.gain;
        sum += out[i] * out[i];
      } else {
        out[i] = 0;
        this.gain = 0;
        if (!this.paused && this.read && !this.finished) this.silent++;
      }
    }
    if (active && this.read === this.end && !this.finished) {
      this.playing = false;
      this.underruns++;
      this.target = Math.min(2 * this.rate, 2 * this.target); // rather a longer pause than stutter
    }
    this.level += 0.05 * (Math.sqrt(sum / out.length) - this.level);
    this.told += out.length;
    if (this.told >= this.rate / 10) this.tell();
    return true;
  }

  tell() {
    this.told = 0;
    const { read, end, underruns, silent, dropped, level, playing, finished } = this;
    this.port.postMessage({ read, end, underruns, silent, dropped, level, playing, over: finished && read === end });
  }
}

registerProcessor("ring", Ring);
