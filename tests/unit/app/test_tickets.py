from __future__ import annotations

import re

import jwt
import pytest

from app.auth.principal import AuthError
from app.auth.tickets import RESUME_TICKET_SECONDS, Tickets, parse_subprotocols
from tenants.clinic import ClinicId

KEY = bytes(range(32))
NORTH = ClinicId("north")
SESSION = "01932c07-209c-7c8f-b09a-2b4c5d6e7f80"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tickets(clock: Clock) -> Tickets:
    return Tickets(KEY, clock)


def issue(tickets: Tickets, **changes: object) -> str:
    claims = {"clinic_id": NORTH, "session_id": SESSION, "subject": "dr.a", "role": "speaker", "serial": 3}
    return tickets.issue(**{**claims, **changes}).token  # type: ignore[arg-type]


def code_of(tickets: Tickets, text: str) -> str:
    with pytest.raises(AuthError) as caught:
        tickets.verify(text)
    assert text not in str(caught.value) or not text
    return caught.value.code


def test_a_ticket_says_what_it_was_issued_for(tickets: Tickets, clock: Clock) -> None:
    ticket = tickets.verify(issue(tickets, serial=7))
    assert (ticket.clinic_id, ticket.session_id, ticket.subject) == (NORTH, SESSION, "dr.a")
    assert (ticket.role, ticket.serial, ticket.resume) == ("speaker", 7, False)
    assert ticket.expires_at == clock.now + 60


def test_no_two_tickets_are_the_same(tickets: Tickets) -> None:
    assert tickets.verify(issue(tickets)).ticket_id != tickets.verify(issue(tickets)).ticket_id


def test_an_observer_may_follow_the_whole_clinic_a_speaker_not(tickets: Tickets) -> None:
    assert tickets.verify(issue(tickets, session_id=None, role="observer")).session_id is None
    with pytest.raises(ValueError, match="session"):
        issue(tickets, session_id=None)


def test_a_ticket_lives_for_sixty_seconds(tickets: Tickets, clock: Clock) -> None:
    text = issue(tickets)
    clock.now += 59.9
    tickets.verify(text)
    clock.now += 0.1
    assert code_of(tickets, text) == "ticket_expired"


def test_a_resume_ticket_lives_for_two_days(tickets: Tickets, clock: Clock) -> None:
    issued = tickets.issue(
        clinic_id=NORTH, session_id=SESSION, subject="dr.a", role="speaker", serial=3, resume=True
    )
    assert issued.expires_at == "2027-01-17T08:00:00Z"
    clock.now += RESUME_TICKET_SECONDS - 1
    assert tickets.verify(issued.token).resume
    clock.now += 1
    assert code_of(tickets, issued.token) == "ticket_expired"


def test_every_character_is_legal_in_a_subprotocol(tickets: Tickets) -> None:
    text = issue(tickets, subject='dr. "ä", 山田; a=b ' * 10)
    assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", f"ticket.{text}")
    assert tickets.verify(text).subject.startswith('dr. "ä", 山田')


def test_what_this_house_did_not_sign_is_refused(tickets: Tickets, clock: Clock) -> None:
    good = issue(tickets)
    claims = jwt.decode(good, options={"verify_signature": False})
    forged = [
        "",
        "a.b.c",
        good[:-4] + "AAAA",
        good + "x" * 5000,
        issue(Tickets(b"y" * 32, clock)),
        jwt.encode(claims, "", algorithm="none"),
        jwt.encode(claims, KEY + KEY, algorithm="HS512"),
        jwt.encode({**claims, "aud": "kikitori"}, KEY, algorithm="HS256"),
        jwt.encode({**claims, "role": "owner"}, KEY, algorithm="HS256"),
        jwt.encode({**claims, "serial": "3"}, KEY, algorithm="HS256"),
        jwt.encode({**claims, "clinic": "../x"}, KEY, algorithm="HS256"),
        jwt.encode({name: claims[name] for name in claims if name != "session"}, KEY, algorithm="HS256"),
        jwt.encode({name: claims[name] for name in claims if name != "exp"}, KEY, algorithm="HS256"),
    ]
    assert {code_of(tickets, text) for text in forged} == {"ticket_invalid"}


def test_a_short_key_is_refused(clock: Clock) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Tickets(b"x" * 31, clock)


def test_the_offer_of_a_browser_is_read_in_any_order() -> None:
    offer = parse_subprotocols(["ticket.a.b.c", "kikitori.v1"])
    assert (offer.speaks_protocol, offer.ticket) == (True, "a.b.c")
    assert parse_subprotocols(["kikitori.v1"]).ticket is None
    assert not parse_subprotocols(["kikitori.v2", "ticket.x"]).speaks_protocol
    with pytest.raises(AuthError):
        parse_subprotocols(["kikitori.v1", "ticket.a", "ticket.b"])
