"""Other people's engines. Each takes padded int64 ids and their mask and gives sentence embeddings: the mean over the
tokens, scaled to length 1, computed in the engine itself."""

import numpy

from . import export


class Torch:
    """transformers' BERT, as it comes."""

    def __init__(self, model, threads):
        import torch

        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        self.torch = torch
        self.encoder = export.encoder(model)

    def embed(self, ids, mask):
        with self.torch.inference_mode():
            hidden = self.encoder(
                input_ids=self.torch.from_numpy(ids), attention_mask=self.torch.from_numpy(mask)
            ).last_hidden_state
            return export.pooled(hidden, self.torch.from_numpy(mask)).numpy()


class OnnxRuntime:
    def __init__(self, path, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def embed(self, ids, mask):
        return self.session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]


class OpenVino:
    def __init__(self, path, threads, precision):
        import openvino

        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeError("the processor has no bf16, and OpenVINO would compute in f32")
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        self.request = core.compile_model(core.read_model(str(path)), "CPU", settings).create_infer_request()

    def embed(self, ids, mask):
        results = self.request.infer({"input_ids": ids, "attention_mask": mask}, share_inputs=True)
        # The next call writes where this one's answer lies.
        return numpy.array(results[0])


def open_runtime(name, model, threads):
    files = export.files(model)
    match name:
        case "torch-f32":
            return Torch(model, threads)
        case "ort-f32":
            return OnnxRuntime(files.f32, threads)
        case "ort-int8":
            return OnnxRuntime(files.int8, threads)
        case "openvino-f32":
            return OpenVino(files.f32, threads, "f32")
        case "openvino-bf16":
            return OpenVino(files.f32, threads, "bf16")
        case "openvino-int8":
            return OpenVino(files.openvino_int8, threads, "f32")
    raise ValueError(f"there is no peer {name}")
