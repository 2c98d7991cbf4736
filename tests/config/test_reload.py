"""A plan file that changes while calls go on: wholly live or wholly refused."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sidecar.config import LivePlanFile
from sidecar.config.compile_apart import compile_apart
from sidecar.config.loading import parse
from sidecar.core.model import PlanBook

EXAMPLE = (Path(__file__).parents[2] / "examples" / "plans.yaml").read_bytes()
CHANGED = EXAMPLE + b"# changed\n"
BAD = EXAMPLE.replace(b"5/s", b"5ps")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Kept:
    """A keeper of one file, and what it has swapped in."""

    def __init__(
        self, path: Path, compiled: Callable[[Path], Awaitable[PlanBook]] = compile_apart
    ) -> None:
        self.swapped: list[PlanBook] = []
        self.live = asyncio.Event()
        self.keeper = LivePlanFile(path, self._swap, now=lambda: NOON, compile_apart=compiled)

    @classmethod
    async def started(cls, *arguments: Any) -> "Kept":
        kept = cls(*arguments)
        await kept.keeper.start()
        return kept

    def _swap(self, book: PlanBook) -> None:
        self.swapped.append(book)
        self.live.set()

    async def look_twice(self) -> None:
        """A change is seen at the first look, and believed when it stands still at the second."""
        await self.keeper.check()
        await self.keeper.check()

    @property
    def versions(self) -> list[str]:
        return [book.version for book in self.swapped]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "plans.yaml"
    put(path, EXAMPLE)
    return path


def put(path: Path, text: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)


def version(text: bytes) -> str:
    return parse(text, "plans.yaml").version


async def test_I7_a_changed_file_goes_live_while_it_is_watched(path: Path) -> None:
    kept = await Kept.started(path)
    watching = asyncio.create_task(kept.keeper.watch())
    put(path, CHANGED)
    async with asyncio.timeout(60):
        await kept.live.wait()
    watching.cancel()
    await asyncio.wait([watching])
    assert kept.versions == [version(CHANGED)]


async def test_a_file_that_is_being_written_is_left_to_rest(path: Path) -> None:
    kept = await Kept.started(path)
    put(path, CHANGED[:1000])
    await kept.keeper.check()
    put(path, CHANGED)
    await kept.keeper.check()
    assert (kept.versions, kept.keeper.failures) == ([], 0)
    await kept.keeper.check()
    assert kept.versions == [version(CHANGED)]


async def test_I7_a_configmap_swap_goes_live(tmp_path: Path) -> None:
    """Kubernetes: plans.yaml → ..data/plans.yaml, and ..data is replaced by a new link."""
    for name, text in (("..1", EXAMPLE), ("..2", CHANGED)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plans.yaml").write_bytes(text)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "plans.yaml").symlink_to("..data/plans.yaml")
    kept = await Kept.started(tmp_path / "plans.yaml")
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    await kept.look_twice()
    assert kept.versions == [version(CHANGED)]


async def test_I7_what_a_link_leads_to_in_another_folder_is_looked_at(
    path: Path, tmp_path: Path
) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount" / "plans.yaml").symlink_to(path)
    kept = await Kept.started(tmp_path / "mount" / "plans.yaml")
    put(path, CHANGED)
    await kept.look_twice()
    assert kept.versions == [version(CHANGED)]


async def test_I7_a_folder_that_is_removed_and_made_anew_is_found_again(path: Path) -> None:
    kept = await Kept.started(path)
    shutil.rmtree(path.parent)
    await kept.look_twice()
    [problem] = kept.keeper.status()["problems"]
    assert "No such file or directory" in problem
    put(path, CHANGED)
    await kept.look_twice()
    assert kept.versions == [version(CHANGED)]
    assert kept.keeper.status()["failed_since"] is None


async def test_I7_another_file_of_the_same_size_and_age_goes_live(path: Path) -> None:
    kept = await Kept.started(path)
    replace_by(path, EXAMPLE.replace(b"1000/month", b"2000/month"))
    await kept.look_twice()
    assert len(kept.swapped) == 1


def replace_by(path: Path, text: bytes) -> None:
    """As an editor does that keeps times; the text has the length of the old one."""
    before, other = path.stat(), path.with_name("other")
    other.write_bytes(text)
    shutil.copystat(path, other)
    other.rename(path)
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


async def test_I7_a_bad_file_keeps_the_last_good_one_and_says_since_when(path: Path) -> None:
    kept = await Kept.started(path)
    keeper, good = kept.keeper, kept.keeper.book
    put(path, BAD)
    assert not await keeper.reload()
    assert keeper.book is good
    status = keeper.status()
    assert status["failed_since"] == "2026-11-23T12:00:00+00:00"
    assert "is not a rate" in status["problems"][0]
    put(path, EXAMPLE)
    assert await keeper.reload()
    assert keeper.status()["failed_since"] is None
    assert not kept.swapped, "the same content is the same version"


@pytest.mark.parametrize(
    "text", [BAD, b"", b"\xff", b"a: " + b"[" * 40_000 + b"]" * 40_000], ids=len
)
async def test_I7_whatever_the_file_becomes_the_live_one_stays(path: Path, text: bytes) -> None:
    kept = await Kept.started(path)
    good = kept.keeper.book
    put(path, text)
    await kept.look_twice()
    assert kept.keeper.book is good
    assert (kept.swapped, kept.keeper.failures) == ([], 1)
    assert kept.keeper.status()["problems"]
    await kept.look_twice()
    assert kept.keeper.failures == 1, "it is tried once"


async def test_who_asks_has_it_read_at_once_though_it_looks_the_same(path: Path) -> None:
    kept = await Kept.started(path)
    put(path, BAD)
    kept.keeper.request_reload()
    await kept.keeper.check()
    assert kept.keeper.failures == 1
    kept.keeper.request_reload()
    kept.keeper.request_reload()
    await kept.keeper.check()
    await kept.keeper.check()
    assert kept.keeper.failures == 2


class Slow:
    """Compiles as ever, but hands the second book over when it is told to."""

    def __init__(self) -> None:
        self.compiled = asyncio.Event()
        self.go = asyncio.Event()
        self.books = self.under_way = self.most = 0

    async def __call__(self, path: Path) -> PlanBook:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            book = await compile_apart(path)
            self.books += 1
            if self.books == 2:
                self.compiled.set()
                await self.go.wait()
            return book
        finally:
            self.under_way -= 1


async def test_what_is_asked_during_a_reload_is_done_after_it(path: Path) -> None:
    slow = Slow()
    kept = await Kept.started(path, slow)
    watching = asyncio.create_task(kept.keeper.watch())
    put(path, CHANGED)
    kept.keeper.request_reload()
    async with asyncio.timeout(60):
        await slow.compiled.wait()
        put(path, EXAMPLE)
        kept.keeper.request_reload()
        slow.go.set()
        while len(kept.swapped) < 2:
            kept.live.clear()
            await kept.live.wait()
    watching.cancel()
    await asyncio.wait([watching])
    assert slow.most == 1
    assert kept.versions == [version(CHANGED), version(EXAMPLE)]


async def test_a_slow_reload_does_not_undo_a_later_one(path: Path) -> None:
    slow = Slow()
    kept = await Kept.started(path, slow)
    put(path, CHANGED)
    kept.keeper.request_reload()
    looking = asyncio.create_task(kept.keeper.check())
    await slow.compiled.wait()
    newer = CHANGED + b"# again\n"
    put(path, newer)
    assert await kept.keeper.reload()
    slow.go.set()
    await looking
    assert kept.versions == [version(newer)]
