"""The worker as a pod starts it: alone, before any gateway has made the home folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from support.platform_process import wait

TOKEN = "a-token-of-the-worker"


def test_a_worker_that_comes_before_its_gateway_waits_for_work_and_is_scraped(
    tmp_path: Path,
) -> None:
    token_file, address_file = tmp_path / "token", tmp_path / "address.json"
    token_file.write_text(f"{TOKEN}\n")
    home = tmp_path / "volume" / "home"
    command = [
        *(sys.executable, "-m", "mlplatform.process", "worker", "--model=fraud", "--outbox"),
        *(f"--token-file={token_file}", f"--address-file={address_file}"),
    ]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("MLPLATFORM_")},
        "MLPLATFORM_HOME": str(home),
        "MLPLATFORM_GATEWAY_URL": "http://127.0.0.1:9",
    }
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as worker:
        try:
            wait(lambda: address_file.exists() or worker.poll() is not None, within_s=60)
            assert worker.poll() is None, worker.communicate()[1]
            url = f"http://127.0.0.1:{json.loads(address_file.read_text())['port']}"
            wait((home / "topics.db").exists, within_s=30)

            assert httpx.get(f"{url}/healthz").status_code == 200
            assert httpx.get(f"{url}/metrics").status_code == 401
            scraped = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
            assert 'mlplatform_worker_lag_messages{model="fraud"}' in scraped.text
            assert home.stat().st_mode & 0o777 == 0o700
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(timeout=30)
    assert worker.returncode == 0
