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
        lines = [f"--config (SIDECAR_CONFIG): {path}: {line}" for line in str(error).splitlines()]
        raise SettingsError("\n".join(lines)) from None
    if not isinstance(values, dict):
        raise SettingsError(
            f"--config (SIDECAR_CONFIG): {path} must hold settings as NAME: VALUE lines"
        )
    if "config" in values:
        raise SettingsError(f"{path}: a settings file cannot name another one; remove config")
    return {str(name): value for name, value in values.items() if value is not None}


def _yaml(text: str) -> Any:
    """Raises ValueError; a line each for what is wrong."""
    import yaml  # only a process with a settings file pays for it

    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if isinstance(root, yaml.MappingNode):
            _require_once([(key.value, key.start_mark.line + 1) for key, _ in root.value])
        return (loader.construct_document(root) if root else None) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "not readable"
        raise ValueError(f"not valid YAML: {where}{problem}") from None
    finally:
        loader.dispose()


def _require_once(keys: list[tuple[Any, int]]) -> None:
    """YAML takes the last of several: which one is meant cannot be told. `keys`: with lines."""
    lines: dict[str, list[int]] = {}
    for name, line in keys:
        lines.setdefault(str(name), []).append(line)
    twice = [
        f"{name} is set on lines {' and '.join(map(str, at))}; keep one of them"
        for name, at in lines.items()
        if len(at) > 1
    ]
    if twice:
        raise ValueError("\n".join(twice))
