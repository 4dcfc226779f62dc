"""What was found, and what it means for a tunnel: frozen values, pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How good a finding is."""

    GOOD = "good"
    POOR = "poor"
    """It works, with something to know of."""
    BAD = "bad"
    UNKNOWN = "unknown"
    """Not asked for, or not to be found out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of the table."""

    subject: str
    verdict: Verdict
    detail: str
    hint: str = ""
    """What to do about it."""


class Mapping(StrEnum):
    """How the NAT in front of this machine maps a socket (RFC 4787 section 4.1)."""

    NONE = "none"
    """There is no NAT: the machine's own address is seen."""
    SAME = "same"
    """One address towards everybody: peers can send to it."""
    EACH = "each"
    """Another one towards each ("symmetric"): a peer cannot know it."""
    UNKNOWN = "unknown"
    """One server answered, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the expected path depends on."""

    signal: bool = False
    """The signal server took us into a room."""
    udp: bool = False
    """A STUN server answered."""
    mapping: Mapping = Mapping.UNKNOWN
    turn: bool = False
    """A TURN server relays for us."""
    relay: bool = False
    """The signal server relays."""
    serve: bool | None = None
    """Serve is in the room; None where no room was asked about, or it is not to be found out."""
    secret: bool | None = None
    """Serve has proven that it holds the same secret; None where that was not tried, or could not be."""
    reached: bool | None = None
    """A connection to serve came up; None where that was not tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The whole table, and its closing line."""

    findings: tuple[Finding, ...]
    facts: Facts

    @property
    def expectation(self) -> str:
        """One sentence: which path to expect."""
        return expect(self.facts)

    @property
    def connects(self) -> bool:
        """Whether a tunnel from here is likely to come up."""
        facts = self.facts
        if facts.reached is not None:
            return facts.reached
        return facts.signal and (facts.udp or facts.turn or facts.relay)

    def as_dict(self) -> dict[str, object]:
        """The JSON object of ``--json``."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            **asdict(self.facts),
            "connects": self.connects,
            "expectation": self.expectation,
        }


def mapping_of(seen: list[tuple[str, int]], own: set[str]) -> Mapping:
    """The NAT's behaviour from what each STUN server saw of one socket, and this machine's own addresses."""
    if not seen:
        return Mapping.UNKNOWN
    if all(host in own for host, _ in seen):
        return Mapping.NONE
    if len(set(seen)) > 1:
        return Mapping.EACH
    return Mapping.SAME if len(seen) > 1 else Mapping.UNKNOWN


def mapping_row(mapping: Mapping) -> Finding:
    """What the NAT's behaviour means, for the table."""
    verdict, detail = {
        Mapping.NONE: (Verdict.GOOD, "No NAT: others see this machine's own address."),
        Mapping.SAME: (Verdict.GOOD, "It uses one address for all peers, so they can reach this machine."),
        Mapping.EACH: (
            Verdict.POOR,
            "It uses a new address for each peer (symmetric): you may need --turn.",
        ),
        Mapping.UNKNOWN: (Verdict.UNKNOWN, "NAT type unknown: two STUN servers must answer to tell."),
    }[mapping]
    return Finding(subject="NAT", verdict=verdict, detail=detail)


def expect(facts: Facts) -> str:
    """What path to expect, to a peer with an ordinary network."""
    if not facts.signal:
        return "No tunnel can start from here until the signal server is reachable."
    if facts.reached:
        return "A tunnel from here works."
    if facts.serve is False:
        return "No tunnel can start until serve is in the room."
    if facts.secret is False:
        return "No tunnel can start with this code."
    if facts.reached is False:
        return "Serve is in the room, but no connection to it came up from here."
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
            return "Expect a direct path. If the other side's NAT is symmetric too, you need --turn."
        case Mapping.UNKNOWN:
            return "Expect a direct path, unless both sides have a symmetric NAT."
    return "Expect a direct path."
