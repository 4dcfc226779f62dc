"""Who may be a peer: the credentials for each new channel, and what a failed authentication means for this side."""

from __future__ import annotations

from ..bucket import Bucket
from ..config import ProxySettings, ServeSettings, Settings
from ..errors import AuthenticationFailed, ConnectFailed, TunnelError, Unwelcome, VersionMismatch
from ..protocol.auth import GUESS_EVERY, GUESSES, SPARED, ProxyCredentials, ServeCredentials
from ..protocol.door import Door, Networks
from ..protocol.handshake import Credentials
from ..protocol.keys import Certificates, Ticket
from ..status import Role
from ..transport.base import Binding
from .mux import Session


class ProxyAccess:
    """A proxy's access: the secret, and the ticket of its last session.

    ``looks``: the proxy connects only once, to see whether serve would accept it. Any end of its link is final.
    """

    def __init__(self, settings: Settings, *, looks: bool = False) -> None:
        self._looks = looks
        self._spares = looks or (isinstance(settings, ProxySettings) and settings.bench)
        self._room = settings.room
        self._secret = settings.secret
        self.ticket: Ticket | None = None
        """The ticket that the last session gave; None before the first."""
        self._guesses = Bucket(GUESSES, every=GUESS_EVERY)
        self._failures = 0

    def credentials(self, binding: Binding | None, networks: Networks = ()) -> Credentials | None:
        """Return what to authenticate with on a channel, or None if only the room's name is required."""
        if self._secret is None:
            return None
        return ProxyCredentials(
            room=self._room,
            certificates=_certificates(Role.PROXY, binding),
            secret=self._secret,
            ticket=self.ticket,
            guesses=self._guesses,
            spares=self._spares,
        )

    def established(self, session: Session) -> None:
        """Note that a session stands: keep its ticket, and forget earlier failures."""
        self.ticket = session.ticket
        self._failures = 0

    def ended(self, session: Session) -> None:
        """Note that a session has ended. Its ticket stays valid."""

    def is_final(self, reason: TunnelError, now: float, *, stood: bool) -> bool:
        """Return whether a retry is pointless after a link has ended for this reason.

        ``stood``: a session stood before. An unauthenticated peer cannot stop a proxy with a single message.
        """
        match reason:
            case _ if self._looks or (self._spares and reason.message == SPARED):
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
    """Serve's access: a door."""

    def __init__(self, settings: Settings, now: float) -> None:
        self._room = settings.room
        expires = settings.expires if isinstance(settings, ServeSettings) else None
        self.door = Door(
            settings.secret,
            expires=None if expires is None else now + expires,
            once=isinstance(settings, ServeSettings) and settings.once,
        )

    def credentials(self, binding: Binding | None, networks: Networks = ()) -> Credentials | None:
        """Return what a peer has to prove on a channel, or None if nothing.

        None: the channel has no certificates, and there is no secret.

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
        """Note that a session stands: serve knows its proxy while the session lives."""
        if session.ticket is not None:
            self.door.begin(session.ticket)

    def ended(self, session: Session) -> None:
        """Note that a session has ended."""
        if session.ticket is not None:
            self.door.end(session.ticket)

    def is_final(self, reason: TunnelError, now: float, *, stood: bool) -> bool:
        """Return False: serve continues, whatever happens to a peer."""
        return False


Access = ProxyAccess | ServeAccess


def _certificates(role: Role, binding: Binding | None) -> Certificates:
    if binding is None:
        raise ConnectFailed("This channel has no certificates, so it cannot be authenticated.")
    local, remote = binding.local, binding.remote
    return Certificates(proxy=local, serve=remote) if role is Role.PROXY else Certificates(proxy=remote, serve=local)
