"""The command line, each command as a process of its own: what it prints, where, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import jwt
import pytest
import pytest_asyncio
import soundfile

from app.protocol.rest import CreateSession
from tests.support.raw_socket import speaking
from tests.support.server import ROOT, ServerProcess, clean_environment

pytestmark = [pytest.mark.timeout(90), pytest.mark.asyncio(loop_scope="module")]

NOBODY = "demo/01932c07-209c-7c8f-b09a-2b4c5d6e7f80"
SECRET = "hunter2-swordfish"
WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    out: str
    err: str

    def failed(self, status: int, *told: str) -> None:
        """It ended with ``status``, printed nothing, and told why in a few plain lines that say each of ``told``."""
        assert (self.status, self.out) == (status, ""), self
        assert "Traceback" not in self.err, self.err
        assert 1 <= len(self.err.strip().splitlines()) <= 8, self.err
        for words in told:
            assert words in self.err, self.err


async def _begin(*arguments: str, settings: dict[str, str]) -> Process:
    named = {f"KIKITORI_{name}": value for name, value in settings.items()}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", *arguments,
        cwd=ROOT, env=clean_environment(named), stdout=PIPE, stderr=PIPE, start_new_session=True,
    )  # fmt: skip


async def _ended(process: Process) -> Ran:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


async def _run(*arguments: str, **settings: str) -> Ran:
    return await _ended(await _begin(*arguments, settings=settings))


async def _run_all(*commands: tuple[str, ...], **settings: str) -> list[Ran]:
    """The same as ``_run`` of one after the other, in less time."""
    return await asyncio.gather(*(_run(*command, **settings) for command in commands))


async def _on(server: ServerProcess, *arguments: str, **settings: str) -> Ran:
    """A command with the data folder of ``server``."""
    return await _run(*arguments, DATA_DIR=str(server.data_dir), **settings)


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


@pytest.fixture(scope="module")
def excerpt(tmp_path_factory: pytest.TempPathFactory, sample_wav: Path) -> Path:
    """The sample's first 4 s."""
    samples, rate = soundfile.read(sample_wav, dtype="int16", frames=4 * 16_000)
    path = tmp_path_factory.mktemp("excerpt") / "visit.wav"
    soundfile.write(path, samples, rate)
    return path


# The command line as such --------------------------------------------------------------------------------------------


async def test_it_says_what_there_is() -> None:
    helped, nothing = await _run_all(("--help",), ())
    assert helped.status == 0
    for command in ("serve", "token", "stream", "verify", "check-config", "doctor"):
        assert command in helped.out
    nothing.failed(2, "COMMAND")


# token ---------------------------------------------------------------------------------------------------------------


async def test_a_token_is_printed_alone_and_says_what_was_asked_for(tmp_path: Path) -> None:
    plain, asked = await _run_all(
        ("token", "--clinic", "north"),
        ("token", "--clinic", "n0-rth", "--sub", "Dr. A", "--scope", "sessions:read",
         "--scope", "ops sessions:write", "--expires", "30m"),
        DATA_DIR=str(tmp_path),
    )  # fmt: skip
    assert (plain.status, plain.err, asked.status, asked.err) == (0, "", 0, "")
    assert plain.out.count("\n") == 1
    claims = jwt.decode(plain.out.strip(), options={"verify_signature": False})
    assert claims["clinic_id"] == "north"
    assert set(claims["scope"].split()) == {
        "sessions:write", "sessions:read", "sessions:delete", "sessions:takeover", "clinic:admin",
    }  # fmt: skip
    assert claims["exp"] - time.time() == pytest.approx(3600, abs=60)
    claims = jwt.decode(asked.out.strip(), options={"verify_signature": False})
    assert (claims["clinic_id"], claims["sub"]) == ("n0-rth", "Dr. A")
    assert set(claims["scope"].split()) == {"sessions:read", "sessions:write", "ops"}
    assert claims["exp"] - time.time() == pytest.approx(1800, abs=60)


async def test_a_token_s_clinic_is_registered_on_the_spot(recorder: ServerProcess) -> None:
    ran = await _on(recorder, "token", "--clinic", "brand-new")
    headers = {"Authorization": f"Bearer {ran.out.strip()}"}
    async with httpx.AsyncClient(base_url=recorder.url, headers=headers, trust_env=False) as http:
        assert (await http.get("/v1/config")).json()["clinicId"] == "brand-new"


async def test_a_token_that_cannot_be_is_refused(tmp_path: Path) -> None:
    clinic = ("token", "--clinic", "demo")
    for ran, option in zip(
        await _run_all(
            ("token", "--clinic", "../demo"),
            (*clinic, "--expires", "31d"),
            (*clinic, "--scope", "everything"),
            DATA_DIR=str(tmp_path / "data"),
        ),
        ["--clinic", "--expires", "--scope"],
        strict=True,
    ):
        ran.failed(2, option)
    assert not (tmp_path / "data").exists()


# check-config, and settings in general -------------------------------------------------------------------------------


async def test_settings_are_shown_with_their_origin_and_without_secrets(tmp_path: Path) -> None:
    key = base64.b64encode(SECRET.encode().ljust(32, b"!")).decode()
    ran = await _run(
        "check-config",
        DATA_DIR=str(tmp_path),
        PORT="8123",
        MASTER_KEY=key,
        REDIS_URL=f"rediss://me:{SECRET}@redis.example:6380/2",
        MAX_SESSIONS="",
    )
    assert (ran.status, ran.err) == (0, "")
    shown = {line.split()[0]: line for line in ran.out.splitlines()}
    assert shown["KIKITORI_PORT"].split()[1:] == ["8123", "(environment)"]
    assert shown["KIKITORI_PUBLIC_URL"].split()[1:] == ["http://127.0.0.1:8123", "(default)"]
    assert shown["KIKITORI_MAX_SESSIONS"].split()[1:] == ["500", "(default)"]
    assert shown["KIKITORI_ENGINE"].split()[1:] == ["pocketsphinx", "(default)"]
    assert SECRET not in ran.out
    assert key not in ran.out
    assert "redis.example" in ran.out
    assert _is_empty(tmp_path)


async def test_every_mistake_is_told_at_once_by_every_command_and_no_value(
    tmp_path: Path, excerpt: Path
) -> None:
    wrong = {
        "PROT": "8080",
        "PORT": SECRET,
        "HOST": "0.0.0.0",
        "ENGINE": "azure",
        "MASTER_KEY": SECRET,
        "REDIS_URL": f"redis://:{SECRET}@",
        "SEGMENT_SECONDS": "20",
        "OIDC_ISSUER": f"https://{SECRET}.example",
    }
    commands = (
        ("check-config",),
        ("serve",),
        ("token", "--clinic", "demo"),
        ("verify", NOBODY),
        ("stream", str(excerpt)),
    )
    for ran in await _run_all(*commands, DATA_DIR=str(tmp_path / "data"), **wrong):
        ran.failed(2, "KIKITORI_PROT: there is no such setting; did you mean KIKITORI_PORT?")
        lines = ran.err.splitlines()
        assert sorted(line.partition(":")[0] for line in lines) == sorted(
            f"KIKITORI_{name}" for name in wrong
        )
        assert SECRET not in ran.err
    assert not (tmp_path / "data").exists()


async def test_two_ports_must_differ(tmp_path: Path) -> None:
    ran = await _run("check-config", DATA_DIR=str(tmp_path), PORT="9464")
    ran.failed(2, "KIKITORI_ADMIN_PORT")


async def test_a_data_folder_that_cannot_be_used_is_named(tmp_path: Path, excerpt: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "data")
    settings = {"DATA_DIR": folder, "PORT": "0", "ADMIN_PORT": "0", "ENGINE": "null"}
    commands = (("serve",), ("token", "--clinic", "demo"), ("verify", NOBODY), ("stream", str(excerpt)))
    for ran, status in zip(await _run_all(*commands, **settings), (1, 1, 1, 2), strict=True):
        ran.failed(status, folder)
        assert excerpt.name not in ran.err


# serve ---------------------------------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_is_named_with_its_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for name, ran in zip(
            ("PORT", "ADMIN_PORT"),
            await asyncio.gather(
                _run("serve", DATA_DIR=str(tmp_path), PORT=port, ADMIN_PORT="0", ENGINE="null"),
                _run("serve", DATA_DIR=str(tmp_path), PORT="0", ADMIN_PORT=port, ENGINE="null"),
            ),
            strict=True,
        ):
            ran.failed(1, f"127.0.0.1:{port}", f"KIKITORI_{name}")
    assert _is_empty(tmp_path)


async def test_a_data_folder_has_one_server_with_an_embedded_redis(recorder: ServerProcess) -> None:
    ran = await _on(recorder, "serve", PORT="0", ADMIN_PORT="0", ENGINE="null")
    ran.failed(1, str(recorder.data_dir), "KIKITORI_REDIS_URL", str(recorder.process.pid))


async def test_a_master_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "master.key").write_bytes(bytes(32))
    (tmp_path / "master.key").chmod(0o644)
    ran = await _run("serve", DATA_DIR=str(tmp_path), PORT="0", ADMIN_PORT="0", ENGINE="null")
    ran.failed(1, "chmod 600", str(tmp_path / "master.key"))


async def test_either_signal_ends_a_server_in_order(server_factory: Callable[..., ServerProcess]) -> None:
    servers = [server_factory(name, engine="null") for name in ("first", "second")]
    await asyncio.gather(*(server.start() for server in servers))
    for server, number in zip(servers, (signal.SIGTERM, signal.SIGINT), strict=True):
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            assert (await http.get("/")).status_code == 200
        assert await server.stop(number) == 0
        assert "Traceback" not in server.log()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))


# stream and verify ---------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def streamed(recorder: ServerProcess, sample_wav: Path) -> str:
    """CLINIC/SESSION of the whole sample, streamed as fast as the server took it to where the settings say that it is."""
    port = recorder.url.rpartition(":")[2]
    ran = await _on(recorder, "stream", str(sample_wav), "--fast", "--clinic", "ward-7", PORT=port)
    assert (ran.status, ran.out) == (0, ""), ran.err
    begun, ended = ran.err.splitlines()
    assert ended == "completed: 01:35 of audio, 0 finals, 1 connections"
    _, session_id, _, clinic = begun.split()
    return f"{clinic}/{session_id}"


async def test_a_file_is_streamed_and_its_archive_verified(recorder: ServerProcess, streamed: str) -> None:
    ran = await _on(recorder, "verify", streamed)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"{streamed}: finished\n")
    assert "1532135 samples (95.8 s), 0 finals" in ran.out
    assert "100.00% archived" in ran.out
    assert ran.out.rstrip().endswith("no fault found")


async def test_captions_are_printed_as_lines_and_messages_as_json(
    transcriber: ServerProcess, excerpt: Path
) -> None:
    command = ("stream", str(excerpt), "--url", transcriber.url)
    plain, told = await asyncio.gather(
        _on(transcriber, *command, "--realtime"),
        _on(transcriber, *command, "--fast", "--json", "--frame-bytes", "640"),
    )
    assert (plain.status, told.status) == (0, 0), plain.err + told.err
    assert plain.out.startswith("[00:0")
    assert len(plain.out.split()) >= 5
    messages = [json.loads(line) for line in told.out.splitlines()]
    assert messages[0]["type"] == "ready"
    assert messages[0]["resumeTicket"] == "***"
    assert messages[-1]["type"] == "completed"
    assert messages[-1]["samples"] == 4 * 16_000
    finals = [message for message in messages if message["type"] == "final"]
    assert [final["seq"] for final in finals] == list(range(1, len(finals) + 1))
    session = messages[0]["sessionId"]
    verified = await _on(transcriber, "verify", f"demo/{session}")
    assert (verified.status, f"{len(finals)} finals" in verified.out) == (0, True)


async def test_a_stream_that_is_refused_says_what_to_do(
    recorder: ServerProcess, transcriber: ServerProcess, excerpt: Path
) -> None:
    reader = await recorder.token(scopes=("sessions:read",))
    wrong, weak, tongue, metrics = await asyncio.gather(
        _on(recorder, "stream", str(excerpt), "--url", recorder.url, "--token", SECRET),
        _on(recorder, "stream", str(excerpt), "--url", recorder.url, "--token", reader),
        _on(transcriber, "stream", str(excerpt), "--url", transcriber.url, "--language", "ja-JP"),
        _on(recorder, "stream", str(excerpt), "--url", recorder.admin_url),
    )
    wrong.failed(1, "token_invalid", "python -m app token --clinic")
    weak.failed(1, "insufficient_scope", "sessions:write")
    tongue.failed(1, "language_not_available", "en-US", "/v1/config")
    metrics.failed(1, "404")
    assert SECRET not in wrong.err
    assert reader not in weak.err


async def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path, excerpt: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    gone, no_url = await _run_all(
        ("stream", str(excerpt), "--url", url),
        ("stream", str(excerpt), "--url", "ftp://x"),
        DATA_DIR=str(tmp_path),
    )
    gone.failed(1, f"cannot reach {url}", "python -m app serve")
    no_url.failed(1, "http://")


async def test_a_file_that_is_no_audio_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Good morning.")
    (tmp_path / "cut.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00")
    names = ("nothing.wav", "notes.txt", "cut.wav")
    commands = [("stream", str(tmp_path / name)) for name in names]
    for ran, name in zip(await _run_all(*commands, DATA_DIR=str(tmp_path / "data")), names, strict=True):
        ran.failed(2, name)
    assert not (tmp_path / "data").exists()


async def test_arguments_that_cannot_be_are_refused(excerpt: Path) -> None:
    command = ("stream", str(excerpt))
    for ran, option in zip(
        await _run_all(
            (*command, "--frame-bytes", "3"),
            ("verify", "demo/../north"),
        ),
        ["--frame-bytes", "CLINIC/SESSION"],
        strict=True,
    ):
        ran.failed(2, option)


async def test_ctrl_c_ends_the_session_in_order(recorder: ServerProcess, sample_wav: Path) -> None:
    process = await _streaming(recorder, sample_wav)
    process.send_signal(signal.SIGINT)
    ran = await _ended(process)
    assert ran.status == 0, ran.err
    completed = json.loads(ran.out.splitlines()[-1])
    assert completed["type"] == "completed"
    assert 0 < completed["samples"] < 60 * 16_000
    assert "ending the session" in ran.err


async def test_ctrl_c_twice_leaves_the_session(
    server_factory: Callable[..., ServerProcess], sample_wav: Path
) -> None:
    async with server_factory(engine="null") as server:
        process = await _streaming(server, sample_wav)
        await server.kill()  # So that the first one cannot end it.
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while b"ending the session" not in await process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        ran = await _ended(process)
    assert (ran.status, "Traceback" in ran.err) == (130, False)


async def _streaming(server: ServerProcess, wav: Path) -> Process:
    """A ``stream`` command of which the server has received something."""
    settings = {"DATA_DIR": str(server.data_dir)}
    process = await _begin("stream", str(wav), "--json", "--url", server.url, settings=settings)
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_SECONDS):
        while line := await process.stdout.readline():
            if json.loads(line).get("received"):
                return process
    raise AssertionError((await _ended(process)).err)


async def test_a_session_that_goes_on_is_verified_as_far_as_it_is_durable(recorder: ServerProcess) -> None:
    async with await recorder.rest() as rest:
        created = await rest.create(CreateSession(language="ja-JP"))
        async with speaking(created.stream_url, created.ticket) as socket:
            await socket.speak(bytes(64_000))
            await socket.say("flush")
            await socket.until_durable(32_000)
            ran = await _on(recorder, "verify", f"demo/{created.session_id}")
            await socket.finish()
    assert (ran.status, ran.err) == (0, "")
    assert "not finished" in ran.out
    assert "32000 samples (2.0 s)" in ran.out


async def test_a_session_that_is_not_there_cannot_be_verified(recorder: ServerProcess, streamed: str) -> None:
    for ran in await asyncio.gather(
        _on(recorder, "verify", NOBODY), _on(recorder, "verify", "demo/" + streamed.partition("/")[2])
    ):
        ran.failed(1, "no such session")


async def test_damage_is_found(recorder: ServerProcess, streamed: str, tmp_path: Path) -> None:
    kinds = ("audio", "transcript", "manifest", "gone", "key")
    for kind in kinds:
        _damaged_copy(recorder.data_dir, tmp_path / kind, streamed, kind)
    commands = (_run("verify", streamed, DATA_DIR=str(tmp_path / kind)) for kind in kinds)
    for ran in await asyncio.gather(*commands):
        assert (ran.status, "Traceback" in ran.err) == (1, False), ran.err
        assert "FAULT" in ran.out or ran.err.strip()
        assert "no fault found" not in ran.out


def _damaged_copy(data_dir: Path, copy: Path, session: str, kind: str) -> None:
    shutil.copytree(data_dir, copy, ignore=shutil.ignore_patterns("redis.*"))
    folder = copy / "archive" / session
    if kind == "gone":
        next(folder.glob("audio-*")).unlink()
    elif kind == "key":
        (copy / "master.key").write_bytes(bytes(32))
    else:
        path = next(folder.glob(f"{kind}*"))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
