/** A scripted server of the contract's speaker side: a session's truth on one side, sockets and REST on the other. */
import { ApiError } from "../../../app/console/static/api.js";

const RING_SAMPLES = 262_144;

/** The browser's end of a connection. Messages arrive at once; `toServer` is what it sent. */
export class Socket {
  bufferedAmount = 0;
  isClosed = false;
  /** What it is sent arrives nowhere. */
  isDeaf = false;
  limit = 0;
  toServer = [];
  onmessage = null;
  onclose = null;

  constructor(url, protocols) {
    this.url = new URL(url);
    this.protocols = protocols;
  }

  get ticket() {
    return this.protocols[1].replace("ticket.", "");
  }

  get texts() {
    return this.toServer.filter((item) => typeof item === "string").map((item) => JSON.parse(item));
  }

  send(data) {
    if (this.isClosed) throw new Error("sent on a closed socket");
    this.toServer.push(typeof data === "string" ? data : data.slice());
    if (!this.isDeaf) this.onSend?.(this.toServer.at(-1));
  }

  close() {
    this.isClosed = true;
  }

  say(message) {
    this.onmessage?.({ data: JSON.stringify(message) });
  }

  end(code) {
    this.isClosed = true;
    this.onclose?.({ code });
  }
}

/** Keeps what a session received, as the real one would: `received` in memory, `durable` for good. */
export class Server {
  sockets = [];
  calls = [];
  pcm = [];
  durable = 0;
  window = RING_SAMPLES;
  finals = [];
  state = "created";
  epoch = 1;
  /** Upgrades are not answered. */
  hold = false;
  refuse = null;
  #tickets = 0;

  get received() {
    return this.pcm.length;
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** As `env.openSocket`. The upgrade is answered by `accept()` unless `hold` is set. */
  open = (url, protocols) => {
    const socket = new Socket(url, protocols);
    this.sockets.push(socket);
    if (!this.hold) queueMicrotask(() => this.accept(socket));
    return socket;
  };

  accept(socket = this.socket) {
    if (socket.isClosed) return;
    this.state = "live";
    socket.limit = this.received + this.window;
    socket.onSend = (data) => this.#take(socket, data);
    socket.say({
      type: "ready",
      sessionId: "s-1",
      position: this.received,
      window: this.window,
      epoch: this.epoch,
      resumeTicket: "resume",
      config: {},
      limits: {},
    });
    const after = Number(socket.url.searchParams.get("after"));
    for (const final of this.finals.filter(({ seq }) => seq > after)) socket.say(final);
  }

  ack({ durable = this.durable } = {}) {
    this.durable = durable;
    this.socket.limit = Math.max(this.socket.limit, this.received + this.window);
    this.socket.say({ type: "ack", received: this.received, durable, window: this.window });
  }

  /** This task dies: what was not durable is gone. */
  die(code = 1006) {
    this.pcm.length = this.durable;
    this.state = "detached";
    this.socket.end(code);
  }

  final(seq, text = `final ${seq}`) {
    const final = { type: "final", seq, id: `r-${seq}`, start: 0, end: 1, text, words: [], language: "en-US" };
    this.finals.push(final);
    this.socket.say(final);
  }

  #take(socket, data) {
    if (typeof data !== "string") {
      const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
      for (let at = 0; at < data.byteLength; at += 2) this.pcm.push(view.getInt16(at, true));
      if (this.received > socket.limit) throw new Error("beyond the window");
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "ping") socket.say({ type: "pong", id: message.id });
    if (message.type === "stop") this.onStop?.(message.position);
  }

  complete() {
    this.durable = this.received;
    const coverage = { archived: [[0, this.received]], live: [], filled: [], untranscribed: [], missing: [] };
    const samples = this.received;
    this.socket.say({ type: "completed", sessionId: "s-1", samples, finals: this.finals.length, coverage, audioSha256: "" });
    this.socket.end(1000);
  }

  /** The REST side, as the client's `api`. `refuse(name)` may return an ApiError to be thrown. */
  api = {
    createSession: (request, key) => this.#call("create", { request, key }, () => this.#issued({ sessionId: "s-1" })),
    speakerTicket: (sessionId) => this.#call("ticket", { sessionId }, () => this.#issued({})),
    session: (sessionId) => this.#call("session", { sessionId }, () => ({ sessionId, state: this.state })),
  };

  async #call(name, values, answer) {
    this.calls.push({ name, ...values });
    const error = this.refuse?.(name) ?? null;
    if (error !== null) throw error;
    return answer();
  }

  #issued(extra) {
    this.#tickets += 1;
    return { ...extra, ticket: `once-${this.#tickets}`, streamUrl: "ws://server.test/v1/sessions/s-1/stream" };
  }
}

export function refusal(status, code, retryAfterMs = 0) {
  return new ApiError(status, code, `said ${code}`, retryAfterMs);
}
