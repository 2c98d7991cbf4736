"""The one path of every request: see `gate.py`."""

from sidecar.gate.admission import (
    UNKNOWN,
    Admission,
    Clock,
    DecisionRow,
    Deferred,
    InboundRequest,
    MayDefer,
    ReadAhead,
    Refused,
)
from sidecar.gate.entitle import Entitler
from sidecar.gate.gate import Gate
from sidecar.gate.recorder import Recorder
from sidecar.gate.reserve import Reserver
from sidecar.gate.settling import OnRecorded

__all__ = [
    "UNKNOWN",
    "Admission",
    "Clock",
    "DecisionRow",
    "Deferred",
    "Entitler",
    "Gate",
    "InboundRequest",
    "MayDefer",
    "OnRecorded",
    "ReadAhead",
    "Recorder",
    "Refused",
    "Reserver",
]
