"""The only reader of the environment: ``KIKITORI_*`` in, one frozen record out, or every mistake at once."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError

from app.config.settings import PREFIX, Settings
from app.config.values import Network

__all__ = ["PREFIX", "ConfigError", "Network", "Settings", "from_environment", "load", "variable"]

_LATER: Final = {
    "KIKITORI_OIDC_ISSUER": "sign-in through OpenID Connect",
    "KIKITORI_OIDC_AUDIENCE": "sign-in through OpenID Connect",
    "KIKITORI_OIDC_CLIENT_ID": "sign-in through OpenID Connect",
}


class ConfigError(Exception):
    """The settings cannot be used. The text has one line for each mistake and no value of any setting."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def variable(name: str) -> str:
    """The environment variable of a field."""
    return PREFIX + name.upper()


def load(env: Mapping[str, str]) -> Settings:
    """Settings from an environment. A variable that is set to nothing counts as not set.

    Raises:
        ConfigError: with every mistake, one line each.
    """
    known = {variable(name): name for name in Settings.model_fields}
    named = {key: value.strip() for key, value in env.items() if key.upper().startswith(PREFIX)}
    problems = [_unknown(key, list(known)) for key in sorted(named.keys() - known.keys())]
    settings = None
    try:
        settings = Settings.model_validate(
            {name: named[key] for key, name in known.items() if named.get(key)},
        )
    except ValidationError as error:
        problems += _explain(error)
    if settings is None or problems:
        raise ConfigError(problems)
    return settings


def from_environment() -> Settings:
    """``load`` for this process.

    Raises:
        ConfigError: see ``load``.
    """
    return load(os.environ)  # noqa: TID251 - the one place


def _explain(error: ValidationError) -> list[str]:
    wrong: dict[str, str] = {}
    for item in error.errors(include_input=False, include_context=False, include_url=False):
        wrong.setdefault(str(item["loc"][0]), item["msg"].removeprefix("Value error, "))
    return [f"{variable(name)}: {message}; write {_what_to_write(name)}" for name, message in wrong.items()]


def _what_to_write(name: str) -> str:
    extra = Settings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["write"])


def _unknown(key: str, known: list[str]) -> str:
    if key in _LATER:
        return f"{key}: {_LATER[key]} is not available in this version; unset it"
    near = difflib.get_close_matches(key.upper(), known, n=1)
    return f"{key}: there is no such setting; " + (f"did you mean {near[0]}?" if near else "unset it")
