"""From the settings to the values that the parts of the data path are given."""

import hashlib

from sidecar.core.found_limit import FoundLimit
from sidecar.core.shedding import Shedder
from sidecar.proxy.heads import Manners, trust
from sidecar.proxy.limits import Bounds
from sidecar.proxy.upstream import Upstream, tls_context
from sidecar.settings import Settings


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


def shedder_of(settings: Settings) -> Shedder:
    """Who is refused when the API is overloaded, and what says that it is."""
    if settings.shed == "off":
        return Shedder()
    if settings.shed == "adaptive":
        return Shedder(found=FoundLimit(settings.shed_min))
    return Shedder(fixed=int(settings.shed))


def manners_of(settings: Settings, scheme: bytes) -> Manners:
    """How the data port speaks; `scheme` is that of its listener."""
    name = hashlib.sha256(settings.source.encode()).hexdigest()[:12]
    return Manners(
        via=(settings.via_name or f"sidecar-{name}").encode(),
        scheme=scheme,
        upstream_host=(settings.upstream_host or "").encode(),
        legacy_headers=settings.legacy_headers,
        upgrades=frozenset(one.encode() for one in settings.upgrades),
        trusts=trust(settings.trusted_proxies),
    )
