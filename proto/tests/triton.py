#!/usr/bin/env python3
"""Writes triton.tsv: the wire of Triton's gRPC service, read from the newest tritonclient.

    python3 proto/tests/triton.py

Needs Python 3.9 or newer with pip; installs nothing outside a temporary folder.
"""

import importlib
import pathlib
import subprocess
import sys
import tempfile
import types

HERE = pathlib.Path(__file__).parent


def install(folder):
    """Puts tritonclient's generated modules within reach, without what its package imports besides."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder]
    subprocess.run([*pip, "--no-deps", "tritonclient"], check=True)
    subprocess.run([*pip, "protobuf"], check=True)
    sys.path.insert(0, folder)
    for name in ("tritonclient", "tritonclient.grpc"):
        module = types.ModuleType(name)
        module.__path__ = [str(pathlib.Path(folder, *name.split(".")))]
        sys.modules[name] = module
    return next(pathlib.Path(folder).glob("tritonclient-*.dist-info")).name.removesuffix(".dist-info")


def rows():
    """One tuple per message, field, enum value and call."""
    descriptor = importlib.import_module("google.protobuf.descriptor_pb2")
    kinds = {number: name.removeprefix("TYPE_").lower() for name, number in descriptor.FieldDescriptorProto.Type.items()}

    def enum(scope, entry):
        for value in entry.value:
            yield "value", f"{scope}.{entry.name}", value.name, str(value.number)

    def message(scope, entry):
        path = f"{scope}.{entry.name}"
        yield "message", path
        for field in entry.field:
            kind = field.type_name.removeprefix(".") or kinds[field.type]
            label = "repeated" if field.label == field.LABEL_REPEATED else "single"
            group = entry.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else "-"
            yield "field", path, field.name, str(field.number), kind, label, group
        for nested in entry.enum_type:
            yield from enum(path, nested)
        for nested in entry.nested_type:
            yield from message(path, nested)

    for module in ("model_config_pb2", "service_pb2"):
        file = descriptor.FileDescriptorProto()
        importlib.import_module(f"tritonclient.grpc.{module}").DESCRIPTOR.CopyToProto(file)
        for entry in file.enum_type:
            yield from enum(file.package, entry)
        for entry in file.message_type:
            yield from message(file.package, entry)
        for service in file.service:
            for call in service.method:
                streams = f"{'stream' if call.client_streaming else 'one'}-{'stream' if call.server_streaming else 'one'}"
                types_ = call.input_type.removeprefix("."), call.output_type.removeprefix(".")
                yield "call", f"{file.package}.{service.name}", call.name, *types_, streams


def main():
    with tempfile.TemporaryDirectory() as folder:
        source = install(folder)
        lines = sorted("\t".join(row) for row in rows())
    HERE.joinpath("triton.tsv").write_text("\n".join([f"# {source}, by triton.py", *lines]) + "\n")
    print(f"{len(lines)} rows from {source}")


if __name__ == "__main__":
    main()
