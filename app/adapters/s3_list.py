"""Listing an archive in S3, row by row, as ``Store.list`` promises it whatever the server makes of ``StartAfter``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from app.adapters.object_keys import SYSTEM, sound_component
from app.adapters.s3_calls import Answer
from app.adapters.s3_objects import S3Objects
from app.archive.store import ListedObject
from tenants.clinic import parse_clinic_id

_PAGE: Final = 500
"""S3 gives up to 1 000; what parsing a page takes (12 ms), no other session is served."""


async def rows(objects: S3Objects, prefix: str, delimiter: str, after: str) -> AsyncIterator[ListedObject]:
    """See ``Store.list``. Holds one page. What is deleted while it runs is listed or not; all else is.

    A common prefix is a row if an object below it is greater than ``after`` and it is not ``after`` itself. Servers
    differ in this where ``after`` lies below a common prefix, so that one is asked for by itself.
    """
    if not all(sound_component(part) for part in prefix.split("/")[:-1]) or not _encodable(prefix, after):
        return
    # UTF-8 sorts as code points do.
    if not after.startswith(prefix):
        if after > prefix:
            return
        after = ""  # All is greater; some servers take it for the opposite.
    common = _common(prefix, delimiter, after)
    last = after
    if common:
        last = common
        if common != after and await _any_below(objects, common, after):
            yield ListedObject(common, 0)
    async for row in _pages(objects, prefix, delimiter, last):
        if row.key > last:
            yield row


def _common(prefix: str, delimiter: str, after: str) -> str:
    """The common prefix that ``after`` lies below, or is."""
    if not delimiter or not after:
        return ""
    end = after.find(delimiter, len(prefix))
    return after[: end + len(delimiter)] if end >= 0 else ""


async def _any_below(objects: S3Objects, common: str, after: str) -> bool:
    answer = await _page(objects, common, {"StartAfter": objects.place.name(after), "MaxKeys": 1})
    return bool(answer.get("Contents"))


async def _pages(objects: S3Objects, prefix: str, delimiter: str, after: str) -> AsyncIterator[ListedObject]:
    place = objects.place
    params: dict[str, Any] = {"MaxKeys": _PAGE}
    if delimiter:
        params["Delimiter"] = delimiter
    if after:
        params["StartAfter"] = place.name(after)
    while True:
        answer = await _page(objects, prefix, params)
        found = [
            ListedObject(place.key(row["Key"]), row["Size"])
            for row in answer.get("Contents", ())
            if not row["Key"].endswith("/")  # A console's picture of a folder, no object of ours.
        ]
        found += [ListedObject(place.key(row["Prefix"]), 0) for row in answer.get("CommonPrefixes", ())]
        for row in sorted(found, key=lambda row: row.key):
            yield row
        if not answer.get("IsTruncated"):
            return
        params = {**params, "ContinuationToken": answer["NextContinuationToken"]}


async def _page(objects: S3Objects, prefix: str, params: dict[str, Any]) -> Answer:
    asked = {"Prefix": objects.place.name(prefix), **params}
    return await objects.call(_clinic_of(prefix), prefix, "list_objects_v2", asked)


def _clinic_of(prefix: str) -> str:
    """Whose credentials list: a clinic's where the prefix lies within it, else the task's."""
    first, slash, _ = prefix.partition("/")
    return first if slash and parse_clinic_id(first) else SYSTEM


def _encodable(*texts: str) -> bool:
    try:
        return all(text.encode() is not None for text in texts)
    except UnicodeEncodeError:
        return False
