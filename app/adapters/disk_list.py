"""Walking the disk store's folders in the order of keys. Blocking, lazy: a folder is read when its turn comes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from app.adapters.framed_file import plaintext_size
from app.adapters.object_keys import sound_component, sound_first_component
from app.archive.store import ListedObject


def walk(root: Path, prefix: str, delimiter: str, after: str) -> Iterator[ListedObject]:
    """The rows that ``Store.list`` promises. Holds the names of the folders on the way to the current row.

    A common prefix is a row if an object below it is greater than ``after`` and it is not ``after`` itself: so
    the last row of one page, given as ``after``, continues with the next.
    With ``/`` as the delimiter nothing below a common prefix is read but what it takes to find one object there.

    Raises:
        OSError: the disk refused.
    """
    if delimiter in ("", "/"):
        return _rows(root, prefix, after, fold=bool(delimiter))
    return _fold(_rows(root, prefix, after, fold=False), prefix, delimiter, after)


def _rows(root: Path, prefix: str, after: str, *, fold: bool) -> Iterator[ListedObject]:
    base = prefix[: prefix.rfind("/") + 1]
    if all(sound_component(part) for part in base.split("/")[:-1]):
        yield from _below(root / base, base, prefix, after, fold=fold)


def _below(folder: Path, base: str, prefix: str, after: str, *, fold: bool) -> Iterator[ListedObject]:
    for name, entry in _entries(folder):
        key = base + name
        if not key.startswith(prefix) or not (base or sound_first_component(name.removesuffix("/"))):
            continue
        if not name.endswith("/"):
            if key > after:
                yield from _object(key, entry)
        elif key > after or after.startswith(key):
            below = _below(Path(entry.path), key, key, after, fold=False)
            if not fold:
                yield from below
            elif key != after and any(True for _ in below):
                yield ListedObject(key, 0)


def _entries(folder: Path) -> list[tuple[str, os.DirEntry[str]]]:
    # A folder sorts as what its keys begin with: "a-b" comes before "a/b", though "a" alone comes before "a-b".
    # Code points sort as their UTF-8 does.
    try:
        with os.scandir(folder) as entries:
            named = [
                (entry.name + "/" * entry.is_dir(follow_symlinks=False), entry)
                for entry in entries
                if sound_component(entry.name)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []  # Deleted meanwhile, or never there.
    return sorted(named, key=lambda pair: pair[0])


def _object(key: str, entry: os.DirEntry[str]) -> Iterator[ListedObject]:
    try:
        yield ListedObject(key, plaintext_size(entry.stat(follow_symlinks=False).st_size))
    except FileNotFoundError:
        return
    except ValueError:
        yield ListedObject(key, 0)  # Cut short: it is there, and reading it says what is wrong.


def _fold(rows: Iterator[ListedObject], prefix: str, delimiter: str, after: str) -> Iterator[ListedObject]:
    last = after
    for row in rows:
        end = row.key.find(delimiter, len(prefix))
        common = row.key[: end + len(delimiter)]
        if end < 0:
            yield row
        elif common != last:
            last = common
            yield ListedObject(common, 0)
