"""What goes wrong is an InferenceServerException with the right status, and a message that names the field."""

import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def fails(status, named, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{status}", (named, error)
        assert named in error.message(), (named, error)
        return
    raise AssertionError(f"nothing failed where {named} should")


def tensor(name="x", shape=(1, 2), data_type="FP32", values=None):
    made = triton.InferInput(name, shape, data_type)
    made.set_data_from_numpy(np.zeros(shape, dtype=np.float32) if values is None else values)
    return made


def main(address):
    client = triton.InferenceServerClient(address)
    infer = client.infer
    fails("NOT_FOUND", "`echo`", infer, "ecco", [tensor()])
    fails("NOT_FOUND", "version", infer, "echo", [tensor()], model_version="2")
    fails("INVALID_ARGUMENT", "inputs[0].name", infer, "echo", [tensor(name="y")])
    fails("INVALID_ARGUMENT", "inputs[1].name", infer, "echo", [tensor(), tensor()])
    whole = tensor(data_type="INT32", values=np.zeros((1, 2), dtype=np.int32))
    fails("INVALID_ARGUMENT", "inputs[0].datatype", infer, "echo", [whole])
    fails("INVALID_ARGUMENT", "inputs[0].shape", infer, "echo", [tensor(shape=(2,))])
    fails("INVALID_ARGUMENT", "inputs[0].shape", infer, "echo", [tensor(shape=(0, 2))])
    fails("INVALID_ARGUMENT", "inputs", infer, "echo", [])
    outputs = [triton.InferRequestedOutput("q")]
    fails("INVALID_ARGUMENT", "outputs[0].name", infer, "echo", [tensor()], outputs=outputs)
    # An extension that the server's metadata does not name.
    outputs = [triton.InferRequestedOutput("y", class_count=2)]
    fails("UNIMPLEMENTED", "classification", infer, "echo", [tensor()], outputs=outputs)
    fails("UNIMPLEMENTED", "sequence", infer, "echo", [tensor()], sequence_id=7, sequence_start=True)
    fails("INVALID_ARGUMENT", "parameters.beams", infer, "echo", [tensor()], parameters={"beams": 4})
    # A text that is longer than the model takes.
    text = triton.InferInput("text", [1], "BYTES")
    text.set_data_from_numpy(np.array(["x" * 100_000], dtype=object))
    fails("INVALID_ARGUMENT", "inputs[0]", infer, "s", [text])

    # Memory is not shared, neither registered nor used, and the server says so at once.
    for memory in ("system", "cuda"):
        fails("UNIMPLEMENTED", "shared memory", getattr(client, f"get_{memory}_shared_memory_status"))
        fails("UNIMPLEMENTED", "shared memory", getattr(client, f"unregister_{memory}_shared_memory"))
    fails("UNIMPLEMENTED", "shared memory", client.register_system_shared_memory, "r", "/r", 64)
    fails("UNIMPLEMENTED", "shared memory", client.register_cuda_shared_memory, "r", b"", 0, 64)
    shared = triton.InferInput("x", [1, 2], "FP32")
    shared.set_shared_memory("r", 8)
    fails("UNIMPLEMENTED", "shared memory", infer, "echo", [shared])
    client.close()


main(*sys.argv[1:])
