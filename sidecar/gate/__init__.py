"""The one path that every call takes: see `gate.py`."""

from sidecar.gate.calls import (
    NOBODY,
    Admission,
    Clock,
    DecisionRow,
    Deferred,
    Defers,
    InboundRequest,
    ReadAhead,
    Refused,
)
from sidecar.gate.gate import Gate

__all__ = [
    "NOBODY",
    "Admission",
    "Clock",
    "DecisionRow",
    "Deferred",
    "Defers",
    "Gate",
    "InboundRequest",
    "ReadAhead",
    "Refused",
]
