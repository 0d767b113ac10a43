"""Rules of this repository for its HCL, beside what checkov knows.

Run by the environment that has an HCL parser:
`python rules.py FOLDER` prints a JSON list of findings, each `file: what is wrong`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2

EXACT = re.compile(r"^v?\d+\.\d+\.\d+$")
SECRET = re.compile(r"(password|token|credential)s?$|(^|_)secret$")
OPTIONAL = re.compile(r"""'(\w+)': '\$\{optional\(string,\s*"([^"]+)"\)\}'""")
POOLS = "aws_eks_node_group"


def blocks(content: dict[str, Any], kind: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Labels and body of each block of a kind."""
    for block in content.get(kind, []):
        labels, body = [], block
        while len(body) == 1 and isinstance(next(iter(body.values())), dict):
            [(label, body)] = body.items()
            labels.append(label.strip('"'))
            if len(labels) == (2 if kind in ("resource", "data") else 1):
                break
        yield labels, body


def attribute(body: dict[str, Any], name: str) -> Any:
    """The parser puts each value into a list of one."""
    value = body.get(name)
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def text(body: dict[str, Any], name: str) -> str:
    value = attribute(body, name)
    return "" if value is None else str(value).strip('"').strip()


def variables(content: dict[str, Any]) -> Iterator[str]:
    for [name], body in blocks(content, "variable"):
        if not text(body, "description"):
            yield f"variable {name} has no description"
        if "type" not in body:
            yield f"variable {name} has no type"
        if SECRET.search(name) and not (
            attribute(body, "sensitive") is True and attribute(body, "ephemeral") is True
        ):
            yield f"variable {name} sounds like a secret, and is not sensitive and ephemeral"


def outputs(content: dict[str, Any]) -> Iterator[str]:
    for [name], body in blocks(content, "output"):
        if not text(body, "description"):
            yield f"output {name} has no description"


def releases(content: dict[str, Any], defaults: dict[str, str]) -> Iterator[str]:
    """Charts have one exact version, written or a variable's default, and are atomic."""
    for [kind, name], body in blocks(content, "resource"):
        if kind != "helm_release":
            continue
        version = text(body, "version")
        named = re.fullmatch(r"\$\{var\.([\w.]+)\}", version)
        pinned = defaults.get(named[1], "") if named else version
        if not EXACT.match(pinned):
            yield f"helm_release {name} has no exact version: {version or 'none'}"
        if attribute(body, "atomic") is not True:
            yield f"helm_release {name} is not atomic"


def default_versions(content: dict[str, Any]) -> dict[str, str]:
    """Chart → version, from `variable "versions"` and `variable "chart_version"`."""
    found: dict[str, str] = {}
    for [name], body in blocks(content, "variable"):
        if name == "versions":
            found |= {f"versions.{n}": v for n, v in OPTIONAL.findall(text(body, "type"))}
        elif "default" in body:
            found[name] = text(body, "default")
    return found


def pools(content: dict[str, Any]) -> Iterator[str]:
    """Groups of GPU nodes are tainted, and every group has an upper bound."""
    for [kind, name], body in blocks(content, "resource"):
        if kind != POOLS:
            continue
        if not any("max_size" in s for s in body.get("scaling_config", [])):
            yield f"node group {name} has no upper bound"
        tainted = any("taint" in d for d in body.get("dynamic", [])) or "taint" in body
        if "gpu" in name and not tainted:
            yield f"node group {name} of GPUs has no taint"


def versions(content: dict[str, Any]) -> Iterator[str]:
    for terraform in content.get("terraform", []):
        if "required_version" not in terraform:
            yield "no required_version"
        for required in terraform.get("required_providers", []):
            for name in required.keys() - {"__start_line__", "__end_line__"}:
                if not text(attribute(required, name), "version").startswith("~> "):
                    yield f"provider {name} is not held to a line of versions (~>)"


def providers(content: dict[str, Any], file: Path) -> Iterator[str]:
    if "modules" in file.parts and content.get("provider"):
        yield "a module configures a provider: that is its root's to do"


def findings(folder: Path) -> list[str]:
    """What is wrong, each with its file; `versions` of a folder stand in any of its files."""
    found = []
    for place in sorted({f.parent for f in folder.rglob("*.tf") if ".terraform" not in f.parts}):
        contents = {f: hcl2.loads(f.read_text()) for f in sorted(place.glob("*.tf"))}
        defaults: dict[str, str] = {}
        for content in contents.values():
            defaults |= default_versions(content)
        for file, content in contents.items():
            told = [
                *variables(content),
                *outputs(content),
                *releases(content, defaults),
                *pools(content),
                *versions(content),
                *providers(content, file),
            ]
            found += [f"{file.relative_to(folder)}: {t}" for t in told]
        if not any(content.get("terraform") for content in contents.values()):
            found.append(f"{place.relative_to(folder)}: no versions of providers")
    return found


if __name__ == "__main__":
    print(json.dumps(findings(Path(sys.argv[1]))))
