"""Who is let in: keys, parameters, the limits of a region, one stream to a session id. The wires ask it; it knows no socket."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from loadtest.emulator.faults import Fault, FaultBook
from loadtest.emulator.ledger import Ledger
from loadtest.emulator.parameters import Parameters, parse
from loadtest.emulator.problems import Kind, ServiceError, bad_request
from loadtest.emulator.sigv4 import Caller, Request, Verifier
from loadtest.emulator.stream import Rules, Stream, Timers, Wire

_SECOND: Final = 1.0


class Clock(Timers, Protocol):
    """The clock of the wires."""

    def work(self, job: Callable[[bytes], object], data: bytes) -> None:
        """Do ``job`` with what has been read: at once, or when all is read, in the order of these calls."""

    def catch_up(self) -> None:
        """Do all that was put off. To be called before anything that must come after what was read."""


@dataclass(slots=True)
class Quotas:
    """The limits of each region; may be changed at any time.

    Attributes:
        max_streams: open at once.
        max_starts_per_second: in any second; a start that is refused is none.
    """

    max_streams: int = 25
    max_starts_per_second: int = 25


@dataclass(frozen=True, slots=True)
class Names:
    """The vocabularies and filters that exist; an empty set stands for any."""

    vocabularies: frozenset[str] = frozenset()
    filters: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Region:
    streams: int = 0
    starts: deque[float] = field(default_factory=deque)
    """The starts of the last second: at most as many as the quota says."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that has been let in.

    Attributes:
        caller: who signed it.
        parameters: what is asked for.
        request_id: for the answer.
        fault: strikes instead of a stream when it ``at_start``, later otherwise.
    """

    caller: Caller
    parameters: Parameters
    request_id: str
    fault: Fault | None


class Service:
    """One Amazon Transcribe Streaming with all its regions.

    Args:
        verifier: knows the keys.
        rules: of a stream. ``quotas``: of a region. ``names``: what vocabularies there are.
        timers: its clock.
        now: seconds since 1970.
    """

    def __init__(
        self,
        *,
        verifier: Verifier,
        rules: Rules,
        quotas: Quotas,
        names: Names,
        timers: Clock,
        now: Callable[[], float],
    ) -> None:
        self.quotas = quotas
        self.now = now
        self.timers = timers
        self.ledger = Ledger()
        self.faults = FaultBook()
        self._verifier = verifier
        self._rules = rules
        self._names = names
        self._regions: dict[str, _Region] = {}
        self._streams: dict[int, Stream] = {}
        self._by_session: dict[str, Stream] = {}

    def request(self, request: Request, values: Mapping[str, str], *, presigned: bool) -> Admission:
        """Check a request to start a stream.

        Args:
            request: what is signed.
            values: the parameters by the names of the WebSocket query.
            presigned: whether the signature is in the query.

        Raises:
            ServiceError: it is refused; counted.
        """
        try:
            check = self._verifier.presigned if presigned else self._verifier.header_signed
            caller = check(request, self.now())
            parameters = parse(values)
            self._check_names(parameters)
            fault = self.faults.take(parameters.session_id)
            if fault is not None and fault.at_start:
                self.ledger.refused(f"fault: {fault.kind}")
            else:
                self._take_place(caller.region)
        except ServiceError as error:
            self.ledger.refused(error.kind)
            raise
        return Admission(caller, parameters, str(uuid.uuid4()), fault)

    def open(self, accepted: Admission, wire: Wire, carrier: str) -> Stream:
        """Begin the stream of a request that was let in; exactly one call each, at once, if its fault is not ``at_start``.

        A stream that has the same session id ends with a ConflictException, as the service has it. The caller arms the fault when it
        has answered the request.
        """
        parameters = accepted.parameters
        session_id, region = parameters.session_id, accepted.caller.region
        former = self._by_session.get(session_id)
        entry = self.ledger.open(session_id, region, carrier, accepted.request_id)

        def ended(how: str) -> None:
            self.ledger.close(entry, how)
            self._regions[region].streams -= 1
            del self._streams[entry.number]
            if self._by_session.get(session_id) is stream:
                del self._by_session[session_id]

        stream = Stream(
            wire=wire,
            parameters=parameters,
            entry=entry,
            rules=self._rules,
            timers=self.timers,
            on_end=ended,
        )
        self._streams[entry.number] = stream
        self._by_session[session_id] = stream
        if former is not None:
            former.fail(ServiceError(Kind.CONFLICT))
        return stream

    def strike_now(self, fault: Fault) -> int:
        """Let ``fault`` strike the open streams of its session, or all; say how many there were."""
        struck = [s for s in self._streams.values() if fault.session_id in {None, s.entry.session_id}]
        for stream in struck:
            stream.arm(fault)
        return len(struck)

    def check(self) -> None:
        """The rules that time alone breaks; to be called several times a second."""
        now = self.timers.time()
        for stream in [*self._streams.values()]:
            stream.check(now)

    def _take_place(self, name: str) -> None:
        region = self._regions.setdefault(name, _Region())
        now = self.timers.time()
        while region.starts and region.starts[0] <= now - _SECOND:
            region.starts.popleft()
        if (
            region.streams >= self.quotas.max_streams
            or len(region.starts) >= self.quotas.max_starts_per_second
        ):
            raise ServiceError(Kind.LIMIT_EXCEEDED)
        region.starts.append(now)
        region.streams += 1

    def _check_names(self, parameters: Parameters) -> None:
        asked = parameters.echo
        for existing, names in (
            (self._names.vocabularies, ("vocabulary-name", "vocabulary-names")),
            (self._names.filters, ("vocabulary-filter-name", "vocabulary-filter-names")),
        ):
            wanted = {
                part.strip() for name in names for part in asked.get(name, "").split(",") if part.strip()
            }
            if existing and wanted - existing:
                raise bad_request("The requested vocabulary or vocabulary filter couldn't be found.")
