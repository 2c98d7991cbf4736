"""Checks of settings against each other: which need each other, and which exclude each other."""

from typing import TYPE_CHECKING, Final

from sidecar.addresses import Address, UnixPath
from sidecar.errors import SettingsError
from sidecar.settings.describe import env_of

if TYPE_CHECKING:
    from sidecar.settings.model import Settings

_ANY_HOST: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not listened on


def check(settings: "Settings") -> None:
    """Raise SettingsError, with the flags, if settings do not fit together."""
    _addresses(settings)
    _upstream_tls(settings)
    _listener_tls(settings)
    _job_bytes(settings)
    _decide_address(settings)
    _decide_callers(settings)


def _addresses(settings: "Settings") -> None:
    listen, control = settings.listen, settings.control
    if not isinstance(listen, UnixPath) and _overlap(listen, control):
        both = str(listen) if listen == control else f"{listen} and {control}"
        raise SettingsError(
            f"--listen (SIDECAR_LISTEN) and --control (SIDECAR_CONTROL): must differ: {both}; "
            "give each its own port"
        )


def _overlap(one: Address, other: Address) -> bool:
    """Whether one process cannot listen on both. Port 0 is any free port."""
    if one.port != other.port or one.port == 0:
        return False
    same_family = (":" in one.host) == (":" in other.host)
    return one.host == other.host or (same_family and not _ANY_HOST.isdisjoint({*one, *other}))


def _upstream_tls(settings: "Settings") -> None:
    cert, key = settings.upstream_cert, settings.upstream_key
    if (cert is None) != (key is None):
        raise SettingsError(
            "--upstream-cert and --upstream-key: need each other; give both, or neither"
        )
    if settings.upstream.scheme != "https" and (cert or settings.upstream_ca):
        raise SettingsError(
            "--upstream-ca, --upstream-cert and --upstream-key: need an https:// upstream; "
            "remove them, or write --upstream https://HOST:PORT"
        )


def _listener_tls(settings: "Settings") -> None:
    given = {"tls_cert": settings.tls_cert, "tls_key": settings.tls_key}
    missing = [name for name, file in given.items() if file is None]
    if len(missing) == 1 or (missing and settings.tls_client_ca is not None):
        flags = " and ".join(f"--{name.replace('_', '-')} ({env_of(name)})" for name in missing)
        raise SettingsError(f"{flags}: missing, and TLS needs certificate and key; give both")


def _job_bytes(settings: "Settings") -> None:
    body, account = settings.job_body_bytes, settings.job_bytes_per_account
    if settings.jobs == "off":
        return
    if account > settings.job_bytes_in_all:
        raise SettingsError(
            "--job-bytes-per-account and --job-bytes-in-all: an account may take more than all "
            "together; raise --job-bytes-in-all, or lower --job-bytes-per-account"
        )
    if body >= account:
        raise SettingsError(
            "--job-body-bytes and --job-bytes-per-account: a body may be larger than all jobs of "
            "an account; raise --job-bytes-per-account, or lower --job-body-bytes"
        )


def _decide_address(settings: "Settings") -> None:
    taken: list[tuple[str, Address | UnixPath]] = [
        ("listen", settings.listen),
        ("control", settings.control),
    ]
    for name, address in (("decide", settings.decide), ("decide_grpc", settings.decide_grpc)):
        if address is None:
            continue
        for other_name, other in taken:
            same = address == other
            if isinstance(address, Address) and isinstance(other, Address):
                same = _overlap(address, other)
            if same:
                raise SettingsError(
                    f"{_flag(name)} ({env_of(name)}) and {_flag(other_name)} "
                    f"({env_of(other_name)}): must differ: {address}; give each its own address"
                )
        taken.append((name, address))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _decide_callers(settings: "Settings") -> None:
    """A gateway is trusted by a unix socket, by a token, or by mutual TLS."""
    cert, key, ca = settings.decide_tls_cert, settings.decide_tls_key, settings.decide_client_ca
    if (cert is None) != (key is None) or (ca is not None and cert is None):
        raise SettingsError(
            "--decide-tls-cert and --decide-tls-key: missing, and TLS needs certificate and key; "
            "give both"
        )
    for name, address in (("decide", settings.decide), ("decide_grpc", settings.decide_grpc)):
        by_socket = address is None or isinstance(address, UnixPath)
        if not by_socket and ca is None and settings.decide_token_file is None:
            raise SettingsError(
                f"{_flag(name)} ({env_of(name)}): every program that reaches {address} could ask; "
                "give --decide-token-file or --decide-client-ca, or listen on unix:/PATH"
            )
    if isinstance(settings.decide_grpc, UnixPath) and settings.workers != "1":
        raise SettingsError(
            "--decide-grpc (SIDECAR_DECIDE_GRPC): several --workers cannot share a unix socket of "
            "gRPC; give HOST:PORT with --decide-token-file, or --workers 1"
        )
