from __future__ import annotations

import hashlib
import io
import math
import struct
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from audio.codec import SAMPLES_MAX, CodecError, FlacEncoder, FlacReader, read_audio, wav_header
from audio.pcm import SAMPLE_RATE

LENGTHS = [0, 1, 2, 16, 4_095, 4_096, 4_097, 8_192, 50_000]


def md5(pcm: bytes) -> bytes:
    return hashlib.md5(pcm, usedforsecurity=False).digest()


def noise(samples: int) -> bytes:
    return np.random.default_rng(samples).bytes(2 * samples)


def tone(samples: int, rate: int = SAMPLE_RATE, hertz: float = 440.0, peak: int = 8_000) -> list[int]:
    return [round(peak * math.sin(2 * math.pi * hertz * at / rate)) for at in range(samples)]


def packed(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}h", *values)


def flac(pcm: bytes, chunk: int = 3_200) -> bytes:
    encoder = FlacEncoder(len(pcm) // 2, md5(pcm))
    pieces = [encoder.encode(pcm[at : at + chunk]) for at in range(0, len(pcm), chunk)]
    return b"".join([*pieces, encoder.finish()])


def decoded(file: bytes) -> bytes:
    reader = FlacReader(io.BytesIO(file))
    return reader.read(0, reader.samples)


@pytest.mark.parametrize("samples", LENGTHS)
def test_flac_gives_back_the_very_samples(samples: int) -> None:
    pcm = noise(samples)
    reader = FlacReader(io.BytesIO(flac(pcm)))
    assert (reader.samples, reader.md5) == (samples, md5(pcm))
    assert reader.read(0, samples + 10) == pcm


@given(st.integers(0, 10_000), st.lists(st.integers(0, 4_000), max_size=12))
def test_the_same_samples_give_the_same_file_however_they_are_cut(samples: int, cuts: list[int]) -> None:
    pcm = noise(samples)
    encoder = FlacEncoder(samples, md5(pcm))
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(encoder.encode(memoryview(pcm)[at : at + 2 * cut]))
        at += 2 * cut
    pieces += [encoder.encode(bytearray(pcm[at:])), encoder.finish()]
    file = b"".join(pieces)
    assert file == flac(pcm)
    assert decoded(file) == pcm


def test_silence_and_extremes_survive() -> None:
    pcm = bytes(8_000) + packed([-32_768, 32_767] * 3_000)
    assert decoded(flac(pcm)) == pcm


@pytest.mark.needs("flac")
@pytest.mark.parametrize("samples", LENGTHS)
def test_the_reference_decoder_agrees(samples: int, tmp_path: Path) -> None:
    pcm = noise(samples)
    path = tmp_path / "audio.flac"
    path.write_bytes(flac(pcm))
    subprocess.run(["flac", "--test", "--silent", path], check=True)
    raw = ["flac", "-dsc", "--force-raw-format", "--endian=little", "--sign=signed", str(path)]
    assert subprocess.run(raw, check=True, capture_output=True).stdout == pcm


def test_the_header_says_how_much_there_is_before_the_first_frame() -> None:
    pcm = noise(40_000)
    encoder = FlacEncoder(40_000, md5(pcm))
    first = encoder.encode(pcm[:32_000])
    assert first[:4] == b"fLaC"
    assert int.from_bytes(first[18:26], "big") & SAMPLES_MAX == 40_000
    assert first[26:42] == md5(pcm)
    encoder.close()
    encoder.close()


def test_what_was_encoded_is_handed_over_and_not_kept() -> None:
    block = noise(16_000)
    seconds = 60
    encoder = FlacEncoder(16_000 * seconds, md5(block * seconds))
    given = [len(encoder.encode(block)) for _ in range(seconds)]
    rest = len(encoder.finish())
    two_blocks = 2 * 2 * 4_096 + 1_000
    for second in range(1, seconds + 1):
        assert sum(given[:second]) > second * len(block) - two_blocks
    assert rest < two_blocks


@pytest.mark.parametrize("announced", [0, 99, 101])
def test_another_count_than_announced_is_refused(announced: int) -> None:
    pcm = noise(100)
    encoder = FlacEncoder(announced, md5(pcm[: 2 * announced]))
    with pytest.raises(CodecError, match="announced"):  # noqa: PT012 - too many are noticed sooner than too few
        encoder.encode(pcm)
        encoder.finish()


@pytest.mark.parametrize("samples", [0, 1, 5_000])
def test_other_samples_than_announced_are_refused(samples: int) -> None:
    encoder = FlacEncoder(samples, md5(b"other"))
    encoder.encode(noise(samples))
    with pytest.raises(CodecError, match="MD5"):
        encoder.finish()


def test_a_finished_encoder_takes_nothing() -> None:
    encoder = FlacEncoder(0, md5(b""))
    encoder.finish()
    with pytest.raises(CodecError, match="finished"):
        encoder.encode(b"")
    with pytest.raises(CodecError, match="finished"):
        encoder.finish()


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes"):
        FlacEncoder(10, md5(b"")).encode(b"abc")


@pytest.mark.parametrize(
    ("samples", "digest"), [(-1, bytes(16)), (SAMPLES_MAX + 1, bytes(16)), (1, b"short")]
)
def test_an_encoder_wants_a_count_and_a_digest(samples: int, digest: bytes) -> None:
    with pytest.raises(ValueError, match="no FLAC"):
        FlacEncoder(samples, digest)


@given(st.integers(0, 20_000), st.integers(0, 20_000))
def test_any_part_can_be_read(start: int, count: int) -> None:
    pcm = noise(12_288)
    reader = FlacReader(io.BytesIO(flac(pcm)))
    assert reader.read(start, count) == pcm[2 * start : 2 * (start + count)]
    assert reader.read(0, 10) == pcm[:20]


def test_a_closed_reader_begins_anew_and_no_reader_goes_before_the_beginning() -> None:
    reader = FlacReader(io.BytesIO(flac(noise(10))))
    assert reader.read(5, 5) == noise(10)[10:]
    reader.close()
    reader.close()
    assert reader.read(0, 10) == noise(10)
    for start, count in ((-1, 1), (0, -1)):
        with pytest.raises(ValueError, match="samples from"):
            reader.read(start, count)


def foreign(rate: int, channels: int, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((100, channels), "int16"), rate, subtype, format="FLAC")
    return file.getvalue()


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"fLaC",
        b"RIFF" + bytes(100),
        foreign(8_000, 1, "PCM_16"),
        foreign(16_000, 2, "PCM_16"),
        foreign(16_000, 1, "PCM_24"),
    ],
)
def test_what_is_not_our_flac_is_refused(file: bytes) -> None:
    with pytest.raises(CodecError, match="not a FLAC file of 16 kHz"):
        FlacReader(io.BytesIO(file))


def test_flac_of_unknown_length_is_refused() -> None:
    file = bytearray(flac(noise(100)))
    file[22:26] = bytes(4)
    with pytest.raises(CodecError, match="how long"):
        FlacReader(io.BytesIO(file))


@pytest.mark.parametrize("kept", [42, 60, 20_000, 99_000])
def test_a_file_cut_short_is_told(kept: int) -> None:
    reader = FlacReader(io.BytesIO(flac(noise(50_000))[:kept]))
    with pytest.raises(CodecError, match="damaged between samples 0 and 50000"):
        reader.read(0, 50_000)


def test_damage_spoils_no_other_part() -> None:
    file = bytearray(flac(noise(50_000)))
    file[50_000:52_000] = bytes(2_000)
    reader = FlacReader(io.BytesIO(file))
    with pytest.raises(CodecError, match="damaged"):
        reader.read(0, 50_000)
    assert reader.read(0, 8_000) == noise(50_000)[:16_000]
    assert reader.read(40_000, 8_000) == noise(50_000)[80_000:96_000]


class Broken(io.BytesIO):
    broken = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.broken:
            raise OSError("the disk is gone")
        return super().read(size)


def test_what_the_file_raises_reaches_the_reader() -> None:
    file = Broken(flac(noise(50_000)))
    reader = FlacReader(file)
    file.broken = True
    with pytest.raises(OSError, match="the disk is gone"):
        reader.read(30_000, 1_000)
    file.broken = False
    assert reader.read(30_000, 1_000) == noise(50_000)[60_000:62_000]


@pytest.mark.parametrize("samples", [0, 1, 1_000])
def test_a_wav_header_makes_a_wav_file(samples: int) -> None:
    pcm = noise(samples)
    header = wav_header(samples)
    assert len(header) == 44
    with wave.open(io.BytesIO(header + pcm)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        assert file.getnframes() == samples
        assert file.readframes(samples) == pcm


@pytest.mark.parametrize("samples", [-1, 2**31])
def test_a_wav_file_has_its_limits(samples: int) -> None:
    with pytest.raises(ValueError, match="no WAV"):
        wav_header(samples)


@pytest.mark.parametrize("samples", [1, 65_536, 70_000])
def test_audio_in_our_format_is_read_bit_for_bit(samples: int, tmp_path: Path) -> None:
    pcm = noise(samples)
    wav = wav_header(samples) + pcm
    for name, content in (("a.wav", wav), ("wav.raw", wav), ("a.flac", flac(pcm))):
        (tmp_path / name).write_bytes(content)
        assert read_audio(tmp_path / name) == pcm


def test_voices_are_mixed(tmp_path: Path) -> None:
    left, right = tone(70_000), tone(70_000, hertz=700.0)
    soundfile.write(tmp_path / "a.wav", np.array([left, right], "int16").T, SAMPLE_RATE)
    mixed = np.frombuffer(read_audio(tmp_path / "a.wav"), "<i2")
    expected = (np.array(left) + np.array(right)) / 2
    assert np.abs(mixed - expected).max() <= 0.5


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_other_rates_are_resampled(rate: int, subtype: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array(tone(2 * rate, rate)) / 32_768, rate, subtype)
    heard = np.frombuffer(read_audio(tmp_path / "a.wav"), "<i2")
    assert abs(len(heard) - 2 * SAMPLE_RATE) <= 1
    within = slice(2_000, 30_000)
    assert np.abs(heard[within] - np.array(tone(2 * SAMPLE_RATE))[within]).max() < 40


def test_what_is_too_loud_or_no_number_is_limited(tmp_path: Path) -> None:
    values = np.array([2.0, -2.0, math.nan, math.inf, -math.inf, 0.5], "float32")
    soundfile.write(tmp_path / "a.wav", values, SAMPLE_RATE, "FLOAT")
    assert read_audio(tmp_path / "a.wav") == packed([32_767, -32_768, 0, 32_767, -32_768, 16_384])


@pytest.mark.parametrize("content", [b"", b"no audio at all", bytes(5_000)])
def test_what_is_no_audio_is_told_with_what_to_do(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(CodecError, match=r"a\.wav is no audio .* ffmpeg -i"):
        read_audio(tmp_path / "a.wav")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    file = flac(noise(70_000))
    (tmp_path / "a.flac").write_bytes(file[: len(file) // 2])
    with pytest.raises(CodecError, match="ffmpeg -i"):
        read_audio(tmp_path / "a.flac")


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_audio(tmp_path / "a.wav")
