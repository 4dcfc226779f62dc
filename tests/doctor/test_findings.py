"""What findings mean: the NAT's behaviour, and which path to expect."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llmtunnel.doctor.findings import Diagnosis, Facts, Finding, Mapping, Verdict, expect, mapping_of, mapping_row

OWN = {"192.168.1.2", "127.0.0.1"}
A, A2, B = ("203.0.113.9", 5000), ("203.0.113.9", 5001), ("203.0.113.10", 5000)
GOOD = Facts(signal=True, udp=True, mapping=Mapping.SAME)


@pytest.mark.parametrize(
    ("seen", "mapping"),
    [
        ([], Mapping.UNKNOWN),
        ([A], Mapping.UNKNOWN),
        ([A, A], Mapping.SAME),
        ([A, A2], Mapping.EACH),
        ([A, B], Mapping.EACH),
        ([("192.168.1.2", 5000)], Mapping.NONE),
        ([("192.168.1.2", 5000), ("127.0.0.1", 5000)], Mapping.NONE),
        ([("192.168.1.2", 5000), A], Mapping.EACH),
    ],
)
def test_what_servers_see_tells_how_a_nat_maps(seen: list[tuple[str, int]], mapping: Mapping) -> None:
    assert mapping_of(seen, OWN) is mapping


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (GOOD, "Expect a direct path."),
        (replace(GOOD, mapping=Mapping.NONE), "Expect a direct path."),
        (replace(GOOD, mapping=Mapping.UNKNOWN), "unless both sides"),
        (replace(GOOD, mapping=Mapping.EACH), "you need a TURN server"),
        (replace(GOOD, mapping=Mapping.EACH, turn=True), "or turn if"),
        (replace(GOOD, udp=False, turn=True), "Expect the path turn"),
        (replace(GOOD, udp=False, relay=True), "Expect the path relay"),
        (replace(GOOD, mapping=Mapping.EACH, relay=True), "or the relay if"),
        (replace(GOOD, udp=False), "only within the same network"),
        (replace(GOOD, signal=False), "until the signal server is reachable"),
        (replace(GOOD, udp=False, serve=True, secret=True, reached=True), "works"),
        (replace(GOOD, serve=False, reached=False), "until serve is in the room"),
        (replace(GOOD, serve=True, secret=False, reached=False), "with this code"),
        (replace(GOOD, serve=True, reached=False), "could not connect to it"),
    ],
)
def test_the_closing_line_says_which_path_to_expect(facts: Facts, words: str) -> None:
    assert words in expect(facts)


def test_where_serve_was_looked_for_only_a_connection_to_it_counts() -> None:
    assert Diagnosis(findings=(), facts=Facts(signal=True, reached=True)).connects
    assert not Diagnosis(findings=(), facts=replace(GOOD, reached=False)).connects


def test_a_relay_is_a_path_too() -> None:
    assert Diagnosis(findings=(), facts=Facts(signal=True, relay=True)).connects
    assert not Diagnosis(findings=(), facts=Facts(signal=False, relay=True)).connects


def test_a_tunnel_needs_the_signal_server_and_some_path() -> None:
    connects = {
        (signal, udp, turn): Diagnosis(findings=(), facts=Facts(signal=signal, udp=udp, turn=turn)).connects
        for signal in (False, True)
        for udp in (False, True)
        for turn in (False, True)
    }
    assert {facts for facts, yes in connects.items() if yes} == {
        (True, True, False),
        (True, False, True),
        (True, True, True),
    }


@pytest.mark.parametrize("mapping", Mapping)
def test_each_behaviour_has_its_row(mapping: Mapping) -> None:
    row = mapping_row(mapping)
    assert row.subject == "NAT"
    assert row.detail.endswith((".",))


def test_a_diagnosis_is_a_json_object() -> None:
    finding = Finding(subject="UDP", verdict=Verdict.BAD, detail="None.", hint="Try another network.")
    values = json.loads(json.dumps(Diagnosis(findings=(finding,), facts=GOOD).as_dict()))
    assert values["findings"] == [
        {"subject": "UDP", "verdict": "bad", "detail": "None.", "hint": "Try another network."}
    ]
    assert (values["connects"], values["mapping"], values["expectation"]) == (True, "same", "Expect a direct path.")
