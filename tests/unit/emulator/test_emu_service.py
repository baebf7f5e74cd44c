from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from loadtest.emulator.control import Control, Unknown
from loadtest.emulator.eventstream import decode
from loadtest.emulator.faults import KINDS, MAX_ARMED, Fault, FaultBook, FaultKind, TooManyArmed, encoded
from loadtest.emulator.problems import Kind, ServiceError
from loadtest.emulator.service import Names, Quotas, Service
from loadtest.emulator.sigv4 import EMPTY_HASH, Credentials, Request, Scope, Verifier, canonical_request, sign
from loadtest.emulator.stream import Cut, Rules, Stream

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SESSION = "0b0e8b5e-4b1c-4f4e-9d8a-7d3b5a0c9f1{}"


class Call:
    def cancel(self) -> None:
        pass


class Loop:
    at = 10.0

    def time(self) -> float:
        return self.at

    def horizon(self) -> float:
        return self.at + 0.001

    def work(self, job: Callable[[bytes], object], data: bytes) -> None:
        job(data)

    def catch_up(self) -> None:
        pass

    def call_at(self, when: float, callback: Callable[[], object], /) -> Call:
        return Call()


class Wire:
    def __init__(self) -> None:
        self.exceptions: list[object] = []
        self.cuts: list[Cut] = []

    def event(self, message: bytes) -> None:
        self.exceptions.append(decode(message).headers.get(":exception-type"))

    def finish(self) -> None:
        pass

    def cut(self, how: Cut) -> None:
        self.cuts.append(how)

    def hold(self, *, reading: bool) -> None:
        pass


class House:
    def __init__(self, quotas: Quotas, names: Names | None = None) -> None:
        self.loop = Loop()
        self.service = Service(
            verifier=Verifier({"AKIDEXAMPLE": Credentials("SECRETEXAMPLE")}),
            rules=Rules(),
            quotas=quotas,
            names=names or Names(),
            timers=self.loop,
            now=NOW.timestamp,
        )

    def start(self, number: int = 0, region: str = "us-west-2", **more: str) -> tuple[Stream, Wire]:
        values = {"language-code": "en-US", "media-encoding": "pcm", "sample-rate": "16000", **more}
        values["session-id"] = SESSION.format(number)
        stamp = NOW.strftime("%Y%m%dT%H%M%SZ")
        scope = Scope("AKIDEXAMPLE", stamp[:8], region, "transcribe")
        fields = {
            **values,
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"AKIDEXAMPLE/{scope.path}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": "60",
            "X-Amz-SignedHeaders": "host",
        }
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())
        request = Request("GET", "/", query, {"host": "h"})
        signature = sign(
            "SECRETEXAMPLE", scope, stamp, canonical_request(request, [("host", "h")], EMPTY_HASH)
        )
        request = Request("GET", "/", f"{query}&X-Amz-Signature={signature}", {"host": "h"})
        admission = self.service.request(request, values, presigned=True)
        if admission.fault is not None and admission.fault.at_start:
            raise admission.fault.error
        wire = Wire()
        stream = self.service.open(admission, wire, "test")
        if admission.fault is not None:
            stream.arm(admission.fault)
        return stream, wire

    def refusal(self, number: int = 0, region: str = "us-west-2", **more: str) -> Kind:
        with pytest.raises(ServiceError) as caught:
            self.start(number, region, **more)
        return caught.value.kind


def test_a_region_has_so_many_places() -> None:
    house = House(Quotas(max_streams=2))
    first, _ = house.start(1)
    house.start(2)
    assert house.refusal(3) is Kind.LIMIT_EXCEEDED
    house.start(4, "eu-central-1")
    first.lost()
    house.start(5)
    counters = house.service.ledger.counters()
    assert (counters["open_streams"], counters["highest_open_streams"], counters["starts"]) == (3, 3, 4)
    assert counters["refusals"] == {"LimitExceededException": 1}


def test_and_so_many_starts_in_a_second_of_which_a_refused_one_is_none() -> None:
    house = House(Quotas(max_starts_per_second=2))
    house.start(1)
    house.loop.at += 0.5
    house.start(2)
    assert house.refusal(3) is Kind.LIMIT_EXCEEDED
    house.loop.at += 0.6
    house.start(3)
    assert house.refusal(4) is Kind.LIMIT_EXCEEDED


def test_a_session_that_starts_again_ends_its_former_stream() -> None:
    house = House(Quotas())
    _, former = house.start(1)
    stream, latter = house.start(1)
    assert former.exceptions == ["ConflictException"]
    assert latter.exceptions == []
    stream.lost()
    _, third = house.start(1)
    assert third.exceptions == []
    assert [account["ended"] for account in house.service.ledger.sessions(SESSION.format(1))] == [
        "ConflictException",
        "lost by the client",
        "",
    ]


def test_a_vocabulary_must_exist_where_they_are_listed() -> None:
    house = House(Quotas(), Names(frozenset({"knee"}), frozenset({"rude"})))
    house.start(1, **{"vocabulary-name": "knee", "vocabulary-filter-name": "rude"})
    assert house.refusal(2, **{"vocabulary-name": "hip"}) is Kind.BAD_REQUEST
    assert house.refusal(2, **{"vocabulary-filter-name": "knee"}) is Kind.BAD_REQUEST


def test_armed_faults_strike_in_order_and_as_often_as_said() -> None:
    house = House(Quotas())
    book = house.service.faults
    book.arm(Fault(FaultKind.THROTTLE, times=2))
    book.arm(
        Fault(FaultKind.REFUSE, session_id=SESSION.format(7), exception=Kind.SERVICE_UNAVAILABLE, times=0)
    )
    assert [house.refusal(1), house.refusal(2)] == [Kind.LIMIT_EXCEEDED] * 2
    house.start(3)
    assert [house.refusal(7), house.refusal(7)] == [Kind.SERVICE_UNAVAILABLE] * 2
    book.disarm(SESSION.format(7))
    house.start(7)
    assert book.armed == []


def test_a_fault_for_open_streams_strikes_at_once() -> None:
    house = House(Quotas())
    _, one = house.start(1)
    _, other = house.start(2)
    assert house.service.strike_now(Fault(FaultKind.DROP, session_id=SESSION.format(2))) == 1
    assert (one.cuts, other.cuts) == ([], [Cut.DROP])
    assert house.service.strike_now(Fault(FaultKind.TCP_RST)) == 1


def test_a_fault_may_be_written_into_a_session_id() -> None:
    kind = KINDS.index(FaultKind.STALL)
    found = encoded(f"FA17{kind:04x}-0019-0258-8000-000000000000")
    assert found is not None
    assert (found.kind, found.after_seconds, found.seconds) == (FaultKind.STALL, 2.5, 60.0)
    assert encoded("fa17ffff-0019-0258-8000-000000000000") is None
    assert FaultBook().take(SESSION.format(1)) is None


def test_no_more_faults_are_held_than_can_be() -> None:
    book = FaultBook()
    for _ in range(MAX_ARMED):
        book.arm(Fault(FaultKind.DROP))
    with pytest.raises(TooManyArmed):
        book.arm(Fault(FaultKind.DROP))


def ask(house: House, method: str, path: str, body: object = None) -> Any:
    return Control(house.service).answer(method, path, msgspec.json.encode(body))


def test_the_control_calls() -> None:
    house = House(Quotas())
    assert ask(house, "POST", "/faults", {"kind": "drop", "session_id": "x", "after_seconds": 2}) == {
        "armed": 1
    }
    (armed,) = ask(house, "GET", "/faults")
    assert (armed.kind, armed.session_id, armed.times) == (FaultKind.DROP, "x", 1)
    assert ask(house, "DELETE", "/faults/y") == {"armed": 1}
    assert ask(house, "DELETE", "/faults") == {"armed": 0}
    assert ask(house, "PUT", "/quotas", {"max_streams": 1}) == {"max_streams": 1, "max_starts_per_second": 25}
    _, wire = house.start(1)
    assert house.refusal(2) is Kind.LIMIT_EXCEEDED
    assert ask(house, "POST", "/faults/now", {"kind": "goaway"}) == {"struck": 1}
    assert wire.cuts == [Cut.GOAWAY]
    (account,) = ask(house, "GET", f"/sessions/{SESSION.format(1)}")
    assert (account["open"], account["samples"], account["region"]) == (False, 0, "us-west-2")
    assert ask(house, "GET", "/sessions/other") == []
    assert ask(house, "GET", "/counters")["open_streams"] == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/faults", {"kind": "earthquake"}),
        ("/faults", {"kind": "drop", "when": 1}),
        ("/faults", None),
        ("/faults/now", {"kind": "throttle"}),
    ],
)
def test_a_wrong_body_is_told(path: str, body: object) -> None:
    with pytest.raises(msgspec.DecodeError):
        ask(House(Quotas()), "POST", path, body)


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/counters"), ("PATCH", "/faults")])
def test_an_unknown_call_is_told(method: str, path: str) -> None:
    with pytest.raises(Unknown):
        ask(House(Quotas()), method, path)
