"""Unary and asynchronous inference on tensors: values, shapes, types, sizes, compression."""

import queue
import sys

import numpy as np
import tritonclient.grpc as triton


def echo_input(values):
    tensor = triton.InferInput("x", values.shape, "FP32")
    tensor.set_data_from_numpy(values)
    return tensor


def main(address):
    client = triton.InferenceServerClient(address)
    values = np.arange(12, dtype=np.float32).reshape(3, 4) / 4

    # What is given comes back, with its type and shape.
    result = client.infer("echo", [echo_input(values)], request_id="mine")
    assert result.get_response().id == "mine"
    assert (result.get_response().model_name, result.get_response().model_version) == ("echo", "1")
    found = result.as_numpy("y")
    assert found.dtype == np.float32 and found.shape == (3, 4) and (found == values).all(), found
    assert result.get_output("y").datatype == "FP32"
    assert result.as_numpy("z") is None

    # Asked for by name and version, and written out instead of raw.
    wanted = [triton.InferRequestedOutput("y")]
    result = client.infer("echo", [echo_input(values)], model_version="1", outputs=wanted)
    assert (result.as_numpy("y") == values).all()

    # Numbers that are none, and none at all to a row.
    odd = np.array([[np.nan, np.inf, -np.inf, -0.0]], dtype=np.float32)
    assert client.infer("echo", [echo_input(odd)]).as_numpy("y").tobytes() == odd.tobytes()

    # More than one frame of the link, and more than gRPC takes by default.
    large = np.random.default_rng(1).random((3, 1 << 20), dtype=np.float32)
    assert (client.infer("echo", [echo_input(large)]).as_numpy("y") == large).all()

    # Compressed by either method, small and large.
    for method in ("gzip", "deflate"):
        for given in (values, large[:1]):
            result = client.infer("echo", [echo_input(given)], compression_algorithm=method)
            assert (result.as_numpy("y") == given).all(), method

    # Texts give one number each; equal texts the same.
    text = triton.InferInput("text", [3], "BYTES")
    text.set_data_from_numpy(np.array(["a", "größer", "a"], dtype=object))
    hashes = client.infer("s", [text]).as_numpy("hash")
    assert hashes.dtype == np.int64 and hashes.shape == (3, 1), hashes
    assert hashes[0] == hashes[2] != hashes[1]

    # Many at once, each with its own answer.
    answers = queue.Queue()
    for number in range(50):
        given = np.full((1, 2), number, dtype=np.float32)
        callback = lambda result, error, number=number: answers.put((number, result, error))
        client.async_infer("echo", [echo_input(given)], callback=callback, request_id=str(number))
    for _ in range(50):
        number, result, error = answers.get(timeout=60)
        assert error is None, error
        assert result.get_response().id == str(number) and (result.as_numpy("y") == number).all()
    client.close()


main(*sys.argv[1:])
