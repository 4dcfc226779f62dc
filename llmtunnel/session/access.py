"""Who may be a peer: what this side shows to the other one on each new channel, and what it makes of the outcome."""

from __future__ import annotations

from ..bucket import Bucket
from ..config import ServeSettings, Settings
from ..errors import AuthenticationFailed, ConnectFailed, TunnelError, Unwelcome, VersionMismatch
from ..protocol.auth import GUESS_EVERY, GUESSES, ProxyCredentials, ServeCredentials
from ..protocol.door import Door, Networks
from ..protocol.handshake import Credentials
from ..protocol.keys import Certificates, Ticket
from ..status import Role
from ..transport.base import Binding
from .mux import Session


class ProxyAccess:
    """A proxy's: the secret, and the ticket of the last session.

    ``looks``: it comes once, to see whether it would be let in, and whatever ends its link is final.
    """

    def __init__(self, settings: Settings, *, looks: bool = False) -> None:
        self._looks = looks
        self._room = settings.room
        self._secret = settings.secret
        self.ticket: Ticket | None = None
        """The last session's."""
        self._guesses = Bucket(GUESSES, every=GUESS_EVERY)
        self._failures = 0

    def credentials(self, binding: Binding | None, networks: Networks = ()) -> Credentials | None:
        """What to authenticate with on a channel; None where the room's name is all there is."""
        if self._secret is None:
            return None
        return ProxyCredentials(
            room=self._room,
            certificates=_certificates(Role.PROXY, binding),
            secret=self._secret,
            ticket=self.ticket,
            guesses=self._guesses,
            spares=self._looks,
        )

    def established(self, session: Session) -> None:
        """A session stands."""
        self.ticket = session.ticket
        self._failures = 0

    def ended(self, session: Session) -> None:
        """A session is over; its ticket stays good."""

    def is_final(self, reason: TunnelError, now: float, *, stood: bool) -> bool:
        """Whether there is no sense in trying again after a link has ended so; ``stood``: a session had been there.

        Who has not proven itself does not end a proxy by one word.
        """
        match reason:
            case _ if self._looks:
                return True
            case VersionMismatch() if self._secret is None:
                return True
            case Unwelcome() if stood:
                return True
            case AuthenticationFailed() | Unwelcome() | VersionMismatch():
                self._failures += 1
                return self._failures >= GUESSES or not self._guesses.has_one(now)
        return False


class ServeAccess:
    """Serve's: a door."""

    def __init__(self, settings: Settings, now: float) -> None:
        self._room = settings.room
        expires = settings.expires if isinstance(settings, ServeSettings) else None
        self.door = Door(
            settings.secret,
            expires=None if expires is None else now + expires,
            once=isinstance(settings, ServeSettings) and settings.once,
        )

    def credentials(self, binding: Binding | None, networks: Networks = ()) -> Credentials | None:
        """What to hold a peer on a channel to; None where a channel has no certificates, and nothing is asked for.

        ``networks``: where the peer is, see `Channel.networks`.
        """
        if self.door.secret is None and binding is None:
            return None
        return ServeCredentials(
            room=self._room,
            certificates=_certificates(Role.SERVE, binding),
            door=self.door,
            networks=networks,
        )

    def established(self, session: Session) -> None:
        """A session stands: its proxy is known while it lives."""
        if session.ticket is not None:
            self.door.begin(session.ticket)

    def ended(self, session: Session) -> None:
        """A session is over."""
        if session.ticket is not None:
            self.door.end(session.ticket)

    def is_final(self, reason: TunnelError, now: float, *, stood: bool) -> bool:
        """Serve goes on, whatever becomes of a peer."""
        return False


Access = ProxyAccess | ServeAccess


def _certificates(role: Role, binding: Binding | None) -> Certificates:
    if binding is None:
        raise ConnectFailed("Nobody can be authenticated on this channel.")
    local, remote = binding.local, binding.remote
    return Certificates(proxy=local, serve=remote) if role is Role.PROXY else Certificates(proxy=remote, serve=local)
