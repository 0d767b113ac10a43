"""What a person may ask of Prefect: lists, and nothing beside them."""

from __future__ import annotations

import pytest

from mlplatform.operations.prefect_server.prefect_access import access, only_reads, subject

ID = "6d1f0c1e-2f5a-4a6e-9d7c-0e6b8b1c2d3e"


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/", "read"),
        ("GET", "/runs/flow-run/1", "read"),
        ("HEAD", "/assets/index.js", "read"),
        ("GET", "/ui-settings", "read"),
        ("GET", "/api/health", "read"),
        ("GET", f"/api/flow_runs/{ID}", "read"),
        ("GET", f"/api/flow_runs/{ID}/input/evidence-a-1-schema", "read"),
        ("GET", f"/api/flow_runs/{ID}/input/evidence-a-1-description", "read"),
        ("POST", "/api/flow_runs/filter", "read"),
        ("POST", "/api/flow_runs/filter/", "read"),
        ("POST", "/api/ui/schemas/validate", "check"),
        ("WEBSOCKET", "/api/events/out", "read"),
        ("POST", f"/api/deployments/{ID}/create_flow_run", "start"),
        ("POST", f"/api/flow_runs/{ID}/resume", "answer"),
        ("POST", f"/api/flow_runs/{ID}/set_state", "cancel"),
    ],
)
def test_what_people_may(method: str, path: str, wanted: str) -> None:
    assert access(method, path) == wanted


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", f"/api/deployments/{ID}"),
        ("DELETE", f"/api/deployments/{ID}"),
        ("POST", "/api/deployments/"),
        ("POST", f"/api/deployments/{ID}/create_flow_run/bulk"),
        ("POST", f"/api/deployments/{ID}/schedules"),
        ("POST", f"/api/deployments/{ID}/pause_deployment"),
        ("POST", "/api/flow_runs/"),
        ("PATCH", f"/api/flow_runs/{ID}"),
        ("DELETE", f"/api/flow_runs/{ID}"),
        ("POST", "/api/flow_runs/bulk_set_state"),
        ("POST", f"/api/flow_runs/{ID}/input"),
        ("DELETE", f"/api/flow_runs/{ID}/input/a"),
        ("GET", f"/api/flow_runs/{ID}/input/evidence-a-1-response"),
        ("POST", f"/api/flow_runs/{ID}/input/filter"),
        ("POST", "/api/artifacts/"),
        ("PATCH", f"/api/artifacts/{ID}"),
        ("POST", "/api/automations/"),
        ("PUT", f"/api/automations/{ID}"),
        ("GET", f"/api/block_documents/{ID}"),
        ("POST", "/api/block_documents/filter"),
        ("POST", "/api/block_documents/"),
        ("GET", "/api/variables/name/a"),
        ("POST", "/api/variables/"),
        ("POST", "/api/work_pools/"),
        ("PATCH", "/api/work_pools/kubernetes"),
        ("POST", "/api/work_pools/kubernetes/get_scheduled_flow_runs"),
        ("POST", "/api/events"),
        ("POST", "/api/logs/"),
        ("PATCH", "/api/admin/settings"),
        ("PUT", "/api/admin/storage"),
        ("POST", "/api/task_runs/"),
        ("WEBSOCKET", "/api/events/in"),
        ("WEBSOCKET", "/api/work_pools/kubernetes/workers/connect"),
        ("POST", "/"),
        ("OPTIONS", "/api/health"),
        ("TRACE", "/"),
        ("GET", "/api"),
        ("GET", "//api/admin/settings"),
        ("GET", "/api//admin/settings"),
        ("GET", "/api/../api/admin/settings"),
        ("GET", "/./api/admin/settings"),
        ("GET", "/api/flow_runs/..\n/x"),
        ("POST", f"/api/flow_runs/filter/../{ID}/set_state"),
        ("GET", "/API/admin/settings/\x00"),
        ("GET", ""),
    ],
)
def test_what_nobody_may(method: str, path: str) -> None:
    assert access(method, path) == "forbidden"


def test_what_a_request_is_about() -> None:
    assert subject(f"/api/deployments/{ID}/create_flow_run") == ID
    assert subject(f"/api/flow_runs/{ID}/set_state") == ID
    assert subject("/api/flow_runs/filter") == ""


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/api/variables/name/a", True),
        ("POST", "/api/block_documents/filter", True),
        ("WEBSOCKET", "/api/events/out", True),
        ("WEBSOCKET", "/api/events/in", False),
        ("POST", "/api/events", False),
        ("PATCH", "/api/deployments/filter", False),
    ],
)
def test_what_changes_nothing_is_no_event(method: str, path: str, wanted: bool) -> None:
    assert only_reads(method, path) is wanted
