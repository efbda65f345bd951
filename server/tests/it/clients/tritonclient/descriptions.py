"""What server and models say of themselves: state, metadata, configuration, statistics, settings."""

import sys

import numpy as np
import tritonclient.grpc as triton


def main(address):
    client = triton.InferenceServerClient(address)
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("echo") and client.is_model_ready("echo", "1")
    assert not client.is_model_ready("echo", "2")

    server = client.get_server_metadata()
    assert server.name == "shoal" and server.version
    assert "statistics" in server.extensions and "system_shared_memory" not in server.extensions

    model = client.get_model_metadata("echo")
    assert (model.name, list(model.versions)) == ("echo", ["1"])
    assert [(x.name, x.datatype, list(x.shape)) for x in model.inputs] == [("x", "FP32", [-1, -1])]
    assert [(y.name, y.datatype, list(y.shape)) for y in model.outputs] == [("y", "FP32", [-1, -1])]
    as_json = client.get_model_metadata("s", as_json=True)
    assert as_json["inputs"][0]["datatype"] == "BYTES", as_json

    config = client.get_model_config("echo").config
    assert config.name == "echo" and config.max_batch_size > 1
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert not config.model_transaction_policy.decoupled

    index = client.get_model_repository_index().models
    assert [(entry.name, entry.version, entry.state) for entry in index] == [("echo", "1", "READY"), ("s", "1", "READY")]

    # Three calls of two rows, and one that fails.
    given = triton.InferInput("x", [2, 2], "FP32")
    given.set_data_from_numpy(np.zeros((2, 2), dtype=np.float32))
    for _ in range(3):
        client.infer("echo", [given])
    wrong = triton.InferInput("q", [1, 1], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 1), dtype=np.float32))
    try:
        client.infer("echo", [wrong])
    except triton.InferenceServerException:
        pass
    [stats] = client.get_inference_statistics("echo").model_stats
    times = stats.inference_stats
    assert (stats.inference_count, stats.execution_count) == (6, 3), stats
    stages = [times.queue, times.compute_input, times.compute_infer, times.compute_output]
    assert [stage.count for stage in stages] == [3, 3, 3, 3] and times.success.count == 3 and times.fail.count == 1
    assert 0 < sum(stage.ns for stage in stages) <= times.success.ns, stats
    assert [(batch.batch_size, batch.compute_infer.count) for batch in stats.batch_stats] == [(2, 3)], stats
    assert len(client.get_inference_statistics().model_stats) == 2

    assert client.get_trace_settings().settings["trace_level"].value == ["OFF"]
    assert client.get_log_settings().settings["log_info"].bool_param
    client.close()


main(*sys.argv[1:])
