"""What single settings may look like: pure parsers that raise ValueError with a text that repeats no value."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_S3: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9!_.'()/-]*))?")
_HOST: Final = re.compile(r"(?:\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?)(?::[0-9]{1,5})?")
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host`` (a name other than ``localhost`` may lead anywhere)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def ip_or_localhost(host: str) -> str:
    """An address to bind, without the brackets of a URL."""
    host = host.strip("[]")
    try:
        return host if host == "localhost" else str(ipaddress.ip_address(host))
    except ValueError:
        raise ValueError("is no IP address") from None


def bracketed(host: str) -> str:
    """``host`` as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def origin(text: str) -> str:
    """``scheme://host[:port]`` in lower case, without the scheme's own port (RFC 6454, section 6.2)."""
    parts = split_url(text)
    if parts.scheme not in _DEFAULT_PORTS or not _HOST.fullmatch(parts.netloc.lower()):
        raise ValueError("is no http or https URL with a host")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("has more than a scheme, a host and a port")
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(_DEFAULT_PORTS[parts.scheme])}"


def own_origins(public_url: str) -> tuple[str, ...]:
    """The origins under which a page of this server may be open: one, or every name of a loopback address."""
    parts = split_url(public_url)
    if not is_loopback(parts.hostname or ""):
        return (public_url,)
    port = "" if parts.port is None else f":{parts.port}"
    return tuple(dict.fromkeys([public_url, *(f"{parts.scheme}://{name}{port}" for name in _LOOPBACK_NAMES)]))


def host_entry(text: str) -> str:
    """A ``Host`` header that is accepted: ``name`` or ``name:port``, in lower case."""
    if not _HOST.fullmatch(text.lower()):
        raise ValueError("has an entry that is no host")
    return text.lower()


def cookie_name(text: str) -> str:
    """The name of a cookie: a token (RFC 6265, section 4.1.1)."""
    if not _TOKEN.fullmatch(text):
        raise ValueError("is no cookie's name")
    return text


def redis_url(text: str) -> str:
    """``embedded`` or the URL of a server; it may hold a password, so nothing of it is ever repeated."""
    if text == "embedded":
        return text
    if "+cluster:" in text:
        cluster_addresses(text)
        return text
    parts = split_url(text)
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname:
        raise ValueError("is no Redis URL")
    return text


def cluster_addresses(url: str) -> list[tuple[str, int]]:
    """Hosts and ports of ``redis+cluster://[user:password@]host[:port][,host[:port] ...]`` (``rediss+cluster``: with TLS)."""
    scheme, _, rest = url.partition("://")
    hosts = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2].split(",")
    parts = [split_url(f"redis://{host}") for host in hosts]
    if scheme not in {"redis+cluster", "rediss+cluster"} or not all(part.hostname for part in parts):
        raise ValueError("is no URL of a Redis Cluster")
    return [(bracketed(part.hostname or ""), part.port or 6379) for part in parts]


def path_of(file_url: str) -> Path:
    """The absolute path of ``file:path``, ``file:/path`` or ``file:///path`` (RFC 8089)."""
    scheme, _, path = file_url.partition(":")
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        if host not in {"", "localhost"}:
            raise ValueError("names a file of another machine")
        path = slash + path
    if scheme != "file" or not path:
        raise ValueError("is no file: URL with a path")
    return Path(unquote(path)).expanduser().absolute()


def key_bytes(text: str) -> bytes:
    """The 32 bytes of a key in base64 (the URL-safe alphabet too)."""
    try:
        key = base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except binascii.Error:
        raise ValueError("is no base64") from None
    if len(key) != 32:
        raise ValueError("is not 32 bytes long")
    return key


def split_url(text: str) -> SplitResult:
    """``urlsplit`` that checks the port, too."""
    try:
        parts = urlsplit(text)
        assert parts.port is None or parts.port >= 0
    except ValueError:
        raise ValueError("is no URL") from None
    return parts


def wss_endpoint(text: str) -> str:
    """``wss://host[:port]``, nothing behind it."""
    parts = split_url(text)
    if parts.scheme != "wss" or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("is no wss:// URL of a host")
    return text.rstrip("/")


def s3_place(text: str) -> tuple[str, str]:
    """Bucket and prefix (empty, or ending with a slash) of ``s3://bucket[/prefix]``."""
    found = _S3.fullmatch(text)
    if found is None:
        raise ValueError("is not s3://bucket or s3://bucket/prefix")
    path = (found[2] or "").strip("/")
    return found[1], f"{path}/" if path else ""
