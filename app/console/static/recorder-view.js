/** Draws the recorder: button, state line, level, counts, result. Holds no state of a recording. */

import { SAMPLE_RATE } from "./outbox.js";
import { downloadButtons } from "./sessions-list.js";
import { describe } from "./status.js";
import { clockTime, duration, text } from "./text.js";

const METER_FLOOR_DB = 60;

/** States of a client that wait for the user. */
const CHOICES = { failed: ["retry", "abandon"], sign_in: ["abandon"] };

const $ = (id) => document.getElementById(id);

/**
 * @param {object} view
 * @param {boolean} view.canStart whether all that a recording needs is there.
 * @param {boolean} view.isRecording whether one is under way; it is while its rest is being stored.
 * @param {boolean} view.isStopping
 * @param {{tone: string, text: string}|null} view.remark what to say instead of how the recording is.
 * @param {ReturnType<import("./speaker-client.js").SpeakerClient["snapshot"]>|null} view.session
 * @param {{peak: number, isLost: boolean, isSilent: boolean}} view.microphone
 * @param {boolean} view.transcribes
 * @param {number} view.lost
 */
export function drawRecorder(view) {
  drawButton(view);
  drawLevel(view.microphone.peak);
  if (view.session !== null) drawCounts(view.session);
  const choices = (view.isRecording && CHOICES[view.session.state]) || [];
  $("choices").hidden = choices.length === 0;
  for (const id of ["retry", "abandon"]) $(id).hidden = !choices.includes(id);
  const { isLost, isSilent } = view.microphone;
  drawState(view.remark ?? describe(view.session, { isLost, isSilent, transcribes: view.transcribes, lost: view.lost }));
}

function drawButton({ canStart, isRecording, isStopping, session }) {
  const action = isRecording ? (isStopping ? "storing" : "stop") : "start";
  // While the browser asks for the microphone there is nothing to stop yet.
  const isBusy = action === "storing" || (isRecording && session.state === "idle");
  $("record").dataset.action = action;
  $("record").disabled = action === "start" && !canStart;
  // A button that is disabled loses the keyboard's focus; this one only says that it does nothing now.
  $("record").setAttribute("aria-disabled", String(isBusy));
  setText("record-label", text(`button.${action}`));
  $("options").hidden = isRecording;
}

function drawState({ tone, text: words }) {
  $("state").dataset.tone = tone;
  setText("state", words);
}

/** On a scale of decibels, as ears have it: 60 dB below full scale is the left end. */
function drawLevel(peak) {
  const level = peak > 0 ? Math.max(0, Math.min(1, 1 + (20 * Math.log10(peak)) / METER_FLOOR_DB)) : 0;
  $("level").style.setProperty("--level", level.toFixed(3));
  $("level").setAttribute("aria-valuenow", String(Math.round(level * 100)));
}

function drawCounts({ captured, unsafe }) {
  setText("length", clockTime(captured / SAMPLE_RATE));
  setText("unsafe", duration(Math.ceil(unsafe / SAMPLE_RATE)));
}

/** A screen reader repeats what is set again, even if it is the same. */
function setText(id, words) {
  if ($(id).textContent !== words) $(id).textContent = words;
}

/**
 * Show what became of a session.
 *
 * @param {object} message the contract's `completed`.
 * @param {import("./api.js").Api} api
 * @param {(words: string) => void} onError a download failed.
 */
export function showResult(message, api, onError) {
  const archived = message.coverage.archived.reduce((sum, [start, end]) => sum + end - start, 0);
  // Rounded down: 100 % must mean all of it.
  const share = message.samples === 0 ? 100 : Math.floor((archived / message.samples) * 100);
  $("result-summary").textContent = text("result.summary", {
    duration: duration(message.samples / SAMPLE_RATE),
    share: `${share} %`,
    finals: text(message.finals === 1 ? "result.finals.one" : "result.finals.other", { count: message.finals }),
  });
  $("result-files").replaceChildren(...downloadButtons(api, message.sessionId, onError));
  $("result").hidden = false;
}

export function hideResult() {
  $("result").hidden = true;
}
