"""Parses the header of a script, its contract with the Python code."""

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

FOLDER = files("sidecar.stores") / "lua"
OF_JOBS = (
    "jobs/add", "jobs/claim", "jobs/count", "jobs/find", "jobs/move", "jobs/rate", "jobs/register",
    "jobs/schedule", "jobs/take", "jobs/trim", "jobs/wake_all", "jobs/weigh",
)  # fmt: skip
OF_OUTBOX = ("outbox/remove", "outbox/retire", "outbox/take")
OPERATIONS = (
    "beat", "charge", "grant", "peek", "rebuild", "refund", "renew", "reserve", "settle", *OF_JOBS,
    *OF_OUTBOX, "plans/keep",
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """`single` and `tail` are names of ARGV before and after the claims, in order."""

    purpose: str
    guarantee: str
    keys: list[str]  # description of each of KEYS
    single: dict[str, str]  # name → description
    size: int  # ARGV per claim; 0 without claims
    group: dict[str, str]
    tail: dict[str, str]
    statuses: dict[str, str]  # status → meaning
    few: list[str]  # names of a reply; those of a claim once


def path_of(name: str) -> Any:
    """The script's file; a name without a folder is in limits/."""
    return FOLDER / f"{name if '/' in name else f'limits/{name}'}.lua"


def text_of(name: str) -> str:
    """The header without its dashes."""
    lines = path_of(name).read_text().splitlines()
    code = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(line[2:].removeprefix(" ") for line in lines[:code])


def read_header(name: str) -> Header:
    """Parse a header. Raises AssertionError if it is not a contract."""
    text = text_of(name)
    single = re.findall(r"^ARGV\[(\d+)\] +(\w+)(?::| of| that) (.+)$", text, re.MULTILINE)
    assert [int(number) for number, *_ in single] == list(range(1, len(single) + 1))
    groups = re.findall(r"^ARGV\[(\d+)…\] groups of (\d+), one per claim(?:, as for (\w+))?(.*)$",
                        text, re.MULTILINE)  # fmt: skip
    first, size, known = (groups[0][:3]) if groups else (0, 0, "")
    assert not groups or int(first) == len(single) + 1
    before, _, after = text.partition("\nReturns")[0].partition("and after them")
    status, *few = only(r"^Returns \{(.+?)(?:, …)?\}", text).split(", ")
    return Header(
        only(rf"\A{name.rpartition('/')[2]}: (.+)$", text),
        only(r"^Guarantee: (.+)$", text),
        re.findall(r"^KEYS\[\d+\] +(.+)$", text, re.MULTILINE),
        {word: meaning for _, word, meaning in single},
        int(size),
        read_header(known).group if known else _names(before) if groups else {},
        _names(after),
        dict(re.findall(r"(-?\d+) ([a-z ]*[a-z])", status)),
        few,
    )


def only(pattern: str, text: str) -> Any:
    """The single match of a pattern."""
    matches = re.findall(pattern, text, re.MULTILINE)
    assert len(matches) == 1, f"{pattern} matches {len(matches)} times"
    return matches[0]


def _names(text: str) -> dict[str, str]:
    group: dict[str, str] = {}
    for words, meaning in re.findall(r"^  (\w+(?:, \w+)*) +(\S.*)$", text, re.MULTILINE):
        group |= dict.fromkeys(words.split(", "), meaning)
    return group
