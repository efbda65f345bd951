#!/usr/bin/env python3
"""Speaks the protocol of `child` as Shoal's engine does, with made-up numbers: a second for each token, and for embeddings
one axis for each row. FAKE_FAILS names a dtype that refuses, FAKE_HANGS one that never answers, FAKE_DIES one that ends, and
FAKE_PEAKLESS one that ends when it is asked for peaks."""

import argparse
import hashlib
import json
import os
import sys
import time

parser = argparse.ArgumentParser()
for flag in ("--model", "--threads", "--dtype"):
    parser.add_argument(flag, required=True)
dtype = parser.parse_args().dtype
if os.environ.get("FAKE_DIES") == dtype:
    sys.exit("no weights in there")
for line in sys.stdin:
    question = json.loads(line)
    if os.environ.get("FAKE_HANGS") == dtype:
        time.sleep(60)
    if question["op"] == "peak" and os.environ.get("FAKE_PEAKLESS") == dtype:
        sys.exit("no such request")
    if os.environ.get("FAKE_FAILS") == dtype:
        answer = {"error": "the processor cannot"}
    elif question["op"] == "peak":
        answer = {"f32": 100.0, "bf16": 200.0, "int8": None}
    else:
        ids = question["ids"]
        answer = {"seconds": [float(sum(map(len, ids)))] * question["rounds"]}
        answer["embeddings_sha"] = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
        if question["want"]:
            answer["embeddings"] = [[float(at == row) for at in range(len(ids))] for row in range(len(ids))]
    print(json.dumps(answer), flush=True)
