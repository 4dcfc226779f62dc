from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.errors import ErrorCode, ProtocolError
from llmtunnel.protocol import frames
from llmtunnel.protocol.frames import KINDS, MAX_BUNDLED_FRAME, MAX_MESSAGE, TEXT_LIMIT, Frame, FrameType, Kind, Of
from llmtunnel.protocol.hello import ALL_FEATURES, Feature
from llmtunnel.status import Role

types = st.sampled_from(FrameType)
plain_types = types.filter(lambda type: type is not FrameType.BUNDLE)
streams = st.integers(0, 2**32 - 1)
frame = st.tuples(plain_types, streams, st.binary(max_size=300))


def bundle_payload(parts: list[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


@given(types, streams, st.binary(max_size=1000))
def test_a_frame_comes_back_as_it_went(type_: FrameType, stream: int, payload: bytes) -> None:
    assert frames.decode(frames.encode(type_, stream, payload)) == Frame(type_, stream, payload)
    assert frames.encode(type_, stream, memoryview(payload)) == frames.encode(type_, stream, payload)


@pytest.mark.parametrize("size", range(5))
def test_a_message_under_five_bytes_is_no_frame(size: int) -> None:
    assert frames.decode(b"\x0a" * size) is None


def test_the_longest_message_is_taken_and_a_longer_one_refused() -> None:
    longest = frames.encode(FrameType.REQ_HEADERS, 1, bytes(frames.MAX_PAYLOAD))
    assert len(longest) == MAX_MESSAGE
    assert frames.decode(longest) is not None
    with pytest.raises(ProtocolError):
        frames.decode(longest + b"x")


@given(st.lists(frame, min_size=2, max_size=20))
def test_a_bundle_opens_to_what_was_put_in(given_frames: list[tuple[FrameType, int, bytes]]) -> None:
    encoded = [frames.encode(*each) for each in given_frames]
    message = frames.bundle(encoded)
    assert len(message) == frames.HEADER.size + sum(map(frames.bundled_size, encoded))
    opened = frames.decode(message)
    assert opened is not None
    assert (opened.type, opened.stream) == (FrameType.BUNDLE, 0)
    assert list(frames.unbundle(opened.payload)) == [Frame(*each) for each in given_frames]


def test_a_single_frame_is_not_bundled() -> None:
    assert frames.bundle([b"\x03\0\0\0\0"]) == b"\x03\0\0\0\0"


def test_the_largest_frame_that_bundles_makes_a_message_that_fits() -> None:
    large = frames.encode(FrameType.REQ_HEADERS, 1, bytes(MAX_BUNDLED_FRAME - frames.HEADER.size))
    assert frames.HEADER.size + frames.bundled_size(large) <= MAX_MESSAGE
    assert [len(each.payload) for each in frames.unbundle(bundle_payload([large]))] == [len(large) - 5]


@given(st.lists(frame, min_size=1, max_size=5), st.data())
def test_a_bundle_that_is_cut_gives_its_first_frames_and_an_error_inside_a_frame(
    given_frames: list[tuple[FrameType, int, bytes]], data: st.DataObject
) -> None:
    parts = [frames.encode(*each) for each in given_frames]
    whole = bundle_payload(parts)
    cut = data.draw(st.integers(0, len(whole)))
    ends = [len(bundle_payload(parts[:count])) for count in range(len(parts) + 1)]
    opened: list[Frame] = []
    if cut in ends:
        opened += frames.unbundle(whole[:cut])
    else:
        with pytest.raises(ProtocolError):
            for each in frames.unbundle(whole[:cut]):
                opened.append(each)
    assert opened == [Frame(*each) for each in given_frames][: sum(end <= cut for end in ends) - 1]


def test_a_bundle_in_a_bundle_is_refused() -> None:
    inner = frames.bundle([frames.encode(FrameType.PING, 0)] * 2)
    with pytest.raises(ProtocolError):
        list(frames.unbundle(bundle_payload([inner])))


@pytest.mark.parametrize("payload", [b"", b"\0\0", b"\0\0\0\0", bundle_payload([b"\x03", b"\x03\0\0\0"])])
def test_an_empty_bundle_and_frames_under_five_bytes_in_one_are_nothing(payload: bytes) -> None:
    assert list(frames.unbundle(payload)) == []


@given(st.binary(max_size=200))
def test_whatever_a_bundle_holds_it_opens_or_is_refused(payload: bytes) -> None:
    try:
        opened = list(frames.unbundle(payload))
    except ProtocolError:
        return
    assert sum(len(each.payload) + 5 for each in opened) <= len(payload)


@given(st.sampled_from(ErrorCode), st.text())
def test_a_reset_keeps_its_code_and_a_text_that_can_be_shown(code: ErrorCode, text: str) -> None:
    payload = frames.encode_reset(code, text)
    assert len(payload) <= 2 + TEXT_LIMIT
    read_code, read_text = frames.decode_reset(payload)
    assert read_code is code
    assert read_text.isprintable()
    if text.isprintable() and len(text.encode()) <= TEXT_LIMIT:
        assert read_text == text


@pytest.mark.parametrize("number", [12, 99, 256, 65_535])
def test_an_unknown_code_reads_as_internal(number: int) -> None:
    assert frames.decode_reset(number.to_bytes(2, "big") + b"why") == (ErrorCode.INTERNAL, "why")


@pytest.mark.parametrize("payload", [b"", b"\0"])
def test_a_reset_without_a_code_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        frames.decode_reset(payload)


@given(st.binary(max_size=2000))
def test_a_peers_text_is_bounded_and_harmless_to_a_terminal(payload: bytes) -> None:
    text = frames.decode_text(payload)
    assert len(text) <= TEXT_LIMIT
    assert text.isprintable()


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\u202egnp", "half \ud800"])
def test_what_could_play_with_a_terminal_is_replaced(text: str) -> None:
    shown = frames.decode_text(frames.encode_error(text))
    assert shown.isprintable()
    assert len(shown) == len(text)


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_numbers_come_back_as_they_went(credit: int, length: int) -> None:
    assert frames.decode_credit(frames.encode_credit(credit)) == credit
    assert frames.decode_length(frames.encode_length(length)) == length


@pytest.mark.parametrize("size", [size for size in range(12) if size != 4])
def test_a_credit_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError):
        frames.decode_credit(b"\x01" * size)


def test_a_credit_of_nothing_is_refused() -> None:
    with pytest.raises(ProtocolError):
        frames.decode_credit(bytes(4))


@pytest.mark.parametrize("size", [size for size in range(12) if size != 8])
def test_a_length_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError):
        frames.decode_length(bytes(size))


# -- the table of types

README = Path(frames.__file__).with_name("README.md")


def listed_in_readme() -> dict[int, tuple[str, str, str, str]]:
    """Section 2's table: number -> name, stream, sender, needed feature. A row may hold several types."""
    section = README.read_text("utf-8").split("\n## ")[2]
    listed = {}
    for row in section.splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if row.startswith("|") and cells[0][0].isdecimal():
            numbers, names, stream, sender, _, needs = cells
            for number, name in zip(numbers.split(", "), names.split(", "), strict=True):
                listed[int(number)] = (name, stream, sender, needs.strip("`"))
    return listed


def test_the_table_of_the_readme_is_the_one_of_the_code() -> None:
    streams = {Of.GREETING: "0", Of.SESSION: "0", Of.STREAM: "n", Of.EITHER: "n or 0"}
    ours = {
        int(kind.type): (kind.type.name, streams[kind.of], str(kind.sender or "both"), str(kind.needs or ""))
        for kind in KINDS.values()
    }
    assert listed_in_readme() == ours


def test_each_type_has_one_row() -> None:
    assert list(KINDS) == sorted(FrameType)


KEPT_FOR = {
    Of.SESSION: [range(1, 10), range(40, 60)],
    Of.STREAM: [range(10, 14), range(14, 20), range(20, 23), range(23, 30), range(31, 32), range(32, 40)],
    Of.EITHER: [range(30, 31), range(99, 100)],
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.type.name)
def test_a_type_has_a_number_of_those_that_are_kept_for_its_sort(kind: Kind) -> None:
    of = Of.SESSION if kind.of is Of.GREETING else kind.of
    assert any(kind.type in numbers for numbers in KEPT_FOR[of])
    # Or an older peer, which does not know it, would give it a number that its sender does not count.
    assert kind.type >= 10 or of is Of.SESSION


@pytest.mark.parametrize(
    ("type_", "of", "on_zero", "on_a_stream"),
    [
        (9, Of.SESSION, True, True),
        (40, Of.SESSION, True, False),
        (31, Of.STREAM, False, True),
        (30, Of.EITHER, True, True),
    ],
)
def test_the_stream_of_a_frame_says_nothing_up_to_type_9_and_has_to_fit_its_sort_above(
    type_: int, of: Of, on_zero: bool, on_a_stream: bool
) -> None:
    kind = Kind(type_, of)  # type: ignore[arg-type]
    assert [kind.stands_on(stream) for stream in (0, 1, 2**32 - 1)] == [on_zero, on_a_stream, on_a_stream]


def test_both_sides_expect_within_a_session_what_the_other_one_may_send() -> None:
    features = frozenset(Feature)
    for kind in KINDS.values():
        takers = {role for role in Role if kind.type in frames.expected(role, features)}
        senders = set(Role) if kind.sender is None else {kind.sender}
        assert takers == (set() if kind.of is Of.GREETING else {role.other for role in senders})


@pytest.mark.parametrize("feature", Feature)
def test_without_its_feature_a_type_is_neither_expected_nor_a_breach(feature: Feature) -> None:
    features = frozenset(Feature) - {feature}
    for kind in KINDS.values():
        if kind.needs is feature:
            assert not any(kind.type in frames.expected(role, features) for role in Role)
            assert not frames.is_breach(kind.type, features)


@given(st.integers(0, 255), streams)
def test_numbers_are_given_by_type_and_stream_alone(type_: int, stream: int) -> None:
    assert Frame(type_, stream, b"").of_stream == (type_ >= 10 and stream != 0)
    assert type_ in set(FrameType) or not frames.is_breach(type_, ALL_FEATURES)
