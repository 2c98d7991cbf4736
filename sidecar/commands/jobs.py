"""The commands `sidecar jobs`: list, show and cancel deferred jobs, and print webhook secrets."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sidecar.commands.account_options import ACCOUNT, name
from sidecar.commands.options import CONFIG, REDIS, REDIS_PREFIX, SOURCE, WEBHOOK_SECRET, Command
from sidecar.commands.output import cell, echo
from sidecar.errors import SettingsError, SidecarError, StoreUnavailable

if TYPE_CHECKING:
    from sidecar.core.jobs.job import JobStatus
    from sidecar.settings import Settings
    from sidecar.stores.jobs import RedisJobs

T = TypeVar("T")
TIMEOUT_S = 5.0
JOB = Annotated[str, typer.Argument(metavar="JOB", help="Job ID.")]


def app() -> typer.Typer:
    """Return the command group `sidecar jobs`."""
    group = typer.Typer(help="Deferred jobs.", no_args_is_help=True, rich_markup_mode=None)
    group.command("list", cls=Command)(list_jobs)
    group.command("show", cls=Command)(show)
    group.command("cancel", cls=Command)(cancel)
    group.command("secret", cls=Command)(secret)
    return group


def list_jobs(
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="Maximum number of jobs.")
    ] = 100,
    source: SOURCE = None,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """List open jobs, oldest first, with state, position, time and request.

    \b
    Example:
      sidecar jobs list --source /sidecar/prod/shop/api
    """

    async def print_jobs(store: "RedisJobs") -> None:
        for job_id, account in await store.list_open(limit):
            status = await store.find(account, job_id)
            if status is not None:
                echo(_line(status))

    _query(_settings(source, redis, redis_prefix, config), print_jobs)
    return 0


def show(
    job: JOB,
    account: ACCOUNT,
    source: SOURCE = None,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Print a job and the response of the upstream, as JSON.

    \b
    Example:
      sidecar jobs show 019bd2e0-4c1f-7a10-9c4e-2f9f3a1b5c6d --account acme
    """
    settings = _settings(source, redis, redis_prefix, config)
    status = _query(settings, lambda store: store.find(account, job))
    if status is None:
        raise _unknown(account, job)
    echo(json.dumps(_document(status, settings.reserved_prefix), indent=2))
    return 0


def cancel(
    job: JOB,
    account: ACCOUNT,
    source: SOURCE = None,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Cancel a job that waits.

    \b
    Example:
      sidecar jobs cancel 019bd2e0-4c1f-7a10-9c4e-2f9f3a1b5c6d --account acme
    """
    from sidecar.core.jobs.job import JobOutcome, JobState

    outcome = JobOutcome(JobState.CANCELLED, JobState.CANCELLED)
    settings = _settings(source, redis, redis_prefix, config)
    state = _query(settings, lambda store: store.end(account, job, "", outcome))
    if state is None:
        raise _unknown(account, job)
    if state is not JobState.CANCELLED:
        raise SidecarError(f'job "{job}" is {state}; only waiting jobs can be cancelled')
    echo(f"Job {job} of account {account} is cancelled.")
    return 0


def _unknown(account: str, job: str) -> SidecarError:
    return SidecarError(f'account "{account}" has no job "{job}", or it ended too long ago')


def secret(account: ACCOUNT, webhook_secret: WEBHOOK_SECRET = None, config: CONFIG = None) -> int:
    """Print the secret that signs an account's webhooks.

    \b
    Example:
      sidecar jobs secret --account acme
    """
    from sidecar.core.jobs.webhook_signing import account_secret, parse_secret
    from sidecar.settings import load_subset

    name("--account", account)
    settings = load_subset("config", "webhook_secret", webhook_secret=webhook_secret, config=config)
    if settings.webhook_secret is None:
        raise SettingsError("--webhook-secret: no value; set it or SIDECAR_WEBHOOK_SECRET")
    echo(account_secret(parse_secret(settings.webhook_secret.get_secret_value()), account))
    return 0


def _line(status: "JobStatus") -> str:
    from sidecar.core.text import moment

    job = status.job
    target = job.target.split(b"?", 1)[0].decode("latin-1")
    cells = [job.id, job.account, job.state, str(status.position), moment(job.accepted_us)]
    return "\t".join(map(cell, [*cells, f"{job.method} {target}"]))


def _document(status: "JobStatus", prefix: str) -> dict[str, Any]:
    from sidecar.core.jobs.document import job_document, result_document

    job = status.job
    document = job_document(job, f"{prefix}jobs/{job.id}", status.position)
    if job.result is not None:
        document["result"] = result_document(job.result)
    return document


_SETTINGS = (
    "config", "redis", "redis_prefix", "source", "reserved_prefix", "webhook_secret",
    "job_max_age_s", "job_result_ttl_s", "jobs", "job_body_bytes", "job_bytes_per_account",
    "job_bytes_in_all",
)  # fmt: skip


def _settings(
    source: str | None, redis: str | None, redis_prefix: str | None, config: str | None
) -> "Settings":
    from sidecar.settings import load_subset

    return load_subset(
        *_SETTINGS, source=source, redis=redis, redis_prefix=redis_prefix, config=config
    )


def _query(settings: "Settings", query: "Callable[[RedisJobs], Awaitable[T]]") -> T:
    """Return the result of a query of the workload's jobs. Raises StoreUnavailable."""
    from sidecar.serve.parts import job_terms_of, workload_of
    from sidecar.stores import connect
    from sidecar.stores.connection.refusals import for_command
    from sidecar.stores.jobs import RedisJobs

    async def run() -> T:
        wire = connect(settings.redis.get_secret_value(), timeout_s=TIMEOUT_S, quiet=True)
        await wire.start()
        try:
            if not wire.reachable:
                raise StoreUnavailable(for_command(wire.last_error))
            terms = job_terms_of(settings)
            workload = workload_of(settings)
            return await query(RedisJobs(wire, settings.redis_prefix, workload, terms))
        finally:
            await wire.stop()

    return asyncio.run(run())
