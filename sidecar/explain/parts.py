"""Stand-ins for the gate's collaborators: nothing is reserved or recorded."""

from collections.abc import Callable, Sequence
from typing import Any

from sidecar.core.answers import Answer, Hold, QuotaDetail
from sidecar.core.counting import limits
from sidecar.core.counting.counters import State
from sidecar.core.counting.limits import Grant
from sidecar.core.kinds import TEAM, QuotaLimit
from sidecar.core.model import Account, Claim, Key, WhenDown
from sidecar.errors import StoreUnavailable
from sidecar.ports import LimitStore


class PeekStore:
    """Implements `ports.LimitStore`: `reserve` only peeks.

    `answer`: the real store's last answer; None without one, and `problem` is the reason.
    """

    def __init__(self, store: LimitStore | None, problem: str) -> None:
        self._store = store
        self.problem = problem
        self.answer: Answer | None = None

    @property
    def up(self) -> bool:
        return self._store is not None

    async def peek(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        """Return the real store's answer. Raises StoreUnavailable."""
        if self._store is None:
            raise StoreUnavailable(self.problem)
        try:
            self.answer = await self._store.peek(account, key_id, claims)
        except StoreUnavailable as error:
            self.problem = str(error)
            raise
        return self.answer

    async def reserve(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        *,
        hold: Hold | None = None,  # noqa: ARG002 - the port's
        once: bool = False,  # noqa: ARG002
        when_down: WhenDown = "deny",  # noqa: ARG002
    ) -> Answer:
        """Return the answer after a grant, so that the decision has overage and notices."""
        answer = await self.peek(account, key_id, claims)
        if not answer.granted:
            return answer
        details = answer.details or (QuotaDetail(),) * len(claims)
        after = [_granted(*one) for one in zip(claims, answer.used, details, strict=True)]
        used, details = tuple(one[0] for one in after), tuple(one[1] for one in after)
        return answer._replace(used=used, details=details)

    def settle(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str,
        on_settled: Callable[[Answer | None], None] | None = None,
        *,
        billed: bool = True,
    ) -> None:
        """Do nothing: nothing was reserved."""


def _granted(claim: Claim, used: int, detail: QuotaDetail) -> tuple[int, QuotaDetail]:
    """What a grant would leave of a limit: the counter, and its detail."""
    limit, weight = claim.limit, claim.limit.weight(claim.cost)
    grants = [Grant("", "", detail.left, 0)]
    state, _, burned = limits.add(limit, State(used, carried=detail.carried), grants, weight)
    if limit.kind is TEAM:
        return state.used, detail._replace(notified=max(0, detail.notified - weight))
    over = 0
    if isinstance(limit, QuotaLimit):  # as if all that is counted had ended
        over = min(weight - burned, max(0, state.used - limits.allowance(limit, state)))
    left = detail.left - burned
    return state.used, detail._replace(left=left, burned=burned, overage=max(0, over))


class NullSpool:
    """Implements `ports.Spool`: an explained request has no event."""

    accepting = True

    def __init__(self) -> None:
        self.in_flight: Any = [0]

    def append(self, event: dict[str, Any] | bytes) -> None:
        """Drop it."""


class OneKeyDirectory:
    """Implements `ports.KeyDirectory`: any digest is that of one key."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def cached(self, digest: bytes) -> Key | None:  # noqa: ARG002 - the port's
        return self._key

    async def find(self, digest: bytes) -> Key | None:  # noqa: ARG002 - the port's
        return self._key
