"""`python -m mlplatform.generate`: render everything that is made from another file.

Feature definitions, the OpenAPI document, the example manifests, the templates of jobs, the list of
signals, the alerts, the dashboards and the code of .proto files;
`make verify` runs this and fails when a committed file is not what its source says.
"""

from __future__ import annotations

from pathlib import Path

from mlplatform.compute import templates
from mlplatform.dashboards import rendered as dashboards
from mlplatform.features import feast_repo
from mlplatform.features.definitions import FILE
from mlplatform.gateway import openapi
from mlplatform.models.definition import model_folder, model_names
from mlplatform.protos import render
from mlplatform.serving import autoscaling, manifest
from mlplatform.slo import rendered as slo
from mlplatform.telemetry import rendered

ROOT = Path(__file__).parents[3]


def files() -> dict[Path, str]:
    """Every generated file with its content."""
    relative = {
        **manifest.render_examples(),
        **autoscaling.render_examples(),
        **openapi.render_files(),
        **render.render_files(ROOT),
        **rendered.render_files(),
        **slo.render_files(ROOT),
        **dashboards.render_files(ROOT),
        **templates.render_files(),
    }
    return {ROOT / name: text for name, text in relative.items()}


def main() -> None:
    feast_repo.main()
    changed = [model_folder(name) / FILE for name in model_names()]
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        changed.append(path)
    for path in changed:
        print(f"rendered {path.relative_to(ROOT)}")  # noqa: T201


if __name__ == "__main__":
    main()
