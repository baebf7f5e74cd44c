/** From how things are to the one sentence that says so. Pure. */

import { SAMPLE_RATE } from "./outbox.js";
import { duration, text, TEXT } from "./text.js";

const LOW_ROOM_SAMPLES = 5 * 60 * SAMPLE_RATE;
const FRAME_SAMPLES = 1_600;

/** The condition that matters most is told first. */
const CONDITION_ORDER = ["archive_degraded", "engine_waiting", "engine_degraded", "events_degraded"];

/**
 * @param {ReturnType<import("./speaker-client.js").SpeakerClient["snapshot"]>} session
 * @param {{isLost: boolean, isSilent: boolean, transcribes: boolean, lost: number}} page the microphone is lost or silent, the
 *   engine gives captions, samples lost at the end.
 * @returns {{tone: "idle"|"busy"|"ok"|"warn"|"bad", text: string}}
 */
export function describe(session, page) {
  const said = sentence(session, page);
  if (session.refused > 0 && session.free < FRAME_SAMPLES && session.unsafe > 0) return { tone: "bad", text: text("state.full") };
  const extras = [];
  if (session.free < LOW_ROOM_SAMPLES) extras.push(text("state.filling", { free: spoken(session.free) }));
  if (session.refused > 0) extras.push(text("state.gap", { refused: spoken(session.refused) }));
  return { tone: extras.length > 0 ? "bad" : said.tone, text: [said.text, ...extras].join(" ") };
}

function sentence(session, page) {
  switch (session.state) {
    case "idle":
      return { tone: "idle", text: text("idle.ready") };
    case "connecting":
      return connecting(session);
    case "reconnecting":
      return reconnecting(session);
    case "sign_in":
      return { tone: "bad", text: text(session.stopping ? "state.sign_in_stopped" : "state.sign_in") };
    case "failed":
      return { tone: "bad", text: failure(session) };
    case "superseded":
      return superseded(session);
    case "completed":
      return completed(page);
    case "abandoned":
      return { tone: "idle", text: text("state.abandoned") };
    default:
      return live(session, page);
  }
}

function connecting({ attempts, code }) {
  if (attempts === 0) return { tone: "busy", text: text("state.connecting") };
  const isBusy = code !== null && code !== "unreachable";
  return { tone: "warn", text: text(isBusy ? "state.busy" : "state.unreached") };
}

function reconnecting({ code, stopping }) {
  if (code === "sign_in_wanted") return { tone: "warn", text: text("state.sign_in_wanted") };
  return { tone: "warn", text: text(stopping ? "state.resending" : "state.reconnecting") };
}

function superseded({ unsafe }) {
  if (unsafe === 0) return { tone: "warn", text: text("state.superseded") };
  return { tone: "bad", text: text("state.superseded_lost", { unsafe: spoken(unsafe) }) };
}

function completed({ lost }) {
  if (lost === 0) return { tone: "ok", text: text("state.completed") };
  return { tone: "bad", text: text("state.completed_lost", { lost: spoken(lost) }) };
}

function live(session, page) {
  const condition = CONDITION_ORDER.find((code) => session.conditions.includes(code));
  if (session.stopping && condition !== "archive_degraded") return { tone: "busy", text: text("state.storing") };
  if (page.isLost) return { tone: "bad", text: text("mic.lost") };
  if (condition !== undefined) return { tone: "warn", text: text(`notice.${condition}`) };
  if (page.isSilent) return { tone: "warn", text: text("mic.silent") };
  if (session.draining) return { tone: "ok", text: text("state.draining") };
  return { tone: "ok", text: text(page.transcribes ? "state.live" : "state.live_no_captions") };
}

function failure({ code, detail, sessionId }) {
  if (Object.hasOwn(TEXT, `failed.${code}`)) return text(`failed.${code}`);
  if (sessionId === null) return text("refused.begin", { detail: detail ?? code });
  return text("refused.later", { code });
}

function spoken(samples) {
  return duration(samples / SAMPLE_RATE);
}
