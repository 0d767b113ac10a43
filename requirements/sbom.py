"""Say what a role's images hold, in CycloneDX 1.6, from its lock: build/sbom/<role>.cdx.json.

Every package comes with the hashes that its installation is checked against, and with the licence
that the installed package states. The same lock makes the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

FOLDER = Path(__file__).parent
OUT = FOLDER.parent / "build/sbom"
ROLES = ("serve", "flows")
STATES_NO_LICENCE = {"huey": "MIT", "skops": "MIT"}
"""Read from their files LICENSE, as docs/decisions/0012 says."""
CLASSIFIER = "License :: OSI Approved :: "


def locked(text: str) -> Iterator[tuple[Requirement, list[str]]]:
    """Each requirement of a lock with its SHA-256 digests."""
    for entry in re.split(r"\n(?=[a-z0-9])", text.replace("\\\n", " ")):
        if re.match(r"[a-z0-9]", entry):
            requirement, *hashes = entry.split("--hash=sha256:")
            yield Requirement(requirement.strip()), [h.strip() for h in hashes]


def licence(name: str) -> str | None:
    """What the installed package states; None where it is not installed here, for its marker."""
    try:
        stated = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    classifiers = [
        text.removeprefix(CLASSIFIER)
        for text in stated.get_all("Classifier", [])
        if text.startswith(CLASSIFIER)
    ]
    written = (stated.get("License-Expression") or "").strip()
    # Some put the whole text there; its first line is the licence's name.
    free = (stated.get("License") or "").strip().partition("\n")[0]
    return written or "; ".join(classifiers) or free or STATES_NO_LICENCE.get(name)


def bom(role: str, version: str) -> Bom:
    """The bill of materials of a role."""
    text = (FOLDER / f"{role}.txt").read_text()
    made = Bom(serial_number=uuid5(NAMESPACE_URL, f"{role} {version} {text}"))
    made.metadata.component = Component(
        name=f"mlplatform-{role}",
        version=version,
        type=ComponentType.CONTAINER,
        bom_ref=f"mlplatform-{role}",
    )
    for requirement, digests in locked(text):
        made.components.add(_component(requirement, digests))
    made.register_dependency(made.metadata.component, made.components)
    return made


def _component(requirement: Requirement, digests: list[str]) -> Component:
    [pin] = requirement.specifier
    stated = licence(requirement.name)
    purl = PackageURL("pypi", name=requirement.name, version=pin.version)
    return Component(
        name=requirement.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        bom_ref=purl.to_string(),
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in digests],
        licenses=[LicenseFactory().make_from_string(stated)] if stated else [],
    )


def render(role: str, version: str) -> str:
    """The document; ends with a line feed."""
    document = json.loads(JsonV1Dot6(bom(role, version)).output_as_string())
    document.get("metadata", {}).pop("timestamp", None)
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    version = metadata.version("mlplatform")
    for role in ROLES:
        path = OUT / f"{role}.cdx.json"
        path.write_text(render(role, version))
        print(f"{path.relative_to(FOLDER.parent)}: {path.read_text().count('pkg:pypi')} references")


if __name__ == "__main__":
    main()
