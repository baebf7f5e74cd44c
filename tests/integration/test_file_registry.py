from __future__ import annotations

import asyncio
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from app.adapters.file_registry import FileRegistry
from tenants.clinic import Clinic, ClinicId
from tenants.registry import RegistryUnavailable

NORTH = ClinicId("north")


async def test_nobody_is_registered_where_there_is_no_file(tmp_path: Path) -> None:
    assert await FileRegistry(tmp_path / "data" / "clinics.json").find(NORTH) is None


async def test_a_clinic_stays_as_it_was_registered(tmp_path: Path) -> None:
    path = tmp_path / "data" / "clinics.json"
    await FileRegistry(path).add(Clinic(NORTH, "North Clinic", ("ja-JP",)))
    await FileRegistry(path).add(Clinic(NORTH, "Another name"))
    assert await FileRegistry(path).find(NORTH) == Clinic(NORTH, "North Clinic", ("ja-JP",))
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_running_server_sees_what_another_process_registers(tmp_path: Path) -> None:
    server, command = FileRegistry(tmp_path / "clinics.json"), FileRegistry(tmp_path / "clinics.json")
    for number in range(20):
        clinic_id = ClinicId(f"clinic-{number}")
        assert await server.find(clinic_id) is None
        await command.add(Clinic(clinic_id))
        assert await server.find(clinic_id) == Clinic(clinic_id)


async def test_a_removed_file_is_an_empty_register(tmp_path: Path) -> None:
    registry = FileRegistry(tmp_path / "clinics.json")
    await registry.add(Clinic(NORTH))
    (tmp_path / "clinics.json").unlink()
    assert await registry.find(NORTH) is None


def names_in(folder: Path) -> list[str]:
    return sorted(found.name for found in folder.iterdir())


def add_five(path: Path, first: int) -> None:
    async def add() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(first, first + 5):
                group.create_task(FileRegistry(path).add(Clinic(ClinicId(f"c{number}"))))

    asyncio.run(add())


async def test_nothing_is_lost_when_many_register_at_once(tmp_path: Path) -> None:
    path = tmp_path / "clinics.json"

    def run() -> None:
        with ProcessPoolExecutor(3, get_context("spawn")) as pool:
            list(pool.map(add_five, [path] * 6, range(0, 30, 5)))

    await asyncio.to_thread(run)
    registry = FileRegistry(path)
    assert all([await registry.find(ClinicId(f"c{number}")) for number in range(30)])
    assert names_in(tmp_path) == ["clinics.json", "clinics.json.lock"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"clinics":3}',
        b'{"clinics":[{"clinicId":"../x"}]}',
        b'{"clinics":[{"name":"x"}]}',
        b"\xff",
    ],
)
async def test_a_corrupt_file_is_told_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clinics.json"
    path.write_bytes(content)
    registry = FileRegistry(path)
    for call in (registry.find(NORTH), registry.add(Clinic(NORTH))):
        with pytest.raises(RegistryUnavailable, match=r"clinics\.json"):
            await call
    assert path.read_bytes() == content


async def test_a_repaired_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "clinics.json"
    path.write_bytes(b"{")
    registry = FileRegistry(path)
    with pytest.raises(RegistryUnavailable):
        await registry.find(NORTH)
    path.write_bytes(b'{"clinics":[{"clinicId":"north"}]}')
    assert await registry.find(NORTH) == Clinic(NORTH)


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryUnavailable):
        await FileRegistry(tmp_path / "file" / "clinics.json").add(Clinic(NORTH))
