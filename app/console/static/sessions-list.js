/** The list of recent sessions and the download buttons, which the result of a recording shares. */

import { ApiError } from "./api.js";
import { SAMPLE_RATE } from "./outbox.js";
import { duration, text } from "./text.js";

const FILES = [
  { what: "transcript", format: "txt" },
  { what: "transcript", format: "vtt" },
  { what: "audio", format: "flac" },
];

/** A display name of a BCP 47 tag, e.g. `American English`. */
export function languageName(tag) {
  return new Intl.DisplayNames(["en"], { type: "language" }).of(tag);
}

/**
 * Buttons that save a finished session's files.
 *
 * @param {import("./api.js").Api} api
 * @param {string} sessionId
 * @param {(words: string) => void} onError
 */
export function downloadButtons(api, sessionId, onError) {
  return FILES.map(({ what, format }) => {
    const action = async () => save(await api.download(sessionId, what, format), `kikitori-${sessionId}.${format}`);
    return actionButton(text(`download.${format}`), action, onError);
  });
}

function actionButton(label, action, onError) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = label;
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await action();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      onError(text("download.failed", { detail: error.message }));
    } finally {
      button.disabled = false;
    }
  });
  return button;
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The browser has taken the blob by the next task; a second is for slow ones.
  setTimeout(() => URL.revokeObjectURL(link.href), 1_000);
}

export class SessionsList {
  #api;
  #list;
  #onError;

  /**
   * @param {import("./api.js").Api} api
   * @param {HTMLElement} list a `<ul>`.
   * @param {(words: string) => void} onError
   */
  constructor(api, list, onError) {
    this.#api = api;
    this.#list = list;
    this.#onError = onError;
  }

  /** Load and show the newest ten. Rejects with ApiError 401 only: any other failure is a line in the list. */
  async refresh() {
    let rows;
    try {
      const { items } = await this.#api.recentSessions(10);
      rows = items.length > 0 ? items.map((item) => this.#row(item)) : [plainRow(text("session.none"))];
    } catch (error) {
      if (!(error instanceof ApiError) || error.status === 401) throw error;
      rows = [plainRow(text("session.unavailable"))];
    }
    this.#list.replaceChildren(...rows);
  }

  #row(item) {
    const row = document.createElement("li");
    const state = document.createElement("span");
    state.className = "badge";
    state.dataset.state = item.state;
    state.textContent = text(`session.${item.state}`);
    const when = document.createElement("time");
    when.dateTime = item.createdAt;
    when.textContent = new Date(item.createdAt).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    const what = document.createElement("span");
    what.className = "what";
    const length = item.samples ? ` · ${duration(item.samples / SAMPLE_RATE)}` : "";
    what.textContent = (item.title ?? languageName(item.language)) + length;
    const actions = document.createElement("span");
    actions.className = "actions";
    actions.append(...this.#actions(item));
    row.append(when, state, what, actions);
    return row;
  }

  #actions({ sessionId, state }) {
    if (state === "completed") return downloadButtons(this.#api, sessionId, this.#onError);
    if (state !== "detached") return [];
    const finish = async () => {
      await this.#api.stopSession(sessionId);
      await this.refresh();
    };
    return [actionButton(text("session.finish"), finish, this.#onError)];
  }
}

function plainRow(words) {
  const row = document.createElement("li");
  row.className = "plain";
  row.textContent = words;
  return row;
}
