"""A plan file that changes while calls go on: wholly live or wholly refused."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config import PlanKeeper, parse
from sidecar.core.model import PlanBook
from sidecar.errors import ConfigError

EXAMPLE = (Path(__file__).parents[2] / "examples" / "plans.yaml").read_bytes()
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


async def changed_by_watching(path: Path, change: object) -> list[PlanBook]:
    swapped: list[PlanBook] = []
    first = asyncio.Event()

    def swap(book: PlanBook) -> None:
        swapped.append(book)
        first.set()

    keeper = PlanKeeper(path, swap)
    task = asyncio.create_task(keeper.watch())
    try:
        async with asyncio.timeout(20):
            while not first.is_set():  # until the watcher stands, a change goes unseen
                change()  # type: ignore[operator]
                await asyncio.wait([asyncio.create_task(first.wait())], timeout=1)
    finally:
        task.cancel()
        await asyncio.wait([task])
    return swapped


async def test_I7_a_changed_file_goes_live(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_bytes(EXAMPLE)
    [book] = await changed_by_watching(path, lambda: path.write_bytes(EXAMPLE + b"# changed\n"))
    assert book.version == parse(EXAMPLE + b"# changed\n", "x").version


async def test_I7_a_configmap_swap_goes_live(tmp_path: Path) -> None:
    """Kubernetes: plans.yaml → ..data/plans.yaml, and ..data is replaced by a new link."""
    for version, text in (("..1", EXAMPLE), ("..2", EXAMPLE + b"# changed\n")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "plans.yaml").write_bytes(text)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "plans.yaml").symlink_to("..data/plans.yaml")
    targets = iter(["..2", "..2", "..2", "..2", "..2"])

    def swap() -> None:
        (tmp_path / "..tmp").symlink_to(next(targets))
        (tmp_path / "..tmp").rename(tmp_path / "..data")

    [book] = await changed_by_watching(tmp_path / "plans.yaml", swap)
    assert book.version == parse(EXAMPLE + b"# changed\n", "x").version


def test_I7_a_bad_file_keeps_the_last_good_one_and_says_since_when(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_bytes(EXAMPLE)
    swapped: list[PlanBook] = []
    keeper = PlanKeeper(path, swapped.append, now=lambda: NOON)
    good = keeper.book
    path.write_bytes(EXAMPLE.replace(b"5/s", b"5ps"))
    assert not keeper.reload()
    assert keeper.book is good
    assert not swapped
    status = keeper.status()
    assert status["failed_since"] == "2026-11-23T12:00:00+00:00"
    assert "is not a rate" in status["problems"][0]
    path.write_bytes(EXAMPLE)
    assert keeper.reload()
    assert keeper.status()["failed_since"] is None
    assert not swapped, "the same content is the same version"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(EXAMPLE) - 1), st.binary(max_size=6))
def test_whatever_is_in_the_file_the_answer_is_a_book_or_problems(at: int, junk: bytes) -> None:
    try:
        book = parse(EXAMPLE[:at] + junk + EXAMPLE[at + 3 :], "plans.yaml")
    except ConfigError as refused:
        assert refused.problems
    else:
        assert book.plans


def test_aliases_cannot_blow_up(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match="too large"):
        parse("\n".join(lines).encode(), "plans.yaml")
