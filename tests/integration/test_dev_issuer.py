from __future__ import annotations

import argparse
import asyncio
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import jwt
import pytest

from app.adapters.dev_issuer import AUDIENCE, FILE_NAME, ISSUER, DevIssuer
from app.adapters.file_registry import FileRegistry
from app.auth.principal import AuthError, Scope
from app.auth.tokens import JwtVerifier
from app.commands import check_config
from app.config import ConfigError
from tenants.clinic import Clinic, ClinicId

NORTH = ClinicId("north")


def mint(issuer: DevIssuer, lifetime: int = 60) -> str:
    return issuer.mint("dr.a", NORTH, [Scope.READ, Scope.OPS], now=time.time(), lifetime_seconds=lifetime)


async def verifier(issuer: DevIssuer, folder: Path) -> JwtVerifier:
    registry = FileRegistry(folder / "clinics.json")
    await registry.add(Clinic(NORTH))
    return JwtVerifier(issuer, ISSUER, AUDIENCE, registry, time.time)


async def test_a_minted_token_is_accepted_by_another_process_on_the_same_folder(tmp_path: Path) -> None:
    token = mint(DevIssuer.open(tmp_path))
    principal = await (await verifier(DevIssuer.open(tmp_path), tmp_path)).verify(token)
    assert (principal.subject, principal.clinic_id) == ("dr.a", "north")
    assert principal.scopes == {Scope.READ, Scope.OPS}


async def test_a_token_of_another_folder_is_not(tmp_path: Path) -> None:
    token = mint(DevIssuer.open(tmp_path / "other"))
    with pytest.raises(AuthError) as caught:
        await (await verifier(DevIssuer.open(tmp_path), tmp_path)).verify(token)
    assert caught.value.code == "token_invalid"


async def test_a_token_ends(tmp_path: Path) -> None:
    issuer = DevIssuer.open(tmp_path)
    with pytest.raises(AuthError) as caught:
        await (await verifier(issuer, tmp_path)).verify(mint(issuer, lifetime=-6))
    assert caught.value.code == "token_expired"


def test_the_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    old = os.umask(0)
    try:
        DevIssuer.open(folder)
    finally:
        os.umask(old)
    assert (folder / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]


def key_id_of(folder: Path) -> str:
    return str(jwt.get_unverified_header(mint(DevIssuer.open(folder)))["kid"])


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, get_context("spawn")) as pool:
        assert len(set(pool.map(key_id_of, [tmp_path / "data"] * 12))) == 1


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_that_is_no_key_is_told_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE_NAME
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="no Ed25519 private key"):
        DevIssuer.open(tmp_path)
    assert path.read_bytes() == content


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    DevIssuer.open(tmp_path)
    (tmp_path / FILE_NAME).chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        DevIssuer.open(tmp_path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="development issuer"):
        DevIssuer.open(tmp_path / "file" / "data")


async def test_only_the_named_key_is_given(tmp_path: Path) -> None:
    issuer = DevIssuer.open(tmp_path)
    assert await issuer.key(None) is None
    assert await issuer.key("other") is None
    assert await issuer.key(await asyncio.to_thread(key_id_of, tmp_path)) is not None


def test_check_config_tells_values_and_where_they_are_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KIKITORI_PORT", "8081")
    monkeypatch.setenv("KIKITORI_MASTER_KEY", "A" * 43 + "=")
    assert check_config.run(argparse.Namespace()) == 0
    output = capsys.readouterr().out
    lines = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert lines["KIKITORI_PORT"] == "8081  (environment)"
    assert lines["KIKITORI_MASTER_KEY"] == "***  (environment)"
    assert lines["KIKITORI_ENGINE"] == "pocketsphinx  (default)"
    monkeypatch.setenv("KIKITORI_PORT", "x")
    monkeypatch.setenv("KIKITORI_ENGIN", "x")
    assert check_config.run(argparse.Namespace()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "KIKITORI_PORT" in captured.err
    assert "did you mean KIKITORI_ENGINE?" in captured.err
