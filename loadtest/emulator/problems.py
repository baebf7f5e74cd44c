"""What the service refuses with: exception names, HTTP statuses, messages.

The names and statuses of the first five are those of the StartStreamTranscription API reference, the others are AWS's common errors.
"""

from __future__ import annotations

import json
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Kind(StrEnum):
    """An exception's name on the wire."""

    BAD_REQUEST = "BadRequestException"
    LIMIT_EXCEEDED = "LimitExceededException"
    INTERNAL_FAILURE = "InternalFailureException"
    CONFLICT = "ConflictException"
    SERVICE_UNAVAILABLE = "ServiceUnavailableException"
    UNRECOGNIZED_CLIENT = "UnrecognizedClientException"
    INVALID_SIGNATURE = "InvalidSignatureException"
    INCOMPLETE_SIGNATURE = "IncompleteSignatureException"
    UNSIGNED = "MissingAuthenticationTokenException"
    ACCESS_DENIED = "AccessDeniedException"
    UNKNOWN_OPERATION = "UnknownOperationException"


STATUS: Final = MappingProxyType(
    {
        Kind.BAD_REQUEST: 400,
        Kind.LIMIT_EXCEEDED: 429,
        Kind.INTERNAL_FAILURE: 500,
        Kind.CONFLICT: 409,
        Kind.SERVICE_UNAVAILABLE: 503,
        Kind.UNRECOGNIZED_CLIENT: 403,
        Kind.INVALID_SIGNATURE: 403,
        Kind.INCOMPLETE_SIGNATURE: 403,
        Kind.UNSIGNED: 403,
        Kind.ACCESS_DENIED: 403,
        Kind.UNKNOWN_OPERATION: 404,
    }
)

MESSAGES: Final = MappingProxyType(
    {
        Kind.BAD_REQUEST: "A client error occurred when the stream was created. Check the parameters of the request.",
        Kind.LIMIT_EXCEEDED: (
            "Your client has exceeded one of the Amazon Transcribe limits, typically the concurrent stream service quota. "
            "Reduce your number of concurrent streams and try your request again using an exponential backoff strategy."
        ),
        Kind.INTERNAL_FAILURE: "A problem occurred while processing the audio. Amazon Transcribe terminated processing.",
        Kind.CONFLICT: "A new stream started with the same session ID. The current stream has been terminated.",
        Kind.SERVICE_UNAVAILABLE: "The service is currently unavailable. Try your request later.",
        Kind.UNRECOGNIZED_CLIENT: "The security token included in the request is invalid.",
        Kind.INVALID_SIGNATURE: (
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
            "and signing method. Consult the service documentation for details."
        ),
        Kind.INCOMPLETE_SIGNATURE: "The request signature does not conform to AWS standards.",
        Kind.UNSIGNED: "Missing Authentication Token",
        Kind.ACCESS_DENIED: "User is not authorized to perform this operation.",
        Kind.UNKNOWN_OPERATION: "There is no such operation.",
    }
)

TIMED_OUT: Final = "Your request timed out because no new audio was received for 15 seconds."
TOO_BIG: Final = "Your stream is too big. Reduce the frame size and try your request again."
UNDECODABLE: Final = "Could not decode the audio stream that you provided. Check that the audio stream is valid and try your request again."
UNEXPECTED_FRAME: Final = "Unexpected WebSocket frame received."
"""Texts that clients of the service have reported from it."""


class ServiceError(Exception):
    """A request or a stream is refused.

    Args:
        kind: which exception of the service.
        message: for people; default: the kind's own.
    """

    def __init__(self, kind: Kind, message: str | None = None) -> None:
        self.kind = kind
        self.message = MESSAGES[kind] if message is None else message
        super().__init__(f"{kind}: {self.message}")

    @property
    def status(self) -> int:
        """The HTTP status of a refusal before the stream."""
        return STATUS[self.kind]

    @property
    def body(self) -> bytes:
        """The JSON body, the same before and within a stream."""
        return json.dumps({"Message": self.message}, separators=(",", ":")).encode()


def bad_request(message: str) -> ServiceError:
    """The refusal that has many reasons."""
    return ServiceError(Kind.BAD_REQUEST, message)
