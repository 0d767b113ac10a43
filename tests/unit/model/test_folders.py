"""Model folders: our examples and those of teams come through one door, as data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.model_folders import copied

from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import (
    check_folders,
    folder_digest,
    load_definition,
    model_folder,
    model_names,
    readable_names,
)
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.runtime.configuration.installed_models import installed_models
from mlplatform.runtime.configuration.kinds import SHIPPED
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import ConfigInvalid, NotFound

VARIABLE = "MLPLATFORM_MODELS"
SERVING = """
import json, os, sys
from pathlib import Path
from mlplatform.runtime.configuration.settings import load
from mlplatform.scoring.gateway import process as gateway
from mlplatform.scoring.predictor import process as predictor
from mlplatform.scoring.gateway.wiring import wire_gateway
from mlplatform.model.folders import personal_fields
personal_fields()
wire_gateway(load(os.environ), "gateway-0")
print(json.dumps(sorted(sys.modules)))
"""
TRAP = "from pathlib import Path\nPath(__file__).with_name('imported').touch()\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a team's model folders, which the setting names beside the examples."""
    root = tmp_path / "team"
    root.mkdir()
    monkeypatch.setenv(VARIABLE, f"examples{os.pathsep}{root}")
    return root


def refused(*named: object) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        check_folders()
    for words in (VARIABLE, *named):
        assert str(words) in str(caught.value)


def test_without_a_setting_there_are_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Path(__file__).parents[3] / "models" == SHIPPED
    assert model_folder("fraud") == SHIPPED / "fraud"


def test_folders_without_a_model_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(root))
    refused(root, "model.yaml")


def test_an_installation_that_names_its_own_folders_has_no_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(root))
    copied(root, "credit")
    assert model_names() == ["credit"]
    with pytest.raises(NotFound, match="no model 'fraud'; there are: credit"):
        model_folder("fraud")


def test_a_folder_of_the_examples_name_is_taken_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({VARIABLE: "./examples"}).models == (tmp_path / "examples",)
    assert load({VARIABLE: "examples"}).models == (SHIPPED,)


def test_a_team_s_model_stands_beside_the_examples(root: Path) -> None:
    folder = copied(root, "card_fraud")
    assert model_names() == ["card_fraud", "fraud"]
    assert model_folder("card_fraud") == folder
    assert load_definition("card_fraud").name == "card_fraud"
    assert model_folder("fraud") == SHIPPED / "fraud"


def test_models_of_installed_packages_are_found_and_their_packages_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    installed_models.cache_clear()
    with pytest.raises(ConfigInvalid, match=r"entry points have the group mlplatform\.models"):
        load({VARIABLE: "installed"})
    package = tmp_path / "credit_models"
    folder = copied(package / "folders", "credit")
    (package / "__init__.py").write_text(TRAP)
    told = tmp_path / "credit_models-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: credit-models\nVersion: 1\n")
    (told / "entry_points.txt").write_text("[mlplatform.models]\ncredit = credit_models.folders\n")
    assert load({VARIABLE: "examples:installed"}).models == (SHIPPED, folder.parent)
    monkeypatch.setenv(VARIABLE, "installed")
    assert model_names() == ["credit"]
    assert not (package / "imported").exists()
    installed_models.cache_clear()
    for wrong in ("credit_modles", "credit-models", "credit_models:folders", "__main__"):
        (told / "entry_points.txt").write_text(f"[mlplatform.models]\ncredit = {wrong}\n")
        with pytest.raises(ConfigInvalid, match=rf"credit of mlplatform\.models is '{wrong}'"):
            load({VARIABLE: "installed"})
        installed_models.cache_clear()


def test_a_package_of_a_namespace_in_several_places_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("one", "other"):
        monkeypatch.syspath_prepend(tmp_path / place)
        (tmp_path / place / "bank_models" / place).mkdir(parents=True)
    told = tmp_path / "one" / "bank_models-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: bank-models\nVersion: 1\n")
    for place in ("one", "other"):
        (told / "entry_points.txt").write_text(f"[mlplatform.models]\nx = bank_models.{place}\n")
        installed_models.cache_clear()
        assert installed_models() == (tmp_path / place / "bank_models" / place,)
    installed_models.cache_clear()


def test_every_process_is_told_where_they_are(tmp_path: Path) -> None:
    given = {VARIABLE: os.pathsep.join((str(tmp_path / "a"), str(tmp_path / "b")))}
    settings = load(given)
    assert settings.models == (tmp_path / "a", tmp_path / "b")
    assert settings.environment()[VARIABLE] == given[VARIABLE]
    assert load(settings.environment()) == settings


@pytest.mark.parametrize("text", [":", "a:", "a::b", " "])
def test_a_list_with_nothing_in_a_place_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=VARIABLE):
        load({VARIABLE: text})


@pytest.mark.parametrize("names", [("fraud",), ("card-fraud", "card_fraud")])
def test_no_model_hides_another(root: Path, names: tuple[str, ...]) -> None:
    folders = [copied(root, name) for name in names]
    refused(folders[-1], folders[0] if len(folders) > 1 else SHIPPED / "fraud")


def test_the_same_name_in_two_roots_is_refused_with_both_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [copied(tmp_path / side, "credit") for side in ("a", "b")]
    monkeypatch.setenv(VARIABLE, os.pathsep.join(str(f.parent) for f in folders))
    refused(*folders)


def test_a_model_s_own_folder_in_place_of_the_one_above_it_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(copied(root, "credit")))
    refused("the folder above it", root)


def test_a_folder_that_is_not_there_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(root / "none"))
    refused(root / "none", "No such file")


@pytest.mark.parametrize("name", ["Credit", "9lives", "card fraud", "x" * 29])
def test_a_name_that_no_model_can_have_is_told(root: Path, name: str) -> None:
    copied(root, name)
    refused(root / name, "a letter a-z and at most 27")


def test_what_is_wrong_with_one_folder_takes_no_other_away(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, os.pathsep.join(("examples", str(root), str(root / "unmounted"))))
    for name in ("fraud", "Credit", "credit"):
        copied(root, name)
    assert model_names() == ["credit", "fraud"]
    assert model_folder("fraud") == SHIPPED / "fraud"
    with pytest.raises(NotFound, match=r"there are: credit, fraud; .*Credit.*; .*unmounted"):
        model_folder("lending")


def test_what_serves_leaves_out_the_model_whose_definition_cannot_be_read(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied(root, "credit") / "model.yaml").write_text("tier: 9")
    (copied(root, "lending") / "features.json").write_text("{}")
    (copied(root, "salary") / "model.yaml").write_bytes(b"owner: Andr\xe9")
    assert readable_names() == ["fraud"]
    assert (
        "model salary is not served: model.yaml: byte 11 is '0xe9'; wanted: a text in UTF-8"
        in caplog.text
    )
    assert "model lending is not served: lending/features.json" in caplog.text
    assert "model credit is not served: model.yaml: " in caplog.text


def test_what_is_no_model_folder_is_passed_over(root: Path) -> None:
    (root / "README").touch()
    (root / "Not A Model").mkdir()
    copied(root, ".draft")
    assert model_names() == ["fraud"]


@pytest.mark.parametrize("place", [".", "training.py", "model.yaml"])
def test_what_others_may_write_is_not_read(root: Path, place: str) -> None:
    path = copied(root, "credit") / place
    path.chmod(0o777)
    with pytest.raises(ConfigInvalid, match=f"{VARIABLE} is .*chmod -R go-w"):
        load_definition("credit")
    path.chmod(0o755)
    assert load_definition("credit").name == "credit"


def test_a_folder_that_others_may_swap_is_not_read(root: Path) -> None:
    copied(root, "credit")
    root.chmod(0o777)
    with pytest.raises(ConfigInvalid, match="a folder that nobody else can replace"):
        load_module("credit", "labels")


def test_a_link_out_of_a_folder_is_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").touch()
    (copied(root, "credit") / "more.py").symlink_to(tmp_path / "elsewhere.py")
    with pytest.raises(ConfigInvalid, match=r"more\.py.*no link"):
        model_folder("credit")


def test_a_pipe_in_a_folder_is_not_waited_for(root: Path) -> None:
    os.mkfifo(copied(root, "credit") / "golden.json")
    with pytest.raises(ConfigInvalid, match=r"golden\.json.*only plain files and folders"):
        model_folder("credit")


def test_a_pod_s_volumes_bring_links_and_owners_of_their_own(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(root, "credit")
    (folder / "model.yaml").rename(folder / "..data")
    (folder / "model.yaml").symlink_to("..data")
    monkeypatch.setenv("MLPLATFORM_PROFILE", "cluster")
    assert load_definition("credit").name == "credit"


def test_a_changed_definition_is_read_anew(root: Path) -> None:
    file = copied(root, "credit") / "model.yaml"
    first = load_definition("credit")
    assert load_definition("credit") is first
    file.write_text(file.read_text().replace("deadline_ms: 50", "deadline_ms: 60"))
    assert load_definition("credit").deadline_ms == 60


def test_a_digest_is_that_of_names_and_contents(root: Path) -> None:
    folder = copied(root, "credit")
    first = folder_digest(folder)
    (folder / ".git").mkdir()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "training.pyc").write_bytes(b"no part of it")
    assert folder_digest(folder) == first
    (folder / "labels.py").rename(folder / "outcomes.py")
    renamed = folder_digest(folder)
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("more")
    assert len({first, renamed, folder_digest(folder)}) == 3


def test_a_folder_s_modules_import_each_other_and_are_imported_anew_once_changed(
    root: Path,
) -> None:
    folder = copied(root, "card_fraud")
    (folder / "numbers.py").write_text("ONE = 1\n")
    (folder / "sums.py").write_text("from .numbers import ONE\nTWO = ONE + 1\n")
    assert load_module("card_fraud", "sums").TWO == 2
    assert load_module("card_fraud", "sums") is load_module("card_fraud", "sums")
    assert "numbers" not in sys.modules or sys.modules["numbers"].__file__ is not None
    (folder / "numbers.py").write_text("ONE = 2\n")
    assert load_module("card_fraud", "sums").TWO == 3
    assert not (folder / "__pycache__").exists()


def test_a_module_that_is_not_there_is_told(root: Path) -> None:
    copied(root, "credit")
    with pytest.raises(NotFound, match=r"model credit has no fitting\.py in"):
        load_module("credit", "fitting")


def test_a_child_without_the_working_folder_on_its_path_imports_it_too(root: Path) -> None:
    copied(root, "credit")
    program = "from mlplatform.model.folder_code import load_module as l; l('credit', 'labels')"
    subprocess.run([sys.executable, "-P", "-c", program], check=True, timeout=60, cwd=root)


def test_processes_that_serve_import_no_model_s_python(root: Path, tmp_path: Path) -> None:
    folder = copied(root, "card_fraud")
    for path in folder.glob("*.py"):
        path.write_text(TRAP)
    environment = {**os.environ, "MLPLATFORM_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SERVING],
        env=environment,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    imported = json.loads(done.stdout.splitlines()[-1])
    assert [n for n in imported if n.startswith(("models.", "mlplatform_model_"))] == []
    assert "mlplatform.model.folder_code" not in imported
    assert not (folder / "imported").exists()


def test_a_service_s_name_is_one_that_kubernetes_takes() -> None:
    name = ServiceName.of("card_fraud", 2, "ab" * 32)
    assert str(name) == "card-fraud-v2-abababab"
    parsed = ServiceName.parse(str(name))
    assert parsed is not None
    assert parsed.is_of("card_fraud")
    assert parsed.names("card_fraud", "ab" * 32)
    assert not parsed.is_of("card")
