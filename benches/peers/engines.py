"""The engines of a run, in the order of the tables."""

import dataclasses
import os
import sys

from . import child

# Loading torch, packing weights and the first call are in the first answer.
ANSWER_SECONDS = 180


@dataclasses.dataclass(frozen=True)
class Engine:
    name: str
    title: str
    # What its products are computed in.
    dtype: str
    # Shoal's program plays it, so that it packs what others pad.
    shoal: bool = False


ENGINES = (
    Engine("torch-f32", "torch f32", "f32"),
    Engine("ort-f32", "onnxruntime f32", "f32"),
    Engine("ort-int8", "onnxruntime int8", "int8"),
    Engine("openvino-f32", "OpenVINO f32", "f32"),
    Engine("openvino-bf16", "OpenVINO bf16", "bf16"),
    Engine("openvino-int8", "OpenVINO int8", "int8"),
    Engine("candle", "candle", "f32", shoal=True),
    Engine("f32", "Shoal f32", "f32", shoal=True),
    Engine("bf16", "Shoal bf16", "bf16", shoal=True),
    Engine("int8", "Shoal int8", "int8", shoal=True),
    Engine("int8-mixed", "Shoal int8-mixed", "int8", shoal=True),
)
BY_NAME = {engine.name: engine for engine in ENGINES}
# Those that Shoal is measured against. candle runs in Shoal, but is not what Shoal is about.
RIVALS = tuple(engine for engine in ENGINES if not engine.shoal or engine.name == "candle")
# The one that the others' answers are held to.
REFERENCE = "torch-f32"


def start(engine, model, threads, shoal=None):
    """The process of an engine; it loads the model while others start. `shoal` is Shoal's program."""
    common = ["--model", str(model.folder), "--threads", str(threads)]
    if engine.shoal:
        command = [shoal, *common, "--dtype", engine.name]
    else:
        command = [sys.executable, "-m", "peers.peer", "--engine", engine.name, *common]
    return child.Child(engine.title, command, environment(threads), ANSWER_SECONDS)


def environment(threads):
    """What keeps every library to its threads, and off the network."""
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {**os.environ, **counts, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
