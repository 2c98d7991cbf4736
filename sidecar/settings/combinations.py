"""What no setting tells alone: which of them go together, and which exclude each other."""

from typing import TYPE_CHECKING, Final

from sidecar.addresses import Address, UnixPath
from sidecar.errors import SettingsError
from sidecar.settings.describe import ENV_PREFIX

if TYPE_CHECKING:
    from sidecar.settings.model import Settings

_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not listened on


def check(settings: "Settings") -> None:
    """Raises SettingsError with one sentence that names the flags."""
    _addresses(settings)
    _upstream_tls(settings)
    _listener_tls(settings)


def _addresses(settings: "Settings") -> None:
    listen, control = settings.listen, settings.control
    if not isinstance(listen, UnixPath) and _overlap(listen, control):
        both = str(listen) if listen == control else f"{listen} and {control}"
        raise SettingsError(
            f"--listen (SIDECAR_LISTEN) and --control (SIDECAR_CONTROL) must differ: {both}; "
            "give each a port of its own"
        )


def _overlap(one: Address, other: Address) -> bool:
    """Whether nobody can listen on both. Port 0 is any free one."""
    if one.port != other.port or one.port == 0:
        return False
    same_family = (":" in one.host) == (":" in other.host)
    return one.host == other.host or (same_family and not _EVERYWHERE.isdisjoint({*one, *other}))


def _upstream_tls(settings: "Settings") -> None:
    cert, key = settings.upstream_cert, settings.upstream_key
    if (cert is None) != (key is None):
        raise SettingsError("--upstream-cert and --upstream-key go together: give both, or neither")
    if settings.upstream.scheme != "https" and (cert or settings.upstream_ca):
        raise SettingsError(
            "--upstream-ca, --upstream-cert and --upstream-key are for https:// upstreams"
        )


def _listener_tls(settings: "Settings") -> None:
    given = {"--tls-cert": settings.tls_cert, "--tls-key": settings.tls_key}
    missing = [flag for flag, file in given.items() if file is None]
    if len(missing) == 1 or (missing and settings.tls_client_ca is not None):
        variables = " and ".join(
            f"{flag} ({ENV_PREFIX}{flag[2:].upper().replace('-', '_')})" for flag in missing
        )
        raise SettingsError(f"{variables} must be given too: TLS needs the certificate and its key")
