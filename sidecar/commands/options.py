"""What the verbs have in common: flags that are settings, and a help in words for people."""

from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand

from sidecar.settings import SettingInfo, all_settings


def flag_of(setting: SettingInfo) -> Any:
    """The flag of one setting: the same name, words and default for whichever verb has it."""
    default = "required" if setting.default is None else f"default {setting.default}"
    text = f"{setting.help} [{setting.env}; {default}]"
    names = f"{setting.flag}/--no-{setting.flag[2:]}" if setting.switch else setting.flag
    return typer.Option(names, help=text, metavar=setting.metavar or None, show_default=False)


_FLAGS = {setting.name: flag_of(setting) for setting in all_settings()}

CONFIG = Annotated[str | None, _FLAGS["config"]]
PLANS = Annotated[str | None, _FLAGS["plans"]]
REDIS = Annotated[str | None, _FLAGS["redis"]]
REDIS_PREFIX = Annotated[str | None, _FLAGS["redis_prefix"]]
SOURCE = Annotated[str | None, _FLAGS["source"]]
WEBHOOK_SECRET = Annotated[str | None, _FLAGS["webhook_secret"]]
SPOOL = Annotated[str | None, _FLAGS["spool"]]
RESERVED_PREFIX = Annotated[str | None, _FLAGS["reserved_prefix"]]
ALLOW_IN_PATH = Annotated[str | None, _FLAGS["allow_in_path"]]
JOBS = Annotated[str | None, _FLAGS["jobs"]]
IGNORE_PATH_CASE = Annotated[bool | None, _FLAGS["ignore_path_case"]]


class _Argument(TyperArgument):
    """An argument that is shown by its name alone, without its Python type."""

    def display_type_rich(self, ctx: Any) -> None:
        """Nothing."""

    def get_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's
        return [self.display_name_raw + ("..." if self.nargs != 1 else "")]


class Verb(TyperCommand):
    """A command whose help tells what to write."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                parameter.__class__ = _Argument
