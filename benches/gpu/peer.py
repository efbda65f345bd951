"""What torch takes for the same batches of the same model, in each of its modes: what Shoal's times stand beside.

    peer.py --json FILE FOLDER...
"""

import argparse
import json
import pathlib
import random
import time

import torch
import transformers

# Rows by length; 0 is lengths from 4 to 256, short ones more often.
SHAPES = {"1x32": (1, 32), "32x128": (32, 128), "1024x128": (1024, 128), "256 mixed": (256, 0)}
ROUNDS = 30


def lengths(count, length):
    draw = random.Random(1)
    return [length or int(4 * 64 ** draw.random()) for _ in range(count)]


def middle(work, synchronize):
    """The middle one of many runs, in seconds."""
    for _ in range(5):
        work()
    synchronize()
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        synchronize()
        took.append(time.perf_counter() - began)
    return sorted(took)[len(took) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=pathlib.Path, required=True)
    parser.add_argument("folders", type=pathlib.Path, nargs="+")
    arguments = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    device = "cuda" if has_gpu else "cpu"
    synchronize = torch.cuda.synchronize if has_gpu else lambda: None
    found = {"torch": torch.__version__, "transformers": transformers.__version__, "device": device, "seconds": {}}
    # What takes longest comes last.
    for mode in ["eager", "sdpa", "compile"]:
        for folder in arguments.folders:
            attention = "eager" if mode == "eager" else "sdpa"
            model = transformers.AutoModel.from_pretrained(
                folder, attn_implementation=attention, torch_dtype=torch.bfloat16).to(device).eval()
            forward = torch.compile(model, dynamic=True) if mode == "compile" else model
            vocabulary = model.config.vocab_size
            for name, (count, length) in SHAPES.items():
                rows = lengths(count, length)
                widest = max(rows)
                mask = torch.zeros(count, widest, dtype=torch.long)
                for row, tokens in enumerate(rows):
                    mask[row, :tokens] = 1
                ids = torch.randint(0, vocabulary, (count, widest)) * mask

                def embed():
                    # From the host to the host, as a server does it.
                    with torch.inference_mode():
                        on_device = mask.to(device, non_blocking=True)
                        states = forward(ids.to(device, non_blocking=True), attention_mask=on_device).last_hidden_state
                        weights = on_device.unsqueeze(-1).to(states.dtype)
                        return ((states * weights).sum(1) / weights.sum(1)).float().cpu()

                if device == "cpu" and count > 32:
                    continue
                seconds = middle(embed, synchronize)
                found["seconds"][f"{folder.name}, {mode}, {name}"] = seconds
                print(f"{folder.name}, {mode}, {name}: {seconds * 1e6:.1f} µs", flush=True)
                arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
