"""The model in the formats that the runtimes read, made from its weights once and kept beside the environments.

    python -m peers.export --model FOLDER

OpenVINO's int8 is made by NNCF after training, calibrated on the fixture's texts. It can also read onnxruntime's dynamically
quantised file, and then took two to six times as long on an AVX-512 processor, with a minimum cosine of 0.86.
onnxruntime's int8 is quantised as it is by default, one scale for each matrix: 0.86 as well. A scale for each channel takes
that to 0.97 and 3 % of the speed.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import sys
import tempfile

from . import model as models
from . import shapes

# What the files depend on besides weights and versions; a change here makes them anew.
RECIPE = 1
COSINE_MIN = 0.99999
PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "nncf")


@dataclasses.dataclass(frozen=True)
class Files:
    folder: pathlib.Path

    @property
    def f32(self):
        return self.folder / "f32.onnx"

    @property
    def int8(self):
        return self.folder / "int8.onnx"

    @property
    def openvino_int8(self):
        return self.folder / "openvino-int8.xml"


def files(model):
    """Where they are, in the folder that has the model's and the recipe's hash for a name."""
    home = os.environ.get("SHOAL_PEERS")
    if not home:
        sys.exit("peers: SHOAL_PEERS is not set: start this with benches/peers/run")
    versions = pathlib.Path(__file__).with_name("requirements.txt").read_bytes()
    digest = hashlib.sha256(f"{RECIPE}\n".encode() + versions)
    for name in ("config.json", "model.safetensors"):
        digest.update((model.folder / name).read_bytes())
    return Files(pathlib.Path(home) / "models" / digest.hexdigest()[:16])


def make(model):
    """Makes what is missing, whole or not at all."""
    made = files(model)
    if made.folder.is_dir():
        return
    print("peers: exporting the model, once", file=sys.stderr)
    made.folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Files(pathlib.Path(tempfile.mkdtemp(dir=made.folder.parent)))
    try:
        to_onnx(model, draft.f32)
        to_int8(draft)
        to_openvino_int8(draft)
        draft.folder.rename(made.folder)
    except BaseException:
        shutil.rmtree(draft.folder)
        raise


def encoder(model, **settings):
    import transformers

    transformers.utils.logging.set_verbosity_error()
    return transformers.BertModel.from_pretrained(model.folder, add_pooling_layer=False, **settings).eval()


def pooled(hidden, mask):
    """Mean over the tokens that are no padding, scaled to length 1."""
    import torch

    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)


def to_onnx(model, path):
    import torch

    class Sentence(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder(model, attn_implementation="eager")

        def forward(self, input_ids, attention_mask):
            # As attention adds it, since tracing what transformers makes of a mask would fix its length.
            bias = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min
            hidden = self.encoder(input_ids=input_ids, attention_mask=bias).last_hidden_state
            return pooled(hidden, attention_mask)

    sentence = Sentence()
    rows = [shapes.row(shapes.stream(), length, shapes.random.Random(length)) for length in (9, 5)]
    axes = {0: "rows", 1: "tokens"}
    torch.onnx.export(
        sentence,
        tensors(rows),
        str(path),
        input_names=["input_ids", "attention_mask"],
        output_names=["embedding"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "embedding": {0: "rows"}},
        opset_version=17,
        dynamo=False,
    )
    check(model, path)


def check(model, path):
    """A trace that kept a length of its example would answer others wrongly, and no faster."""
    from . import runtimes

    session, reference = runtimes.OnnxRuntime(path, 1), runtimes.Torch(model, 1)
    for lengths in ((16,), (3, 40, 17)):
        rows = [shapes.row(shapes.stream(), length, shapes.random.Random(length)) for length in lengths]
        ids, mask = (tensor.numpy() for tensor in tensors(rows))
        cosine = (session.embed(ids, mask) * reference.embed(ids, mask)).sum(axis=1).min()
        if cosine < COSINE_MIN:
            sys.exit(f"peers: the exported model is not the model: cosine {cosine} at lengths {lengths}")


def tensors(rows):
    import torch

    from . import peer

    return tuple(map(torch.from_numpy, peer.padded(rows)))


def to_int8(files):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(files.f32, files.int8, weight_type=QuantType.QInt8)


def to_openvino_int8(files):
    import nncf
    import openvino

    from . import peer

    texts = json.loads(shapes.TEXTS.read_text())["texts"]
    inputs = [dict(zip(("input_ids", "attention_mask"), peer.padded([text["ids"]]))) for text in texts]
    quantised = nncf.quantize(
        openvino.Core().read_model(files.f32),
        nncf.Dataset(inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(inputs),
    )
    openvino.save_model(quantised, files.openvino_int8, compress_to_fp16=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="peers.export", description=__doc__)
    parser.add_argument("--model")
    # Whoever goes on with the files has arguments besides.
    make(models.open_model(parser.parse_known_args()[0].model))
