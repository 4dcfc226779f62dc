"""The place where two sides meet and their secret: from an invite, or a room and a secret of the user's choice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from .errors import SettingError
from .invite import DEFAULT_SIGNAL, Invite, signal_in_invite


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """The settings that must be the same on both sides."""

    room: str
    secret: str | None = field(default=None, repr=False)
    signal: str = DEFAULT_SIGNAL
    invite: Invite | None = None
    """The invite that the other fields come from, if any."""

    @classmethod
    def given(
        cls,
        *,
        invite: str | Invite | None = None,
        room: str | None = None,
        secret: str | None = None,
        signal: str | None = None,
    ) -> Self | None:
        """Combine the arguments; None if there is neither an invite nor a room. Raises `SettingError`.

        An invite contains all of it, so a room, a secret or a different ``signal`` contradict it.
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
        """Return the settings of an invite. Raises `SettingError` if ``signal`` names another signal server."""
        if signal is not None and signal_in_invite(signal) != invite.signal:
            raise SettingError(
                f"The invite is for the signal server {invite.signal}, and --signal names another one.",
                hint="Remove --signal, or make a new invite: llmtunnel invite --signal URL",
            )
        return cls(room=invite.room, secret=invite.secret, signal=invite.signal, invite=invite)

    @classmethod
    def made(cls, signal: str | None = None) -> Self:
        """Make a new invite."""
        return cls.of(Invite.generate(signal or DEFAULT_SIGNAL))


def no_invite() -> SettingError:
    """Return the error for a proxy without an invite or a room."""
    return SettingError(
        "No invite was given, so there is nothing to connect to.",
        hint="Run `llmtunnel serve` on the machine with the model, then use the code that it shows:"
        "\n  llmtunnel proxy CODE",
    )
