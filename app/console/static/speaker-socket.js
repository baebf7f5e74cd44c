/**
 * One connection of a speaker: what may be sent on it, whether it is alive, how it ended.
 *
 * It never decides what comes next; that is the client's. It reports through `onEvent`:
 * `{type: "message", message}` for what the server says, from `ready` on, and exactly once, last,
 * `{type: "closed", code, wasReady, error}` where `error` is the server's `error` message or null.
 */

import { SAMPLE_BYTES } from "./outbox.js";

/** A socket that is silent for so long while something was sent is dead (wire contract, section 3). */
const SILENCE_MS = 3_000;
const PING_AFTER_MS = 1_000;
const READY_MS = 10_000;
const TICK_MS = 250;

/** Replay goes out in larger frames than live audio; the contract's bound is 65 536 bytes. */
const FRAME_SAMPLES_MAX = 16_000;

/** What may wait in the browser: enough for 16 times real time at one tick's distance, little enough for pings to be prompt. */
const BUFFERED_BYTES_MAX = 131_072;

export class SpeakerSocket {
  #socket;
  #outbox;
  #clock;
  #onEvent;
  #isReady = false;
  #isClosed = false;
  #sent = 0;
  #limit = 0;
  #stopPosition = null;
  #stopSent = false;
  #error = null;
  #heardAt;
  #tickedAt;
  #unansweredSince = null;
  #pings = 0;
  #timer;

  /**
   * @param {object} parts
   * @param {WebSocket} parts.socket newly made, not yet open.
   * @param {import("./outbox.js").Outbox} parts.outbox what `received + window` allows is read from it, and acks release it.
   * @param {{now(): number, setTimeout(f: () => void, ms: number): unknown, clearTimeout(id: unknown): void}} parts.clock milliseconds.
   * @param {number|null} parts.stopPosition where the session ends, if that is known already.
   * @param {(event: object) => void} parts.onEvent
   */
  constructor({ socket, outbox, clock, stopPosition, onEvent }) {
    this.#socket = socket;
    this.#outbox = outbox;
    this.#clock = clock;
    this.#stopPosition = stopPosition;
    this.#onEvent = onEvent;
    this.#heardAt = this.#tickedAt = clock.now();
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => this.#onMessage(event.data);
    socket.onclose = (event) => this.#close(event.code);
    this.#timer = clock.setTimeout(() => this.#tick(), TICK_MS);
  }

  /** Send what may be sent now. Cheap; call it whenever audio was added. */
  pump() {
    if (!this.#isReady || this.#isClosed) return;
    for (;;) {
      const room = Math.min(this.#limit, this.#outbox.end) - this.#sent;
      if (room <= 0 || this.#socket.bufferedAmount >= BUFFERED_BYTES_MAX) break;
      const bytes = this.#outbox.read(this.#sent, Math.min(room, FRAME_SAMPLES_MAX));
      this.#send(bytes);
      this.#sent += bytes.length / SAMPLE_BYTES;
    }
    if (this.#stopPosition !== null && !this.#stopSent && this.#sent >= this.#stopPosition) {
      this.#stopSent = true;
      this.#sendJson({ type: "stop", position: this.#stopPosition });
    }
  }

  /** End the session at `position`: said once on this connection, as soon as all audio before it is sent. */
  stopAt(position) {
    this.#stopPosition = position;
    this.pump();
  }

  /** Leave this connection; whatever still comes from it is ignored. Reports `closed` with `code` and `error`. */
  drop(code, error = this.#error) {
    this.#error = error;
    this.#socket.onmessage = null;
    this.#socket.onclose = null;
    this.#socket.close();
    this.#close(code);
  }

  #close(code) {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#clock.clearTimeout(this.#timer);
    this.#onEvent({ type: "closed", code, wasReady: this.#isReady, error: this.#error });
  }

  #send(data) {
    this.#unansweredSince ??= this.#clock.now();
    this.#socket.send(data);
  }

  #sendJson(message) {
    this.#send(JSON.stringify(message));
  }

  #tick() {
    const now = this.#clock.now();
    // A machine that slept has messages waiting behind this timer: they deserve to be read first.
    const overslept = now - this.#tickedAt > TICK_MS + PING_AFTER_MS;
    this.#tickedAt = now;
    if (overslept && this.#unansweredSince !== null) this.#unansweredSince = now;
    if (this.#isDead(now)) {
      this.drop(1006);
      return;
    }
    if (this.#isReady && this.#unansweredSince === null && now - this.#heardAt >= PING_AFTER_MS) {
      this.#sendJson({ type: "ping", id: (this.#pings += 1) });
    }
    this.pump();
    this.#timer = this.#clock.setTimeout(() => this.#tick(), TICK_MS);
  }

  #isDead(now) {
    if (!this.#isReady) return now - this.#heardAt >= READY_MS;
    return this.#unansweredSince !== null && now - this.#unansweredSince >= SILENCE_MS;
  }

  #onMessage(data) {
    this.#heardAt = this.#clock.now();
    this.#unansweredSince = null;
    const message = JSON.parse(data);
    if (message.type === "ready") this.#onReady(message);
    else if (message.type === "ack") this.#onAck(message);
    else if (message.type === "error") this.#error = message;
    else if (message.type !== "pong") this.#onEvent({ type: "message", message });
  }

  #onReady(message) {
    this.#sent = message.position;
    this.#limit = message.position + message.window;
    this.#onEvent({ type: "message", message });
    this.#isReady = this.#outbox.start <= message.position && message.position <= this.#outbox.end;
    this.pump();
  }

  #onAck(message) {
    const { received, durable, window } = message;
    if (!(durable <= received && received <= this.#sent)) {
      this.drop(4400, { code: "bad_ack" });
      return;
    }
    this.#limit = Math.max(this.#limit, received + window);
    this.#outbox.release(durable);
    this.#onEvent({ type: "message", message });
    this.pump();
  }
}
