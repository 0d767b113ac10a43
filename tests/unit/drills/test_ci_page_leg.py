"""CI's leg on the page in a browser: what it installs, when it stands aside and refuses."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
set -euo pipefail
source .ci/legs.sh
source .ci/page.sh
trap tell_legs EXIT
page_leg
echo through
"""


def found(name: str) -> str:
    """Where this machine has a program."""
    path = shutil.which(name)
    assert path is not None
    return path


class Machine:
    """Programs that play their parts: only what is in its folder can be found."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self._bin = folder / "bin"
        self._bin.mkdir()
        for name in ("env", "sh", "bash", "mktemp", "rm", "sed", "seq", "sleep", "tail", "tee"):
            (self._bin / name).symlink_to(found(name))
        self.has("timeout", 'shift 2; exec "$@"')

    def has(self, name: str, does: str) -> None:
        program = self._bin / name
        program.write_text(f"#!{self._bin}/bash\n{does}\n")
        program.chmod(0o755)

    def run(self) -> tuple[int, str]:
        self.calls.write_text("")
        done = subprocess.run(
            [str(self._bin / "bash"), "-c", SCRIPT],
            cwd=ROOT,
            env={"PATH": str(self._bin), "CALLS": str(self.calls), "BIN": str(self._bin)},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout

    def makes(self, status: int) -> None:
        self.has("make", f'echo "make $*" >> "$CALLS"; exit {status}')

    def installs(self, status: int) -> None:
        """An apt-get whose `install` puts a browser into the folder, if it ends well."""
        puts = 'echo "#!$BIN/bash" > "$BIN/chromium"; "$BIN/chmod" 755 "$BIN/chromium"'
        install = f'case "$*" in *install*) [ {status} -eq 0 ] && {{ {puts}; }} ;; esac'
        (self._bin / "chmod").symlink_to(found("chmod"))
        self.has("apt-get", f'echo "apt-get $*" >> "$CALLS"; {install}; exit {status}')


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.makes(0)
    made.has("id", "echo 0")
    return made


def test_a_browser_that_is_here_is_used_and_refuses_a_change(machine: Machine) -> None:
    machine.has("chromium", "")

    assert "through" in machine.run()[1]
    assert machine.calls.read_text() == "make test-page\n"
    machine.makes(1)
    status, said = machine.run()
    assert (status != 0, "through" in said) == (True, False)


def test_root_gets_one_and_a_failure_is_then_told_alone(machine: Machine) -> None:
    machine.installs(0)
    machine.makes(1)

    status, said = machine.run()

    assert (status, "through" in said) == (0, True)
    assert "test-page failed, with a Chromium that was installed just now" in said
    assert "apt-get -qq install --yes" in machine.calls.read_text()
    assert "make test-page" in machine.calls.read_text()


@pytest.mark.parametrize("case", ["nobody", "no apt-get", "apt-get fails"])
def test_a_machine_that_cannot_have_one_says_so(machine: Machine, case: str) -> None:
    if case != "no apt-get":
        machine.installs(1 if case == "apt-get fails" else 0)
    if case == "nobody":
        machine.has("id", "echo 1000")

    status, said = machine.run()

    assert (status, "through" in said) == (0, True)
    assert "test-page left out" in said
    assert "make" not in machine.calls.read_text()
