// A take being played: the WebSocket one way, the ring in the audio thread the other.

const AHEAD = 0.35; // s to have before sound begins; more after an underrun, see ring-worklet.js

export class Player {
  // on: {begin, pcm, turn, pace, queue, end, counters, error}, each called with what there is to say.
  constructor(on) {
    this.on = on;
    this.context = null;
    this.socket = null;
    this.counters = null;
  }

  play(asked) {
    this.stop();
    const address = new URL("v1/play", location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.ended = false;
    let refused = false;
    let chain = Promise.resolve(); // messages are handled in order, though the audio thread takes time to begin
    socket.onopen = () => socket.send(JSON.stringify({ type: "start", ...asked }));
    socket.onmessage = ({ data }) => {
      chain = chain.then(() => {
        if (this.socket !== socket) return undefined;
        if (typeof data !== "string") return this.sound(data);
        const message = JSON.parse(data);
        if (message.type === "error") refused = true;
        return this.say(message, socket);
      });
    };
    socket.onclose = ({ code }) => {
      chain = chain.then(() => {
        if (this.socket !== socket || this.ended || refused) return;
        this.finish();
        this.on.error(code === 1009
          ? "That is more than the server takes at once (64 KiB): a take of so many turns cannot be made again here."
          : "The server is gone: it was stopped, or the network is. What is here is played to its end; takes that are not downloaded can be made again once it is back.");
      });
    };
  }

  async say(message, socket) {
    if (message.type === "begin") await this.begin(message);
    if (this.socket !== socket) return; // stopped, or played anew, while the audio thread began
    if (message.type === "turn") this.node.port.postMessage({ type: "turn", from: message.from });
    if (message.type === "end" || message.type === "error") {
      this.ended = true;
      this.finish();
    }
    this.on[message.type]?.(message.type === "error" ? message.error : message);
  }

  async begin({ rate }) {
    this.rate = rate;
    const context = (this.context = new AudioContext({ sampleRate: rate, latencyHint: "playback" }));
    await context.audioWorklet.addModule("ring-worklet.js");
    if (this.context !== context) return;
    const processorOptions = { rate, target: AHEAD };
    this.node = new AudioWorkletNode(context, "ring", { numberOfInputs: 0, outputChannelCount: [1], processorOptions });
    this.node.port.onmessage = ({ data }) => this.hear(data);
    this.node.connect(context.destination);
    if (context.state !== "running") await Promise.race([context.resume(), new Promise((r) => setTimeout(r, 500))]);
  }

  sound(buffer) {
    this.on.pcm?.(new Int16Array(buffer));
    const copy = buffer.slice(0);
    this.node.port.postMessage({ pcm: copy }, [copy]);
  }

  hear(counters) {
    this.counters = counters;
    this.send({ type: "heard", heard: counters.read });
    this.on.counters?.(counters);
  }

  // Credit at most five times a second, other messages always.
  send(message) {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    const now = performance.now();
    if (message.type === "heard" && (now - (this.sent ?? 0) < 200 || message.heard === this.credited)) return;
    if (message.type === "heard") [this.sent, this.credited] = [now, message.heard];
    this.socket.send(JSON.stringify(message));
  }

  pause(paused) {
    this.node?.port.postMessage({ type: "pause", paused });
    this.send({ type: paused ? "pause" : "resume" });
  }

  steer(prompt) {
    this.send({ type: "steer", prompt, heard: this.counters?.read ?? 0 });
  }

  fork(seed) {
    this.send({ type: "fork", seed, heard: this.counters?.read ?? 0 });
  }

  finish() {
    this.node?.port.postMessage({ type: "finish" });
  }

  async stop() {
    const { socket, context } = this;
    this.socket = this.context = this.node = this.counters = null;
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "stop" }));
    socket?.close();
    await context?.close();
  }
}
