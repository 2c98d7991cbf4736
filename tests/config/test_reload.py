"""A plan file that changes while the sidecar serves: it goes live as a whole, or not at all."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sidecar.config import LivePlanFile
from sidecar.config.compile_apart import compile_apart
from sidecar.config.loading import parse
from sidecar.core.model import PlanBook

EXAMPLE = (Path(__file__).parents[2] / "examples" / "plans.yaml").read_bytes()
CHANGED = EXAMPLE + b"# changed\n"
BAD = EXAMPLE.replace(b"5/s", b"5ps")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Watched:
    """A live plan file, and each plan book that went live after the start."""

    def __init__(
        self, path: Path, compiled: Callable[[Path], Awaitable[PlanBook]] = compile_apart
    ) -> None:
        self.changes: list[PlanBook] = []
        self.changed = asyncio.Event()
        self.now = NOON
        self.file = LivePlanFile(
            path, self._on_change, now=lambda: self.now, compile_apart=compiled
        )

    @classmethod
    async def started(cls, *arguments: Any) -> "Watched":
        watched = cls(*arguments)
        await watched.file.start()
        return watched

    def _on_change(self, book: PlanBook) -> None:
        self.changes.append(book)
        self.changed.set()

    async def check_twice(self) -> None:
        """Let a change be seen at the first check, and be loaded at the second."""
        await self.file.check()
        await self.file.check()

    @property
    def versions(self) -> list[str]:
        return [book.version for book in self.changes]


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
    watched = await Watched.started(path)
    task = asyncio.create_task(watched.file.watch())
    put(path, CHANGED)
    async with asyncio.timeout(60):
        await watched.changed.wait()
    task.cancel()
    await asyncio.wait([task])
    assert watched.versions == [version(CHANGED)]


async def test_a_file_is_not_loaded_while_it_is_being_written(path: Path) -> None:
    watched = await Watched.started(path)
    put(path, CHANGED[:1000])
    await watched.file.check()
    put(path, CHANGED)
    await watched.file.check()
    assert (watched.versions, watched.file.failures) == ([], 0)
    await watched.file.check()
    assert watched.versions == [version(CHANGED)]


async def test_I7_a_configmap_swap_goes_live(tmp_path: Path) -> None:
    """Kubernetes: plans.yaml → ..data/plans.yaml, and ..data is replaced by a new link."""
    for name, text in (("..1", EXAMPLE), ("..2", CHANGED)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plans.yaml").write_bytes(text)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "plans.yaml").symlink_to("..data/plans.yaml")
    watched = await Watched.started(tmp_path / "plans.yaml")
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    await watched.check_twice()
    assert watched.versions == [version(CHANGED)]


async def test_I7_a_change_behind_a_symlink_into_another_folder_goes_live(
    path: Path, tmp_path: Path
) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount" / "plans.yaml").symlink_to(path)
    watched = await Watched.started(tmp_path / "mount" / "plans.yaml")
    put(path, CHANGED)
    await watched.check_twice()
    assert watched.versions == [version(CHANGED)]


async def test_I7_a_file_in_a_recreated_folder_goes_live(path: Path) -> None:
    watched = await Watched.started(path)
    shutil.rmtree(path.parent)
    await watched.check_twice()
    [problem] = watched.file.status()["problems"]
    assert "does not exist" in problem
    put(path, CHANGED)
    await watched.check_twice()
    assert watched.versions == [version(CHANGED)]
    assert watched.file.status()["failed_since"] is None


async def test_I7_another_file_of_the_same_size_and_age_goes_live(path: Path) -> None:
    watched = await Watched.started(path)
    replace_by(path, EXAMPLE.replace(b"1000/month", b"2000/month"))
    await watched.check_twice()
    assert len(watched.changes) == 1


def replace_by(path: Path, text: bytes) -> None:
    """Replace the file as an editor that keeps times does; both texts have the same length."""
    before, other = path.stat(), path.with_name("other")
    other.write_bytes(text)
    shutil.copystat(path, other)
    other.rename(path)
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


async def test_I7_an_invalid_file_keeps_the_last_valid_one_and_reports_since_when(
    path: Path,
) -> None:
    watched = await Watched.started(path)
    file, good = watched.file, watched.file.book
    put(path, BAD)
    with capture_logs() as logs:
        assert not await file.reload()
    assert [one["event"] for one in logs] == ["plan_file_rejected"]
    assert file.book is good
    status = file.status()
    assert status["failed_since"] == "2026-11-23T12:00:00+00:00"
    assert "is not a rate" in status["problems"][0]
    watched.now += timedelta(hours=1)
    assert not await file.reload()
    assert file.status()["failed_since"] == status["failed_since"]
    put(path, EXAMPLE)
    with capture_logs() as logs:
        assert await file.reload()
        assert await file.reload()
    assert [(one["event"], one["version"]) for one in logs] == [("plan_file_live", good.version)]
    assert file.status()["failed_since"] is None
    assert file.status()["problems"] == []
    assert not watched.changes, "the same content is the same version"


@pytest.mark.parametrize(
    "text", [BAD, b"", b"\xff", b"a: " + b"[" * 40_000 + b"]" * 40_000], ids=len
)
async def test_I7_an_invalid_file_of_any_kind_leaves_the_live_one(path: Path, text: bytes) -> None:
    watched = await Watched.started(path)
    good = watched.file.book
    put(path, text)
    await watched.check_twice()
    assert watched.file.book is good
    assert (watched.changes, watched.file.failures) == ([], 1)
    assert watched.file.status()["problems"]
    await watched.check_twice()
    assert watched.file.failures == 1, "it is loaded once"


async def test_a_requested_reload_happens_at_once_even_without_a_change(path: Path) -> None:
    watched = await Watched.started(path)
    put(path, BAD)
    watched.file.request_reload()
    await watched.file.check()
    assert watched.file.failures == 1
    watched.file.request_reload()
    watched.file.request_reload()
    await watched.file.check()
    await watched.file.check()
    assert watched.file.failures == 2


class Slow:
    """A compiler that returns the second book only when `go` is set."""

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


async def test_a_reload_requested_during_another_happens_after_it(path: Path) -> None:
    slow = Slow()
    watched = await Watched.started(path, slow)
    task = asyncio.create_task(watched.file.watch())
    put(path, CHANGED)
    watched.file.request_reload()
    async with asyncio.timeout(60):
        await slow.compiled.wait()
        put(path, EXAMPLE)
        watched.file.request_reload()
        slow.go.set()
        while len(watched.changes) < 2:
            watched.changed.clear()
            await watched.changed.wait()
    task.cancel()
    await asyncio.wait([task])
    assert slow.most == 1
    assert watched.versions == [version(CHANGED), version(EXAMPLE)]


async def test_a_slow_reload_does_not_undo_a_later_one(path: Path) -> None:
    slow = Slow()
    watched = await Watched.started(path, slow)
    put(path, CHANGED)
    watched.file.request_reload()
    checking = asyncio.create_task(watched.file.check())
    await slow.compiled.wait()
    newer = CHANGED + b"# again\n"
    put(path, newer)
    assert await watched.file.reload()
    slow.go.set()
    await checking
    assert watched.versions == [version(newer)]


async def test_warnings_are_logged_once_per_live_file_and_counted(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(path, EXAMPLE.replace(b"/v1/status", b"/v1/:status"))
    watched = await Watched.started(path)
    await watched.file.reload()  # the same file
    assert watched.file.status()["warnings"] == 1
    assert "".join(capsys.readouterr()).count("plan_file_warnings") == 1
    put(path, EXAMPLE)
    assert await watched.file.reload()
    assert watched.file.status()["warnings"] == 0
    put(path, CHANGED.replace(b"/v1/status", b"/v1/:status"))
    assert await watched.file.reload()
    assert "".join(capsys.readouterr()).count("plan_file_warnings") == 1
