"""The settings of `sidecar serve`.

One field is one setting. Its docstring is the help of its flag and its row in
docs/reference/settings.md; settings are listed nowhere else.
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
    FieldNames,
    HostNames,
    Listen,
    Mode,
    Networks,
    ParameterNames,
    Redis,
    Seconds,
    Shed,
    Sinks,
    Tcp,
    TraceEndpoint,
    Upgrades,
    Upstream,
    WebhookSecret,
    Workers,
)


class Settings(LayeredSettings):
    """Every setting of `sidecar serve`, immutable. Use `load`, which raises SettingsError."""

    config: Path | None = None
    """Path of the settings file, YAML or TOML."""

    plans: Path
    """Path of the plan file."""

    upstream: Upstream
    """Address of the API that receives the requests: http://HOST:PORT, https://HOST:PORT or
    unix:/PATH."""

    upstream_ca: Path | None = None
    """PEM file of the CAs that may sign the upstream's certificate. Unset: the system's CAs."""

    upstream_cert: Path | None = None
    """PEM file of the client certificate for the upstream. Unset: no client certificate."""

    upstream_key: Path | None = None
    """PEM file of the key of that client certificate, not encrypted."""

    upstream_server_name: str | None = Field(None, pattern=r"^[A-Za-z0-9.-]{1,253}$")
    """Name that the upstream's certificate must have. Unset: the host in --upstream."""

    upstream_host: str | None = Field(None, pattern=r"^[A-Za-z0-9.:\[\]-]{1,260}$")
    """Host field of requests to the upstream. Unset: the client's."""

    trusted_proxies: Networks = ()
    """Networks of the proxies whose Forwarded and X-Forwarded-* fields are trusted and extended,
    comma-separated; unix for the peers of a unix socket. Empty: no proxy is trusted."""

    via_name: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """This sidecar's name in the Via field, which detects loops. Unset: made from --source."""

    upgrades: Upgrades = ("websocket",)
    """Protocols that clients may upgrade to, comma-separated. Empty: no upgrades."""

    listen: Listen = Address("127.0.0.1", 8080)
    """Address that receives customers' requests, as HOST:PORT or unix:/PATH."""

    listen_backlog: int = Field(1_024, ge=1, le=65_535)
    """Connections that may wait to be accepted."""

    listen_mode: Mode = "660"
    """File mode of the unix socket, in octal."""

    tls_cert: Path | None = None
    """PEM file of the server certificate and its chain. Unset: no TLS."""

    tls_key: Path | None = None
    """PEM file of the key of that certificate, not encrypted."""

    tls_client_ca: Path | None = None
    """PEM file of CAs; clients must have a certificate of one of them. Unset: clients need no
    certificate."""

    workers: Workers = "1"
    """Number of worker processes; auto: one per available CPU."""

    control: Tcp = Address("127.0.0.1", 9090)
    """Address of the control port, which serves probes, metrics and configuration, as
    HOST:PORT."""

    control_hosts: HostNames = ()
    """Host names that the control port answers to, comma-separated; * for any. IP addresses,
    localhost, this machine's name and the host in --control need not be listed. Empty: no
    others."""

    control_token_file: Path | None = None
    """File of tokens, one per line, that /config and /reload of the control port need. Unset:
    /config answers only to this machine, /reload to no client."""

    decide: Listen | None = None
    """Address of the decide port, where gateways ask for decisions, as HOST:PORT or unix:/PATH. A
    TCP address needs --decide-token-file or --decide-client-ca. Unset: no decide port."""

    decide_grpc: Listen | None = None
    """Address where Envoy asks for decisions and reports by gRPC, as HOST:PORT or unix:/PATH; with
    several --workers, HOST:PORT. It has the token file, TLS and bounds of the decide port. Unset:
    no gRPC."""

    decide_mode: Mode = "660"
    """File mode of the decide port's unix sockets, in octal: its group may ask."""

    decide_token_file: Path | None = None
    """File of tokens, one per line, that gateways send in X-Decide-Token. Unset: none is needed."""

    decide_tls_cert: Path | None = None
    """PEM file of the decide port's certificate and its chain. Unset: no TLS."""

    decide_tls_key: Path | None = None
    """PEM file of the key of that certificate, not encrypted."""

    decide_client_ca: Path | None = None
    """PEM file of CAs; gateways must have a certificate of one of them. Unset: they need no
    certificate."""

    decide_wait_ms: int = Field(0, ge=0, le=60_000)
    """Longest time that a decision waits for a limit with max_wait, in milliseconds; below the
    gateway's own timeout. 0: no decision waits."""

    decide_settle_timeout_s: Seconds = 300.0
    """Longest time until a gateway settles an allowed request, in seconds. After it, the request is
    settled as one of a sidecar that died (when_sidecar_dies in the plan)."""

    decide_open: int = Field(100_000, ge=1, le=10_000_000)
    """Maximum number of allowed requests that are not settled yet. Beyond it, the oldest ones are
    settled as after that timeout."""

    decide_body_bytes: int = Field(1 << 20, ge=4_096, le=64 << 20)
    """Maximum size of a document that a gateway sends, in bytes."""

    redis: Redis = SecretStr("redis://127.0.0.1:6379/0")
    """URL of the Redis or Valkey with the counters: redis://, rediss:// for TLS, unix://,
    redis+sentinel:// or redis+cluster://."""

    redis_prefix: str = Field("qs", pattern=r"^[A-Za-z0-9_.:-]{1,64}$")
    """Prefix of every Redis key."""

    redis_timeout_ms: int = Field(50, ge=1, le=10_000)
    """Longest time that a request or the end of its response waits for Redis, in milliseconds."""

    spool: Path = Path("/var/spool/sidecar")
    """Directory of the event spool, on a persistent disk; one per sidecar."""

    spool_full: Literal["refuse", "drop"] = "refuse"
    """What a full spool does to billable requests: refuse them with 503, or allow them and drop
    their events."""

    spool_max_bytes: int = Field(1 << 30, ge=1 << 20)
    """Maximum size of the spool, in bytes."""

    journal_max_bytes: int = Field(64 << 20, ge=1 << 20)
    """Maximum size of the journal of requests that are allowed without Redis, in bytes."""

    commit_window_ms: int = Field(20, ge=1, le=1_000)
    """Longest time until an event is synced to disk, in milliseconds. A crash loses at most the
    events of this time."""

    sinks: Sinks = ()
    """Destinations that usage events are shipped to, comma-separated: stdout, file:/path, redis.
    Empty: events stay in the spool."""

    source: str = Field("/sidecar/default", pattern=r"^[A-Za-z0-9/][A-Za-z0-9_.:/~-]{0,254}$")
    """CloudEvents source of usage events: the name of the workload, the same in all of its pods."""

    reserved_prefix: str = Field("/-/", pattern=r"^/[A-Za-z0-9_.~-]+/$")
    """Path prefix of the sidecar's own endpoints, which are never forwarded."""

    allow_in_path: Allowances = ()
    """Path forms that the API reads in one way only, comma-separated: encoded-slash, backslash,
    double-encoding, not-utf8, semicolon. Empty: they are refused, an encoded slash only if its
    readings are different routes."""

    ignore_path_case: bool = False
    """Match routes without regard to case, as the API does."""

    forward_credentials: bool = True
    """Forward the client's API key to the upstream. Off: X-Api-Key and bearer tokens in
    Authorization are dropped; the upstream reads X-Account-Id and X-Key-Id."""

    legacy_headers: bool = False
    """Also send X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset."""

    refusal_events: bool = False
    """Record an api.refusal.v1 event for each refused request of an account."""

    jobs: Literal["off", "at-least-once", "at-most-once"] = "at-least-once"
    """How often a deferred job runs if its sidecar dies while it runs; off: no jobs."""

    jobs_at_once: int = Field(8, ge=0, le=1_000)
    """Jobs that each worker runs at once. 0: it accepts jobs and runs none."""

    jobs_per_account: int = Field(1_000, ge=1, le=100_000)
    """Maximum number of open jobs per account."""

    jobs_in_all: int = Field(10_000, ge=1, le=10_000_000)
    """Maximum number of open jobs of all accounts together."""

    job_bytes_per_account: int = Field(16 << 20, ge=65_536, le=1 << 40)
    """Maximum size of an account's jobs together, open and ended, in bytes. Ended ones are dropped
    to make room."""

    job_bytes_in_all: int = Field(256 << 20, ge=65_536, le=1 << 44)
    """Maximum size of the jobs of all accounts together, in bytes. Ended ones are dropped to make
    room."""

    job_changes_per_minute: int = Field(1_200, ge=0, le=1_000_000)
    """Jobs that an account may add or cancel per minute, and at once. 0: no limit."""

    job_fields: FieldNames = ()
    """Header fields, comma-separated, that jobs store in addition to the standard ones. Empty: only
    those."""

    job_parameters: ParameterNames = ()
    """Query parameters, comma-separated, that jobs store although their names look like
    credentials. Empty: none."""

    job_query_credentials: Literal["drop", "refuse"] = "drop"
    """What a credential in the query does: the job is stored without it, or the request is not
    deferred."""

    job_body_bytes: int = Field(1 << 20, ge=0, le=64 << 20)
    """Maximum size of the body of a deferred request, in bytes. 0: only requests without a body."""

    job_result_bytes: int = Field(1 << 20, ge=0, le=64 << 20)
    """Maximum size of a stored response body, in bytes. 0: no body is stored."""

    job_max_age_s: int = Field(40 * 86_400, ge=1, le=400 * 86_400)
    """Longest time that a job waits before it fails, in seconds."""

    job_result_ttl_s: int = Field(86_400, ge=1, le=90 * 86_400)
    """Time that a job and its result are stored after its end, in seconds."""

    job_lease_s: float = Field(30.0, ge=1, le=3_600)
    """Time after which another sidecar takes over the jobs of a dead one, in seconds."""

    job_timeout_s: Seconds = 3_600.0
    """Longest time that a job may run, in seconds."""

    webhook_secret: WebhookSecret | None = None
    """Secret from which each account's webhook secret is derived: whsec_ and at least 24 bytes in
    base64. Unset: no webhooks."""

    webhook_private: bool = False
    """Allow webhooks to private addresses, and over plain HTTP."""

    access_log: bool = False
    """Log one line per request."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged."""

    log_format: Literal["json", "console"] = "json"
    """Format of the log: json for machines, console for people."""

    header_timeout_s: Seconds = 10.0
    """Longest time that a client may take to send the header of a request, in seconds."""

    idle_timeout_s: Seconds = 75.0
    """Time after which an idle client connection is closed, in seconds."""

    body_timeout_s: Seconds = 30.0
    """Longest pause within a request body, in seconds."""

    connect_timeout_s: Seconds = 3.0
    """Longest time to connect to the upstream, in seconds."""

    response_timeout_s: Seconds = 60.0
    """Longest time until the upstream begins its response, in seconds."""

    expect_timeout_s: Seconds = 10.0
    """Longest time that the upstream may take to answer `Expect: 100-continue`, in seconds. After
    it, the sidecar asks for the body itself. Most clients wait for 1 s only, and then send it."""

    stream_timeout_s: Seconds = 60.0
    """Longest pause within a response, in seconds."""

    total_timeout_s: float = Field(0.0, ge=0, le=604_800)
    """Longest time that a request may take in total, in seconds. 0: no limit."""

    usage_timeout_s: float = Field(60.0, ge=0, le=3_600)
    """Longest time that a response is read on after its client left, until its cost is known, in
    seconds. Only for costs in the JSON of the response. 0: never; the estimate stays."""

    usage_bytes: int = Field(16_777_216, ge=1, le=1 << 40)
    """Most bytes that are read of such a response after its client left."""

    usage_connections_percent: int = Field(25, ge=1, le=100)
    """Largest part of the upstream connections that such responses may use, in percent. Of it, an
    account gets its share (--account-connections-percent). Beyond it, responses are not read on."""

    decompression_ratio: int = Field(64, ge=1, le=100_000)
    """Most bytes that are decoded of a compressed response to read its cost, per byte, beyond the
    first 2 MiB. Beyond it, the cost is not known: see sidecar_settled_costs_estimated_total."""

    half_close_timeout_s: float = Field(0.0, ge=0, le=86_400)
    """Longest time to serve a client that has closed its sending side, in seconds. 0: the client
    counts as gone, and its request to the API is cancelled."""

    stall_timeout_s: Seconds = 2.0
    """Longest time that a slow client may block an upstream connection that other requests need, in
    seconds."""

    upstream_idle_timeout_s: Seconds = 30.0
    """Time after which an idle upstream connection is closed, in seconds."""

    tunnel_idle_timeout_s: Seconds = 300.0
    """Longest time without data on a WebSocket, in seconds. After one side has closed: at most
    --body-timeout-s."""

    tunnel_lifetime_s: float = Field(86_400.0, ge=0.001, le=31_536_000)
    """Longest lifetime of a WebSocket, in seconds."""

    min_rate_bytes: int = Field(256, ge=1, le=1 << 30)
    """Lowest average rate at which a client must send and read, in bytes per second."""

    max_header_bytes: int = Field(32_768, ge=1_024, le=1 << 20)
    """Maximum size of all header fields of a request, in bytes."""

    max_headers: int = Field(100, ge=8, le=10_000)
    """Maximum number of header fields of a request."""

    max_response_header_bytes: int = Field(65_536, ge=1_024, le=1 << 24)
    """Maximum size of the header of a response of the upstream, in bytes."""

    max_target_bytes: int = Field(8_192, ge=256, le=1 << 20)
    """Maximum size of the path and query of a request, in bytes."""

    max_body_bytes: int = Field(0, ge=0)
    """Maximum size of a request body, in bytes. 0: no limit."""

    small_body_bytes: int = Field(65_536, ge=0, le=1 << 30)
    """Largest request body with a known length that the sidecar reads whole before it takes an
    upstream connection, in bytes. 0: all bodies are streamed."""

    small_bodies_bytes: int = Field(33_554_432, ge=0, le=1 << 40)
    """Maximum size of all bodies that are read so, in bytes; beyond it, they are streamed. 0: all
    bodies are streamed."""

    max_connections: int = Field(10_000, ge=1, le=1_000_000)
    """Maximum number of open client connections."""

    max_connections_per_address: int | None = Field(None, ge=0, le=1_000_000)
    """Maximum number of open client connections per client address, in each worker; trusted proxies
    have no limit. 0: no limit. Unset: a quarter of --max-connections, at least 64."""

    pending_header_bytes: int = Field(16 << 20, ge=1 << 20, le=1 << 40)
    """Maximum memory of request headers that are not complete yet, of all clients together, in
    bytes."""

    pending_header_bytes_per_address: int = Field(1 << 20, ge=1 << 16, le=1 << 40)
    """Maximum memory of request headers that are not complete yet, per client address, in bytes.
    Trusted proxies have no limit of their own."""

    max_connection_age_s: float = Field(0.0, ge=0, le=86_400)
    """Age at which a client connection is closed, in seconds. 0: no limit."""

    waiting_requests: int = Field(10_000, ge=0, le=1_000_000)
    """Maximum number of requests that wait for their limits; one account may use half of it. 0: no
    request waits."""

    waiting_bytes: int = Field(67_108_864, ge=0, le=1 << 40)
    """Maximum size of all waiting requests together, headers included, in bytes. 0: no request
    waits."""

    upstream_connections: int = Field(256, ge=1, le=100_000)
    """Maximum number of open upstream connections."""

    critical_connections: int = Field(16, ge=0, le=100_000)
    """Upstream connections reserved for critical requests, and as many WebSockets. 0: none."""

    account_connections_percent: int = Field(50, ge=1, le=100)
    """Largest share of one account, in percent of the upstream connections that other accounts
    leave; the same for its WebSockets, for --small-bodies-bytes and for a number in --shed. 100: no
    limit per account."""

    max_websockets: int = Field(1_000, ge=1, le=100_000)
    """Maximum number of open WebSockets and other upgraded connections. They do not count towards
    --upstream-connections."""

    shed: Shed = "adaptive"
    """Limit of requests in flight, beyond which non-critical ones are refused: adaptive (from the
    API's latency), off, or a number."""

    shed_min: int = Field(20, ge=1, le=100_000)
    """Lowest value of the adaptive limit, in requests in flight."""

    trace_endpoint: TraceEndpoint | None = None
    """Receiver of traces: the URL of an OpenTelemetry collector, for OTLP over HTTP. Unset: no
    traces."""

    trace_ratio: float = Field(0.01, ge=0, le=1)
    """Part of the requests that are traced. A request with a traceparent is traced if that says so,
    and not otherwise."""

    trace_max_per_second: int = Field(100, ge=1, le=10_000)
    """Maximum number of traces that each worker begins per second, whatever clients ask for."""

    drain_delay_s: float = Field(5.0, ge=0, le=3_600)
    """Time to accept requests after SIGTERM while /readyz answers 503, in seconds, until the
    platform routes them elsewhere. 0: no delay."""

    drain_timeout_s: Seconds = 30.0
    """Longest time that requests in flight may take after SIGTERM, in seconds."""

    def _check(self) -> None:
        check(self)

    @property
    def redis_label(self) -> str:
        """The address of Redis for logs: without user, password and query."""
        return str(redis_address(self.redis.get_secret_value()))


def all_settings() -> list[SettingInfo]:
    """All settings, in the order of the model."""
    return [describe(name, field) for name, field in Settings.model_fields.items()]
