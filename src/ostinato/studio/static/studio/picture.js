// Spectrogram and waveform of sound as it comes, in columns of 1024 samples; a canvas holds as many as it is wide.

const SIZE = 2048, COLUMN = 1024, BANDS = 80;
const STOPS = [[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]];

// In-place radix-2 FFT (Cooley and Tukey, 1965) of re + i im.
function fft(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [re[i], re[j], im[i], im[j]] = [re[j], re[i], im[j], im[i]];
  }
  for (let size = 2; size <= n; size <<= 1) {
    const half = size / 2, step = (-2 * Math.PI) / size;
    for (let k = 0; k < half; k++) {
      const c = Math.cos(step * k), s = Math.sin(step * k);
      for (let i = k; i < n; i += size) {
        const j = i + half, a = re[j] * c - im[j] * s, b = re[j] * s + im[j] * c;
        re[j] = re[i] - a;
        im[j] = im[i] - b;
        re[i] += a;
        im[i] += b;
      }
    }
  }
}

export function colour(share) {
  const x = Math.min(0.9999, Math.max(0, share)) * (STOPS.length - 1), i = Math.floor(x), f = x - i;
  return STOPS[i].map((from, k) => Math.round(from + f * (STOPS[i + 1][k] - from)));
}

// Bands spaced as pitch is, from 40 Hz up: the FFT bins of each.
function bands(rate) {
  const low = 40, high = rate / 2, edge = (b) => low * (high / low) ** (b / BANDS);
  return Array.from({ length: BANDS }, (_, b) => {
    const from = Math.round((edge(b) * SIZE) / rate);
    return [from, Math.max(from + 1, Math.round((edge(b + 1) * SIZE) / rate))];
  });
}

// Everything to the left; what comes in on the right is empty.
function shift(canvas, width) {
  const pen = canvas.getContext("2d");
  pen.globalCompositeOperation = "copy";
  pen.drawImage(canvas, -width, 0);
  pen.globalCompositeOperation = "source-over";
}

export class Picture {
  constructor(spectrogram, waveform) {
    this.canvas = spectrogram;
    this.wave = waveform;
    this.clear(32000);
  }

  clear(rate) {
    this.bins = bands(rate);
    this.rest = new Float32Array(SIZE); // the last SIZE samples
    this.filled = 0; // of the next column
    for (const canvas of [this.canvas, this.wave]) canvas?.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    this.columns = 0;
  }

  push(pcm) {
    for (let at = 0; at < pcm.length; ) {
      const take = Math.min(COLUMN - this.filled, pcm.length - at);
      this.rest.copyWithin(0, take);
      for (let i = 0; i < take; i++) this.rest[SIZE - take + i] = pcm[at + i] / 32768;
      at += take;
      this.filled += take;
      if (this.filled === COLUMN) {
        this.filled = 0;
        this.column();
      }
    }
  }

  column() {
    const re = this.rest.map((x, i) => x * (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE)));
    fft(re, (this.im = new Float32Array(SIZE)));
    const canvas = this.canvas, pen = canvas.getContext("2d"), width = 2, height = canvas.height;
    shift(canvas, width);
    const image = pen.createImageData(width, height);
    for (let y = 0; y < height; y++) {
      const [from, to] = this.bins[Math.floor(((height - 1 - y) / height) * BANDS)];
      let power = 0;
      for (let k = from; k < to; k++) power = Math.max(power, re[k] * re[k] + this.im[k] * this.im[k]);
      const [r, g, b] = colour((10 * Math.log10(power + 1e-9) + 25) / 70);
      for (let x = 0; x < width; x++) image.data.set([r, g, b, 255], 4 * (y * width + x));
    }
    pen.putImageData(image, canvas.width - width, 0);
    if (this.wave) this.peak(width);
    this.columns++;
  }

  peak(width) {
    const pen = this.wave.getContext("2d"), height = this.wave.height, newest = this.rest.subarray(SIZE - COLUMN);
    const high = newest.reduce((a, b) => Math.max(a, b), 0), low = newest.reduce((a, b) => Math.min(a, b), 0);
    shift(this.wave, width);
    pen.fillStyle = "#e57bb0";
    pen.fillRect(this.wave.width - width, (height / 2) * (1 - high), width, Math.max(1, (height / 2) * (high - low)));
  }

  // A line where the music changed course.
  mark() {
    for (const canvas of [this.canvas, this.wave]) {
      const pen = canvas?.getContext("2d");
      if (!pen) continue;
      pen.fillStyle = "#fff";
      pen.fillRect(canvas.width - 1, 0, 1, canvas.height);
    }
  }
}

// The picture of a whole take: columns spread over the width.
export function whole(canvas, samples, rate) {
  const columns = Math.min(canvas.width, Math.ceil(samples.length / COLUMN)), pen = canvas.getContext("2d");
  const bins = bands(rate), height = canvas.height, width = canvas.width / Math.max(1, columns);
  pen.clearRect(0, 0, canvas.width, height);
  for (let c = 0; c < columns; c++) {
    const at = Math.floor((c / columns) * Math.max(0, samples.length - SIZE));
    const re = Float32Array.from({ length: SIZE }, (_, i) => (samples[at + i] ?? 0) * (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE)));
    const im = new Float32Array(SIZE);
    fft(re, im);
    for (let b = 0; b < BANDS; b++) {
      let power = 0;
      for (let k = bins[b][0]; k < bins[b][1]; k++) power = Math.max(power, re[k] * re[k] + im[k] * im[k]);
      pen.fillStyle = `rgb(${colour((10 * Math.log10(power + 1e-9) + 25) / 70).join()})`;
      pen.fillRect(c * width, height - ((b + 1) * height) / BANDS, width + 1, height / BANDS + 1);
    }
  }
}
