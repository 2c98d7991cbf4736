"""The short version of the rehearsal: a pod of the rendered manifest, replaced under load.

`make rehearse` replaces more pods, and those of the gateway; it also sees requests fail without the
hooks.
"""

from pathlib import Path

import pytest

from loadtests.rehearse.manifest import Pod, application, gateway
from loadtests.rehearse.run import Rehearsal, Verdict

SETTINGS = {"sinks": ["redis"]}
PROPAGATION_S = 0.2


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pod]:
    directory = tmp_path_factory.mktemp("charts")
    return {"gateway": gateway(SETTINGS), "application": application(SETTINGS, directory)}


async def rehearse(pod: Pod, directory: Path, valkey_url: str) -> Verdict:
    port = int(valkey_url.rpartition(":")[2].partition("/")[0])
    rehearsal = Rehearsal(
        "application", pod, directory / "pods", port,
        propagation_s=PROPAGATION_S, clients=3, pause_s=0.02,
    )  # fmt: skip
    return await rehearsal.run(replicas=1, requests=30)


async def test_I4_a_rolling_update_of_the_manifest_fails_no_request_and_loses_no_event(
    pods: dict[str, Pod], tmp_path: Path, valkey_url: str
) -> None:
    verdict = await rehearse(pods["application"], tmp_path, valkey_url)
    assert verdict.problems == []
    assert verdict.replaced == 1
    assert verdict.events == verdict.answered >= 60


def test_the_manifest_gives_the_hooks_and_the_order(pods: dict[str, Pod]) -> None:
    native, api = pods["application"].containers
    assert (native.name, native.native, api.name, api.native) == (
        "quota-sidecar",
        True,
        "shop",
        False,
    )
    assert (native.readiness is not None, api.readiness is not None) == (True, True)
    assert native.pre_stop is not None
    assert native.pre_stop.command[-1] == "sidecar.commands.drain"
    assert api.pre_stop is not None
    assert api.pre_stop.sleep_s == 6
    assert pods["application"].grace_s == 45
    [alone] = pods["gateway"].containers
    assert alone.pre_stop is None
    assert (pods["application"].surge, pods["gateway"].surge) == (1, 0)
