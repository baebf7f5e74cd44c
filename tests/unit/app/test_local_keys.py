"""Keys from one master key: bound to their owners, refused when the file cannot be trusted."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from app.adapters.local_keys import LocalKeys, MasterKeyRefused
from tenants.keys import KeyRejected, KeyWrapper, Sealer, Unsealable

MASTER = bytes(range(32))
CONTEXT = {"clinicId": "c", "sessionId": "s"}


@pytest.fixture
def keys() -> LocalKeys:
    return LocalKeys(MASTER)


def test_it_is_what_the_ports_ask_for(keys: LocalKeys) -> None:
    ports: tuple[KeyWrapper, Sealer] = (keys, keys)  # The type checker does the work.
    assert ports == (keys, keys)


async def test_a_wrapped_key_opens_again_whatever_the_order_of_its_context(keys: LocalKeys) -> None:
    key = await keys.new_data_key("c", CONTEXT)
    assert len(key.plaintext) == 32
    assert key.plaintext not in key.wrapped
    assert await keys.unwrap("c", key.wrapped, {"sessionId": "s", "clinicId": "c"}) == key.plaintext
    assert await LocalKeys(MASTER).unwrap("c", key.wrapped, CONTEXT) == key.plaintext


async def test_each_data_key_is_new_and_shows_itself_to_nobody(keys: LocalKeys) -> None:
    first, second = await keys.new_data_key("c", CONTEXT), await keys.new_data_key("c", CONTEXT)
    assert first.plaintext != second.plaintext
    assert first.wrapped != second.wrapped
    assert repr(first.plaintext) not in repr(first)


@pytest.mark.parametrize(
    ("clinic", "context"),
    [("d", CONTEXT), ("c", {"clinicId": "c", "sessionId": "t"}), ("c", {}), ("c", CONTEXT | {"more": "x"})],
)
async def test_another_clinic_or_context_is_rejected(
    keys: LocalKeys, clinic: str, context: dict[str, str]
) -> None:
    key = await keys.new_data_key("c", CONTEXT)
    with pytest.raises(KeyRejected):
        await keys.unwrap(clinic, key.wrapped, context)


async def test_a_damaged_wrapped_key_or_another_master_key_is_rejected(keys: LocalKeys) -> None:
    key = await keys.new_data_key("c", CONTEXT)
    damaged = [key.wrapped[:n] for n in range(len(key.wrapped))]
    damaged += [
        key.wrapped[:n] + bytes([key.wrapped[n] ^ 1]) + key.wrapped[n + 1 :] for n in range(len(key.wrapped))
    ]
    for wrapped in damaged:
        with pytest.raises(KeyRejected):
            await keys.unwrap("c", wrapped, CONTEXT)
    with pytest.raises(KeyRejected):
        await LocalKeys(bytes(32)).unwrap("c", key.wrapped, CONTEXT)


def test_what_is_sealed_opens_for_the_same_clinic_session_and_purpose_alone(keys: LocalKeys) -> None:
    sealed = keys.seal("c", "s", "final", b"said in confidence")
    assert b"confidence" not in sealed
    assert keys.seal("c", "s", "final", b"said in confidence") != sealed
    assert keys.unseal("c", "s", "final", sealed) == b"said in confidence"
    for clinic, session, purpose in (
        ("d", "s", "final"),
        ("c", "t", "final"),
        ("c", "s", "partial"),
        ("cs", "", "final"),
    ):
        with pytest.raises(Unsealable) as caught:
            keys.unseal(clinic, session, purpose, sealed)
        assert "confidence" not in str(caught.value)
    for damaged in (b"", sealed[:-1], sealed[:5], b"\x02" + sealed[1:], sealed + b"x"):
        with pytest.raises(Unsealable):
            keys.unseal("c", "s", "final", damaged)


def test_derived_secrets_are_stable_and_differ_by_purpose(keys: LocalKeys) -> None:
    assert keys.derive("tickets") == LocalKeys(MASTER).derive("tickets")
    assert (
        len({keys.derive("tickets"), keys.derive("cursors"), LocalKeys(bytes(32)).derive("tickets"), MASTER})
        == 4
    )
    # Pinned: were it to change, what was written under it before could not be read any more.
    assert keys.derive("tickets").hex() == PINNED


PINNED = "2d33d6e296a080f7af00091c35cc4b3f4198783961d9d7959e6985e321ee87bb"


def test_a_master_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        LocalKeys(bytes(31))


def test_the_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    first = LocalKeys.in_folder(folder)
    assert [entry.name for entry in folder.iterdir()] == ["master.key"]
    assert (folder / "master.key").stat().st_mode & 0o7777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert LocalKeys.in_folder(folder).derive("p") == first.derive("p")
    assert LocalKeys((folder / "master.key").read_bytes()).derive("p") == first.derive("p")


def derive_in(folder: Path, start: object, results: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    results.put(LocalKeys.in_folder(folder).derive("p"))  # type: ignore[attr-defined]


def test_processes_that_race_end_with_the_same_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        start, results = context.Barrier(4), context.SimpleQueue()
        racers = [
            context.Process(target=derive_in, args=(tmp_path / str(attempt), start, results))
            for _ in range(4)
        ]
        for racer in racers:
            racer.start()
        assert len({results.get() for _ in racers}) == 1
        for racer in racers:
            racer.join()


def test_a_maker_that_lost_the_race_takes_the_winners_key(tmp_path: Path) -> None:
    winner = tmp_path / "master.key"

    def slow(size: int) -> bytes:
        if size == 32:
            winner.write_bytes(MASTER)
            winner.chmod(0o600)
        return os.urandom(size)

    assert LocalKeys.in_folder(tmp_path, slow).derive("p") == LocalKeys(MASTER).derive("p")
    assert [entry.name for entry in tmp_path.iterdir()] == ["master.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_touch_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(MASTER)
    path.chmod(mode)
    with pytest.raises(MasterKeyRefused, match=f"mode {mode:04o}.*chmod 600 {path}"):
        LocalKeys.in_folder(tmp_path)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_file_of_the_wrong_size_is_refused_with_what_to_do(tmp_path: Path, size: int) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    with pytest.raises(MasterKeyRefused, match="restore it from a backup"):
        LocalKeys.in_folder(tmp_path)


def test_a_link_or_a_folder_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(MASTER)
    real.chmod(0o600)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "master.key").symlink_to(real)
    (tmp_path / "b" / "master.key").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    os.mkfifo(tmp_path / "c" / "master.key")
    for folder in ("a", "b", "c"):
        with pytest.raises(MasterKeyRefused, match="plain file"):
            LocalKeys.in_folder(tmp_path / folder)
