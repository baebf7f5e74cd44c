import assert from "node:assert/strict";
import { test } from "node:test";

import { clinicOf, keepToken, takeToken } from "../../app/console/static/sign-in.js";

function tab(hash, stored = {}) {
  const items = new Map(Object.entries(stored));
  return {
    location: { hash, pathname: "/", search: "" },
    history: { replaceState(_state, _title, url) { this.url = url; } },
    sessionStorage: {
      getItem: (key) => items.get(key) ?? null,
      setItem: (key, value) => items.set(key, value),
      removeItem: (key) => items.delete(key),
    },
  };
}

test("a token in the address is taken, kept and no longer shown", () => {
  const window = tab("#token=abc.def.ghi");
  assert.equal(takeToken(window), "abc.def.ghi");
  assert.equal(window.history.url, "/");
  window.location.hash = "";
  assert.equal(takeToken(window), "abc.def.ghi");
});

test("without one there is none; a forgotten one is gone", () => {
  const window = tab("");
  assert.equal(takeToken(window), null);
  assert.equal(window.history.url, undefined);
  keepToken(window.sessionStorage, "x");
  keepToken(window.sessionStorage, null);
  assert.equal(takeToken(window), null);
});

test("reads the clinic's name for show, and survives anything", () => {
  const payload = Buffer.from(JSON.stringify({ clinic_id: "demo" })).toString("base64url");
  assert.equal(clinicOf(`h.${payload}.s`), "demo");
  for (const token of ["", "x", "a.b.c", "a.!!!.c"]) assert.equal(clinicOf(token), null);
});
