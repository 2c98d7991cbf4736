"""The settings file: YAML or TOML, NAME: VALUE."""

import tomllib
from pathlib import Path
from typing import Any

from sidecar.errors import SettingsError


def read(path: Path) -> dict[str, Any]:
    """The settings in the file. Raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"--config (SIDECAR_CONFIG): cannot read {path}: {why}") from None
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else _yaml(text)
    except ValueError as error:
        raise SettingsError(f"--config (SIDECAR_CONFIG): {path}: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(
            f"--config (SIDECAR_CONFIG): {path} must hold settings as NAME: VALUE lines"
        )
    if "config" in values:
        raise SettingsError(f"{path}: a settings file cannot name another one; remove config")
    return {str(name): value for name, value in values.items() if value is not None}


def _yaml(text: str) -> Any:
    import yaml  # only a process with a settings file pays for it

    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "not readable"
        raise ValueError(f"not valid YAML: {where}{problem}") from None
