/**
 * The browser client of the wire contract `kikitori.v1`, speaker side, without a page.
 *
 * It creates a session, streams what `push` gives it, comes back after every break, and ends the session. Samples live in an
 * `Outbox` until the server calls them durable; capturing therefore never waits for a connection.
 *
 * Events, through `onEvent`: those of `SpeakerFeed`, and
 * - `{type: "change"}`: `snapshot()` tells something new
 * - `{type: "session", sessionId}`: it exists now
 * - `{type: "completed", message, lost}`: stored; `lost` samples were captured here and are not in it
 */

import { ApiError } from "./api.js";
import { SpeakerFeed } from "./speaker-feed.js";
import { SpeakerSocket } from "./speaker-socket.js";

export const PROTOCOL = "kikitori.v1";

const RETRYABLE = new Set([1001, 1006, 1011, 1012, 4408, 4413, 4500, 4503]);
const BACKOFF_FIRST_MS = 250;
const BACKOFF_MAX_MS = 8_000;
const DEPENDENCY_DOWN_MS = 2_000;

/** To a browser a refused upgrade looks like a broken network: after so many in a row REST is asked what is wrong. */
const REFUSALS_BEFORE_ASKING = 2;
/** The one who is live may be our own connection, not yet missed by the server: so many refusals are no accident. */
const REFUSALS_UNTIL_TAKEN = 4;

const ENDED = new Set(["completed", "superseded", "abandoned"]);

export class SpeakerClient {
  #api;
  #outbox;
  #env;
  #onEvent;
  #feed;
  #status = { state: "idle", code: null, detail: null };
  #sessionId = null;
  #streamUrl = null;
  #ticket = null;
  #resumeTicket = null;
  #socket = null;
  #stopPosition = null;
  #attempts = 0;
  #refusals = 0;
  #wake = null;

  /**
   * @param {object} parts
   * @param {import("./api.js").Api} parts.api
   * @param {import("./outbox.js").Outbox} parts.outbox empty.
   * @param {object} parts.env `openSocket(url, protocols)`, `now()` and `setTimeout` in milliseconds, `clearTimeout`,
   *   `random()` in [0, 1), `uuid()`.
   * @param {(event: object) => void} parts.onEvent
   */
  constructor({ api, outbox, env, onEvent }) {
    this.#api = api;
    this.#outbox = outbox;
    this.#env = env;
    this.#onEvent = onEvent;
    this.#feed = new SpeakerFeed(onEvent);
  }

  /** Whether nothing more will happen. */
  get hasEnded() {
    return ENDED.has(this.#status.state);
  }

  /**
   * How things are. Counts are in samples; `state` is `idle`, `connecting`, `live`, `reconnecting`, one that waits for
   * `retry` (`sign_in`, `failed`, with the reason in `code` and `detail`), or an end (`completed`, `superseded`, `abandoned`).
   */
  snapshot() {
    return {
      ...this.#status,
      sessionId: this.#sessionId,
      stopping: this.#stopPosition !== null,
      draining: this.#feed.reconnectInMs !== null,
      attempts: this.#attempts,
      conditions: this.#feed.conditions,
      captured: this.#outbox.end,
      unsafe: this.#outbox.length,
      free: this.#outbox.free,
      refused: this.#outbox.refused,
    };
  }

  /** Create the session and stream until the end. `request` is the body of `POST /v1/sessions`. Resolves at an end. */
  async start(request) {
    this.#set("connecting");
    await this.#create(request, this.#env.uuid());
    while (!this.hasEnded) {
      await this.#ensureTicket();
      if (this.hasEnded) break;
      const closed = await this.#connect();
      if (!this.hasEnded) await this.#recover(closed);
    }
  }

  /** Take in captured audio: whole samples. It is turned away (`snapshot().refused`) only when the outbox is full. */
  push(bytes) {
    if (this.hasEnded || this.#stopPosition !== null) return;
    this.#outbox.append(bytes);
    this.#socket?.pump();
    this.#onEvent({ type: "change" });
  }

  /** No audio follows: send the rest, then end the session. */
  stop() {
    this.#stopPosition ??= this.#outbox.end;
    this.#socket?.stopAt(this.#stopPosition);
    this.#onEvent({ type: "change" });
  }

  /** Go on now: the user signed in again or asks for another try, or the network is back. */
  retry() {
    this.#wake?.();
  }

  /** Give up for good. What was not durable is lost with the outbox. */
  abandon() {
    this.#end("abandoned");
  }

  async #create(request, key) {
    let session = null;
    while (session === null && !this.hasEnded) {
      session = await this.#ask(() => this.#api.createSession(request, key));
    }
    if (session === null) return;
    this.#sessionId = session.sessionId;
    this.#streamUrl = session.streamUrl;
    this.#ticket = session.ticket;
    this.#onEvent({ type: "session", sessionId: session.sessionId });
  }

  /** The answer of a REST call; null after the wait that its refusal asks for. */
  async #ask(call) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401) await this.#park("sign_in", error);
      else if (error.temporary) await this.#backOff(error.retryAfterMs, error.code);
      else await this.#park("failed", error);
      return null;
    }
  }

  async #ensureTicket() {
    if (this.#resumeTicket !== null) {
      this.#ticket = this.#resumeTicket;
      if (this.#refusals >= REFUSALS_BEFORE_ASKING) await this.#askWhyRefused();
    }
    while (this.#ticket === null && !this.hasEnded) {
      const issued = await this.#ask(() => this.#api.speakerTicket(this.#sessionId));
      this.#ticket = issued?.ticket ?? null;
    }
  }

  /** Resuming needs no REST: while REST cannot say what is wrong, the resume ticket is tried again. */
  async #askWhyRefused() {
    try {
      const { state } = await this.#api.session(this.#sessionId);
      if (state !== "live") {
        this.#ticket = (await this.#api.speakerTicket(this.#sessionId)).ticket;
      } else if (this.#refusals >= REFUSALS_UNTIL_TAKEN) {
        this.#forgetTickets();
        await this.#park("failed", { code: "refused_live" });
      }
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401) {
        this.#set("reconnecting", { code: "sign_in_wanted" });
      } else if (!error.temporary) {
        this.#forgetTickets();
        await this.#park("failed", error);
      }
    }
  }

  #forgetTickets() {
    this.#ticket = null;
    this.#resumeTicket = null;
  }

  #connect() {
    const protocols = [PROTOCOL, `ticket.${this.#ticket}`];
    this.#ticket = null;
    const url = new URL(this.#streamUrl);
    url.searchParams.set("after", String(this.#feed.lastSeq));
    return new Promise((resolve) => {
      this.#socket = new SpeakerSocket({
        socket: this.#env.openSocket(url.href, protocols),
        outbox: this.#outbox,
        clock: this.#env,
        stopPosition: this.#stopPosition,
        onEvent: (event) => (event.type === "closed" ? resolve(event) : this.#onMessage(event.message)),
      });
    });
  }

  async #recover({ code, wasReady, error }) {
    this.#socket = null;
    this.#refusals = wasReady ? 0 : this.#refusals + 1;
    if (code === 4409) {
      this.#end("superseded");
    } else if (RETRYABLE.has(code)) {
      const asked = this.#feed.reconnectInMs ?? (code === 4503 ? DEPENDENCY_DOWN_MS : 0);
      await this.#backOff(asked, error?.code ?? null);
    } else {
      this.#forgetTickets();
      await this.#park(code === 4401 ? "sign_in" : "failed", error ?? { code: `close_${code}` });
    }
  }

  #onMessage(message) {
    if (message.type === "ready") this.#onReady(message);
    else if (message.type === "completed") this.#onCompleted(message);
    else this.#feed.take(message);
    if (message.type === "ack") this.#attempts = 0;
    this.#onEvent({ type: "change" });
  }

  #onReady(message) {
    const isOurs = this.#outbox.start <= message.position && message.position <= this.#outbox.end;
    // A finished session has window 0 and goes on to `completed`, wherever it ended.
    if (!isOurs && message.window > 0) {
      this.#socket.drop(4400, { code: "position_mismatch" });
      return;
    }
    this.#resumeTicket = message.resumeTicket ?? this.#resumeTicket;
    this.#feed.connected(message.epoch);
    this.#set("live");
  }

  #onCompleted(message) {
    const lost = Math.max(0, this.#outbox.end - message.samples);
    this.#outbox.release(this.#outbox.end);
    this.#end("completed");
    this.#onEvent({ type: "completed", message, lost });
  }

  #set(state, { code = null, message = null } = {}) {
    this.#status = { state, code, detail: message };
    this.#onEvent({ type: "change" });
  }

  #end(state) {
    if (this.hasEnded) return;
    this.#set(state);
    this.#socket?.drop(1000);
    this.#wake?.();
  }

  /** Wait for the user. */
  async #park(state, reason) {
    this.#set(state, reason);
    await new Promise((resolve) => (this.#wake = resolve));
    this.#wake = null;
    this.#attempts = 0;
    this.#refusals = 0;
    if (!this.hasEnded) this.#set(this.#sessionId === null ? "connecting" : "reconnecting");
  }

  /** Wait at least `atLeastMs`, longer with every attempt, spread so that a thousand clients do not come at once. */
  async #backOff(atLeastMs, code) {
    const longest = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** this.#attempts);
    const delay = Math.max(atLeastMs, longest / 2) + (this.#env.random() * longest) / 2;
    this.#attempts += 1;
    this.#set(this.#feed.hasConnected ? "reconnecting" : "connecting", { code });
    await new Promise((resolve) => {
      const timer = this.#env.setTimeout(resolve, delay);
      this.#wake = () => {
        this.#env.clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = null;
  }
}
