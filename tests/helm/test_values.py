"""The values: each one is used, and a wrong one is refused with its path."""

import base64
import contextlib
import copy
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from sidecar import __version__
from sidecar.settings.model import Settings
from tests.helm.settings_schema import bounds
from tests.support.charts import CHART, EXAMPLES, objects, only, rendered, values_of

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
METADATA = yaml.safe_load((CHART / "Chart.yaml").read_text())
# Set by the chart from other values, or not meant for an environment variable.
MANAGED = {
    "config", "plans", "upstream", "listen", "control", "control_token_file", "redis", "spool",
    "webhook_secret",
}  # fmt: skip
SEEN_ELSEWHERE = {"webhook.certificate.days"}  # see test_helm_makes_a_certificate_…
# Other values than "changed", another number or the opposite.
OTHERS: dict[str, Any] = {
    "image.digest": f"sha256:{'7' * 64}",
    "image.pullPolicy": "Always",
    "image.pullSecrets": ["changed"],
    "redis.url": "redis://changed:7",
    "controlToken.value": "changed-changed-changed",
    "valkey.maxMemory": "7mb",
    "settings": {"workers": 7},
    "container.apiPort": 7,
    "container.spool.sizeLimit": "7Gi",
    "gateway.upstream": "http://changed:7",
    "gateway.spool.size": "7Gi",
    "gateway.service.type": "NodePort",
    "gateway.service.trafficDistribution": "PreferSameNode",
    "webhook.defaults.sinks": ["redis"],
    "webhook.certificate.caBundle": "-----BEGIN CERTIFICATE-----changed",
    "webhook.certificate.certManager.issuer.kind": "ClusterIssuer",
    "webhook.certificate.existingSecret": "changed",
    "monitoring.interval": "7s",
    "tests.path": "/changed",
    **{
        f"{path}.{kind}.{part}": "777"
        for path in (
            "valkey.resources", "container.resources", "gateway.resources", "webhook.resources",
        )
        for kind in ("requests", "limits")
        for part in ("cpu", "memory")
    },
    **{f"{path}.affinity": {"nodeAffinity": {"changed": 7}} for path in ("gateway", "webhook")},
    **{
        path: [{"name": "changed"}]
        for path in (
            "extraEnv", "extraVolumes", "extraVolumeMounts", "gateway.tolerations",
            "webhook.tolerations", "gateway.autoscaling.metrics", "gateway.networkPolicy.clients",
            "gateway.networkPolicy.monitoring", "gateway.networkPolicy.egress",
            "webhook.namespaceSelector.matchExpressions",
        )
    },
}  # fmt: skip
# Where a value acts: the names of BASES, by the longest beginning of its path that is here.
ACTS: dict[str, tuple[str, ...]] = {
    "": ("production",),
    "image.tag": ("gateway",),
    "plans.content": ("gateway",),
    "redis": ("production", "url"),
    "controlToken": ("production", "url"),
    "valkey": ("gateway", "no redis"),
    "container": ("shop",),
    "gateway": ("production", "gateway"),
    "webhook": ("webhook-cert-manager", "webhook-own-certificate", "issuer"),
    "monitoring.podMonitor.matchLabels": ("monitoring",),
}


def changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of the values with another value at a path."""
    copied = copy.deepcopy(values)
    part = copied
    *parents, last = path.split(".")
    for key in parents:
        part = part.setdefault(key, {})
    part[last] = value
    return copied


def leaves(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The path and the default of each value."""
    if isinstance(part, dict) and part:
        for key, value in part.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, part


LEAVES = dict(leaves(VALUES))
BASES = {
    **{file.stem: values_of(file) for file in EXAMPLES if file.stem != "webhook"},
    "url": {
        "plans": {"configMap": "plans"}, "redis": {"url": "redis://redis:6379/0"},
        "gateway": {"upstream": "http://shop"}, "controlToken": {"value": "sixteen-characters"},
    },
    "no redis": {
        "plans": {"configMap": "plans"}, "gateway": {"enabled": False}, "redis": {"key": "url"},
    },
    "issuer": {
        "gateway": {"enabled": False},
        "webhook": {
            "enabled": True,
            "certificate": {"certManager": {"enabled": True, "issuer": {"name": "x"}}},
        },
    },
}  # fmt: skip


def default_at(values: dict[str, Any], path: str) -> Any:
    """The value at a path of a base, or the chart's default."""
    part: Any = values
    for key in path.split("."):
        if not isinstance(part, dict) or key not in part:
            return LEAVES[path]
        part = part[key]
    return part


class Bases:
    """Values that render, with what they render."""

    def __init__(self, chart: helm_python.Chart, shop: helm_python.Chart) -> None:
        self._chart, self._shop = chart, shop
        self._before: dict[str, dict[str, str] | None] = {}

    def differs(self, name: str, path: str) -> bool:
        """Whether another value at the path changes what a base renders."""
        base = BASES.get(name, {})
        if name not in self._before:
            self._before[name] = self._render(name, base)
        before = default_at(base, path)
        other = OTHERS.get(path, "changed")
        if isinstance(before, bool):
            other = not before
        elif isinstance(before, int):
            other = before + 1
        elif isinstance(LEAVES[path], dict) and path not in OTHERS:
            other = {"changed": "changed"}
        after = self._render(name, changed(base, path, other))
        return after is not None and after != self._before[name]

    def _render(self, name: str, values: dict[str, Any]) -> dict[str, str] | None:
        try:
            if name == "shop":
                return rendered(self._shop, {"quota-sidecar": values})
            return rendered(self._chart, values)
        except helm_python.HelmError:
            return None


@pytest.fixture(scope="module")
def bases(sampled_chart: helm_python.Chart, shop: helm_python.Chart) -> Bases:
    return Bases(sampled_chart, shop)


@pytest.mark.parametrize("path", sorted(LEAVES.keys() - SEEN_ELSEWHERE))
def test_a_value_changes_what_is_rendered(bases: Bases, path: str) -> None:
    beginnings = [key for key in ACTS if path == key or path.startswith(f"{key}." if key else "")]
    assert any(bases.differs(name, path) for name in ACTS[max(beginnings, key=len)])


def test_helm_makes_a_certificate_for_the_service_with_the_ca_of_the_webhook(
    chart: helm_python.Chart, tmp_path: Path
) -> None:
    values = changed(values_of(CHART / "ci" / "webhook.yaml"), "webhook.certificate.days", 77)
    found = objects(rendered(chart, values))
    data = only(found, "Secret", "-webhook-tls")["data"]
    for key, text in data.items():
        (tmp_path / key).write_bytes(base64.b64decode(text))
    service = only(found, "Service", "-webhook")["metadata"]
    presented = handshake(tmp_path, f"{service['name']}.{service['namespace']}.svc")
    begin, end = (ssl.cert_time_to_seconds(presented[key]) for key in ("notBefore", "notAfter"))
    assert (end - begin) / 86_400 == 77
    for hook in only(found, "MutatingWebhookConfiguration")["webhooks"]:
        assert hook["clientConfig"]["caBundle"] == data["ca.crt"]


def handshake(directory: Path, host: str) -> dict[str, str]:
    """The certificate that a client accepts for a host, which trusts only the CA."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    client = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=host),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(3):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    presented: Any = ends[0].getpeercert()
    return dict(presented)


def test_every_value_has_a_comment_or_is_plain_from_its_group() -> None:
    """Each group of values, and each value that is not a Kubernetes name, is explained above."""
    text = (CHART / "values.yaml").read_text()
    for key in VALUES:
        before = text[: re.search(rf"^{key}:", text, re.MULTILINE).start()].splitlines()  # type: ignore[union-attr]
        assert before[-1].startswith("#") or before[-1] == "" or key.startswith("extra"), key


# The schema


def parts_of(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for part in schema.values():
            yield from parts_of(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from parts_of(part)


def test_the_schema_closes_every_object_with_known_keys() -> None:
    closed = [part for part in parts_of(SCHEMA) if isinstance(part.get("properties"), dict)]
    assert len(closed) > 30
    assert all(part.get("additionalProperties") is False for part in closed)


def test_each_key_of_the_schema_is_in_the_values_and_the_other_way_round() -> None:
    """Keys inside of resources, probes and affinities are Kubernetes' own."""
    known = {path for path in keys_of(SCHEMA) if not path.startswith("settings.")}
    kubernetes = re.compile(r"(resources|probes\.\w+|affinity)\..*")
    written = {path for path in written_keys(VALUES) if not kubernetes.search(path)}
    assert {path for path in known if not kubernetes.search(path)} == written | {
        "global",
        "enabled",
    }


def keys_of(part: dict[str, Any], path: str = "") -> Iterator[str]:
    """The path of each key that the schema names."""
    reference = part.get("$ref", "").removeprefix("#/$defs/")
    part = SCHEMA["$defs"][reference] if reference else part
    for key, inner in part.get("properties", {}).items():
        here = f"{path}.{key}" if path else key
        yield here
        yield from keys_of(inner, here)


def written_keys(part: Any, path: str = "") -> Iterator[str]:
    """The path of each key in values.yaml; a free mapping has no keys of the chart."""
    if isinstance(part, dict) and path != "monitoring.dashboards.labels":
        for key, inner in part.items():
            here = f"{path}.{key}" if path else key
            yield here
            yield from written_keys(inner, here)


def test_the_schema_has_exactly_the_settings_of_serve() -> None:
    known = set(SCHEMA["properties"]["settings"]["properties"])
    assert known == set(Settings.model_fields) - MANAGED


@pytest.mark.parametrize("name", SCHEMA["properties"]["settings"]["properties"])
def test_the_schema_bounds_a_setting_as_serve_does(name: str) -> None:
    written = SCHEMA["properties"]["settings"]["properties"][name]
    wanted = bounds(name)
    assert {key: written[key] for key in written if key not in ("type", "items")} == {
        key: wanted[key] for key in wanted if key != "items"
    }
    assert "items" not in wanted or written["items"] == wanted["items"]


def test_the_chart_has_the_version_of_the_sidecar() -> None:
    assert METADATA["appVersion"] == __version__


WRONG = {
    "gateway.replica": 3,
    "gateway.replicas": "three",
    "gateway.upstream": "shop:80",
    "gateway.service.type": "Clusterip",
    "gateway.autoscaling.min": 2,
    "image.digest": "sha256:abc",
    "settings.drain_delay": 5,
    "settings.drain_delay_s": "five",
    "settings.redis_timeout_ms": -5,
    "settings.spool_full": "discard",
    "settings.sinks": ["kafka"],
    "redis.url": "http://redis",
    "webhook.certificate.caBundle": "secret",
    "plan": {},
    "probes.liveness.period": 5,
    "monitoring.interval": 15,
    "controlToken.value": "short",
    "image": None,
    "gateway.service": None,
}


@pytest.mark.parametrize("path", WRONG)
def test_a_wrong_value_is_refused_with_its_path(chart: helm_python.Chart, path: str) -> None:
    values = changed(values_of(CHART / "ci" / "gateway.yaml"), path, WRONG[path])
    with pytest.raises(helm_python.HelmError) as refused:
        rendered(chart, values)
    parent, _, last = path.rpartition(".")
    where = "/" + path.replace(".", "/")
    inner = "/" + parent.replace(".", "/") if parent else ""
    text = str(refused.value)
    reasons = (f"'{last}' not allowed", f"missing property '{last}'")
    in_parent = f"at '{inner}'" in text and any(reason in text for reason in reasons)
    assert f"at '{where}" in text or in_parent, text


def test_a_typo_in_the_values_of_the_dependency_is_refused(shop: helm_python.Chart) -> None:
    with pytest.raises(helm_python.HelmError, match=r"'/container'.*'apiport' not allowed"):
        rendered(shop, {"quota-sidecar": {"container": {"apiport": 3000}}})


# What only the templates can see

MISSING = {
    "plans": (r"plans: no plan file; add --set-file plans\.content=", {"plans": {}}),
    "redis": (r"redis: no Redis; name a Secret", {"valkey": {"enabled": False}}),
    "replicas": (
        r"gateway\.autoscaling: minReplicas is more than maxReplicas; lower it",
        {"gateway": {"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 2}}},
    ),
    "upstream": (r"gateway\.upstream: no address; set", {"gateway": {"upstream": ""}}),
    "two plans": (
        r"plans: configMap and content exclude each other", {"plans": {"configMap": "x"}},
    ),
    "two stores": (
        r"redis: redis\.url and valkey\.enabled exclude each other", {"redis": {"url": "redis://x"}},
    ),
    "two tokens": (
        r"controlToken: existingSecret and value exclude each other",
        {"controlToken": {"existingSecret": "x", "value": "sixteen-characters"}},
    ),
    "labels": (
        r"monitoring\.podMonitor\.matchLabels: no labels",
        {"gateway": {"enabled": False}, "monitoring": {"podMonitor": {"enabled": True}}},
    ),
    "service": (
        r"monitoring\.serviceMonitor: no Service without the gateway",
        {"gateway": {"enabled": False}, "monitoring": {"serviceMonitor": {"enabled": True}}},
    ),
    "ca": (
        r"webhook\.certificate\.caBundle: empty",
        {"webhook": {"enabled": True, "certificate": {"existingSecret": "x"}}},
    ),
    "two certificates": (
        r"webhook\.certificate: existingSecret and certManager\.enabled exclude each other",
        {"webhook": {"enabled": True, "certificate": {
            "existingSecret": "x", "certManager": {"enabled": True}}}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISSING)
def test_values_that_do_not_fit_together_are_refused_with_a_remedy(
    chart: helm_python.Chart, case: str
) -> None:
    message, values = MISSING[case]
    base = values_of(CHART / "ci" / "gateway.yaml")
    merged = {
        key: {**base.get(key, {}), **values.get(key, {})} for key in base.keys() | values.keys()
    }
    if values.get("plans") == {}:
        del merged["plans"]
    with pytest.raises(helm_python.HelmError, match=message):
        rendered(chart, merged)


def test_an_application_without_the_port_of_its_api_is_refused(shop: helm_python.Chart) -> None:
    with pytest.raises(helm_python.HelmError, match=r"container\.apiPort: no port; set the port"):
        rendered(shop, {"quota-sidecar": {"container": {"apiPort": None}}})


def test_the_examples_are_read_as_helm_reads_them(tmp_path: Path) -> None:
    """A YAML of Helm's kind refuses what PyYAML lets pass."""
    file = tmp_path / "values.yaml"
    file.write_text("a: [")
    with pytest.raises(helm_python.HelmValuesError):
        values_of(file)
