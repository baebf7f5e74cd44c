/**
 * Microphone audio, cut into frames: Float32 at the context's rate → Int16 little-endian, mono, 16 kHz, 1 600 samples a frame.
 *
 * Posts `{pcm: ArrayBuffer, peak}` per frame (`peak` in 0..1, the buffer transferred). The message `"flush"` is answered with
 * what is left, as a shorter frame if there is any, and then `{flushed: true}`; nothing is posted after that.
 *
 * Chromium and Safari make a context of 16 kHz and resample natively. Firefox refuses a rate other than the device's; there the
 * context keeps its own rate and `Resampler` does it here.
 */

const RATE = 16_000;
const FRAME_SAMPLES = 1_600;

/** Lobes of the sinc on each side, and its window's shape: stop band below -70 dB, pass band flat to about 6.5 kHz. */
const LOBES = 16;
const KAISER_BETA = 8;
const CUTOFF = 0.92;

/**
 * A polyphase windowed-sinc resampler for any pair of whole-numbered rates: output sample `n` lies at input time
 * `n · from / to`, so there is one set of coefficients for each of the `to / gcd` phases, made once. No drift: positions are
 * kept as whole numbers.
 */
export class Resampler {
  #up;
  #down;
  #half;
  #phases;
  #kept;
  #at = 0;
  #phase = 0;

  /** @param {number} from input rate in Hz; @param {number} to output rate in Hz. */
  constructor(from, to) {
    const common = gcd(from, to);
    this.#up = to / common;
    this.#down = from / common;
    const narrow = Math.min(1, to / from);
    this.#half = Math.ceil(LOBES / narrow);
    this.#phases = Array.from({ length: this.#up }, (_, k) => kernel(k / this.#up, this.#half, narrow * CUTOFF));
    this.#kept = new Float32Array(this.#half - 1);
  }

  /** The output that `input` completes; it lags behind by `LOBES` output samples (1 ms). */
  push(input) {
    const all = new Float32Array(this.#kept.length + input.length);
    all.set(this.#kept);
    all.set(input, this.#kept.length);
    const taps = 2 * this.#half;
    const output = [];
    while (this.#at + taps <= all.length) {
      const coefficients = this.#phases[this.#phase];
      let sum = 0;
      for (let k = 0; k < taps; k += 1) sum += coefficients[k] * all[this.#at + k];
      output.push(sum);
      this.#phase += this.#down;
      this.#at += Math.floor(this.#phase / this.#up);
      this.#phase %= this.#up;
    }
    const used = Math.min(this.#at, all.length);
    this.#kept = all.slice(used);
    this.#at -= used;
    return output;
  }

  /** The last output: what the kernel still held back. */
  flush() {
    return this.push(new Float32Array(this.#half));
  }
}

/** Coefficients for an output `fraction` of a sample after input tap `half - 1`; they add up to 1. */
function kernel(fraction, half, cutoff) {
  const taps = Float64Array.from({ length: 2 * half }, (_, k) => {
    const t = k - (half - 1) - fraction;
    const edge = t / half;
    const window = Math.abs(edge) >= 1 ? 0 : bessel(KAISER_BETA * Math.sqrt(1 - edge * edge)) / bessel(KAISER_BETA);
    const x = Math.PI * cutoff * t;
    return (x === 0 ? 1 : Math.sin(x) / x) * window;
  });
  const sum = taps.reduce((a, b) => a + b, 0);
  return taps.map((tap) => tap / sum);
}

/** The modified Bessel function of order 0, by its power series. */
function bessel(x) {
  let sum = 1;
  for (let term = 1, k = 1; term > sum * 1e-12; k += 1) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function gcd(a, b) {
  return b === 0 ? a : gcd(b, a % b);
}

/** Collects Float32 samples into Int16 frames and hands each full one to `onFrame(buffer, peak)`. */
export class FrameCutter {
  #view = new DataView(new ArrayBuffer(FRAME_SAMPLES * 2));
  #filled = 0;
  #peak = 0;
  #onFrame;

  constructor(onFrame) {
    this.#onFrame = onFrame;
  }

  push(samples) {
    for (const sample of samples) {
      // NaN, which a broken driver may deliver, becomes silence.
      const scaled = Math.round(sample * 32_768) || 0;
      this.#view.setInt16(this.#filled * 2, Math.max(-32_768, Math.min(32_767, scaled)), true);
      this.#peak = Math.max(this.#peak, Math.min(1, Math.abs(sample) || 0));
      this.#filled += 1;
      if (this.#filled === FRAME_SAMPLES) this.flush();
    }
  }

  /** Hand over what there is, even if it is no full frame. */
  flush() {
    if (this.#filled === 0) return;
    const buffer = this.#filled === FRAME_SAMPLES ? this.#view.buffer : this.#view.buffer.slice(0, this.#filled * 2);
    this.#onFrame(buffer, this.#peak);
    this.#view = new DataView(new ArrayBuffer(FRAME_SAMPLES * 2));
    this.#filled = 0;
    this.#peak = 0;
  }
}

class CaptureProcessor extends AudioWorkletProcessor {
  #resampler = sampleRate === RATE ? null : new Resampler(sampleRate, RATE);
  #cutter = new FrameCutter((pcm, peak) => this.port.postMessage({ pcm, peak }, [pcm]));
  #isOver = false;

  constructor() {
    super();
    this.port.onmessage = ({ data }) => {
      if (data === "flush") this.#flush();
    };
  }

  process(inputs) {
    const mono = inputs[0]?.[0];
    if (!this.#isOver && mono) this.#cutter.push(this.#resampler?.push(mono) ?? mono);
    return !this.#isOver;
  }

  #flush() {
    if (this.#resampler) this.#cutter.push(this.#resampler.flush());
    this.#cutter.flush();
    this.#isOver = true;
    this.port.postMessage({ flushed: true });
  }
}

registerProcessor("kikitori-capture", CaptureProcessor);
