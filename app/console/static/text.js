/** Every sentence that the page's code shows. One table, so that another language is another table. */

export const TEXT = {
  "button.start": "Start recording",
  "button.stop": "Stop",
  "button.storing": "Storing…",

  "idle.ready": "Ready.",
  "idle.sign_in": "Sign in to begin.",
  "idle.unreachable": "The server cannot be reached. Trying again…",
  "state.connecting_page": "Connecting to the server…",
  "idle.asking": "Please allow the microphone when the browser asks.",
  "idle.consent": "Please confirm the patient's consent first.",

  "mic.denied": "The browser may not use the microphone. Allow it in the site settings next to the address, then start again.",
  "mic.none": "No microphone was found. Connect one, then start again.",
  "mic.in_use": "The microphone is used by another program. Close that program, then start again.",
  "mic.insecure": "The browser gives the microphone only to pages served over HTTPS or from this computer itself.",
  "mic.unavailable": "The microphone cannot be opened. Check it in the system settings, then start again.",
  "mic.lost": "The microphone is gone. Nothing is being recorded now. What was said before is safe here; press Stop to store it.",
  "mic.silent": "Recording, but the microphone is silent. Is it muted?",

  "state.connecting": "Connecting… What you say is already being kept.",
  "state.unreached": "No connection to the server yet; trying again. What you say is kept in this browser and sent later.",
  "state.busy": "The server cannot take a session just now; trying again. What you say is kept in this browser and sent later.",
  "state.reconnecting": "Reconnecting… Recording goes on; what you say is kept in this browser and sent afterwards.",
  "state.sign_in_wanted": "Reconnecting… Recording goes on. If this lasts, paste a new token above.",
  "state.resending": "Reconnecting to store the rest… Please leave this page open.",
  "state.live": "Recording.",
  "state.live_no_captions": "Recording. This server stores audio without captions.",
  "state.draining": "Recording. The server is being replaced; the session moves on by itself.",
  "state.storing": "Storing the rest… Please leave this page open.",
  "state.sign_in":
    "Your sign-in has expired. Recording goes on in this browser; paste a new token above so that it can be stored.",
  "state.sign_in_stopped": "Your sign-in has expired. Paste a new token above so that the rest can be stored.",
  "state.superseded": "Another device has taken over this session. Recording here has ended.",
  "state.superseded_lost": "Another device has taken over this session. Recording here has ended; the last {unsafe} could not be stored.",
  "state.completed": "Stored.",
  "state.completed_lost":
    "The session had been ended by the server. What it had is stored; the last {lost} said here are not in it.",
  "state.abandoned": "Given up.",
  "state.full": "This browser's memory is full: what is said now is NOT recorded. It goes on as soon as the server is reached.",
  "state.filling": "Room for {free} more in this browser.",
  "state.gap": "{refused} could not be recorded while this browser's memory was full.",

  "notice.engine_waiting": "Recording. Waiting for a free speech engine; captions will follow.",
  "notice.engine_degraded": "Recording. The speech engine refuses this session: the audio is stored, without captions from here on.",
  "notice.archive_degraded":
    "Recording. The archive cannot store just now; what you say is kept in this browser until it can. Please leave this page open.",
  "notice.events_degraded": "Recording. Captions may take longer than usual to become final.",
  "notice.transcript_gap": "Part of this was not transcribed as it was said; the audio is kept.",

  "refused.later": "The server refused to go on ({code}). What you said is kept in this browser.",
  "refused.begin": "The server refused to begin: {detail}",
  "failed.insufficient_scope": "Your sign-in does not allow recording. Ask your administrator for the right to record.",
  "failed.refused_live":
    "Another device seems to be recording in this session. Try again to continue here instead, or give up.",
  "failed.not_found": "The server does not know this session any more. What you said is kept in this browser.",
  "failed.unknown_clinic": "The clinic of your sign-in is not registered on this server. Ask your administrator.",
  "failed.not_the_speaker": "Only the person who began this session may speak in it.",
  "failed.quota": "Your clinic's limit is reached. What you said is kept in this browser; try again later.",
  "failed.position_mismatch": "This session was continued elsewhere, so what is kept here no longer fits into it.",

  "signin.needed": "To record, open the link with a token that the server printed, or paste a token here.",
  "signin.refused": "The server does not accept this token: it has expired, or it is not for this server. Please use a new one.",
  "signin.how_development": "On the server's machine, this prints a new token: python -m app token --clinic {clinic}",
  "signin.how_oidc": "Your administrator can give you one.",

  "result.summary": "{duration} of audio · {share} archived · {finals}",
  "result.finals.one": "1 caption",
  "result.finals.other": "{count} captions",

  "session.created": "Waiting",
  "session.live": "Live",
  "session.detached": "Interrupted",
  "session.finishing": "Being stored",
  "session.completed": "Stored",
  "session.failed": "Failed",
  "session.cancelled": "Not used",
  "session.finish": "Finish now",
  "session.none": "No sessions yet.",
  "session.unavailable": "The list cannot be loaded just now.",

  "download.txt": "Text",
  "download.vtt": "Subtitles (VTT)",
  "download.flac": "Audio (FLAC)",
  "download.failed": "The download failed: {detail}",

  "confirm.abandon": "Give up? {unsafe} of audio are not stored yet and would be lost.",
  "error.internal": "Something went wrong in this page. Please leave it open and tell your administrator.",
};

/** The sentence `key` with its `{names}` filled in; where there is none, `fallback`'s. */
export function text(key, values = {}, fallback = key) {
  const sentence = TEXT[key] ?? TEXT[fallback];
  return sentence.replaceAll(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** `m:ss`, or `h:mm:ss` from an hour on; `seconds` is rounded down. */
export function clockTime(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const pad = (n) => String(n).padStart(2, "0");
  return h > 0 ? `${h}:${pad(m)}:${pad(s)}` : `${m}:${pad(s)}`;
}

/** A length in words: `8 s`, `1 min 12 s`. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}
