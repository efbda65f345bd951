"""torch, onnxruntime and OpenVINO beside Shoal's engine: the same batches, the same threads, in turn.

Prints Markdown on standard output, and how far it is on standard error. `taskset` keeps all of it to chosen processors."""

import argparse
import pathlib
import re
import signal
import sys

from . import engines, export, machine, measure, model, report, shapes


def main():
    arguments = parse()
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("peers: told to stop"))
    opened = model.open_model(arguments.model)
    header = machine.header(arguments.threads, export.PACKAGES)
    export.make(opened)
    run = measure.run(arguments, opened)
    sys.stdout.write(report.report(run, header))
    if not any(run.results.values()):
        sys.exit("peers: no engine answered")


def parse():
    parser = argparse.ArgumentParser(prog="benches/peers/run engines", description=__doc__)
    add = parser.add_argument
    add("--model", metavar="FOLDER", help="all-MiniLM-L6-v2 in Hugging Face layout (default: the pulled one)")
    add("--shoal", metavar="PROGRAM", help="Shoal's engine, speaking the protocol of child.py; without it, peers alone")
    add("--threads", type=positive(int), default=2, help="compute threads of each engine (default: 2)")
    add("--turns", type=positive(int), default=5, help="how often each engine is asked for each shape (default: 5)")
    add("--turn-seconds", type=positive(float), default=0.4, help="what a turn takes, in rounds; one at least (default: 0.4)")
    add("--engines", type=listed, help=f"some of {','.join(engines.BY_NAME)} (default: all)")
    add("--shapes", type=listed, default=shapes.NAMES, help=f"such as {','.join(shapes.NAMES)} (default: these)")
    arguments = parser.parse_args()
    arguments.engines = chosen(parser, arguments)
    if arguments.shoal:
        arguments.shoal = str(pathlib.Path(arguments.shoal).resolve())
    for shape in arguments.shapes:
        if shape != shapes.MIXED and not re.fullmatch(r"[1-9]\d*x([2-9]|[1-9]\d+)", shape):
            parser.error(f"{shape} is no shape: ROWSxLENGTH with a length of 2 or more, or {shapes.MIXED}")
    return arguments


def chosen(parser, arguments):
    """The engines asked for; without Shoal's program, those that do without it."""
    names = arguments.engines or [engine.name for engine in engines.ENGINES if arguments.shoal or not engine.shoal]
    for name in names:
        if name not in engines.BY_NAME:
            parser.error(f"there is no engine {name}; there are {', '.join(engines.BY_NAME)}")
        if engines.BY_NAME[name].shoal and not arguments.shoal:
            parser.error(f"{name} is computed by Shoal's engine: name its program with --shoal")
    return [engine for engine in engines.ENGINES if engine.name in names]


def listed(text):
    return [name for name in text.split(",") if name]


def positive(kind):
    def parse(text):
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


if __name__ == "__main__":
    main()
