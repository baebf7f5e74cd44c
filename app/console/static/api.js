/** The REST half of the contract, as far as the page needs it. No page, no storage. */

const TIMEOUT_MS = 10_000;

/** A call that was refused (`status` 400 and up) or never answered (`status` 0). */
export class ApiError extends Error {
  /**
   * @param {number} status the HTTP status, 0 when there was no answer.
   * @param {string} code the stable word of the problem body, `unreachable` when there was no answer.
   * @param {string} message for people.
   * @param {number} retryAfterMs what `Retry-After` asked for, 0 where it asked for nothing.
   */
  constructor(status, code, message, retryAfterMs = 0) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }

  /** Whether the same call may succeed later. */
  get temporary() {
    const isInFlight = this.code === "idempotency_in_flight";
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500 || isInFlight;
  }
}

export class Api {
  #fetch;

  /** @param {{fetch: typeof fetch, token?: string|null}} options */
  constructor({ fetch, token = null }) {
    this.#fetch = fetch;
    /** The bearer token of the next call, or null. */
    this.token = token;
  }

  config() {
    return this.#json("GET", "/v1/config");
  }

  /** The same `key` gives the same session, however often an answer was lost. */
  createSession(request, key) {
    return this.#json("POST", "/v1/sessions", { body: request, headers: { "Idempotency-Key": key } });
  }

  speakerTicket(sessionId) {
    return this.#json("POST", `/v1/sessions/${encodeURIComponent(sessionId)}/tickets`, { body: { role: "speaker" } });
  }

  session(sessionId) {
    return this.#json("GET", `/v1/sessions/${encodeURIComponent(sessionId)}`);
  }

  recentSessions(limit) {
    return this.#json("GET", `/v1/sessions?limit=${limit}`);
  }

  /** End a session whose speaker is gone. */
  async stopSession(sessionId) {
    await this.#call("POST", `/v1/sessions/${encodeURIComponent(sessionId)}/stop`);
  }

  /**
   * @param {"transcript"|"audio"} what
   * @param {string} format as in the contract, e.g. `vtt`, `flac`.
   * @returns {Promise<Blob>}
   */
  async download(sessionId, what, format) {
    const path = `/v1/sessions/${encodeURIComponent(sessionId)}/${what}?format=${format}`;
    const response = await this.#call("GET", path, { timeout: null });
    return unlessCut(response.blob());
  }

  async #json(method, path, options = {}) {
    const response = await this.#call(method, path, options);
    return unlessCut(response.json());
  }

  async #call(method, path, { body, headers = {}, timeout = TIMEOUT_MS } = {}) {
    const init = { method, headers: { ...headers }, cache: "no-store" };
    if (this.token !== null) init.headers.Authorization = `Bearer ${this.token}`;
    if (body !== undefined) {
      init.headers["Content-Type"] = "application/json";
      init.body = JSON.stringify(body);
    }
    if (timeout !== null) init.signal = AbortSignal.timeout(timeout);
    const response = await unlessCut(this.#fetch(path, init));
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

async function unlessCut(promise) {
  try {
    return await promise;
  } catch {
    throw new ApiError(0, "unreachable", "The server cannot be reached.");
  }
}

async function refusal(response) {
  const isProblem = (response.headers.get("Content-Type") ?? "").startsWith("application/problem+json");
  const problem = isProblem ? await unlessCut(response.json()) : {};
  const seconds = Number(response.headers.get("Retry-After") ?? 0);
  return new ApiError(
    response.status,
    problem.code ?? `http_${response.status}`,
    problem.detail ?? problem.title ?? `The server answered ${response.status}.`,
    Number.isFinite(seconds) ? seconds * 1000 : 0,
  );
}
