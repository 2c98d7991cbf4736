"""Where settings come from: flags, then variables, then the settings file, then defaults."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sidecar.addresses import Address, Origin, UnixPath
from sidecar.errors import SettingsError
from sidecar.settings.describe import ENV_PREFIX, sentence


class LayeredSettings(BaseSettings):
    """Settings that are read from all four. Immutable."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not used here
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not used here
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, settings file; the file is the one that the first two name."""
        path = init_settings().get("config") or env_settings().get("config")
        if not path:
            return init_settings, env_settings
        values = read(Path(str(path)))
        return init_settings, env_settings, InitSettingsSource(settings_cls, values)

    @classmethod
    def load(cls, flags: Mapping[str, object]) -> Self:
        """Settings from flags (None: not given), environment, file and defaults.

        Raises SettingsError with one sentence a line, each naming the flag and the variable.
        """
        try:
            settings = cls(**_given(flags))  # type: ignore[arg-type]  # validated by pydantic
        except ValidationError as error:
            lines = [sentence(one, cls.model_fields) for one in error.errors(include_url=False)]
            raise SettingsError("\n".join(dict.fromkeys(lines))) from None
        settings._check()
        return settings

    def _check(self) -> None:
        """Raises SettingsError for settings that do not go together."""

    def as_flags(self) -> dict[str, str]:
        """What to give to `load`, without environment and file, to get the same settings.

        Holds the password of Redis.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "config"}
        return {name: _flag(value) for name, value in values.items() if value is not None}


def _given(flags: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in flags.items() if value is not None}


def _flag(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Address | UnixPath | Origin):
        return str(value)
    return ",".join(value) if isinstance(value, tuple) else str(value)


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
