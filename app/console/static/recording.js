/** One recording: the microphone, the client that stores it, and the screen kept awake meanwhile. Knows no page. */

import { startCapture } from "./capture.js";
import { Outbox } from "./outbox.js";
import { SpeakerClient } from "./speaker-client.js";

/** Quieter than -60 dB of full scale for so long is no room with a doctor in it. */
const SILENT_PEAK = 0.001;
const SILENT_MS = 5_000;

const ENV = {
  openSocket: (url, protocols) => new WebSocket(onOwnOrigin(url), protocols),
  now: () => performance.now(),
  setTimeout: (f, ms) => setTimeout(f, ms),
  clearTimeout: (id) => clearTimeout(id),
  random: () => Math.random(),
  uuid: () => crypto.randomUUID(),
};

/** The page may have been opened under another of the server's names, and may connect to that one only. */
function onOwnOrigin(address) {
  const url = new URL(address);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.host = location.host;
  return url.href;
}

export class Recording {
  #capture = null;
  #wakeLock = null;
  #heardAt = performance.now();
  #isLost = false;
  #peak = 0;
  #onEvent;

  /** @param {import("./api.js").Api} api; @param {(event: object) => void} onEvent the client's events. */
  constructor(api, onEvent) {
    this.#onEvent = onEvent;
    /** The client, for its snapshot and for `retry`. */
    this.client = new SpeakerClient({ api, outbox: new Outbox(), env: ENV, onEvent: (event) => this.#forward(event) });
  }

  /** What the microphone does: `peak` of the last frame in 0..1. */
  get microphone() {
    const isSilent = this.#capture !== null && !this.#isLost && performance.now() - this.#heardAt > SILENT_MS;
    return { peak: this.#capture === null ? 0 : this.#peak, isLost: this.#isLost, isSilent };
  }

  /** Open the microphone, then stream. Resolves when the session has ended; rejects with MicrophoneError before it began. */
  async run(request) {
    this.#capture = await startCapture({
      onFrame: (bytes, peak) => this.#onFrame(bytes, peak),
      onLost: () => this.#onLost(),
    });
    this.#heardAt = performance.now();
    await this.#holdScreen();
    await this.client.start(request);
  }

  /** Stop listening, send the rest, end the session. */
  async stop() {
    await this.#closeCapture();
    this.client.stop();
  }

  /** Lose what is not stored, and end. */
  async abandon() {
    await this.#closeCapture();
    this.client.abandon();
  }

  /** The page is visible again: take back what the browser took away while it was not. */
  async wake() {
    if (this.#capture === null) return;
    this.#capture.wake();
    await this.#holdScreen();
  }

  #forward(event) {
    if (this.client?.hasEnded) this.#closeCapture();
    this.#onEvent(event);
  }

  #onFrame(bytes, peak) {
    // A microphone that was taken away goes on as perfect silence in some browsers.
    if (this.#isLost) return;
    this.#peak = peak;
    if (peak > SILENT_PEAK) this.#heardAt = performance.now();
    this.client.push(bytes);
  }

  #onLost() {
    this.#isLost = true;
    this.#onEvent({ type: "change" });
  }

  async #closeCapture() {
    const capture = this.#capture;
    this.#capture = null;
    await capture?.stop();
    await this.#wakeLock?.release();
    this.#wakeLock = null;
  }

  /** A sleeping phone stops listening. Not every browser can be asked, and none must say yes. */
  async #holdScreen() {
    try {
      this.#wakeLock = (await navigator.wakeLock?.request("screen")) ?? null;
    } catch (error) {
      if (error.name !== "NotAllowedError") throw error;
    }
  }
}
