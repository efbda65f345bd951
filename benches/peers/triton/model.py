"""The model in Triton's Python backend: one call of onnxruntime for the batch that Triton formed."""

import json
import os
import sys

# Triton starts Python without its PYTHONPATH, and this environment's packages are not where it would look.
sys.path.append(os.environ["SHOAL_PEERS_PACKAGES"])

import numpy
import onnxruntime
import triton_python_backend_utils as triton

INPUTS = ("input_ids", "attention_mask")


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters["threads"]["string_value"])
        options.inter_op_num_threads = 1
        onnx = parameters["onnx"]["string_value"]
        self.session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        columns = [[triton.get_input_tensor_by_name(call, name).as_numpy() for call in requests] for name in INPUTS]
        longest = max(ids.shape[1] for ids in columns[0])
        feed = {name: numpy.concatenate([widened(part, longest) for part in parts]) for name, parts in zip(INPUTS, columns)}
        embeddings = self.session.run(["embedding"], feed)[0]
        ends = numpy.cumsum([ids.shape[0] for ids in columns[0]])
        parts = numpy.split(embeddings, ends[:-1])
        return [triton.InferenceResponse([triton.Tensor("embedding", part)]) for part in parts]


def widened(part, longest):
    """Padded with zeros on the right: no token, and masked."""
    missing = longest - part.shape[1]
    return numpy.pad(part, ((0, 0), (0, missing))) if missing else part
