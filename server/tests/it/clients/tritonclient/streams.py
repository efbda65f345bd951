"""Bidirectional streams: order, ids, errors in the stream and instead of it."""

import queue
import sys

import numpy as np
import tritonclient.grpc as triton


def ask(client, number, name="x", **options):
    tensor = triton.InferInput(name, [1, 1], "FP32")
    tensor.set_data_from_numpy(np.array([[number]], dtype=np.float32))
    client.async_stream_infer("echo", [tensor], request_id=str(number), **options)


def main(address):
    # One failure among many answers, which keep the order of their questions.
    answers = queue.Queue()
    client = triton.InferenceServerClient(address)
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(30):
        ask(client, number, name="wrong" if number == 7 else "x")
    for number in range(30):
        result, error = answers.get(timeout=60)
        if number == 7:
            assert "`inputs[0].name`" in error.message(), error
            continue
        assert error is None, error
        assert result.get_response().id == str(number)
        assert result.get_response().parameters["triton_final_response"].bool_param
        assert result.as_numpy("y").tolist() == [[number]]
    client.stop_stream()

    # Asked for, an empty final response does not come on top: every response is the final one.
    client.start_stream(lambda result, error: answers.put((result, error)))
    ask(client, 1, enable_empty_final_response=True)
    result, error = answers.get(timeout=60)
    assert error is None and result.as_numpy("y").tolist() == [[1]], error
    client.stop_stream()
    assert answers.empty()

    # As a status, on demand, which ends the stream; the next one is as new.
    client.start_stream(lambda result, error: answers.put((result, error)), headers={"triton_grpc_error": "true"})
    ask(client, 2, name="wrong")
    result, error = answers.get(timeout=60)
    assert error.status() == "StatusCode.INVALID_ARGUMENT", error
    client.stop_stream()
    client.start_stream(lambda result, error: answers.put((result, error)), compression_algorithm="gzip")
    ask(client, 3)
    result, error = answers.get(timeout=60)
    assert error is None and result.as_numpy("y").tolist() == [[3]], error
    client.stop_stream()
    client.close()


main(*sys.argv[1:])
