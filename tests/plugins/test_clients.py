"""The snippets of plugins/README.md, each run by its own toolchain against a real decide port."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateways import TOKEN, Place, find, start_sidecar
from tests.support.proxy_stage import SidecarThread
from tests.support.servers import free_port
from tests.support.vectors import PLUGINS

SNIPPETS = dict(re.findall(r"```(\w+)\n(.*?)```", (PLUGINS / "README.md").read_text(), re.DOTALL))
QUESTION = '{"method": "GET", "path": "/v1/items/1", "headers": {"X-Api-Key": "plenty"}}'
GO = """package main

import ("bytes"; "encoding/json"; "fmt"; "net/http"; "os"; "time")

%s
func main() {
	var decision, settled map[string]any
	headers := map[string]string{"X-Api-Key": "plenty"}
	question := map[string]any{"method": "GET", "path": "/v1/items/1", "headers": headers}
	if err := ask("/v1/decide", question, &decision); err != nil { panic(err) }
	report := map[string]any{"id": decision["id"], "status": 200}
	if err := ask("/v1/settle", report, &settled); err != nil { panic(err) }
	fmt.Println(decision["decision"], settled["billable"])
}
"""
NODE = """%s
(async () => {
  const headers = { "X-Api-Key": "plenty" };
  const decision = await ask("/v1/decide", { method: "GET", path: "/v1/items/1", headers });
  const settled = await ask("/v1/settle", { id: decision.id, status: 200 });
  console.log(decision.decision, settled.billable);
})();
"""
JAVA = """import java.net.URI;
import java.net.http.*;
import java.time.Duration;

public class Ask {
%s
    public static void main(String[] arguments) throws Exception {
        String decision = ask("/v1/decide", "QUESTION");
        String id = decision.replaceAll(".*\\"id\\":\\"([^\\"]+)\\".*", "$1");
        String settled = ask("/v1/settle", "{\\"id\\": \\"" + id + "\\", \\"status\\": 200}");
        System.out.println((decision.contains("\\"allow\\"") ? "allow " : "refuse ")
            + settled.contains("\\"billable\\":true"));
    }
}
"""


@pytest.fixture(scope="module")
def sidecar(_valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A sidecar with a decide port on TCP; its place."""
    directory = tmp_path_factory.mktemp("clients")
    place = Place(directory, 1, 1, directory / "d.sock", free_port())
    running = start_sidecar(directory / "sidecar", _valkey, place)
    try:
        yield running, place
    finally:
        running.stop()


def check(sidecar: tuple[SidecarThread, Place], command: list[str]) -> None:
    """Run a program, which decides and settles once."""
    running, place = sidecar
    running.new_events()
    environment = os.environ | {
        "DECIDE": f"http://127.0.0.1:{place.decide_port}", "TOKEN": TOKEN,
        "GOCACHE": "/tmp/quota-sidecar-go", "GOFLAGS": "-mod=mod",  # noqa: S108
    }  # fmt: skip
    done = subprocess.run(
        command, cwd=place.directory, env=environment, capture_output=True, text=True,
        timeout=590, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["allow", "true"], done
    assert [event["data"]["status"] for event in running.new_events()] == [200]


@pytest.mark.skipif(find("node") is None, reason="node is not installed")
def test_node(sidecar: tuple[SidecarThread, Place]) -> None:
    file = sidecar[1].directory / "ask.js"
    file.write_text(NODE % SNIPPETS["js"])
    check(sidecar, [str(find("node")), str(file)])


@pytest.mark.skipif(find("java") is None, reason="java is not installed")
def test_java(sidecar: tuple[SidecarThread, Place]) -> None:
    file = sidecar[1].directory / "Ask.java"
    question = QUESTION.replace('"', '\\"')
    file.write_text((JAVA % SNIPPETS["java"]).replace("QUESTION", question))
    check(sidecar, [str(find("java")), "-XX:TieredStopAtLevel=1", str(file)])


@pytest.mark.skipif(find("gofmt") is None, reason="go is not installed")
def test_go_is_formatted(tmp_path: Path) -> None:
    """Also a check of its syntax; `make plugins` runs it."""
    file = tmp_path / "ask.go"
    file.write_text("package main\n\n" + SNIPPETS["go"])
    done = subprocess.run(
        [str(find("gofmt")), "-l", str(file)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    find("go") is None or os.environ.get("PLUGINS_TABLE") != "write",
    reason="go compiles its library first, for a minute: make plugins does it",
)
def test_go(sidecar: tuple[SidecarThread, Place]) -> None:
    file = sidecar[1].directory / "ask.go"
    file.write_text(GO % SNIPPETS["go"])
    check(sidecar, [str(find("go")), "run", str(file)])


@pytest.mark.skipif(find("curl") is None, reason="curl is not installed")
def test_curl(_valkey: str, tmp_path: Path) -> None:
    place = Place(tmp_path, 1, 1, tmp_path / "d.sock", 0)
    running = start_sidecar(tmp_path / "sidecar", _valkey, place)
    try:
        done = subprocess.run(
            ["bash", "-c", SNIPPETS["sh"]], env=os.environ | {"SOCKET": str(place.decide_socket)},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.stdout.startswith("allowed\n"), done
        assert '"billable":true' in done.stdout
        assert [event["data"]["latency_ms"] for event in running.new_events()] == [12]
    finally:
        running.stop()


def test_each_snippet_has_about_ten_lines() -> None:
    assert SNIPPETS.keys() == {"sh", "go", "js", "java"}
    assert all(8 <= len(code.splitlines()) <= 12 for code in SNIPPETS.values())
