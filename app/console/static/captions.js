/** The captions: finals as a log that screen readers follow, partials below them, replaced in place. */

import { SAMPLE_RATE } from "./outbox.js";
import { clockTime, text } from "./text.js";

const NEAR_END_PX = 80;

export class Captions {
  #scroller;
  #finals;
  #partials;
  #open = new Map();
  #finalIds = new Set();
  #language = "";

  /** @param {{scroller: HTMLElement, finals: HTMLElement, partials: HTMLElement}} elements lists inside a scrolling box. */
  constructor({ scroller, finals, partials }) {
    this.#scroller = scroller;
    this.#finals = finals;
    this.#partials = partials;
  }

  /** Begin anew, for a session in `language` (BCP 47). */
  reset(language) {
    this.#language = language;
    this.#open.clear();
    this.#finalIds.clear();
    this.#finals.replaceChildren();
    this.#partials.replaceChildren();
  }

  /** Show a partial, in the order of speech, in place of the earlier one of its id. */
  partial(message) {
    if (this.#finalIds.has(message.id)) return;
    this.#keepEndInView(() => {
      const entry = this.#open.get(message.id) ?? { item: document.createElement("li") };
      this.#open.set(message.id, { ...entry, start: message.start, end: message.end });
      fill(entry.item, message, this.#language);
      const ordered = [...this.#open.values()].sort((a, b) => a.start - b.start);
      if (entry.item.parentNode === null) this.#partials.replaceChildren(...ordered.map(({ item }) => item));
    });
  }

  /** Show a final; partials of what it covers go. */
  final(message) {
    this.#finalIds.add(message.id);
    this.#keepEndInView(() => {
      for (const [id, { item, end }] of this.#open) {
        if (id !== message.id && end > message.end) continue;
        item.remove();
        this.#open.delete(id);
      }
      if (message.text === "") return;
      const item = document.createElement("li");
      item.dataset.seq = String(message.seq);
      item.dataset.id = message.id;
      fill(item, message, this.#language);
      this.#finals.append(item);
    });
  }

  /** A remark of the page between the captions, in the page's language; null says nothing. */
  remark(words) {
    if (words === null) return;
    const item = document.createElement("li");
    item.className = "remark";
    item.textContent = words;
    this.#keepEndInView(() => this.#finals.append(item));
  }

  /** Take back the finals above `seq`. */
  rewind(seq) {
    for (const item of [...this.#finals.children]) {
      if (Number(item.dataset.seq) <= seq || item.dataset.seq === undefined) continue;
      this.#finalIds.delete(item.dataset.id);
      item.remove();
    }
  }

  /** Nothing will replace what is still partial. */
  end() {
    this.#open.clear();
    this.#partials.replaceChildren();
  }

  #keepEndInView(change) {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    change();
    if (isAtEnd) this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }
}

function fill(item, message, language) {
  const time = document.createElement("time");
  time.textContent = clockTime(message.start / SAMPLE_RATE);
  const words = document.createElement("p");
  words.lang = message.language ?? language;
  words.textContent = message.text;
  item.replaceChildren(time, words);
}

/** The remark for a notice, or null where the notice means nothing to a doctor. */
export function remarkFor(notice) {
  return notice.code === "transcript_gap" ? text("notice.transcript_gap") : null;
}
