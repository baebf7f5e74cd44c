"""What is asked of Transcribe: an operator's options and a session's request, as parameters of the query; and time limits. Pure.

Source of the rules: Amazon Transcribe API Reference, StartStreamTranscription.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from audio.engine import Rejected, StreamRequest
from audio.pcm import SAMPLE_RATE

_LANGUAGES: Final = """
    af-ZA ar-AE ar-SA ca-ES cs-CZ da-DK de-CH de-DE el-GR en-AB en-AU en-GB en-IE en-IN en-NZ en-US en-WL en-ZA es-ES
    es-US eu-ES fa-IR fi-FI fr-CA fr-FR gl-ES he-IL hi-IN hr-HR id-ID it-IT ja-JP ko-KR lv-LV ms-MY nl-NL no-NO pl-PL
    pt-BR pt-PT ro-RO ru-RU sk-SK so-SO sr-RS sv-SE th-TH tl-PH uk-UA vi-VN zh-CN zh-HK zh-TW zu-ZA
"""
LANGUAGES: Final = frozenset(_LANGUAGES.split())
"""The languages of streaming transcription (the service's ``LanguageCode``)."""

PII_LANGUAGES: Final = frozenset({"en-AU", "en-GB", "en-US", "es-US"})
"""Where the service finds personal data in a stream; in streams of other languages it is not asked to."""

_PII_TYPES: Final = """
    ADDRESS AGE ALL BANK_ACCOUNT_NUMBER BANK_ROUTING CREDIT_DEBIT_CVV CREDIT_DEBIT_EXPIRY CREDIT_DEBIT_NUMBER DATE_TIME
    EMAIL LICENSE_PLATE NAME PASSPORT_NUMBER PASSWORD PHONE PIN SSN USERNAME VEHICLE_IDENTIFICATION_NUMBER
"""
PII_TYPES: Final = frozenset(_PII_TYPES.split())

_NAME: Final = re.compile(r"[0-9a-zA-Z._-]{1,200}")


class AwsLimits(msgspec.Struct, frozen=True):
    """Seconds.

    Attributes:
        open: until a stream is open, credentials included; less than the ring of a session holds, for meanwhile it is all there is.
        credentials: until there are credentials.
        send: how long the service may take nothing.
        end: from the end of audio to the service's close.
        keepalive: when nothing was sent for so long, silence is: the service ends a stream after 15 s without audio.
        linger: audio too short for a frame waits no longer than this for more.
        quiet, flush: see ``aws_results.Flushing``.
        replace: a stream older than this asks to be replaced when no segment is open.
        replace_latest: then it does so in any case; the service ends a stream after 4 h.
        tick: how often all this is looked at.
    """

    open: float = 4.0
    credentials: float = 3.0
    send: float = 10.0
    end: float = 8.0
    keepalive: float = 5.0
    linger: float = 0.3
    quiet: float = 1.5
    flush: float = 8.0
    replace: float = 3.5 * 3600
    replace_latest: float = 3.5 * 3600 + 25 * 60
    tick: float = 0.25


class AwsOptions(msgspec.Struct, frozen=True):
    """What an operator sets for all streams.

    Attributes:
        language_options: languages among which the service identifies what is spoken, at least two, one dialect of each;
            used for requests whose language is one of them, every other request names its language. Empty: never.
        code_switching: with ``language_options``, speakers change language within a stream (a consultation in ja-JP with
            en-US in it). Otherwise the service settles for one language, expecting the request's.
        vocabulary_filter: its name; ``vocabulary_filter_method`` says what becomes of the words in it.
        stability: stabilise partial results: ``high`` changes them least and hears worst. None: the service's own way.
        identify_pii: have personal data labelled, of ``pii_types`` or of all types, in ``PII_LANGUAGES``.

    Raises:
        ValueError: options contradict each other, or one is not what the service knows.
    """

    language_options: tuple[str, ...] = ()
    code_switching: bool = False
    vocabulary_filter: str | None = None
    vocabulary_filter_method: Literal["mask", "remove", "tag"] | None = None
    stability: Literal["low", "medium", "high"] | None = None
    identify_pii: bool = False
    pii_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for wrong in (_wrong_languages(self), _wrong_filter(self), _wrong_pii(self)):
            if wrong:
                raise ValueError(wrong)


def _wrong_languages(options: AwsOptions) -> str | None:
    languages = options.language_options
    if not languages:
        return "code switching needs language options" if options.code_switching else None
    if len(languages) < 2:
        return "language options are two languages or more"
    unknown = sorted(set(languages) - LANGUAGES)
    if unknown:
        return f"not languages of streaming transcription: {', '.join(unknown)}"
    if len({language.partition("-")[0] for language in languages}) < len(languages):
        return "language options may have one dialect of each language"
    return None


def _wrong_filter(options: AwsOptions) -> str | None:
    name, method = options.vocabulary_filter, options.vocabulary_filter_method
    if method is not None and name is None:
        return "a vocabulary filter method needs a vocabulary filter"
    if name is not None and not _NAME.fullmatch(name):
        return "a vocabulary filter's name is 1 to 200 letters, digits, dots, hyphens and underscores"
    if method not in (None, "mask", "remove", "tag"):
        return "a vocabulary filter method is mask, remove or tag"
    return None


def _wrong_pii(options: AwsOptions) -> str | None:
    if options.stability not in (None, "low", "medium", "high"):
        return "stability is low, medium or high"
    if options.pii_types and not options.identify_pii:
        return "types of personal data are named, but it is not to be identified"
    unknown = sorted(set(options.pii_types) - PII_TYPES)
    if unknown:
        return f"not types of personal data: {', '.join(unknown)}"
    if "ALL" in options.pii_types and len(options.pii_types) > 1:
        return "ALL types of personal data and single ones contradict each other"
    return None


def query_of(request: StreamRequest, options: AwsOptions, session_id: str) -> dict[str, str]:
    """The service's parameters for one stream.

    Raises:
        Rejected: the language is none of ``LANGUAGES``, or the vocabulary's name can be none.
    """
    if request.language not in LANGUAGES:
        raise Rejected("language", "not a language of streaming transcription")
    if request.vocabulary is not None and not _NAME.fullmatch(request.vocabulary):
        raise Rejected("vocabulary", "not the name of a vocabulary")
    query = {"media-encoding": "pcm", "sample-rate": str(SAMPLE_RATE), "session-id": session_id}
    identifying = request.language in options.language_options
    query |= _language(request, options) if identifying else {"language-code": request.language}
    # Vocabularies and filters of a stream that identifies languages go by other parameters, which take lists.
    plural = "s" if identifying else ""
    if request.vocabulary is not None:
        query[f"vocabulary-name{plural}"] = request.vocabulary
    if options.vocabulary_filter is not None:
        query[f"vocabulary-filter-name{plural}"] = options.vocabulary_filter
    if options.vocabulary_filter_method is not None:
        query["vocabulary-filter-method"] = options.vocabulary_filter_method
    if request.speaker_labels:
        query["show-speaker-label"] = "true"
    if options.stability is not None:
        query["enable-partial-results-stabilization"] = "true"
        query["partial-results-stability"] = options.stability
    return query | _pii(request, options, identifying=identifying)


def _language(request: StreamRequest, options: AwsOptions) -> dict[str, str]:
    among = {"language-options": ",".join(options.language_options)}
    if options.code_switching:
        # A preferred language goes with the identification of one language only.
        return among | {"identify-multiple-languages": "true"}
    return among | {"identify-language": "true", "preferred-language": request.language}


def _pii(request: StreamRequest, options: AwsOptions, *, identifying: bool) -> dict[str, str]:
    spoken = options.language_options if identifying else (request.language,)
    if not options.identify_pii or not PII_LANGUAGES.issuperset(spoken):
        return {}
    query = {"content-identification-type": "PII"}
    if options.pii_types:
        query["pii-entity-types"] = ",".join(options.pii_types)
    return query
