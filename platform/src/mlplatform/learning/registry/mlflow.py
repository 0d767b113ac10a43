"""The registry in an MLflow tracking server, by its REST API: importing MLflow's client costs 3 s.

Source: MLflow REST API 2.0, and the artifacts of a server that serves them (mlflow-artifacts).
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from mlplatform.learning.registry.mlflow_errors import database_away
from mlplatform.learning.registry.mlflow_runs import (
    VersionLinks,
    batches,
    dataset_inputs,
    description,
    observed,
    purpose,
    run_tags,
)
from mlplatform.learning.registry.mlmodel import FILES as MLMODEL_FILES
from mlplatform.learning.registry.mlmodel import model_description, model_files
from mlplatform.learning.registry.run_record import RunRecord
from mlplatform.learning.registry.versions import (
    FACTS_TAG,
    STATUS_TAG,
    VALIDATED,
    Rejection,
    Version,
    VersionFacts,
    read_version,
)
from mlplatform.model.bundle import BUNDLE_FILE, Bundle, appear, load_bundle
from mlplatform.model.weights.data_files import data_names, file_digests, link_file
from mlplatform.runtime.canonical import canonical_json
from mlplatform.runtime.errors import Corrupt, NotFound, PlatformError, Refused, Unavailable
from mlplatform.runtime.storage.large_files import PIECE_BYTES
from mlplatform.runtime.times import day_text

ARTIFACT: Final = "bundle"
BUNDLE_TAG: Final = "bundle"
REJECTED: Final = "rejected"
MAXIMUM_VERSIONS: Final = 1000
NAMED_VERSIONS: Final = 5
"""Most versions that an error names, the newest first."""
API: Final = "/api/2.0/mlflow"
ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"
TIMEOUT_S: Final = 20.0
READ_TIMEOUT_S: Final = 5.0
"""Seconds to wait for versions and aliases, which passes read too."""
LEAST_BYTES_PER_S: Final = 20_000_000
"""Least bytes a second at which a file is sent and stored."""
TRIES: Final = 3
MOST_CHARACTERS: Final = 300
"""Most characters of MLflow's reason that an error repeats."""
PAUSE_S: Final = 0.2  # MLflow's database is sometimes locked for a moment


class AlreadyThere(Refused):
    """The object exists already; somebody else may just have created it."""


class MlflowRegistry:
    """Bundles as artifacts of runs, versions as model versions whose tags hold the facts.

    Args:
        token: bearer token to send; None if the server wants none.
        page_url: address of the platform's page, to which descriptions link; empty: none.
    """

    def __init__(self, uri: str, token: str | None = None, page_url: str = "") -> None:
        self._uri, self._page_url = uri, page_url
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=uri, timeout=TIMEOUT_S, headers=headers)

    def register(
        self, folder: Path, facts: VersionFacts, record: RunRecord | None = None
    ) -> Version | Rejection:
        bundle = load_bundle(folder, facts.bundle)
        shown = record or RunRecord()
        validated = facts.validated and facts.report.get("passed") is True
        if not validated:
            run = self._run(bundle, folder, facts, REJECTED, shown)
            return Rejection(bundle.model, facts.bundle, run["run_id"], _reasons(facts))
        if known := self._same(bundle.model, facts.bundle):
            return known[0]
        with suppress(AlreadyThere):
            about = purpose(shown)
            self._post("registered-models/create", name=bundle.model, description=about)
        run = self._run(bundle, folder, facts, VALIDATED, shown)
        made = self._post(
            "model-versions/create",
            name=bundle.model,
            source=f"{run['artifact_uri']}/{ARTIFACT}",
            run_id=run["run_id"],
            tags=_tags(facts, VALIDATED),
            description=description(shown),
        )
        first = self._first(bundle.model, facts.bundle, int(made["model_version"]["version"]))
        self._name(first, shown)
        return first

    def get(self, model: str, version: int) -> Version:
        asked = {"name": model, "version": str(version)}
        try:
            found = _version(self._get("model-versions/get", **asked)["model_version"])
        except NotFound as error:
            missing = f"{model} has no version {version}"
            raise NotFound(f"{missing}; {self._those_registered(model)}") from error
        if found is None:
            problem = f"version {version} of {model} was not registered by this platform"
            raise NotFound(f"{problem}; {self._those_registered(model)}")
        return found

    def versions(self, model: str) -> list[Version]:
        return self._search(f"name = '{_quotable(model)}'")

    def fetch(self, model: str, version: int, into: Path) -> Path:
        wanted = self.get(model, version)
        folder = into / wanted.digest
        if folder.is_dir():
            load_bundle(folder, wanted.digest)
            return folder
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{wanted.digest[:8]}.", dir=into))
        try:
            self._download(wanted.run_id, draft)
            load_bundle(draft, wanted.digest)
            appear(draft, folder, wanted.digest)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return folder

    def show(self, model: str, alias: str, version: int) -> None:
        """Point an alias at a version; repeating it changes nothing. Nothing is decided from an
        alias.

        Raises:
            Unavailable: MLflow does not answer, or its answer is not as expected.
        """
        asked = {"name": model, "alias": alias}
        with suppress(NotFound, Refused):  # a missing alias gives either error
            present = self._get("registered-models/alias", **asked)["model_version"]
            if present.get("version") == str(version):
                return
        try:
            self._post("registered-models/alias", **asked, version=str(version))
        except (NotFound, Refused) as error:
            raise Unavailable(f"MLflow at {self._uri} refused the alias {alias}") from error

    def _run(
        self, bundle: Bundle, folder: Path, facts: VersionFacts, status: str, shown: RunRecord
    ) -> dict[str, Any]:
        """A finished run that holds the bundle and its report; a run that a killed call left is
        used."""
        experiment = self._experiment(bundle.model)
        done = self._post(
            "runs/search",
            experiment_ids=[experiment],
            filter=f"tags.{BUNDLE_TAG} = '{facts.bundle}' AND tags.{STATUS_TAG} = '{status}'"
            " AND attributes.status = 'FINISHED'",
            max_results=1,
        )
        if runs := done.get("runs"):
            return dict(runs[0]["info"])
        run: dict[str, Any] = self._post(
            "runs/create",
            experiment_id=experiment,
            run_name=f"{bundle.model}-{facts.bundle[:8]}",
            start_time=_now_ms(),
            tags=[*_short_tags(facts, status), *run_tags(shown, facts.author)],
        )["run"]["info"]
        run_id, artifacts = run["run_id"], self._artifacts(run)
        gates = [gate["name"] for gate in facts.report.get("gates", [])]
        for batch in batches(observed(facts.metrics, gates), shown, now_ms=_now_ms()):
            self._post("runs/log-batch", run_id=run_id, **batch)
        if shown.datasets:
            self._post("runs/log-inputs", run_id=run_id, datasets=dataset_inputs(shown.datasets))
        described = model_description(
            bundle, run_id=run_id, artifact=ARTIFACT, made_ms=run["start_time"]
        )
        self._post("runs/log-model", run_id=run_id, model_json=json.dumps(described))
        for file in sorted(folder.iterdir()):
            self._put_file(f"{artifacts}/{ARTIFACT}/{file.name}", file)
        files = {f"{ARTIFACT}/{n}": c for n, c in model_files(bundle, described).items()}
        files["gates.json"] = json.dumps(facts.report, indent=2).encode()
        for name, content in {**files, **shown.artifacts}.items():
            self._put(f"{artifacts}/{name}", content)
        self._post("runs/update", run_id=run_id, status="FINISHED", end_time=_now_ms())
        return run

    def _name(self, version: Version, shown: RunRecord) -> None:
        """Put the version's number into its run and its description, which are made before it."""
        model, number, run_id = version.model, version.version, version.run_id
        text = description(shown, VersionLinks(model, number, self._page_url))
        name = f"{model}-v{number}-{version.digest[:8]}"
        self._post("runs/update", run_id=run_id, run_name=name)
        for key, value in (("version", str(number)), ("mlflow.note.content", text)):
            self._tag(run_id, key, value)
        asked = {"name": model, "version": str(number), "description": text}
        self._call("PATCH", f"{API}/model-versions/update", json=asked)

    def _tag(self, run_id: str, key: str, value: str) -> None:
        """Set a run's tag. MLflow refuses one of two that write a new tag at once; another try then
        finds the tag there."""
        for left in reversed(range(TRIES)):
            try:
                self._post("runs/set-tag", run_id=run_id, key=key, value=value)
                return
            except Refused:
                if not left:
                    raise
                time.sleep(PAUSE_S)

    def _experiment(self, model: str) -> str:
        try:
            found = self._get("experiments/get-by-name", experiment_name=model)
        except NotFound:
            with suppress(AlreadyThere):
                self._post("experiments/create", name=model)
            found = self._get("experiments/get-by-name", experiment_name=model)
        return str(found["experiment"]["experiment_id"])

    def _same(self, model: str, digest: str) -> list[Version]:
        """Versions with this bundle, lowest number first."""
        found = self._search(f"name = '{_quotable(model)}' AND tags.{BUNDLE_TAG} = '{digest}'")
        return sorted(found, key=lambda v: v.version)

    def _first(self, model: str, digest: str, mine: int) -> Version:
        """The only version of this bundle. Of two that were registered at once, the later one is
        removed."""
        first = self._same(model, digest)[0]
        if first.version != mine:
            path = f"{API}/model-versions/delete"
            self._call("DELETE", path, json={"name": model, "version": str(mine)})
        return first

    def _those_registered(self, model: str) -> str:
        """The versions that this platform registered, and the command that lists them."""
        if not (numbers := [str(found.version) for found in self.versions(model)]):
            return f"no version is registered yet: `mlplatform retrain {model}` makes one"
        more = ", …" if len(numbers) > NAMED_VERSIONS else ""
        newest = f"{', '.join(numbers[:NAMED_VERSIONS])}{more}"
        return f"those registered: {newest} (`mlplatform models show {model}`)"

    def _search(self, query: str) -> list[Version]:
        found = self._get("model-versions/search", filter=query, max_results=MAXIMUM_VERSIONS)
        versions = [v for v in map(_version, found.get("model_versions", [])) if v is not None]
        return sorted(versions, key=lambda v: v.version, reverse=True)

    def _download(self, run_id: str, into: Path) -> None:
        try:
            run = self._get("runs/get", run_id=run_id)["run"]["info"]
            folder = f"{self._artifacts(run)}/{ARTIFACT}"
            listed = self._call("GET", ARTIFACTS, params={"path": folder}).json().get("files", [])
            names = {file["path"] for file in listed} - MLMODEL_FILES
            for name in sorted(names, key=lambda name: (name != BUNDLE_FILE, name)):
                if Path(name).name != name:
                    raise Corrupt(f"version's artifact {name!r} is not a file of a bundle")
                sha256 = file_digests(into).get(name, "")
                if name not in data_names([name]) or not link_file(name, sha256, into, into.parent):
                    self._save(f"{ARTIFACTS}/{quote(f'{folder}/{name}')}", into / name)
        except (NotFound, Refused) as error:
            # The version exists. MLflow reports a wrong path whatever kept it from reading the
            # files.
            raise Unavailable(f"MLflow at {self._uri} can't read the version's files") from error

    def _artifacts(self, run: dict[str, Any]) -> str:
        """The URL of a run's artifacts at the server.

        Raises:
            Refused: the server does not serve artifacts itself.
        """
        found = urlsplit(run["artifact_uri"])
        if found.scheme != "mlflow-artifacts":
            wanted = "wanted: an MLflow that serves artifacts itself (mlflow-artifacts:/)"
            where = f"MLflow at {self._uri} keeps artifacts at {run['artifact_uri']}"
            raise Refused(f"{where}; {wanted}")
        return str(found.path.lstrip("/"))

    def _get(self, path: str, **query: Any) -> dict[str, Any]:
        return dict(self._call("GET", f"{API}/{path}", params=query, timeout=READ_TIMEOUT_S).json())

    def _post(self, path: str, **content: Any) -> dict[str, Any]:
        return dict(self._call("POST", f"{API}/{path}", json=content).json())

    def _put(self, path: str, content: bytes) -> None:
        self._call("PUT", f"{ARTIFACTS}/{quote(path)}", content=content)

    def _put_file(self, path: str, file: Path) -> None:
        """Send a file in pieces; the server stores it before it answers."""
        timeout_s = TIMEOUT_S + file.stat().st_size / LEAST_BYTES_PER_S
        with file.open("rb") as content:
            url = f"{ARTIFACTS}/{quote(path)}"
            self._call("PUT", url, content=content, timeout=timeout_s)

    def _save(self, path: str, target: Path) -> None:
        """Write the content of a path at the server to a file, in pieces."""
        for left in reversed(range(TRIES)):
            try:
                with self._client.stream("GET", path) as response, target.open("wb") as file:
                    if response.is_success:
                        for piece in response.iter_bytes(PIECE_BYTES):
                            file.write(piece)
                        return
                    response.read()
                    if not (left and response.is_server_error):
                        raise self._problem(response)
            except httpx.HTTPError as error:
                if not left or isinstance(error, httpx.TimeoutException):
                    raise Unavailable(f"MLflow at {self._uri} did not answer") from error
            time.sleep(PAUSE_S)

    def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        sent = arguments.get("content")
        for left in reversed(range(TRIES)):
            if isinstance(sent, io.IOBase):
                sent.seek(0)
            try:
                response = self._client.request(method, path, **arguments)
            except httpx.HTTPError as error:
                if not left or isinstance(error, httpx.TimeoutException):
                    raise Unavailable(f"MLflow at {self._uri} did not answer") from error
            else:
                if not (left and response.is_server_error):
                    break
            time.sleep(PAUSE_S)
        if not response.is_success:
            raise self._problem(response)
        return response

    def _problem(self, response: httpx.Response) -> PlatformError:
        code, message = _error_of(response)
        if response.is_server_error or response.status_code == httpx.codes.UNAUTHORIZED:
            return Unavailable(f"MLflow at {self._uri} answered {response.status_code}")
        if database_away(code, message):
            return Unavailable(f"MLflow at {self._uri} can't reach its database")
        match code:
            case "RESOURCE_DOES_NOT_EXIST":
                return NotFound(f"MLflow at {self._uri} has no such model, version or run")
            case "RESOURCE_ALREADY_EXISTS":
                return AlreadyThere(f"MLflow at {self._uri} has it already")
            case _:
                reason = message[:MOST_CHARACTERS] or str(response.status_code)
                return Refused(f"MLflow at {self._uri} refused the request: {reason}")


def _error_of(response: httpx.Response) -> tuple[str, str]:
    """Code and message of an error; empty if the response is not MLflow's."""
    try:
        body = response.json()
    except ValueError:
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    return str(body.get("error_code")), str(body.get("message"))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _tags(facts: VersionFacts, status: str) -> list[dict[str, str]]:
    """The facts in one tag, and tags that a person looks for in MLflow's pages."""
    tags = {
        BUNDLE_TAG: facts.bundle,
        STATUS_TAG: status,
        FACTS_TAG: canonical_json(msgspec.to_builtins(facts)).decode(),
        "author": facts.author,
        "reason": facts.reason,
        "code_version": facts.code_version,
        "folder_digest": facts.folder,
        "data_digest": facts.data_digest,
        "data_window": f"{day_text(facts.data_from_ms)} to {day_text(facts.data_to_ms)}",
        "data_window_ms": f"{facts.data_from_ms} to {facts.data_to_ms}",
        "alert_band": f"{facts.alert_low:.5f} to {facts.alert_high:.5f}",
        "seed": str(facts.seed),
    }
    return [{"key": key, "value": value} for key, value in tags.items() if value]


def _short_tags(facts: VersionFacts, status: str) -> list[dict[str, str]]:
    """The tags of a run, for which PostgreSQL has room of 8,000 characters: its version has the
    facts, and its artifact `gates.json` the report."""
    return [tag for tag in _tags(facts, status) if tag["key"] != FACTS_TAG]


def _version(found: dict[str, Any]) -> Version | None:
    return read_version(
        found["name"],
        int(found["version"]),
        {tag["key"]: tag["value"] for tag in found.get("tags", [])},
        run_id=found.get("run_id", ""),
        created_at_ms=int(found["creation_timestamp"]),
    )


def _reasons(facts: VersionFacts) -> tuple[str, ...]:
    gates = facts.report.get("gates", [])
    return tuple(f"{g['name']}: {g['reason']}" for g in gates if g["verdict"] != "passed")


def _quotable(model: str) -> str:
    if "'" in model:
        raise NotFound(f"no model {model!r}")
    return model
