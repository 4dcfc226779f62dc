"""The findings of the doctor, and what they mean for a tunnel: frozen values. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum

from ..status import TurnSource


class Verdict(StrEnum):
    """The rating of a finding."""

    GOOD = "good"
    POOR = "poor"
    """It works, with a caveat."""
    BAD = "bad"
    UNKNOWN = "unknown"
    """Not checked, or impossible to determine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of the table."""

    subject: str
    verdict: Verdict
    detail: str
    hint: str = ""
    """What the user can do about it."""


class Mapping(StrEnum):
    """How the NAT in front of this machine maps a socket (RFC 4787 section 4.1)."""

    NONE = "none"
    """No NAT: others see the machine's own address."""
    SAME = "same"
    """The same mapping for all destinations, so peers can send to it."""
    EACH = "each"
    """A new mapping for each destination ("symmetric"), so a peer cannot know it."""
    UNKNOWN = "unknown"
    """Fewer than two servers answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts that determine the expected path."""

    signal: bool = False
    """Whether the signal server admitted us to a room."""
    udp: bool = False
    """Whether a STUN server answered."""
    mapping: Mapping = Mapping.UNKNOWN
    turn: bool = False
    """Whether a TURN server relays for us."""
    turn_from: TurnSource | None = None
    """Who has named that server; None if none relays."""
    relay: bool = False
    """Whether the signal server offers a relay."""
    serve: bool | None = None
    """Whether serve is in the room; None if that was not checked or is unknown."""
    secret: bool | None = None
    """Whether serve has proven that it holds the same secret; None if that was not or could not be checked."""
    reached: bool | None = None
    """Whether a connection to serve was established; None if that was not tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The whole table, and its last line."""

    findings: tuple[Finding, ...]
    facts: Facts

    @property
    def expectation(self) -> str:
        """One sentence that says which path to expect."""
        return expect(self.facts)

    @property
    def connects(self) -> bool:
        """Whether a tunnel from here is likely to connect."""
        facts = self.facts
        if facts.reached is not None:
            return facts.reached
        return facts.signal and (facts.udp or facts.turn or facts.relay)

    def as_dict(self) -> dict[str, object]:
        """Return the JSON object of ``--json``."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            **asdict(self.facts),
            "connects": self.connects,
            "expectation": self.expectation,
        }


def mapping_of(seen: list[tuple[str, int]], own: set[str]) -> Mapping:
    """Return the NAT's behaviour, from the addresses that STUN servers saw for one socket and this machine's own."""
    if not seen:
        return Mapping.UNKNOWN
    if all(host in own for host, _ in seen):
        return Mapping.NONE
    if len(set(seen)) > 1:
        return Mapping.EACH
    return Mapping.SAME if len(seen) > 1 else Mapping.UNKNOWN


def mapping_row(mapping: Mapping, *, turn: bool = False) -> Finding:
    """Return the table's row about the NAT's behaviour. ``turn``: whether a TURN server relays for us."""
    symmetric = "It uses a new address for each peer (symmetric)"
    verdict, detail = {
        Mapping.NONE: (Verdict.GOOD, "No NAT: others see this machine's own address."),
        Mapping.SAME: (Verdict.GOOD, "It uses one address for all peers, so they can reach this machine."),
        Mapping.EACH: (
            Verdict.POOR,
            f"{symmetric}. Where that prevents a direct path, the TURN server relays."
            if turn
            else f"{symmetric}: you may need a TURN server (--turn).",
        ),
        Mapping.UNKNOWN: (Verdict.UNKNOWN, "NAT type unknown: two STUN servers must answer to determine it."),
    }[mapping]
    return Finding(subject="NAT", verdict=verdict, detail=detail)


def expect(facts: Facts) -> str:
    """Say which path to expect to a peer with an ordinary network."""
    if not facts.signal:
        return "No tunnel can start from here until the signal server is reachable."
    if facts.reached:
        return "A tunnel from here works."
    if facts.serve is False:
        return "No tunnel can start until serve is in the room."
    if facts.secret is False:
        return "No tunnel can start with this code."
    if facts.reached is False:
        return "Serve is in the room, but this machine could not connect to it."
    if facts.turn and not facts.udp:
        return "UDP is blocked here. Expect the path turn."
    if facts.relay and not facts.udp:
        return "UDP is blocked here. Expect the path relay, with an invite or a secret."
    if not facts.udp:
        return "UDP is blocked here, and no TURN server relays. Expect a direct path only within the same network."
    match facts.mapping:
        case Mapping.EACH if facts.turn:
            return "Expect a direct path, or turn if the other side's NAT is symmetric too."
        case Mapping.EACH if facts.relay:
            return "Expect a direct path, or the relay if the other side's NAT is symmetric too."
        case Mapping.EACH:
            return "Expect a direct path. If the other side's NAT is symmetric too, you need a TURN server (--turn)."
        case Mapping.UNKNOWN:
            return "Expect a direct path, unless both sides have a symmetric NAT."
    return "Expect a direct path."
