"""Which names an archive takes for its objects, and whose data key each belongs to. Every store asks here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from tenants.clinic import parse_clinic_id

KEY_BYTES_MAX: Final = 512
COMPONENT_BYTES_MAX: Final = 255
"""What file systems take."""

SYSTEM: Final = "_system"
"""The clinic that the system's own objects are encrypted for; no clinic's id can be the same."""

_SESSION_KEY_COMPONENTS: Final = 3
_SYSTEM_KEY_COMPONENTS: Final = 2


class Scope(NamedTuple):
    """What shares one data key: a clinic's session, or (``_system``, the first component) for the system's objects."""

    clinic: str
    session: str

    @property
    def path(self) -> str:
        """What the keys of this scope begin with, without the slash at the end."""
        return self.session if self.clinic == SYSTEM else f"{self.clinic}/{self.session}"


@dataclass(frozen=True)
class ObjectKey:
    """A key that was found sound."""

    key: str
    scope: Scope


def parse_key(key: str) -> ObjectKey:
    """Check ``key``.

    ``<clinicId>/<sessionId>/<name>`` or ``_<area>/<name>``; a name may have slashes. No component is empty, begins
    with a dot (so none is ``..``, and stores may keep files of their own under such names), or has a backslash or a
    control character; at most 512 bytes of UTF-8 in all and 255 in a component.

    Raises:
        ValueError: the key is none; the text does not repeat it.
    """
    parts = key.split("/")
    if not all(sound_component(part) for part in parts) or len(key.encode()) > KEY_BYTES_MAX:
        raise ValueError(
            "an object's key has an empty, hidden, overlong or unprintable component, or is too long"
        )
    first = parts[0]
    system = first.startswith("_")
    least = _SYSTEM_KEY_COMPONENTS if system else _SESSION_KEY_COMPONENTS
    if not sound_first_component(first) or len(parts) < least:
        raise ValueError("an object's key is neither <clinicId>/<sessionId>/<name> nor _<area>/<name>")
    return ObjectKey(key, Scope(SYSTEM, first) if system else Scope(first, parts[1]))


def sound_first_component(part: str) -> bool:
    """Whether a key may begin with the component ``part``."""
    return part.startswith("_") or parse_clinic_id(part) is not None


def sound_component(part: str) -> bool:
    """Whether ``part`` may stand between two slashes of a key."""
    if not part or part.startswith(".") or "/" in part or "\\" in part:
        return False
    if any(character < " " or character == "\x7f" for character in part):
        return False
    try:
        return len(part.encode()) <= COMPONENT_BYTES_MAX
    except UnicodeEncodeError:
        return False
