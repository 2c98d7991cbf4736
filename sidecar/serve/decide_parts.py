"""Builds the decide port from the settings, and keeps its parts together."""

import asyncio
import socket
from collections.abc import Callable

from sidecar.addresses import MAX_SOCKET_PATH, Endpoint, UnixPath
from sidecar.decide.callers import Callers
from sidecar.decide.decisions import Decisions
from sidecar.decide.handler import DecideHandler
from sidecar.decide.peers import Peers, peer_socket
from sidecar.decide.port import DecidePort
from sidecar.errors import SettingsError
from sidecar.gate import Gate
from sidecar.metrics import Metrics
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.certificate import Certificate
from sidecar.proxy.downstream.listener import Listener
from sidecar.proxy.heads import trust
from sidecar.serve.decide_grpc import grpc_of, start_grpc
from sidecar.serve.share import WorkerShare
from sidecar.settings import Settings


class DecideParts:
    """The decide port with its listeners. Raises SettingsError if its files cannot be used."""

    def __init__(self, settings: Settings, share: WorkerShare) -> None:
        self._settings = settings
        self._share = share
        self._callers = Callers(settings.decide_token_file)
        self.certificate = _certificate_of(settings)
        self.listener: Listener | None = None
        if settings.decide is not None:
            self.listener = _listener_of(settings, settings.decide, share, self.certificate)
        self.grpc = grpc_of(settings, share, self._callers, self.certificate)
        self._for_workers: Listener | None = None
        if share.worker is not None and share.lock_directory is not None:
            path = str(peer_socket(share.lock_directory, share.worker))
            if len(path.encode()) > MAX_SOCKET_PATH:
                raise SettingsError(
                    f"--spool (SIDECAR_SPOOL): {share.lock_directory} is too long for the sockets "
                    f"of --workers with --decide; at most {MAX_SOCKET_PATH - 16} bytes"
                )
            self._for_workers = Listener(UnixPath(path), mode=0o600, setting="spool")

    async def start(self, gate: Gate, metrics: Metrics, new_id: Callable[[], str]) -> None:
        """Listen. Raises SettingsError if an address is unavailable."""
        settings, share = self._settings, self._share
        self.decisions = decisions = Decisions(
            gate,
            metrics,
            worker=share.worker or 0,
            most_open=settings.decide_open,
            settle_timeout=settings.decide_settle_timeout_s,
            access_log=settings.access_log,
            new_id=new_id,
        )
        peers = None
        if share.lock_directory is not None and self._for_workers is not None:
            peers = Peers(share.lock_directory)
        internal = None if peers is None else self._handler(Callers(), None, new_id)
        handler = self._handler(self._callers, peers, new_id)
        bounds = _bounds_of(settings)
        self.port = DecidePort(
            decisions, handler, bounds, peers=peers, internal=internal, grpc=self.grpc
        )
        await self.port.start(self.listener, self._for_workers)
        self.port.publish(metrics, self.listener)
        if self.certificate is not None and self.listener is None:
            self.certificate.publish(metrics, "sidecar_decide")
        if self.grpc is not None:
            try:
                await start_grpc(self.grpc, settings, decisions, peers, metrics, new_id)
            except SettingsError:
                await self.stop(0.0, 0.0, asyncio.Event())
                raise

    def _handler(
        self, callers: Callers, peers: Peers | None, new_id: Callable[[], str]
    ) -> DecideHandler:
        settings = self._settings
        return DecideHandler(
            self.decisions,
            callers,
            new_id=new_id,
            trusts=trust(settings.trusted_proxies),
            most_wait_us=settings.decide_wait_ms * 1000,
            max_body=settings.decide_body_bytes,
            legacy=settings.legacy_headers,
            peers=peers,
        )

    @property
    def refused_callers(self) -> int:
        """Requests without a valid token."""
        return self._callers.refused

    def reload(self) -> None:
        """Read tokens and certificate again."""
        self._callers.reload()
        if self.certificate is not None:
            self.certificate.reload()

    async def stop(self, delay: float, drain: float, hurry: asyncio.Event) -> None:
        """End without losing a decision; see `DecidePort.stop`."""
        await self.port.stop(delay, drain, hurry)


def decide_of(settings: Settings, share: WorkerShare) -> DecideParts | None:
    """The decide port, not started; None without an address. Raises SettingsError."""
    if settings.decide is None and settings.decide_grpc is None:
        return None
    return DecideParts(settings, share)


def _bounds_of(settings: Settings) -> Bounds:
    """The bounds of the decide port: gateways keep many connections, and send small documents."""
    return Bounds(
        max_header=settings.max_header_bytes + 16_384,  # the original header, and a refusal
        max_target=settings.max_target_bytes,
        max_fields=settings.max_headers + 16,  # those that the gateway adds
        max_body=settings.decide_body_bytes,
        max_connections=settings.max_connections,
        pending_heads=settings.pending_header_bytes,
        header_timeout=settings.header_timeout_s,
        idle_timeout=settings.idle_timeout_s,
        body_timeout=settings.body_timeout_s,
        min_rate=settings.min_rate_bytes,
    )


def _certificate_of(settings: Settings) -> Certificate | None:
    if not (settings.decide_tls_cert and settings.decide_tls_key):
        return None
    return Certificate(
        settings.decide_tls_cert,
        settings.decide_tls_key,
        settings.decide_client_ca,
        setting="decide_tls_cert",
    )


def _listener_of(
    settings: Settings, address: Endpoint, share: WorkerShare, certificate: Certificate | None
) -> Listener:
    descriptor = share.decide_descriptor
    return Listener(
        address,
        backlog=settings.listen_backlog,
        mode=int(settings.decide_mode, 8),
        reuse_port=share.worker is not None,
        inherited=None if descriptor is None else socket.socket(fileno=descriptor),
        certificate=certificate,
        handshake_timeout=settings.header_timeout_s,
        setting="decide",
    )
