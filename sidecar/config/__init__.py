"""The plan file: read, checked, compiled, and swapped while calls go on.

A process that serves has plan files compiled apart (`compiling`). Neither it nor this package's
front loads what only the compiling needs: `loading` for plan books, `schema` for editors.
"""

from sidecar.config.compile_apart import compile_apart
from sidecar.config.reload import LivePlanFile

__all__ = ["LivePlanFile", "compile_apart"]
