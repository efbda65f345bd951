"""A Triton server with onnxruntime beside Shoal's, over gRPC: the same calls of token ids, as many in flight, in turn.

Prints Markdown on standard output, and how far it is on standard error."""

import argparse
import dataclasses
import pathlib
import shutil
import signal
import sys
import tempfile
import time

from .. import child, engines, machine, model, report, shapes
from ..__main__ import listed, positive
from ..measure import Result, rounds_of_a_turn, turn
from . import load, results, servers

COSINE_MIN = 0.95


@dataclasses.dataclass
class Run:
    dtype: str
    in_flight: int
    lengths: list
    # By server's name and length, one for each turn.
    measured: dict = dataclasses.field(default_factory=dict)
    # The engine without a server, tokens a second by length.
    engine: dict = dataclasses.field(default_factory=dict)
    cosines: dict = dataclasses.field(default_factory=dict)
    first_answer_ms: float = 0.0
    worker_megabytes: tuple = ()


def main():
    arguments = parse()
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("peers: told to stop"))
    load.program()
    opened = model.open_model(arguments.model)
    header = machine.header(arguments.threads, ("nvidia-pytriton", "onnxruntime"))
    run = Run(arguments.dtype, arguments.in_flight, arguments.lengths)
    folder = pathlib.Path(tempfile.mkdtemp())
    started = []
    try:
        measure(arguments, opened, run, folder, started)
    except child.EngineError as error:
        sys.exit(f"peers: Shoal's engine: {error}")
    finally:
        for process in reversed(started):
            process.end()
        shutil.rmtree(folder)
    sys.stdout.write(results.tables(header, run))


def measure(arguments, opened, run, folder, started):
    """Starts both servers, one after the other, and loads them in turn. What it starts is in `started`."""
    stream = shapes.stream()
    rows = {length: shapes.row(stream, length, shapes.random.Random(length)) for length in run.lengths}
    shoal = servers.Shoal(arguments.shoal, opened, arguments.dtype, arguments.threads, folder)
    started.append(shoal)
    shoal.wait()
    shoal.embed(rows[run.lengths[0]])
    run.first_answer_ms = (time.monotonic() - shoal.began) * 1000
    triton = servers.Triton(opened, arguments.threads, folder)
    started.append(triton)
    triton.wait()
    engine = None
    if arguments.engine:
        engine = engines.start(engines.BY_NAME[run.dtype], opened, arguments.threads, arguments.engine)
        started.append(engine)
    for length, ids in rows.items():
        run.cosines[length] = report.cosine(shoal.embed(ids), triton.embed(ids))
        if run.cosines[length] < COSINE_MIN:
            sys.exit(f"peers: the servers do not compute the same: cosine {run.cosines[length]} at length {length}")
        path = folder / f"call-{length}"
        path.write_bytes(load.call(servers.MODEL, ids))
        turns(arguments, run, length, path, folder, (triton, shoal), engine, stream)
    run.worker_megabytes = shoal.worker_megabytes()


def turns(arguments, run, length, path, folder, both, engine, stream):
    """Each server in turn, and then for as long the engine by itself with as many rows as are in flight."""
    batch = shapes.shape(f"{run.in_flight}x{length}", stream)
    alone = Result(batch.tokens)
    if engine:
        # Twice, since the first call of a shape plans, allocates and wakes.
        rounds, warm = rounds_of_a_turn(engine.shape(batch.rows, 2)["seconds"][1], arguments.seconds)
    for number in range(arguments.turns):
        print(f"peers: length {length}, turn {number + 1}", file=sys.stderr)
        for server in both:
            found = load.put(server, path, run.in_flight, arguments.seconds, folder)
            run.measured.setdefault((server.name, length), []).append(found)
        if engine:
            turn(engine, batch, 0, rounds, warm, alone)
    if alone.seconds:
        run.engine[length] = alone.rate


def parse():
    parser = argparse.ArgumentParser(prog="benches/peers/run triton", description=__doc__)
    add = parser.add_argument
    add("--shoal", metavar="BINARY", required=True, help="the product's binary: target/release/shoal")
    add("--engine", metavar="PROGRAM", help="Shoal's engine, as for `engines`, to say what serving costs it")
    add("--model", metavar="FOLDER", help="all-MiniLM-L6-v2 in Hugging Face layout (default: the pulled one)")
    add("--dtype", choices=("f32", "bf16", "int8"), default="bf16", help="what Shoal computes in (default: bf16)")
    add("--threads", type=positive(int), default=2, help="compute threads of each (default: 2)")
    add("--in-flight", type=positive(int), default=64, help=f"calls at once, a multiple of {load.CONNECTIONS} (default: 64)")
    add("--lengths", type=listed, default=["16", "128"], help="tokens of a call (default: 16,128)")
    add("--turns", type=positive(int), default=3, help="how often each server is loaded (default: 3)")
    add("--seconds", type=positive(int), default=5, help="how long each time (default: 5)")
    arguments = parser.parse_args()
    arguments.shoal = str(pathlib.Path(arguments.shoal).resolve())
    if not pathlib.Path(arguments.shoal).is_file():
        parser.error(f"there is no {arguments.shoal}: `cargo build --release` makes it")
    if arguments.engine:
        arguments.engine = str(pathlib.Path(arguments.engine).resolve())
    if arguments.in_flight % load.CONNECTIONS:
        parser.error(f"{arguments.in_flight} calls in flight cannot be shared by {load.CONNECTIONS} connections")
    if not arguments.lengths or not all(length.isdigit() and 2 <= int(length) <= 256 for length in arguments.lengths):
        parser.error(f"lengths are numbers from 2 to 256, not {','.join(arguments.lengths)}")
    arguments.lengths = [int(length) for length in arguments.lengths]
    return arguments


if __name__ == "__main__":
    main()
