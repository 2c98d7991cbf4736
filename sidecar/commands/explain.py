"""explain: why a request is decided as it is, without sending it."""

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sidecar.commands.explain_past import explain_past
from sidecar.commands.options import (
    ALLOW_IN_PATH,
    CONFIG,
    IGNORE_PATH_CASE,
    JOBS,
    PLANS,
    REDIS,
    REDIS_PREFIX,
    RESERVED_PREFIX,
    SPOOL,
)
from sidecar.commands.output import echo
from sidecar.errors import SettingsError, SidecarError, StoreUnavailable

if TYPE_CHECKING:
    from sidecar.core.model import PlanBook
    from sidecar.explain import ExplainedRequest
    from sidecar.settings import Settings

_TIMEOUT_S: Final = 2.0  # of Redis: people wait longer than requests
_ANY_KEY: Final = b"any API key"  # with --account


def explain(
    method: Annotated[
        str | None, typer.Argument(metavar="METHOD", help="HTTP method, such as GET.")
    ] = None,
    path: Annotated[
        str | None, typer.Argument(metavar="/PATH", help="Path of the request.")
    ] = None,
    plans: PLANS = None,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    reserved_prefix: RESERVED_PREFIX = None,
    allow_in_path: ALLOW_IN_PATH = None,
    ignore_path_case: IGNORE_PATH_CASE = None,
    jobs: JOBS = None,
    config: CONFIG = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="SECRET", help="API key; prefer --key-env."),
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option(metavar="VAR", help="Environment variable with the API key."),
    ] = None,
    account: Annotated[
        str | None, typer.Option(metavar="ID", help="Account ID, instead of an API key.")
    ] = None,
    respond_async: Annotated[
        bool, typer.Option("--respond-async", help="Assume the header Prefer: respond-async.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for programs.")] = False,
    request_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Past request to find, instead of METHOD /PATH."),
    ] = None,
    spool: SPOOL = None,
    events: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="With --request-id: file of a sink, or a directory of them. Repeatable.",
        ),
    ] = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="With --request-id: log of serve as JSON, or - for standard input. Repeatable.",
        ),
    ] = None,
) -> int:
    """Explain the decision about a request, without charging it.

    Shows identity, route, class, features and limits. Without an API key or account, the client is
    anonymous. If Redis is unavailable, the state of the limits is unknown. Give the command the
    same settings as serve, because they can change the decision.

    With --request-id, it prints what was recorded about a past request: its usage event or refusal
    event, and its log events. Without --spool, --events and --log, it reads the default spool.

    \b
    Examples:
      sidecar explain --plans plans.yaml --key-env MY_KEY POST /v1/exports
      sidecar explain --plans plans.yaml --account acme --json GET /v1/items
      sidecar explain --request-id 019bd2e0-4c1f-7a10-9c4e-2f9f3a1b5c6d --log sidecar.log
    """
    if request_id is not None:
        if method is not None or sum(one is not None for one in (key, key_env, account)):
            raise SettingsError("give one of --request-id and METHOD /PATH")
        return explain_past(request_id, spool, config, events or [], log or [], as_json=as_json)
    if spool is not None or events or log:
        raise SettingsError("--spool, --events and --log: need --request-id ID; add it")
    if method is None or path is None:
        raise SettingsError("METHOD and /PATH: missing; write them like GET /v1/items")
    if sum(one is not None for one in (key, key_env, account)) > 1:
        raise SettingsError("give one of --key, --key-env and --account")
    secret = _secret(key, key_env)
    method = _method(method)
    _require_path(path)
    from sidecar.config.loading import load
    from sidecar.logs import configure
    from sidecar.settings import load_subset

    given = {
        "config": config,
        "plans": plans,
        "redis": redis,
        "redis_prefix": redis_prefix,
        "reserved_prefix": reserved_prefix,
        "allow_in_path": allow_in_path,
        "ignore_path_case": ignore_path_case,
        "jobs": jobs,
    }
    settings = load_subset(*given, **given)
    configure("error", "console")
    book = load(settings.plans)
    from sidecar.commands.explain_text import text_of
    from sidecar.explain import ExplainedRequest

    request = ExplainedRequest(method, path.encode(), [] if secret is None else [secret])
    explanation = asyncio.run(_explain(settings, book, request, account, respond_async))
    text = (
        json.dumps(explanation, indent=2, ensure_ascii=False) if as_json else text_of(explanation)
    )
    echo(text)
    return 0


def _secret(key: str | None, key_env: str | None) -> bytes | None:
    if key_env is None:
        return None if key is None else key.encode()
    value = os.environ.get(key_env)
    if not value:
        raise SettingsError(f"--key-env: the variable {key_env} is not set, or empty")
    return value.encode()


def _method(text: str) -> str:
    """Return a method in capitals, as all known ones are. Raises SettingsError."""
    from sidecar.proxy.downstream.methods import is_forwarded

    method = text.upper()
    if not is_forwarded(method):
        raise SettingsError(
            f'METHOD: "{text}" is not a method that is forwarded; write one like GET or POST'
        )
    return method


def _require_path(text: str) -> None:
    if not text.startswith("/") and text != "*":
        raise SettingsError(
            f'/PATH: "{text}" is not a path; write one such as /v1/items, without scheme and host'
        )


async def _explain(
    settings: "Settings",
    book: "PlanBook",
    request: "ExplainedRequest",
    account_id: str | None,
    respond_async: bool,
) -> dict[str, Any]:
    """Raises SidecarError for an unknown account, StoreUnavailable if only Redis may know it."""
    from sidecar.core.model import Key
    from sidecar.core.paths import Normaliser
    from sidecar.explain import ExplainOptions, OneKeyDirectory, explain
    from sidecar.ports import KeyDirectory
    from sidecar.stores import RedisDirectory, RedisLimitStore, connect
    from sidecar.stores.connection.refusals import for_command

    wire = connect(settings.redis.get_secret_value(), timeout_s=_TIMEOUT_S)
    await wire.start()
    try:
        directory = RedisDirectory(wire, settings.redis_prefix, book.accounts.get)
        keys: KeyDirectory = directory
        if account_id is not None:
            try:
                account = await directory.account(account_id)
            except StoreUnavailable as error:
                unknown = f", and account {account_id} is not in the plan file"
                raise StoreUnavailable(for_command(str(error), unknown)) from None
            if account is None:
                raise SidecarError(f"account {account_id} is neither in the plan file nor in Redis")
            keys = OneKeyDirectory(Key("none", account))
            request.api_keys = [_ANY_KEY]
        return await explain(
            book,
            RedisLimitStore(wire, settings.redis_prefix) if wire.reachable else None,
            keys,
            request,
            ExplainOptions(
                paths=Normaliser(frozenset(settings.allow_in_path)),
                ignore_case=settings.ignore_path_case,
                reserved_prefix=settings.reserved_prefix,
                jobs=settings.jobs != "off",
            ),
            respond_async=respond_async,
            store_problem=f"Redis is unavailable: {wire.last_error}",
        )
    finally:
        await wire.stop()
