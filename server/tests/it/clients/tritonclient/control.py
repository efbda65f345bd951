"""Loading, unloading and settings: refused unless the server was started for it."""

import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def refused(status, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{status}", error
        return error.message()
    raise AssertionError(f"{call} was not refused")


def main(address, control):
    client = triton.InferenceServerClient(address)
    given = triton.InferInput("x", [1, 1], "FP32")
    given.set_data_from_numpy(np.zeros((1, 1), dtype=np.float32))
    if control == "none":
        for call, arguments in [
            (client.unload_model, ["echo"]),
            (client.load_model, ["echo"]),
            (client.update_trace_settings, ["echo", {"trace_level": ["TIMESTAMPS"]}]),
            (client.update_log_settings, [{"log_info": False}]),
        ]:
            assert "--model-control" in refused("PERMISSION_DENIED", call, *arguments)
        client.infer("echo", [given])
        return
    client.unload_model("echo")
    assert not client.is_model_ready("echo")
    [entry] = client.get_model_repository_index().models
    assert (entry.name, entry.state) == ("echo", "UNAVAILABLE"), entry
    assert "echo" in refused("UNAVAILABLE", client.infer, "echo", [given])
    client.load_model("echo")
    assert client.is_model_ready("echo")
    client.infer("echo", [given])
    # Another model than the server was started with, or another configuration, is not to be had.
    refused("NOT_FOUND", client.load_model, "nothing")
    refused("UNIMPLEMENTED", client.load_model, "echo", config='{"max_batch_size": 1}')
    client.update_trace_settings("echo", {"trace_level": ["TIMESTAMPS"]})
    assert client.get_trace_settings("echo").settings["trace_level"].value == ["TIMESTAMPS"]
    client.update_log_settings({"log_verbose_level": 1})
    client.close()


main(*sys.argv[1:])
