"""A provider that has schemas and checks nothing else: what `validate` and mocked tests ask of one.

`python -m tests.terraform.stub_provider aws=WHEEL …` in a folder of .tf files serves each named
provider with the types that the files use, and prints TF_REATTACH_PROVIDERS for the CLI; it ends
with its standard input.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
from tests.terraform import schemas

SOURCE: Final = "hashicorp/"
CHECKS: Final = ("ValidateProviderConfig", "ValidateResourceConfig", "ValidateDataResourceConfig")
USED: Final = re.compile(r'^(resource|data)\s+"(\w+)"', re.M)


def used(folder: Path, provider: str) -> tuple[set[str], set[str]]:
    """Types of resources and of data sources that any .tf file below a folder uses."""
    found: dict[str, set[str]] = {"resource": set(), "data": set()}
    for file in folder.rglob("*.tf"):
        for kind, name in USED.findall(file.read_text()):
            if name.startswith(f"{provider}_"):
                found[kind].add(name)
    return found["resource"], found["data"]


def message(content: schemas.Schemas) -> Any:
    """The answer to GetProviderSchema."""
    pb = _messages()
    return pb.Schemas(
        provider=_schema(pb, content.provider),
        resource_schemas={n: _schema(pb, b) for n, b in content.resources.items()},
        data_source_schemas={n: _schema(pb, b) for n, b in content.data.items()},
    )


def serve(content: schemas.Schemas, socket: Path) -> grpc.Server:
    pb = _messages()
    answer = message(content).SerializeToString()
    nothing = pb.Checked().SerializeToString()

    def handler(reply: bytes) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: reply)

    def as_it_was(request: bytes, context: grpc.ServicerContext) -> bytes:
        state = pb.StateAsked.FromString(request).raw_state.json
        told: bytes = pb.StateTold(upgraded_state=pb.DynamicValue(json=state)).SerializeToString()
        return told

    methods = {"GetProviderSchema": handler(answer), "StopProvider": handler(nothing)}
    methods["UpgradeResourceState"] = grpc.unary_unary_rpc_method_handler(as_it_was)
    methods |= {name: handler(nothing) for name in (*CHECKS, "ConfigureProvider")}
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("tfplugin6.Provider", methods)]
    )
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    return server


def _messages() -> Any:
    """Python's side of provider.proto, made when it is first asked for."""
    folder = str(Path(__file__).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return grpc.protos("provider.proto")


def _schema(pb: Any, block: schemas.Block) -> Any:
    return pb.Schema(block=_block(pb, block))


def _block(pb: Any, block: schemas.Block) -> Any:
    nested = [
        pb.Schema.NestedBlock(
            type_name=b.name,
            block=_block(pb, b.block),
            nesting=b.nesting.upper(),
            max_items=b.most,
        )
        for b in block.blocks
    ]
    attributes = [_attribute(pb, a) for a in block.attributes]
    return pb.Schema.Block(attributes=attributes, block_types=nested)


def _attribute(pb: Any, a: schemas.Attribute) -> Any:
    made = pb.Schema.Attribute(
        name=a.name,
        required=a.required,
        optional=a.optional and not a.required,
        computed=a.computed and not a.required,
        write_only=a.write_only,
    )
    if a.nested is None:
        made.type = json.dumps(a.type).encode()
    else:
        nesting, below = a.nested
        made.nested_type.nesting = pb.Nesting.Value(nesting.upper())
        made.nested_type.attributes.extend(_attribute(pb, b) for b in below)
    return made


def main(arguments: list[str]) -> None:
    folder = Path.cwd()
    with tempfile.TemporaryDirectory() as sockets:
        servers, told = [], {}
        for argument in arguments:
            name, _, wheel = argument.partition("=")
            types = used(folder, name)
            if not any(types):
                continue
            socket = Path(sockets) / name
            servers.append(serve(schemas.read(Path(wheel), *types), socket))
            told[f"{SOURCE}{name}"] = {
                "Protocol": "grpc",
                "ProtocolVersion": 6,
                "Pid": os.getpid(),
                "Test": True,
                "Addr": {"Network": "unix", "String": str(socket)},
            }
        print(json.dumps(told), flush=True)
        sys.stdin.read()
        for server in servers:
            server.stop(None)


if __name__ == "__main__":
    main(sys.argv[1:])
