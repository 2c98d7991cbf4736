"""A recorded call: what an `api.request.v1` event says, read strictly and fast.

Millions of these are read in one go, so texts and usages are shared between them.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple

from sidecar.core.model import MICRO, UNBOUNDED

REQUEST: Final = "api.request.v1"
REFUSAL: Final = "api.refusal.v1"
SHARED: Final = 100_000  # texts and usages that are kept to be shared
_LATEST_US: Final = 250_000_000_000 * MICRO  # calendars end in the year 9999
_LONGEST_MS: Final = 10**9

Units = tuple[tuple[str, int], ...]  # (meter, units), each meter once
_Texts = tuple[str, ...]


class Recorded(NamedTuple):
    """One forwarded call. Sorts by account, then time; copies of one event end up side by side."""

    account: str
    time_us: int  # when it was admitted, by the sidecar's clock
    id: str
    source: str
    key: str
    plan: str
    version: str  # of the plan file
    route: str
    usage: Units
    overage: Units  # meters that have some
    billable: bool
    status: int
    reason: str
    latency_ms: int
    team: str = ""  # of an account with teams

    @property
    def identity(self) -> tuple[str, str]:
        """An event is known by this, never by its time."""
        return self.source, self.id


class NotRecorded(ValueError):
    """An event that does not say what a call's event has to say."""


class EventReader:
    """Reads events one after the other; remembers what is the same in many of them."""

    def __init__(self) -> None:
        self._texts: dict[_Texts, _Texts] = {}
        self._usages: dict[tuple[Any, ...], Units] = {}
        self._overages: dict[tuple[Any, ...], Units] = {}
        self._second, self._second_us = "", 0

    def call(self, event: dict[str, Any]) -> Recorded:
        """The call of an `api.request.v1` event. Raises NotRecorded."""
        try:
            return self._call(event)
        except NotRecorded:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise NotRecorded(f"not a call's event: {error!r}") from None

    def _call(self, event: dict[str, Any]) -> Recorded:
        data = event["data"]
        texts = (
            event["subject"], event["source"], data["key"], data["plan"], data["plan_version"],
            data["route"], data["reason"], data.get("team", ""),
        )  # fmt: skip
        account, source, key, plan, version, route, reason, team = self._texts.get(
            texts
        ) or self._learn(texts)
        identity, billable = event["id"], data["billable"]
        status, latency = data["status"], data["latency_ms"]
        if type(identity) is not str or type(billable) is not bool:
            raise NotRecorded("id is a text, and billable true or false")
        if type(status) is not int or type(latency) is not int or not 0 <= latency <= _LONGEST_MS:
            raise NotRecorded("status and latency_ms are whole numbers")
        usage, overage = tuple(data["usage"].items()), tuple(data["overage"].items())
        beyond = self._overages.get(overage)
        return Recorded(
            account,
            self._time_us(event["time"]),
            identity,
            source,
            key,
            plan,
            version,
            route,
            self._usages.get(usage) or _shared(self._usages, usage, 0),
            beyond if beyond is not None else _shared(self._overages, overage, 1),
            billable,
            status,
            reason,
            latency,
            team,
        )

    def _learn(self, texts: tuple[Any, ...]) -> _Texts:
        for text in texts:
            if type(text) is not str:
                raise NotRecorded(f"{text!r} is not a text")
        if len(self._texts) >= SHARED:
            self._texts.clear()
        return self._texts.setdefault(texts, texts)

    def _time_us(self, text: Any) -> int:
        """Of "2026-11-23T08:30:00.123Z": the form that we write is read without a calendar."""
        millis = text[20:23]
        if text[:19] == self._second and len(text) == 24 and text[19] == "." and text[23] == "Z":
            if not (millis.isascii() and millis.isdigit()):
                raise NotRecorded("time is not RFC 3339")
            return self._second_us + int(millis) * 1000
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise NotRecorded("time has no zone")
        second = round(at.replace(microsecond=0).timestamp()) * MICRO
        if not 0 < second < _LATEST_US:
            raise NotRecorded("time is out of bounds")
        if len(text) == 24 and text[19] == "." and text[23] == "Z":
            self._second, self._second_us = text[:19], second
        return second + at.microsecond


def _shared(known: dict[tuple[Any, ...], Units], items: tuple[Any, ...], least: int) -> Units:
    """The meters with `least` units or more; the same value for the same items."""
    for meter, units in items:
        if type(meter) is not str or type(units) is not int or not 0 <= units <= UNBOUNDED:
            raise NotRecorded(f"{meter!r}: {units!r} is not a number of units")
    if len(known) >= SHARED:
        known.clear()
    return known.setdefault(items, tuple(one for one in items if one[1] >= least))
