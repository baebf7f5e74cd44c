/** The page: elements in, sentences out. What a recording is and does lives in the modules it joins. */

import { Api, ApiError } from "./api.js";
import { Captions, remarkFor } from "./captions.js";
import { MicrophoneError } from "./capture.js";
import { SAMPLE_RATE } from "./outbox.js";
import { drawRecorder, hideResult, showResult } from "./recorder-view.js";
import { Recording } from "./recording.js";
import { languageName, SessionsList } from "./sessions-list.js";
import { clinicOf, keepToken, takeToken } from "./sign-in.js";
import { duration, text } from "./text.js";

const CONFIG_RETRY_MS = 3_000;
const LANGUAGE_KEY = "kikitori.language";
/** Offered where the engine takes any language. */
const COMMON_LANGUAGES = ["en-US", "ja-JP"];
const NO_MICROPHONE = { peak: 0, isLost: false, isSilent: false };

const $ = (id) => document.getElementById(id);

class Page {
  #api = new Api({ fetch: (path, init) => fetch(path, init), token: takeToken(window) });
  #captions = new Captions({ scroller: $("captions"), finals: $("finals"), partials: $("partials") });
  #sessions = new SessionsList(this.#api, $("sessions"), (words) => this.#showRecentError(words));
  #config = null;
  #recording = null;
  #isStopping = false;
  #lost = 0;
  #remark = null;
  #isBroken = false;
  #isDrawing = false;

  async run() {
    this.#listen();
    this.#say("busy", text("state.connecting_page"));
    while (this.#config === null) await this.#loadConfig();
    this.#remark = null;
    await this.#signedIn();
  }

  #listen() {
    $("record").addEventListener("click", () => this.#onRecordButton());
    $("retry").addEventListener("click", () => this.#recording.client.retry());
    $("abandon").addEventListener("click", () => this.#abandon());
    $("refresh").addEventListener("click", () => this.#refreshSessions());
    $("language").addEventListener("change", () => localStorage.setItem(LANGUAGE_KEY, $("language").value));
    $("sign-in-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#useToken($("token").value.trim());
    });
    window.addEventListener("hashchange", () => this.#useToken(takeToken(window)));
    window.addEventListener("online", () => this.#onOnline());
    window.addEventListener("beforeunload", (event) => this.#onLeaving(event));
    window.addEventListener("error", () => this.#onBug());
    window.addEventListener("unhandledrejection", () => this.#onBug());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.#recording?.wake();
    });
  }

  get #isRecording() {
    return this.#recording !== null && !this.#recording.client.hasEnded;
  }

  // The server's settings and the sign-in.

  /** With a token the server also says what its clinic asks for. */
  async #loadConfig() {
    try {
      this.#useConfig(await this.#api.config());
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401) {
        this.#forgetToken("signin.refused");
      } else if (this.#config === null) {
        this.#say("warn", text("idle.unreachable"));
        await new Promise((resolve) => setTimeout(resolve, CONFIG_RETRY_MS));
      }
    }
  }

  #useConfig(config) {
    const tags = config.languages.length > 0 ? config.languages : COMMON_LANGUAGES;
    const wanted = [this.#config === null ? null : $("language").value, localStorage.getItem(LANGUAGE_KEY), ...navigator.languages];
    this.#config = config;
    $("language").replaceChildren(...tags.map((tag) => new Option(languageName(tag), tag)));
    $("language").value = wanted.find((tag) => tags.includes(tag)) ?? tags[0];
    $("consent-field").hidden = config.consentRequired !== true;
  }

  async #useToken(token) {
    if (token === null || token === "") return;
    keepToken(sessionStorage, token);
    this.#api.token = token;
    $("token").value = "";
    if (this.#isRecording) {
      $("sign-in").hidden = true;
      this.#recording.client.retry();
    } else if (this.#config !== null) {
      await this.#loadConfig();
      await this.#signedIn();
    }
  }

  #forgetToken(why) {
    keepToken(sessionStorage, null);
    this.#api.token = null;
    this.#askForToken(why);
  }

  #askForToken(why) {
    const how = this.#config?.signIn.mode === "oidc" ? "signin.how_oidc" : "signin.how_development";
    $("sign-in-why").textContent = text(why);
    $("sign-in-how").textContent = text(how, { clinic: $("clinic").textContent || "demo" });
    $("sign-in").hidden = false;
  }

  async #signedIn() {
    if (this.#api.token === null) {
      if ($("sign-in").hidden) this.#askForToken("signin.needed");
    } else {
      $("clinic").textContent = clinicOf(this.#api.token) ?? "";
      $("clinic").hidden = $("clinic").textContent === "";
      $("sign-in").hidden = true;
      await this.#refreshSessions();
    }
    this.#draw();
  }

  /** The list is the first call that needs a token, so it is also what tells a bad one. */
  async #refreshSessions() {
    $("recent-error").hidden = true;
    try {
      await this.#sessions.refresh();
      $("recent").hidden = false;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (!this.#isRecording) this.#forgetToken("signin.refused");
    }
    this.#draw();
  }

  #showRecentError(words) {
    $("recent-error").textContent = words;
    $("recent-error").hidden = false;
  }

  // A recording.

  #onRecordButton() {
    const isAsking = this.#isRecording && this.#recording.client.snapshot().state === "idle";
    if (!this.#isRecording) this.#start();
    else if (!isAsking && !this.#isStopping) this.#stop();
  }

  async #start() {
    const request = this.#request();
    if (request === null) return;
    this.#captions.reset(request.language);
    $("captions-empty").hidden = false;
    hideResult();
    this.#isStopping = false;
    this.#lost = 0;
    this.#recording = new Recording(this.#api, (event) => this.#onEvent(event));
    this.#say("busy", text("idle.asking"));
    try {
      await this.#recording.run(request);
    } catch (error) {
      if (!(error instanceof MicrophoneError)) throw error;
      this.#recording = null;
      this.#say("bad", text(`mic.${error.code}`));
      return;
    }
    await this.#refreshSessions();
  }

  /** The body of the call that creates the session; null while something is missing. */
  #request() {
    const request = { language: $("language").value };
    if ($("consent-field").hidden) return request;
    if (!$("consent").checked) {
      this.#say("warn", text("idle.consent"));
      $("consent").focus();
      return null;
    }
    $("consent").checked = false;
    return { ...request, consent: { given: true, at: new Date().toISOString() } };
  }

  async #stop() {
    this.#isStopping = true;
    this.#draw();
    await this.#recording.stop();
  }

  async #abandon() {
    const { unsafe } = this.#recording.client.snapshot();
    if (unsafe > 0 && !confirm(text("confirm.abandon", { unsafe: duration(unsafe / SAMPLE_RATE) }))) return;
    await this.#recording.abandon();
  }

  #onEvent(event) {
    if (event.type === "partial") this.#captions.partial(event.message);
    else if (event.type === "final") this.#captions.final(event.message);
    else if (event.type === "rewound") this.#captions.rewind(event.seq);
    else if (event.type === "notice") this.#captions.remark(remarkFor(event.message));
    else if (event.type === "completed") this.#onCompleted(event);
    else if (event.type === "session") this.#refreshSessions();
    else this.#onChange();
    $("captions-empty").hidden ||= event.type === "partial" || event.type === "final";
    this.#draw();
  }

  #onChange() {
    const { state, code } = this.#recording.client.snapshot();
    this.#remark = null;
    if (state === "sign_in" || code === "sign_in_wanted") {
      if ($("sign-in").hidden) this.#askForToken("signin.refused");
    } else if (state === "live") {
      $("sign-in").hidden = true;
    }
  }

  #onCompleted({ message, lost }) {
    this.#lost = lost;
    this.#captions.end();
    showResult(message, this.#api, (words) => this.#say("bad", words));
  }

  #onOnline() {
    const state = this.#recording?.client.snapshot().state;
    if (state === "connecting" || state === "reconnecting") this.#recording.client.retry();
  }

  #onLeaving(event) {
    if (!this.#isRecording || this.#recording.client.snapshot().state === "idle") return;
    event.preventDefault();
    event.returnValue = "";
  }

  #onBug() {
    this.#isBroken = true;
    this.#draw();
  }

  /** Say `words` until the recording has something to say. */
  #say(tone, words) {
    this.#remark = { tone, text: words };
    this.#draw();
  }

  /** Everything that follows from the state, at most once a frame. */
  #draw() {
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    requestAnimationFrame(() => {
      this.#isDrawing = false;
      drawRecorder(this.#view());
    });
  }

  #view() {
    const isSignedIn = this.#api.token !== null;
    const idle = { tone: "idle", text: text(isSignedIn ? "idle.ready" : "idle.sign_in") };
    const broken = { tone: "bad", text: text("error.internal") };
    return {
      canStart: this.#config !== null && isSignedIn,
      isRecording: this.#isRecording,
      isStopping: this.#isStopping,
      remark: this.#isBroken ? broken : (this.#remark ?? (this.#recording === null ? idle : null)),
      session: this.#recording?.client.snapshot() ?? null,
      microphone: this.#recording?.microphone ?? NO_MICROPHONE,
      transcribes: this.#config?.engine !== "null",
      lost: this.#lost,
    };
  }
}

await new Page().run();
