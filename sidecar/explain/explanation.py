"""One explanation: the gate decides, on a store that only peeks."""

import contextlib
from typing import Any

from sidecar.clock import Clock
from sidecar.core.costs import Unreadable
from sidecar.core.identity import anonymous_key, key_digest
from sidecar.core.jobs.deferral import fits_later, may_run_later
from sidecar.core.model import Entitlement, Key, PlanBook
from sidecar.core.readings import Reading
from sidecar.core.reasons import Decision, Reason
from sidecar.core.refusals.build import http_problem
from sidecar.errors import StoreUnavailable
from sidecar.explain import document
from sidecar.explain.parts import NullSpool, PeekStore
from sidecar.explain.request import ExplainedRequest, ExplainOptions
from sidecar.gate import Admission, Deferred, Entitler, Gate, Recorder, Refused, Reserver
from sidecar.metrics import Metrics
from sidecar.ports import KeyDirectory, LimitStore


async def explain(
    book: PlanBook,
    store: LimitStore | None,
    directory: KeyDirectory,
    request: ExplainedRequest,
    options: ExplainOptions,
    *,
    respond_async: bool = False,
    store_problem: str = "",
) -> dict[str, Any]:
    """Return everything that decides a request, as JSON values.

    `respond_async`: the client prefers to be deferred. `store_problem`: why `store` is None.
    """
    target = request.target.decode()
    key = await _key_of(book, directory, request)
    explanation: dict[str, Any] = {
        "request": f"{request.method} {target}",
        "plan_version": book.version,
        "identity": None if key is None else document.identity(key, book, request),
    }
    if target.startswith(options.reserved_prefix):
        refusal = http_problem(404, "Nothing here", _reserved(options.reserved_prefix), "")
        return explanation | {"decision": document.decision(Refused("", refusal))}
    peeked, clock = PeekStore(store, store_problem), Clock()
    gate = Gate(
        Entitler(
            book,
            directory,
            lambda: clock.now_ns() // 1000,
            paths=options.paths,
            ignore_case=options.ignore_case,
        ),
        Reserver(peeked),
        Recorder(NullSpool(), Metrics(), clock, "/sidecar/explain"),
    )
    has_key = bool(request.api_keys)  # a job runs with the key of its request

    def may_defer(_: object, entitlement: Entitlement, decision: Decision) -> bool:
        may = options.jobs and has_key and may_run_later(entitlement, asked=respond_async)
        return may and fits_later(decision)

    result = await gate.admit(request, _default_costs, may_defer)
    key = result.key or key
    entitlement = None if key is None else gate.entitle(request, key)
    if entitlement is not None and not isinstance(entitlement, Reason):
        if key is not None and peeked.answer is None and entitlement.claims:
            with contextlib.suppress(StoreUnavailable):  # a suspended account was not looked up
                await peeked.peek(key.account, key.id, entitlement.claims)
        explanation |= document.route(entitlement)
        explanation["limits"] = document.limit_rows(book, entitlement.claims, peeked.answer)
        if peeked.answer is None and entitlement.claims and not entitlement.missing:
            explanation["state_unknown"] = peeked.problem
    explanation["decision"] = document.decision(result)
    if _by_local_share(entitlement, result):
        explanation["decision"] |= {"allowed": None, "depends_on": "local share"}
    return explanation


def _by_local_share(
    entitlement: Entitlement | Reason | None, result: Admission | Refused | Deferred
) -> bool:
    """Whether a sidecar would decide by its local share, which only the sidecar knows."""
    return (
        isinstance(result, Refused)
        and result.refusal.reason is Reason.STORE_UNAVAILABLE
        and isinstance(entitlement, Entitlement)
        and entitlement.when_down == "local"
    )


async def _default_costs(entitlement: Entitlement) -> Reading:
    return Reading.failed((meter for meter, _ in entitlement.estimates), Unreadable.MISSING)


def _reserved(prefix: str) -> str:
    return f"Paths under {prefix} are reserved for the sidecar and never forwarded."


async def _key_of(book: PlanBook, directory: KeyDirectory, request: ExplainedRequest) -> Key | None:
    """Return the request's key, also that of a suspended account; None if it is unknown."""
    if not request.api_keys:
        plan = book.anonymous_plan
        return None if plan is None else anonymous_key(request.address, plan)
    digest = key_digest(request.api_keys[0])
    try:
        return book.keys.get(digest) or await directory.find(digest)
    except StoreUnavailable:
        return None
