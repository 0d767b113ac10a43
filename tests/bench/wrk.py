"""wrk, in a closed loop: how many requests a second, and how long they take."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Each thread sends its bodies in turn. A key is made of the run, the thread's own random number and
# a count, so that no two requests share one.
SCRIPT = """
local bodies, headers = {}, {}
%(bodies)s
%(headers)s
local keyed, count = %(keyed)s, 0
wrk.method = "POST"
local prefix = "%(prefix)s" .. tostring({}):sub(8) .. "-"
request = function()
  count = count + 1
  if keyed then headers["Idempotency-Key"] = prefix .. count end
  return wrk.format("POST", nil, headers, bodies[(count %% #bodies) + 1])
end
done = function(summary, latency, requests)
  io.write(string.format(
    'JSON{"requests":%%d,"us":%%d,"p50":%%f,"p99":%%f,"p999":%%f,"status":%%d,"socket":%%d}\\n',
    summary.requests, summary.duration, latency:percentile(50.0), latency:percentile(99.0),
    latency:percentile(99.9), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


def required() -> None:
    """Raises SystemExit where wrk is not installed."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed for the closed loop: install Debian's package `wrk`")


def run(
    url: str,
    headers: Mapping[str, str],
    bodies: Sequence[bytes],
    *,
    keyed: bool,
    connections: int,
    seconds: float,
    core: int,
    folder: Path,
    prefix: str,
) -> dict[str, Any]:
    """Figures of one run: rps, p50_ms, p99_ms, p999_ms, errors."""
    script = folder / "wrk.lua"
    given = [f"bodies[{i + 1}] = {_lua(body)}" for i, body in enumerate(bodies)]
    named = [f"headers[{_lua(k.encode())}] = {_lua(v.encode())}" for k, v in headers.items()]
    script.write_text(
        SCRIPT
        % {
            "bodies": "\n".join(given),
            "headers": "\n".join(named),
            "keyed": "true" if keyed else "false",
            "prefix": prefix,
        }
    )
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s"]
    command += ["--timeout", "10s", "-s", str(script), url]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(printed.split("JSON", 1)[1])
    return {
        "rps": round(found["requests"] / found["us"] * 1e6, 1),
        "p50_ms": round(found["p50"] / 1000, 3),
        "p99_ms": round(found["p99"] / 1000, 3),
        "p999_ms": round(found["p999"] / 1000, 3),
        "requests": found["requests"],
        "errors": found["status"] + found["socket"],
    }


def _lua(text: bytes) -> str:
    """A Lua string literal of any bytes."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text) + '"'
