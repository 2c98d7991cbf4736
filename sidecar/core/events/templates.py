"""Usage events as JSON from templates, for ordinary requests.

Most events of a route differ in nine values and in their end, the periods of quotas. A template is
the output of `usage_event` with a mark for each of these values, so only `usage_event` knows the
template of an event.
"""

import json
from datetime import date
from json.encoder import encode_basestring
from typing import Final

from sidecar.core.events.build import NODE, REDIS, usage_event
from sidecar.core.events.periods import periods_of
from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account, Entitlement, Key
from sidecar.core.settlement import Outcome, OutcomeReason, refunded

MAX_TEMPLATES: Final = 4_096
MAX_NAMES: Final = 4_096
MAX_PERIODS: Final = 4_096  # per template
# The values that differ, in their order in the event, with the format of each.
_FIELDS: Final = {
    "id": b'"%b"',
    "subject": b"%b",
    "time": b'"%b"',
    "clock": b'"%b"',
    "key": b"%b",
    "status": b"%d",
    "latency_ms": b"%d",
    "bytes_in": b"%d",
    "bytes_out": b"%d",
}
_END: Final = b"}}"  # of an event without periods
id_of: Final = id  # `id` is also an attribute of events
_CLOCKS: Final = {REDIS: b"redis", NODE: b"node"}
_OK: Final = OutcomeReason.OK
_ANY_OUTCOME: Final = Outcome(0, OutcomeReason.OK, 0, 0, 0)


_Periods = tuple[tuple[int, ...], tuple[int, ...], str, date | None]  # ends, starts, calendar


class _Template:
    """`text` has a %-format for each value of `_FIELDS` and for the end.

    `ends`: the ends with periods, by the periods' ends in µs and the calendar of the account.
    """

    __slots__ = ("ends", "entitlement", "has_quotas", "text")

    def __init__(self, entitlement: Entitlement, text: bytes) -> None:
        self.entitlement = entitlement
        self.text = text
        self.has_quotas = any(isinstance(one.limit, QuotaLimit) for one in entitlement.claims)
        self.ends: dict[_Periods, bytes] = {}

    def add_end(
        self, ends_us: tuple[int, ...], starts_us: tuple[int, ...], account: Account
    ) -> bytes:
        """Return the end of the events of these periods; also from now on."""
        periods = periods_of(self.entitlement.claims, ends_us, account, starts_us)
        end = b',"periods":' + json.dumps(periods, separators=(",", ":")).encode() + _END
        if len(self.ends) >= MAX_PERIODS:
            self.ends.clear()
        self.ends[ends_us, starts_us, account.timezone, account.anchor] = end
        return end


class _Names:
    """JSON strings of a key and its account. `subject`: b"" if no template fits this account."""

    __slots__ = ("key", "key_id", "subject")

    def __init__(self, key: Key, subject: bytes, key_id: bytes) -> None:
        self.key = key
        self.subject = subject
        self.key_id = key_id


class EventTemplates:
    """Templates of one plan book, by entitlement and method. `source` is that of all events."""

    def __init__(self, source: str, plan_version: str) -> None:
        self._source = source
        self._plan_version = plan_version
        self._templates: dict[tuple[int, str], _Template] = {}
        self._names: dict[int, _Names] = {}

    def fill(
        self,
        id: str,  # noqa: A002 - the attribute's name in CloudEvents
        time: str,
        key: Key,
        entitlement: Entitlement,
        plan_version: str,
        method: str,
        outcome: Outcome,
        clock: str = NODE,
        ends_us: tuple[int, ...] = (),
        starts_us: tuple[int, ...] = (),
    ) -> bytes | None:
        """Return the event of `usage_event` as JSON, or None if no template fits.

        Only for requests without overage. `id` and `time` must need no escapes. `ends_us` and
        `starts_us`: as in `periods_of`. None for a failed or refunded request, for costs from
        bodies, for an account with teams, for another plan book, for ids outside ASCII, and for
        quotas without an answer.
        """
        if (
            outcome.reason is not _OK
            or plan_version != self._plan_version
            or entitlement.estimates
            or entitlement.settles
            or (entitlement.plan.refunds and refunded(entitlement, outcome))
        ):
            return None
        names = self._names.get(id_of(key))
        if names is None or names.key is not key:
            names = self._add_names(key)
        if not names.subject:
            return None
        template = self._templates.get((id_of(entitlement), method))
        if template is None or template.entitlement is not entitlement:
            template = self._make(key, entitlement, method)
        end = _END
        if template.has_quotas:
            if not ends_us:
                return None
            account = key.account
            periods = ends_us, starts_us, account.timezone, account.anchor
            known = template.ends
            end = (
                known[periods]
                if periods in known
                else template.add_end(ends_us, starts_us, account)
            )
        return template.text % (
            id.encode(),
            names.subject,
            time.encode(),
            _CLOCKS[clock],
            names.key_id,
            outcome.status,
            outcome.latency_ms,
            outcome.bytes_in,
            outcome.bytes_out,
            end,
        )

    def _add_names(self, key: Key) -> _Names:
        """Return the names of a key; also from now on."""
        account = key.account
        subject = key_id = b""
        if not account.teams and account.id.isascii() and key.id.isascii():
            subject = encode_basestring(account.id).encode()
            key_id = encode_basestring(key.id).encode()
        names = _Names(key, subject, key_id)
        if len(self._names) >= MAX_NAMES:
            self._names.clear()
        self._names[id_of(key)] = names
        return names

    def _make(self, key: Key, entitlement: Entitlement, method: str) -> _Template:
        marks = {name: f"\0{name}" for name in _FIELDS}  # no name or id contains a NUL
        event = usage_event(
            id=marks["id"],
            source=self._source,
            time=marks["time"],
            clock=marks["clock"],
            key=key,
            entitlement=entitlement,
            plan_version=self._plan_version,
            method=method,
            outcome=_ANY_OUTCOME,
        )
        for part in (event, event["data"]):
            part.update({name: mark for name, mark in marks.items() if name in part})
        text = json.dumps(event, separators=(",", ":")).encode().replace(b"%", b"%%")
        for name, field in _FIELDS.items():
            text = text.replace(json.dumps(marks[name]).encode(), field)
        text = text.removesuffix(_END) + b"%b"
        if len(self._templates) >= MAX_TEMPLATES:
            self._templates.clear()
        template = _Template(entitlement, text)
        self._templates[id_of(entitlement), method] = template
        return template
