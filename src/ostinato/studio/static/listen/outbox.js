// What is on its way to the server. A call counts as done once the server says that it is on the disk; until then it is
// tried again, for as long as the page is open.

const PATIENCE = [500, 1000, 2000, 4000];

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class Outbox {
  // onTrouble(true) when the server cannot be reached, onTrouble(false) when it can again.
  constructor(onTrouble, onRefused) {
    this.onTrouble = onTrouble;
    this.onRefused = onRefused;
    this.waiting = new Map();
    this.sending = null;
  }

  // Send `body` to `path`, in place of what waits under the same key.
  put(key, path, body) {
    this.waiting.delete(key);
    this.waiting.set(key, { path, body });
    this.sending ??= this.#send().finally(() => { this.sending = null; });
    return this.sending;
  }

  // Resolves once nothing waits.
  async settled() {
    while (this.sending) await this.sending;
  }

  get pending() {
    return this.waiting.size;
  }

  async #send() {
    while (this.waiting.size) {
      const [key, entry] = this.waiting.entries().next().value;
      try {
        await this.call(entry.path, entry.body);
      } catch (error) {
        this.onRefused(error, entry);
      }
      if (this.waiting.get(key) === entry) this.waiting.delete(key);
    }
  }

  // One call, tried until the server answers. Throws Refused where it says no.
  async call(path, body) {
    for (let attempt = 0; ; attempt += 1) {
      let answer = null;
      try {
        answer = await fetch(path, body === undefined ? { cache: "no-store" } : {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify(body),
        });
        if (answer.status < 500) {
          const found = await answer.json();
          this.onTrouble(false);
          if (!answer.ok) throw new Refused(found.error, answer.status);
          return found;
        }
      } catch (error) {
        if (error instanceof Refused) throw error;
      }
      this.onTrouble(true);
      await new Promise((resolve) => setTimeout(resolve, PATIENCE[Math.min(attempt, PATIENCE.length - 1)]));
    }
  }
}
