import assert from "node:assert/strict";
import { test } from "node:test";

import { describe } from "../../app/console/static/status.js";
import { clockTime, duration, text, TEXT } from "../../app/console/static/text.js";

const SECOND = 16_000;
const LIVE = {
  state: "live",
  code: null,
  detail: null,
  sessionId: "s-1",
  stopping: false,
  draining: false,
  attempts: 0,
  conditions: [],
  captured: 60 * SECOND,
  unsafe: 5 * SECOND,
  free: 1_700 * SECOND,
  refused: 0,
};
const PAGE = { isLost: false, isSilent: false, transcribes: true, lost: 0 };

function said(session, page = {}) {
  return describe({ ...LIVE, ...session }, { ...PAGE, ...page });
}

const CASES = [
  [{}, {}, "ok", "state.live"],
  [{}, { transcribes: false }, "ok", "state.live_no_captions"],
  [{}, { isSilent: true }, "warn", "mic.silent"],
  [{}, { isLost: true }, "bad", "mic.lost"],
  [{ draining: true }, {}, "ok", "state.draining"],
  [{ stopping: true }, {}, "busy", "state.storing"],
  [{ conditions: ["engine_waiting"] }, {}, "warn", "notice.engine_waiting"],
  [{ conditions: ["engine_waiting", "archive_degraded"] }, {}, "warn", "notice.archive_degraded"],
  [{ conditions: ["archive_degraded"], stopping: true }, {}, "warn", "notice.archive_degraded"],
  [{ state: "connecting" }, {}, "busy", "state.connecting"],
  [{ state: "connecting", attempts: 2, code: "unreachable" }, {}, "warn", "state.unreached"],
  [{ state: "connecting", attempts: 2, code: "no_room" }, {}, "warn", "state.busy"],
  [{ state: "reconnecting" }, {}, "warn", "state.reconnecting"],
  [{ state: "reconnecting", stopping: true }, {}, "warn", "state.resending"],
  [{ state: "reconnecting", code: "sign_in_wanted" }, {}, "warn", "state.sign_in_wanted"],
  [{ state: "sign_in" }, {}, "bad", "state.sign_in"],
  [{ state: "sign_in", stopping: true }, {}, "bad", "state.sign_in_stopped"],
  [{ state: "failed", code: "quota" }, {}, "bad", "failed.quota"],
  [{ state: "failed", code: "refused_live" }, {}, "bad", "failed.refused_live"],
  [{ state: "superseded", unsafe: 0 }, {}, "warn", "state.superseded"],
  [{ state: "completed" }, {}, "ok", "state.completed"],
  [{ state: "idle" }, {}, "idle", "idle.ready"],
];

for (const [session, page, tone, key] of CASES) {
  test(`says ${key} for ${JSON.stringify({ ...session, ...page })}`, () => {
    assert.deepEqual(said(session, page), { tone, text: text(key) });
  });
}

test("what is lost is told in seconds", () => {
  assert.match(said({ state: "superseded" }).text, /the last 5 s could not be stored/);
  assert.match(said({ state: "completed" }, { lost: 90 * SECOND }).text, /the last 1 min 30 s/);
});

test("warns while there is still room, and again when there is none", () => {
  assert.match(said({ state: "reconnecting", free: 240 * SECOND }).text, /Room for 4 min 0 s more/);
  const full = said({ state: "reconnecting", free: 0, refused: SECOND });
  assert.deepEqual(full, { tone: "bad", text: text("state.full") });
  assert.match(said({ refused: 3 * SECOND }).text, /3 s could not be recorded/);
});

test("an unknown refusal names its code", () => {
  assert.match(said({ state: "failed", code: "close_4400" }).text, /close_4400/);
  assert.match(said({ state: "failed", code: "x", detail: "No such language.", sessionId: null }).text, /No such language\./);
});

test("every sentence has its values", () => {
  for (const key of Object.keys(TEXT)) assert.doesNotMatch(text(key, {}), /[{}]/);
});

test("times read as people write them", () => {
  assert.deepEqual([0, 59.9, 61, 3_661].map(clockTime), ["0:00", "0:59", "1:01", "1:01:01"]);
  assert.deepEqual([0, 59, 72].map(duration), ["0 s", "59 s", "1 min 12 s"]);
});
