"""``python -m app stream FILE``: speaks an audio file into a server and prints the captions as they come."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import time
import unicodedata
from pathlib import Path
from random import SystemRandom
from typing import Final, TextIO

import msgspec

from app.auth.principal import Scope
from app.bootstrap.folder import clinic_registry, development_issuer
from app.client.captions import Captions
from app.client.errors import ClientError, Refused, Unreachable
from app.client.outbox import chunks
from app.client.rest import RestClient
from app.client.session import SpeakerClient, StreamOptions
from app.commands import Subparsers
from app.config import ConfigError, Settings, from_environment
from app.protocol.messages import (
    Completed,
    Draining,
    ErrorMessage,
    FinalMessage,
    Notice,
    PartialMessage,
    Ready,
    ServerMessage,
    encode,
)
from app.protocol.rest import CreateSession
from audio.codec import CodecError, read_audio
from audio.pcm import FRAME_BYTES_MAX, FRAME_BYTES_MIN, SAMPLE_BYTES, SAMPLE_RATE
from tenants.clinic import Clinic, ClinicId, parse_clinic_id
from tenants.registry import RegistryUnavailable

TOKEN_SECONDS: Final = 12 * 3600
INTERRUPTED: Final = 130
_HINTS: Final = {
    401: "the token is not accepted; get one with: python -m app token --clinic ID",
    403: "the token does not allow this; it needs the scope sessions:write",
    422: "GET /v1/config of the server lists the languages it has",
}


def add_arguments(subparsers: Subparsers) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "stream",
        help="stream an audio file and print its captions",
        description="Streams an audio file into a new session and prints the captions as they come. "
        "Ctrl-C ends the session in order, a second one leaves it to be resumed or finished by the server.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="WAV, FLAC or another file libsndfile reads")
    parser.add_argument("--url", help="the server; default: where one with these settings serves")
    parser.add_argument("--language", default="en-US", metavar="TAG", help="default: %(default)s")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--realtime", action="store_true", help="as fast as it was spoken (the default)")
    speed.add_argument("--fast", action="store_true", help="as fast as the server takes it")
    parser.add_argument("--token", help="a bearer token; default: one of the development issuer here")
    parser.add_argument("--clinic", default="demo", type=_clinic, metavar="ID", help="default: %(default)s")
    parser.add_argument("--frame-bytes", default=3_200, type=_frame_bytes, metavar="N", help="default: 3200")
    parser.add_argument("--json", action="store_true", help="print every message as a line of JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Stream the file. Returns 0 when all of it was received and the session is completed.

    1: the server refused, ended or lost the session; 2: the file, the settings or the arguments are wrong; 130: left.
    """
    try:
        pcm = read_audio(args.file)
        url, token = args.url, args.token
        if url is None or token is None:
            settings = from_environment()
            url, token = url or settings.public_url, token or _own_token(settings, args.clinic)
        return asyncio.run(_stream(args, pcm, url, token))
    except (ConfigError, CodecError, RegistryUnavailable) as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{error.filename or args.file}: {error.strerror or type(error).__name__}", file=sys.stderr)
    except ClientError as error:
        print(_explained(error), file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        return INTERRUPTED
    return 2


class Printer:
    """Writes captions to a terminal or a file, everything else that a person should know to ``notes``.

    Partials, which change, are shown on a terminal only: on its last line, in place.
    """

    def __init__(self, out: TextIO, notes: TextIO, *, columns: int | None) -> None:
        """``columns`` is the terminal's width, None where ``out`` is no terminal."""
        self._out = out
        self._notes = notes
        self._columns = columns
        self._captions = Captions()

    def show(self, event: ServerMessage) -> None:
        """Print what there is to see of an event."""
        match event:
            case PartialMessage():
                self._captions.partial(event)
                self._line("")
            case FinalMessage():
                self._captions.final(event)
                self._line(f"[{_clock(event.start)}] {_plain(event.text)}\n")
            case Notice(code=code, message=message, seq=seq):
                if code == "finals_rewound" and seq is not None:
                    self._captions.rewind(seq)
                self._note(f"{code}: {message}")
            case ErrorMessage(code=code, message=message):
                self._note(f"{code}: {message}")
            case Draining():
                self._note("the server restarts; the session goes on")
            case _:
                pass

    def _note(self, text: str) -> None:
        self._line("", partials=False)
        print(_plain(text), file=self._notes, flush=True)

    def _line(self, text: str, *, partials: bool = True) -> None:
        if self._columns is None:
            self._out.write(text)
        else:
            shown = " ".join(_plain(partial.text) for partial in self._captions.partials) if partials else ""
            self._out.write(f"\r\x1b[K{text}{_tail(shown, self._columns - 1)}")
        self._out.flush()


async def _stream(args: argparse.Namespace, pcm: bytes, url: str, token: str) -> int:
    show = _json_line if args.json else _printer().show
    options = StreamOptions(frame_bytes=args.frame_bytes, realtime=not args.fast)
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    assert this is not None
    loop.add_signal_handler(signal.SIGINT, this.cancel)
    async with RestClient(url, token) as rest:
        created = await rest.create(CreateSession(language=args.language, title=args.file.stem[:200]))
        print(f"session {created.session_id} of {created.clinic_id}", file=sys.stderr)
        client = SpeakerClient(rest, created, chunks(pcm), options, show, random=SystemRandom())

        def interrupted() -> None:
            print("\nending the session; Ctrl-C again leaves it", file=sys.stderr)
            client.stop()
            loop.add_signal_handler(signal.SIGINT, this.cancel)

        loop.add_signal_handler(signal.SIGINT, interrupted)
        completed = await client.run()
    return _summary(completed, client)


def _summary(completed: Completed, client: SpeakerClient) -> int:
    sent, sha256 = client.outbox.sent_once, client.outbox.sha256()
    counts = (
        f"completed: {_clock(completed.samples)} of audio, {completed.finals} finals, "
        f"{client.sent.connections} connections"
    )
    print(counts, file=sys.stderr)
    if completed.samples != sent or completed.audio_sha256 not in {None, sha256}:
        print(f"the server has not what was sent ({completed.samples} of {sent} samples)", file=sys.stderr)
        return 1
    return 0


def _own_token(settings: Settings, clinic_id: ClinicId) -> str:
    """A token of the development issuer of this data folder; the clinic is registered if it is not."""
    issuer = development_issuer(settings)
    asyncio.run(clinic_registry(settings).add(Clinic(clinic_id)))
    scopes = (Scope.WRITE, Scope.READ)
    return issuer.mint("developer", clinic_id, scopes, now=time.time(), lifetime_seconds=TOKEN_SECONDS)


def _printer() -> Printer:
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return Printer(sys.stdout, sys.stderr, columns=columns)


def _json_line(event: ServerMessage) -> None:
    if isinstance(event, Ready):
        event = msgspec.structs.replace(event, resume_ticket="***")
    print(encode(event), flush=True)


def _explained(error: ClientError) -> str:
    match error:
        case Unreachable():
            return f"{error}; is the server running? Start one with: python -m app serve"
        case Refused(status=status) if status in _HINTS:
            return f"{error}; {_HINTS[status]}"
        case _:
            return str(error)


def _clock(samples: int) -> str:
    minutes, seconds = divmod(samples // SAMPLE_RATE, 60)
    return f"{minutes:02}:{seconds:02}"


def _plain(text: str) -> str:
    """Text that cannot move a terminal's cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


def _tail(text: str, columns: int) -> str:
    """The end of ``text`` that fits into so many columns, of which wide characters take two (UAX #11)."""
    for place in range(len(text) - 1, -1, -1):
        columns -= 2 if unicodedata.east_asian_width(text[place]) in "WF" else 1
        if columns < 0:
            return text[place + 1 :]
    return text


def _clinic(text: str) -> ClinicId:
    clinic_id = parse_clinic_id(text)
    if clinic_id is None:
        raise argparse.ArgumentTypeError("1 to 63 characters of a-z, 0-9 and -, not beginning with -")
    return clinic_id


def _frame_bytes(text: str) -> int:
    size = int(text) if text.isascii() and text.isdigit() else 0
    if not FRAME_BYTES_MIN <= size <= FRAME_BYTES_MAX or size % SAMPLE_BYTES:
        raise argparse.ArgumentTypeError(f"an even number from {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX}")
    return size
