"""What a read of the decision log took does not stay with the process."""

from __future__ import annotations

import os
import subprocess
import sys


def test_the_platform_has_arrow_take_memory_from_the_system():
    code = "import mlplatform, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    environment = {**os.environ}
    environment.pop("ARROW_DEFAULT_MEMORY_POOL", None)
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    assert found.stdout == "system\n"
