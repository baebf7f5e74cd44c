"""What a client asks for, and what of it contradicts itself.

Source: StartStreamTranscription of the Amazon Transcribe streaming API reference. The names are those of the WebSocket query;
over HTTP/2 they have the prefix ``x-amzn-transcribe-``.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from loadtest.emulator.problems import bad_request

PREFIX: Final = "x-amzn-transcribe-"
SAMPLE_RATE: Final = 16_000
_LANGUAGES: Final = (
    "af-ZA ar-AE ar-SA ca-ES cs-CZ da-DK de-CH de-DE el-GR en-AB en-AU en-GB en-IE en-IN en-NZ en-US en-WL en-ZA es-ES es-US "
    "eu-ES fa-IR fi-FI fr-CA fr-FR gl-ES he-IL hi-IN hr-HR id-ID it-IT ja-JP ko-KR lv-LV ms-MY nl-NL no-NO pl-PL pt-BR pt-PT "
    "ro-RO ru-RU sk-SK so-SO sr-RS sv-SE th-TH tl-PH uk-UA vi-VN zh-CN zh-HK zh-TW zu-ZA"
)
LANGUAGES: Final = frozenset(_LANGUAGES.split())
_PII_TYPES: Final = (
    "ADDRESS AGE ALL BANK_ACCOUNT_NUMBER BANK_ROUTING CREDIT_DEBIT_CVV CREDIT_DEBIT_EXPIRY CREDIT_DEBIT_NUMBER DATE_TIME EMAIL "
    "LICENSE_PLATE NAME PASSPORT_NUMBER PASSWORD PHONE PIN SSN USERNAME VEHICLE_IDENTIFICATION_NUMBER"
)
PII_TYPES: Final = frozenset(_PII_TYPES.split())
_NAME: Final = re.compile(r"[0-9a-zA-Z._-]{1,200}")
_SESSION: Final = re.compile(r"[a-fA-F0-9]{8}(-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}")


@dataclass(frozen=True, slots=True)
class Parameters:
    """A request that contradicts nothing.

    Attributes:
        language: the one language; of several, the one to begin with.
        identify: whether the language is identified; ``multiple``: anew for each utterance.
        options: the languages to choose from.
        stability: how many of the newest words of a partial may still change; -1: any, as there is no stabilisation.
        filter_method: what happens to filtered words; empty: nothing is filtered.
        pii: "identify", "redact" or empty.
        pii_types: which kinds of PII.
        echo: the parameters as they are repeated in the answer's headers.
    """

    session_id: str
    language: str
    identify: bool
    multiple: bool
    options: tuple[str, ...]
    stability: int
    filter_method: str
    speakers: bool
    pii: str
    pii_types: frozenset[str]
    echo: Mapping[str, str]


_STABILITY: Final = {"high": 1, "medium": 2, "low": 4}
_SWITCHES: Final = frozenset(
    {
        "identify-language",
        "identify-multiple-languages",
        "enable-partial-results-stabilization",
        "show-speaker-label",
        "enable-channel-identification",
    }
)
_CHOICES: Final[Mapping[str, frozenset[str]]] = {
    "media-encoding": frozenset({"pcm", "flac", "ogg-opus"}),
    "partial-results-stability": frozenset(_STABILITY),
    "vocabulary-filter-method": frozenset({"mask", "remove", "tag"}),
    "content-identification-type": frozenset({"PII"}),
    "content-redaction-type": frozenset({"PII"}),
    "transcript-format": frozenset({"WRITTEN", "SPOKEN"}),
    "language-code": LANGUAGES,
    "preferred-language": LANGUAGES,
}
_NAMES: Final = frozenset({"vocabulary-name", "vocabulary-filter-name", "language-model-name"})
_LISTS: Final = frozenset({"vocabulary-names", "vocabulary-filter-names"})
_OTHERS: Final = frozenset(
    {
        "sample-rate",
        "session-id",
        "language-options",
        "pii-entity-types",
        "number-of-channels",
        "session-resume-window",
    }
)
KNOWN: Final = _SWITCHES | _CHOICES.keys() | _NAMES | _LISTS | _OTHERS


def parse(values: Mapping[str, str], new_id: Callable[[], uuid.UUID] = uuid.uuid4) -> Parameters:
    """The parameters of a request.

    Args:
        values: by the names of the WebSocket query.
        new_id: names a session that has no name.

    Raises:
        ServiceError: BadRequestException with what is wrong.
    """
    for name, value in values.items():
        _check_value(name, value)
    switches = {name: values.get(name, "false").lower() == "true" for name in _SWITCHES}
    _check_sound(values, switches)
    options = tuple(part.strip() for part in values.get("language-options", "").split(",") if part.strip())
    _check_languages(values, switches, options)
    _check_vocabularies(values, switches)
    _check_results(values, switches)
    session_id = values.get("session-id") or str(new_id())
    stability = values.get("partial-results-stability", "high")
    redact, identify_pii = "content-redaction-type" in values, "content-identification-type" in values
    filtered = "vocabulary-filter-name" in values or "vocabulary-filter-names" in values
    return Parameters(
        session_id=session_id,
        language=values.get("language-code") or values.get("preferred-language") or options[0],
        identify=switches["identify-language"] or switches["identify-multiple-languages"],
        multiple=switches["identify-multiple-languages"],
        options=options,
        stability=_STABILITY[stability] if switches["enable-partial-results-stabilization"] else -1,
        filter_method=values.get("vocabulary-filter-method", "mask") if filtered else "",
        speakers=switches["show-speaker-label"],
        pii="redact" if redact else "identify" if identify_pii else "",
        pii_types=frozenset(part.strip() for part in values.get("pii-entity-types", "ALL").split(",")),
        echo={**values, "session-id": session_id},
    )


def _check_value(name: str, value: str) -> None:
    if name not in KNOWN:
        raise bad_request(f"{name} is not a parameter of this operation.")
    if name in _SWITCHES and value.lower() not in {"true", "false"}:
        raise bad_request(f"{name} must be true or false.")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise bad_request(
            f"1 validation error detected: the value of {name} is not one of the allowed values."
        )
    if name in _NAMES and not _NAME.fullmatch(value):
        raise bad_request(f"{name} must be 1 to 200 letters, digits, dots, hyphens and underscores.")
    if name in _LISTS and not all(_NAME.fullmatch(part.strip()) for part in value.split(",")):
        raise bad_request(f"{name} must be names separated by commas.")
    if name == "session-id" and not _SESSION.fullmatch(value):
        raise bad_request("session-id must be a UUID.")
    if name == "pii-entity-types" and not {part.strip() for part in value.split(",")} <= PII_TYPES:
        raise bad_request("pii-entity-types has an unknown type.")


def _check_sound(values: Mapping[str, str], switches: Mapping[str, bool]) -> None:
    if "media-encoding" not in values or "sample-rate" not in values:
        raise bad_request("media-encoding and sample-rate are required.")
    rate = values["sample-rate"]
    if not (rate.isascii() and rate.isdecimal()) or not 8000 <= int(rate) <= 48000:
        raise bad_request("You didn't specify a valid sample rate: it must be between 8000 and 48000 hertz.")
    if values["media-encoding"] != "pcm" or int(rate) != SAMPLE_RATE:
        raise bad_request(f"This emulator hears only pcm at {SAMPLE_RATE} hertz.")
    if switches["enable-channel-identification"] or "number-of-channels" in values:
        if switches["show-speaker-label"]:
            raise bad_request("You can't set both show-speaker-label and enable-channel-identification.")
        raise bad_request("This emulator hears only one channel.")
    window = values.get("session-resume-window", "1")
    if not (window.isascii() and window.isdecimal()) or not 1 <= int(window) <= 300:
        raise bad_request("session-resume-window must be between 1 and 300 minutes.")


def _check_languages(
    values: Mapping[str, str], switches: Mapping[str, bool], options: tuple[str, ...]
) -> None:
    identify = switches["identify-language"] or switches["identify-multiple-languages"]
    ways = ["language-code" in values, switches["identify-language"], switches["identify-multiple-languages"]]
    if sum(ways) != 1:
        raise bad_request(
            "You must specify exactly one of language-code, identify-language and identify-multiple-languages."
        )
    if bool(options) != identify:
        raise bad_request("language-options and identify-language need each other.")
    if identify and len(options) < 2:
        raise bad_request("language-options must have two or more language codes.")
    if not set(options) <= LANGUAGES:
        raise bad_request("language-options has an unsupported language code.")
    if len({code.partition("-")[0] for code in options}) != len(options):
        raise bad_request("You can only include one language dialect per language.")
    preferred = values.get("preferred-language")
    if preferred is not None and (not switches["identify-language"] or preferred not in options):
        raise bad_request("preferred-language must be one of language-options, with identify-language.")


def _check_vocabularies(values: Mapping[str, str], switches: Mapping[str, bool]) -> None:
    identify = switches["identify-language"] or switches["identify-multiple-languages"]
    wrong = (
        ("vocabulary-name", "vocabulary-filter-name", "language-model-name") if identify else tuple(_LISTS)
    )
    found = [name for name in sorted(wrong) if name in values]
    if found:
        raise bad_request(
            f"{found[0]} can't be used {'with' if identify else 'without'} language identification."
        )
    if "vocabulary-filter-method" in values and not values.keys() & {
        "vocabulary-filter-name",
        "vocabulary-filter-names",
    }:
        raise bad_request("vocabulary-filter-method needs a vocabulary filter.")


def _check_results(values: Mapping[str, str], switches: Mapping[str, bool]) -> None:
    if "partial-results-stability" in values and not switches["enable-partial-results-stabilization"]:
        raise bad_request("partial-results-stability needs enable-partial-results-stabilization.")
    redact, identify_pii = "content-redaction-type" in values, "content-identification-type" in values
    if redact and identify_pii:
        raise bad_request(
            "You can't set content-identification-type and content-redaction-type in the same request."
        )
    if "pii-entity-types" in values and not (redact or identify_pii):
        raise bad_request("pii-entity-types needs content-identification-type or content-redaction-type.")
    if redact and (switches["identify-language"] or switches["identify-multiple-languages"]):
        raise bad_request("Language identification can't be combined with redaction.")
