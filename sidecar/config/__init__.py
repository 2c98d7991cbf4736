"""The plan file: read, check, compile, and reload it without dropping a request.

A serving process compiles plan files in a child process (`compile_apart`), so this package does
not import what only compilation needs: `loading` and `schema`.
"""

from sidecar.config.compile_apart import compile_apart
from sidecar.config.reload import LivePlanFile

__all__ = ["LivePlanFile", "compile_apart"]
