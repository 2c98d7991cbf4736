"""keys rotate: a new API key in place of another one, which works for a while longer."""

import secrets
from datetime import timedelta
from typing import Annotated

import typer

from sidecar.commands.account_options import ACCOUNT, lifetime, name, open_admin
from sidecar.commands.options import CONFIG, REDIS, REDIS_PREFIX
from sidecar.commands.output import echo


def rotate(
    account: ACCOUNT,
    key_id: Annotated[
        str, typer.Option("--id", metavar="ID", help="ID of the API key to replace.")
    ],
    new_id: Annotated[
        str | None,
        typer.Option("--new-id", metavar="ID", help="ID of the new API key. Default: random."),
    ] = None,
    grace: Annotated[
        str,
        typer.Option(
            metavar="SPAN",
            help="How long the old API key still works, such as 24h or 90m. 0: it is revoked now.",
        ),
    ] = "24h",
    expires: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Lifetime of the new API key. Default: 10 years."),
    ] = None,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Replace an API key in Redis, and print the secret of the new one.

    Both changes happen at once. The old API key works until --grace ends, or until it expires if
    that is earlier; each sidecar refuses it within 1 s of that. The new one has the same team.
    Only the secret is printed to stdout.

    \b
    Examples:
      sidecar keys rotate --account acme --id k1
      KEY=$(sidecar keys rotate --account acme --id k1 --new-id k2 --grace 7d)
    """
    name("--account", account)
    if new_id is not None:
        name("--new-id", new_id)
    left = timedelta() if grace == "0" else lifetime(grace, "--grace") or timedelta()
    with open_admin(redis, redis_prefix, config) as admin:
        created, secret = admin.rotate_key(
            account,
            key_id,
            random_bytes=secrets.token_bytes,
            new_id=new_id,
            grace=left,
            expires=lifetime(expires),
        )
    ends = f"works for {grace} more" if left else "is revoked"
    echo(f"Key {created} replaces {key_id} of account {account}, which {ends}.", err=True)
    echo("The secret is shown only now:", err=True)
    echo(secret)
    return 0
