"""From the settings to the values that the parts of the data path are given."""

import hashlib
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sidecar.core.jobs.webhook_signing import secret_of
from sidecar.core.overload.adaptive_limit import AdaptiveLimit
from sidecar.core.overload.shedder import Shedder
from sidecar.core.sink_spec import parse_sink
from sidecar.gate import Gate
from sidecar.jobs.desk import Jobs
from sidecar.jobs.runner import JobRunner
from sidecar.jobs.webhooks import WebhookSender
from sidecar.metering.sinks import make_sink
from sidecar.metering.spool import Spool
from sidecar.metrics import Metrics
from sidecar.ports import Sink
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.deferral import Deferral
from sidecar.proxy.downstream.certificate import Certificate
from sidecar.proxy.downstream.listener import Listener
from sidecar.proxy.heads import ProxyOptions, trust
from sidecar.proxy.job_exchange import JobForwarder
from sidecar.proxy.upstream.address import Upstream, tls_context
from sidecar.proxy.upstream.pool import UpstreamPool
from sidecar.settings import Settings
from sidecar.stores import RedisDirectory, keys
from sidecar.stores.connection.connect import Connection
from sidecar.stores.jobs import JobTerms, RedisJobs
from sidecar.waiting.room import WaitingRoom


def upstream_of(settings: Settings) -> Upstream:
    """Where the API is. Raises SettingsError for certificates that cannot be used."""
    to = settings.upstream
    context = None
    if to.scheme == "https":
        context = tls_context(settings.upstream_ca, settings.upstream_cert, settings.upstream_key)
    return Upstream(to.host, to.port, to.path or None, context, settings.upstream_server_name)


def bounds_of(settings: Settings) -> Bounds:
    """The bounds of the data path."""
    return Bounds(
        max_target=settings.max_target_bytes,
        max_header=settings.max_header_bytes,
        max_fields=settings.max_headers,
        max_body=settings.max_body_bytes,
        max_connections=settings.max_connections,
        header_timeout=settings.header_timeout_s,
        idle_timeout=settings.idle_timeout_s,
        body_timeout=settings.body_timeout_s,
        connect_timeout=settings.connect_timeout_s,
        response_timeout=settings.response_timeout_s,
        upstream_connections=settings.upstream_connections,
        critical_connections=settings.critical_connections,
        upstream_idle=settings.upstream_idle_timeout_s,
        stream_timeout=settings.stream_timeout_s,
        total_timeout=settings.total_timeout_s,
        half_close_timeout=settings.half_close_timeout_s,
        stall_timeout=settings.stall_timeout_s,
        min_rate=settings.min_rate_bytes,
        tunnel_idle=settings.tunnel_idle_timeout_s,
        tunnel_lifetime=settings.tunnel_lifetime_s,
    )


def listener_of(settings: Settings, descriptor: int | None, *, shared: bool) -> Listener:
    """Where calls come in. `descriptor`: a socket that listens already; `shared`: other processes
    listen on the same address. Raises SettingsError for certificates that cannot be used."""
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


def spool_of(settings: Settings) -> Spool:
    """Where events are written; not open yet."""
    return Spool(
        settings.spool,
        commit_window_s=settings.commit_window_ms / 1000,
        max_bytes=settings.spool_max_bytes,
        when_full=settings.spool_full,
        source=settings.source,
    )


def sinks_of(settings: Settings, turns_in: Path | None) -> list[Sink]:
    """Where they are shipped. `turns_in`: the directory where sinks of several processes that share
    an output take turns."""
    url = settings.redis.get_secret_value()
    stream = keys.events(settings.redis_prefix)
    return [
        make_sink(parse_sink(sink), redis_url=url, stream_key=stream, lock_directory=turns_in)
        for sink in settings.sinks
    ]


def room_of(settings: Settings, metrics: Metrics) -> WaitingRoom:
    """Where calls are held that come a little too early."""
    return WaitingRoom(
        most=settings.waiting_requests,
        most_bytes=settings.waiting_bytes,
        observe=metrics.waited.observe,
    )


def shedder_of(settings: Settings) -> Shedder:
    """Who is refused when the API is overloaded, and what says that it is."""
    if settings.shed == "off":
        return Shedder()
    if settings.shed == "adaptive":
        return Shedder(found=AdaptiveLimit(settings.shed_min))
    return Shedder(fixed=int(settings.shed))


def manners_of(settings: Settings, scheme: bytes) -> ProxyOptions:
    """How the data port speaks; `scheme` is that of its listener."""
    return ProxyOptions(
        via=(settings.via_name or f"sidecar-{workload_of(settings)}").encode(),
        scheme=scheme,
        upstream_host=(settings.upstream_host or "").encode(),
        legacy_headers=settings.legacy_headers,
        upgrades=frozenset(one.encode() for one in settings.upgrades),
        trusts=trust(settings.trusted_proxies),
    )


@dataclass(frozen=True, slots=True)
class JobParts:
    """What deferred jobs are made of. `counted` and `webhooks` are what they have counted."""

    deferral: Deferral
    runner: JobRunner
    teller: WebhookSender | None
    counted: Counter[str]
    webhooks: dict[str, int]


def workload_of(settings: Settings) -> str:
    """A short name of the workload: its sidecars share their jobs, and no others."""
    return hashlib.sha256(settings.source.encode()).hexdigest()[:12]


def job_terms_of(settings: Settings) -> JobTerms:
    """How many jobs there may be, and for how long."""
    return JobTerms(
        per_account=settings.jobs_per_account,
        in_all=settings.jobs_in_all,
        max_age_s=settings.job_max_age_s,
        result_ttl_s=settings.job_result_ttl_s,
        lease_s=settings.job_lease_s,
        told=settings.webhook_secret is not None,
    )


def jobs_of(
    settings: Settings,
    wire: Connection,
    gate: Gate,
    pool: UpstreamPool,
    options: ProxyOptions,
    directory: RedisDirectory,
    new_id: Callable[[], str],
    now_s: Callable[[], int],
) -> JobParts | None:
    """The parts, not running yet; None when jobs are off."""
    if settings.jobs == "off":
        return None
    prefix = settings.reserved_prefix
    store = RedisJobs(wire, settings.redis_prefix, workload_of(settings), job_terms_of(settings))
    counted: Counter[str] = Counter()
    webhooks = {"told": 0, "failed": 0}
    errands = JobForwarder(
        gate, pool, options,
        max_result=settings.job_result_bytes, timeout_s=settings.job_timeout_s,
    )  # fmt: skip
    runner = JobRunner(
        store, errands, at_once=settings.jobs_at_once, lease_s=settings.job_lease_s,
        new_id=new_id, counted=counted,
    )  # fmt: skip
    jobs = Jobs(store, delivery=settings.jobs, new_id=new_id, counted=counted, changed=runner.look)
    teller = None
    if settings.webhook_secret is not None:
        teller = WebhookSender(
            store,
            directory.account,
            master=secret_of(settings.webhook_secret.get_secret_value()),
            allow_private=settings.webhook_private,
            href=lambda job_id: f"{prefix}jobs/{job_id}",
            now_s=now_s,
            counted=webhooks,
        )
    deferral = Deferral(gate, jobs, prefix=prefix.encode(), max_body=settings.job_body_bytes)
    return JobParts(deferral, runner, teller, counted, webhooks)
