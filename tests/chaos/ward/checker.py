"""What must hold of sessions in the end, read from S3 and Redis by a program that shares no code with the server."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import soundfile
from botocore.config import Config
from botocore.session import get_session
from redis import Redis

from tests.chaos.ward.browser import Browser
from tests.chaos.ward.speaker import Speaker
from tests.chaos.ward.voice import RATE, Final
from tests.support.s3_archive import REGION
from tests.support.s3_served import ArchiveInS3

SWEPT_SECONDS = 20.0
"""Within so long whatever is no longer needed is gone."""

THREADS = 4
WORDS = ("id", "start", "end", "text")
_PART = re.compile(r"(audio|transcript)-(\d+)\.(flac|json)")


class Checker:
    """Looks at one clinic."""

    def __init__(self, archive: ArchiveInS3, redis_socket: str, clinic: str = "demo") -> None:
        self._bucket, self._prefix, self._clinic = archive.bucket, archive.prefix, clinic
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

    def faults(self, speakers: Sequence[Speaker]) -> list[str]:
        """All that is wrong with their sessions; empty when nothing is. Blocks, up to ``SWEPT_SECONDS`` and the reading."""
        with ThreadPoolExecutor(THREADS) as pool:
            wrong = [fault for found in pool.map(self._judge, speakers) for fault in found]
        return wrong + self._left_over(speakers)

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
        sound, rate = soundfile.read(io.BytesIO(flac), dtype="int16")
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

    def _left_over(self, speakers: Sequence[Speaker]) -> list[str]:
        until = time.monotonic() + SWEPT_SECONDS
        while (left := self._untidy(speakers) + self._pending()) and time.monotonic() < until:
            time.sleep(0.5)
        return left

    def _untidy(self, speakers: Sequence[Speaker]) -> list[str]:
        folders = self._folders()
        known = {speaker.session for speaker in speakers}
        wrong = [
            f"{session}: {untidy(folders.get(session, ()))}"
            for session in known
            if untidy(folders.get(session, ()))
        ]
        strangers = [
            f"{session}: nobody's, {sorted(names)}"
            for session, names in folders.items()
            if session not in known
        ]
        # A create whose answer was lost may leave a session that nobody spoke in: it has its record and nothing else.
        return wrong + [fault for fault in strangers if not fault.endswith("['session.json']")]

    def _folders(self) -> dict[str, list[str]]:
        root = f"{self._prefix}{self._clinic}/"
        folders = defaultdict(list)
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=root):
            for row in page.get("Contents", ()):
                session, _, name = row["Key"][len(root) :].partition("/")
                folders[session].append(name)
        return folders

    def _pending(self) -> list[str]:
        wrong = []
        for name in self._redis.scan_iter(f"clinic:{{{self._clinic}}}:session:*:pending", count=1_000):
            if count := self._number(self._redis.zcard(name)):
                owner = self._redis.hgetall(name.removesuffix(":pending"))
                wrong.append(
                    f"{name} holds {count} finals, for {self._number(self._redis.ttl(name))} s; {owner}"
                )
        return wrong

    @staticmethod
    def _number(answer: object) -> int:
        # redis-py's types say that any call may be one to wait for.
        assert isinstance(answer, int)
        return answer


def first_difference(one: bytes, other: bytes) -> int:
    """The first position at which PCM differs."""
    pairs = zip(range(0, len(one), 2), range(0, len(other), 2), strict=False)
    return next(
        (at // 2 for at, _ in pairs if one[at : at + 2] != other[at : at + 2]), min(len(one), len(other)) // 2
    )


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


def coverage_faults(coverage: dict[str, list[list[int]]], samples: int) -> list[str]:
    """What does not sum up: all of it archived, each sample transcribed live, filled in later, or not transcribed."""
    whole = [[0, samples]] if samples else []
    wrong = []
    if coverage["archived"] != whole or coverage["missing"]:
        wrong.append(f"archived {coverage['archived']}, missing {coverage['missing']} of {samples}")
    parts = sorted(pair for name in ("live", "filled", "untranscribed") for pair in coverage[name])
    edge = 0
    for start, end in parts:
        if start != edge or end <= start:
            wrong.append(f"coverage breaks at {edge}: {start} to {end}")
            break
        edge = end
    if edge != samples and not wrong:
        wrong.append(f"coverage ends at {edge} of {samples}")
    return wrong


def untidy(names: Iterable[str]) -> str:
    """What is too much or too little in the folder of a finished session; empty when nothing is."""
    kept = [name for name in names if not name.startswith("epochs/")]
    kinds = sorted(found[1] if (found := _PART.fullmatch(name)) else name for name in kept)
    tidy = kinds == ["audio", "manifest.json", "session.json", "transcript"]
    return "" if tidy else f"holds {sorted(kept)}"
