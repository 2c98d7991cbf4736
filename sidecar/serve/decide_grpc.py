"""Builds the gRPC server of the decide port, whose packages are an optional extra."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecar.decide.callers import Callers
from sidecar.decide.decisions import Decisions
from sidecar.decide.peers import Peers
from sidecar.errors import SettingsError
from sidecar.metrics import Metrics
from sidecar.proxy.downstream.certificate import Certificate
from sidecar.serve.share import WorkerShare
from sidecar.settings import Settings

if TYPE_CHECKING:
    from sidecar.decide.grpc.port import GrpcPort

_MISSING: Final = (
    "--decide-grpc (SIDECAR_DECIDE_GRPC): needs grpcio, which is not installed; "
    "run: pip install 'quota-sidecar[grpc]'"
)


def grpc_of(
    settings: Settings, share: WorkerShare, callers: Callers, certificate: Certificate | None
) -> "GrpcPort | None":
    """The server, not started; None without --decide-grpc. Raises SettingsError."""
    if settings.decide_grpc is None:
        return None
    try:
        from sidecar.decide.grpc.port import GrpcPort  # packages that only this server needs
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in {"grpc", "google"}:
            raise
        raise SettingsError(_MISSING) from None
    return GrpcPort(
        settings.decide_grpc,
        callers,
        mode=int(settings.decide_mode, 8),
        max_message=settings.decide_body_bytes,
        certificate=certificate,
        reuse_port=share.worker is not None,
    )


async def start_grpc(
    port: "GrpcPort",
    settings: Settings,
    decisions: Decisions,
    peers: Peers | None,
    metrics: Metrics,
    new_id: Callable[[], str],
) -> None:
    """Listen. Raises SettingsError if the address is unavailable."""
    from sidecar.decide.grpc.access_log import AccessLog
    from sidecar.decide.grpc.check import Checker

    checker = Checker(
        decisions,
        new_id=new_id,
        most_wait_us=settings.decide_wait_ms * 1000,
        legacy=settings.legacy_headers,
    )
    access_log = AccessLog(decisions, peers)
    await port.start(decisions, checker, access_log)
    metrics.labelled_counter(
        "sidecar_decide_log_entries",
        "Entries of Envoy's access log for allowed requests.",
        ("result",),
        lambda: {
            ("settled",): float(access_log.settled),
            ("unknown",): float(access_log.unknown),
            ("invalid",): float(access_log.invalid),
        },
    )
