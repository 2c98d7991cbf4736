"""What `inject` does to a pod, its Service and its plan file, and what it refuses."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from sidecar.errors import ManifestError
from sidecar.kubernetes.manifests import inject, uninject
from sidecar.kubernetes.options import Options
from sidecar.kubernetes.pod import inject_pod
from tests.support.manifests import (
    API_VERSIONS,
    OPTIONS,
    Object,
    pod_of,
    service,
    template,
    workload,
)


def one(document: Object, options: Options = OPTIONS, **more: Any) -> Object:
    """The pod spec of a workload with the sidecar."""
    (result,) = inject([document], options, file="f", **more).documents
    spec: Object = pod_of(result)["spec"]
    return spec


def refusal(*documents: Object, options: Options = OPTIONS, **more: Any) -> str:
    before = copy.deepcopy(documents)
    with pytest.raises(ManifestError) as raised:
        inject(list(documents), options, file="f", **more)
    assert documents == before
    return str(raised.value)


def variables(spec: Object) -> dict[str, Any]:
    """The sidecar's environment."""
    return {
        each["name"]: each.get("value", each.get("valueFrom"))
        for each in spec["initContainers"][-1]["env"]
    }


@pytest.mark.parametrize("kind", API_VERSIONS)
def test_each_kind_gets_a_native_sidecar_that_knows_its_workload(kind: str) -> None:
    spec = one(workload(kind))
    (sidecar,) = spec["initContainers"]
    assert sidecar["name"] == "quota-sidecar"
    assert sidecar["restartPolicy"] == "Always", "a Job ends although it runs"
    assert variables(spec) == {
        "SIDECAR_UPSTREAM": "http://127.0.0.1:8000",
        "SIDECAR_PLANS": "/etc/quota-sidecar/plans.yaml",
        "SIDECAR_LISTEN": "0.0.0.0:8080",
        "SIDECAR_CONTROL": "0.0.0.0:9090",
        "SIDECAR_SOURCE": "/sidecar/prod/shop",
        "SIDECAR_REDIS": {"secretKeyRef": {"name": "shop-redis", "key": "url"}},
    }


def test_the_sidecar_takes_the_name_of_the_apis_port_over() -> None:
    spec = one(workload())
    assert spec["containers"][0]["ports"] == [{"containerPort": 8000}]
    assert spec["containers"][0]["readinessProbe"]["httpGet"]["port"] == 8000
    assert [port["name"] for port in spec["initContainers"][0]["ports"]] == ["http", "control"]


def test_the_sidecar_takes_the_host_port_over_but_not_on_the_hosts_network() -> None:
    pod = template()
    pod["spec"]["containers"][0]["ports"][0]["hostPort"] = 80
    spec = one(workload("DaemonSet", pod))
    assert "hostPort" not in spec["containers"][0]["ports"][0]
    assert spec["initContainers"][0]["ports"][0]["hostPort"] == 80
    pod["spec"] |= {"hostNetwork": True}
    pod["spec"]["containers"][0]["ports"][0]["hostPort"] = 8000
    spec = one(workload("DaemonSet", pod))
    assert spec["containers"][0]["ports"][0]["hostPort"] == 8000
    assert "hostPort" not in spec["initContainers"][0]["ports"][0]


def test_ports_that_the_pod_uses_are_avoided() -> None:
    pod = template()
    pod["spec"]["containers"][0]["ports"] = [
        {"containerPort": 8080},
        {"containerPort": 9090, "name": "metrics"},
    ]
    spec = one(workload(pod=pod), replace(OPTIONS, api_port="8080"))
    assert [port["containerPort"] for port in spec["initContainers"][0]["ports"]] == [18080, 19090]


def test_the_api_runs_on_until_clients_went_elsewhere_and_the_pod_has_the_time() -> None:
    spec = one(workload())
    assert spec["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 6}}}
    assert spec["terminationGracePeriodSeconds"] == 45
    slow = {"SIDECAR_DRAIN_DELAY_S": "20", "SIDECAR_DRAIN_TIMEOUT_S": "90.5"}
    spec = one(workload(), replace(OPTIONS, env=slow))
    assert spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] == 21
    assert spec["terminationGracePeriodSeconds"] == 20 + 91 + 10
    assert variables(spec).items() >= slow.items()


def test_a_hook_of_the_api_stays_and_a_delay_of_zero_adds_none() -> None:
    pod = template()
    hook = {"preStop": {"exec": {"command": ["stop"]}}}
    pod["spec"]["containers"][0]["lifecycle"] = hook
    assert one(workload(pod=pod))["containers"][0]["lifecycle"] == hook
    spec = one(workload(), replace(OPTIONS, stop_delay="0"))
    assert "lifecycle" not in spec["containers"][0]


def test_a_long_grace_period_of_the_api_is_kept_on_top() -> None:
    spec = one(workload(pod=template(terminationGracePeriodSeconds=600)))
    assert spec["terminationGracePeriodSeconds"] == 615


def test_without_a_namespace_the_pod_learns_its_own() -> None:
    document = workload()
    del document["metadata"]["namespace"]
    env = one(document)["initContainers"][0]["env"]
    assert env[0]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert variables(one(document))["SIDECAR_SOURCE"] == "/sidecar/$(POD_NAMESPACE)/shop"
    named = one(document, replace(OPTIONS, namespace="test"))
    assert variables(named)["SIDECAR_SOURCE"] == "/sidecar/test/shop"


def test_options_come_from_flags_then_annotations() -> None:
    pod = template()
    pod["metadata"]["annotations"] = {
        "quota-sidecar.dev/plans": "sold",
        "quota-sidecar.dev/image": "registry/quota:1",
        "quota-sidecar.dev/sinks": "redis,stdout",
        "quota-sidecar.dev/redis-secret": "other",
    }
    spec = one(workload(pod=pod), Options(image="flag:2", redis="redis://redis:6379/0"))
    (sidecar,) = spec["initContainers"]
    assert sidecar["image"] == "flag:2"
    assert spec["volumes"][0] == {"name": "quota-sidecar-plans", "configMap": {"name": "sold"}}
    assert variables(spec)["SIDECAR_SINKS"] == "redis,stdout"
    assert variables(spec)["SIDECAR_REDIS"] == "redis://redis:6379/0"


def test_a_value_is_not_expanded_by_kubernetes() -> None:
    spec = one(workload(), replace(OPTIONS, env={"SIDECAR_VIA_NAME": "$(HOME)"}))
    assert variables(spec)["SIDECAR_VIA_NAME"] == "$$(HOME)"


def test_the_plan_file_becomes_a_config_map_that_uninject_removes() -> None:
    result = inject([workload()], OPTIONS, file="f", plan_file="version: 1\n").documents
    assert result[0] == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "shop-plans",
            "namespace": "prod",
            "annotations": {"quota-sidecar.dev/status": "injected"},
        },
        "data": {"plans.yaml": "version: 1\n"},
    }
    assert pod_of(result[1])["spec"]["volumes"][0]["configMap"] == {"name": "shop-plans"}
    assert uninject(result, file="f").documents == [workload()]
    assert "do not fit into a ConfigMap" in refusal(workload(), plan_file="#" * 1_000_001)


@pytest.mark.parametrize(
    ("port", "target"),
    [
        ({"port": 80, "targetPort": 8000}, "http"),
        ({"port": 8000}, "http"),
        ({"port": 80, "targetPort": "http"}, "http"),
        ({"port": 80, "targetPort": 9000}, 9000),
        ({"port": 53, "targetPort": 8000, "protocol": "UDP"}, 8000),
    ],
)
def test_a_services_port_to_the_api_goes_to_the_sidecar(port: Object, target: Any) -> None:
    documents = [workload(), service(port)]
    result = inject(documents, OPTIONS, file="f").documents
    assert result[1]["spec"]["ports"] == [{**port, "targetPort": target}]
    assert uninject(result, file="f").documents == documents


def test_services_of_other_pods_and_namespaces_stay() -> None:
    elsewhere = service({"port": 80, "targetPort": 8000})
    elsewhere["metadata"]["namespace"] = "test"
    others = [
        service({"port": 80, "targetPort": 8000}, selector={"app": "cart"}),
        elsewhere,
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"},
         "spec": {"type": "ExternalName", "externalName": "example.com"}},
    ]  # fmt: skip
    assert inject([workload(), *others], OPTIONS, file="f").documents[1:] == others


def test_a_service_of_two_apis_keeps_both_ports_apart() -> None:
    pods = [template(), template()]
    for number, pod in enumerate(pods):
        pod["spec"]["containers"][0]["ports"] = [{"containerPort": 8000 + number}]
        pod["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 8000 + number}}
    documents = [
        workload(pod=pods[0], name="one"),
        workload(pod=pods[1], name="two"),
        service({"port": 80, "targetPort": 8000}, {"port": 81, "targetPort": 8001}),
    ]
    result = inject(documents, OPTIONS, file="f", only=["one", "deployment/two"]).documents
    assert [port["targetPort"] for port in result[2]["spec"]["ports"]] == ["http", "http"]
    assert uninject(result, file="f").documents == documents
    pods[0]["spec"]["containers"][0]["ports"] = [{"containerPort": 8001, "name": "web"}]
    documents[0] = workload(pod=pods[0], name="one")
    assert refusal(*documents, only=["one", "two"]) == (
        "f: Service shop: it selects workloads whose port 8001 has different names (web, http); "
        "give it one name"
    )


def test_changes_by_others_survive_uninject() -> None:
    (result,) = inject([workload()], OPTIONS, file="f").documents
    spec = result["spec"]["template"]["spec"]
    spec["containers"][0]["image"] = "shop:2"
    spec["volumes"].append({"name": "cache", "emptyDir": {}})
    spec["terminationGracePeriodSeconds"] = 300
    spec["containers"].insert(0, {"name": "added", "image": "added:1"})
    expected = workload()
    pod = expected["spec"]["template"]["spec"]
    pod["containers"][0]["image"] = "shop:2"
    pod["containers"].insert(0, {"name": "added", "image": "added:1"})
    pod |= {"volumes": [{"name": "cache", "emptyDir": {}}], "terminationGracePeriodSeconds": 300}
    assert uninject([result], file="f").documents == [expected]


def test_the_annotated_workloads_are_chosen_or_the_only_one() -> None:
    annotated, plain, excluded = workload(name="a"), workload(name="b"), workload(name="c")
    for each, value in ((annotated, "true"), (excluded, "false")):
        each["spec"]["template"]["metadata"]["annotations"] = {"quota-sidecar.dev/inject": value}

    def chosen(*documents: Object) -> list[str]:
        result = inject(list(documents), OPTIONS, file="f").documents
        return [each["metadata"]["name"] for each in result if pod_of(each)["spec"].get("volumes")]

    assert chosen(annotated, plain, excluded) == ["a"]
    assert chosen(plain, excluded) == ["b"]
    assert refusal(excluded).endswith('is "false" everywhere; remove it or set --only')
    assert refusal(plain, workload(name="d")) == (
        "f: there are several workloads (Deployment/b, Deployment/d); set --only KIND/NAME"
    )
    assert refusal(plain, only=["job/b"]) == 'f: "job/b" is not in it; set --only KIND/NAME'
    assert refusal(service({"port": 80})).startswith("f: there is nothing to inject into; give a ")


def test_notes_tell_what_a_person_has_to_know() -> None:
    pod = workload("Pod")
    headless = service({"port": 80, "targetPort": 8000}, clusterIP="None")
    assert inject([pod, headless], OPTIONS, file="f").notes == [
        'Pod shop: its port "http" (8080) is the sidecar\'s, in front of port 8000',
        "Pod shop: without --sinks, usage events stay in the pod and are lost with it",
        "Pod shop: Kubernetes changes no running Pod; delete it before you apply",
        "Service shop: it is headless; clients that connect to port 8000 of a pod bypass the "
        "sidecar",
    ]


def test_without_a_service_in_the_input_a_note_says_what_it_needs() -> None:
    options = replace(OPTIONS, sinks="redis")
    assert inject([workload()], options, file="f").notes[1:] == [
        "Deployment shop: the input has no Service of it; one that sends to port 8000 by number "
        "bypasses the sidecar, so write targetPort: http"
    ]
    assert len(inject([workload(), service({"port": 80})], options, file="f").notes) == 1


def changed(*keys: Any, to: Any) -> Object:
    """A Deployment with another value somewhere in its pod spec."""
    document = workload()
    part = document["spec"]["template"]["spec"]
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    return document


SPEC = "f: Deployment shop: spec.template.spec"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            changed("containers", 0, "ports", to=[]),
            f"{SPEC}.containers: no container has a TCP port; add the API's port to the "
            "container's ports",
        ),
        (
            changed("containers", 0, "ports", to=[{"containerPort": 53, "protocol": "UDP"}]),
            f"{SPEC}.containers: no container has a TCP port; add the API's port to the "
            "container's ports",
        ),
        (
            changed("containers", 0, "ports", to=[{"containerPort": 80}, {"containerPort": 81}]),
            f"{SPEC}.containers: there are several ports (80, 81); set --api-port or the "
            "annotation quota-sidecar.dev/api-port",
        ),
        (
            changed("initContainers", to=[{"name": "quota-sidecar", "image": "x"}]),
            f"{SPEC}.initContainers[0]: this container is named quota-sidecar and was not "
            "injected; rename or remove it",
        ),
        (
            changed("containers", 0, "name", to="quota-sidecar"),
            f"{SPEC}.containers[0]: this container is named quota-sidecar and was not "
            "injected; rename or remove it",
        ),
        (
            changed("volumes", to=[{"name": "quota-sidecar-spool", "emptyDir": {}}]),
            f"{SPEC}.volumes[0]: this volume is named quota-sidecar-spool and was not injected; "
            "rename or remove it",
        ),
        (
            changed("nodeSelector", to={"kubernetes.io/os": "windows"}),
            f"{SPEC}: the pod runs on Windows; the sidecar needs Linux",
        ),
        (
            changed("os", to={"name": "windows"}),
            f"{SPEC}: the pod runs on Windows; the sidecar needs Linux",
        ),
        (
            changed("initContainers", to=[
                {"name": "x", "ports": [{"containerPort": 1, "name": "control"}]}
            ]),
            f'{SPEC}.initContainers[0].ports[0].name: "control" is a name that a port of the '
            "sidecar needs; rename this one",
        ),
        (
            changed("containers", 0, "ports", to=[{"containerPort": 1, "name": "control"}]),
            f'{SPEC}.containers[0].ports[0].name: "control" is the name of the sidecar\'s '
            "control port; rename this one",
        ),
        (
            changed("containers", 0, "ports", 0, "containerPort", to="8000"),
            f"{SPEC}.containers[0].ports[0].containerPort: is not a port; write a number from 1 "
            "to 65535",
        ),
        (
            changed("containers", to=[]),
            f"{SPEC}: there are no containers; the sidecar needs an API",
        ),
        (
            changed("containers", to="x"),
            f"{SPEC}.containers: is not a list of mappings; begin each with -",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_place(document: Object, message: str) -> None:
    assert refusal(document) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            replace(OPTIONS, api_port="9000"),
            f'{SPEC}.containers: no container has the TCP port "9000"; add it to the container\'s '
            "ports, or set --api-port or the annotation quota-sidecar.dev/api-port",
        ),
        (
            replace(OPTIONS, port="8000"),
            f"{SPEC}.containers[0]: the port 8000 is in use here; set another with --port or the "
            "annotation quota-sidecar.dev/port",
        ),
        (
            replace(OPTIONS, control_port="8080"),
            f"{SPEC}.containers[0]: the sidecar's data port: the port 8080 is in use here; set "
            "another with --control-port or the annotation quota-sidecar.dev/control-port",
        ),
        (
            replace(OPTIONS, plans=None),
            "f: Deployment shop: spec.template: no plan file is given; set --plans FILE, "
            "--plans-config-map NAME or the annotation quota-sidecar.dev/plans",
        ),
        (
            replace(OPTIONS, redis_secret=None),
            "f: Deployment shop: spec.template: no Secret with the URL of Redis is named; set "
            "--redis-secret or the annotation quota-sidecar.dev/redis-secret",
        ),
    ],
)
def test_a_choice_that_does_not_fit_is_refused(options: Options, message: str) -> None:
    assert refusal(workload(), options=options) == message


def test_the_name_of_another_port_is_not_used_for_the_sidecar() -> None:
    ports = [{"containerPort": 8000}, {"containerPort": 8001, "name": "http"}]
    document = changed("containers", 0, "ports", to=ports)
    assert refusal(document, options=replace(OPTIONS, api_port="8000")) == (
        f'{SPEC}.containers[0].ports[1].name: "http" is a name that a port of the sidecar needs; '
        "rename this one"
    )


def test_a_template_with_the_sidecar_gets_it_anew() -> None:
    first = inject_pod(template(), OPTIONS, "shop", "pod").template
    other = replace(OPTIONS, image="other:2")
    anew = inject_pod(first, other, "shop", "pod")
    assert anew == inject_pod(template(), other, "shop", "pod")


def test_a_port_of_the_hosts_network_that_is_in_use_is_refused() -> None:
    document = changed("hostNetwork", to=True)
    message = refusal(document, options=replace(OPTIONS, port="8000"))
    assert "the port 8000 is in use here" in message


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        ("port", "99999", '"99999" is not a port; write a number from 1 to 65535'),
        ("port", "0", '"0" is not a port; write a number from 1 to 65535'),
        ("plans", "A b", '"A b" is not a name in Kubernetes; write it like shop-plans'),
        ("cpu", "much", '"much" is not a quantity; write it like 500m or 256Mi'),
        ("inject", "yes", '"yes" is not true or false; write "true"'),
        ("sinks", "file:/x", "the pod has no volume for a file; write stdout or redis"),
        ("image", "x" * 999, f'"{"x" * 80}…" is not an image; write it like '
         "registry.example.com/quota-sidecar:0.1.0"),
    ],
)  # fmt: skip
def test_a_wrong_annotation_is_refused(annotation: str, value: str, message: str) -> None:
    pod = template()
    pod["metadata"]["annotations"] = {f"quota-sidecar.dev/{annotation}": value}
    where = "f: Deployment shop: spec.template.metadata.annotations: quota-sidecar.dev/"
    assert refusal(workload(pod=pod)) == f"{where}{annotation}: {message}"


def test_a_misspelt_annotation_is_refused() -> None:
    pod = template()
    pod["metadata"]["annotations"] = {"quota-sidecar.dev/plan": "x"}
    assert "quota-sidecar.dev/plan: is not known; after quota-sidecar.dev/, write api-port, " in (
        refusal(workload(pod=pod))
    )


def test_a_damaged_record_of_the_original_is_refused() -> None:
    (result,) = inject([workload()], OPTIONS, file="f").documents
    notes = result["spec"]["template"]["metadata"]["annotations"]
    for record in ("", "[]", "{", '{"container":"shop","port":"8000"}', "[" * 100_000):
        notes["quota-sidecar.dev/original"] = record
        with pytest.raises(ManifestError, match="missing or damaged; restore the manifest"):
            uninject([result], file="f")


def test_a_kind_of_another_group_is_left_alone() -> None:
    foreign = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "x"},
               "spec": {"template": {}}}  # fmt: skip
    assert inject([workload(), foreign], OPTIONS, file="f").documents[1] == foreign


@pytest.mark.parametrize(
    ("security", "noted"), [({}, True), ({"fsGroup": 65532}, False)], ids=["as root", "group"]
)
def test_a_volume_claim_that_only_root_may_write_to_is_noted(security: Object, noted: bool) -> None:
    database = workload("StatefulSet")
    pod_of(database)["spec"]["securityContext"] = security
    claim = {"metadata": {"name": "quota-sidecar-spool"}, "spec": {}}
    database["spec"]["volumeClaimTemplates"] = [claim]
    notes = inject([database], OPTIONS, file="f").notes
    assert any("set fsGroup: 65532" in one for one in notes) is noted
