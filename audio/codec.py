"""FLAC and WAV through libsndfile, always 16 kHz, 16 bits, mono; any other audio file can be read into that.

The encoder and the readers are synchronous and burn CPU, some 0.2 ms per second of audio: call them from a worker
thread (libsndfile runs without the GIL), one call at a time per object.
"""

from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from audio.pcm import SAMPLE_BYTES, SAMPLE_RATE, bytes_of, samples_of
from audio.sndfile import SeekableBytes, Sink, Source

SAMPLES_MAX: Final = (1 << 36) - 1
"""What a FLAC header can count (RFC 9639, 8.2): 49 days."""

_MAGIC: Final = b"fLaC"
_HEADER_BYTES: Final = 42
_BLOCK_SAMPLES: Final = 4096
_COUNTS_AT: Final = 18
_FRAME_SIZES: Final = slice(12, 18)
_NO_AUDIO_MD5: Final = hashlib.md5(b"", usedforsecurity=False).digest()
_WAV_SAMPLES_MAX: Final = (0xFFFF_FFFF - 36) // SAMPLE_BYTES
_READ_FRAMES: Final = 65_536
_CONVERT: Final = "convert it to WAV first, for instance with: ffmpeg -i IN -ar 16000 -ac 1 OUT.wav"

Pcm = bytes | bytearray | memoryview
Floats = npt.NDArray[np.float32]


class CodecError(Exception):
    """Audio that cannot be encoded or decoded as asked; the message says what to do about it where something can be done."""


class FlacEncoder:
    """Turns PCM into a FLAC file, in order and without seeking: what was returned needs no change afterwards.

    libsndfile writes count and MD5 into the header when it closes; as the caller knows both beforehand, they are put
    in as the header passes by, and compared at the end. Frame sizes stay 0, "unknown" (RFC 9639, 8.2). The same PCM
    gives the same bytes however it is cut. Holds less than two blocks of 4 096 samples between calls.
    """

    def __init__(self, samples: int, md5: bytes) -> None:
        """``samples`` will follow, whose PCM has the MD5 digest ``md5``.

        Raises:
            ValueError: a count that FLAC cannot state, or no MD5 digest.
        """
        if not 0 <= samples <= SAMPLES_MAX or len(md5) != len(_NO_AUDIO_MD5):
            raise ValueError(f"no FLAC of {samples} samples with a digest of {len(md5)} bytes")
        self._samples = samples
        self._taken = 0
        self._open = True
        self._promised = _counts(samples) + md5
        self._sink = Sink(_COUNTS_AT, self._promised, _FRAME_SIZES)
        self._file: Any = None
        if samples:
            self._file = soundfile.SoundFile(self._sink, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC")

    def encode(self, pcm: Pcm) -> bytes:
        """Take the next samples, give what is ready of the file (often nothing).

        Raises:
            CodecError: more samples than announced, or the encoder was finished.
            ValueError: an odd number of bytes.
        """
        count = samples_of(len(pcm))
        if not self._open:
            raise CodecError("the encoder is finished")
        if self._taken + count > self._samples:
            raise CodecError(f"more than the announced {self._samples} samples")
        if count:
            self._file.buffer_write(pcm, "int16")
            self._taken += count
        return self._sink.take()

    def finish(self) -> bytes:
        """Give the rest of the file. Whatever was returned before is worthless if this raises.

        Raises:
            CodecError: fewer samples than announced, other samples than the MD5 says, or finished before.
        """
        if not self._open:
            raise CodecError("the encoder is finished")
        self.close()
        if self._taken != self._samples:
            raise CodecError(f"{self._taken} samples instead of the announced {self._samples}")
        if not self._samples:
            return self._empty()
        rest = self._sink.take()
        if not self._sink.confirmed:
            raise CodecError("the samples are not those that the MD5 was made of")
        return rest

    def close(self) -> None:
        """Give the encoder's memory back, finished or not. Idempotent."""
        self._open = False
        if self._file is not None:
            self._file.close()
            self._file = None

    def _empty(self) -> bytes:
        # libsndfile writes nothing at all for no samples; RFC 9639 allows a file of STREAMINFO alone (0x80: the last block).
        if self._promised != _counts(0) + _NO_AUDIO_MD5:
            raise CodecError("the samples are not those that the MD5 was made of")
        streaminfo = struct.pack(">HH6x", _BLOCK_SAMPLES, _BLOCK_SAMPLES) + self._promised
        return _MAGIC + bytes([0x80, 0, 0, len(streaminfo)]) + streaminfo


class FlacReader:
    """Random access to a FLAC file as ``FlacEncoder`` makes it.

    Seeking decodes from the nearest frame on, and each read seeks: read pieces of seconds rather than of frames.

    Attributes:
        samples: how many the file says it has.
        md5: the MD5 digest of its PCM, as it says.
    """

    def __init__(self, file: SeekableBytes) -> None:
        """``file`` is read from its beginning and stays the caller's to close, after ``close()`` here.

        Raises:
            CodecError: it is no FLAC of 16 kHz, 16 bits, mono that says how long it is.
            OSError: ``file`` raised it.
        """
        file.seek(0)
        header = file.read(_HEADER_BYTES)
        counts, self.md5 = header[_COUNTS_AT : _COUNTS_AT + 8], header[_COUNTS_AT + 8 :]
        self.samples = int.from_bytes(counts, "big") & SAMPLES_MAX
        if header[:4] != _MAGIC or len(header) < _HEADER_BYTES or counts != _counts(self.samples):
            raise CodecError("not a FLAC file of 16 kHz, 16 bits, mono")
        if not self.samples and self.md5 != _NO_AUDIO_MD5:
            raise CodecError("a FLAC file that does not say how long it is; encode it again")
        self._source = Source(file)
        self._file: Any = None

    def read(self, start: int, count: int) -> bytes:
        """PCM of the samples ``[start, start + count)``, cut at the end of the file.

        Raises:
            CodecError: the file is damaged or cut short.
            OSError: the file raised it.
            ValueError: ``start`` or ``count`` is negative.
        """
        if start < 0 or count < 0:
            raise ValueError(f"no {count} samples from {start}")
        count = min(count, self.samples - start)
        if count <= 0:
            return b""
        pcm = bytearray(bytes_of(count))
        if self._decode(start, pcm) != count:
            # A decoder that has failed once fails for ever.
            self.close()
            self._source.reraise()
            raise CodecError(f"the FLAC file is damaged between samples {start} and {start + count}")
        return bytes(pcm)

    def close(self) -> None:
        """Give the decoder's memory back; the next ``read`` begins anew. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _decode(self, start: int, pcm: bytearray) -> int:
        try:
            if self._file is None:
                self._source.seek(0)
                self._file = soundfile.SoundFile(self._source)
            self._file.seek(start)
            return int(self._file.buffer_read_into(pcm, "int16"))
        except soundfile.LibsndfileError:
            return 0


def wav_header(samples: int) -> bytes:
    """The 44 bytes that make ``samples`` samples of PCM a WAV file when put before them.

    Raises:
        ValueError: negative, or more than the format's 32-bit sizes can state (37 hours).
    """
    if not 0 <= samples <= _WAV_SAMPLES_MAX:
        raise ValueError(f"no WAV file of {samples} samples")
    size = bytes_of(samples)
    form = (16, 1, 1, SAMPLE_RATE, bytes_of(SAMPLE_RATE), SAMPLE_BYTES, 8 * SAMPLE_BYTES)
    return struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVEfmt ", *form, b"data", size)


def read_audio(path: Path) -> bytes:
    """All of an audio file as PCM, mixed to one voice and resampled where need be.

    16-bit, 16 kHz, mono files come out as they are, bit for bit.

    Raises:
        CodecError: libsndfile does not take it for audio.
        OSError: it cannot be read.
    """
    with path.open("rb") as raw:
        source = Source(raw)
        try:
            with soundfile.SoundFile(source) as file:
                plain = (file.samplerate, file.channels, file.subtype) == (SAMPLE_RATE, 1, "PCM_16")
                pcm = _as_it_is(file) if plain else _converted(file)
        except soundfile.LibsndfileError as error:
            source.reraise()
            raise CodecError(f"{path.name} is no audio that can be read here; {_CONVERT}") from error
        source.reraise()
    return pcm


def _counts(samples: int) -> bytes:
    """Rate (20 bits), channels - 1 (3), bits - 1 (5), samples (36) of STREAMINFO (RFC 9639, 8.2)."""
    bits = 8 * SAMPLE_BYTES - 1
    return (SAMPLE_RATE << 44 | bits << 36 | samples).to_bytes(8, "big")


def _as_it_is(file: Any) -> bytes:
    pcm = io.BytesIO()
    block = bytearray(bytes_of(_READ_FRAMES))
    while got := file.buffer_read_into(block, "int16"):
        pcm.write(memoryview(block)[: bytes_of(got)])
    return pcm.getvalue()


def _converted(file: Any) -> bytes:
    resampler = soxr.ResampleStream(file.samplerate, SAMPLE_RATE, 1, dtype="float32")
    pcm = io.BytesIO()
    while True:
        block: Floats = file.read(_READ_FRAMES, dtype="float32", always_2d=True)
        # One NaN or infinity would spoil all that the resampler gives out after it.
        mono = np.clip(np.nan_to_num(block), -1.0, 1.0).mean(axis=1, dtype=np.float32)
        last = len(block) < _READ_FRAMES
        if file.samplerate != SAMPLE_RATE:
            mono = resampler.resample_chunk(mono, last=last)
        pcm.write(np.clip(np.rint(mono * np.float32(32768)), -32768, 32767).astype("<i2").tobytes())
        if last:
            return pcm.getvalue()
