/** Time that moves only when a test says so. */
export class Clock {
  // As `performance.now()`, no whole number.
  #now = 0.25;
  #timers = new Map();
  #next = 1;

  now = () => this.#now;

  setTimeout = (callback, delay) => {
    const id = this.#next++;
    this.#timers.set(id, { at: this.#now + delay, callback });
    return id;
  };

  clearTimeout = (id) => this.#timers.delete(id);

  /** Let `ms` pass: every timer runs at its time, and what it started in promises runs before the next one. */
  async advance(ms) {
    const until = this.#now + ms;
    await settled();
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= until).sort(([, a], [, b]) => a.at - b.at)[0];
      if (due === undefined) break;
      this.#timers.delete(due[0]);
      this.#now = Math.max(this.#now, due[1].at);
      due[1].callback();
      await settled();
    }
    this.#now = until;
  }

  /** Time passes and no timer could run: a machine that slept. */
  sleep(ms) {
    this.#now += ms;
  }
}

/** Everything that was ready to run in promises has run. */
export function settled() {
  return new Promise((resolve) => setImmediate(resolve));
}
