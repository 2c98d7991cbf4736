"""What the API server has to accept, store and do. Each check raises Unexpected if it does not."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

from loadtests.cluster import objects
from loadtests.cluster.charts import EXAMPLES, registration, rendered
from loadtests.cluster.control_plane import Certificates, ControlPlane, Unexpected
from loadtests.cluster.objects import NAMESPACE, Object
from loadtests.processes import Running, Stack, free_port, wait_for_port

ROOT: Final = Path(__file__).parents[2]
PLANS: Final = ROOT / "examples" / "plans.yaml"
SIDECAR: Final = (
    sys.executable, "-P", "-c", "from sidecar.cli import main; main()",
)  # fmt: skip
INJECT: Final = ("inject", "--plans", str(PLANS), "--redis-secret", "redis", "--sinks", "redis")
IN_NAMESPACE: Final = ("-n", NAMESPACE)


class Checks:
    """The checks, in their order: a method is one check, its docstring is its title."""

    def __init__(self, stack: Stack, cluster: ControlPlane) -> None:
        self._stack = stack
        self._cluster = cluster
        self._certificates = Certificates(stack.directory)
        self._port = free_port()
        self._webhook: Running | None = None
        self._before: Object = {}

    def namespace(self) -> None:
        """A namespace enforces the restricted pod security standard."""
        self._cluster.apply(json.dumps(objects.node()))
        self._cluster.kubectl("taint", "node", objects.NODE, "node.kubernetes.io/not-ready-")
        self._cluster.apply(json.dumps(objects.namespace()))
        self._cluster.until(
            lambda: self._found("serviceaccount", "default"), "the namespace's service account"
        )

    def dry_run(self) -> None:
        """Each kind with the sidecar passes a server-side dry run, without a warning."""
        for kind in objects.API_VERSIONS:
            manifest = json.dumps(objects.workload(kind, kind.lower()))
            printed = self._cluster.apply(_sidecar(manifest, *INJECT, "-"), "--dry-run=server")
            _expect("Warning" not in printed, f"{kind}: {printed}")

    def inject(self) -> None:
        """kubectl get | sidecar inject | kubectl apply stores the sidecar and moves the Service."""
        documents = [objects.workload("Deployment", "shop"), objects.service("shop", 8000)]
        self._cluster.apply(objects.manifest(documents))
        self._before = self._stored("shop")
        printed = self._cluster.apply(_sidecar(self._yaml("shop"), *INJECT, "-"))
        _expect("Warning" not in printed, printed)
        after = self._stored("shop")
        pod = after["deployment"]["template"]["spec"]
        _expect_sidecar(pod)
        probe = pod["containers"][0]["readinessProbe"]["httpGet"]
        _expect(probe["port"] == 8000, f"the probe has {probe}")
        target = after["service"]["ports"][0]["targetPort"]
        _expect(target == "http", f"the Service sends to {target}")
        plans = self._cluster.get("configmap", "shop-plans", *IN_NAMESPACE)["data"]["plans.yaml"]
        _expect(plans == PLANS.read_text(), "the ConfigMap has another plan file")

    def inject_again(self) -> None:
        """A second inject changes nothing that is stored."""
        before = self._stored("shop")
        self._cluster.apply(_sidecar(self._yaml("shop"), *INJECT, "-"))
        after = self._stored("shop")
        _expect(after == before, f"{after} is not {before}")

    def uninject(self) -> None:
        """kubectl get | sidecar uninject | kubectl apply stores the original again."""
        self._cluster.apply(_sidecar(self._yaml("shop"), "uninject", "-"))
        after = self._stored("shop")
        _expect(after == self._before, f"{after} is not {self._before}")

    def webhook(self) -> None:
        """The webhook, as the chart registers it, patches only pods of an annotated Deployment."""
        self._start_webhook()
        self._cluster.apply(json.dumps(registration(self._port, self._certificates.ca)))
        self._until_registered()
        pod = objects.template("cart", inject="true", plans="cart-plans")
        given = objects.workload("Deployment", "cart", pod)
        self._cluster.apply(json.dumps(given))
        stored = self._cluster.get("deployment", "cart", *IN_NAMESPACE)["spec"]["template"]
        _expect("initContainers" not in stored["spec"], "the Deployment itself was changed")
        found = self._pod_of("cart")
        sidecar = _expect_sidecar(found["spec"])
        source = {"name": "SIDECAR_SOURCE", "value": f"/sidecar/{NAMESPACE}/cart"}
        _expect(source in sidecar["env"], f"the source is not {source['value']}")
        self._pod_of("shop", injected=False)

    def webhook_of_other_kinds(self) -> None:
        """It patches the pods of a StatefulSet, DaemonSet, Job and CronJob, and a Pod."""
        for kind in ("StatefulSet", "DaemonSet", "Job", "CronJob", "Pod"):
            name = f"{kind.lower()}-cart"
            pod = objects.template(name, kind, inject="true", plans="cart-plans")
            self._cluster.apply(json.dumps(objects.workload(kind, name, pod)))
            if kind == "CronJob":
                job = f"{name}-29384640"
                self._cluster.kubectl("create", "job", job, f"--from=cronjob/{name}", *IN_NAMESPACE)
            sidecar = _expect_sidecar(self._pod_of(name)["spec"])
            source = {"name": "SIDECAR_SOURCE", "value": f"/sidecar/{NAMESPACE}/{name}"}
            _expect(source in sidecar["env"], f"{kind}: {sidecar['env']}")

    def service_by_name(self) -> None:
        """A Service by name leads to the sidecar in a new pod, and to the API in an old one."""
        for name, port in (("cart", 8080), ("shop", 8000)):
            self._cluster.apply(json.dumps(objects.service(name, "http")))
            self._run_pod(self._pod_of(name, injected=name == "cart")["metadata"]["name"])
            found = self._cluster.until(partial(self._endpoints, name), f"{name}'s slice")
            _expect(found == [port], f"{name}: the Service leads to {found}, not to {port}")

    def warnings(self) -> None:
        """What cannot be patched is admitted unchanged, with a warning that kubectl prints."""
        for kind in objects.API_VERSIONS:
            broken = objects.template("broken", kind, inject="true", port="many")
            printed = self._cluster.apply(json.dumps(objects.workload(kind, "broken", broken)))
            _expect('Warning: quota-sidecar: ' in printed and '"many" is not a port' in printed,
                    f"{kind}: {printed}")  # fmt: skip
        pod = self._cluster.get("pod", "broken", *IN_NAMESPACE)
        _expect("initContainers" not in pod["spec"], "the pod was changed")

    def certificate(self) -> None:
        """A renewed certificate is used without a restart."""
        self._certificates.issue()
        expected = "certificate_replaced"
        self._cluster.until(lambda: expected in self._log(), f"{expected} in the log")
        pod = objects.template("renewed", "Pod", inject="true", plans="x")
        self._cluster.apply(json.dumps(objects.workload("Pod", "renewed", pod)))
        _expect_sidecar(self._cluster.get("pod", "renewed", *IN_NAMESPACE)["spec"])

    def chart(self) -> str:
        """Every example of the Helm chart passes a dry run, and is stored as it was applied."""
        served = self._cluster.kubectl("api-versions")[0].split()
        notes = []
        for values in sorted(EXAMPLES.glob("*.yaml")):
            found = rendered(values)
            known = [one for one in found if one["apiVersion"] in served]
            if known:
                self._store(objects.manifest(known), values.name)
            left = len(found) - len(known)
            others = f" (not {left} of APIs that are not served)" if left else ""
            notes.append(f"{values.stem} {len(known)}{others}")
        return f"Objects: {', '.join(notes)}"

    def _store(self, manifest: str, name: str) -> None:
        """Apply, first as a dry run, then twice: the second time changes nothing."""
        for mode in (["--dry-run=server"], []):
            printed = self._cluster.apply(manifest, *mode, *IN_NAMESPACE)
            _expect("Warning" not in printed, f"{name}: {printed}")
        before = self._contents(manifest)
        self._cluster.apply(manifest, *IN_NAMESPACE)
        _expect(self._contents(manifest) == before, f"{name}: applied again, it changed")
        self._cluster.kubectl("delete", "--wait=false", *IN_NAMESPACE, "-f", "-", stdin=manifest)

    def fail_open(self) -> None:
        """Without the webhook, annotated pods are admitted as they are."""
        if self._webhook is not None:
            self._webhook.popen.terminate()
            code = self._webhook.popen.wait(30)
            _expect(code == 0, f"the webhook ended with {code}")
        pod = objects.template("alone", "Pod", inject="true", plans="x")
        self._cluster.apply(json.dumps(objects.workload("Pod", "alone", pod)))
        found = self._cluster.get("pod", "alone", *IN_NAMESPACE)
        _expect("initContainers" not in found["spec"], "the pod has a sidecar")

    def _start_webhook(self) -> None:
        certificates = self._certificates
        command = [
            *SIDECAR, "webhook", "--listen", f"127.0.0.1:{self._port}", "--tls-cert",
            str(certificates.cert), "--tls-key", str(certificates.key), "--redis-secret", "redis",
        ]  # fmt: skip
        self._webhook = self._stack.start("webhook", command, env={"PYTHONPATH": str(ROOT)})
        wait_for_port(self._webhook, self._port, seconds=30)

    def _log(self) -> str:
        return self._webhook.log.read_text() if self._webhook else ""

    def _until_registered(self) -> None:
        """Wait until the API server uses the registration, which takes it about a second."""
        pod = objects.template("probe", "Pod", inject="true", plans="x")
        manifest = json.dumps(objects.workload("Pod", "probe", pod))

        def is_used() -> bool:
            self._cluster.apply(manifest, "--dry-run=server")
            return "pod_patched" in self._log()

        self._cluster.until(is_used, "the registration")

    def _found(self, *arguments: str) -> Any:
        try:
            return self._cluster.get(*arguments, *IN_NAMESPACE)
        except Unexpected:
            return None

    def _yaml(self, name: str) -> str:
        """The Deployment and the Service as kubectl prints them."""
        kinds = f"deployment/{name}", f"service/{name}"
        return self._cluster.kubectl("get", "-o", "yaml", *IN_NAMESPACE, *kinds)[0]

    def _stored(self, name: str) -> Object:
        """What is stored of the Deployment and the Service, without what the server adds."""
        result: Object = {}
        for kind in ("deployment", "service"):
            found = self._cluster.get(kind, name, *IN_NAMESPACE)
            notes = found["metadata"].get("annotations", {})
            ours = {key: v for key, v in notes.items() if key.startswith("quota-sidecar.dev/")}
            result[kind] = found["spec"] | ({"annotations": ours} if ours else {})
        return result

    def _contents(self, manifest: str) -> list[Object]:
        """What is stored of these objects, without metadata and status."""
        arguments = ("get", "-o", "json", *IN_NAMESPACE, "-f", "-")
        found = json.loads(self._cluster.kubectl(*arguments, stdin=manifest)[0])
        return [
            {key: value for key, value in one.items() if key not in ("metadata", "status")}
            for one in found.get("items", [found])
        ]

    def _pod_of(self, app: str, *, injected: bool = True) -> Object:
        """A pod of this workload, with or without init containers, once there is one."""

        def matching() -> Any:
            found = self._cluster.get("pod", "-l", f"app={app}", *IN_NAMESPACE)["items"]
            return next(
                (pod for pod in found if ("initContainers" in pod["spec"]) == injected), None
            )

        pod: Object = self._cluster.until(matching, f"a pod of {app}, injected: {injected}")
        return pod

    def _run_pod(self, name: str) -> None:
        """Put a pod on the node and report it as running, as scheduler and kubelet do."""
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": objects.NODE},
        }
        self._cluster.kubectl(
            "create", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/binding", "-f", "-",
            stdin=json.dumps(binding),
        )  # fmt: skip
        status = {
            "phase": "Running",
            "podIP": "10.1.0.7",
            "podIPs": [{"ip": "10.1.0.7"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        self._cluster.kubectl(
            "patch", "pod", name, *IN_NAMESPACE, "--subresource=status", "--type=merge", "-p",
            json.dumps({"status": status}),
        )  # fmt: skip

    def _endpoints(self, service: str) -> list[int]:
        slices = self._cluster.get(
            "endpointslices", "-l", f"kubernetes.io/service-name={service}", *IN_NAMESPACE
        )["items"]
        return [port["port"] for one in slices if one["endpoints"] for port in one["ports"] or ()]


def _sidecar(text: str, *arguments: str) -> str:
    """The output of a sidecar command for this input. Raises Unexpected."""
    done = subprocess.run(
        [*SIDECAR, *arguments], input=text, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise Unexpected(f"sidecar {arguments[0]}: {done.stderr}")
    return done.stdout


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise Unexpected(otherwise)


def _expect_sidecar(spec: Object) -> Object:
    """The native sidecar in a pod."""
    for container in spec.get("initContainers", ()):
        if container["name"] == "quota-sidecar":
            _expect(container["restartPolicy"] == "Always", "the sidecar would end")
            found: Object = container
            return found
    raise Unexpected("the pod has no sidecar")
