from __future__ import annotations

import pytest

from llmtunnel.errors import ProtocolError
from llmtunnel.protocol.frames import MAX_MESSAGE
from llmtunnel.protocol.journal import OVERHEAD, Journal, Receipts


def test_a_journal_keeps_what_is_not_acknowledged_in_order() -> None:
    journal = Journal(1 << 20)
    for frame in (b"one", b"two", b"three"):
        journal.add(frame)
    journal.acknowledge(1)
    assert (journal.sent, journal.acknowledged, journal.kept) == (3, 1, (b"two", b"three"))
    journal.acknowledge(0)
    journal.acknowledge(1)
    assert journal.kept == (b"two", b"three"), "an old count says nothing new"
    with pytest.raises(ProtocolError):
        journal.acknowledge(4)
    journal.acknowledge(3)
    assert (journal.kept, journal.size) == ((), 0)


@pytest.mark.parametrize("size", [1, 1000, MAX_MESSAGE])
def test_a_journal_that_is_asked_first_never_holds_more_than_its_limit(size: int) -> None:
    journal = Journal(1 << 20)
    while not journal.full:
        journal.add(bytes(size))
    assert (1 << 20) - 2 * (MAX_MESSAGE + OVERHEAD) < journal.size <= 1 << 20
    journal.acknowledge(journal.sent // 2)
    assert not journal.full


def test_a_journal_that_a_frame_of_full_size_just_fits_is_filled_to_its_last_byte() -> None:
    journal = Journal(1 << 20)
    while (room := (1 << 20) - journal.size - MAX_MESSAGE - 2 * OVERHEAD) > 0:
        journal.add(bytes(min(room, MAX_MESSAGE)))
    assert not journal.full
    journal.add(bytes(MAX_MESSAGE))
    assert journal.size == 1 << 20 and journal.full


def test_receipts_count_frames_and_the_bytes_since_they_were_told() -> None:
    receipts = Receipts()
    assert not receipts.pending
    for _ in range(10):
        assert receipts.take(1000)
    assert receipts.size == 10 * (1000 + OVERHEAD)
    assert receipts.pending and receipts.tell() == receipts.count == 10
    assert not receipts.size and not receipts.pending


def test_what_comes_again_is_told_apart_by_its_number() -> None:
    receipts = Receipts()
    for _ in range(5):
        receipts.take(1)
    receipts.expect_resume()
    receipts.resume(4)
    assert [receipts.take(1) for _ in range(4)] == [False, False, True, True]
    assert receipts.count == 7
