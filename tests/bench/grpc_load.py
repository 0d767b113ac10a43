"""A closed loop over gRPC: so many callers, each with one call at a time, on one connection each.

The client is Python's and shares its core with nothing; at these rates it is the slower of the two,
so a server's processor time a request says more here than its requests a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
import numpy as np

METHOD = "/inference.GRPCInferenceService/ModelInfer"


async def run(
    address: str, token: str, requests: list[bytes], callers: int, seconds: float
) -> tuple[list[float], int]:
    """Latencies in seconds of the calls that were answered, and how many were not."""
    end_s = time.monotonic() + seconds
    latencies_s: list[float] = []
    failed = 0

    async def calls(number: int) -> None:
        nonlocal failed
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(address, options) as channel:
            infer = channel.unary_unary(METHOD)
            while (began_s := time.monotonic()) < end_s:
                number += callers
                try:
                    await infer(
                        requests[number % len(requests)],
                        metadata=(("authorization", f"Bearer {token}"),),
                        timeout=10.0,
                    )
                except grpc.aio.AioRpcError:
                    failed += 1
                else:
                    latencies_s.append(time.monotonic() - began_s)

    await asyncio.gather(*map(calls, range(callers)))
    return latencies_s, failed


def main() -> None:
    """Reads a JSON file with address, token and requests (hexadecimal); prints figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--callers", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    spec = json.loads(options.spec.read_text())
    requests = [bytes.fromhex(text) for text in spec["requests"]]
    latencies_s, failed = asyncio.run(
        run(spec["address"], spec["token"], requests, options.callers, options.seconds)
    )
    p50, p99, p999 = np.percentile(np.array(latencies_s or [float("nan")]) * 1000, (50, 99, 99.9))
    figures = {
        "rps": round(len(latencies_s) / options.seconds, 1),
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "p999_ms": round(float(p999), 3),
        "requests": len(latencies_s),
        "errors": failed,
    }
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
