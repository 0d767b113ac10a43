"""The Kubernetes API in plain dicts: read, create, apply and delete objects by path."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import urllib3
from kubernetes import client, config

from mlplatform.runtime.errors import ConfigInvalid, NotFound, PlatformError, Refused, Unavailable

FIELD_MANAGER: Final = "mlplatform"
"""Field manager of the fields that the platform writes; `kubectl get --show-managed-fields` shows
it."""
TIMEOUT_S: Final = 20.0

Object = dict[str, Any]


class AlreadyThere(Refused):
    """An object of that name exists already."""


class Conflict(Refused):
    """Another field manager owns a field, or somebody changed the object in between."""


class KubernetesApi:
    """One API server, as one user.

    The library brings what differs between clusters (certificates, tokens that are renewed,
    log-in programs of clouds); its generated models are left aside, because objects of extensions
    have none and those of KServe's own package do not survive its present version.
    """

    def __init__(self, api_client: Any, namespace: str) -> None:
        self._client = api_client
        self.namespace = namespace

    @classmethod
    def connect(
        cls, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None
    ) -> KubernetesApi:
        """Connects by a kubeconfig, or as the pod that this runs in.

        Args:
            kubeconfig: path of the file; None means the service account if there is one, else
                `KUBECONFIG` or `~/.kube/config`.
            namespace: namespace of objects whose path names none; None means the context's own.

        Raises:
            ConfigInvalid: the file or the context does not exist.
        """
        settings = client.Configuration()
        try:
            if kubeconfig is None and context is None:
                own = _load_own(settings)
            else:
                own = _load_file(settings, kubeconfig, context)
        except (config.ConfigException, OSError) as error:
            named = kubeconfig or os.environ.get("KUBECONFIG", "")
            wanted = f"a file that says where the cluster is ({error})"
            raise ConfigInvalid("KUBECONFIG", named, wanted) from error
        settings.retries = urllib3.Retry(connect=2, read=0, redirect=0, status=0)
        return cls(client.ApiClient(settings), namespace or own)

    def ready(self) -> bool:
        """Whether the API server reports itself ready."""
        try:
            self._call("GET", "/readyz")
        except PlatformError:
            return False
        return True

    def get(self, path: str, **query: str) -> Object:
        """One object, or a list of them.

        Args:
            path: path that begins with `/api/v1/...` or `/apis/...`.

        Raises:
            NotFound: the object does not exist.
            Refused: this user has no right to read it.
            Unavailable: the API server does not answer.
        """
        answer: Object = json.loads(self._call("GET", path, query=query))
        return answer

    def find(self, path: str) -> Object | None:
        """One object, or None if it does not exist."""
        try:
            return self.get(path)
        except NotFound:
            return None

    def items(self, path: str, **query: str) -> list[Object]:
        """The objects of a list; `labelSelector` and `fieldSelector` narrow it."""
        found: list[Object] = self.get(path, **query)["items"]
        return found

    def metadata(self, path: str) -> Object | None:
        """The metadata of one object, without its content; None if it does not exist.

        The server leaves the rest out, so that a Secret's values are never sent here.
        """
        try:
            return dict(json.loads(self._call("GET", path, accept=METADATA))["metadata"])
        except NotFound:
            return None

    def serves(self, resource: Resource) -> bool:
        """Whether the cluster has this kind of resource, by discovery, which every user may ask."""
        found = self.find(f"/apis/{resource.group_version}")
        kinds = [] if found is None else found["resources"]
        return any(kind["name"] == resource.plural for kind in kinds)

    def create(self, path: str, body: Mapping[str, Any]) -> Object:
        """Create an object below the path of its kind.

        Raises:
            AlreadyThere: an object of that name exists. Of two concurrent calls, the first wins.
            Refused: validation or admission refused it; the error has the server's words.
        """
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        made: Object = json.loads(self._call("POST", path, body, JSON, query))
        return made

    def apply(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        force: bool = False,
        manager: str = FIELD_MANAGER,
    ) -> Object:
        """Set these fields of an object and own them (server-side apply); other fields stay as they
        are.

        Args:
            force: take over fields that another manager owns.

        Raises:
            Conflict: another manager owns a field with another value; the error names the manager
                and the field.
            Refused: validation or admission refused it; the error has the server's words.
        """
        query = {"fieldManager": manager, "fieldValidation": "Strict"}
        if force:
            query["force"] = "true"
        applied: Object = json.loads(self._call("PATCH", path, body, APPLY, query))
        return applied

    def merge(self, path: str, change: Mapping[str, Any]) -> None:
        """Change these fields of an existing object (JSON merge patch).

        Raises:
            NotFound: the object does not exist; unlike `apply`, this call does not create it.
        """
        self._call("PATCH", path, change, MERGE, {"fieldManager": FIELD_MANAGER})

    def delete(self, path: str, *, uid: str | None = None, grace_s: int | None = None) -> None:
        """Delete an object and the objects that it owns. A missing object is no error.

        Args:
            uid: delete the object only if it has this uid; None means any.
            grace_s: seconds that a pod may take to end; None means the pod's own setting.

        Raises:
            Conflict: the object has another uid now.
        """
        options: Object = {"propagationPolicy": "Background"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            self._call("DELETE", path, options, JSON)
        except NotFound:
            return

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content: str | None = None,
        query: Mapping[str, str] | None = None,
        accept: str = "application/json",
    ) -> str:
        headers = {"Accept": accept}
        if content is not None:
            headers["Content-Type"] = content
        # As the library's generated calls do it, but with plain dicts instead of models.
        request = self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=None if body is None else dict(body),
            auth_settings=["BearerToken"],
        )
        try:
            response = self._client.call_api(*request, _request_timeout=TIMEOUT_S)
            data: bytes = response.read()
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"the Kubernetes API did not answer: {error}") from error
        except client.ApiException as error:
            raise Unavailable(f"the Kubernetes API did not answer: {error.reason}") from error
        text = data.decode("utf-8", "replace")
        if response.status >= 300:
            raise _problem(response.status, text, f"{method} {path}")
        return text


JSON: Final = "application/json"
MERGE: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of namespaced object, with its API path."""

    group_version: str
    plural: str

    def path(self, namespace: str, name: str = "") -> str:
        """The path of the objects in a namespace, or of one of them."""
        root = "/apis" if "/" in self.group_version else "/api"
        kind = f"{root}/{self.group_version}/namespaces/{namespace}/{self.plural}"
        return f"{kind}/{name}" if name else kind


DEPLOYMENTS: Final = Resource("apps/v1", "deployments")
PODS: Final = Resource("v1", "pods")
SERVICES: Final = Resource("v1", "services")
CLAIMS: Final = Resource("v1", "persistentvolumeclaims")
SECRETS: Final = Resource("v1", "secrets")
STATEFUL_SETS: Final = Resource("apps/v1", "statefulsets")
DISRUPTION_BUDGETS: Final = Resource("policy/v1", "poddisruptionbudgets")
INFERENCE_SERVICES: Final = Resource("serving.kserve.io/v1beta1", "inferenceservices")
SCALED_OBJECTS: Final = Resource("keda.sh/v1alpha1", "scaledobjects")
HTTP_ROUTES: Final = Resource("gateway.networking.k8s.io/v1", "httproutes")


def _load_own(settings: Any) -> str:
    try:
        config.load_incluster_config(settings)
    except config.ConfigException:
        return _load_file(settings, None, None)
    with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace") as file:
        return file.read().strip()


def _load_file(settings: Any, kubeconfig: str | None, context: str | None) -> str:
    config.load_kube_config(kubeconfig, context, settings, persist_config=False)
    _, active = config.list_kube_config_contexts(kubeconfig)
    if context is not None:
        contexts, _ = config.list_kube_config_contexts(kubeconfig)
        [active] = [c for c in contexts if c["name"] == context]
    return str(active["context"].get("namespace", "default"))


def _problem(status: int, text: str, what: str) -> PlatformError:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    message, reason = answer.get("message") or text.strip() or str(status), answer.get("reason")
    problem = f"{what}: {message}"
    match status:
        case 404:
            return NotFound(problem)
        case 409 if reason == "AlreadyExists":
            return AlreadyThere(problem)
        case 409:
            return Conflict(problem)
        case 429:
            return Unavailable(problem)
        case _ if status >= 500:
            return Unavailable(problem)
        case _:
            return Refused(problem)
