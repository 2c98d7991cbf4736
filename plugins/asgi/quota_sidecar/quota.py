"""What the application sees of a request's plan, and the costs that it reports."""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from quota_sidecar.contract import Decision

_Function = TypeVar("_Function", bound=Callable[..., Any])

CURRENT: ContextVar["Quota | None"] = ContextVar("quota", default=None)


class Quota:
    """A request's decision. `decision` is None if the request was forwarded without one."""

    __slots__ = ("decision", "usage")

    def __init__(self, decision: Decision | None) -> None:
        self.decision = decision
        self.usage: dict[str, int] = {}

    @property
    def account(self) -> str | None:
        return None if self.decision is None else self.decision.account

    @property
    def plan(self) -> str | None:
        return None if self.decision is None else self.decision.plan

    @property
    def remaining(self) -> int | None:
        """Units left of the tightest limit; None without a limit."""
        return None if self.decision is None else self.decision.remaining

    def use(self, **units: int) -> None:
        """Add units to what the request costs, by meter: `use(tokens=350)`.

        The sidecar takes meters that settle on the route, in place of the estimate.
        """
        for meter, count in units.items():
            if type(count) is not int or count < 0:
                raise ValueError(f"{meter}: must be a whole number from 0, not {count!r}")
            self.usage[meter] = self.usage.get(meter, 0) + count


def current() -> Quota | None:
    """The quota of the request that is being handled; None outside the middleware."""
    return CURRENT.get()


def cost(**units: int | Callable[[Any], int]) -> Callable[[_Function], _Function]:
    """Decorate a handler with its cost per meter.

    Units are a number, or a function of what the handler returns. They count when the handler has
    returned; after an exception, the estimate stays.
    """
    for meter, given in units.items():
        if not callable(given):
            Quota(None).use(**{meter: given})

    def add(returned: Any) -> None:
        quota = current()
        if quota is not None:
            for meter, given in units.items():
                quota.use(**{meter: given(returned) if callable(given) else given})

    def decorate(handler: _Function) -> _Function:
        if inspect.iscoroutinefunction(handler):

            @functools.wraps(handler)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                returned = await handler(*args, **kwargs)
                add(returned)
                return returned
        else:

            @functools.wraps(handler)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                returned = handler(*args, **kwargs)
                add(returned)
                return returned

        return cast("_Function", wrapped)

    return decorate
