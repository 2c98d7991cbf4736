"""The event of a call as JSON, filled in: for calls of which there is nothing special to tell.

Most events of a route differ in a handful of values. `usage_event` is asked once, with a mark in
each of their places, so that it alone knows what an event looks like.
"""

import json
from json.encoder import encode_basestring
from typing import Final

from sidecar.core.events.build import usage_event
from sidecar.core.model import Entitlement, Key
from sidecar.core.settlement import Outcome, OutcomeReason, refunded

MOST_FORMS: Final = 4_096
# Which values differ, in the order in which an event has them, and how each is filled in.
_PLACES: Final = {
    "id": b'"%b"',
    "subject": b"%b",
    "time": b'"%b"',
    "key": b"%b",
    "status": b"%d",
    "latency_ms": b"%d",
    "bytes_in": b"%d",
    "bytes_out": b"%d",
}
_PLAIN: Final = Outcome(0, OutcomeReason.OK, 0, 0, 0)


class _Form:
    """`text` has a place for each of the values."""

    __slots__ = ("entitlement", "text")

    def __init__(self, entitlement: Entitlement, text: bytes) -> None:
        self.entitlement = entitlement
        self.text = text


class EventForms:
    """Forms of one plan book, by route, plan and method; `source` is that of all events."""

    def __init__(self, source: str, plan_version: str) -> None:
        self._source = source
        self._plan_version = plan_version
        self._forms: dict[tuple[int, str], _Form] = {}

    def fill(
        self,
        *,
        id: str,  # noqa: A002 - the attribute's name in CloudEvents
        time: str,
        key: Key,
        entitlement: Entitlement,
        plan_version: str,
        method: str,
        outcome: Outcome,
    ) -> bytes | None:
        """The same event as `usage_event` makes, as JSON. None for one that says more: of a call
        that failed, or was given back, or that tells its cost itself, or whose account has teams;
        nor for another plan book's, or ids outside ASCII. Of a call without overage; `id` and
        `time` need no escapes."""
        account = key.account
        if (
            outcome.reason is not OutcomeReason.OK
            or plan_version != self._plan_version
            or entitlement.estimates
            or entitlement.settles
            or account.teams
            or refunded(entitlement, outcome)
            or not (account.id.isascii() and key.id.isascii())
        ):
            return None
        form = self._forms.get(_name(entitlement, method))
        if form is None or form.entitlement is not entitlement:
            form = self._make(key, entitlement, method)
        return form.text % (
            id.encode(),
            encode_basestring(account.id).encode(),
            time.encode(),
            encode_basestring(key.id).encode(),
            outcome.status,
            outcome.latency_ms,
            outcome.bytes_in,
            outcome.bytes_out,
        )

    def _make(self, key: Key, entitlement: Entitlement, method: str) -> _Form:
        marks = {name: f"\0{name}" for name in _PLACES}  # no name or id has a NUL
        event = usage_event(
            id=marks["id"],
            source=self._source,
            time=marks["time"],
            key=key,
            entitlement=entitlement,
            plan_version=self._plan_version,
            overage=(),
            method=method,
            outcome=_PLAIN,
        )
        for part in (event, event["data"]):
            part.update({name: mark for name, mark in marks.items() if name in part})
        text = json.dumps(event, separators=(",", ":")).encode().replace(b"%", b"%%")
        for name, place in _PLACES.items():
            text = text.replace(json.dumps(marks[name]).encode(), place)
        if len(self._forms) >= MOST_FORMS:
            self._forms.clear()
        form = _Form(entitlement, text)
        self._forms[_name(entitlement, method)] = form
        return form


def _name(entitlement: Entitlement, method: str) -> tuple[int, str]:
    return id(entitlement), method
