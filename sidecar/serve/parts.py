"""Builds the parts of the sidecar from the settings; each `…_of` returns one, not started."""

import hashlib
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.clock import Clock
from sidecar.core.jobs.job import Delivery, JobRefusal
from sidecar.core.jobs.storage import StorageRules
from sidecar.core.jobs.webhook_signing import parse_secret
from sidecar.core.overload.adaptive_limit import AdaptiveLimit
from sidecar.core.overload.shedder import Shedder
from sidecar.core.sink_spec import parse_sink
from sidecar.gate import Gate
from sidecar.jobs.runner import JobRunner
from sidecar.jobs.webhooks import AT_ONCE, DELIVERED, FAILED, TIMEOUT_S, WebhookSender
from sidecar.metering.sinks import make_sink
from sidecar.metering.spool import Spool
from sidecar.metrics import Metrics
from sidecar.outbound import OutboundClient
from sidecar.ports import Sink
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.deferral import Deferral
from sidecar.proxy.downstream.certificate import Certificate
from sidecar.proxy.downstream.listener import Listener
from sidecar.proxy.heads import ProxyOptions, trust
from sidecar.proxy.job_exchange import JobForwarder
from sidecar.proxy.upstream.address import Upstream, tls_context
from sidecar.proxy.upstream.pool import UpstreamPool
from sidecar.serve.account_events import AccountEvents
from sidecar.serve.plan_records import PlanRecords
from sidecar.settings import Settings
from sidecar.stores import Outbox, PlanFiles, RedisDirectory, keys
from sidecar.stores.connection.connect import Connection
from sidecar.stores.job_terms import JobTerms
from sidecar.stores.jobs import RedisJobs
from sidecar.waiting.room import WaitingRoom

JOURNAL: Final = "journal"  # in the directory of the spool
_FEWEST_PER_ADDRESS: Final = 64  # connections, if the setting is unset


def upstream_of(settings: Settings) -> Upstream:
    """The API's address and TLS. Raises SettingsError if its certificates cannot be used."""
    url = settings.upstream
    context = None
    if url.scheme == "https":
        context = tls_context(settings.upstream_ca, settings.upstream_cert, settings.upstream_key)
    return Upstream(url.host, url.port, url.path or None, context, settings.upstream_server_name)


def bounds_of(settings: Settings) -> Bounds:
    """The bounds of the data port, both to clients and to the upstream."""
    return Bounds(
        max_target=settings.max_target_bytes,
        max_header=settings.max_header_bytes,
        max_fields=settings.max_headers,
        max_response_header=settings.max_response_header_bytes,
        max_body=settings.max_body_bytes,
        max_connections=settings.max_connections,
        pending_heads=settings.pending_header_bytes,
        pending_heads_per_address=settings.pending_header_bytes_per_address,
        header_timeout=settings.header_timeout_s,
        idle_timeout=settings.idle_timeout_s,
        body_timeout=settings.body_timeout_s,
        connect_timeout=settings.connect_timeout_s,
        response_timeout=settings.response_timeout_s,
        upstream_connections=settings.upstream_connections,
        critical_connections=settings.critical_connections,
        account_percent=settings.account_connections_percent,
        tunnels=settings.max_websockets,
        small_body=settings.small_body_bytes,
        small_bodies=settings.small_bodies_bytes,
        upstream_idle=settings.upstream_idle_timeout_s,
        stream_timeout=settings.stream_timeout_s,
        expect_timeout=settings.expect_timeout_s,
        total_timeout=settings.total_timeout_s,
        usage_timeout=settings.usage_timeout_s,
        usage_bytes=settings.usage_bytes,
        usage_percent=settings.usage_connections_percent,
        decompression_ratio=settings.decompression_ratio,
        half_close_timeout=settings.half_close_timeout_s,
        stall_timeout=settings.stall_timeout_s,
        min_rate=settings.min_rate_bytes,
        tunnel_idle=settings.tunnel_idle_timeout_s,
        tunnel_lifetime=settings.tunnel_lifetime_s,
    )


def per_address_of(settings: Settings) -> int:
    """The maximum number of client connections per address; 0: no limit."""
    given = settings.max_connections_per_address
    return max(_FEWEST_PER_ADDRESS, settings.max_connections // 4) if given is None else given


def listener_of(settings: Settings, descriptor: int | None, *, shared: bool) -> Listener:
    """The listener of the data port.

    `descriptor`: a socket that listens already. `shared`: other processes listen on the same
    address. Raises SettingsError if the certificate cannot be used.
    """
    certificate = None
    if settings.tls_cert and settings.tls_key:
        certificate = Certificate(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    return Listener(
        settings.listen,
        backlog=settings.listen_backlog,
        mode=int(settings.listen_mode, 8),
        reuse_port=shared,
        inherited=None if descriptor is None else socket.socket(fileno=descriptor),
        certificate=certificate,
        handshake_timeout=settings.header_timeout_s,
    )


def spool_of(settings: Settings, metrics: Metrics) -> Spool:
    """The spool of usage events, not open yet."""
    return Spool(
        settings.spool,
        commit_window_s=settings.commit_window_ms / 1000,
        max_bytes=settings.spool_max_bytes,
        when_full=settings.spool_full,
        source=settings.source,
        observe_commit=metrics.commit.observe,
    )


def sinks_of(settings: Settings, lock_directory: Path | None) -> list[Sink]:
    """The sinks. `lock_directory`: for the locks of sinks of several processes on one output."""
    url = settings.redis.get_secret_value()
    stream = keys.events(settings.redis_prefix)
    return [
        make_sink(parse_sink(sink), redis_url=url, stream_key=stream, lock_directory=lock_directory)
        for sink in settings.sinks
    ]


def account_events_of(
    settings: Settings, wire: Connection, spool: Spool, own_id: str
) -> AccountEvents:
    """The part that makes events of changes by commands."""
    return AccountEvents(Outbox(wire, settings.redis_prefix, own_id), spool, settings.redis_prefix)


def plan_records_of(settings: Settings, wire: Connection) -> PlanRecords:
    """The part that keeps live plan files."""
    files = PlanFiles(wire, settings.redis_prefix)
    return PlanRecords(settings.plans, settings.spool, files)


def waiting_room_of(settings: Settings, metrics: Metrics) -> WaitingRoom:
    """The wait queue of requests that are over a limit for a short time."""
    return WaitingRoom(
        max_requests=settings.waiting_requests,
        max_bytes=settings.waiting_bytes,
        observe=metrics.waited.observe,
    )


def shedder_of(settings: Settings) -> Shedder:
    """The shedder with the configured limit of requests in flight: none, fixed or adaptive."""
    if settings.shed == "off":
        return Shedder()
    percent = settings.account_connections_percent
    if settings.shed == "adaptive":
        return Shedder(adaptive=AdaptiveLimit(settings.shed_min), percent=percent)
    return Shedder(fixed=int(settings.shed), percent=percent)


def options_of(settings: Settings, scheme: bytes) -> ProxyOptions:
    """Options of the data port; `scheme`: "http" or "https", as clients use it."""
    url = settings.upstream
    return ProxyOptions(
        via=(settings.via_name or f"sidecar-{workload_of(settings)}").encode(),
        scheme=scheme,
        upstream_host=(settings.upstream_host or "").encode(),
        authority=b"localhost" if url.path else str(url.address).encode(),
        forward_credentials=settings.forward_credentials,
        legacy_headers=settings.legacy_headers,
        traces=settings.trace_endpoint is not None,
        upgrades=frozenset(one.encode() for one in settings.upgrades),
        trusts=trust(settings.trusted_proxies),
    )


@dataclass(frozen=True, slots=True)
class JobParts:
    """The parts of deferred jobs.

    `counted`: jobs by state; `dropped`: ended jobs and results that made room for others;
    `webhooks`: attempts by outcome.
    """

    deferral: Deferral
    runner: JobRunner
    webhook_sender: WebhookSender | None
    counted: Counter[str]
    dropped: Counter[str]
    webhooks: dict[str, int]


def workload_of(settings: Settings) -> str:
    """A short name of the workload, whose sidecars share their jobs."""
    return hashlib.sha256(settings.source.encode()).hexdigest()[:12]


def job_terms_of(settings: Settings) -> JobTerms:
    """The bounds of the job queue."""
    return JobTerms(
        per_account=settings.jobs_per_account,
        in_all=settings.jobs_in_all,
        bytes_per_account=settings.job_bytes_per_account,
        bytes_in_all=settings.job_bytes_in_all,
        changes_per_minute=settings.job_changes_per_minute,
        max_age_s=settings.job_max_age_s,
        result_ttl_s=settings.job_result_ttl_s,
        lease_s=settings.job_lease_s,
        webhooks=settings.webhook_secret is not None,
    )


def storage_rules_of(settings: Settings) -> StorageRules:
    """What jobs store of requests and responses."""
    return StorageRules(
        fields=frozenset(name.encode() for name in settings.job_fields),
        parameters=frozenset(name.encode() for name in settings.job_parameters),
        query=settings.job_query_credentials,
    )


def _job_limits_of(terms: JobTerms) -> dict[JobRefusal, int]:
    return {
        JobRefusal.FULL: terms.per_account,
        JobRefusal.FULL_BYTES: terms.bytes_per_account,
        JobRefusal.TOO_LARGE: terms.bytes_per_account,
    }


def jobs_of(
    settings: Settings,
    delivery: Delivery,
    wire: Connection,
    gate: Gate,
    pool: UpstreamPool,
    options: ProxyOptions,
    directory: RedisDirectory,
    clock: Clock,
) -> JobParts:
    """The parts of deferred jobs."""

    def new_id() -> str:
        return clock.request_id(clock.now_ns())

    prefix = settings.reserved_prefix
    terms, rules = job_terms_of(settings), storage_rules_of(settings)
    store = RedisJobs(wire, settings.redis_prefix, workload_of(settings), terms)
    counted: Counter[str] = Counter()
    webhooks = {DELIVERED: 0, FAILED: 0}
    forwarder = JobForwarder(
        gate,
        pool,
        options,
        max_result=settings.job_result_bytes,
        rules=rules,
        timeout_s=settings.job_timeout_s,
    )
    runner = JobRunner(
        store,
        forwarder,
        at_once=settings.jobs_at_once,
        lease_s=settings.job_lease_s,
        new_id=new_id,
        counted=counted,
    )
    sender = None
    if settings.webhook_secret is not None:
        sender = WebhookSender(
            store,
            directory.account,
            master=parse_secret(settings.webhook_secret.get_secret_value()),
            client=OutboundClient(
                allow_private=settings.webhook_private, at_once=AT_ONCE, timeout_s=TIMEOUT_S
            ),
            href=lambda job_id: f"{prefix}jobs/{job_id}",
            now_s=lambda: clock.now_ns() // 1_000_000_000,
            counted=webhooks,
        )
    deferral = Deferral(
        gate,
        store,
        prefix=prefix.encode(),
        max_body=settings.job_body_bytes,
        limits=_job_limits_of(terms),
        rules=rules,
        delivery=delivery,
        new_id=new_id,
        counted=counted,
        on_accepted=runner.poll,
    )
    return JobParts(deferral, runner, sender, counted, store.dropped, webhooks)
