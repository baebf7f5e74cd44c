import assert from "node:assert/strict";
import { test } from "node:test";

const registered = new Map();
globalThis.sampleRate = 16_000;
globalThis.AudioWorkletProcessor = class {
  port = { posted: [], postMessage: (message) => this.port.posted.push(message) };
};
globalThis.registerProcessor = (name, type) => registered.set(name, type);
const { FrameCutter, Resampler } = await import("../../app/console/static/capture-worklet.js");
const CaptureProcessor = registered.get("kikitori-capture");

const RATE = 16_000;

function tone(hertz, rate, seconds) {
  return Float32Array.from({ length: rate * seconds }, (_, n) => 0.5 * Math.sin((2 * Math.PI * hertz * n) / rate));
}

/** As an audio thread does it: 128 samples at a time. */
function resampled(input, rate) {
  const resampler = new Resampler(rate, RATE);
  const output = [];
  for (let at = 0; at < input.length; at += 128) output.push(...resampler.push(input.subarray(at, at + 128)));
  output.push(...resampler.flush());
  return output;
}

function loudest(samples) {
  return samples.slice(200, -200).reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
}

function frames(pushes) {
  const cut = [];
  const cutter = new FrameCutter((pcm, peak) => cut.push({ samples: [...new Int16Array(pcm)], peak }));
  for (const samples of pushes) cutter.push(Float32Array.from(samples));
  cutter.flush();
  return cut;
}

for (const rate of [48_000, 44_100, 96_000, 22_050, 8_000]) {
  test(`${rate} Hz becomes 16 kHz: the voice stays, without delay`, () => {
    const output = resampled(tone(1_000, rate, 1), rate);
    assert.ok(Math.abs(output.length - RATE) <= 1, `${output.length} samples a second`);
    const ideal = tone(1_000, RATE, 1.1);
    assert.ok(loudest(output.map((sample, n) => sample - ideal[n])) < 0.001);
  });
}

for (const rate of [48_000, 44_100]) {
  test(`${rate} Hz: what 16 kHz cannot hold is not folded into the voice`, () => {
    assert.ok(loudest(resampled(tone(9_500, rate, 0.5), rate)) < 0.5 * 10 ** (-65 / 20));
  });
}

test("no drift in a minute", () => {
  const resampler = new Resampler(44_100, RATE);
  let count = 0;
  for (let at = 0; at < 60 * 44_100; at += 4_410) count += resampler.push(new Float32Array(4_410)).length;
  count += resampler.flush().length;
  assert.ok(Math.abs(count - 60 * RATE) <= 1, `${count} samples a minute`);
});

test("frames hold 1 600 samples, the last one the rest", () => {
  const cut = frames([new Array(1_000).fill(0.25), new Array(2_500).fill(-0.5)]);
  assert.deepEqual(cut.map(({ samples }) => samples.length), [1_600, 1_600, 300]);
  assert.deepEqual(cut[0].samples.slice(998, 1_002), [8_192, 8_192, -16_384, -16_384]);
  assert.deepEqual(cut.map(({ peak }) => peak), [0.5, 0.5, 0.5]);
});

test("what is too loud is clipped, never wrapped; what is no number is silence", () => {
  assert.deepEqual(frames([[1, 2, -1, -3, NaN, 0]])[0].samples, [32_767, 32_767, -32_768, -32_768, 0, 0]);
});

test("bytes are little-endian", () => {
  let bytes;
  const cutter = new FrameCutter((pcm) => (bytes = [...new Uint8Array(pcm)]));
  cutter.push([1 / 32_768, 256 / 32_768]);
  cutter.flush();
  assert.deepEqual(bytes, [1, 0, 0, 1]);
});

test("the processor posts full frames, then on request the rest and that it is over", () => {
  const processor = new CaptureProcessor();
  for (let i = 0; i < 13; i += 1) assert.equal(processor.process([[new Float32Array(128).fill(0.5)]]), true);
  assert.equal(processor.port.posted.length, 1);
  processor.port.onmessage({ data: "flush" });
  const [, rest, over] = processor.port.posted;
  assert.equal(rest.pcm.byteLength, (13 * 128 - 1_600) * 2);
  assert.deepEqual(over, { flushed: true });
  assert.equal(processor.process([[new Float32Array(128)]]), false);
  assert.equal(processor.port.posted.length, 3);
});

test("a processor without input waits", () => {
  const processor = new CaptureProcessor();
  assert.equal(processor.process([[]]), true);
  assert.equal(processor.port.posted.length, 0);
});
