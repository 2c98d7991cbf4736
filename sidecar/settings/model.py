"""The settings themselves.

One field is one setting. Its description is the help of its flag, its line in
docs/reference/settings.md and the hint of its errors; nothing lists the settings a second time.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from sidecar.addresses import Address
from sidecar.redis_address import redis_address
from sidecar.settings.combinations import check
from sidecar.settings.describe import SettingInfo, describe
from sidecar.settings.sources import LayeredSettings
from sidecar.settings.values import (
    Allowances,
    Listen,
    Mode,
    Networks,
    Redis,
    Seconds,
    Shed,
    Sinks,
    Tcp,
    Upgrades,
    Upstream,
    WebhookSecret,
    Workers,
)


class Settings(LayeredSettings):
    """Every setting of `sidecar serve`. Immutable. Raises ValidationError: use `load`."""

    config: Path | None = Field(None, description="A YAML or TOML file with these settings.")
    plans: Path = Field(description="The plan file.")
    upstream: Upstream = Field(
        description="The API that calls are forwarded to: http://HOST:PORT, https://HOST:PORT or "
        "unix:/PATH."
    )
    upstream_ca: Path | None = Field(
        None, description="A PEM file of CAs for https; default: those that the system trusts."
    )
    upstream_cert: Path | None = Field(
        None, description="A PEM file with the certificate that is shown to the upstream."
    )
    upstream_key: Path | None = Field(
        None, description="The PEM file with that certificate's key, not encrypted."
    )
    upstream_server_name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9.-]{1,253}$",
        description="The name that the upstream's certificate is for; default: its host.",
    )
    upstream_host: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9.:\[\]-]{1,260}$",
        description="The Host field that the upstream gets; default: the client's.",
    )
    trusted_proxies: Networks = Field(
        (),
        description="Peers whose X-Forwarded-* and Forwarded fields are believed and extended: "
        "networks, comma-separated; unix for the peers of a unix socket.",
    )
    via_name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Our name in Via; seen again, it is a loop. Default: made from --source.",
    )
    upgrades: Upgrades = Field(
        ("websocket",),
        description="Protocols that clients may upgrade to, comma-separated; empty: none.",
    )
    listen: Listen = Field(
        Address("127.0.0.1", 8080),
        description="Where customers' calls come in, as HOST:PORT or unix:/PATH.",
    )
    listen_backlog: int = Field(
        1_024, ge=1, le=65_535, description="How many connections may wait to be accepted."
    )
    listen_mode: Mode = Field(
        "660", description="Who may connect to the unix socket: its file mode, in octal."
    )
    tls_cert: Path | None = Field(
        None, description="A PEM file with the certificate and its chain; calls then come by TLS."
    )
    tls_key: Path | None = Field(
        None, description="The PEM file with the certificate's key, not encrypted."
    )
    tls_client_ca: Path | None = Field(
        None, description="A PEM file of CAs; clients must then show a certificate of one of them."
    )
    workers: Workers = Field(
        "1", description="How many processes serve; auto: one for each CPU this one may use."
    )
    control: Tcp = Field(
        Address("127.0.0.1", 9090),
        description="Where /healthz, /readyz, /metrics and /config answer, as HOST:PORT.",
    )
    redis: Redis = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="The Redis or Valkey that keeps the counters: redis://, rediss:// for TLS, "
        "unix://, redis+sentinel:// or redis+cluster://.",
    )
    redis_prefix: str = Field(
        "qs",
        pattern=r"^[A-Za-z0-9_.:-]{1,64}$",
        description="What all keys in Redis start with.",
    )
    redis_timeout_ms: int = Field(
        50, ge=1, le=10_000, description="How long a call waits for Redis, in milliseconds."
    )
    spool: Path = Field(
        Path("/var/spool/sidecar"),
        description="The directory of the event spool; one per process, on a disk that stays.",
    )
    spool_full: Literal["refuse", "drop"] = Field(
        "refuse",
        description="When the spool is full: refuse billable calls with 503, or drop events.",
    )
    spool_max_bytes: int = Field(
        1 << 30, ge=1 << 20, description="How large the spool may grow, in bytes."
    )
    journal_max_bytes: int = Field(
        64 << 20,
        ge=1 << 20,
        description="How large the journal of calls that pass without Redis may grow, in bytes.",
    )
    commit_window_ms: int = Field(
        20, ge=1, le=1_000, description="The most that kill -9 may lose of events, in milliseconds."
    )
    sinks: Sinks = Field(
        (),
        description="Where events are shipped, comma-separated: stdout, file:/path, redis.",
    )
    source: str = Field(
        "/sidecar/default",
        pattern=r"^[A-Za-z0-9/][A-Za-z0-9_.:/~-]{0,254}$",
        description="The source of the events: names the workload, never the pod.",
    )
    reserved_prefix: str = Field(
        "/-/",
        pattern=r"^/[A-Za-z0-9_.~-]+/$",
        description="Paths that the sidecar keeps for itself and never forwards.",
    )
    allow_in_path: Allowances = Field(
        (),
        description="Forms of a path that the API is known to read in one way, comma-separated: "
        "encoded-slash, backslash, double-encoding, not-utf8, semicolon.",
    )
    ignore_path_case: bool = Field(
        False, description="Match routes without regard to case, as the API does."
    )
    legacy_headers: bool = Field(
        False, description="Send X-RateLimit-Limit, -Remaining and -Reset as well."
    )
    refusal_events: bool = Field(
        False, description="Record an api.refusal.v1 event for each refused call of an account."
    )
    jobs: Literal["off", "at-least-once", "at-most-once"] = Field(
        "at-least-once",
        description="Deferred jobs: how often one runs whose sidecar dies meanwhile; off: none.",
    )
    jobs_at_once: int = Field(
        8, ge=0, le=1_000, description="How many jobs each worker runs at once; 0: none."
    )
    jobs_per_account: int = Field(
        1_000, ge=1, le=100_000, description="How many jobs of an account may be open."
    )
    jobs_in_all: int = Field(
        10_000, ge=1, le=10_000_000, description="How many jobs of all accounts may be open."
    )
    job_body_bytes: int = Field(
        1 << 20, ge=0, le=64 << 20, description="The body of a call that is deferred, in bytes."
    )
    job_result_bytes: int = Field(
        1 << 20,
        ge=0,
        le=64 << 20,
        description="How much of the answer to a job is kept, in bytes of its body.",
    )
    job_max_age_s: int = Field(
        40 * 86_400,
        ge=1,
        le=400 * 86_400,
        description="How long a job may wait before it fails, in seconds.",
    )
    job_result_ttl_s: int = Field(
        86_400,
        ge=1,
        le=90 * 86_400,
        description="How long a job and its result are kept after its end, in seconds.",
    )
    job_lease_s: float = Field(
        30.0,
        ge=1,
        le=3_600,
        description="After how long a job is taken from a sidecar that died, in seconds.",
    )
    job_timeout_s: Seconds = Field(
        3_600.0, description="How long a job may take when it runs, in seconds."
    )
    webhook_secret: WebhookSecret | None = Field(
        None,
        description="What the secrets of the accounts' webhooks are made from: whsec_ and at least "
        "24 bytes in base64; default: no webhooks.",
    )
    webhook_private: bool = Field(
        False, description="Let webhooks go to private addresses, and by http."
    )
    access_log: bool = Field(False, description="Log one line per call.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least serious lines that are logged."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="JSON for machines, console for people."
    )
    header_timeout_s: Seconds = Field(
        10.0, description="How long a client may take to send a request's headers, in seconds."
    )
    idle_timeout_s: Seconds = Field(
        75.0, description="How long a client's idle connection is kept, in seconds."
    )
    body_timeout_s: Seconds = Field(
        30.0, description="The longest pause inside a body, in seconds."
    )
    connect_timeout_s: Seconds = Field(
        3.0, description="How long connecting to the upstream may take, in seconds."
    )
    response_timeout_s: Seconds = Field(
        60.0, description="How long the upstream may take to begin its response, in seconds."
    )
    stream_timeout_s: Seconds = Field(
        60.0, description="The longest pause inside a response, in seconds."
    )
    total_timeout_s: float = Field(
        0.0,
        ge=0,
        le=604_800,
        description="How long a call may take in all, in seconds; 0: as long as both sides go on.",
    )
    half_close_timeout_s: Seconds = Field(
        5.0,
        description="How long a client that sends no more is served, since it may be gone, "
        "in seconds.",
    )
    stall_timeout_s: Seconds = Field(
        2.0,
        description="How long a client may keep an upstream connection waiting that other calls "
        "need, in seconds.",
    )
    upstream_idle_timeout_s: Seconds = Field(
        30.0, description="How long an idle connection to the upstream is kept, in seconds."
    )
    tunnel_idle_timeout_s: Seconds = Field(
        300.0, description="How long nothing may pass through a WebSocket, in seconds."
    )
    tunnel_lifetime_s: float = Field(
        86_400.0, ge=0.001, le=31_536_000, description="How long a WebSocket may last, in seconds."
    )
    min_rate_bytes: int = Field(
        256,
        ge=1,
        le=1 << 30,
        description="How fast a client has to send and to read on average, in bytes per second.",
    )
    max_header_bytes: int = Field(
        32_768, ge=1_024, le=1 << 20, description="All header fields of a request, in bytes."
    )
    max_headers: int = Field(
        100, ge=8, le=10_000, description="How many header fields a request may have."
    )
    max_target_bytes: int = Field(
        8_192, ge=256, le=1 << 20, description="Path and query of a request, in bytes."
    )
    max_body_bytes: int = Field(
        0, ge=0, description="The body of a request, in bytes; 0: any size, bodies are streamed."
    )
    max_connections: int = Field(
        10_000, ge=1, le=1_000_000, description="How many client connections are open at once."
    )
    max_connections_per_address: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="How many of them one client address may hold, in each worker; 0: any number.",
    )
    max_connection_age_s: float = Field(
        0.0,
        ge=0,
        le=86_400,
        description="After how long a client's connection is closed, in seconds; 0: never.",
    )
    waiting_requests: int = Field(
        10_000,
        ge=0,
        le=1_000_000,
        description="How many calls may be held at once until their limits let them go on; one "
        "account gets half of the places at most.",
    )
    waiting_bytes: int = Field(
        67_108_864,
        ge=0,
        le=1 << 40,
        description="How many bytes those calls may have sent, heads included.",
    )
    upstream_connections: int = Field(
        256, ge=1, le=100_000, description="How many connections to the upstream are open at once."
    )
    critical_connections: int = Field(
        16, ge=0, le=100_000, description="How many of them are kept for critical calls."
    )
    shed: Shed = Field(
        "adaptive",
        description="How many calls the API may have in flight before others than critical ones "
        "are refused: found from how slow it gets, off, or a number.",
    )
    shed_min: int = Field(
        20,
        ge=1,
        le=100_000,
        description="What the limit that is found never falls below; with fewer in flight nobody "
        "is suspected.",
    )
    drain_delay_s: float = Field(
        0.0,
        ge=0,
        le=3_600,
        description="How long calls are still taken after SIGTERM while /readyz says no, "
        "in seconds: as long as the platform needs to send calls elsewhere.",
    )
    drain_timeout_s: Seconds = Field(
        30.0, description="How long calls in flight may take to end after SIGTERM, in seconds."
    )

    def _check(self) -> None:
        check(self)

    @property
    def redis_label(self) -> str:
        """The address of Redis without user, password or query: what may be logged."""
        return str(redis_address(self.redis.get_secret_value()))


def all_settings() -> list[SettingInfo]:
    """All settings, in the order of the model."""
    return [describe(name, field) for name, field in Settings.model_fields.items()]
