"""What types of a provider take and give, read from its CDK Terrain wheel.

The wheels carry generated JavaScript that knows names, types, nesting, and what is required,
optional, computed or write-only. They don't know which values a provider accepts, and tests
that use them don't know it either.
"""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

LEAF: Final = {"string": "string", "number": "number", "boolean": "bool", "any": "dynamic"}
ATTRIBUTE: Final = re.compile(
    r"^( +)(\w+): \{\n"
    r" +value: (?P<value>.+),\n"
    r" +isBlock: (?P<block>true|false),\n"
    r' +type: "(?P<kind>\w+)",\n'
    r' +storageClassType: "(?P<storage>\w+)",\n'
    r"\1\},$",
    re.M,
)
FLAGS: Final = re.compile(
    r"// (\w+) - computed: (true|false), optional: (true|false), required: (true|false)\n"
    r"(?P<code>.*?)(?=\n    // \w+ - computed:|\Z)",
    re.S,
)
NESTED: Final = re.compile(
    r"new (\w+?)(?:List|Map|OutputReference)\(this, \"\w+\"(?:, (true|false))?"
)
GETTERS: Final = (
    ("getStringMapAttribute", ["map", "string"]),
    ("getNumberMapAttribute", ["map", "number"]),
    ("getBooleanMapAttribute", ["map", "bool"]),
    ("getNumberListAttribute", ["list", "number"]),
    ("Fn.tolist(this.getListAttribute", ["set", "string"]),
    ("getListAttribute", ["list", "string"]),
    ("getNumberAttribute", "number"),
    ("getBooleanAttribute", "bool"),
    ("getStringAttribute", "string"),
)


@dataclass(frozen=True, slots=True)
class Attribute:
    """A name with a type, or with attributes of its own.

    Args:
        type: as Terraform writes types in JSON; None where `nested` says it.
        nested: attributes below, and how many there are of them: single, list, set or map.
    """

    name: str
    required: bool
    optional: bool
    computed: bool
    write_only: bool = False
    type: Any = None
    nested: tuple[str, tuple[Attribute, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Block:
    attributes: tuple[Attribute, ...] = ()
    blocks: tuple[NestedBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class NestedBlock:
    """Blocks of one name.

    Args:
        most: how many may stand there; 0 says any number.
    """

    name: str
    nesting: str
    block: Block
    most: int


@dataclass(frozen=True, slots=True)
class Schemas:
    version: str
    provider: Block
    resources: dict[str, Block] = field(default_factory=dict)
    data: dict[str, Block] = field(default_factory=dict)


def read(wheel: Path, resources: set[str], data: set[str]) -> Schemas:
    """Schemas of the named types, as `aws_vpc`.

    Args:
        wheel: a `cdktn_provider_*.whl`, or the folder that one was installed into.

    Raises:
        LookupError: the provider has no type of that name, or one written in a way not known here.
    """
    archive = _archive(wheel)
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:
        source = {
            m.name.split("/")[2]: m for m in files.getmembers() if m.name.endswith("/index.js")
        }

        def module(folder: str) -> str:
            if folder not in source:
                raise LookupError(f"{wheel.name} has no {folder}")
            content = files.extractfile(source[folder])
            assert content is not None
            return content.read().decode()

        provider = module("provider")
        version = re.search(r"providerVersion: '([^']+)'", provider)
        assert version is not None
        short = {name: name.split("_", 1)[1].replace("_", "-") for name in resources | data}
        named = {n: n.replace("_", "-") for n in data}
        return Schemas(
            version[1],
            _top(provider),
            {n: _top(module(short[n])) for n in sorted(resources)},
            {n: _top(module(f"data-{named[n]}")) for n in sorted(data)},
        )


def _archive(wheel: Path) -> bytes:
    if wheel.is_dir():
        [packed] = wheel.glob("_jsii/*.jsii.tgz")
        return packed.read_bytes()
    with zipfile.ZipFile(wheel) as content:
        [name] = [n for n in content.namelist() if n.endswith(".jsii.tgz")]
        return content.read(name)


def _top(code: str) -> Block:
    """The block of a module's own class; `alias` and the like are the CDK's."""
    main = re.search(
        r"^class (\w+) extends cdktn\.Terraform(?:Resource|DataSource|Provider) ", code, re.M
    )
    if main is None:
        raise LookupError("no class of a resource, data source or provider")
    body = _until_class(code, main.start())
    written = re.search(r"synthesizeHclAttributes\(\) \{(.*?)\n    \}", body, re.S)
    return _block(code, written[1] if written else "", body)


def _struct(code: str, name: str) -> tuple[str, str]:
    """The written attributes of a struct, and the class that says which are computed."""
    function = re.search(
        rf"^function {name[0].lower()}{name[1:]}ToHclTerraform\(struct\) \{{(.*?)^\}}",
        code,
        re.S | re.M,
    )
    reference = re.search(rf"^class {name}OutputReference extends", code, re.M)
    body = _until_class(code, reference.start()) if reference else ""
    return (function[1] if function else ""), body


def _until_class(code: str, start: int) -> str:
    end = re.compile(r"^(?:class|function|exports\.\w+ = \w+;) ?", re.M).search(code, start + 6)
    return code[start : end.start() if end else len(code)]


def _block(code: str, written: str, body: str) -> Block:
    flags = {m[1]: m for m in FLAGS.finditer(body)}
    attributes: dict[str, Attribute] = {}
    blocks: list[NestedBlock] = []
    for m in ATTRIBUTE.finditer(written):
        name = m[2]
        flag = flags.pop(name, None)
        if m["block"] == "true" and (block := _as_block(code, name, m)) is not None:
            blocks.append(block)
            continue
        required, optional, computed = _flags(flag)
        attributes[name] = Attribute(
            name,
            required,
            optional or not required,
            computed,
            "markWriteOnlyAttribute" in m["value"],
            **_typed(code, m),
        )
    for name, flag in flags.items():
        if flag[2] == "true":  # computed alone: nobody writes it
            attributes[name] = _computed(code, name, flag)
    return Block(tuple(attributes.values()), tuple(blocks))


def _flags(flag: re.Match[str] | None) -> tuple[bool, bool, bool]:
    if flag is None:
        return False, True, False
    return flag[4] == "true", flag[3] == "true", flag[2] == "true"


def _as_block(code: str, name: str, m: re.Match[str]) -> NestedBlock | None:
    """None where it is an attribute with attributes of its own."""
    value, kind = m["value"], m["kind"]
    listed = re.search(r"listMapperHcl\(\w+, (true|false)\)", value)
    if (listed and listed[1] == "false") or (kind == "struct" and name != "timeouts"):
        return None
    block = _block(code, *_struct(code, _struct_name(value)))
    nesting = {"struct": "single"}.get(kind, kind)
    return NestedBlock(name, nesting, block, 0 if listed or nesting == "single" else 1)


def _struct_name(value: str) -> str:
    found = re.search(r"(\w+)ToHclTerraform\b", value)
    if found is None:
        raise LookupError(value)
    return found[1][0].upper() + found[1][1:]


def _typed(code: str, m: re.Match[str]) -> dict[str, Any]:
    value, kind = m["value"], m["kind"]
    if m["block"] == "true":
        written = _block(code, *_struct(code, _struct_name(value)))
        below = (*written.attributes, *(_nested_attribute(b) for b in written.blocks))
        return {"nested": ({"struct": "single"}.get(kind, kind), below)}
    leaf = re.search(r"cdktn\.(\w+?)ToHclTerraform", value)
    if leaf is None or leaf[1] not in LEAF:
        return {"type": "dynamic"}
    if kind == "simple":
        return {"type": LEAF[leaf[1]]}
    return {"type": [kind, LEAF[leaf[1]]]}


def _nested_attribute(block: NestedBlock) -> Attribute:
    nested = (block.nesting, block.block.attributes)
    return Attribute(block.name, False, True, False, nested=nested)


def _computed(code: str, name: str, flag: re.Match[str]) -> Attribute:
    nested = NESTED.search(flag["code"])
    if nested is not None:
        below = _block(code, *_struct(code, nested[1])).attributes
        kind = "set" if nested[2] == "true" else "list"
        return Attribute(
            name, False, False, True, type=[kind, ["object", {a.name: _type(a) for a in below}]]
        )
    for getter, type_ in GETTERS:
        if getter in flag["code"]:
            return Attribute(name, False, False, True, type=type_)
    return Attribute(name, False, False, True, type="dynamic")


def _type(attribute: Attribute) -> Any:
    if attribute.nested is None:
        return attribute.type
    nesting, below = attribute.nested
    content = ["object", {a.name: _type(a) for a in below}]
    return content if nesting == "single" else [nesting, content]
