"""Explanations of decisions: the gate decides on a store that only peeks.

Nothing is reserved, recorded or changed. `sidecar explain` prints an explanation.
"""

from sidecar.explain.explanation import explain
from sidecar.explain.parts import OneKeyDirectory
from sidecar.explain.request import ExplainedRequest, ExplainOptions

__all__ = ["ExplainOptions", "ExplainedRequest", "OneKeyDirectory", "explain"]
