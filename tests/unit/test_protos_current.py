"""The generated code beside protos/*.proto is of those very files."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["peer", "control", "relay"])
def test_generated_code_is_current(tmp_path: Path, name: str) -> None:
    """Compared by descriptor, so that another version of the generator makes no difference."""
    out = tmp_path / "descriptors"
    assert protoc.main(["protoc", f"-I{ROOT}", f"--descriptor_set_out={out}", f"{ROOT}/protos/{name}.proto"]) == 0
    compiled = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]
    for message in compiled.message_type:
        for item in message.field:
            item.ClearField("json_name")  # what the compiler adds and the generated code leaves out
    generated = descriptor_pb2.FileDescriptorProto()
    importlib.import_module(f"protos.{name}_pb2").DESCRIPTOR.CopyToProto(generated)
    assert generated == compiled, f"run `make protos`: protos/{name}_pb2.py is not of protos/{name}.proto"


@pytest.mark.parametrize("name", ["peer", "control", "relay"])
def test_stubs_name_every_method(name: str) -> None:
    services = importlib.import_module(f"protos.{name}_pb2").DESCRIPTOR.services_by_name
    stubs = importlib.import_module(f"protos.{name}_pb2_grpc")
    text = (ROOT / "protos" / f"{name}_pb2_grpc.py").read_text()
    for service in services.values():
        assert hasattr(stubs, f"{service.name}Stub")
        for method in service.methods:
            assert f"/{service.full_name}/{method.name}" in text
