""".ci/words finds what it bans, and nothing else."""

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "words"


@pytest.fixture(scope="module")
def words() -> ModuleType:
    loader = SourceFileLoader("words", str(SCRIPT))
    spec = spec_from_loader("words", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def banned(words: ModuleType, name: str, text: str) -> list[tuple[int, str]]:
    path = Path(name)
    return list(words.hits(name, words.prose(path, text), words.BANNED, []))


@pytest.mark.parametrize(
    "text",
    [
        '"""It tells of that."""',
        "x = 1  # whoever reads this",
        "def test_a_client_is_told(): ...",
        'raise ValueError("Redis is gone")',
        'f"this is no date: {value}"',
        "# it takes some 20 seconds",
        "# there was none",
    ],
)
def test_a_banned_word_is_found(words: ModuleType, text: str) -> None:
    assert len(banned(words, "a.py", text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        'stands = tells["told"]',
        "# it is no longer open, and is no more than 3 bytes",
        "# the default is None",
        "# plan books are pickled",
        "# see `whoever`",
    ],
)
def test_code_and_plain_words_are_not(words: ModuleType, text: str) -> None:
    assert banned(words, "a.py", text) == []


def test_code_on_a_page_is_not_read(words: ModuleType) -> None:
    page = "Told.\n\n    sidecar tells\n\n```\ndoor\n```\n\n[books](books.md)\n"
    assert [number for number, _ in banned(words, "a.md", page)] == [1, 9]


def test_an_exception_covers_its_phrase_in_its_file(words: ModuleType) -> None:
    prose = [(1, "Besides, people say who stands there.")]
    exceptions = [("a.md", "who stands there")]
    assert list(words.hits("a.md", prose, words.BANNED, exceptions)) == [(1, "Besides")]
    assert len(list(words.hits("b.md", prose, words.BANNED, exceptions))) == 2
