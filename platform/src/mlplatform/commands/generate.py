"""`python -m mlplatform.commands.generate`: render everything that is made from another file.

These are feature definitions, the OpenAPI document, the example manifests, the templates of jobs,
the lists of signals, settings, messages and keys of model.yaml, the alerts, the
dashboards and the code of .proto files. `make verify` runs this and fails when a committed file is
not what its source says.
"""

from __future__ import annotations

import os
from pathlib import Path

from mlplatform.commands.documents import messages, model_keys, settings, signals
from mlplatform.learning.features import feast_repo
from mlplatform.model.features.views import FILE
from mlplatform.model.folders import model_folder, model_names
from mlplatform.observing.dashboards import render_files as dashboards
from mlplatform.observing.slo import render_files as slo
from mlplatform.operations.compute import templates
from mlplatform.rollouts.serving import autoscaling, manifest
from mlplatform.runtime.configuration.model_roots import VARIABLE as MODELS
from mlplatform.scoring.api import openapi
from mlplatform.scoring.protos import render

ROOT = Path(__file__).parents[4]


def files() -> dict[Path, str]:
    """Every generated file with its content."""
    relative = {
        **manifest.render_examples(),
        **manifest.render_gpu_runtime((ROOT / manifest.RUNTIME_FILE).read_text()),
        **autoscaling.render_examples(),
        **openapi.render_files(),
        **render.render_files(ROOT),
        **signals.render_files(),
        **settings.render_files(),
        **messages.render_files(ROOT),
        **model_keys.render_files(),
        **slo.render_files(ROOT),
        **dashboards.render_files(ROOT),
        **templates.render_files(),
    }
    return {ROOT / name: text for name, text in relative.items()}


def main() -> None:
    os.environ.pop(MODELS, None)  # committed files are about this repository's models
    feast_repo.write(model_names())
    changed = [model_folder(name) / FILE for name in model_names()]
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        changed.append(path)
    for path in changed:
        print(f"rendered {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
