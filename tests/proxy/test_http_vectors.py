"""The corpus of attacks, edge cases and controls, byte for byte through a real sidecar.

Each case is played as a first request, after another request, and byte by byte. After each play, a
request of another client must pass through the same upstream pool unharmed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from tests.support.http.strict_http import Message
from tests.support.http.vectors import VECTORS, Result, Vector, byte_by_byte, play, whole
from tests.support.proxy_stage import ONLY_KNOWN, SidecarThread, running

PLAYS: list[tuple[str, Callable[[Vector], list[bytes]], bool]] = [
    ("alone", whole, False),
    ("after another request", whole, True),
    ("byte by byte", byte_by_byte, False),
]
NEVER_WHOLE = {"reject", "reject-or-incomplete", "respond-local", "wait-then-close"}
LIMITED = {"limit": {200}}
SLOW = {"wait-then-close"}  # the reply is a timeout: once is enough


@pytest.fixture(scope="module")
def guarded(_valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarThread]:
    """A sidecar that refuses all paths except those of its routes."""
    directory = tmp_path_factory.mktemp("guarded")
    with running(lambda: SidecarThread(directory, _valkey, ONLY_KNOWN)) as started:
        yield started


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
def test_I6_vector(vector: Vector, sidecar: SidecarThread, guarded: SidecarThread) -> None:
    chosen = guarded if "canonical_path" in vector.get("policy", {}) else sidecar
    found = []
    for name, cut, warm in PLAYS[: 1 if vector["expect"] in SLOW else None]:
        result = play(chosen, vector, cut, warm=warm)
        found += [f"{name}: {difference}" for difference in differences(vector, result)]
    assert not found, f"{'; '.join(found)} ({vector['why']}, {vector.get('ref')})"


def differences(vector: Vector, result: Result) -> list[str]:
    """All differences from the expected result."""
    found = [f"the upstream got {violation}" for violation in result.violations]
    if result.rest:
        found.append(f"not a response: {result.rest[:200]!r}")
    if result.marker is None or result.marker.body != b"seen " + result.marker_target:
        found.append(f"another client got {result.marker}")
    if any(message.target.startswith(b"/smuggled") for message in result.requests):
        found.append("a smuggled request reached the upstream")
    # An admitted request whose small body does not arrive has an event, and is not forwarded.
    events = [event for event in result.events if event["data"]["reason"] != "client_gone"]
    if not result.unfinished and len(events) != len(result.requests) + len(result.own_targets):
        found.append(f"{len(events)} events for {len(result.requests)} forwarded requests")
    forwarded = bool(result.requests) and vector["expect"] not in NEVER_WHOLE
    return found + (_forwarded(vector, result) if forwarded else _refused(vector, result))


def _refused(vector: Vector, result: Result) -> list[str]:
    found = []
    if result.requests:
        found.append(f"a whole request reached the upstream: {result.requests[0].raw[:200]!r}")
    if vector["expect"] in ("forward-normalized", "tunnel-or-forward"):
        found.append(f"was not forwarded but answered {result.status}")
    if result.unfinished and vector["expect"] in ("reject", "respond-local", "limit"):
        found.append(f"the upstream saw a beginning: {result.unfinished[0][:200]!r}")
    if len(result.responses) > 1:
        found.append(f"{len(result.responses)} responses")
    # The corpus accepts a close. I10 requires a reply to a client that is still connected.
    if result.status is None and vector.get("then") != "half-close":
        found.append("closed without an answer")
    if result.status is not None and result.status not in vector.get("status", [result.status]):
        found.append(f"answered {result.status}, not one of {vector['status']}")
    if vector.get("close") and not result.closed:
        found.append("the connection stayed open")
    if result.status is not None and result.status >= 400:
        found += _unexplained(result.responses[0])
    elif result.status is not None and vector["expect"] != "respond-local":
        found.append(f"the sidecar answered {result.status} of its own")
    return found


def _unexplained(response: Message) -> list[str]:
    """What is missing from the body of a refusal (RFC 9457)."""
    if response.values("content-type") != [b"application/problem+json"]:
        return [f"a refusal without an explanation: {response.raw[:200]!r}"]
    head_only = not response.body
    if not head_only and orjson.loads(response.body)["status"] != response.status:
        return ["the explanation is of another status"]
    return []


def _forwarded(vector: Vector, result: Result) -> list[str]:
    wanted: dict[str, Any] = vector.get("upstream", {})
    first = result.requests[0]
    found = _count(wanted, result)
    statuses = [response.status for response in result.responses]
    # A case with a limit names 200 if it is allowed; all others may be forwarded.
    allowed = set(vector.get("status", ())) | ({200} - LIMITED.get(vector["expect"], set()))
    if set(statuses) - allowed:
        found.append(f"forwarded, but answered {statuses}")
    if statuses.count(200) != len(result.requests):
        found.append(f"{len(result.requests)} forwarded requests were answered {statuses}")
    if not result.in_step and not _says_close(result):
        found.append("the next request on the connection got no answer of its own")
    found += _fields(wanted, first)
    for name, is_value in (("target", first.target), ("method", first.method),
                           ("body", first.body), ("version", first.start[2][5:])):  # fmt: skip
        if name in wanted and wanted[name].encode("latin-1") != is_value:
            found.append(f"{name} is {is_value[:100]!r}")
    if "host" in wanted and first.values("host") != [wanted["host"].encode()]:
        found.append(f"Host is {first.values('host')}")
    if "targets" in wanted and [m.target.decode() for m in result.requests] != wanted["targets"]:
        found.append(f"targets are {[m.target for m in result.requests]}")
    return found + _policy(vector, result)


def _says_close(result: Result) -> bool:
    return bool(result.responses) and result.responses[-1].values("connection") == [b"close"]


def _count(wanted: dict[str, Any], result: Result) -> list[str]:
    count = len(result.requests)
    exact = wanted.get("count", len(wanted.get("targets", ())) or 1)
    if count > wanted["max_count"] if "max_count" in wanted else count != exact:
        return [f"the upstream got {count} requests"]
    return []


def _fields(wanted: dict[str, Any], first: Message) -> list[str]:
    found = []
    for name, value in wanted.get("headers", {}).items():
        if first.values(name) != [value.encode("latin-1")]:
            found.append(f"{name} is {first.values(name)}, not {value!r}")
    for name, values in wanted.get("header_values", {}).items():
        if first.values(name) != [value.encode("latin-1") for value in values]:
            found.append(f"{name} is {first.values(name)}")
    absent, present = wanted.get("headers_absent", ()), wanted.get("headers_present", ())
    trailers = {name.lower().decode() for name, _ in first.trailers}
    found += [
        f"{name} reached the upstream" for name in absent if first.values(name) or name in trailers
    ]
    found += [f"{name} is missing" for name in present if not first.values(name)]
    for name, value in (
        wanted.get("headers_not", {}) | wanted.get("header_not_contains", {})
    ).items():
        if any(value.encode() in received for received in first.values(name)):
            found.append(f"{name} contains {value}")
    return found


def _policy(vector: Vector, result: Result) -> list[str]:
    found = []
    policy, meter = vector.get("policy", {}), vector.get("meter", {})
    own = [event for event in result.events if event["subject"].startswith("key-")]
    if "canonical_path" in policy and {event["data"]["route"] for event in own} != {"premium"}:
        found.append(f"the policy of another route: {[event['data']['route'] for event in own]}")
    if policy.get("client_ip") == "socket":
        address = result.requests[0].values("x-forwarded-for")
        if address != [b"127.0.0.1"]:
            found.append(f"X-Forwarded-For is {address}")
    if "same_tenant_as" in policy and len({event["subject"] for event in result.events}) != 1:
        found.append("another account")
    if "subject" in meter and [e["subject"] for e in own] != [meter["subject"]] * meter["events"]:
        found.append(f"metered as {[event['subject'] for event in result.events]}")
    return found
