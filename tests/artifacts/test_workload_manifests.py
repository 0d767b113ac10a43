"""platform/manifests/workloads: what each process is started with, and that the rest fits it."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplatform.observing.exporter.process import parser as exporter_parser
from mlplatform.observing.page.process import accepted_hosts
from mlplatform.observing.page.process import parser as page_parser
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server import cluster_flows
from mlplatform.operations.prefect_server.server import parser as server_parser
from mlplatform.operations.supervisor.mlflow_server import parser as mlflow_parser
from mlplatform.operations.supervisor.platform import workers as supervised_workers
from mlplatform.runtime.configuration import settings
from mlplatform.scoring.gateway.process import parser as gateway_parser
from mlplatform.scoring.worker.process import parser as worker_parser
from support.manifest_schemas import unknown
from support.pod_security import violations

MANIFESTS = Path(__file__).parents[2] / "platform" / "manifests"
WORKLOADS = MANIFESTS / "workloads"
SECRETS = {
    "postgres": {"password"},
    "redis": {"password"},
    "kafka": {"password", "ca.crt"},
    "mlflow": {"token", "postgres-password"},
    "prefect": {"database-url", "auth"},
    "prefect-reader": {"auth"},
    "s3": set[str](),
    "exporter": {"token"},
    "page": {"token"},
    "worker": {"token"},
}
"""Those that docs/cluster.md tells an operator to make, with their keys."""
HOLD_THE_HOME = ("gateway", "exporter", "page", "worker-fraud", "flow-run")
"""Pods that mount the gateway's volume."""
READ_BUNDLES = frozenset({"gateway", "page", "flow-run"})
"""Those that mount the claim of bundles too."""


def documents(folder: Path) -> list[dict[str, Any]]:
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [d for name in listed for d in yaml.safe_load_all((folder / name).read_text())]


def of_kind(kind: str, folder: Path = WORKLOADS) -> dict[str, dict[str, Any]]:
    return {d["metadata"]["name"]: d for d in documents(folder) if d["kind"] == kind}


def named(document: dict[str, Any]) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def pods() -> dict[str, dict[str, Any]]:
    """Pod templates by what makes them."""
    made = of_kind("StatefulSet") | of_kind("Deployment")
    found = {name: d["spec"]["template"] for name, d in made.items()}
    job = flow_run()["job_configuration"]["job_manifest"]
    return found | {"flow-run": job["spec"]["template"]}


def flow_run() -> dict[str, Any]:
    return cluster_flows.template(WORKLOADS / "flow-run.yaml", "flows:2")


def containers() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, pod in pods().items():
        spec = pod["spec"]
        every = [*spec.get("initContainers", []), *spec["containers"]]
        found |= {f"{name}/{c['name']}": c for c in every}
    return found


def variables(container: dict[str, Any]) -> dict[str, str]:
    """Those whose values stand in the manifests."""
    shared = of_kind("ConfigMap")["platform"]["data"]
    taken = [e for e in container.get("envFrom", []) if "configMapRef" in e]
    assert all(e["configMapRef"]["name"] == "platform" for e in taken)
    own = container["env"] if isinstance(container["env"], list) else []
    return (shared if taken else {}) | {e["name"]: e["value"] for e in own if "value" in e}


@pytest.mark.parametrize("document", documents(WORKLOADS), ids=named)
def test_every_field_is_one_that_kubernetes_has(document: dict[str, Any]) -> None:
    assert unknown(document, f"V1{document['kind']}", "") == []
    assert document["metadata"]["namespace"] == "mlplatform"


def test_every_file_is_listed() -> None:
    kustomization = yaml.safe_load((WORKLOADS / "kustomization.yaml").read_text())
    generated = [f for g in kustomization["configMapGenerator"] for f in g["files"]]

    listed = [*kustomization["resources"], *generated, "kustomization.yaml"]
    assert sorted(listed) == sorted(p.name for p in WORKLOADS.iterdir())


@pytest.mark.parametrize("name", pods())
def test_a_pod_is_admitted_by_the_restricted_standard(name: str) -> None:
    assert violations(pods()[name]["spec"]) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hostNetwork": True}, "uses hostNetwork"),
        ({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}, "mounts hostPath"),
        ({"securityContext": {}}, "gateway may run as root"),
    ],
)
def test_a_pod_that_would_be_refused_is_found(change: dict[str, Any], said: str) -> None:
    pod = copy.deepcopy(pods()["gateway"]["spec"]) | change

    assert said in violations(pod)


@pytest.mark.parametrize("name", containers())
def test_a_container_writes_nowhere_but_on_volumes_and_is_bounded(name: str) -> None:
    container = containers()[name]

    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"].keys() == {"requests", "limits"}
    assert "command" in container


@pytest.mark.parametrize("name", sorted(containers().keys() - {"flow-run/prefect-job"}))
def test_what_a_container_is_told_are_settings_that_hold(name: str) -> None:
    told = variables(containers()[name])

    loaded = settings.load(told)
    for variable, value in loaded.environment().items():
        assert told.get(variable, value) == value


def test_flow_runs_and_the_gateway_are_told_the_same_home_and_servers() -> None:
    shared = of_kind("ConfigMap")["platform"]["data"]
    template = flow_run()
    of_runs = settings.load(shared | template["variables"]["properties"]["env"]["default"])
    of_gateway = settings.load(variables(containers()["gateway/gateway"]))

    assert of_runs.home == of_gateway.home
    assert of_runs.servers == of_gateway.servers
    assert of_runs.kserve == of_gateway.kserve
    for name in HOLD_THE_HOME:
        [container] = pods()[name]["spec"]["containers"]
        mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        assert of_gateway.home.root.is_relative_to(mounts["home"])
        assert str(of_gateway.home.root) != mounts["home"]
        assert mounts.get("bundles") == (
            str(of_gateway.home.bundles) if name in READ_BUNDLES else None
        )


def neighbours(name: str) -> dict[str, str]:
    """Labels of the pods on whose node a pod must be."""
    affinity = pods()[name]["spec"]["affinity"]["podAffinity"]
    [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    found: dict[str, str] = term["labelSelector"]["matchLabels"]
    return found


def claims(name: str) -> set[str]:
    volumes = pods()[name]["spec"]["volumes"]
    return {
        v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v
    }


@pytest.mark.parametrize("name", [n for n in HOLD_THE_HOME if n != "gateway"])
def test_who_shares_the_gateways_volume_is_on_its_node(name: str) -> None:
    stateful = of_kind("StatefulSet")["gateway"]["spec"]

    assert neighbours(name).items() <= pods()["gateway"]["metadata"]["labels"].items()
    assert claims(name) == {"home-gateway-0", *({"bundles"} if name in READ_BUNDLES else ())}
    assert stateful["replicas"] == 1
    assert [t["metadata"]["name"] for t in stateful["volumeClaimTemplates"]] == ["home"]


def test_the_gateway_is_tried_again_once_the_last_pod_has_left_its_volume() -> None:
    """Kubernetes does that for anti-affinity alone (isSchedulableAfterPodChange of its scheduler);
    this one forbids no node, as none has its label."""
    affinity = pods()["gateway"]["spec"]["affinity"]["podAntiAffinity"]
    [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]

    assert term["labelSelector"]["matchLabels"] == neighbours("gateway")
    assert term["topologyKey"] == "mlplatform/no-node-has-this"


def test_the_gateway_goes_where_its_volume_is_held_and_anywhere_else_where_it_is_not() -> None:
    """A volume of one node that another pod holds there would keep it waiting on every other."""
    with_label = {n for n, p in pods().items() if neighbours("gateway").items() <= labels(p)}

    assert with_label == {n for n in pods() if "home-gateway-0" in claims(n)} | {"gateway"}
    assert with_label == set(HOLD_THE_HOME)


def labels(pod: dict[str, Any]) -> Any:
    return pod["metadata"].get("labels", {}).items()


def test_what_only_watches_cannot_make_the_gateway_unready() -> None:
    """A container that ends takes its pod out of the Services, and so all containers of it."""
    assert [c["name"] for c in pods()["gateway"]["spec"]["containers"]] == ["gateway"]
    assert "initContainers" not in pods()["gateway"]["spec"]


@pytest.mark.parametrize(
    ("scraped", "container"),
    [
        ("mlplatform-exporter", "exporter/exporter"),
        ("mlplatform-worker", "worker-fraud/worker"),
    ],
)
def test_prometheus_finds_a_pod_by_the_name_of_its_port(scraped: str, container: str) -> None:
    path = MANIFESTS.parents[1] / "observability" / "prometheus" / "cluster.yaml"
    jobs = yaml.safe_load(path.read_text())["scrape_configs"]
    [job] = [s for s in jobs if s["job_name"] == scraped]
    kept = [r["regex"] for r in job["relabel_configs"] if r.get("action") == "keep"]
    named = [n for n, c in containers().items() for p in c.get("ports", []) if p["name"] in kept]

    assert named == [container]
    [found] = job["kubernetes_sd_configs"]
    namespace = of_kind("Deployment")[container.split("/", maxsplit=1)[0]]["metadata"]["namespace"]
    assert found["namespaces"]["names"] == [namespace]


def test_each_model_that_has_a_worker_on_one_machine_has_one_here_and_its_outbox() -> None:
    """Without them a request that was answered 202 is never scored, and no topic of features is
    read."""
    told = [c for n, c in containers().items() if n.endswith("/worker")]
    workers = {o.model: o for o in (worker_parser().parse_args(c["args"]) for c in told)}

    supervised = {child.name for child in supervised_workers(settings.load({}))}
    assert {f"worker-{model}" for model in workers} == supervised
    assert all(options.outbox for options in workers.values())
    assert len(workers) == len(told)
    for model in workers:
        deployment = of_kind("Deployment")[f"worker-{model}"]["spec"]
        assert deployment["strategy"] == {"type": "Recreate"}
        assert deployment["replicas"] == 1


def test_a_worker_can_open_the_stores_that_rows_of_feature_topics_go_to() -> None:
    told = settings.load(variables(containers()["worker-fraud/worker"]))
    for address in (told.postgres, told.redis):
        assert address is not None
        assert str(address.password_file) in secret_files("worker-fraud")


def test_the_worker_alone_has_the_password_of_the_brokers_and_does_without_where_none_is() -> None:
    kafka = settings.load(variables(containers()["worker-fraud/worker"])).kafka
    assert kafka is not None
    assert kafka.tls
    holders = {name for name in HOLD_THE_HOME if str(kafka.password_file) in secret_files(name)}
    assert holders == {"worker-fraud"}
    [volume] = [v for v in pods()["worker-fraud"]["spec"]["volumes"] if v["name"] == "secrets"]
    [source] = [s for s in volume["projected"]["sources"] if s["secret"]["name"] == "kafka"]
    assert source["secret"]["optional"] is True


def test_ports_are_those_that_policies_open_and_programs_take() -> None:
    policies = of_kind("NetworkPolicy", MANIFESTS / "base")
    for name, container in (
        ("exporter", "exporter/exporter"),
        ("page", "page/page"),
        ("worker", "worker-fraud/worker"),
    ):
        [rule] = policies[name]["spec"]["ingress"]
        [port] = containers()[container]["ports"]
        assert [p["port"] for p in rule["ports"]] == [port["containerPort"]]
    exporter, page = containers()["exporter/exporter"], containers()["page/page"]
    taken = exporter_parser().parse_args(exporter["args"])
    assert (taken.host, taken.port) == ("0.0.0.0", exporter["ports"][0]["containerPort"])
    shown = page_parser().parse_args(page["args"])
    assert shown.host == "0.0.0.0"
    assert settings.load(variables(page)).page_port == page["ports"][0]["containerPort"]
    worker = containers()["worker-fraud/worker"]
    scores = worker_parser().parse_args(worker["args"])
    assert (scores.host, scores.port) == ("0.0.0.0", worker["ports"][0]["containerPort"])
    for options, pod in ((taken, "exporter"), (shown, "page"), (scores, "worker-fraud")):
        assert str(options.token_file) in secret_files(pod)


def test_the_page_asks_prefect_with_a_token_that_prefects_server_knows_and_no_other() -> None:
    page, server = containers()["page/page"], containers()["prefect/prefect"]
    key = {"name": "prefect-reader", "key": "auth", "optional": True}
    by_name = {v["name"]: v for v in page["env"]}
    assert by_name["PREFECT_API_AUTH_STRING"]["valueFrom"] == {"secretKeyRef": key}
    assert {"secretKeyRef": {"name": "prefect", "key": "auth"}} not in [
        v.get("valueFrom") for v in page["env"]
    ]
    taken = server_parser().parse_args(server["args"])
    assert str(taken.reader_file) in secret_files("prefect")
    [volume] = [v for v in pods()["prefect"]["spec"]["volumes"] if v["name"] == "secrets"]
    sources = {s["secret"]["name"]: s["secret"] for s in volume["projected"]["sources"]}
    assert sources["prefect-reader"]["optional"] is True
    told = of_kind("ConfigMap")["platform"]["data"]
    assert settings.load(told).prefect_url == "http://prefect.mlplatform:4200"


def secret_files(name: str) -> set[str]:
    """Where a pod finds what is secret."""
    [volume] = [v for v in pods()[name]["spec"]["volumes"] if v["name"] == "secrets"]
    [container] = pods()[name]["spec"]["containers"]
    [mount] = [m for m in container["volumeMounts"] if m["name"] == "secrets"]
    items = [i for s in volume["projected"]["sources"] for i in s["secret"]["items"]]
    return {f"{mount['mountPath']}/{item['path']}" for item in items}


@pytest.mark.parametrize("name", sorted({*HOLD_THE_HOME} - {"worker-fraud"}))
def test_files_that_settings_name_are_mounted_where_they_are_read(name: str) -> None:
    told = of_kind("ConfigMap")["platform"]["data"]
    loaded = settings.load(told)
    wanted = {told["MLPLATFORM_POSTGRES_PASSWORD_FILE"]}
    wanted |= {str(loaded.mlflow_token_file)} if name in ("page", "flow-run") else set()

    assert wanted <= secret_files(name)


def test_probes_of_the_page_ask_for_it_by_a_name_that_it_answers_to() -> None:
    page = containers()["page/page"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        [header] = page[probe]["httpGet"]["httpHeaders"]
        assert header["name"] == "Host"
        assert header["value"] in accepted_hosts(settings.load(variables(page)))


def test_the_gateways_volume_outlives_its_pod_and_its_set() -> None:
    policy = of_kind("StatefulSet")["gateway"]["spec"]["persistentVolumeClaimRetentionPolicy"]

    assert policy == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_commands_are_those_that_the_programs_take() -> None:
    gateway = containers()["gateway/gateway"]
    register = containers()["prefect-worker/register"]

    options = gateway_parser().parse_args(gateway["args"])
    assert (options.name, options.host) == ("$(POD_NAME)", "0.0.0.0")
    assert mlflow_parser().parse_args(containers()["mlflow/mlflow"]["args"]).host == "0.0.0.0"
    placed = cluster_flows.parser().parse_args(register["args"])
    assert placed.image == "$(FLOW_RUN_IMAGE)"
    assert "FLOW_RUN_IMAGE" in variables(register)
    mounted = {m["mountPath"] for m in register["volumeMounts"]}
    assert str(placed.template.parent) in mounted
    for name, container in containers().items():
        module = container["command"][2]
        assert container["command"][:2] == ["python", "-m"], name
        assert importlib.util.find_spec(module), name


def test_probes_ask_ports_that_are_there() -> None:
    for name, container in containers().items():
        ports = {p["name"] for p in container.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                assert container[probe]["httpGet"]["port"] in ports, name


def test_the_gateway_drains_within_its_grace() -> None:
    spec = pods()["gateway"]["spec"]
    [container] = spec["containers"]
    from mlplatform.operations.supervisor.platform import GATEWAY_GRACE_S

    asleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert asleep + GATEWAY_GRACE_S < spec["terminationGracePeriodSeconds"]


def test_accounts_are_there_and_only_those_with_rights_get_a_token() -> None:
    accounts = of_kind("ServiceAccount", MANIFESTS / "base")
    template = flow_run()
    of_runs = {template["variables"]["properties"]["service_account_name"]["default"]}
    of_runs |= {
        cluster_flows.job_variables(n)["service_account_name"] for n in ("rollout", "batch")
    }
    fixed = {name: pod["spec"]["serviceAccountName"] for name, pod in pods().items()}
    del fixed["flow-run"]

    assert {*fixed.values(), *of_runs} <= accounts.keys()
    assert [n for n, p in pods().items() if p["spec"].get("automountServiceAccountToken")] == [
        "prefect-worker"
    ]


def test_passes_and_what_stands_make_what_only_tries_give_way() -> None:
    """Of pods without a class, whose priority is 0, a pass would displace Prefect itself."""
    classes = of_kind("PriorityClass", MANIFESTS / "base")
    standing = {p["spec"].get("priorityClassName") for n, p in pods().items() if n != "flow-run"}
    asked = flow_run()["variables"]["properties"]["priority_class_name"]
    passes = {cluster_flows.job_variables(n)["priority_class_name"] for n in cluster_flows.PASSES}
    others = [cluster_flows.job_variables(n) for n in set(names.RUNS) - cluster_flows.PASSES]

    assert pods()["flow-run"]["spec"]["priorityClassName"] == "{{ priority_class_name }}"
    assert standing == passes == {"mlplatform-production"}
    assert asked["default"] == "mlplatform-development"
    assert not any("priority_class_name" in variables for variables in others)
    assert set(asked["enum"]) == classes.keys()
    assert classes[asked["default"]]["value"] < classes["mlplatform-production"]["value"]
    assert classes[asked["default"]]["preemptionPolicy"] == "Never"


def test_the_pools_limit_of_runs_is_the_only_one() -> None:
    """A lower one of the worker's would keep a rollback waiting behind heavy runs."""
    args = containers()["prefect-worker/prefect-worker"]["args"]

    assert not [a for a in args if a.startswith(("--limit", "-l"))]


def test_a_flow_that_asks_the_api_server_may_reach_it() -> None:
    """Its label is the one of the network policy; its account the one with the rights."""
    policies = of_kind("NetworkPolicy", MANIFESTS / "base")
    label = policies["api-server"]["spec"]["podSelector"]["matchLabels"]

    assert label == {"mlplatform/asks-api-server": "true"}
    assert cluster_flows.job_variables("rollout")["asks_api_server"] == "true"
    for name in cluster_flows.STARTS_JOBS:
        assert cluster_flows.job_variables(name)["asks_api_server"] == "true"
    assert cluster_flows.job_variables("drift") == {}
    assert "mlplatform/asks-api-server" in pods()["flow-run"]["metadata"]["labels"]


def test_batches_and_retrains_may_start_jobs_with_argo_and_nothing_else() -> None:
    """Their account's rights are in Argo's namespace, and they alone get keys of object storage."""
    access = list(yaml.safe_load_all((MANIFESTS.parents[1] / "argo" / "access.yaml").read_text()))
    accounts = {
        cluster_flows.job_variables(n)["service_account_name"] for n in cluster_flows.STARTS_JOBS
    }
    [account] = accounts
    subject = {"kind": "ServiceAccount", "name": account, "namespace": "mlplatform"}
    bound = [d for d in access if d["kind"] == "RoleBinding" and d["subjects"] == [subject]]
    roles = {d["metadata"]["name"]: d["rules"] for d in access if d["kind"] == "Role"}
    elsewhere = [d for d in documents(MANIFESTS / "base") if subject in d.get("subjects", [])]
    keys = flow_run()["variables"]["properties"]["keys_secret"]
    [container] = pods()["flow-run"]["spec"]["containers"]

    assert [roles[d["roleRef"]["name"]] for d in bound] == [
        [
            {
                "apiGroups": ["argoproj.io"],
                "resources": ["workflows"],
                "verbs": ["get", "create", "patch"],
            }
        ]
    ]
    assert elsewhere == []
    assert of_kind("ServiceAccount", MANIFESTS / "base")[account].get(
        "automountServiceAccountToken", True
    )
    assert {"secretRef": {"name": "{{ keys_secret }}", "optional": True}} in container["envFrom"]
    assert cluster_flows.job_variables("batch")["keys_secret"] in SECRETS
    assert keys["default"] not in SECRETS
    assert {n for n in names.RUNS if "keys_secret" in cluster_flows.job_variables(n)} == {
        "batch",
        "retrain",
    }
    assert {"batch", "retrain"} == cluster_flows.STARTS_JOBS


def test_a_run_works_on_its_jobs_itself_where_argo_does_not() -> None:
    """No pool stands in the cluster: work that waited for one would never be done."""
    shared = of_kind("ConfigMap")["platform"]["data"]
    own = flow_run()["variables"]["properties"]["env"]["default"]
    here = settings.load(shared | own)

    assert (here.argo, here.job_processes) == (None, 0)


def test_services_choose_pods_and_ports_that_are_there() -> None:
    for name, service in of_kind("Service").items():
        chosen = service["spec"]["selector"].items()
        [pod] = [p for p in pods().values() if chosen <= p["metadata"].get("labels", {}).items()]
        ports = {p["name"] for c in pod["spec"]["containers"] for p in c["ports"]}
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports, name


def test_servers_are_named_as_their_services_are() -> None:
    loaded = settings.load(of_kind("ConfigMap")["platform"]["data"])
    services = of_kind("Service")
    for url in (loaded.gateway_url, loaded.prefect_url, loaded.mlflow_url, loaded.page_url):
        host, _, port = url.removeprefix("http://").partition(":")
        service, namespace = host.split(".")
        assert namespace == "mlplatform"
        ports = {p["port"] for p in services[service]["spec"]["ports"]}
        assert int(port or 80) in ports


def test_secrets_are_the_ones_that_the_operator_is_told_to_make() -> None:
    used: dict[str, set[str]] = {}
    for pod in pods().values():
        for volume in pod["spec"].get("volumes", []):
            for source in volume.get("projected", {}).get("sources", []):
                secret = source["secret"]
                used.setdefault(secret["name"], set()).update(i["key"] for i in secret["items"])
    for container in containers().values():
        for variable in container["env"] if isinstance(container["env"], list) else []:
            if "secretKeyRef" in variable.get("valueFrom", {}):
                key = variable["valueFrom"]["secretKeyRef"]
                used.setdefault(key["name"], set()).add(key["key"])
        for source in container.get("envFrom", []):
            if "secretRef" in source and "{{" not in source["secretRef"]["name"]:
                used.setdefault(source["secretRef"]["name"], set())
    page = (MANIFESTS.parents[1] / "docs" / "cluster.md").read_text()

    assert used == SECRETS
    for name, keys in SECRETS.items():
        [row] = [line for line in page.splitlines() if line.startswith(f"| Secret `{name}`")]
        assert all(f"`{key}`" in row for key in keys)


def test_passes_alone_may_ask_predictors_their_golden_rows() -> None:
    policies = of_kind("NetworkPolicy", MANIFESTS / "base")
    label = {"mlplatform/asks-predictors": "true"}
    sources = [s for r in policies["predictions"]["spec"]["ingress"] for s in r["from"]]

    assert policies["golden-rows"]["spec"]["podSelector"]["matchLabels"] == label
    assert label in [s.get("podSelector", {}).get("matchLabels") for s in sources]
    assert pods()["flow-run"]["metadata"]["labels"][next(iter(label))] == "{{ asks_predictors }}"
    assert {n for n in names.RUNS if cluster_flows.job_variables(n).get("asks_predictors")} == set(
        cluster_flows.PASSES
    ) & set(names.RUNS)
