"""Parser of `api.request.v1` events: strict, fast and small in memory.

A command reads millions of events in one run, so equal texts and usages share one value.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple

from sidecar.core.kinds import MICRO, UNBOUNDED

REQUEST: Final = "api.request.v1"
REFUSAL: Final = "api.refusal.v1"
OVERAGE: Final = "account.overage.v1"
UNCLEAN_STOP: Final = "sidecar.spool.unclean_stop.v1"
MISSING_EVENTS: Final = "sidecar.spool.missing.v1"
MAX_SHARED: Final = 100_000  # texts, usages and overages in each cache
_MAX_US: Final = 250_000_000_000 * MICRO  # calendars end in the year 9999
_MAX_MS: Final = 10**9
_NO_LIMITS: Final[dict[str, int]] = {}

Units = tuple[tuple[str, int], ...]  # (meter, units), each meter once
_Texts = tuple[str, ...]


class RecordedRequest(NamedTuple):
    """One forwarded request. Sorts by account, then time, so copies of one event are neighbours."""

    account: str
    time_us: int  # when the gate admitted it, by the sidecar's clock
    id: str
    source: str
    key: str
    plan: str
    version: str  # of the plan file
    route: str
    usage: Units
    overage: Units  # meters with more than 0 units
    billable: bool
    status: int
    reason: str
    latency_ms: int
    team: str = ""  # "" for a key without a team
    overage_by_limit: Units = ()  # the same overage by quota; older events do not have it

    @property
    def identity(self) -> tuple[str, str]:
        """Source and id: CloudEvents identifies an event by these two, never by its time."""
        return self.source, self.id


class RecordedStop(NamedTuple):
    """A start after an unclean stop. `requests`: those that may be charged and have no event."""

    source: str
    id: str
    time_us: int  # of the start
    requests: int


class InvalidEvent(ValueError):
    """An event that lacks an attribute or has a wrong type in one."""


class EventParser:
    """Parser with caches of the texts and usages that many events have in common."""

    def __init__(self) -> None:
        self._texts: dict[_Texts, _Texts] = {}
        self._usages: dict[tuple[Any, ...], Units] = {}
        self._overages: dict[tuple[Any, ...], Units] = {}
        self._second, self._second_us = "", 0

    def parse(self, event: dict[str, Any]) -> RecordedRequest:
        """Return the request of an `api.request.v1` event. Raises InvalidEvent."""
        try:
            return self._request(event)
        except InvalidEvent:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InvalidEvent(f"not a usage event: {error!r}") from None

    def parse_overage(self, event: dict[str, Any]) -> RecordedRequest:
        """Return the overage of an `account.overage.v1` event: a request without units.

        Raises InvalidEvent.
        """
        try:
            data = event["data"]
            usage = dict.fromkeys(data["overage"], 0)
            rest = {"usage": usage, "reason": "", "status": 0, "latency_ms": 0}
            return self.parse({**event, "data": {**data, **rest}})
        except (KeyError, TypeError) as error:
            raise InvalidEvent(f"not an overage event: {error!r}") from None

    def _request(self, event: dict[str, Any]) -> RecordedRequest:
        data = event["data"]
        texts = (
            event["subject"],
            event["source"],
            data["key"],
            data["plan"],
            data["plan_version"],
            data["route"],
            data["reason"],
            data.get("team", ""),
        )
        account, source, key, plan, version, route, reason, team = self._texts.get(
            texts
        ) or self._check_texts(texts)
        identity, billable = event["id"], data["billable"]
        status, latency = data["status"], data["latency_ms"]
        if type(identity) is not str or type(billable) is not bool:
            raise InvalidEvent("id must be a string and billable a boolean")
        if type(status) is not int or type(latency) is not int or not 0 <= latency <= _MAX_MS:
            raise InvalidEvent("status and latency_ms must be integers")
        usage, overage = tuple(data["usage"].items()), tuple(data["overage"].items())
        by_limit = tuple(data.get("overage_by_limit", _NO_LIMITS).items())
        return RecordedRequest(
            account,
            self._time_us(event["time"]),
            identity,
            source,
            key,
            plan,
            version,
            route,
            self._usages.get(usage) or _shared(self._usages, usage, 0),
            self._overage(overage),
            billable,
            status,
            reason,
            latency,
            team,
            self._overage(by_limit),
        )

    def _overage(self, items: tuple[Any, ...]) -> Units:
        known = self._overages.get(items)
        return known if known is not None else _shared(self._overages, items, 1)

    def _check_texts(self, texts: tuple[Any, ...]) -> _Texts:
        for text in texts:
            if type(text) is not str:
                raise InvalidEvent(f"{text!r} is not a string")
        if len(self._texts) >= MAX_SHARED:
            self._texts.clear()
        return self._texts.setdefault(texts, texts)

    def _time_us(self, text: Any) -> int:
        """Parse an RFC 3339 instant.

        The sidecar's own form, "2026-11-23T08:30:00.123Z", needs no calendar within one second.
        """
        millis = text[20:23]
        if text[:19] == self._second and len(text) == 24 and text[19] == "." and text[23] == "Z":
            if not (millis.isascii() and millis.isdigit()):
                raise InvalidEvent("time is not RFC 3339")
            return self._second_us + int(millis) * 1000
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise InvalidEvent("time has no UTC offset")
        second = round(at.replace(microsecond=0).timestamp()) * MICRO
        if not 0 < second < _MAX_US:
            raise InvalidEvent("time is out of range")
        if len(text) == 24 and text[19] == "." and text[23] == "Z":
            self._second, self._second_us = text[:19], second
        return second + at.microsecond


def read_stop(event: dict[str, Any]) -> RecordedStop:
    """Return the stop of an event of type `UNCLEAN_STOP`. Raises InvalidEvent.

    After a power failure, requests may also lack their event because it was in memory only.
    """
    try:
        data = event["data"]
        at = datetime.fromisoformat(event["time"])
        requests = data["in_flight"] if "in_flight" in data else data["may_be_missing"]
        stop = RecordedStop(event["source"], event["id"], int(at.timestamp() * MICRO), requests)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidEvent(f"not an unclean stop: {error!r}") from None
    if type(requests) is not int or not 0 <= requests <= UNBOUNDED:
        raise InvalidEvent("in_flight must be a number of requests")
    if type(stop.source) is not str or type(stop.id) is not str:
        raise InvalidEvent("source and id must be strings")
    return stop


def _shared(cache: dict[tuple[Any, ...], Units], items: tuple[Any, ...], least: int) -> Units:
    """Return the meters with `least` units or more, as one shared value for equal items."""
    for meter, units in items:
        if type(meter) is not str or type(units) is not int or not 0 <= units <= UNBOUNDED:
            raise InvalidEvent(f"{meter!r}: {units!r} is not a number of units")
    if len(cache) >= MAX_SHARED:
        cache.clear()
    return cache.setdefault(items, tuple(one for one in items if one[1] >= least))
