"""The one path that every call takes: see `gate.py`."""

from sidecar.gate.calls import (
    NOBODY,
    Admission,
    Call,
    Clock,
    Deferred,
    Defers,
    ReadAhead,
    Refused,
    Seen,
)
from sidecar.gate.gate import Gate

__all__ = [
    "NOBODY",
    "Admission",
    "Call",
    "Clock",
    "Deferred",
    "Defers",
    "Gate",
    "ReadAhead",
    "Refused",
    "Seen",
]
