"""Promises of the objects: restricted pods, ports and settings that exist, time to drain."""

import inspect
import json
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from sidecar.commands.webhook import webhook
from sidecar.kubernetes.webhook import PATH
from sidecar.settings.model import Settings
from tests.support.charts import (
    CHART,
    EXAMPLES,
    Object,
    objects,
    only,
    pod_specs,
    rendered,
    values_of,
)

CHART_EXAMPLES = {file.stem: values_of(file) for file in EXAMPLES}


@pytest.fixture(scope="module")
def all_objects(chart: helm_python.Chart, shop: helm_python.Chart) -> dict[str, list[Object]]:
    """The objects of each example, and of the application."""
    found = {name: objects(rendered(chart, values)) for name, values in CHART_EXAMPLES.items()}
    return found | {"shop": objects(rendered(shop, {}, name="shop"))}


def containers_of(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def our_containers(found: list[Object]) -> list[tuple[Object, Object]]:
    """(pod, container) of each container that this chart describes."""
    return [
        (spec, one)
        for _, spec in pod_specs(found)
        for one in containers_of(spec)
        if one["name"] != "shop"
    ]


def test_every_container_meets_the_restricted_pod_security_standard(
    all_objects: dict[str, list[Object]],
) -> None:
    """The rules of the standard, one by one: kubernetes.io/docs, "Pod Security Standards"."""
    checked = 0
    for found in all_objects.values():
        for spec, one in our_containers(found):
            context = one["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["runAsNonRoot"] is True
            assert context.get("runAsUser", spec.get("securityContext", {}).get("runAsUser")) > 0
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert context["readOnlyRootFilesystem"] is True
            assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
            assert not any("hostPort" in port for port in one.get("ports", []))
            kinds = {
                kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"
            }
            assert kinds <= {
                "configMap",
                "secret",
                "emptyDir",
                "ephemeral",
                "persistentVolumeClaim",
            }
            checked += 1
    assert checked >= 7


def test_no_pod_of_the_chart_gets_a_token_of_its_service_account(
    all_objects: dict[str, list[Object]],
) -> None:
    for name, found in all_objects.items():
        for _, spec in pod_specs(found) if name != "shop" else []:
            assert spec["automountServiceAccountToken"] is False
        for account in (one for one in found if one["kind"] == "ServiceAccount"):
            assert account["automountServiceAccountToken"] is False


def test_every_environment_variable_of_a_sidecar_is_a_setting(
    all_objects: dict[str, list[Object]],
) -> None:
    known = {f"SIDECAR_{name.upper()}" for name in Settings.model_fields}
    for found in all_objects.values():
        for _, one in our_containers(found):
            if one["name"] == "quota-sidecar":
                assert {variable["name"] for variable in one["env"]} <= known


def test_the_sidecar_accepts_the_settings_of_each_example(
    all_objects: dict[str, list[Object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for found in all_objects.values():
        for _, one in our_containers(found):
            if one["name"] != "quota-sidecar":
                continue
            with monkeypatch.context() as environment:
                environment.setenv("SIDECAR_REDIS", "redis://redis:6379/0")
                for variable in one["env"]:
                    if "value" in variable and variable["name"] != "SIDECAR_CONTROL_TOKEN_FILE":
                        environment.setenv(variable["name"], variable["value"])
                settings = Settings.load({})
            assert str(settings.plans) == "/etc/quota-sidecar/plans.yaml"
            assert settings.control.port == 9090


def test_numbers_and_lists_reach_the_sidecar_as_they_are_meant(
    all_objects: dict[str, list[Object]],
) -> None:
    [(_, one)] = [
        pair
        for pair in our_containers(all_objects["production"])
        if pair[1]["name"] == "quota-sidecar"
    ]
    values = {variable["name"]: variable.get("value") for variable in one["env"]}
    assert values["SIDECAR_SPOOL_MAX_BYTES"] == "4294967296"
    assert values["SIDECAR_DRAIN_DELAY_S"] == "7.5"
    assert values["SIDECAR_TRUSTED_PROXIES"] == "10.0.0.0/8,192.168.0.0/16"
    assert values["SIDECAR_ACCESS_LOG"] == "true"


def test_every_volume_that_is_mounted_exists_and_the_other_way_round(
    all_objects: dict[str, list[Object]],
) -> None:
    for found in all_objects.values():
        claims = [
            claim["metadata"]["name"]
            for one in found
            for claim in one.get("spec", {}).get("volumeClaimTemplates", [])
        ]
        for where, spec in pod_specs(found):
            names = [volume["name"] for volume in spec.get("volumes", [])]
            names += claims if where.startswith("StatefulSet") else []
            mounted = {
                m["name"] for one in containers_of(spec) for m in one.get("volumeMounts", [])
            }
            assert mounted == set(names), where


def test_every_probe_port_and_service_leads_to_a_port_of_a_pod(
    all_objects: dict[str, list[Object]],
) -> None:
    for found in all_objects.values():
        pods = [
            (one["spec"]["template"]["metadata"]["labels"], one["spec"]["template"]["spec"])
            for one in found
            if one["kind"] in ("StatefulSet", "Deployment")
        ]
        for labels, spec in pods:
            ports = {p["name"] for one in containers_of(spec) for p in one.get("ports", [])}
            text = json.dumps(spec)
            for one in containers_of(spec):
                own = {port["name"] for port in one.get("ports", [])}
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    for how in ("httpGet", "tcpSocket"):
                        if how in one.get(probe, {}):
                            assert one[probe][how]["port"] in own, text
            assert len(ports) == sum(len(one.get("ports", [])) for one in containers_of(spec))
            assert labels
        for one in found:
            if one["kind"] == "Service":
                selector = one["spec"]["selector"].items()
                [spec] = [spec for labels, spec in pods if selector <= labels.items()]
                names = {p["name"] for c in containers_of(spec) for p in c.get("ports", [])}
                assert {port["targetPort"] for port in one["spec"]["ports"]} <= names


def test_selectors_of_other_objects_find_the_pods_of_the_gateway(
    all_objects: dict[str, list[Object]],
) -> None:
    found = all_objects["production"]
    labels = only(found, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    for kind, path in (
        ("PodDisruptionBudget", ("selector",)), ("NetworkPolicy", ("podSelector",)),
        ("PodMonitor", ("selector",)),
    ):  # fmt: skip
        spec: Any = only(found, kind)["spec"]
        for key in path:
            spec = spec[key]
        assert spec["matchLabels"].items() <= labels.items(), kind
    monitor = only(found, "ServiceMonitor")["spec"]
    service = only(found, "Service", "-pods")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert only(found, "StatefulSet")["spec"]["serviceName"] == service["metadata"]["name"]


@pytest.mark.parametrize("name", ["gateway", "production", "shop"])
def test_the_grace_period_covers_the_delay_the_drain_and_the_last_events(
    all_objects: dict[str, list[Object]], name: str
) -> None:
    from sidecar.serve.app import SHIP_TIMEOUT_S

    [(spec, one)] = [
        pair for pair in our_containers(all_objects[name]) if pair[1]["name"] == "quota-sidecar"
    ]
    values = {variable["name"]: variable.get("value") for variable in one["env"]}
    fields = Settings.model_fields
    delay = float(values.get("SIDECAR_DRAIN_DELAY_S") or fields["drain_delay_s"].default)
    drain = float(values.get("SIDECAR_DRAIN_TIMEOUT_S") or fields["drain_timeout_s"].default)
    assert spec["terminationGracePeriodSeconds"] > delay + drain + SHIP_TIMEOUT_S


def test_the_api_waits_in_its_hook_for_longer_than_the_sidecar_sends_clients_away(
    all_objects: dict[str, list[Object]],
) -> None:
    [(_, spec)] = pod_specs(all_objects["shop"])
    [api] = spec["containers"]
    delay = Settings.model_fields["drain_delay_s"].default
    assert api["lifecycle"]["preStop"]["sleep"]["seconds"] > delay
    [native] = spec["initContainers"]
    assert native["restartPolicy"] == "Always"
    hook = native["lifecycle"]["preStop"]["exec"]["command"]
    assert hook == ["python", "-P", "-m", "sidecar.commands.drain"]


def test_a_gateway_drains_by_itself_and_needs_no_hook(all_objects: dict[str, list[Object]]) -> None:
    [(_, one)] = [
        pair
        for pair in our_containers(all_objects["gateway"])
        if pair[1]["name"] == "quota-sidecar"
    ]
    assert "lifecycle" not in one
    assert "restartPolicy" not in one


def test_a_changed_plan_file_restarts_no_pod_and_a_changed_store_does(
    chart: helm_python.Chart,
) -> None:
    def template(**more: Any) -> Object:
        values = CHART_EXAMPLES["gateway"] | {"valkey": {"enabled": False}}
        store = {"redis": {"url": "redis://a"}}
        return only(objects(rendered(chart, values | store | more)), "StatefulSet")["spec"][
            "template"
        ]

    before = template()
    assert template(plans={"content": "version: 1"}) == before
    assert template(redis={"url": "redis://b"}) != before


def test_each_file_of_rules_and_dashboards_is_in_an_object_unchanged(
    chart: helm_python.Chart, sampled_chart: helm_python.Chart
) -> None:
    samples = Path(__file__).parent / "samples"
    for source, rules, dashboards in (
        (
            chart,
            sorted((CHART / "rules").glob("*.yaml")),
            sorted((CHART / "dashboards").glob("*.json")),
        ),
        (sampled_chart, [samples / "sample-rules.yaml"], [samples / "sample-dashboard.json"]),
    ):
        found = objects(rendered(source, CHART_EXAMPLES["monitoring"]))
        specs = [one["spec"] for one in found if one["kind"] == "PrometheusRule"]
        assert specs == [yaml.safe_load(file.read_text()) for file in rules]
        maps = [one["data"] for one in found if one["kind"] == "ConfigMap"]
        shown = [json.loads(text) for data in maps for text in data.values()]
        assert shown == [json.loads(file.read_text()) for file in dashboards]


def test_the_webhook_fails_open_and_sees_only_annotated_pods_of_other_namespaces(
    all_objects: dict[str, list[Object]],
) -> None:
    for name in ("webhook", "webhook-cert-manager", "webhook-own-certificate"):
        hooks = only(all_objects[name], "MutatingWebhookConfiguration")["webhooks"]
        service = only(all_objects[name], "Service")
        assert [hook["name"].partition(".")[0] for hook in hooks] == ["inject", "check"]
        assert hooks[0]["rules"][0]["resources"] == ["pods"]
        for hook in hooks:
            assert hook["failurePolicy"] == "Ignore"
            assert hook["sideEffects"] == "None"
            [condition] = hook["matchConditions"]
            assert "quota-sidecar.dev/inject" in condition["expression"]
            [left_out, *_] = hook["namespaceSelector"]["matchExpressions"]
            assert {"kube-system", "prod"} <= set(left_out["values"])
            address = hook["clientConfig"]["service"]
            assert (address["name"], address["namespace"]) == (service["metadata"]["name"], "prod")
            assert address["path"] == PATH
            assert address["port"] in {port["port"] for port in service["spec"]["ports"]}
            assert bool(hook["clientConfig"].get("caBundle")) == (name != "webhook-cert-manager")


def test_the_webhook_runs_with_options_that_the_command_has(chart: helm_python.Chart) -> None:
    values = values_of(CHART / "ci" / "webhook.yaml")
    values["webhook"]["defaults"] = {
        "plansConfigMap": "plans",
        "redisSecret": "redis",
        "sinks": ["redis", "stdout"],
    }
    deployment = only(objects(rendered(chart, values)), "Deployment", "-webhook")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    command, *options = container["args"]
    assert command == "webhook"
    assert "--sinks=redis,stdout" in options
    known = inspect.signature(webhook).parameters
    for option in options:
        assert option.partition("=")[0].removeprefix("--").replace("-", "_") in known
