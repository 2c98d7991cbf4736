"""Messages about invalid YAML, for authors of plan files."""

import re
from typing import Any, Final

import yaml

from sidecar.config.values import NOT_EXPANDED, has_variable

# libyaml's message → this package's; {start} is where the part begins that libyaml was reading.
_MESSAGES: Final = tuple(
    (re.compile(pattern), message)
    for pattern, message in {
        r"tab character": "tabs cannot indent YAML; use spaces",
        r"mapping values are not allowed": 'a ":" is not allowed here; give the keys of one level '
        'the same indentation, and put a string with ": " in quotes',
        r"block sequence entries": 'a "-" is not allowed here; put each item on its own line, or '
        "write [a, b]",
        r"expected (key|'-' indicator)": "the indentation does not match the lines above; indent "
        "entries of one level alike, and put all of a string in quotes or none of it",
        r"could not find expected ':'": 'the line of {start} is a key without a value; write "key: '
        'value"',
        r"expected ',' or '[\]}]'": "the bracket of {start} is not closed here; close it, or add a "
        "comma",
        r"unexpected end of stream": "the quote of {start} is never closed; close it",
        r"expected node content": "a value is missing here; write it, or close the bracket",
        r"another document": "a second document begins here; keep one, and remove this ---",
        r"undefined alias|alphabetic or numeric": "this anchor does not exist; put a string that "
        "begins with * or & in quotes",
        r"unknown escape": 'this is not an escape in "…"; write \\\\ for \\, or use single quotes',
        r"tag|directive|incompatible": "tags and directives are not supported; put a string that "
        "begins with ! or % in quotes",
        r"<document start>": "the document ended above; remove this, or indent it",
        r"comment or line break": "a string of several lines begins on the next line; put this one "
        "in quotes",
    }.items()
)
LINE_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # YAML 1.1, section 5.4
_UNREADABLE: Final = {
    "timestamp": "is not a date that exists; write a date such as 2026-01-15",
    "int": "is not a number that can be read; put it in quotes if it is a string",
    "float": "is not a number that can be read; put it in quotes if it is a string",
}


def explain(error: yaml.YAMLError, content: str) -> str:
    """Why this file is not YAML; what to do. Repeats no text of the file."""
    problem = str(getattr(error, "problem", None) or "it cannot be read")
    mark = getattr(error, "problem_mark", None)
    if mark is not None and has_variable(_line(content, mark.line)):
        return f"not valid YAML: this line {NOT_EXPANDED}"
    if "cannot start any token" in problem:
        message = _bad_first_character(error, content)
    else:
        message = next(
            (message for pattern, message in _MESSAGES if pattern.search(problem)),
            f"{problem}; check indentation, brackets and quotes here",
        )
    start = getattr(error, "context_mark", None)
    where = f"{start.line + 1}:{start.column + 1}" if start else "this line"
    return f"not valid YAML: {message.replace('{start}', where)}"


def _line(content: str, number: int) -> str:
    """A line by YAML's count, from 0; "" after the last one."""
    lines = LINE_BREAK.split(content)
    return lines[number] if number < len(lines) else ""


def _bad_first_character(error: Any, content: str) -> str:
    line = _line(content, error.problem_mark.line)
    character = line[error.problem_mark.column :][:1]
    if character == "\t":
        return "tabs cannot indent YAML; use spaces"
    return f"a string cannot begin with {character}; put it in quotes"


def unreadable(tag: str) -> str:
    """Why a value cannot be read, from the tag that YAML gave it by its pattern."""
    return _UNREADABLE.get(tag.rpartition(":")[2], "cannot be read; put it in quotes")
