"""Warnings about valid plan files: parts that can never have an effect."""

import re
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.foreign_patterns import warning
from sidecar.config.loading import load, parse
from sidecar.errors import ConfigError

CASES = Path(__file__).parent / "never"
CLEAN = """\
version: 1
meters:
  requests: {unit: request}
routes:
  - {id: login, match: "POST /login", class: critical}
  - {id: big, match: "POST /big", needs: [bulk], cost: {requests: 20}}
  - {id: rest, match: "/**"}
plans:
  free:
    limits:
      - {id: per-second, meter: requests, rate: 5/s, burst: 10}
      - {id: monthly, meter: requests, quota: 1000/month, at: {80%: notice, 100%: reject}}
  pro:
    extends: free
    features: [bulk]
    limits:
      - {id: per-second, meter: requests, rate: 50/s, burst: 100}
      - {id: monthly, meter: requests, quota: 100_000/month}
      - {id: per-key, meter: requests, rate: 20/s, burst: 40, per: key}
      - {id: in-flight, concurrency: 50}
packs:
  boost: {meter: requests, units: 1000, lasts: cycle}
accounts:
  - {id: acme, plan: free}
  - {id: globex, plan: pro}
"""


def warned(text: str) -> list[str]:
    return [line.partition("warning: ")[2] for line in parse(text.encode(), "p").warnings]


def edited(*edits: tuple[str, str]) -> str:
    text = CLEAN
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return text


def test_a_file_whose_parts_all_act_has_no_warning() -> None:
    assert warned(CLEAN) == []


@pytest.mark.parametrize(
    ("case", "line", "path", "message"),
    [
        ("31-regex-route", 5, "routes[0].match", "is not read as a regular expression"),
        ("32-colon-param", 5, "routes[0].match", 'write "POST /users/{id}"'),
        ("44-unused-plan", 13, "plans.pro", "no account of this file is on this plan"),
        ("45-burst-below-cost", 12, "plans.free.limits[0].burst", 'never allows route "big"'),
        ("47-limit-on-uncosted-meter", 4, "meters.images", 'no route costs "images"'),
        ("47-limit-on-uncosted-meter", 14, "plans.free.limits[2].meter", "never acts"),
        ("48-perkey-above-account", 13, "plans.free.limits[2]", '"per-second" allows less'),
    ],
)
def test_each_case_is_warned_of_at_its_line(case: str, line: int, path: str, message: str) -> None:
    file = CASES / f"{case}.yaml"
    at = f"{file}:{line}:"
    [found] = [
        one for one in load(file).warnings if one.startswith(at) and f"warning: {path}: " in one
    ]
    assert message in found
    assert "; " in found, "it says what to do"


def test_57_env_var_has_a_hint_instead_of_an_error_of_yaml() -> None:
    with pytest.raises(ConfigError) as error:
        load(CASES / "57-env-var.yaml")
    assert "plan file does not replace variables; write the value" in str(error.value)
    assert ":12:" in str(error.value)


@pytest.mark.parametrize(
    "value", ["${QUOTA}/month", "'${QUOTA}'", "{{ .Values.quota }}/month", '"{{ quota }}"']
)
@pytest.mark.parametrize("old", ["100_000/month", "cycle"], ids=["quota", "lasts"])
def test_a_variable_has_a_hint_wherever_it_is(old: str, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(edited((old, value)).encode(), "p")
    assert "plan file does not replace variables" in str(error.value)


def test_a_variable_in_a_valid_value_is_warned_of() -> None:
    [found] = warned(CLEAN + 'links: {upgrade: "https://${HOST}/pricing"}\n')
    assert found.startswith("links.upgrade: has a variable")


@pytest.mark.parametrize(
    ("edits", "path", "message"),
    [
        ([("quota: 1000/month", "quota: 15/month"), ("needs: [bulk], ", ""), ("packs:", "#"),
          ("  boost", "# boost")], "plans.free.limits[0].burst", 'route "big", which costs 20'),
        ([("quota: 100_000/month", "quota: 15/month"), ("packs:", "#"), ("  boost", "# boost")],
         "plans.pro.limits[1].quota", "a quota of 15 is less"),
        ([("burst: 100}", "burst: 15}")], "plans.pro.limits[0].burst", "a burst of 15 is less"),
        ([(", burst: 100}", "}"), ("rate: 50/s", "rate: 15/s")], "plans.pro.limits[0].rate",
         "a burst of 15 is less"),
        ([("rate: 50/s, burst: 100", "rate: 1/h, burst: 20")], "plans.pro.limits[1]",
         '"per-second" allows at most 765 requests per month'),
        ([("concurrency: 50}", "concurrency: 50}\n"
           "      - {id: more, concurrency: 80, per: key}")], "plans.pro.limits[4]",
         '"in-flight" allows less for the whole account'),
        ([("concurrency: 50}", "concurrency: 50}\n"
           "      - {id: daily, meter: requests, quota: 100/day}"),
          ("packs:", "#"), ("  boost", "# boost")], "plans.pro.limits[1]",
         '"daily" allows at most 3,300 requests per month'),
        ([("concurrency: 50}", "concurrency: 50}\n"
           "      - {id: again, concurrency: 50}")], "plans.pro.limits[4]", "allows less"),
        ([("100%: reject", "100%: reject, 120%: notice")], "plans.free.limits[1].at.120%",
         "requests are refused at 100%"),
        ([("requests: {unit: request}", "requests: {unit: request}\n  pages: {unit: page}")],
         "meters.pages", 'no route costs "pages"'),
        ([("features: [bulk]", "features: [bulk, gold]")], "plans.pro.features[1]",
         'no route needs the feature "gold"'),
        ([("lasts: cycle", "lasts: 2020-01-31")], "packs.boost.lasts", "has ended"),
        ([("features: [bulk]", "features: [bulk]\n    critical: {rate: 10/s}"),
          (", class: critical", "")], "plans.pro.critical", "no route has class: critical"),
        ([("POST /big", "PSOT /big")], "routes[1].match", "PSOT is not a method of HTTP"),
        ([("plan: pro}", "plan: free}")], "plans.pro", "is unused"),
        ([("plan: pro}", "plan: pro, teams: {a: 50%}}"),
          ("quota: 1000/month, at: {80%: notice, 100%: reject}", "rate: 900/min"),
          ("quota: 100_000/month", "rate: 2000/min"), ("packs:", "#"), ("  boost", "# boost")],
         "accounts[1].teams", "no quota per account to share"),
    ],
    ids=[
        "quota-below-cost-of-a-free-route", "quota-below-cost", "burst-below-cost",
        "rate-below-cost", "quota-above-what-the-rate-allows", "concurrency-per-key-above-account",
        "month-above-31-days", "twice-the-same", "notice-above-reject", "unused-meter",
        "unused-feature", "pack-that-ended", "guard-without-critical-routes", "unknown-method",
        "unused-plan", "teams-without-quota",
    ],
)  # fmt: skip
def test_other_parts_without_effect(edits: list[tuple[str, str]], path: str, message: str) -> None:
    found = [one for one in warned(edited(*edits)) if one.startswith(f"{path}: ")]
    assert any(message in one for one in found), warned(edited(*edits))


@pytest.mark.parametrize(
    "edits",
    [
        [("quota: 100_000/month", "quota: 15/month")],  # a pack raises it
        [("burst: 100}", "burst: 15, enforce: shadow}")],  # it refuses nothing
        [("burst: 40, per: key", "burst: 100, per: key")],  # its rate is lower than the account's
        [("100%: reject", "100%: overage, 120%: notice")],  # 120 % can be reached
        [("quota: 100_000/month", "quota: 500_000_000/month, at: {1%: notice}")],
        [("accounts:", "#"), ("  - {id: acme, ", "#"), ("  - {id: globex, ", "#")],
        [("plan: free}", "plan: pro}")],  # pro extends free
    ],
    ids=[
        "quota-with-pack", "shadow", "lower-rate-per-key", "notice-in-overage", "early-notice",
        "accounts-in-redis", "extended-plan",
    ],
)  # fmt: skip
def test_what_can_act_is_not_warned_of(edits: list[tuple[str, str]]) -> None:
    assert warned(edited(*edits)) == []


@pytest.mark.parametrize(
    ("match", "written"),
    [
        ("GET /users/:id/posts", "GET /users/{id}/posts"), ("/users/:id(\\d+)", "/users/{id}"),
        ("/users/<id>", "/users/{id}"), ("/users/<int:id>", "/users/{id}"),
        ("/users/[id]", "/users/{id}"), ("/docs/[...rest]", "/docs/{rest}"),
        ("/users/\\d+", "{name}"), ("/users/[^/]+", "{name}"), ("/users/.*", "/**"),
        ("/users/.+", "/**"), ("/(a|b)/c", "{name}"), ("/users/(.*)", "{name}"),
        ("/users$", "{name}"), ("/users/(\\w+)/x", "{name}"),
    ],
)  # fmt: skip
def test_patterns_of_other_products_are_warned_of(match: str, written: str) -> None:
    assert written in (warning(match) or "")


@pytest.mark.parametrize("method", ["ANY", "ALL"])
def test_a_word_for_every_method_is_named(method: str) -> None:
    assert warning(f"{method} /x/**") == (
        f'"{method} /x/**" matches only the method {method}; write "/x/**" for all'
    )


@pytest.mark.parametrize("match", ["TRACE /x", "CONNECT /x", "PLAY /x", "SET_PARAMETER /x"])
def test_methods_that_are_never_forwarded_are_warned_of(match: str) -> None:
    assert "is never forwarded" in (warning(match) or "")


@pytest.mark.parametrize(
    "match",
    [
        "GET /v1/items/{id}", "/**", "/files/*.json", "/images/logo.*", "OPTIONS *", "/a+b",
        "/odata/Products(1)", "/odata/$metadata", "/v1/items/*:cancel", "/v1/items:batch",
        "M-SEARCH /", "RUN /jobs", "VERSION-CONTROL /x",
        "/.well-known/**", "/@scope/name", "/a,b;c=1",
    ],
)  # fmt: skip
def test_plain_text_is_not_taken_for_a_pattern(match: str) -> None:
    assert warning(match) is None


def test_check_prints_warnings_and_strict_fails(sidecar: Any) -> None:
    file = CASES / "45-burst-below-cost.yaml"
    done = sidecar("check", file)
    assert done.returncode == 0
    *lines, last = done.stdout.splitlines()
    assert all(re.match(rf"{file}:\d+:\d+: warning: ", line) for line in lines)
    assert last.startswith(f"{file}: ok: ")
    assert f"{len(lines)} warnings" in last
    strict = sidecar("check", "--strict", file)
    assert (strict.returncode, strict.stdout) == (1, done.stdout)
