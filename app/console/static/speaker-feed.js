/**
 * What the server says about a session, made exactly-once and orderly. Pure: messages in, events out.
 *
 * Events, through `onEvent`:
 * - `{type: "partial", message}`: replaces the earlier partial of the same `id`
 * - `{type: "final", message}`: in order of `seq`, each once
 * - `{type: "rewound", seq}`: the server lost the finals above `seq`; they come again, perhaps with other texts
 * - `{type: "notice", message}`: something that happened once (conditions that last are in `conditions`)
 */

/** Notices that describe how things are until something shows that they are better. */
const LASTING = new Set(["engine_waiting", "engine_degraded", "archive_degraded", "events_degraded"]);

/** Notices that end a condition. */
const ENDS = { archive_recovered: "archive_degraded", engine_restarted: "engine_degraded" };

export class SpeakerFeed {
  #onEvent;
  #lastSeq = 0;
  #durable = 0;
  #conditions = new Set();
  #reconnectInMs = null;
  #epoch = null;

  /** @param {(event: object) => void} onEvent */
  constructor(onEvent) {
    this.#onEvent = onEvent;
  }

  /** `seq` of the last final that was passed on: what a resume continues after. */
  get lastSeq() {
    return this.#lastSeq;
  }

  /** Codes of the notices that still hold. */
  get conditions() {
    return [...this.#conditions];
  }

  /** How long to wait before coming back, asked for by a server that is going away; null while none is. */
  get reconnectInMs() {
    return this.#reconnectInMs;
  }

  /** Whether any connection ever stood. */
  get hasConnected() {
    return this.#epoch !== null;
  }

  /** A new connection stands. A new owner (`epoch`) tells its own conditions; the same one does not repeat them. */
  connected(epoch) {
    if (epoch !== this.#epoch) this.#conditions.clear();
    this.#epoch = epoch;
    this.#reconnectInMs = null;
  }

  /** Take in a message that came after `ready`; an unknown type is for a later client. */
  take(message) {
    switch (message.type) {
      case "ack":
        this.#onAck(message);
        break;
      case "partial":
        this.#onCaption(message);
        break;
      case "final":
        if (message.seq > this.#lastSeq) this.#onCaption(message);
        break;
      case "notice":
        this.#onNotice(message);
        break;
      case "draining":
        this.#reconnectInMs = message.reconnectInMs;
        break;
      default:
    }
  }

  #onAck({ durable }) {
    if (durable > this.#durable) this.#conditions.delete("archive_degraded");
    this.#durable = Math.max(this.#durable, durable);
  }

  #onCaption(message) {
    this.#conditions.delete("engine_waiting");
    this.#conditions.delete("engine_degraded");
    if (message.type === "final") {
      this.#lastSeq = message.seq;
      this.#conditions.delete("events_degraded");
    }
    this.#onEvent({ type: message.type, message });
  }

  #onNotice(message) {
    if (LASTING.has(message.code)) {
      this.#conditions.add(message.code);
      return;
    }
    this.#conditions.delete(ENDS[message.code]);
    if (message.code === "finals_rewound") {
      this.#lastSeq = Math.min(this.#lastSeq, message.seq);
      this.#onEvent({ type: "rewound", seq: this.#lastSeq });
    }
    this.#onEvent({ type: "notice", message });
  }
}
