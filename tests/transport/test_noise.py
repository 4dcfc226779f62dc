"""Noise_NN_25519_AESGCM_SHA256: a published vector, and what the two sides never accept."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmtunnel.errors import ProtocolError
from llmtunnel.transport.noise import MAX_MESSAGE, TAG, CipherState, Handshake, Keys

# Of the Rust implementation `snow`, tests/vectors/snow.txt: the first with this name.
PROLOGUE = bytes.fromhex(
    "5468657265206973206e6f20726967687420616e642077726f6e672e2054686572652773206f6e6c792066756e20616e6420626f72696e672e"
)
INITIATOR = bytes.fromhex("37fe1f46e20738c35ba2a6dc18e22f3ab1ce7d5b6bfc0c831828d476fff9418b")
RESPONDER = bytes.fromhex("ea3fa55cb93537a991dd37b0a45f6ccd96fb405f7813960cd60d17ef8dd21045")
MESSAGES = [
    (
        "7abc443431e2a674ded40fa99190db8ec84c39f4e59b4b06ada67091ef8b4251",
        "cb3a5b076f4f6d0fbef467889a7dbe137af01edac2ee10b61bb30b5428541460"
        "7abc443431e2a674ded40fa99190db8ec84c39f4e59b4b06ada67091ef8b4251",
    ),
    (
        "c28c38b69d02d656ebb04b7776d4d9c5d2ddf56f02821171e7f2206b95bcbae6",
        "888b3440ba2722e6b8248d65ea3079cfd3204a8b6a212f6445d84b7caae72c7b"
        "3a7111b08614b0af014229d2454bedc6766528fdd6b0f78685f97629e2fb9173ea0319e47c1631c9ebe834528c360fda",
    ),
    (
        "90c827cc7c3c26e3731dd04dba5885d2fa122887eef8469cfc4673628412b06b",
        "e3d060c46b32dc55a171a95287d8ecc2570b7cd33792c6876b66abed3ea488b724dd95959f642782303d79d80d49f237",
    ),
    (
        "6eeb5ad89abc7cd32c29db62b609fab0f1c2d2f41c5f4dc8769a6cfc9575baeb",
        "cf7c33e720569f26b8a6f70b9a247fa41bd492bcb5a6cb6b2d5d1105502aed893ad24daa5c9e546dde6ea698f9c1fb0a",
    ),
]
"""Payload and message; from the initiator and the responder in turn."""


def ends(**how: int) -> tuple[Handshake, Handshake]:
    initiator = Handshake(initiator=True, prologue=PROLOGUE, private=INITIATOR, **how)  # type: ignore[arg-type]
    return initiator, Handshake(initiator=False, prologue=PROLOGUE, private=RESPONDER, **how)  # type: ignore[arg-type]


def met(**how: int) -> tuple[Keys, Keys]:
    initiator, responder = ends(**how)
    responder.read(initiator.write())
    initiator.read(responder.write())
    return initiator.split(), responder.split()


def test_the_published_vector_holds() -> None:
    sides = list(ends())
    for (payload, message), sender, receiver in zip(MESSAGES[:2], sides, reversed(sides), strict=True):
        assert sender.write(bytes.fromhex(payload)) == bytes.fromhex(message)
        assert receiver.read(bytes.fromhex(message)) == bytes.fromhex(payload)
    keys = [side.split() for side in sides]
    assert keys[0].hash == keys[1].hash and len(keys[0].hash) == 32
    for (payload, message), mine, theirs in zip(MESSAGES[2:], keys, reversed(keys), strict=True):
        assert mine.sends.encrypt(bytes.fromhex(payload)) == bytes.fromhex(message)
        assert theirs.receives.decrypt(bytes.fromhex(message)) == bytes.fromhex(payload)


def test_other_prologues_and_other_keys_meet_nobody() -> None:
    initiator, _ = ends()
    other = Handshake(initiator=False, prologue=b"another", private=RESPONDER)
    other.read(initiator.write())
    with pytest.raises(ProtocolError, match="altered"):
        initiator.read(other.write())


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f"), b"short"])
def test_a_key_that_makes_the_secret_known_to_all_is_refused(key: bytes) -> None:
    _, responder = ends()
    responder.read(key)
    with pytest.raises(ProtocolError, match="key is none"):
        responder.write()
    initiator, _ = ends()
    initiator.write()
    with pytest.raises(ProtocolError, match="key is none"):
        initiator.read(key + bytes(16))


def test_no_key_is_used_for_more_messages_than_it_may_be() -> None:
    (mine, theirs), key = met(rekey_every=3), b"k" * 32
    for number in range(20):
        assert theirs.receives.decrypt(mine.sends.encrypt(b"%d" % number)) == b"%d" % number
    state, cipher = CipherState(key, rekey_every=2), AESGCM(key)
    sent = [state.encrypt(b"x") for _ in range(3)]
    # Section 4.2: the new key is the encryption of 32 zeros with the nonce 2^64-1, and the counter goes on.
    after = AESGCM(cipher.encrypt(bytes(4) + b"\xff" * 8, bytes(32), b"")[:32])
    expected = [cipher, cipher, after]
    assert sent == [each.encrypt(number.to_bytes(12, "big"), b"x", b"") for number, each in enumerate(expected)]


def test_a_message_that_was_lost_repeated_or_sent_back_is_none() -> None:
    mine, theirs = met()
    first, second = mine.sends.encrypt(b"1"), mine.sends.encrypt(b"2")
    for wrong in (second, first[:-1], first + b"x", b"", theirs.sends.encrypt(b"3")):
        with pytest.raises(ProtocolError, match="altered"):
            theirs.receives.decrypt(wrong)
    assert theirs.receives.decrypt(first) == b"1"
    for wrong in (first, mine.sends.encrypt(b"3")):
        with pytest.raises(ProtocolError, match="altered"):
            theirs.receives.decrypt(wrong)
    with pytest.raises(ProtocolError, match="altered"):
        mine.receives.decrypt(second)


def test_the_longest_message_is_that_of_noise() -> None:
    mine, theirs = met()
    longest = bytes(MAX_MESSAGE - TAG)
    assert theirs.receives.decrypt(mine.sends.encrypt(longest)) == longest
    assert "Cipher" not in repr(mine)
