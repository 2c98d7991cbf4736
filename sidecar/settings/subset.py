"""The settings of verbs that serve nothing: those that they ask for, from the same places."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from sidecar.settings.model import Settings

# What `serve` must be given and a tool may do without.
_UNASKED: Final = {"plans": "none", "upstream": "http://none"}


def load_subset(*names: str, **flags: object) -> Settings:
    """The settings of these names as `Settings.load` has them; what is set of others is neither
    used nor judged. Raises SettingsError."""
    unasked = {name: value for name, value in _UNASKED.items() if name not in names}

    class Few(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *sources: Any, **named: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            found = super().settings_customise_sources(settings_cls, *sources, **named)
            values = [_only(names, source()) for source in found]
            return tuple(InitSettingsSource(settings_cls, each) for each in (*values, unasked))

    return Few.load(flags)


def _only(names: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the settings that nobody asked for; a name that is none stays, to be refused."""
    return {
        name: value
        for name, value in values.items()
        if name in names or name not in Settings.model_fields
    }
