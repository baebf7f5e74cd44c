"""The checker of the ward sees each kind of damage, and sees none where there is none."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import soundfile
import uvloop
from redis import Redis

from tests.chaos.ward.checker import Checker
from tests.chaos.ward.crowd import Crowd
from tests.chaos.ward.rounds import verdict, voice
from tests.chaos.ward.rules import coverage_faults, untidy
from tests.chaos.ward.speaker import Speaker
from tests.chaos.ward.ward import Ward, opened
from tests.support.s3_archive import plain_client

LOST = slice(16_000, 32_000)
"""A second, in samples."""

Folder = dict[str, bytes]
"""The objects of a session, by name."""

Damage = Callable[[Folder], None]


def manifest_of(folder: Folder) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(folder["manifest.json"])
    return manifest


def with_manifest(change: Callable[[dict[str, Any]], None]) -> Damage:
    """Damage the manifest alone."""

    def damage(folder: Folder) -> None:
        manifest = manifest_of(folder)
        change(manifest)
        folder["manifest.json"] = json.dumps(manifest).encode()

    return damage


def rewritten(folder: Folder, what: str, data: bytes) -> None:
    """Put ``data`` in place of the audio or the transcript, and name it in the manifest as a server would."""
    named = manifest_of(folder)[what]["name"]
    folder[named] = data
    stored = {"name": named, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    with_manifest(lambda manifest: manifest.update({what: stored}))(folder)


def audio_cut(folder: Folder) -> None:
    """Its last byte is gone."""
    name = manifest_of(folder)["audio"]["name"]
    folder[name] = folder[name][:-1]


def audio_flipped(folder: Folder) -> None:
    """One bit in the middle of it is another."""
    name = manifest_of(folder)["audio"]["name"]
    data = bytearray(folder[name])
    data[len(data) // 2] ^= 1
    folder[name] = bytes(data)


def with_sound(change: Callable[[Any], Any]) -> Damage:
    """Other samples, in a file that is whole."""

    def damage(folder: Folder) -> None:
        sound, rate = soundfile.read(io.BytesIO(folder[manifest_of(folder)["audio"]["name"]]), dtype="int16")
        file = io.BytesIO()
        soundfile.write(file, change(sound), rate, format="FLAC", subtype="PCM_16")
        rewritten(folder, "audio", file.getvalue())

    return damage


def lost(sound: Any) -> Any:
    return [*sound[: LOST.start], *sound[LOST.stop :]]


def silent(sound: Any) -> Any:
    sound[LOST] = 0
    return sound


def with_finals(change: Callable[[list[dict[str, Any]]], None]) -> Damage:
    """Other finals, in a transcript and a manifest that agree."""

    def damage(folder: Folder) -> None:
        record = json.loads(folder[manifest_of(folder)["transcript"]["name"]])
        change(record["finals"])
        rewritten(folder, "transcript", json.dumps(record).encode())
        with_manifest(lambda manifest: manifest.update(finals=len(record["finals"])))(folder)

    return damage


def doubled(finals: list[dict[str, Any]]) -> None:
    finals.append(finals[-1])


def shortened(finals: list[dict[str, Any]]) -> None:
    del finals[0]


def retold(finals: list[dict[str, Any]]) -> None:
    finals[0]["final"]["text"] += " not"


DAMAGES: dict[str, tuple[Damage, str]] = {
    "its manifest is gone": (lambda folder: folder.__delitem__("manifest.json"), "no manifest"),
    "its audio lacks a byte": (audio_cut, "is not what the manifest names"),
    "its audio has another bit": (audio_flipped, "is not what the manifest names"),
    "a second is lost": (with_sound(lost), "differs from 16000 on"),
    "a second is silent": (with_sound(silent), "differs from"),
    "a final is doubled": (with_finals(doubled), "finals are stored"),
    "a final is lost": (with_finals(shortened), "finals are stored"),
    "a final says something else": (with_finals(retold), "finals are stored"),
    "it failed": (with_manifest(lambda manifest: manifest.update(state="failed")), "failed with"),
    "it is of other samples": (
        with_manifest(lambda m: m.update(samples=m["samples"] - 1)),
        "samples, spoken",
    ),
    "it has another hash": (with_manifest(lambda m: m.update(audioSha256="0" * 64)), "audioSha256"),
    "something is missing": (with_manifest(lambda m: m["coverage"].update(missing=[[0, 5]])), "missing"),
    "not all is archived": (with_manifest(lambda m: m["coverage"].update(archived=[[5, 9]])), "archived"),
    "its coverage does not sum up": (with_manifest(lambda m: m["coverage"].update(live=[])), "coverage"),
    "a segment is left": (lambda folder: folder.update({"segments/000000000000-1": b""}), "holds"),
    "finals are left": (lambda folder: folder.update({"finals/1-1.json": b""}), "holds"),
    "an older transcript is left": (lambda folder: folder.update({"transcript-0.json": b""}), "holds"),
    "an epoch is left out": (lambda folder: folder.update({"epochs/9.json": b"{}"}), "has epochs"),
}


@pytest.mark.needs("haproxy", "redis-server")
@pytest.mark.timeout(120)
def test_damage_is_seen(tmp_path: Path) -> None:
    uvloop.run(damage_is_seen(tmp_path))


async def damage_is_seen(folder: Path) -> None:
    random = Random(9)  # noqa: S311
    async with opened(folder, random, tasks=1) as ward, Crowd(ward, voice(), random) as crowd:
        speakers = await crowd.open(2)
        await crowd.changed(lambda: all(len(speaker.finals) > 1 for speaker in speakers))
        await crowd.end(speakers)
        assert await verdict(ward, crowd, speakers) == []
        checker = Checker(ward.archive, str(ward.redis.socket_path), patience=0.0)
        victim, _ = speakers
        async with plain_client(ward.archive.server) as client:
            objects = Objects(client, ward.archive.bucket, ward.archive.prefix)
            for name, (damage, told) in DAMAGES.items():
                wrong = await damaged(objects, checker, speakers, damage)
                assert any(victim.session in fault and told in fault for fault in wrong), (name, wrong)
            assert await what_is_left_is_seen(ward, objects, checker, victim) == []
        assert await asyncio.to_thread(checker.faults, speakers) == []


@dataclass(frozen=True)
class Objects:
    """An archive, as another program writes to it."""

    client: Any
    bucket: str
    prefix: str

    async def read(self, under: str) -> Folder:
        """All that lies under a name, by the rest of the name."""
        root, found = self.prefix + under, Folder()
        rows = await self.client.list_objects_v2(Bucket=self.bucket, Prefix=root)
        for row in rows["Contents"]:
            answer = await self.client.get_object(Bucket=self.bucket, Key=row["Key"])
            found[row["Key"].removeprefix(root)] = await answer["Body"].read()
        return found

    async def write(self, under: str, before: Folder, after: Folder) -> None:
        """Make what lies there as ``before`` to be as ``after``."""
        root = self.prefix + under
        for name in before.keys() - after.keys():
            await self.client.delete_object(Bucket=self.bucket, Key=root + name)
        for name, data in after.items():
            if before.get(name) != data:
                await self.client.put_object(Bucket=self.bucket, Key=root + name, Body=data)


async def damaged(objects: Objects, checker: Checker, speakers: list[Speaker], damage: Damage) -> list[str]:
    """What the checker says of a clinic in which the first session is damaged; it is whole again afterwards."""
    under = f"demo/{speakers[0].session}/"
    whole = await objects.read(under)
    other = dict(whole)
    damage(other)
    await objects.write(under, whole, other)
    wrong = await asyncio.to_thread(checker.faults, speakers)
    await objects.write(under, other, whole)
    return wrong


async def what_is_left_is_seen(ward: Ward, objects: Objects, checker: Checker, speaker: Speaker) -> list[str]:
    """Leave things lying about beside a session; those of them that the checker did not see."""
    unseen = []
    stranger = Folder({"session.json": b"{}", "epochs/1.json": b"{}"})
    await objects.write("demo/stranger/", {}, stranger)
    unseen += [] if await said(checker, "stranger: nobody's") else ["a session that is nobody's"]
    await objects.write("demo/stranger/", stranger, {})

    record = {"task": "t9", "beat": 7, "sessions": [], "watched": [f"demo/{speaker.session}"]}
    records = Folder({"t9.0": json.dumps(record).encode()})
    await objects.write("_tasks/", {}, records)
    told = await asyncio.to_thread(checker.unburied, [speaker], 0.0)
    unseen += [] if told == ["_tasks/t9.0 names 1 sessions that are over"] else [f"a dead task: {told}"]
    await objects.write("_tasks/", records, {})

    root = f"clinic:{{demo}}:session:{speaker.session}"
    with Redis(unix_socket_path=str(ward.redis.socket_path)) as redis:
        redis.zadd(f"{root}:pending", {"sealed": 1})
        unseen += [] if await said(checker, ":pending holds 1 finals") else ["finals in Redis"]
        redis.delete(f"{root}:pending")
        redis.persist(root)
        unseen += [] if await said(checker, f"{root} stays for good") else ["an owner that stays"]
        redis.expire(root, 60)
        owner = redis.hget(root, "epoch")
        redis.hset(root, "epoch", "9")
        unseen += [] if await said(checker, "Redis knows epoch 9", speaker) else ["an epoch of nobody"]
        redis.hset(root, "epoch", str(int(str(owner, "ascii"))))
    return unseen


async def said(checker: Checker, what: str, *speakers: Speaker) -> bool:
    """Whether the checker says it."""
    return any(what in fault for fault in await asyncio.to_thread(checker.faults, speakers))


@pytest.mark.parametrize(
    "coverage",
    [
        {"archived": [[0, 9]], "live": [[0, 4]], "filled": [], "untranscribed": [[5, 10]]},
        {"archived": [[0, 10]], "live": [[0, 4]], "filled": [], "untranscribed": [[5, 10]]},
        {"archived": [[0, 10]], "live": [[0, 6]], "filled": [[5, 10]], "untranscribed": []},
        {"archived": [[0, 10]], "live": [[0, 9]], "filled": [], "untranscribed": []},
        {"archived": [[0, 10]], "live": [[0, 11]], "filled": [], "untranscribed": []},
    ],
)
def test_coverage_that_does_not_sum_up(coverage: dict[str, list[list[int]]]) -> None:
    assert coverage_faults({**coverage, "missing": []}, 10)


def test_coverage_that_sums_up() -> None:
    parts = {"live": [[0, 4], [6, 9]], "filled": [[4, 6]], "untranscribed": [[9, 10]], "missing": []}
    assert coverage_faults({"archived": [[0, 10]], **parts}, 10) == []
    assert (
        untidy(["session.json", "manifest.json", "audio-2.flac", "transcript-2.json", "epochs/1.json"]) == ""
    )
