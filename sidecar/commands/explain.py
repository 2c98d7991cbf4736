"""explain: why a call is treated as it is, without making it."""

import asyncio
import json
import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sidecar.commands.options import (
    ALLOW_IN_PATH,
    CONFIG,
    IGNORE_PATH_CASE,
    JOBS,
    PLANS,
    REDIS,
    REDIS_PREFIX,
    RESERVED_PREFIX,
)
from sidecar.errors import SettingsError, SidecarError, StoreUnavailable

if TYPE_CHECKING:
    from sidecar.core.model import Account, Key, PlanBook
    from sidecar.settings import Settings

_PATIENCE_S: Final = 2.0  # a person waits longer than a call does
_ANY: Final = b"any credential"


def explain(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="HTTP method, such as GET.")],
    path: Annotated[str, typer.Argument(metavar="/PATH", help="Path of the request.")],
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
) -> int:
    """Explain the decision about a request, without charging it.

    Shows identity, route, class, features and limits. Without an API key or account, the client is
    anonymous. If Redis is unavailable, the state of the limits is unknown. Give the command the
    same settings as serve, because they can change the decision.

    \b
    Examples:
      sidecar explain --plans plans.yaml --key-env MY_KEY POST /v1/exports
      sidecar explain --plans plans.yaml --account acme --json GET /v1/items
    """
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
    told = asyncio.run(_explain(settings, book, secret, account, method, path, respond_async))
    from sidecar.commands.explain_text import in_words

    typer.echo(json.dumps(told, indent=2, ensure_ascii=False) if as_json else in_words(told))
    return 0


def _secret(key: str | None, key_env: str | None) -> bytes | None:
    if key_env is None:
        return None if key is None else key.encode()
    value = os.environ.get(key_env)
    if not value:
        raise SettingsError(f"--key-env: the variable {key_env} is not set, or empty")
    return value.encode()


def _method(text: str) -> str:
    """In capitals, as all known ones are. Raises SettingsError."""
    from httptools import HttpParserError, HttpRequestParser

    method = text.upper()
    known = re.fullmatch(r"[A-Z-]+", method) and method not in ("CONNECT", "TRACE")
    try:
        if known:
            HttpRequestParser(object()).feed_data(f"{method} / HTTP/1.1\r\n\r\n".encode())
    except HttpParserError:
        known = None
    if not known:
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
    secret: bytes | None,
    account: str | None,
    method: str,
    path: str,
    respond_async: bool,
) -> dict[str, Any]:
    from sidecar.core.paths import Normaliser
    from sidecar.explain import Known, Peeking, explain_call
    from sidecar.stores import RedisLimitStore, connect

    wire = connect(settings.redis.get_secret_value(), timeout_s=_PATIENCE_S)
    await wire.start()
    try:
        why = f"Redis at {settings.redis_label} does not answer"
        store = RedisLimitStore(wire, settings.redis_prefix) if wire.reachable else None
        key, unavailable = await _who(settings, book, secret, account)
        return await explain_call(
            book,
            Peeking(store, why),
            Known(key, unavailable),
            key,
            # The gate identifies by credential; with --account any will do.
            secret=_ANY if account is not None else secret,
            method=method,
            target=path,
            paths=Normaliser(frozenset(settings.allow_in_path)),
            ignore_case=settings.ignore_path_case,
            reserved_prefix=settings.reserved_prefix,
            jobs=settings.jobs != "off",
            respond_async=respond_async,
        )
    finally:
        await wire.stop()


async def _who(
    settings: "Settings", book: "PlanBook", secret: bytes | None, account: str | None
) -> tuple["Key | None", str]:
    """The caller's key, None if unknown; and why Redis could not be asked, "" if it could."""
    from sidecar.core.identity import anonymous_key, fingerprint
    from sidecar.core.model import Key

    if account is not None:
        return Key("none", _account(settings, book, account)), ""
    if secret is None:
        plan = book.anonymous_plan
        return (None, "") if plan is None else (anonymous_key("127.0.0.1", plan), "")
    digest = fingerprint(secret)
    if digest in book.keys:
        return book.keys[digest], ""
    from sidecar.stores import RedisDirectory, connect

    wire = connect(settings.redis.get_secret_value(), timeout_s=1.0)
    await wire.start()
    try:
        directory = RedisDirectory(wire, settings.redis_prefix, book.accounts.get)
        return await directory.find(digest), ""
    except StoreUnavailable as error:
        return None, str(error)
    finally:
        await wire.stop()


def _account(settings: "Settings", book: "PlanBook", account: str) -> "Account":
    """An account of the plan file or of Redis. Raises SidecarError, StoreUnavailable."""
    if account in book.accounts:
        return book.accounts[account]
    from sidecar.stores.admin import Admin
    from sidecar.stores.directory import account_from

    with Admin(settings.redis.get_secret_value(), settings.redis_prefix) as admin:
        for row in admin.list_accounts():
            if row.id == account:
                return account_from(account, row.fields)
    raise SidecarError(f"account {account} is neither in the plan file nor in Redis")
