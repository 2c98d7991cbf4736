"""The plan file: read, checked, compiled, and swapped while calls go on."""

from sidecar.config.loading import load, parse, schema
from sidecar.config.reload import PlanKeeper

__all__ = ["PlanKeeper", "load", "parse", "schema"]
