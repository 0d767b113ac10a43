"""What a gateway controller tells Envoy about HTTPRoutes, as files that Envoy watches; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

Object = dict[str, Any]
Address = tuple[str, int]

_TYPE: Final = "type.googleapis.com/envoy"
ROUTES: Final = "raw-callers"


def bootstrap(folder: Path, *, port: int, admin_port: int) -> Object:
    """Envoy's own configuration: one listener, and the files with everything else."""
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "raw",
        "rds": {"route_config_name": ROUTES, "config_source": _watched(folder / "routes.json")},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "name": "raw",
        "address": _address("0.0.0.0", port),  # of the cluster's own network namespace
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": _address("127.0.0.1", admin_port)},
        "static_resources": {"listeners": [listener]},
        "dynamic_resources": {"cds_config": _watched(folder / "clusters.json")},
    }


def routes(found: Iterable[Object], version: str) -> Object:
    """Discovery response: the routes of every HTTPRoute, in the Gateway API's order."""
    hosts = [_virtual_host(route) for route in found]
    configuration = {
        "@type": f"{_TYPE}.config.route.v3.RouteConfiguration",
        "name": ROUTES,
        "virtual_hosts": hosts,
    }
    return {"version_info": version, "resources": [configuration]}


def clusters(names: Iterable[str], folder: Path, version: str) -> Object:
    """Discovery response: one cluster for each backend, its endpoints in a file of their own."""
    resources = [
        {
            "@type": f"{_TYPE}.config.cluster.v3.Cluster",
            "name": name,
            "type": "EDS",
            "connect_timeout": "2s",
            "eds_cluster_config": {"eds_config": _watched(folder / f"endpoints-{name}.json")},
        }
        for name in sorted(names)
    ]
    return {"version_info": version, "resources": resources}


def endpoints(name: str, addresses: Iterable[Address]) -> Object:
    """Discovery response: where a backend is reached now."""
    found = [{"endpoint": {"address": _address(*address)}} for address in sorted(addresses)]
    assignment = {
        "@type": f"{_TYPE}.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": found}],
    }
    return {"resources": [assignment]}


def cluster_name(route: Object, backend: Mapping[str, Any]) -> str:
    """Of a backend, as Envoy calls it: its namespace, name and port."""
    namespace = backend.get("namespace", route["metadata"]["namespace"])
    return f"{namespace}.{backend['name']}.{backend['port']}"


def backends(route: Object) -> list[Object]:
    """Everything that a route may send requests or copies to."""
    found = []
    for rule in route["spec"]["rules"]:
        found += rule.get("backendRefs", [])
        found += [m["backendRef"] for m in _mirrors(rule)]
    return found


def _virtual_host(route: Object) -> Object:
    metadata, spec = route["metadata"], route["spec"]
    pairs = [(match, rule) for rule in spec["rules"] for match in rule["matches"]]
    # The longer path wins, then more headers, then who came first.
    pairs.sort(key=lambda pair: (-len(pair[0]["path"]["value"]), -len(pair[0].get("headers", []))))
    return {
        "name": f"{metadata['namespace']}.{metadata['name']}",
        "domains": [d for host in spec["hostnames"] for d in (host, f"{host}:*")],
        "routes": [_route(route, match, rule) for match, rule in pairs],
    }


def _route(route: Object, match: Object, rule: Object) -> Object:
    made: Object = {
        "match": _path(match["path"]),
        "route": {
            "weighted_clusters": {
                "clusters": [
                    {"name": cluster_name(route, b), "weight": b.get("weight", 1)}
                    for b in rule["backendRefs"]
                ]
            },
            "request_mirror_policies": [_mirror(route, m) for m in _mirrors(rule)],
        },
    }
    if match.get("headers"):
        made["match"]["headers"] = [
            {"name": h["name"], "string_match": _text(h)} for h in match["headers"]
        ]
    for given in rule.get("filters", []):
        if given["type"] == "RequestHeaderModifier":
            _modify(made, given["requestHeaderModifier"])
    return made


def _text(header: Object) -> Object:
    match header["type"]:
        case "Exact":
            return {"exact": header["value"]}
        case "RegularExpression":
            return {"safe_regex": {"regex": header["value"]}}
        case other:
            raise ValueError(f"headers of type {other} are not translated here")


def _path(match: Object) -> Object:
    match match["type"]:
        case "PathPrefix":
            return {"path_separated_prefix": match["value"].rstrip("/")}
        case "RegularExpression":
            return {"safe_regex": {"regex": match["value"]}}
        case other:
            raise ValueError(f"paths of type {other} are not translated here")


def _modify(made: Object, modifier: Object) -> None:
    made["request_headers_to_remove"] = modifier.get("remove", [])
    made["request_headers_to_add"] = [
        {
            "header": {"key": h["name"], "value": h["value"]},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        for h in modifier.get("set", [])
    ]


def _mirrors(rule: Object) -> list[Object]:
    return [f["requestMirror"] for f in rule.get("filters", []) if f["type"] == "RequestMirror"]


def _mirror(route: Object, mirror: Object) -> Object:
    share = {"numerator": mirror.get("percent", 100), "denominator": "HUNDRED"}
    return {
        "cluster": cluster_name(route, mirror["backendRef"]),
        "runtime_fraction": {"default_value": share},
        # Envoy Gateway leaves the host of a copy as it is, so nothing tells it from the original.
        "disable_shadow_host_suffix_append": True,
    }


def _watched(path: Path) -> Object:
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}


def _address(host: str, port: int) -> Object:
    return {"socket_address": {"address": host, "port_value": port}}
