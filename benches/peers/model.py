"""The model: a folder in Hugging Face layout, as `shoal models pull minilm` leaves it."""

import dataclasses
import json
import os
import pathlib
import sys


@dataclasses.dataclass(frozen=True)
class Model:
    folder: pathlib.Path
    layers: int
    hidden: int
    intermediate: int


def open_model(folder):
    folder = pathlib.Path(folder).resolve() if folder else pulled()
    try:
        config = json.loads((folder / "config.json").read_text())
        sizes = [config[key] for key in ("num_hidden_layers", "hidden_size", "intermediate_size")]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"peers: {folder} is no BERT in Hugging Face layout: {error!r}")
    if not (folder / "model.safetensors").is_file():
        sys.exit(f"peers: {folder} has no model.safetensors")
    return Model(folder, *sizes)


def pulled():
    """Where the product keeps what it pulled; the newest, should there be several."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    home = pathlib.Path(os.environ.get("SHOAL_HOME") or cache / "shoal")
    found = sorted(home.glob("models/minilm/*/config.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        sys.exit(f"peers: there is no minilm in {home}: run `shoal models pull minilm`, or name its folder with --model")
    return found[-1].parent
