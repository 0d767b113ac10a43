"""The bills of materials say what the locks say, and name no licence that 0012 excludes."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "requirements"
EXCLUDED = re.compile(r"AGPL|Affero|GPL|General Public|BUSL|Business Source|SSPL|Elastic", re.I)
CHOSEN = {"text-unidecode": "Artistic"}
"""Under several licences at the user's choice, of which this one is taken."""


def _sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", FOLDER / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SBOM = _sbom()


def components(role: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(SBOM.render(role, "1.2.3"))["components"]
    return found


def stated(component: dict[str, Any]) -> str:
    entries = component.get("licenses", [])
    return "; ".join(
        e.get("expression") or e["license"].get("id") or e["license"]["name"] for e in entries
    )


@pytest.mark.parametrize("role", SBOM.ROLES)
def test_every_locked_package_is_there_with_its_hashes(role: str) -> None:
    lock = (FOLDER / f"{role}.txt").read_text()
    # A package is there twice where another version is locked for another Python.
    pins = re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==(\S+)", lock, re.MULTILINE)

    found = components(role)

    assert sorted((c["name"], c["version"]) for c in found) == sorted(pins)
    assert all(c["purl"] == f"pkg:pypi/{c['name']}@{c['version']}" for c in found)
    hashes = [h["content"] for c in found for h in c["hashes"]]
    assert sorted(hashes) == sorted(set(re.findall(r"sha256:([0-9a-f]{64})", lock)))


@pytest.mark.parametrize("role", SBOM.ROLES)
def test_no_package_has_a_licence_that_is_not_allowed(role: str) -> None:
    refused = {
        component["name"]: licence
        for component in components(role)
        if EXCLUDED.search(licence := stated(component))
        and CHOSEN.get(component["name"], "?") not in licence
    }

    assert refused == {}


@pytest.mark.parametrize("role", SBOM.ROLES)
def test_a_package_without_a_licence_is_one_that_is_not_installed_here(role: str) -> None:
    unstated = [c["name"] for c in components(role) if not stated(c)]

    assert [name for name in unstated if importlib.util.find_spec(name.replace("-", "_"))] == []


def test_the_same_lock_makes_the_same_bytes() -> None:
    assert SBOM.render("serve", "1.2.3") == SBOM.render("serve", "1.2.3")
    assert SBOM.render("serve", "1.2.3") != SBOM.render("serve", "1.2.4")


def test_a_licence_that_is_not_allowed_would_be_found() -> None:
    assert EXCLUDED.search("GNU Affero General Public License v3")
    assert EXCLUDED.search("BUSL-1.1")
    assert not EXCLUDED.search("Apache-2.0 OR BSD-3-Clause")
