from __future__ import annotations

from llmtunnel.notebook import tables
from llmtunnel.paths import Path
from llmtunnel.status import Health, PeerStatus, Phase, Role, Status, TurnSource, UpstreamStatus

WAITING = Status(role=Role.SERVE, phase=Phase.WAITING, url="http://a", detail="Nobody\x1b is there.")


def test_a_summary_says_how_it_stands_where_and_what_is_wrong() -> None:
    first, second = tables.summary("gpu", WAITING).splitlines()
    assert first == "gpu: ◌ waiting for a proxy, http://a"
    assert second == "  Nobody\N{REPLACEMENT CHARACTER} is there."


def test_a_summary_says_whether_the_upstream_answers_once_that_is_known() -> None:
    for upstream, said in (
        (UpstreamStatus(health=Health.UP, models=("a", "b")), "  the model server answers: a, b"),
        (UpstreamStatus(health=Health.DOWN), "  the model server does not answer"),
    ):
        status = Status(role=Role.SERVE, phase=Phase.READY, url="http://a", upstream=upstream)
        assert said in tables.summary("gpu", status).splitlines()
    unknown = Status(role=Role.SERVE, phase=Phase.READY, url="http://a", upstream=UpstreamStatus())
    assert tables.summary("gpu", unknown) == "gpu: ● ready, http://a\n"


def test_a_summary_says_where_a_turn_server_comes_from() -> None:
    for source, origin in ((TurnSource.SETTINGS, "your settings"), (TurnSource.SIGNAL, "the signal server")):
        status = Status(role=Role.PROXY, phase=Phase.READY, url="http://a", turn=("turn:t",), turn_from=source)
        assert tables.summary("gpu", status) == f"gpu: ● ready, http://a\n  TURN server turn:t (from {origin})\n"


def test_peers_stand_in_columns() -> None:
    assert tables.peers(WAITING) == "no peer is connected\n"
    peers = tuple(PeerStatus(peer=f"proxy-{n}", path=Path.DIRECT, rtt=0.01, since=0.0) for n in (1, 22))
    head, *rows = tables.peers(Status(role=Role.SERVE, peers=peers)).splitlines()
    assert [row.split()[0] for row in rows] == ["proxy-1", "proxy-22"]
    assert {row.index("direct") for row in rows} == {head.index("path")}
