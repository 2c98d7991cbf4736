"""The sources of settings: flags, then environment variables, then the settings file."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from pydantic import SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sidecar.addresses import Address, Origin, UnixPath
from sidecar.core.text import one_line
from sidecar.errors import SettingsError
from sidecar.settings.describe import ENV_PREFIX, message

_CONFIG: Final = "--config (SIDECAR_CONFIG)"
_ANOTHER: Final = "name another with --config FILE"


class LayeredSettings(BaseSettings):
    """Immutable settings from flags, environment, settings file and defaults."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
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
        """Flags, environment, and the settings file that one of these names."""
        path = init_settings().get("config") or env_settings().get("config")
        if not path:
            return init_settings, env_settings
        values = read(Path(str(path)))
        return init_settings, env_settings, InitSettingsSource(settings_cls, values)

    @classmethod
    def load(cls, flags: Mapping[str, object]) -> Self:
        """Settings from flags (None: not given), environment, file and defaults.

        Raises SettingsError with one line per invalid setting, which names flag and variable.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            settings = cls(**given)  # type: ignore[arg-type]  # pydantic validates them
        except ValidationError as error:
            parts = error.errors(include_url=False)
            lines = [one_line(message(part, cls.model_fields)) for part in parts]
            raise SettingsError("\n".join(dict.fromkeys(lines))) from None
        settings._check()
        return settings

    def _check(self) -> None:
        """Raise SettingsError if settings exclude each other."""

    def as_flags(self) -> dict[str, str]:
        """Flags from which `load` makes the same settings, without environment and file.

        They contain the password of Redis.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "config"}
        return {name: _flag(value) for name, value in values.items() if value is not None}


def _flag(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Address | UnixPath | Origin):
        return str(value)
    return ",".join(value) if isinstance(value, tuple) else str(value)


def read(path: Path) -> dict[str, Any]:
    """The settings of the file. Raises SettingsError if it is unreadable or invalid."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{_CONFIG}: {path} {_unreadable(error)}") from None
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else _yaml(text)
    except ValueError as error:
        lines = [f"{_CONFIG}: {path}: {_with_remedy(line)}" for line in str(error).splitlines()]
        raise SettingsError("\n".join(lines)) from None
    if not isinstance(values, dict):
        raise SettingsError(f"{_CONFIG}: {path}: is not a mapping; write lines like NAME: VALUE")
    if "config" in values:
        raise SettingsError(f"{_CONFIG}: {path}: config cannot name another file; remove it")
    return {str(name): value for name, value in values.items() if value is not None}


def _unreadable(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"does not exist; {_ANOTHER}"
    if isinstance(error, IsADirectoryError):
        return f"is a directory; {_ANOTHER}"
    if isinstance(error, OSError):
        remedy = f"make it readable for this user, or {_ANOTHER}"
        return f"cannot be read: {error.strerror}; {remedy}"
    return "is not UTF-8; save it as UTF-8"


def _with_remedy(line: str) -> str:
    return line if "; " in line else f"{line}; correct it, or {_ANOTHER}"


def _yaml(text: str) -> Any:
    """The data of a YAML file. Raises ValueError with one line per problem."""
    import yaml  # only if there is a settings file, to save memory

    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if isinstance(root, yaml.MappingNode):
            _require_once([(key.value, key.start_mark.line + 1) for key, _ in root.value])
        return (loader.construct_document(root) if root else None) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise ValueError(f"{where}not valid YAML: {problem}") from None
    finally:
        loader.dispose()


def _require_once(keys: list[tuple[Any, int]]) -> None:
    """Raise ValueError if a key repeats: YAML would silently use the last one.

    `keys` has each key with its line.
    """
    lines: dict[str, list[int]] = {}
    for name, line in keys:
        lines.setdefault(str(name), []).append(line)
    repeated = [
        f"{name} is set on lines {' and '.join(map(str, at))}; keep one of them"
        for name, at in lines.items()
        if len(at) > 1
    ]
    if repeated:
        raise ValueError("\n".join(repeated))
