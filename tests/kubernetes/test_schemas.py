"""Kubernetes' own schemas accept what `inject` makes of each kind."""

import kubernetes_validate
import pytest

from sidecar.kubernetes.manifests import inject
from sidecar.kubernetes.options import Options
from tests.support.manifests import API_VERSIONS, OPTIONS, service, workload

# The oldest version that the how-to guide allows, and the newest one.
VERSIONS = ("1.32", kubernetes_validate.latest_version())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", API_VERSIONS)
def test_kubernetes_accepts_a_workload_with_the_sidecar(kind: str, version: str) -> None:
    documents = [workload(kind), service({"port": 80, "targetPort": 8000})]
    if kind == "StatefulSet":
        documents[0]["spec"]["serviceName"] = "shop"
    if kind in ("Job", "CronJob"):
        pod = documents[0]["spec"].get("jobTemplate", documents[0])["spec"]["template"]
        pod["spec"]["restartPolicy"] = "Never"
    options = Options(sinks="redis", memory="1Gi", env={"SIDECAR_JOBS": "off"}).over(OPTIONS)
    patched = inject(documents, options, file="f", plan_file="version: 1\n")
    assert len(patched.documents) == 3
    for one in patched.documents:
        kubernetes_validate.validate(one, version, strict=True)
