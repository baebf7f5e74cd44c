"""What the two sockets have in common before their upgrade: subprotocols, tickets, headers, the query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from app.auth.principal import AuthError, Principal
from app.auth.tickets import Ticket, parse_subprotocols
from app.auth.tokens import parse_bearer
from app.errors import refused
from app.protocol.messages import PROTOCOL
from app.services import Services


async def caller(scope: Mapping[str, Any], services: Services) -> Ticket | Principal:
    """Who wants to enter: the ticket in the subprotocols, or who holds the bearer token.

    Raises:
        AuthError: refused.
    """
    offer = parse_subprotocols(scope["subprotocols"])
    if not offer.speaks_protocol:
        raise AuthError(
            "protocol_missing", f"offer the subprotocol {PROTOCOL}, and a ticket or a bearer token"
        )
    if offer.ticket is not None:
        return services.tickets.verify(offer.ticket)
    return await services.tokens.verify(parse_bearer(_header(scope, b"authorization")))


def parameter(scope: Mapping[str, Any], name: str) -> str | None:
    """A parameter of the query; None where it is left out.

    Raises:
        Refused: 400, it is there twice.
    """
    values = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get(name, [])
    if len(values) > 1:
        raise refused(400, f"bad_{name}", f"{name} is there twice")
    return values[0] if values else None


def _header(scope: Mapping[str, Any], name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
