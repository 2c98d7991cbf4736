"""Subsets of the settings, for commands that do not serve, from the same sources."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from sidecar.settings.describe import env_of
from sidecar.settings.model import Settings

# Placeholders for settings that are required by `serve` and not by other commands.
_UNUSED: Final = {"plans": "none", "upstream": "http://none"}


def load_subset(*names: str, **flags: object) -> Settings:
    """The settings with these names, as `Settings.load` reads them; others have their defaults.

    Other settings are ignored even if they are invalid. Raises SettingsError if one of `names` is
    invalid.
    """
    unused = {name: value for name, value in _UNUSED.items() if name not in names}

    class Subset(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *sources: Any, **named: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            every = super().settings_customise_sources(settings_cls, *sources, **named)
            values = [_select(names, source()) for source in every]
            return tuple(InitSettingsSource(settings_cls, each) for each in (*values, unused))

    return Subset.load(flags)


def check_variables(variables: Mapping[str, str]) -> None:
    """Check environment variables of `serve` that another machine will have.

    Raises SettingsError as `Settings.load` does. The environment of this process has no effect.
    """
    by_variable = {env_of(name): name for name in Settings.model_fields}
    values = {by_variable[variable]: value for variable, value in variables.items()}

    class Given(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_sources: Any, **_named: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (InitSettingsSource(settings_cls, {**_UNUSED, **values}),)

    Given.load({})


def _select(names: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `names`, and of unknown names, which the model rejects."""
    return {
        name: value
        for name, value in values.items()
        if name in names or name not in Settings.model_fields
    }
