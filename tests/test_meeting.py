from __future__ import annotations

import pytest

from llmtunnel.config import DEFAULT_SIGNAL
from llmtunnel.errors import SettingError
from llmtunnel.invite import EXAMPLE, Invite
from llmtunnel.meeting import Meeting, no_invite

INVITE = Invite.parse(EXAMPLE)
ELSEWHERE = Invite(room=INVITE.room, secret=INVITE.secret, signal="ws://10.0.0.2:8787")


def test_an_invite_says_room_secret_and_signal_server() -> None:
    for invite in (INVITE, EXAMPLE, f"  {EXAMPLE.upper()}\n"):
        assert Meeting.given(invite=invite) == Meeting(room=INVITE.room, secret=INVITE.secret, invite=INVITE)
    meeting = Meeting.given(invite=ELSEWHERE.code)
    assert meeting is not None
    assert (meeting.signal, meeting.invite) == (ELSEWHERE.signal, ELSEWHERE)


def test_a_room_is_met_in_with_a_secret_or_without_and_at_the_default_signal_server_unless_told() -> None:
    assert Meeting.given(room="r") == Meeting(room="r", secret=None, signal=DEFAULT_SIGNAL, invite=None)
    assert Meeting.given(room="r", secret="s", signal="ws://a") == Meeting(room="r", secret="s", signal="ws://a")


def test_where_nothing_is_given_there_is_no_meeting_and_an_invite_can_be_made() -> None:
    assert Meeting.given() is Meeting.given(signal="ws://a") is None
    made = Meeting.made("ws://a")
    assert made.invite is not None
    assert (made.room, made.secret, made.signal) == (made.invite.room, made.invite.secret, "ws://a")
    assert Meeting.made().signal == DEFAULT_SIGNAL
    assert "llmtunnel serve" in no_invite().hint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"invite": INVITE, "room": "r"}, "already contains the room and the secret"),
        ({"invite": INVITE, "secret": "s"}, "already contains the room and the secret"),
        ({"secret": "s"}, "without --room"),
        ({"invite": INVITE, "signal": "ws://other"}, "is for the signal server wss://signal-server.fly.dev"),
        ({"invite": ELSEWHERE, "signal": DEFAULT_SIGNAL}, "is for the signal server ws://10.0.0.2:8787"),
        ({"invite": INVITE, "signal": "http://x"}, "must start with ws:// or wss://, got 'http://x'."),
        ({"invite": "nonsense"}, "begins with a number"),
    ],
)
def test_what_contradicts_itself_is_an_error_that_says_what_to_leave_out(
    given: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingError) as caught:
        Meeting.given(**given)  # type: ignore[arg-type]
    assert message in caught.value.message
    assert caught.value.hint
    assert "tulip" not in caught.value.message + caught.value.hint.replace(EXAMPLE, "")


def test_a_signal_server_that_is_the_invites_in_another_spelling_is_no_contradiction() -> None:
    assert Meeting.given(invite=ELSEWHERE, signal="WS://10.0.0.2:8787/") == Meeting.of(ELSEWHERE)


def test_a_secret_is_not_shown() -> None:
    assert "s3cret" not in repr(Meeting(room="r", secret="s3cret"))
    assert "tulip" not in repr(Meeting.of(INVITE))
