"""Calls that their client ends: by a deadline, by cancelling them. The server runs none before the fourth has come."""

import queue
import sys
import time
import urllib.request

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def text(value):
    made = triton.InferInput("text", [1], "BYTES")
    made.set_data_from_numpy(np.array([value], dtype=object))
    return made


def wait_for_calls(metrics, count):
    while f"\nshoal_calls_in_flight {count}\n" not in urllib.request.urlopen(f"http://{metrics}/metrics").read().decode():
        time.sleep(0.005)


def main(address, metrics):
    client = triton.InferenceServerClient(address)
    # Connected, or the time of the first call could pass before it is sent.
    assert client.is_server_live()
    try:
        client.infer("s", [text("late")], client_timeout=1)
        raise AssertionError("a call that is not run was answered")
    except InferenceServerException as error:
        assert error.status() == "StatusCode.DEADLINE_EXCEEDED", error

    # Triton's own parameter, in microseconds, which the server keeps by itself.
    try:
        client.infer("s", [text("late")], timeout=100_000)
        raise AssertionError("a call that is not run was answered")
    except InferenceServerException as error:
        assert error.status() == "StatusCode.DEADLINE_EXCEEDED", error

    wait_for_calls(metrics, 0)
    answers = queue.Queue()
    call = client.async_infer("s", [text("unwanted")], callback=lambda result, error: answers.put((result, error)))
    # What is cancelled sooner never reaches the server.
    wait_for_calls(metrics, 1)
    call.cancel()
    result, error = answers.get(timeout=60)
    assert result is None and error.status() == "StatusCode.CANCELLED", error
    wait_for_calls(metrics, 0)

    # And the next one is answered.
    assert client.infer("s", [text("wanted")], client_timeout=60).as_numpy("hash").shape == (1, 1)
    client.close()


main(*sys.argv[1:])
