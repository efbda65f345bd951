"""One peer in a process of its own: `python -m peers.peer --engine ort-int8 --model FOLDER --threads 2`."""

import argparse
import hashlib
import json
import os
import sys
import time

import numpy

from . import model, runtimes, shapes


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    # Libraries print where they like; the answers go where nobody else writes.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    runtime = None
    for line in sys.stdin:
        try:
            if runtime is None:
                runtime = runtimes.open_runtime(arguments.engine, model.open_model(arguments.model), arguments.threads)
            answer = reply(runtime, json.loads(line))
        except Exception as error:  # The run goes on without this peer and says why.
            answer = {"error": f"{type(error).__name__}: {error}"[:600]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def reply(runtime, question):
    if question["op"] != "shape":
        raise ValueError(f"a peer answers no {question['op']!r}")
    rows = question["ids"]
    order = shapes.groups(rows, question.get("sorted", 0))
    batches = [padded([rows[at] for at in group]) for group in order]
    seconds = []
    for _ in range(question["rounds"]):
        began = time.perf_counter()
        found = [runtime.embed(*batch) for batch in batches]
        seconds.append(time.perf_counter() - began)
    embeddings = numpy.empty((len(rows), found[0].shape[1]), "<f4")
    for group, vectors in zip(order, found, strict=True):
        embeddings[group] = vectors
    answer = {"seconds": seconds, "embeddings_sha": hashlib.sha256(embeddings.tobytes()).hexdigest()}
    if question.get("want"):
        answer["embeddings"] = embeddings.tolist()
    return answer


def padded(rows):
    """Ids and mask, both `[rows, longest]`. Not timed: a caller that has arrays has these."""
    ids = numpy.zeros((len(rows), max(map(len, rows))), numpy.int64)
    mask = numpy.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = row
        mask[at, : len(row)] = 1
    return ids, mask


if __name__ == "__main__":
    main()
