"""From what was heard to TranscriptEvent messages, in the shape that StartStreamTranscription's ``Result`` has.

Each word is written as JSON once; a partial result costs its newest word, a join and two CRCs.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final

from loadtest.emulator.eventstream import encode_headers, frame
from loadtest.emulator.lexicon import Entry, Lexicon, lexicon, quoted
from loadtest.emulator.parameters import SAMPLE_RATE, Parameters
from loadtest.emulator.problems import ServiceError
from loadtest.emulator.speech import Utterance, Word

_EVENT: Final = encode_headers(
    {":event-type": "TranscriptEvent", ":content-type": "application/json", ":message-type": "event"}
)
_HEAD: Final = b'{"Transcript":{"Results":[{"Alternatives":[{"Entities":['
_ITEMS: Final = b'],"Items":['
_TEXT: Final = b'],"Transcript":"'
_STABLE: Final = ',"Stable":true}'
_UNSTABLE: Final = ',"Stable":false}'


def _chain(items: list[str], *, first: bool) -> bytes:
    """Items that are not stable, as JSON; with a comma before them if others come ``first``."""
    if not items:
        return b""
    return f"{',' if first else ''}{(_UNSTABLE + ',').join(items)}{_UNSTABLE}".encode()


def exception_frame(error: ServiceError) -> bytes:
    """The message with which a stream that fails ends; its headers are in the service's order."""
    headers = encode_headers(
        {
            ":exception-type": str(error.kind),
            ":content-type": "application/json",
            ":message-type": "exception",
        }
    )
    return frame(headers, error.body)


def seconds(samples: int) -> str:
    """Seconds as JSON, exact to the sample, so that a client can go on from exactly there."""
    return repr(samples / SAMPLE_RATE)


class Renderer:
    """Writes the results of one stream.

    Args:
        parameters: what the client asked for.
        new_id: names results.
    """

    def __init__(self, parameters: Parameters, new_id: Callable[[], uuid.UUID] = uuid.uuid4) -> None:
        self._parameters = parameters
        self._new_id = new_id
        self._current: _Sentence | None = None

    def partial(self, utterance: Utterance) -> bytes:
        """The message for an utterance that goes on."""
        return self._sentence(utterance).write(final=False)

    def final(self, utterance: Utterance) -> bytes:
        """The message for an utterance that is complete."""
        message = self._sentence(utterance).write(final=True)
        self._current = None
        return message

    def _sentence(self, utterance: Utterance) -> _Sentence:
        current = self._current
        if current is None or current.utterance is not utterance:
            current = self._current = _Sentence(utterance, self._parameters, str(self._new_id()))
        return current


class _Sentence:
    """An utterance's text. All but its last word is written once."""

    def __init__(self, utterance: Utterance, parameters: Parameters, result_id: str) -> None:
        self.utterance = utterance
        self._parameters = parameters
        first = utterance.words[0].key
        options = parameters.options if parameters.multiple else ()
        language = options[first % len(options)] if options else parameters.language
        self._lexicon: Lexicon = lexicon(language)
        self._speaker = quoted(str((first >> 4) % 2)) if parameters.speakers else "null"
        self._items: list[str] = []
        """Of the words but the last; without the end, which says whether the item is stable."""
        self._joined = b""
        """The same as JSON while nothing is stable."""
        self._text = b""
        self._entities: list[str] = []
        self._written = 0
        known = f',"LanguageCode":{quoted(language)}' if parameters.identify else ""
        scores = self._scores(language) if parameters.identify else ""
        self._tail = (
            f'{known}{scores},"ResultId":{quoted(result_id)},"StartTime":{seconds(utterance.start)}}}]}}}}'
        )

    def _scores(self, language: str) -> str:
        others = [code for code in self._parameters.options if code != language]
        rest = round(0.08 / max(1, len(others)), 4)
        pairs = [(language, 0.92), *((code, rest) for code in others)]
        rows = (f'{{"LanguageCode":{quoted(code)},"Score":{score}}}' for code, score in pairs)
        return f',"LanguageIdentification":[{",".join(rows)}]'

    def write(self, *, final: bool) -> bytes:
        """The event as a message."""
        utterance = self.utterance
        count = len(utterance.words)
        self._settle(count if final else count - 1, final=final)
        newest: list[str] = []
        if final:
            newest.append(self._mark(self._lexicon.stop, utterance.end))
            text = self._lexicon.stop
        else:
            text = self._add(newest, utterance.words[-1], count - 1, young=True)
        entities = ",".join(self._entities) if final and self._parameters.pii == "identify" else ""
        rest = (
            f'{text}"}}],"ChannelId":"ch_0","EndTime":{seconds(utterance.end)},'
            f'"IsPartial":{"false" if final else "true"}{self._tail}'
        )
        items = self._join(newest, final=final)
        return frame(_EVENT, _HEAD, entities.encode(), _ITEMS, *items, _TEXT, self._text, rest.encode())

    def _settle(self, count: int, *, final: bool) -> None:
        """Write the words up to ``count`` for good."""
        if final and self._parameters.pii == "redact":
            self._items, self._joined, self._text, self._written = [], b"", b"", 0
        words = self.utterance.words
        if self._written < count:
            fresh: list[str] = []
            for number in range(self._written, count):
                self._text += self._add(fresh, words[number], number, redact=final).encode()
            self._joined += _chain(fresh, first=bool(self._items))
            self._items += fresh
            self._written = count

    def _join(self, newest: list[str], *, final: bool) -> tuple[bytes, ...]:
        stability = self._parameters.stability
        if stability < 0:
            return self._joined, _chain(newest, first=bool(self._items))
        items = [*self._items, *newest]
        certain = len(items) if final else max(0, len(items) - stability)
        parts = [item + _STABLE for item in items[:certain]]
        parts += [item + _UNSTABLE for item in items[certain:]]
        return (",".join(parts).encode(),)

    def _add(
        self, items: list[str], word: Word, number: int, *, young: bool = False, redact: bool = False
    ) -> str:
        """Append the items of one word; return what it adds to the text."""
        lexis = self._lexicon
        # Without stabilisation the newest word of a partial may be another one in the next.
        wavering = (
            young and self._parameters.stability < 0 and word.end > self.utterance.end and word.key & 64
        )
        entry = lexis.entry(word.key + 1 if wavering else word.key)
        before = ""
        if word.comma and number:
            items.append(self._mark(lexis.comma, word.start))
            before = lexis.comma
        method = self._parameters.filter_method if entry.filler else ""
        if method == "remove":
            return before
        content = self._content(entry, method, first=not number, redact=redact)
        end = min(word.end, self.utterance.end)
        items.append(self._item(content, word, end, tagged=method == "tag"))
        if entry.pii and not young and self._wants(entry):
            self._entities.append(self._entity(entry, word, end))
        return f"{before}{lexis.space if number else ''}{content}"

    def _wants(self, entry: Entry) -> bool:
        types = self._parameters.pii_types
        return bool(self._parameters.pii) and ("ALL" in types or entry.pii in types)

    def _content(self, entry: Entry, method: str, *, first: bool, redact: bool) -> str:
        if method == "mask":
            return "***"
        if redact and entry.pii and self._parameters.pii == "redact" and self._wants(entry):
            return "[PII]"
        return entry.capital if first else entry.text

    def _item(self, content: str, word: Word, end: int, *, tagged: bool) -> str:
        return (
            f'{{"Confidence":0.{8000 + (word.key >> 12) % 2000},"Content":"{content}","EndTime":{seconds(end)},"Speaker":{self._speaker},'
            f'"StartTime":{seconds(word.start)},"Type":"pronunciation","VocabularyFilterMatch":{"true" if tagged else "false"}'
        )

    def _mark(self, sign: str, at: int) -> str:
        return (
            f'{{"Confidence":null,"Content":"{sign}","EndTime":{seconds(at)},"Speaker":{self._speaker},'
            f'"StartTime":{seconds(at)},"Type":"punctuation","VocabularyFilterMatch":false'
        )

    @staticmethod
    def _entity(entry: Entry, word: Word, end: int) -> str:
        return (
            f'{{"Category":"PII","Confidence":0.99,"Content":"{entry.text}","EndTime":{seconds(end)},'
            f'"StartTime":{seconds(word.start)},"Type":"{entry.pii}"}}'
        )
