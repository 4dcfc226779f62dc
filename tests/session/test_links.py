"""Whose link is given up for one more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from llmtunnel.config import Limits
from llmtunnel.session.link import Link
from llmtunnel.session.links import Links
from llmtunnel.signaling.messages import Member
from llmtunnel.signaling.negotiation import Negotiation
from llmtunnel.status import Role
from tests.conftest import run


@dataclass(eq=False)
class Stranger:
    """A link that is being made, as far as `Links` looks at it."""

    member: Member
    networks: tuple[str, ...]
    name = "a stranger"
    session = None
    carries = False

    def settle(self) -> None: ...

    async def overlap(self, stopping: object) -> None: ...

    async def aclose(self, *, stopping: bool) -> None: ...


def left_of(places: list[str], arrivals: list[str]) -> list[str]:
    """Who is left of those who come from ``places``, where more come after them; one place is not known yet."""

    async def main() -> list[str]:
        links = Links(Limits(strangers=len(places)), Negotiation(Role.SERVE))
        for number, place in enumerate([*places, *arrivals]):
            assert links.make_place(0)
            stranger = Stranger(Member(peer_id=f"{place}-{number}"), (place,) if place else ())
            links.add(cast(Link, stranger))
        left = list(links.by_id)
        await links.aclose()
        return left

    return run(main())


def test_one_from_where_the_most_come_is_given_up_the_oldest_of_them() -> None:
    assert left_of(["home", "evil", "evil"], ["evil"]) == ["home-0", "evil-2", "evil-3"]
    assert left_of(["evil", "home", "evil"], ["evil", "evil"]) == ["home-1", "evil-3", "evil-4"]


def test_those_that_have_not_connected_yet_are_given_up_for_each_other() -> None:
    assert left_of(["home", "", ""], ["", ""]) == ["home-0", "-3", "-4"]


def test_where_all_come_from_different_places_the_oldest_is_given_up() -> None:
    assert left_of(["one", "two", "three"], ["four"]) == ["two-1", "three-2", "four-3"]
