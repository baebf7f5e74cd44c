import assert from "node:assert/strict";
import { test } from "node:test";

import { Api, ApiError } from "../../app/console/static/api.js";

function answering(body, { status = 200, headers = {} } = {}) {
  const calls = [];
  const fetch = async (path, init) => {
    calls.push({ path, ...init });
    return new Response(body === null ? null : JSON.stringify(body), { status, headers });
  };
  return { calls, api: new Api({ fetch, token: "t" }) };
}

test("creates a session with the token and the key", async () => {
  const { api, calls } = answering({ sessionId: "s" }, { status: 201 });
  assert.deepEqual(await api.createSession({ language: "en-US" }, "k"), { sessionId: "s" });
  assert.equal(calls[0].path, "/v1/sessions");
  assert.equal(calls[0].headers.Authorization, "Bearer t");
  assert.equal(calls[0].headers["Idempotency-Key"], "k");
  assert.equal(calls[0].body, '{"language":"en-US"}');
});

test("an id from the server cannot leave its place in the path", async () => {
  const { api, calls } = answering({});
  await api.session("../x?y");
  assert.equal(calls[0].path, "/v1/sessions/..%2Fx%3Fy");
});

test("a problem body becomes an error with its code and Retry-After", async () => {
  const headers = { "Content-Type": "application/problem+json", "Retry-After": "3" };
  const { api } = answering({ code: "no_room", detail: "Full." }, { status: 503, headers });
  await assert.rejects(api.config(), (error) => {
    const { status, code, message, retryAfterMs, temporary } = error;
    assert.deepEqual({ status, code, message, retryAfterMs, temporary }, {
      status: 503, code: "no_room", message: "Full.", retryAfterMs: 3_000, temporary: true,
    });
    return error instanceof ApiError;
  });
});

test("a proxy's error page is an error too", async () => {
  const api = new Api({ fetch: async () => new Response("<html>", { status: 502, headers: { "Content-Type": "text/html" } }) });
  await assert.rejects(api.config(), { status: 502, code: "http_502", temporary: true });
});

test("no network, and an answer that is cut off, are temporary", async () => {
  const away = new Api({ fetch: async () => Promise.reject(new TypeError("failed")) });
  await assert.rejects(away.config(), { status: 0, code: "unreachable", temporary: true });
  const cut = new Api({ fetch: async () => new Response('{"a"', { status: 200 }) });
  await assert.rejects(cut.config(), { status: 0, code: "unreachable" });
});

test("a refusal for good is not temporary", async () => {
  for (const status of [400, 401, 403, 404, 422]) {
    const { api } = answering(null, { status });
    await assert.rejects(api.config(), { status, temporary: false });
  }
});

test("a call without a token says nothing of one", async () => {
  const { api, calls } = answering({});
  api.token = null;
  await api.config();
  assert.equal(calls[0].headers.Authorization, undefined);
});
