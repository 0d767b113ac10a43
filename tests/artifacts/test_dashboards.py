"""Dashboards are such as Grafana reads, can be read by people, and lead where they say."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from tests.observability import lezer, queries

from mlplatform.observing.dashboards import render_files
from mlplatform.observing.dashboards.panels import WIDTH, GridPosition, Panel, Row, places
from mlplatform.observing.page.app import application
from mlplatform.observing.slo.objectives import FILE, load
from mlplatform.runtime.telemetry import signals

ROOT: Final = Path(__file__).parents[2]
GRAFANA: Final = ROOT / "observability" / "grafana"
DASHBOARDS: Final = queries.dashboards()
OBJECTIVES: Final = load(ROOT / FILE)
OF_GRAFANA: Final = re.compile(r"__field\.labels\.\w+|__url_time_range|__value\.raw")

each = pytest.mark.parametrize("name", sorted(DASHBOARDS))


def panels(name: str) -> list[dict[str, Any]]:
    """Of a dashboard, without the titles of its rows."""
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


def sources() -> dict[str, dict[str, Any]]:
    """uid → a provisioned data source."""
    content = yaml.safe_load((GRAFANA / "datasources.yaml").read_text())
    return {source["uid"]: source for source in content["datasources"]}


@each
def test_a_dashboard_fits_the_models_of_grafana(name: str) -> None:
    """Read by the SDK's models and written again it is the same: there is no key unknown to them.

    Of marks the models lack what tells Grafana the label and the time.
    """
    content = {**DASHBOARDS[name]}
    content["annotations"] = {"list": [
        {k: v for k, v in mark.items() if k not in ("titleFormat", "useValueForTime", "step")}
        for mark in content["annotations"]["list"]
    ]}  # fmt: skip
    read = Dashboard.from_json(json.loads(json.dumps(content)))
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == content


@each
def test_panels_have_ids_of_their_own_and_do_not_lie_on_each_other(name: str) -> None:
    all_panels = DASHBOARDS[name]["panels"]
    ids = [panel["id"] for panel in all_panels]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in all_panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDTH
        cells = set(itertools.product(
            range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        ))  # fmt: skip
        assert not cells & taken, panel["title"]
        taken |= cells


@each
def test_a_panel_says_what_it_shows(name: str) -> None:
    for panel in panels(name):
        assert panel["title"]
        assert panel["description"].endswith((".", "?")), panel["title"]
        assert panel["targets"], panel["title"]
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names)
        for target in panel["targets"]:
            if target["datasource"]["type"] == "prometheus":
                assert target["legendFormat"] not in ("", "__auto"), panel["title"]
                assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@each
def test_a_panel_asks_a_data_source_that_is_provisioned(name: str) -> None:
    variables = {v["name"]: v for v in DASHBOARDS[name]["templating"]["list"]}
    asked = [target["datasource"] for panel in panels(name) for target in panel["targets"]]
    asked += [mark["datasource"] for mark in DASHBOARDS[name]["annotations"]["list"]]
    for source in asked:
        variable = variables[source["uid"].removeprefix("${").removesuffix("}")]
        assert (variable["type"], variable["query"]) == ("datasource", source["type"])
        chosen = variable["current"]
        assert sources()[chosen["value"]]["type"] == source["type"]
        assert sources()[chosen["value"]]["name"] == chosen["text"]


@each
def test_every_variable_in_use_is_there(name: str) -> None:
    text = json.dumps(DASHBOARDS[name])
    known = {variable["name"] for variable in DASHBOARDS[name]["templating"]["list"]}
    used = set(re.findall(r"\$\{([\w.]+)\}", text)) | set(re.findall(r"\$(\w+)", text))
    unknown = {u for u in used - known if not OF_GRAFANA.fullmatch(u)}
    assert unknown <= {"__rate_interval", "__range"}


def test_models_to_choose_from_are_a_label_of_a_metric() -> None:
    found = [
        re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
        for dashboard in DASHBOARDS.values()
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    ]
    assert found
    for match in found:
        assert match is not None
        assert match[2] in queries.emitted()[match[1]].label_names


def urls(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["url"]] if isinstance(node.get("url"), str) else []
        return own + [url for value in node.values() for url in urls(value)]
    return [url for value in node for url in urls(value)] if isinstance(node, list) else []


def test_links_lead_to_what_is_there() -> None:
    """To another dashboard, to a path that the platform's page answers, to MLflow or Prefect."""
    nothing: Any = SimpleNamespace(platform=None, secure=False, without_restriction=lambda: None)
    app: Any = application(nothing, token="t", hosts=["page"], links={}, access=nothing)
    while not hasattr(app, "routes"):
        app = next(v for k, v in vars(app).items() if callable(v) and not isinstance(v, type))
    answered = [route.path_regex for route in app.routes]
    known = {dashboard["uid"] for dashboard in DASHBOARDS.values()}
    found = {url for dashboard in DASHBOARDS.values() for url in urls(dashboard)}
    for url in found:
        if url.startswith("/d/"):
            assert url.removeprefix("/d/").split("?")[0] in known
        elif url.startswith("${page}"):
            path = re.sub(r"\$\{.+?\}", "x", url.removeprefix("${page}"))
            assert any(regex.match(path) for regex in answered), url
        else:
            assert url.startswith(("${mlflow}/", "${prefect}/")), url
    for name in ("page", "mlflow", "prefect"):
        assert any(url.startswith(f"${{{name}}}") for url in found)


@pytest.mark.parametrize(
    ("limit", "value", "shown", "expected"),
    [
        ("clock_offset_ms", 7.0, "overview", 0.007),
        ("worker_lag", 1234, "pipelines", 1234.0),
        ("stream_behind", "83s", "pipelines", 83.0),
        ("late_label_share", 0.0625, "labels", 0.0625),
        ("drift_check_late", "27h", "drift", 97_200.0),
        ("rollout_pass_late", "9m", "rollout", 540.0),
        ("shadow_dropped_share", 0.0375, "rollout", 0.0375),
        ("labels_missing", "51h", "labels", 183_600.0),
        ("watermark_behind", "77s", "pipelines", 77.0),
    ],
)
def test_a_threshold_is_the_number_of_slo_yaml(
    limit: str, value: Any, shown: str, expected: float
) -> None:
    changed = _with(OBJECTIVES, limits=_with(OBJECTIVES.limits, **{limit: value}))
    before, after = ({d.name: d for d in render_files.dashboards(o)} for o in (OBJECTIVES, changed))
    assert expected not in thresholds(before[shown].rows)
    assert expected in thresholds(after[shown].rows)


def test_burn_rates_are_those_of_the_alerts() -> None:
    rates = {burn.factor for burn in (*OBJECTIVES.burns.page, *OBJECTIVES.burns.ticket)}
    drawn = next(p for p in panels("overview") if p["title"] == "How fast budgets burn")
    steps = drawn["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert {step["value"] for step in steps if step["value"] is not None} <= rates


def _with(struct: Any, **changes: Any) -> Any:
    return type(struct)(**({f: getattr(struct, f) for f in struct.__struct_fields__} | changes))


def thresholds(rows: tuple[Row, ...]) -> set[float]:
    return {value for row in rows for panel in row.panels for value, _ in panel.limits.then}


def test_panels_stand_from_left_to_right_and_then_below() -> None:
    panel = Panel("lines", "title", "What.", (), width=12)
    stat = dataclasses.replace(panel, kind="stat")
    assert places(Row("row", (panel, stat, panel)), 1) == [
        GridPosition(0, 1, 12, 8), GridPosition(12, 1, 12, 4), GridPosition(0, 9, 12, 8),
    ]  # fmt: skip


def test_lines_are_chosen_by_labels_that_loki_has() -> None:
    """What is no label is read from the lines, all of them."""
    loki = yaml.safe_load((ROOT / "observability" / "loki" / "loki.yaml").read_text())
    of = loki["limits_config"]["otlp_config"]["resource_attributes"]["attributes_config"]
    labels = {name.replace(".", "_") for one in of for name in one["attributes"]}
    assert queries.panels("loki")
    for place, query in queries.panels("loki").items():
        stream, _, rest = query.partition("}")
        assert set(re.findall(r"(\w+) ?=", stream)) <= labels, place
        assert set(re.findall(r"\| (\w+) =", rest)) <= signals.LOG_FIELDS.keys(), place


def test_spans_are_chosen_by_attributes_that_they_have() -> None:
    known = {attribute.name for attribute in signals.ATTRIBUTES}
    assert queries.panels("tempo")
    for place, query in queries.panels("tempo").items():
        assert set(re.findall(r"span\.([\w.]+)", query)) <= known, place


def test_data_sources_lead_to_each_other() -> None:
    """A point to its trace, a span to its lines and figures, a line to its trace."""
    found = sources()
    assert {source["type"] for source in found.values()} == {"prometheus", "loki", "tempo"}
    leads = [
        (kind, other)
        for kind, source in found.items()
        for other in re.findall(r"'datasourceUid': '(\w+)'", repr(source["jsonData"]))
    ]
    assert sorted(leads) == [
        ("loki", "tempo"), ("prometheus", "tempo"), ("tempo", "loki"), ("tempo", "prometheus"),
    ]  # fmt: skip
    assert "trace_id" in signals.LOG_FIELDS
    for one in found["tempo"]["jsonData"]["tracesToMetrics"]["queries"]:
        query = one["query"].replace("$$__tags", 'service_name="x"')
        assert queries.series(query) <= queries.emitted().keys()


@pytest.mark.parametrize("store", ["loki", "tempo"])
def test_queries_of_lines_and_traces_are_what_their_stores_read(store: str) -> None:
    asked = {place: queries.plain(query) for place, query in queries.panels(store).items()}
    assert asked
    assert not lezer.errors(store, asked)
    assert "broken" in lezer.errors(store, {"broken": "{ a = && }"})
