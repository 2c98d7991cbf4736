"""Parts that commands share: options that are settings, and help without Python types."""

from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand

from sidecar.errors import SettingsError
from sidecar.settings import SettingInfo, all_settings


def flag_of(setting: SettingInfo) -> Any:
    """The option of a setting, with the same name, help and default in every command."""
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
SINKS = Annotated[str | None, _FLAGS["sinks"]]
SPOOL = Annotated[str | None, _FLAGS["spool"]]
RESERVED_PREFIX = Annotated[str | None, _FLAGS["reserved_prefix"]]
ALLOW_IN_PATH = Annotated[str | None, _FLAGS["allow_in_path"]]
JOBS = Annotated[str | None, _FLAGS["jobs"]]
TLS_CERT = Annotated[str | None, _FLAGS["tls_cert"]]
TLS_KEY = Annotated[str | None, _FLAGS["tls_key"]]
LOG_LEVEL = Annotated[str | None, _FLAGS["log_level"]]
LOG_FORMAT = Annotated[str | None, _FLAGS["log_format"]]
IGNORE_PATH_CASE = Annotated[bool | None, _FLAGS["ignore_path_case"]]


class _Argument(TyperArgument):
    """An argument that help shows by its name, without its Python type."""

    def display_type_rich(self, ctx: Any) -> None:
        """Show no type."""

    def get_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002 - a parameter of the base class
        return [self.display_name_raw + ("..." if self.nargs != 1 else "")]


class Command(TyperCommand):
    """A command whose help shows names instead of Python types."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. Raises SettingsError if both flags of a switch are given."""
        given = set(args[: args.index("--")] if "--" in args else args)
        for parameter in self.params:
            one, other = (
                given.intersection(parameter.opts),
                given.intersection(parameter.secondary_opts),
            )
            if one and other:
                raise SettingsError(f"give one of {min(one)} and {min(other)}")
        return super().parse_args(ctx, args)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                parameter.__class__ = _Argument
