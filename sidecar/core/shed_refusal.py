"""The answer to a call that is shed: it says that it is the API, and when to come back."""

from sidecar.core.model import Entitlement
from sidecar.core.problems import SPECS
from sidecar.core.reasons import Reason
from sidecar.core.refusals import Refusal


def shed_refusal(entitlement: Entitlement, request_id: str, wait_s: int, jitter: int) -> Refusal:
    """503: the API is overloaded. Names the routes that are never shed.

    Retry-After is spread from `wait_s` to twice that and a second more, by `jitter`, 0 to 99: who
    was shed together does not come back together.
    """
    spec = SPECS[Reason.SHED]
    retry = wait_s + (wait_s + 2) * jitter // 100
    problem: dict[str, object] = {
        "type": spec.type,
        "title": spec.title,
        "status": spec.status,
        "detail": spec.detail,
        "class": entitlement.route.call_class,
        "still_available": list(entitlement.still_available),
        "how_to_fix": [{"action": "wait", "seconds": retry}],
        "request_id": request_id,
    }
    return Refusal(spec.status, Reason.SHED, problem, retry, ())
