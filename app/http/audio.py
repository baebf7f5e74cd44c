"""``GET /v1/sessions/{id}/audio``: the archived FLAC, or WAV decoded from it on the way out; byte ranges of both.

Nothing is held but one piece at a time: a slow client costs a piece of memory, a range costs about what it is long.
"""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final, Literal, Protocol

import anyio.from_thread
import anyio.to_thread
import msgspec
from starlette.responses import Response, StreamingResponse

from app.archive.store import Store, StoreError
from app.errors import refused
from app.http.calls import Call, Nothing
from app.http.ranges import Part, Unsatisfiable, select
from app.sessions.errors import Unprocessable
from audio.codec import FlacReader, wav_header
from audio.pcm import SAMPLE_BYTES, bytes_of

PIECE_BYTES: Final = 262_144
"""How much of a FLAC is read at once."""

PIECE_SAMPLES: Final = 65_536
"""How much of a WAV is decoded at once: 4 s, some milliseconds of a worker thread."""

_READ_AHEAD_BYTES: Final = 65_536
_WAV_HEADER_BYTES: Final = 44


class AudioQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In which form."""

    format: Literal["flac", "wav"] = "flac"


class StoredAudio(Protocol):
    """The FLAC of a finished session: its key in the store, its bytes, its samples, the digest that names its version."""

    @property
    def key(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def sha256(self) -> str: ...


async def audio(call: Call[AudioQuery, Nothing]) -> Response:
    """The audio, or the part of it that ``Range`` asks for."""
    stored: StoredAudio = await call.services.catalog.audio(call.principal, call.session_id)
    form = call.query.format
    size = stored.size if form == "flac" else _wav_size(stored)
    etag = f'"{stored.sha256}"' if form == "flac" else f'"{stored.sha256}-wav"'
    request = call.request
    # RFC 9110, section 14.2: Range means something with GET only.
    wanted = request.headers.get("range") if request.method == "GET" else None
    try:
        part = select(wanted, request.headers.get("if-range"), etag, size)
    except Unsatisfiable as error:
        raise refused(
            416, "range_not_satisfiable", str(error), {"Content-Range": error.content_range}
        ) from None
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{call.session_id}.{form}"',
        "Content-Length": str(part.end - part.start),
        "Content-Type": f"audio/{form}",
        "ETag": etag,
    }
    if not part.whole:
        headers["Content-Range"] = part.content_range
    if request.method == "HEAD":
        return Response(status_code=200, headers=headers)
    pieces = (
        _flac(call.services.store, stored, part)
        if form == "flac"
        else _wav(call.services.store, stored, part)
    )
    return StreamingResponse(await _begun(pieces), 200 if part.whole else 206, headers)


def _wav_size(stored: StoredAudio) -> int:
    try:
        return len(wav_header(stored.samples)) + bytes_of(stored.samples)
    except ValueError:
        raise Unprocessable(
            "too_long_for_wav", "a WAV file holds at most 37 hours: ask for format=flac"
        ) from None


async def _begun(pieces: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """The same pieces, the first of them made already: what fails at once is still a problem body."""
    first = await anext(pieces, b"")

    async def all_of_them() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return all_of_them()


async def _flac(store: Store, stored: StoredAudio, part: Part) -> AsyncGenerator[bytes, None]:
    position = part.start
    while position < part.end:
        piece = (await store.read(stored.key, position, min(part.end, position + PIECE_BYTES))).data
        if not piece:
            raise EOFError("the archive's object is shorter than its manifest says")
        yield piece
        position += len(piece)


async def _wav(store: Store, stored: StoredAudio, part: Part) -> AsyncGenerator[bytes, None]:
    """Header bytes and PCM bytes of ``part``; positions inside are bytes of PCM."""
    header = wav_header(stored.samples)[part.start : part.end]
    start, end = max(0, part.start - _WAV_HEADER_BYTES), part.end - _WAV_HEADER_BYTES
    if end <= 0:
        yield header
        return
    # Decoding works on the file from one thread at a time: nothing else touches the reader. One that is left behind
    # by a cancelled request is freed with the last reference to it.
    reader = await anyio.to_thread.run_sync(_open, store, stored)
    for first in range(start // SAMPLE_BYTES, -(-end // SAMPLE_BYTES), PIECE_SAMPLES):
        last = min(first + PIECE_SAMPLES, -(-end // SAMPLE_BYTES))
        pcm = await anyio.to_thread.run_sync(_decode, reader, first, last - first)
        offset = bytes_of(first)
        yield header + pcm[max(0, start - offset) : end - offset]
        header = b""
    reader.close()


def _open(store: Store, stored: StoredAudio) -> FlacReader:
    file = io.BufferedReader(_StoredFile(store, stored.key, stored.size), _READ_AHEAD_BYTES)
    try:
        return FlacReader(file)
    except OSError as error:
        raise _cause_of(error) from None


def _decode(reader: FlacReader, start: int, count: int) -> bytes:
    try:
        return reader.read(start, count)
    except OSError as error:
        raise _cause_of(error) from None


def _cause_of(error: OSError) -> Exception:
    return error.__cause__ if isinstance(error.__cause__, StoreError) else error


class _StoredFile(io.RawIOBase):
    """An object of the store as a file, for a worker thread that the event loop's thread started."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        self._store = store
        self._key = key
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override] # BufferedReader hands in a memoryview
        end = min(self._size, self._position + len(buffer))
        if end <= self._position:
            return 0
        try:
            data = anyio.from_thread.run(self._store.read, self._key, self._position, end).data
        except Exception as error:
            # Only an OSError may pass through the decoder, which is C.
            raise OSError("the archive cannot be read") from error
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
