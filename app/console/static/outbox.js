/**
 * Samples that were captured and are not yet known to be safe on the server.
 *
 * Pure: no clock, no socket, no page. Positions count samples at 16 kHz since the session began;
 * one sample is 2 bytes (signed 16-bit little-endian).
 */

export const SAMPLE_RATE = 16_000;
export const SAMPLE_BYTES = 2;

/** Half an hour: 57.6 MB, what a phone's browser can still be expected to hold. */
export const DEFAULT_CAPACITY = 30 * 60 * SAMPLE_RATE;

export class Outbox {
  #chunks = [];
  #start = 0;
  #end = 0;
  #refused = 0;
  #capacity;

  /** @param {number} capacity the most samples that are kept. */
  constructor(capacity = DEFAULT_CAPACITY) {
    this.#capacity = capacity;
  }

  /** Position of the first sample that is kept; everything before it is durable. */
  get start() {
    return this.#start;
  }

  /** Position after the last sample that was taken in. */
  get end() {
    return this.#end;
  }

  /** Samples kept now. */
  get length() {
    return this.#end - this.#start;
  }

  /** Samples that still fit. */
  get free() {
    return this.#capacity - this.length;
  }

  /** Samples that were turned away because it was full. They have no position: nothing after them shifts. */
  get refused() {
    return this.#refused;
  }

  /**
   * Take in the next samples, all of them or, where they do not fit, none: what was captured first is what
   * the server needs next, so the newest is what has to wait outside.
   *
   * @param {Uint8Array} bytes whole samples; kept as it is, so the caller must not change it afterwards.
   * @returns {boolean} whether they were taken.
   */
  append(bytes) {
    if (bytes.length % SAMPLE_BYTES !== 0) throw new RangeError("half a sample is no audio");
    const samples = bytes.length / SAMPLE_BYTES;
    if (samples > this.free) {
      this.#refused += samples;
      return false;
    }
    if (samples > 0) this.#chunks.push({ start: this.#end, end: this.#end + samples, bytes });
    this.#end += samples;
    return true;
  }

  /** Forget what is before `durable`. A position that was released already changes nothing. */
  release(durable) {
    if (!Number.isSafeInteger(durable) || durable > this.#end) throw new RangeError("released beyond the end");
    if (durable <= this.#start) return;
    this.#start = durable;
    const keep = this.#chunks.findIndex((chunk) => chunk.end > durable);
    this.#chunks.splice(0, keep === -1 ? this.#chunks.length : keep);
  }

  /**
   * The samples from `from`, at most `limit` of them, as bytes; empty at the end. They stay kept.
   *
   * Throws RangeError when `from` is outside [start, end].
   */
  read(from, limit) {
    if (from < this.#start || from > this.#end) throw new RangeError("read outside of what is kept");
    const samples = Math.max(0, Math.min(limit, this.#end - from));
    let index = samples > 0 ? this.#indexOf(from) : 0;
    const whole = this.#chunks[index];
    if (samples > 0 && from + samples <= whole.end) return slice(whole, from, from + samples);
    const joined = new Uint8Array(samples * SAMPLE_BYTES);
    for (let at = from; at < from + samples; index += 1) {
      const part = slice(this.#chunks[index], at, from + samples);
      joined.set(part, (at - from) * SAMPLE_BYTES);
      at += part.length / SAMPLE_BYTES;
    }
    return joined;
  }

  #indexOf(position) {
    let low = 0;
    let high = this.#chunks.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#chunks[middle].end > position) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

function slice(chunk, from, to) {
  return chunk.bytes.subarray(
    (from - chunk.start) * SAMPLE_BYTES,
    (Math.min(to, chunk.end) - chunk.start) * SAMPLE_BYTES,
  );
}
