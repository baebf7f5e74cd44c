"""The settings of one machine, each with its default, its meaning and its rule; those of AWS are in ``settings``."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.config.values import (
    Network,
    bracketed,
    cookie_name,
    host_entry,
    ip_or_localhost,
    is_loopback,
    key_bytes,
    origin,
    own_origins,
    path_of,
    redis_url,
)

PREFIX: Final = "KIKITORI_"
_TASK_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def setting(default: Any, meaning: str, write: str, *, shown: str | None = None, **rules: Any) -> Any:
    """A field. ``write`` says what a right value looks like; ``shown`` is a default that is worked out, in words."""
    return Field(default, description=meaning, json_schema_extra={"write": write, "shown": shown}, **rules)


class CoreSettings(BaseSettings):
    """What a server needs anywhere. A field may lean on those above it (``public_url`` on ``host``), never on those below."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True)

    host: str = setting(
        "127.0.0.1",
        "address to serve on; only a loopback one with the development issuer",
        "127.0.0.1, ::1 or localhost",
    )
    port: int = setting(
        8080, "port to serve on; `0` picks a free one", "a number from 0 to 65535", ge=0, le=65_535
    )
    admin_host: str = setting("127.0.0.1", "address of the metrics", "an IP address or localhost")
    admin_port: int = setting(
        9464, "port of the metrics; `0` picks a free one", "a number from 0 to 65535", ge=0, le=65_535
    )
    public_url: str = setting(
        "",
        "what `streamUrl` is built from; default for the two lists below",
        "https://name or http://name:port, without a path",
        shown="from host and port",
    )
    allowed_origins: tuple[str, ...] = setting(
        (),
        "comma list of the origins whose pages may call",
        "origins such as https://name, separated by commas",
        shown="the public URL's",
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        "comma list of the `Host` headers that are answered",
        "names with their port, such as name:8443, separated by commas",
        shown="the public URL's",
    )
    trusted_proxies: tuple[Network, ...] = setting(
        (),
        "comma list; the caller's address is the rightmost `X-Forwarded-For` entry that is no trusted proxy",
        "addresses or networks such as 10.0.0.0/8, separated by commas",
    )
    data_dir: Path = setting(
        Path("data"),
        "embedded Redis, development keys, master key, local archive; "
        "several processes may share one folder when Redis is external",
        "the path of a folder",
        shown="`./data`",
    )
    redis_url: str = setting(
        "embedded",
        "`redis://`, `rediss://`, `redis+cluster://host:port,host:port` (`rediss+cluster://` with TLS), "
        "or `embedded`: a private redis-server started and stopped with the process",
        "embedded, redis://host:port, rediss://host:port or redis+cluster://host:port,host:port",
        repr=False,
    )
    archive_url: str = setting(
        "",
        "`file:` and the folder of the archive, or `s3://bucket[/prefix]`",
        "file: and the path of a folder, or s3://bucket",
        shown="`archive` in the data folder",
    )
    clinics_url: str = setting(
        "",
        "`file:` and the clinic registry",
        "file: and the path of a JSON file",
        shown="`clinics.json` in the data folder",
    )
    engine: Literal["aws", "pocketsphinx", "null"] = setting(
        "pocketsphinx",
        "`aws` (Amazon Transcribe), `pocketsphinx` (English), or `null`: records in any language, transcribes nothing",
        "aws, pocketsphinx or null",
    )
    pocketsphinx_workers: int = setting(
        0,
        "decoder processes; streams beyond them wait their turn",
        "a number from 1 to 128",
        shown="two for each core",
        ge=0,
        le=128,
    )
    task_id: str = setting(
        "",
        "this process's name among the others",
        "up to 128 letters, digits and ._:-",
        shown="host name and process id",
    )
    max_sessions: int = setting(
        500, "sessions at once; further new ones get 503", "a number from 1 to 100000", ge=1, le=100_000
    )
    max_observers: int = setting(
        2000, "observers at once; further ones get 503", "a number from 1 to 100000", ge=1, le=100_000
    )
    max_clinic_observers: int = setting(
        500,
        "observers of one clinic at one server; further ones get 429",
        "a number from 1 to 100000",
        ge=1,
        le=100_000,
    )
    segment_seconds: float = setting(
        5.0,
        "how often audio becomes durable, from 1 to 12: the ring of 16.384 s must keep room",
        "a number from 1 to 12",
        ge=1,
        le=12,
    )
    resume_window_seconds: float = setting(
        120.0,
        "how long a speaker who is gone may come back before the session is finished",
        "a number from 1 to 86400",
        ge=1,
        le=86_400,
    )
    drain_seconds: float = setting(
        20.0,
        "over which a server that is told to end gives its sessions back, one after the other",
        "a number from 0 to 60",
        ge=0,
        le=60,
    )
    sticky_cookie: str | None = setting(
        None,
        "name of the cookie by which a balancer keeps a client at one server; a 503 of a server that is full or ends takes it back",
        "a cookie's name, such as AWSALB",
    )
    master_key: SecretStr | None = setting(
        None,
        "the key above the archive's data keys: base64 of 32 bytes",
        "base64 of exactly 32 bytes",
        shown="a file in the data folder",
    )
    log_format: Literal["auto", "console", "json"] = setting(
        "auto", "`console`, `json`, or `auto`: console on a terminal, else JSON", "auto, console or json"
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "the least important messages that are logged", "debug, info, warning or error"
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """No source but what ``load`` hands over."""
        return (init_settings,)

    @field_validator("host")
    @classmethod
    def _host(cls, value: str) -> str:
        if not is_loopback(value):
            raise ValueError("other machines must not reach the development issuer's tokens")
        return value.strip("[]")

    @field_validator("admin_host")
    @classmethod
    def _admin_host(cls, value: str) -> str:
        return ip_or_localhost(value)

    @field_validator("admin_port")
    @classmethod
    def _ports_differ(cls, value: int, info: ValidationInfo) -> int:
        if value and value == info.data.get("port"):
            raise ValueError("is the public port; metrics need one of their own")
        return value

    @field_validator("public_url")
    @classmethod
    def _public_url(cls, value: str, info: ValidationInfo) -> str:
        host, port = info.data.get("host", "localhost"), info.data.get("port", 0)
        return origin(value or f"http://{bracketed(host)}:{port}")

    @field_validator("allowed_origins", "allowed_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _comma_list(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(map(origin, value)) or own_origins(info.data.get("public_url", ""))

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        own = (url.partition("://")[2] for url in own_origins(info.data.get("public_url", "")))
        return tuple(map(host_entry, value)) or tuple(own)

    @field_validator("data_dir")
    @classmethod
    def _folder(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str) -> str:
        return redis_url(value)

    @field_validator("archive_url", "clinics_url")
    @classmethod
    def _file_url(cls, value: str, info: ValidationInfo) -> str:
        name = {"archive_url": "archive", "clinics_url": "clinics.json"}[str(info.field_name)]
        value = value or f"file:{quote(str(info.data.get('data_dir', Path('data')) / name))}"
        if not (name == "archive" and value.startswith("s3:")):
            path_of(value)
        return value

    @field_validator("pocketsphinx_workers")
    @classmethod
    def _workers(cls, value: int) -> int:
        return value or min(128, 2 * (os.cpu_count() or 1))

    @field_validator("task_id")
    @classmethod
    def _name(cls, value: str) -> str:
        value = value or re.sub(r"[^A-Za-z0-9._:-]", "-", f"{socket.gethostname()}-{os.getpid()}")[-128:]
        if not _TASK_ID.fullmatch(value):
            raise ValueError("has characters that a task's name cannot have, or too many")
        return value

    @field_validator("sticky_cookie")
    @classmethod
    def _cookie(cls, value: str | None) -> str | None:
        return None if value is None else cookie_name(value)

    @field_validator("master_key")
    @classmethod
    def _master_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            key_bytes(value.get_secret_value())
        return value
