"""Where two sides meet and what they prove to each other: what an invite says, or a room and a secret of one's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from .errors import SettingError
from .invite import DEFAULT_SIGNAL, Invite, signal_in_invite


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """What both sides must have the same of."""

    room: str
    secret: str | None = field(default=None, repr=False)
    signal: str = DEFAULT_SIGNAL
    invite: Invite | None = None
    """Where it is from an invite."""

    @classmethod
    def given(
        cls,
        *,
        invite: str | Invite | None = None,
        room: str | None = None,
        secret: str | None = None,
        signal: str | None = None,
    ) -> Self | None:
        """What these say together; None where neither invite nor room is there. Raises `SettingError`.

        An invite says all of it: room and secret beside it contradict it, and so does another ``signal``.
        """
        if invite is None:
            if room is not None:
                return cls(room=room, secret=secret, signal=signal or DEFAULT_SIGNAL)
            if secret is not None:
                raise SettingError("--secret was given without --room.", hint="Add --room NAME, or remove the secret.")
            return None
        if room is not None or secret is not None:
            raise SettingError(
                "An invite already contains the room and the secret.",
                hint="Remove either the invite, or --room and --secret.",
            )
        return cls.of(invite if isinstance(invite, Invite) else Invite.parse(invite), signal=signal)

    @classmethod
    def of(cls, invite: Invite, *, signal: str | None = None) -> Self:
        """What an invite says. Raises `SettingError` where that is another signal server than ``signal``."""
        if signal is not None and signal_in_invite(signal) != invite.signal:
            raise SettingError(
                f"The invite is for the signal server {invite.signal}, and --signal names another one.",
                hint="Remove --signal, or make a new invite: llmtunnel invite --signal URL",
            )
        return cls(room=invite.room, secret=invite.secret, signal=invite.signal, invite=invite)

    @classmethod
    def made(cls, signal: str | None = None) -> Self:
        """A new invite."""
        return cls.of(Invite.generate(signal or DEFAULT_SIGNAL))


def no_invite() -> SettingError:
    """What a proxy says that does not know where to go."""
    return SettingError(
        "No invite was given, so there is nothing to connect to.",
        hint="Run `llmtunnel serve` on the machine with the model, then use the code that it shows:"
        "\n  llmtunnel proxy CODE",
    )
