import assert from "node:assert/strict";
import { test } from "node:test";

import { DEFAULT_CAPACITY, Outbox } from "../../app/console/static/outbox.js";

/** Samples whose values are their positions. */
function ramp(from, count) {
  const bytes = new Uint8Array(count * 2);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < count; i += 1) view.setInt16(i * 2, (from + i) & 0x7fff, true);
  return bytes;
}

test("gives back what it took, from any position, across frames", () => {
  const outbox = new Outbox();
  for (const [from, count] of [[0, 5], [5, 1], [6, 10]]) outbox.append(ramp(from, count));
  assert.deepEqual(outbox.read(0, 16), ramp(0, 16));
  assert.deepEqual(outbox.read(3, 4), ramp(3, 4));
  assert.deepEqual(outbox.read(5, 1), ramp(5, 1));
  assert.deepEqual(outbox.read(10, 100), ramp(10, 6));
  assert.equal(outbox.read(16, 100).length, 0);
});

test("forgets only what is durable, also in the middle of a frame", () => {
  const outbox = new Outbox();
  outbox.append(ramp(0, 10));
  outbox.append(ramp(10, 10));
  outbox.release(13);
  assert.equal(outbox.start, 13);
  assert.equal(outbox.length, 7);
  assert.deepEqual(outbox.read(13, 100), ramp(13, 7));
  assert.throws(() => outbox.read(12, 1), RangeError);
  outbox.release(4);
  assert.equal(outbox.start, 13, "a late, smaller ack changes nothing");
  outbox.release(20);
  assert.equal(outbox.length, 0);
  assert.throws(() => outbox.release(21), RangeError);
});

test("when full it turns away the newest, whole, counts it, and goes on when there is room", () => {
  const outbox = new Outbox(10);
  assert.equal(outbox.append(ramp(0, 8)), true);
  assert.equal(outbox.append(ramp(8, 3)), false);
  assert.equal(outbox.refused, 3);
  assert.equal(outbox.end, 8, "what was turned away has no position");
  outbox.release(5);
  assert.equal(outbox.append(ramp(8, 3)), true);
  assert.deepEqual(outbox.read(5, 100), ramp(5, 6));
});

test("takes whole samples only, and nothing is no frame", () => {
  const outbox = new Outbox();
  assert.throws(() => outbox.append(new Uint8Array(3)), RangeError);
  assert.equal(outbox.append(new Uint8Array(0)), true);
  assert.equal(outbox.end, 0);
});

test("keeps half an hour by default", () => {
  assert.equal(DEFAULT_CAPACITY, 30 * 60 * 16_000);
});

test("agrees with a plain array through two thousand random steps", () => {
  const outbox = new Outbox(500);
  const model = [];
  let start = 0;
  let seed = 7;
  const random = (below) => (seed = (seed * 48_271) % 2_147_483_647) % below;
  for (let step = 0; step < 2_000; step += 1) {
    if (random(2) === 0) {
      const count = random(60);
      const bytes = ramp(model.length, count);
      const fits = model.length - start + count <= 500;
      assert.equal(outbox.append(bytes), fits);
      if (fits) for (let i = 0; i < count; i += 1) model.push((model.length) & 0x7fff);
    } else {
      start += random(model.length - start + 1);
      outbox.release(start);
    }
    const from = start + random(model.length - start + 1);
    const count = random(100);
    const bytes = outbox.read(from, count);
    const values = Array.from(new Int16Array(bytes.slice().buffer));
    assert.deepEqual(values, model.slice(from, from + count));
  }
});
