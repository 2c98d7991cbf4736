"""The build hook: with SIDECAR_COMPILE=1, the wheel has the data path compiled by mypyc.

The sources stay in the wheel, for tracebacks. Without the variable, nothing is compiled and the
wheel fits every platform.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# The modules of the data path. A class in them has no subclass elsewhere. It need not be picklable:
# `config/compile_apart.py` pickles plan books as calls of their classes.
MODULES = (
    "clock", "core.answers", "core.claims", "core.decision", "core.events.templates",
    "core.identity", "core.kinds", "core.model",
    "core.overload.adaptive_limit", "core.overload.baseline", "core.overload.shedder",
    "core.overload.window", "core.paths", "core.readings",
    "core.reasons", "core.refusals.ratelimit_fields", "core.routing", "core.settlement",
    "core.trace_context",
    "decide.answers", "decide.decisions", "decide.documents", "decide.forward_auth",
    "decide.gateway_request", "decide.handler", "decide.open_decisions", "decide.report",
    "gate.admission", "gate.entitle", "gate.gate", "gate.recorder", "gate.reserve", "gate.settling",
    "metering.buffer", "metering.chain", "metering.spool", "metrics", "proxy.data_port",
    "proxy.downstream.checks", "proxy.downstream.client_port",
    "proxy.downstream.connection", "proxy.downstream.connection_limits",
    "proxy.downstream.pacing", "proxy.downstream.parser", "proxy.downstream.pending_heads",
    "proxy.downstream.request", "proxy.exchange", "proxy.field_rules", "proxy.forwarded",
    "proxy.handler", "proxy.headers", "proxy.heads", "proxy.job_exchange", "proxy.late_costs",
    "proxy.relay", "proxy.request_end",
    "proxy.upstream.connection", "proxy.upstream.places", "proxy.upstream.pool",
    "proxy.upstream.receiver", "stores.commands", "stores.connection.link",
    "stores.local.charger", "stores.local.store", "stores.redis", "stores.scripts",
    "stores.settler",
)  # fmt: skip


class CompiledDataPath(BuildHookInterface):
    """Adds the extension modules next to their sources."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before hatchling builds a wheel, except for an editable one."""
        if not wanted() or version == "editable":
            return
        directory = Path(tempfile.mkdtemp(prefix="sidecar-compile-"))
        for built in compiled(Path(self.root), directory):
            build_data["force_include"][str(built)] = str(built.relative_to(directory / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def dependencies(self) -> list[str]:
        """Dependencies of an isolated build: mypyc, and the packages that define the types."""
        if not wanted():
            return []
        core = self.metadata.core
        return [*core.dependencies, *core.optional_dependencies["compile"]]


def wanted() -> bool:
    """Whether the environment asks for a compiled data path."""
    return os.environ.get("SIDECAR_COMPILE") == "1"


def compiled(root: Path, directory: Path) -> list[Path]:
    """Build the extension modules below `directory`/lib.

    Needs mypy, setuptools and a C compiler. On an error in the sources, mypyc ends the process.
    """
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    before = Path.cwd()
    os.chdir(root)  # module names follow from the paths
    try:
        extensions = mypycify(
            ["--config-file", "pyproject.toml"]
            + [f"sidecar/{name.replace('.', '/')}.py" for name in MODULES],
            opt_level=os.environ.get("SIDECAR_COMPILE_LEVEL", "3"),
            debug_level="0",
            target_dir=str(directory / "c"),
            group_name="sidecar",
        )
        command = build_ext(Distribution({"name": "sidecar", "ext_modules": extensions}))
        command.build_lib, command.build_temp = str(directory / "lib"), str(directory / "o")
        command.ensure_finalized()
        command.run()
    finally:
        os.chdir(before)
    return sorted((directory / "lib").rglob("*.so"))
