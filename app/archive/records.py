"""What the archive holds for a session: names, and the records behind them.

``session.json`` is written once, before the session is promised to anybody. ``epochs/<n>.json`` settles who may
write. ``segments/`` carry audio with the finals committed since the segment before; ``finals/`` carry finals for
which no audio was left to travel with. ``manifest.json`` names what counts once the session is finished.
"""

from __future__ import annotations

import hashlib
import re
import struct
from typing import Final, TypeVar

import msgspec

from audio.coverage import Coverage
from audio.pcm import samples_of
from audio.transcript import CommittedFinal
from tenants.terms import Priority, Recording, SessionRef

RangeList = list[tuple[int, int]]

SEGMENT_MAGIC: Final = b"KKS1"
_HEADER_LENGTH: Final = struct.Struct(">4sI")
_SEGMENT_NAME: Final = re.compile(r"segments/(\d{12,})-(\d+)")
_FINALS_NAME: Final = re.compile(r"finals/(\d{12,})-(\d+)\.json")
_EPOCH_NAME: Final = re.compile(r"epochs/(\d+)\.json")

SEGMENT_HEADER_GUESS: Final = 16_384
"""Bytes that hold a segment's header in all but wordy cases: what a reader of headers asks for first."""


class RecordCorrupt(Exception):
    """A record of the archive does not parse. ``key`` names it; the text holds no content."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key


class ConsentRecord(msgspec.Struct, frozen=True, rename="camel"):
    """The patient's consent, as the client stated it."""

    given: bool
    at: str


class SessionRecord(msgspec.Struct, frozen=True, rename="camel"):
    """``session.json``: what a session was created with; it never changes."""

    session_id: str
    clinic_id: str
    created_at: str
    created_by: str
    language: str
    recording: Recording = "audio+transcript"
    priority: Priority = "normal"
    speaker_labels: bool = False
    title: str | None = None
    external_id: str | None = None
    vocabulary: str | None = None
    consent: ConsentRecord | None = None
    retention_days: int | None = None
    metadata: dict[str, str] = {}


class Base(msgspec.Struct, frozen=True):
    """Where an epoch begins: audio and finals of older epochs count up to here and no further."""

    position: int
    seq: int


class EpochRecord(msgspec.Struct, frozen=True, rename="camel"):
    """``epochs/<n>.json``: created where none was (the fence), then given its base before anything is promised under it.

    An epoch without a base was claimed by an owner who died before promising anything; it cuts nothing.
    ``finals`` are those that the base counts and that only the log knew at the claim.
    """

    epoch: int
    task: str
    purpose: str
    claimed_at: str
    serial: int = 0
    ticket_id: str = ""
    subject: str = ""
    base: Base | None = None
    finals: list[CommittedFinal] = []
    live: RangeList = []
    settled: int = 0


class FinalsRecord(msgspec.Struct, frozen=True, rename="camel"):
    """``finals/<first seq>-<epoch>.json``, and the part of a segment that is not audio.

    Attributes:
        seq: the last ``seq`` committed when this was written.
        live: all ranges transcribed live so far, cumulative over the session.
        settled: see ``audio.transcriber``.
    """

    epoch: int
    seq: int
    finals: list[CommittedFinal]
    live: RangeList
    settled: int


class SegmentHeader(FinalsRecord, frozen=True, rename="camel"):
    """What stands before a segment's PCM. ``sha256`` is that of the PCM, in hex."""

    first: int = 0
    samples: int = 0
    sha256: str = ""

    @property
    def end(self) -> int:
        """Position after the last sample."""
        return self.first + self.samples


class ManifestObject(msgspec.Struct, frozen=True, rename="camel"):
    """An object that counts. ``size`` and ``sha256`` are of its plaintext."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """``manifest.json``: changed by compare-and-set only.

    Attributes:
        epoch: the epoch that finished; a newer epoch with a base means the session was reopened.
        state: ``completed``, ``failed`` or ``cancelled``.
        reason: ``stopped`` (for good) or ``abandoned`` (its speaker may reopen it) or ``unspoken``.
        audio_sha256: of the whole session's PCM, in hex; null where no audio is kept.
    """

    session_id: str
    clinic_id: str
    epoch: int
    state: str
    reason: str
    finished_at: str
    samples: int
    finals: int
    coverage: dict[str, RangeList]
    audio_sha256: str | None = msgspec.field(default=None, name="audioSha256")
    audio: ManifestObject | None = None
    transcript: ManifestObject | None = None
    started_at: str | None = None


class TranscriptRecord(msgspec.Struct, frozen=True, rename="camel"):
    """``transcript-<epoch>.json``: every final of the session, in order."""

    session_id: str
    clinic_id: str
    language: str
    samples: int
    finals: list[CommittedFinal]


_R = TypeVar("_R")


def wire_coverage(coverage: Coverage) -> dict[str, RangeList]:
    """Coverage as records and messages hold it."""
    return {name: [(start, end) for start, end in pairs] for name, pairs in coverage.to_wire().items()}


def encode_record(record: msgspec.Struct) -> bytes:
    """A record as it is stored."""
    return msgspec.json.encode(record)


def decode_record(key: str, data: bytes, kind: type[_R]) -> _R:
    """A stored record.

    Raises:
        RecordCorrupt: it does not parse.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError:
        raise RecordCorrupt(key, f"is no {kind.__name__}") from None


def encode_segment(header: SegmentHeader, pcm: list[memoryview]) -> bytes:
    """A segment object: magic, header length, header as JSON, PCM."""
    head = msgspec.json.encode(header)
    return b"".join([_HEADER_LENGTH.pack(SEGMENT_MAGIC, len(head)), head, *pcm])


def segment_header_size(key: str, data: bytes) -> int:
    """Bytes before the PCM, read from a segment's first 8 bytes.

    Raises:
        RecordCorrupt: these are no segment's.
    """
    if len(data) < _HEADER_LENGTH.size:
        raise RecordCorrupt(key, "is cut short")
    magic, length = _HEADER_LENGTH.unpack_from(data)
    if magic != SEGMENT_MAGIC:
        raise RecordCorrupt(key, "is no segment")
    return _HEADER_LENGTH.size + int(length)


def decode_segment_header(key: str, data: bytes) -> SegmentHeader:
    """The header of a segment whose first ``segment_header_size`` bytes are in ``data``.

    Raises:
        RecordCorrupt: it does not parse or ``data`` is too short.
    """
    size = segment_header_size(key, data)
    if len(data) < size:
        raise RecordCorrupt(key, "is cut short")
    return decode_record(key, data[_HEADER_LENGTH.size : size], SegmentHeader)


def decode_segment(key: str, data: bytes) -> tuple[SegmentHeader, memoryview]:
    """A whole segment: its header and its PCM, checked against each other.

    Raises:
        RecordCorrupt: the PCM is not what the header says.
    """
    header = decode_segment_header(key, data)
    pcm = memoryview(data)[segment_header_size(key, data) :]
    if (
        len(pcm) % 2
        or samples_of(len(pcm)) != header.samples
        or hashlib.sha256(pcm).hexdigest() != header.sha256
    ):
        raise RecordCorrupt(key, "its audio is not what its header says")
    return header, pcm


# Names ------------------------------------------------------------------------------------------


def folder(ref: SessionRef) -> str:
    """The prefix of all that belongs to a session, with its closing slash."""
    return f"{ref.clinic_id}/{ref.session_id}/"


def session_key(ref: SessionRef) -> str:
    """``session.json``."""
    return f"{folder(ref)}session.json"


def manifest_key(ref: SessionRef) -> str:
    """``manifest.json``."""
    return f"{folder(ref)}manifest.json"


def epoch_key(ref: SessionRef, epoch: int) -> str:
    """``epochs/<n>.json``."""
    return f"{folder(ref)}epochs/{epoch}.json"


def segment_key(ref: SessionRef, first: int, epoch: int) -> str:
    """``segments/<first position, 12 digits>-<epoch>``."""
    return f"{folder(ref)}segments/{first:012d}-{epoch}"


def finals_key(ref: SessionRef, seq: int, epoch: int) -> str:
    """``finals/<first seq, 12 digits>-<epoch>.json``."""
    return f"{folder(ref)}finals/{seq:012d}-{epoch}.json"


def audio_name(epoch: int) -> str:
    """``audio-<epoch>.flac``."""
    return f"audio-{epoch}.flac"


def transcript_name(epoch: int) -> str:
    """``transcript-<epoch>.json``."""
    return f"transcript-{epoch}.json"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """(first position, epoch) of a segment's name within its session, or None."""
    found = _SEGMENT_NAME.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


def parse_finals_name(name: str) -> tuple[int, int] | None:
    """(first seq, epoch) of a finals object's name within its session, or None."""
    found = _FINALS_NAME.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


def parse_epoch_name(name: str) -> int | None:
    """The number of an epoch's name within its session, or None."""
    found = _EPOCH_NAME.fullmatch(name)
    return int(found[1]) if found else None
