"""What libyaml found, in words for the person who writes the plan file."""

import re
from typing import Any, Final

import yaml

# libyaml's sentence → ours; {start} is where the part began that it was reading.
_WORDS: Final = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in {
        r"tab character": "this tab is no indentation; use spaces",
        r"mapping values are not allowed": 'this ":" is out of place; line up the keys of one '
        'level, and put a text with ": " in quotes',
        r"block sequence entries": 'this "-" is out of place; put each item on a line of its own, '
        "or write [a, b]",
        r"expected (key|'-' indicator)": "this does not line up with what is above; indent entries "
        "of one level alike, and put all of a text in quotes or none of it",
        r"could not find expected ':'": 'the line of {start} is a key without a value; write "key: '
        'value"',
        r"expected ',' or '[\]}]'": "the bracket of {start} is not closed here; close it, or add a "
        "comma",
        r"unexpected end of stream": "the quote of {start} is never closed; close it",
        r"expected node content": "a value is missing here; write it, or close the bracket",
        r"another document": "a second document begins here; keep one, and remove this ---",
        r"undefined alias|alphabetic or numeric": "this names an anchor that is not there; put a "
        "text that begins with * or & in quotes",
        r"unknown escape": 'this is no escape in "…"; write \\\\ for \\, or use single quotes',
        r"tag|directive|incompatible": "tags and directives are not read; put a text that begins "
        "with ! or % in quotes",
        r"<document start>": "this is left over after the end; remove it, or indent it",
        r"comment or line break": "a text of several lines begins on the next line; put this one "
        "in quotes",
    }.items()
)
_UNREADABLE: Final = {
    "timestamp": "there is no such day; write one like 2026-01-15",
    "int": "is a number that cannot be read; put it in quotes if it is a text",
    "float": "is a number that cannot be read; put it in quotes if it is a text",
}


def in_words(error: yaml.YAMLError, content: str) -> str:
    """Why this file is not YAML; what to do about it. Repeats nothing of what it holds."""
    problem = str(getattr(error, "problem", None) or "it cannot be read")
    if "cannot start any token" in problem:
        what = _stumble(error, content)
    else:
        what = next(
            (ours for theirs, ours in _WORDS if theirs.search(problem)),
            f"{problem}; look at indentation, brackets and quotes here",
        )
    start = getattr(error, "context_mark", None)
    where = f"{start.line + 1}:{start.column + 1}" if start else "this line"
    return f"this is not valid YAML: {what.replace('{start}', where)}"


def _stumble(error: Any, content: str) -> str:
    line = content.split("\n")[error.problem_mark.line]
    character = line[error.problem_mark.column :][:1]
    if character == "\t":
        return "this tab is no indentation; use spaces"
    return f"no text begins with {character}; put it in quotes"


def unreadable(tag: str) -> str:
    """Why a value could not be read that YAML takes for a number or a day by its looks."""
    return _UNREADABLE.get(tag.rpartition(":")[2], "cannot be read; put it in quotes")
