"""What must hold of sessions in the end, read from S3 and Redis by a program that shares no code with the server."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import soundfile
from botocore.config import Config
from botocore.session import get_session
from redis import Redis

from tests.chaos.ward.browser import Browser
from tests.chaos.ward.rules import coverage_faults, epochs_in, first_difference, untidy, within
from tests.chaos.ward.speaker import Speaker
from tests.chaos.ward.voice import RATE, Final
from tests.support.s3_archive import REGION
from tests.support.s3_served import ArchiveInS3

SWEPT_SECONDS = 30.0
"""Within so long whatever is no longer needed is gone, and the list is right: a task that has just begun looks at the others every
eighth of its resume window, 7.5 s in the ward, and does not rely on one any more that it saw stand still for a quarter.
"""

THREADS = 4
WORDS = ("id", "start", "end", "text")
LASTING = {"log", "sessions", "rows"}
"""What stays in Redis for as long as the clinic does; everything else has its time."""


class Checker:
    """Looks at one clinic.

    Args:
        patience: seconds that what is no longer needed has to go.
    """

    def __init__(
        self,
        archive: ArchiveInS3,
        redis_socket: str,
        clinic: str = "demo",
        *,
        patience: float = SWEPT_SECONDS,
    ) -> None:
        self._bucket, self._prefix, self._clinic = archive.bucket, archive.prefix, clinic
        self._patience = patience
        server = archive.server
        self._s3: Any = get_session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=server.url,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            config=Config(signature_version="s3v4", max_pool_connections=THREADS + 1),
        )
        self._redis = Redis(unix_socket_path=redis_socket, decode_responses=True)

    def faults(self, speakers: Sequence[Speaker], earlier: Sequence[Speaker] = ()) -> list[str]:
        """All that is wrong with their sessions; empty when nothing is. Blocks, up to its patience and the reading.

        ``earlier``: those whose sessions were found right before; nothing may have come to them since.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            wrong = [fault for found in pool.map(self._judge, speakers) for fault in found]
        known = {speaker.session for speaker in (*earlier, *speakers)}
        return wrong + self._once(lambda: self._untidy(known) + self._in_redis(known))

    def unburied(self, speakers: Sequence[Speaker], seconds: float) -> list[str]:
        """The records of tasks that name sessions of theirs still, after up to ``seconds``. All of these are over.

        A task that gave one away remembers it for a resume window at most, and a dead task's record goes once the others have
        seen it stand still for so long.
        """
        known = {speaker.session for speaker in speakers}
        return self._once(lambda: self._claimed(known), seconds)

    # One session ---------------------------------------------------------------------------------

    def _judge(self, speaker: Speaker) -> list[str]:
        session, samples = speaker.session, speaker.spoken_to or 0
        try:
            manifest = json.loads(self._read(session, "manifest.json"))
        except self._s3.exceptions.NoSuchKey:
            return [f"{session}: no manifest"]
        wrong = []
        if (manifest["state"], manifest["samples"]) != ("completed", samples):
            wrong.append(f"{manifest['state']} with {manifest['samples']} samples, spoken {samples}")
        if manifest["finals"] != len(speaker.finals):
            wrong.append(f"{manifest['finals']} finals, told {len(speaker.finals)}")
        wrong += coverage_faults(manifest["coverage"], samples)
        wrong += self._judge_audio(speaker, manifest, samples) if samples else []
        wrong += self._judge_transcript(speaker, manifest)
        return [f"{session}: {fault}" for fault in wrong]

    def _judge_audio(self, speaker: Speaker, manifest: dict[str, Any], samples: int) -> list[str]:
        wrong: list[str] = []
        flac = self._object(speaker.session, manifest["audio"], wrong)
        try:
            sound, rate = soundfile.read(io.BytesIO(flac), dtype="int16")
        except soundfile.LibsndfileError:
            return [*wrong, f"{manifest['audio']['name']} cannot be decoded"]
        pcm, said = sound.tobytes(), speaker.voice.said(speaker.offset, 0, samples)
        if rate != RATE or pcm != said:
            wrong.append(
                f"its audio has {len(pcm) // 2} samples and differs from {first_difference(pcm, said)} on"
            )
        if manifest["audioSha256"] != hashlib.sha256(said).hexdigest():
            wrong.append("audioSha256 is not that of what was said")
        if speaker.completed and speaker.completed["audioSha256"] != manifest["audioSha256"]:
            wrong.append("the speaker was told another audioSha256")
        return wrong

    def _judge_transcript(self, speaker: Speaker, manifest: dict[str, Any]) -> list[str]:
        wrong: list[str] = []
        record = json.loads(self._object(speaker.session, manifest["transcript"], wrong))
        stored = [Final(one["seq"], *(one["final"][name] for name in WORDS)) for one in record["finals"]]
        if stored != speaker.finals:
            wrong.append(f"{len(stored)} finals are stored, not the {len(speaker.finals)} that were told")
        if [final.seq for final in stored] != [*range(1, len(stored) + 1)]:
            wrong.append("its finals are not numbered from 1 on")
        if len({final.id for final in stored}) < len(stored):
            wrong.append("two finals have one id")
        if any(late.start < early.end for early, late in pairwise(stored)):
            wrong.append("its finals overlap")
        heard = [*manifest["coverage"]["live"], *manifest["coverage"]["filled"]]
        if any(not within(final, heard) for final in stored):
            wrong.append(f"a final lies outside of what was transcribed: {heard}")
        return wrong

    def _object(self, session: str, named: dict[str, Any], wrong: list[str]) -> bytes:
        data = self._read(session, named["name"])
        if len(data) != named["size"] or hashlib.sha256(data).hexdigest() != named["sha256"]:
            wrong.append(f"{named['name']} is not what the manifest names")
        return data

    def _read(self, session: str, name: str) -> bytes:
        key = f"{self._prefix}{self._clinic}/{session}/{name}"
        body: bytes = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        return body

    # What is left --------------------------------------------------------------------------------

    def _once(self, look: Callable[[], list[str]], seconds: float | None = None) -> list[str]:
        """What ``look`` finds, once it finds nothing or time is up."""
        until = time.monotonic() + (self._patience if seconds is None else seconds)
        while (left := look()) and time.monotonic() < until:
            time.sleep(0.5)
        return left

    def _untidy(self, known: set[str]) -> list[str]:
        folders = self._folders()
        wrong = [f"{session}: {found}" for session in known if (found := untidy(folders.get(session, ())))]
        strangers = [
            f"{session}: nobody's, {sorted(names)}"
            for session, names in folders.items()
            if session not in known
        ]
        # A create whose answer was lost may leave a session that nobody spoke in: it has its record and nothing else.
        return wrong + [fault for fault in strangers if not fault.endswith("['session.json']")]

    def _folders(self) -> dict[str, list[str]]:
        folders = defaultdict(list)
        for key in self._keys(f"{self._clinic}/"):
            session, _, name = key.partition("/")
            folders[session].append(name)
        return folders

    def _keys(self, under: str) -> list[str]:
        """All that lies under a name, without that name."""
        root = f"{self._prefix}{under}"
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=root)
        return [row["Key"][len(root) :] for page in pages for row in page.get("Contents", ())]

    def _claimed(self, known: set[str]) -> list[str]:
        wrong = []
        for key in self._keys("_tasks/"):
            try:
                answer = self._s3.get_object(Bucket=self._bucket, Key=f"{self._prefix}_tasks/{key}")
            except self._s3.exceptions.NoSuchKey:
                continue
            record = json.loads(answer["Body"].read())
            named = {name.partition("/")[2] for name in (*record["sessions"], *record["watched"])}
            if over := len(named & known):
                wrong.append(f"_tasks/{key} names {over} sessions that are over")
        return wrong

    def _in_redis(self, known: set[str]) -> list[str]:
        root = f"clinic:{{{self._clinic}}}:"
        wrong = []
        for name in self._redis.scan_iter(f"{root}*", count=1_000):
            if name.endswith(":pending") and (count := self._number(self._redis.zcard(name))):
                owner = self._redis.hgetall(name.removesuffix(":pending"))
                wrong.append(f"{name} holds {count} finals; {owner}")
            elif name.removeprefix(root) not in LASTING and self._number(self._redis.ttl(name)) == -1:
                wrong.append(f"{name} stays for good")
        return wrong + [fault for session in known for fault in self._owner(f"{root}session:", session)]

    def _owner(self, root: str, session: str) -> list[str]:
        told = str(self._redis.hget(root + session, "epoch") or 0)
        newest = max(epochs_in(self._keys(f"{self._clinic}/{session}/")), default=0)
        return [f"{session}: Redis knows epoch {told}, the archive {newest}"] if int(told) > newest else []

    @staticmethod
    def _number(answer: object) -> int:
        # redis-py's types say that any call may be one to wait for.
        assert isinstance(answer, int)
        return answer


async def unlisted(
    browser: Browser, speakers: Sequence[Speaker], seconds: float = SWEPT_SECONDS
) -> list[str]:
    """Sessions that the clinic's list does not show as completed, once all are or after so long."""
    until = time.monotonic() + seconds
    while True:
        states: dict[str, str] = {}
        cursor: str | None = ""
        while cursor is not None:
            page = await browser.json("GET", f"/v1/sessions?limit=200{f'&cursor={cursor}' if cursor else ''}")
            states |= {item["sessionId"]: item["state"] for item in page["items"]}
            cursor = page["nextCursor"]
        wrong = [
            f"{speaker.session} is listed as {states.get(speaker.session, 'nothing')}"
            for speaker in speakers
            if states.get(speaker.session) != "completed"
        ]
        if not wrong or time.monotonic() > until:
            return wrong
        await asyncio.sleep(0.5)
