from __future__ import annotations

import argparse
import io
import wave
from pathlib import Path

import pytest

from app.commands import stream
from app.commands.stream import Printer
from app.protocol.messages import Ack, FinalMessage, Notice, PartialMessage, ServerMessage

CLEAR = "\r\x1b[K"


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    stream.add_arguments(parser.add_subparsers())
    return parser.parse_args(["stream", *words])


def printed(*events: ServerMessage, columns: int | None = None) -> tuple[str, str]:
    out, notes = io.StringIO(), io.StringIO()
    printer = Printer(out, notes, columns=columns)
    for event in events:
        printer.show(event)
    return out.getvalue(), notes.getvalue()


def final(seq: int, start: int, text: str) -> FinalMessage:
    return FinalMessage(seq, f"r{seq}", start, start + 16_000, text, (), "en-US")


def test_finals_are_printed_on_lines_of_their_own_with_their_time() -> None:
    events = (final(1, 0, "good morning"), Ack(1, 1, 1), final(2, 61 * 16_000, "where does it hurt"))
    assert printed(*events) == ("[00:00] good morning\n[01:01] where does it hurt\n", "")


def test_partials_are_rewritten_in_place_on_a_terminal_and_left_out_elsewhere() -> None:
    events = (
        PartialMessage("r1", 0, 1, "good"),
        PartialMessage("r1", 0, 2, "good day"),
        final(1, 0, "good day"),
    )
    assert printed(*events, columns=80)[0] == f"{CLEAR}good{CLEAR}good day{CLEAR}[00:00] good day\n"
    assert printed(*events)[0] == "[00:00] good day\n"


def test_a_partial_longer_than_the_line_shows_its_end() -> None:
    assert printed(PartialMessage("r1", 0, 1, "0123456789"), columns=6)[0] == f"{CLEAR}56789"
    assert printed(PartialMessage("r1", 0, 1, "おはよう"), columns=6)[0] == f"{CLEAR}よう"


def test_notices_go_elsewhere_and_do_not_run_into_the_partial() -> None:
    out, notes = printed(
        PartialMessage("r1", 0, 1, "good"), Notice("engine_waiting", "the engine is busy"), columns=80
    )
    assert out == f"{CLEAR}good{CLEAR}"
    assert notes == "engine_waiting: the engine is busy\n"


def test_finals_that_were_withdrawn_are_printed_anew() -> None:
    out, _ = printed(
        final(1, 0, "a"), final(2, 0, "b"), Notice("finals_rewound", "", seq=1), final(2, 0, "c")
    )
    assert out == "[00:00] a\n[00:00] b\n[00:00] c\n"


def test_what_was_heard_cannot_steer_the_terminal() -> None:
    assert printed(final(1, 0, "a\x1b[2Jb\rc"))[0] == "[00:00] a [2Jb c\n"


@pytest.mark.parametrize(
    "words",
    [["--frame-bytes", "3"], ["--frame-bytes", "65538"], ["--clinic", "No"], ["--fast", "--realtime"]],
)
def test_wrong_arguments_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("a.wav", *words)
    assert words[0] in capsys.readouterr().err


def test_a_file_that_is_not_there_or_no_audio_is_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.wav").write_text("this is no sound")
    assert stream.run(parsed(str(tmp_path / "none.wav"))) == 2
    assert "none.wav: No such file" in capsys.readouterr().err
    assert stream.run(parsed(str(tmp_path / "text.wav"))) == 2
    assert "text.wav is no audio" in capsys.readouterr().err


def test_a_url_that_is_none_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(3_200))
    assert stream.run(parsed(str(tmp_path / "a.wav"), "--url", "localhost:8080", "--token", "secret")) == 1
    said = capsys.readouterr().err
    assert "http://" in said
    assert "secret" not in said
