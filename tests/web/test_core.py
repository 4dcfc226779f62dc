"""The JavaScript core beside the Python one: the same tables, the same bytes, the same keys, the same verdicts.

The Python core makes everything to compare with while the tests run. test_conformance.py has the state machines, and
test_live.py whole sessions.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from spake2 import ed25519_basic
from spake2.parameters.ed25519 import ParamsEd25519

from llmtunnel.bucket import Bucket
from llmtunnel.config import DEFAULT_RESUME_FOR, Limits, Timeouts
from llmtunnel.errors import ErrorCode, ProtocolError
from llmtunnel.protocol import auth, fields, frames, keys
from llmtunnel.protocol.frames import KINDS, Feature, FrameType
from llmtunnel.protocol.heads import MAX_INTERIM, RequestHead, ResponseHead
from llmtunnel.protocol.hello import (
    ALL_FEATURES,
    MAX_LANES,
    UNLIMITED,
    Agree,
    AuthAnswer,
    AuthOffer,
    Hello,
    ResumeOffer,
)
from llmtunnel.protocol.journal import ACK_EVERY
from llmtunnel.protocol.keys import Certificates, KeyExchange, Keys, Ticket
from llmtunnel.protocol.liveness import Liveness
from llmtunnel.protocol.outbox import QUANTUM
from llmtunnel.protocol.stream import TRANSITIONS
from llmtunnel.session import carrier
from llmtunnel.session.life import Life
from llmtunnel.status import Role

from ..fuzz import mutations
from .node import HERE, Calls, Handle, JsError, node
from .web_core import head_of, limits_of, response_of, timeouts_of

WEB = HERE.parent.parent / "llmtunnel/web"
LICENCES = {"MIT": "Permission is hereby granted", "Apache-2.0": "Apache License"}
"""Licences of vendored files, with words of their texts."""
SEEN = Certificates(proxy=b"p" * 32, serve=b"s" * 32)


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    with Calls() as calls:
        yield calls


@pytest.fixture
def rng() -> random.Random:
    return random.Random(17)


def test_the_units_hold() -> None:
    tests = sorted(str(path) for path in HERE.glob("*.test.js"))
    ran = subprocess.run([node(), "--test", "--test-reporter=tap", *tests], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout
    assert "# fail 0\n# cancelled 0\n# skipped 0\n# todo 0" in ran.stdout
    assert len(tests) > 3


# -- tables


def test_names_and_numbers_are_the_same(calls: Calls) -> None:
    assert calls.get("frames.FrameType") == {each.name: each.value for each in FrameType}
    assert calls.get("frames.Feature") == {each.name: each.value for each in Feature}
    assert calls.get("errors.ErrorCode") == {each.name: each.value for each in ErrorCode}
    assert calls.get("frames.ALL_FEATURES") == ALL_FEATURES
    for name in ("MAX_MESSAGE", "MAX_BODY", "MAX_STREAM", "MAX_PAYLOAD", "MAX_BUNDLED_FRAME"):
        assert calls.get(f"frames.{name}") == getattr(frames, name)
    assert calls.get("fields.MAX_FIELDS") == fields.MAX_FIELDS
    assert calls.get("heads.MAX_INTERIM") == MAX_INTERIM
    assert (calls.get("hello.MAX_LANES"), calls.get("hello.UNLIMITED")) == (MAX_LANES, UNLIMITED)
    assert (calls.get("journal.ACK_EVERY"), calls.get("outbox.QUANTUM")) == (ACK_EVERY, QUANTUM)


def test_the_table_of_frames_is_the_same(calls: Calls) -> None:
    listed = {type: {name: value for name, value in row.items() if value} for type, row in calls.get("frames.KINDS")}
    assert listed == {
        kind.type.value: {
            name: str(value)
            for name, value in (("of", kind.of.value), ("sender", kind.sender), ("needs", kind.needs))
            if value
        }
        for kind in KINDS.values()
    }


def test_the_states_of_a_stream_are_the_same(calls: Calls) -> None:
    table = calls.get("stream.TRANSITIONS")
    found = {(state, step): after for state, steps in table.items() for step, after in steps.items()}
    assert found == {(state.value, step.value): after.value for (state, step), after in TRANSITIONS.items()}


def test_limits_and_timeouts_are_the_same(calls: Calls) -> None:
    assert calls.get("config.LIMITS") == limits_of(Limits())
    assert calls.get("config.TIMEOUTS") == timeouts_of(Timeouts())
    assert calls.get("config.RESUME_FOR") == DEFAULT_RESUME_FOR


@pytest.mark.parametrize("remote", [False, True])
def test_users_read_the_same_words(calls: Calls, remote: bool) -> None:
    assert dict(calls.get("carrier.FOR_USERS")) == carrier._FOR_USERS
    for name in ("NOT_THE_SAME", "NONE_GIVEN", "TOO_MANY"):
        assert calls.get(f"auth.{name}") == getattr(auth, name)
    for code in ErrorCode:
        for message in [*carrier._FOR_USERS, "version: no", "The other one's own words"]:
            error: Handle = calls("carrier.sessionError", code, message, remote)
            expected = carrier.session_error(code, message, remote=remote, role=Role.PROXY)
            told = (error.get("name"), error.get("message"), error.get("hint"))
            assert told == (type(expected).__name__, expected.message, expected.hint)


# -- bytes


def verdict(call: Callable[..., Any], *args: object) -> tuple[object, ...]:
    """The outcome of a call: its value, or the code and text of its error."""
    try:
        return ("value", call(*args))
    except ProtocolError as exc:
        return ("error", int(exc.code), exc.message)
    except JsError as exc:
        assert exc.name == "ProtocolError", exc
        return ("error", exc.code, exc.message)


def frame_of(frame: dict[str, Any] | None) -> frames.Frame | None:
    return frame and frames.Frame(frame["type"], frame["stream"], frame["payload"])


def some_frame(rng: random.Random) -> tuple[int, int, bytes]:
    stream = rng.choice([0, 1, rng.randrange(2**32), 2**32 - 1])
    return rng.randrange(256), stream, rng.randbytes(rng.choice([0, 1, 8, 300]))


def test_frames_and_bundles_are_the_same_bytes(calls: Calls, rng: random.Random) -> None:
    for _ in range(150):
        made = [some_frame(rng) for _ in range(rng.randrange(1, 6))]
        ours = [frames.encode(*each) for each in made]  # type: ignore[arg-type]
        assert [calls("frames.encode", *each) for each in made] == ours
        bundle = frames.bundle(ours)
        assert calls("frames.bundle", ours) == bundle
        spoilt = mutations.of_bytes(rng, bundle) if rng.random() < 0.7 else bundle
        assert frame_of(calls("frames.decode", spoilt)) == frames.decode(spoilt)
        expected = verdict(lambda data: list(frames.unbundle(data)), spoilt[5:])
        assert verdict(lambda data: [frame_of(each) for each in calls("frames.unbundle", data)], spoilt[5:]) == expected


def test_numbers_and_texts_are_the_same_bytes(calls: Calls, rng: random.Random) -> None:
    for number in (0, 1, 255, 2**31 - 1, 2**32, 2**53 - 1):
        assert calls("frames.encodeCount", number) == frames.encode_count(number)
        assert calls("frames.decodeCount", frames.encode_count(number)) == number
        assert calls("frames.encodeLength", number) == frames.encode_length(number)
        credit = min(number, 2**32 - 1)
        assert calls("frames.encodeCredit", credit) == frames.encode_credit(credit)
    for function in ("decode_reset", "decode_error", "decode_credit", "decode_count", "decode_length"):
        here = getattr(frames, function, frames.decode_text)
        there = {"decode_error": "frames.decodeText"}.get(function, f"frames.{function[:6]}{function[7:].title()}")
        for _ in range(60):
            payload = rng.randbytes(rng.choice([0, 1, 2, 4, 5, 8, 9]))
            expected = verdict(here, payload)
            found = verdict(lambda data, there=there: calls(there, data), payload)
            if function == "decode_reset" and found[0] == "value":
                found = ("value", tuple(found[1]))  # type: ignore[arg-type]
            assert found == expected or float(found[1]) == float(expected[1])  # type: ignore[arg-type]


def test_a_peers_text_is_cleaned_in_the_same_way(calls: Calls, rng: random.Random) -> None:
    pieces = [b"plain ", "\u00e9\u4e2d\U0001f600".encode(), b"\x1b[31m", b"\xff", b"\xed\xa0\x80", b"\n", b"\xc2\x85"]
    pieces += ["\u202e\ufeff\u00a0\u2028\ue000".encode(), b"\xf0\x9f", b"\xef\xbb\xbf"]
    for _ in range(150):
        payload = b"".join(rng.choice(pieces) for _ in range(rng.choice([1, 5, 20, 200])))
        assert calls("frames.decodeText", payload) == frames.decode_text(payload)


# -- heads and hellos


def some_features(rng: random.Random) -> frozenset[Feature]:
    return ALL_FEATURES - {each for each in ALL_FEATURES if rng.random() < 0.4}


def some_bytes(rng: random.Random, most: int = 12) -> bytes:
    pool = rng.choice([b"abcXYZ-0189", bytes(range(32, 256)), "\u00e9\u4e2d\u20ac".encode()])
    return bytes(rng.choice(pool) for _ in range(rng.randrange(1, most)))


def some_fields(rng: random.Random) -> tuple[tuple[bytes, bytes], ...]:
    names = [b"Accept", b"accept", b"Cookie", b"Set-Cookie", b"X-1", b"7", b"__proto__", b"Content-Length"]
    return tuple((rng.choice(names), some_bytes(rng)) for _ in range(rng.randrange(5)))


def test_requests_heads_are_the_same_bytes(calls: Calls, rng: random.Random) -> None:
    for _ in range(200):
        head = RequestHead(
            method=rng.choice([b"GET", b"M-SEARCH"]),
            target=b"/" + some_bytes(rng),
            fields=some_fields(rng),
            client=rng.choice([0, 3]),
            last=rng.random() < 0.5,
            bench=rng.random() < 0.2,
        )
        features = some_features(rng)
        found = verdict(calls, "fields.encodeRequest", 5, head_of(head), features)
        expected = verdict(fields.encode_request, 5, head, features)
        if found[0] == expected[0] == "value":  # objects keep the order of names that look like numbers otherwise
            found, expected = json.loads(found[1]), json.loads(expected[1])  # type: ignore[arg-type]
        assert found == expected


def test_heads_that_fit_no_frame_are_refused_here(calls: Calls) -> None:
    for given in ([["a", "x" * 70_000]], [["a", ""]] * 1025):
        head = {"method": "GET", "target": "/", "fields": given}
        assert verdict(calls, "fields.encodeRequest", 1, head, ALL_FEATURES)[:2] == ("error", ErrorCode.TOO_LARGE)


SPOILT: list[object] = [None, True, 0, -1, 99, 1000, 200, "x", "", "caf\u00e9", "\ud800", [], {}, [[]], [["a"]]]
SPOILT += [[["a", 1]], [["a", "b", "c"]], [["a", "\u0100"]], [["a b", "c"]], [["a", "b\r"]], [["", "x"]], {"a": 1}]
SPOILT += [{"a": "\u20ac"}, [["a", ""]] * 1025, [["content-length", "+5"]]]
SPOILT += [[["content-length", "5"], ["Content-Length", other]] for other in (" 5", "6")]
SPOILT += [[["content-length", "5"], ["transfer-encoding", "chunked"]]]
"""Values that members of a head may not have, and some that they may."""


def test_heads_of_responses_are_read_and_refused_for_the_same_reasons(calls: Calls, rng: random.Random) -> None:
    for _ in range(600):
        features = some_features(rng)
        head = ResponseHead(status=rng.randrange(100, 1000), reason=some_bytes(rng), fields=some_fields(rng))
        members = json.loads(fields.encode_response(1, head, features))
        for name in rng.sample(["status", "reason", "fields", "headers", "more"], rng.choice([0, 0, 1, 2])):
            members[name] = rng.choice(SPOILT)
        payload = json.dumps(members, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace")
        if rng.random() < 0.2:
            payload = mutations.of_bytes(rng, payload)
        expected = verdict(fields.decode_response, payload, features)
        found = verdict(lambda *args: response_of(calls("fields.decodeResponse", *args)), payload, features)
        if found[0] == expected[0] == "value":
            assert sorted(found[1].fields) == sorted(expected[1].fields)  # type: ignore[attr-defined]
            found = (found[1].status, found[1].reason)  # type: ignore[attr-defined]
            expected = (expected[1].status, expected[1].reason)  # type: ignore[attr-defined]
        assert found[:2] == expected[:2], payload


def test_a_hello_is_the_same_bytes(calls: Calls, rng: random.Random) -> None:
    for _ in range(60):
        offer = AuthOffer(share=rng.randbytes(33), ticket=rng.choice([None, rng.randbytes(16)]))
        counts = tuple(rng.randrange(2**40) for _ in range(rng.choice([1, 2, 8])))
        hello = Hello(
            features=some_features(rng),
            window=rng.randrange(1024, 2**31),
            agent="web/1 \u00e9",
            auth=rng.choice([None, offer]),
            resume=rng.choice([None, ResumeOffer(session=rng.randbytes(16), received=counts)]),
            lanes=rng.choice([1, 8]),
        )
        found = calls(
            "hello.encodeHello",
            {
                "features": hello.features,
                "window": hello.window,
                "agent": hello.agent,
                "auth": hello.auth and {"share": offer.share, "ticket": offer.ticket},
                "resume": hello.resume and {"session": hello.resume.session, "received": counts},
                "lanes": hello.lanes,
            },
        )
        assert Hello.decode(found) == hello


AGREED: list[object] = [*SPOILT, 1, 2, 16, 17, 1023, 1024, 2**31, 2**53, [1, 2], [0] * 17, {"received": [3, "4"]}]
AGREED += [{"received": 7}, {"share": "00"}, {"share": "0G"}, {"share": "00", "nonce": "00"}, "ab", "AB", "a" * 130]


def test_an_agree_is_read_and_refused_for_the_same_reasons(calls: Calls, rng: random.Random) -> None:
    names = ["version", "features", "window", "streams", "agent", "auth", "session", "resume", "path", "once", "lanes"]
    for _ in range(500):
        agree = Agree(
            features=some_features(rng),
            window=rng.randrange(1024, 2**31),
            agent=rng.choice(["serve/1", "\u202e", "x" * 200]),
            auth=rng.choice([None, AuthAnswer(share=b"B" * 33), AuthAnswer(nonce=b"n" * 32)]),
            session=rng.choice([None, b"s" * 16]),
            received=rng.choice([None, (4,), (1, 2, 3)]),
            tcp_only=rng.random() < 0.2,
            once=rng.random() < 0.2,
            lanes=rng.choice([1, 3]),
        )
        members = json.loads(agree.encode())
        for name in rng.sample(names, rng.choice([0, 1, 2])):
            members[name] = rng.choice(AGREED)
        payload = json.dumps(members).encode()
        if rng.random() < 0.2:
            payload = mutations.of_bytes(rng, payload)
        found = verdict(calls, "hello.decodeAgree", payload)
        expected = verdict(lambda data: in_javascript(Agree.decode(data)), payload)
        assert found == expected, payload


def in_javascript(agree: Agree) -> dict[str, object]:
    """An AGREE as JavaScript has it."""
    answer = agree.auth and {"share": agree.auth.share, "nonce": agree.auth.nonce}
    return {
        "version": agree.version,
        "features": agree.features,
        "window": agree.window,
        "streams": agree.streams,
        "agent": agree.agent,
        "auth": answer,
        "session": agree.session,
        "received": None if agree.received is None else list(agree.received),
        "tcpOnly": agree.tcp_only,
        "once": agree.once,
        "lanes": agree.lanes,
    }


# -- cryptography

SECRETS = ["tulip-mango-onion-cedar-fruit", "x", "\u00e9\u4e2d\U0001f600", "long " * 200]


def test_the_two_constants_of_spake2_are_the_packages(calls: Calls) -> None:
    assert calls.get("spake2.M") == ParamsEd25519.M.to_bytes().hex()
    assert calls.get("spake2.N") == ParamsEd25519.N.to_bytes().hex()


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret[:5])
def test_spake2_gives_the_same_share_and_key(calls: Calls, rng: random.Random, secret: str) -> None:
    for _ in range(3):
        entropy = rng.randbytes(64)
        mirror = KeyExchange(Role.PROXY, secret, entropy=lambda size, entropy=entropy: entropy)
        proxy: Handle = calls("spake2.Spake2.start", secret, {"entropy": {"$returns": entropy}})
        assert proxy.get("share") == mirror.share
        serve = KeyExchange(Role.SERVE, secret)
        assert proxy.call("finish", serve.share) == serve.finish(proxy.get("share"))
        other: Handle = calls("spake2.Spake2.start", secret + "!")
        assert other.call("finish", KeyExchange(Role.SERVE, secret).share) != mirror.finish(
            KeyExchange(Role.SERVE, secret).share
        )


def test_a_key_that_is_the_groups_zero_is_the_same_on_both_sides(calls: Calls) -> None:
    """Serve's share has no random part then. Only a peer that has the secret can make it so."""
    zero = KeyExchange(Role.SERVE, "secret", entropy=bytes)
    proxy: Handle = calls("spake2.Spake2.start", "secret")
    assert proxy.call("finish", zero.share) == zero.finish(proxy.get("share"))


LOW_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
]
"""Points of the curve whose order divides 8. The first is zero."""


def test_a_share_that_is_none_is_refused(calls: Calls) -> None:
    good = KeyExchange(Role.SERVE, "secret").share
    proxy: Handle = calls("spake2.Spake2.start", "secret")
    own = proxy.get("share")
    off_the_curve = next(y.to_bytes(32, "little") for y in range(2, 99) if not _is_on_curve(y))
    mixed = _plus(good[1:], bytes.fromhex(LOW_ORDER[1]))
    bad = [b"", b"B", good[:-1], good + b"\0", own, b"S" + good[1:], b"b" + good[1:], b"B" + own[1:]]
    bad += [b"B" + bytes.fromhex(point) for point in LOW_ORDER]
    bad += [b"B" + off_the_curve, b"B" + b"\xff" * 32, b"B" + mixed]
    for share in bad:
        with pytest.raises(JsError) as caught:
            proxy.call("finish", share)
        assert caught.value.name == "RangeError", share.hex()
    assert len(proxy.call("finish", good)) == 32


def _is_on_curve(y: int) -> bool:
    return bool(ed25519_basic.isoncurve([ed25519_basic.xrecover(y), y]))


def _plus(one: bytes, other: bytes) -> bytes:
    point, more = (ed25519_basic.bytes_to_unknown_group_element(each) for each in (one, other))
    return bytes(point.add(more).to_bytes())


def test_keys_and_tickets_are_the_same(calls: Calls, rng: random.Random) -> None:
    for _ in range(20):
        shared, hello, agree = rng.randbytes(32), rng.randbytes(rng.randrange(900)), rng.randbytes(200)
        room = rng.choice(["room", "invite-4821309", "\u00e9\U0001f600"])
        expected: Keys = keys.derive(shared, room, SEEN, hello, agree)
        certificates = {"proxy": SEEN.proxy, "serve": SEEN.serve}
        found: Handle = calls("keys.derive", shared, room, certificates, hello, agree)
        assert found.get("proxy") == expected.proxy
        assert found.call("confirms", expected.serve) is True
        for wrong in (expected.proxy, expected.serve[:-1], expected.serve + b"\0", b"", bytes(32)):
            assert found.call("confirms", wrong) is False
        ticket = expected.ticket()
        assert Ticket(**found.get("ticket")) == ticket
        share, nonce = rng.randbytes(33), rng.randbytes(32)
        again = calls("keys.returning", {"id": ticket.id, "key": ticket.key}, share, nonce)
        assert again == keys.returning(ticket, share, nonce)


def test_a_proof_costs_a_guess_that_only_serves_own_proof_gives_back(calls: Calls) -> None:
    guesses: Handle = calls("auth.newGuesses")
    certificates = {"proxy": SEEN.proxy, "serve": SEEN.serve}
    credentials = {"room": "room", "secret": "secret", "certificates": certificates, "guesses": guesses}
    payloads = {"hello": b"hello", "agree": b"agree"}
    assert guesses.call("count", 0) == auth.GUESSES

    def begin(ticket: Ticket | None = None) -> Handle:
        held = ticket and {"id": ticket.id, "key": ticket.key}
        found: Handle = calls("auth.ProxyAuth.begin", {**credentials, "ticket": held})
        return found

    proxy, serve = begin(), KeyExchange(Role.SERVE, "secret")
    assert proxy.get("offer")["ticket"] is None
    expected = keys.derive(serve.finish(proxy.get("offer")["share"]), "room", SEEN, **payloads)
    assert proxy.call("prove", {"share": serve.share}, 0, payloads) == expected.proxy
    assert guesses.call("count", 0) == auth.GUESSES - 1
    ticket = Ticket(**proxy.call("check", expected.serve))
    assert ticket == expected.ticket()
    assert guesses.call("count", 0) == auth.GUESSES

    proxy = begin(ticket)
    share, nonce = proxy.get("offer")["share"], b"n" * 32
    expected = keys.derive(keys.returning(ticket, share, nonce), "room", SEEN, **payloads)
    assert proxy.get("offer")["ticket"] == ticket.id
    assert proxy.call("prove", {"nonce": nonce}, 0, payloads) == expected.proxy
    assert Ticket(**proxy.call("check", expected.serve)) == ticket, "using it does not change it"

    for left in reversed(range(auth.GUESSES)):
        proxy = begin()
        proxy.call("prove", {"share": serve.share}, 0, payloads)
        with pytest.raises(JsError, match=auth.NOT_THE_SAME):
            proxy.call("check", expected.serve)
        assert guesses.call("count", 0) == left
    with pytest.raises(JsError, match=auth.TOO_MANY) as caught:
        begin().call("prove", {"share": serve.share}, 0, payloads)
    assert caught.value.code == ErrorCode.UNAUTHENTICATED
    begin().call("prove", {"share": serve.share}, auth.GUESS_EVERY + 1, payloads)
    for answer in (None, {"nonce": nonce}):
        with pytest.raises(JsError, match="Serve") as caught:
            begin().call("prove", answer, 0, payloads)
        assert caught.value.code == ErrorCode.UNAUTHENTICATED


# -- small machines that decide, step by step beside each other


def test_a_bucket_gives_the_same_tokens(calls: Calls, rng: random.Random) -> None:
    here, there = Bucket(3, every=10.0), calls.new("bucket.Bucket", 3, {"every": 10})
    now = 0.0
    for _ in range(150):
        now += rng.choice([0, 1, 7.5, 40])
        if rng.random() < 0.8:
            assert there.call("take", now) is here.take(now)
        else:
            here.give(), there.call("give")


def test_liveness_pings_and_gives_up_at_the_same_times(calls: Calls, rng: random.Random) -> None:
    here = Liveness(Timeouts(), 0.0)
    there = calls.new("liveness.Liveness", timeouts_of(None), 0)
    now = 0.0
    verdicts = set()
    for _ in range(400):
        now += rng.choice([0, 0.3, 1.0, 1.7, 4.0])
        busy = rng.random() < 0.5
        match rng.choice(["check"] * 5 + ["heard", "pong", "measure", "suspect", "renew", "give_up"]):
            case "check":
                said = here.check(now, busy=busy).name.lower()
                verdicts.add(said)
                assert there.call("check", now, busy) == said
            case "suspect":
                here.suspect(), there.call("suspect")
            case "give_up":
                here.give_up(), there.call("giveUp")
            case name:
                getattr(here, name)(now), there.call(name, now)
        assert there.call("deadline", busy) == here.deadline(busy=busy)
        assert there.get("rtt") == here.rtt
    assert verdicts == {"alive", "ping", "dead"}


def test_a_session_waits_and_ends_at_the_same_times(calls: Calls, rng: random.Random) -> None:
    ends = set()
    for _ in range(40):
        now, heard = 0.0, 0.0
        here = Life(now=now, resume_for=20.0, introduces=False)
        there = calls.new("life.Life", 20)
        for _ in range(12):
            now += rng.choice([0, 0.3, 2.0, 6.5, 15.0])
            match rng.choice(["moved", "heard", "lost", "lost", "gone", "there"]):
                case "moved":
                    expected = here.moved(now, introduces=False, last_heard=heard)
                    found = there.call("moved", now, heard)
                case "heard":
                    expected, found = here.heard(now, last_heard=heard), there.call("heard", now, heard)
                    heard = now
                case "lost":
                    expected = here.lost(now, "The peer is silent.", last_heard=heard)
                    found = there.call("lost", now, "The peer is silent.", heard)
                case "gone":
                    expected, found = here.said_gone(now), there.call("saidGone", now)
                case _:
                    expected, found = here.said_there(), there.call("saidThere")
            assert (found and found["kind"]) == (expected and type(expected).__name__.lower())
            assert (found or {}).get("gap") == getattr(expected, "gap", None)
            assert there.get("deadline") == here.deadline
            why = here.end_of_wait(now)
            assert there.call("endOfWait", now) == why
            ends.add(why is not None)
    assert ends == {True, False}


# -- files


def test_vendored_files_are_those_of_the_list() -> None:
    listed = json.loads((WEB / "vendor/LIST.json").read_text("utf-8"))
    names = {"LIST.json"}
    for each in listed:
        data = (WEB / "vendor" / each["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == each["sha256"], "run: make web-vendor"
        text = (WEB / "vendor" / each["licenceFile"]).read_text("utf-8")
        assert any(name in each["licence"] and words in text for name, words in LICENCES.items())
        locked = json.loads((HERE / "package-lock.json").read_text("utf-8"))["packages"]
        for name, integrity in each["contains"].items():
            assert locked[f"node_modules/{name}"]["integrity"] == integrity
        names |= {each["file"], each["licenceFile"], Path(each["file"]).with_suffix(".d.ts").name}
    assert {path.name for path in (WEB / "vendor").iterdir()} == names


def test_the_wheel_has_every_file() -> None:
    project = tomllib.loads((HERE.parent.parent / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["llmtunnel"]
    packed = {path for pattern in patterns for path in (WEB.parent).glob(pattern)}
    assert {path for path in WEB.rglob("*") if path.is_file()} <= packed


def test_a_core_module_is_the_namesake_of_a_python_one() -> None:
    """Who knows one core finds the other. JavaScript has a few modules more: what Python brings with it."""
    ours = {str(path.relative_to(WEB / "core").with_suffix(".py")) for path in (WEB / "core").rglob("*.js")}
    alone = {path for path in ours if not (WEB.parent / path).exists()}
    assert alone == {"bytes.py", "close_matches.py", "queue.py", "protocol/spake2.py"}
