"""A sidecar that has one secret of each kind, and everything that it shows while it is misused."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import secrets
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.support.certificate_authority import Authority, Pair
from tests.support.commands import SIDECAR, clean_environment
from tests.support.servers import free_port, start_valkey
from tests.support.several_workers import until

PLANS = """
version: 1
meters: {{requests: {{unit: request}}}}
routes: [{{id: rest, match: "/**"}}]
plans: {{free: {{limits: [{{id: monthly, meter: requests, quota: 1000/month}}]}}}}
accounts: [{{id: acme, plan: free, keys: [{{id: k1, sha256: {digest}}}]}}]
"""


class SecretStage:
    """A process with its workers. `secrets`: each secret by its kind, in each of its spellings."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.password, self.api_key = f"p/{secrets.token_hex(12)}", f"qs_{secrets.token_hex(12)}"
        self.token, self.wrong_key = secrets.token_hex(16), f"qs_{secrets.token_hex(12)}"
        webhook, self.decide_token = secrets.token_bytes(24), secrets.token_hex(16)
        self.webhook = f"whsec_{base64.b64encode(webhook).decode()}"
        self.pair: Pair = Authority(directory / "tls").issue("server")
        self.secrets = {
            "Redis password": [self.password, self.password.replace("/", "%2F")],
            "API key": [self.api_key],
            "unknown API key": [self.wrong_key],
            "control token": [self.token],
            "decide token": [self.decide_token],
            "webhook secret": [self.webhook.removeprefix("whsec_"), webhook.hex()],
            "private key": self.pair.key.read_text().splitlines()[1:3],
        }
        self.outputs: dict[str, str] = {}
        self.listen, self.control = free_port(), free_port()
        self.plans, self.token_file = directory / "plans.yaml", directory / "control-token"
        self.plans.write_text(
            PLANS.format(digest=hashlib.sha256(self.api_key.encode()).hexdigest())
        )
        self.token_file.write_text(self.token)
        (directory / "decide-tokens").write_text(self.decide_token)
        self.decide = free_port()
        self.log = directory / "stderr"

    def leaks(self, output: str) -> list[str]:
        """The kinds of secrets in an output."""
        text = self.outputs[output]
        return [kind for kind, forms in self.secrets.items() if any(one in text for one in forms)]

    def environment(self, redis_port: int) -> dict[str, str]:
        """The settings, as a platform would give them."""
        quoted = self.password.replace("/", "%2F")
        return clean_environment(
            SIDECAR_PLANS=str(self.plans),
            SIDECAR_UPSTREAM="http://127.0.0.1:1",
            SIDECAR_LISTEN=f"127.0.0.1:{self.listen}",
            SIDECAR_CONTROL=f"127.0.0.1:{self.control}",
            SIDECAR_CONTROL_TOKEN_FILE=str(self.token_file),
            SIDECAR_DECIDE=f"127.0.0.1:{self.decide}",
            SIDECAR_DECIDE_TOKEN_FILE=str(self.directory / "decide-tokens"),
            SIDECAR_REDIS=f"redis://:{quoted}@127.0.0.1:{redis_port}/0",
            SIDECAR_WEBHOOK_SECRET=self.webhook,
            SIDECAR_TLS_CERT=str(self.pair.cert),
            SIDECAR_TLS_KEY=str(self.pair.key),
            SIDECAR_SPOOL=str(self.directory / "spool"),
            SIDECAR_SINKS=f"file:{self.directory / 'usage.jsonl'}",
            SIDECAR_WORKERS="2",
            SIDECAR_LOG_LEVEL="debug",
            SIDECAR_ACCESS_LOG="true",
            SIDECAR_REFUSAL_EVENTS="true",
        )

    def run(self) -> None:
        """Start the process, misuse it in each way, end it, and fill `outputs`."""
        valkey, port = start_valkey(self.directory, "--requirepass", self.password)
        try:
            with self.log.open("wb") as log:
                process = subprocess.Popen(
                    [SIDECAR, "serve"], env=self.environment(port), stdout=log, stderr=log,
                    cwd=self.directory,
                )  # fmt: skip
            try:
                self._until_logged("sidecar_serving")
                self.processes = descendants(process.pid)
                self._look_at_processes()
                self._misuse(port)
                os.kill(self.processes[-1], signal.SIGABRT)  # a worker crashes
                self._until_logged("worker_ended")
                process.terminate()
                process.wait(60)
            finally:
                process.kill()
                process.wait()
        finally:
            valkey.kill()
            valkey.wait()
        self.outputs["log"] = self.log.read_text()
        files = [*self.directory.glob("spool/**/*.jsonl"), self.directory / "usage.jsonl"]
        self.outputs["events"] = "".join(file.read_text() for file in files)

    def _look_at_processes(self) -> None:
        lines = (Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.processes)
        self.outputs["process list"] = b"\n".join(lines).decode().replace("\0", " ")
        self.core_limits = {
            Path(f"/proc/{pid}/limits").read_text().partition("Max core file size")[2].split()[0]
            for pid in self.processes
        }

    def _misuse(self, redis_port: int) -> None:
        self.outputs["data port"] = "".join(self._customer_requests())
        self.outputs["decide port"] = "".join(self._gateway_requests())
        answers = [*self._control_requests()]
        self.plans.write_text(PLANS.format(digest=self.api_key))  # the key in place of its hash
        answers += [self._control("POST", "/reload", self.token)]
        self._until_logged("plan_file_rejected")
        answers += [*self._control_requests()]
        self.pair.key.write_text(self.pair.key.read_text().replace("-----END", "-----AND"))
        self._control("POST", "/reload", self.token)
        self._until_logged("certificate_rejected")
        with redis.Redis(port=redis_port, password=self.password) as client:
            client.config_set("requirepass", "another")
            client.client_kill_filter(_type="normal", skipme=True)
        self._until_logged("redis_unreachable")
        answers += [*self._control_requests()]
        self.token_file.write_text(f"{self.token} and more")
        until(lambda: self._control("GET", "/config", self.token).startswith("503"), "refused")
        self.outputs["control port"] = "".join([*answers, *self._control_requests()])

    def _customer_requests(self) -> Iterator[str]:
        both = f"X-Api-Key: {self.api_key}\r\nAuthorization: Bearer {self.wrong_key}\r\n"
        fields = [f"X-Api-Key: {self.api_key}\r\n", f"X-Api-Key: {self.wrong_key}\r\n", both,
                  f"Authorization: Basic {self.wrong_key}\r\n"]  # fmt: skip
        for path in ("/items", "/-/usage", f"/items?api_key={self.api_key}", "/-/x", "/a%2f..%2fb"):
            for field in fields:
                yield self._raw(
                    f"GET {path} HTTP/1.1\r\nHost: a\r\n{field}Connection: close\r\n\r\n"
                )
        yield self._raw(f"GET /\t HTTP/1.1\r\nX-Api-Key : {self.api_key}\r\n\r\n")

    def _gateway_requests(self) -> Iterator[str]:
        question = json.dumps(
            {"method": "GET", "path": "/", "headers": {"X-Api-Key": self.api_key}}
        )
        for token in (self.decide_token, self.wrong_key, None):
            for path in ("/v1/decide", "/v1/settle", "/none"):
                fields = {"X-Decide-Token": token} if token else {}
                yield _answer(self.decide, "POST", path, fields, question)

    def _raw(self, request: str) -> str:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.listen, context=context)
        connection.connect()
        try:
            connection.sock.settimeout(30)
            connection.sock.sendall(request.encode())
            data = b""
            with contextlib.suppress(ssl.SSLEOFError, ConnectionResetError):
                while part := connection.sock.recv(65_536):
                    data += part
            return data.decode()
        finally:
            connection.close()

    def _control_requests(self) -> Iterator[str]:
        for token in (self.token, self.wrong_key, None):
            for path in ("/healthz", "/readyz", "/metrics", "/config", "/openapi.json", "/none"):
                yield self._control("GET", path, token)
        yield self._control("POST", "/reload", self.wrong_key)

    def _control(self, method: str, path: str, token: str | None) -> str:
        fields = {"Authorization": f"Bearer {token}"} if token else {}
        return _answer(self.control, method, path, fields)

    def _until_logged(self, event: str) -> None:
        def logged() -> bool:
            lines = self.log.read_text().splitlines()
            return any(json.loads(line)["event"] == event for line in lines if line[:1] == "{")

        until(logged, event, 60)


def _answer(port: int, method: str, path: str, fields: dict[str, str], body: str = "") -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body or None, fields)
        response = connection.getresponse()
        return f"{response.status} {response.getheaders()} {response.read().decode()}\n"
    finally:
        connection.close()


def descendants(pid: int) -> list[int]:
    """A process and its children, workers last."""
    found = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += descendants(int(child))
    return found
