"""Where settings come from: flags, then variables, then the settings file, then defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sidecar.addresses import Address, Origin, UnixPath
from sidecar.errors import SettingsError
from sidecar.settings.describing import ENV_PREFIX, sentence
from sidecar.settings.files import read


class Sourced(BaseSettings):
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
