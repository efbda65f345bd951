"""The tables of the run over gRPC."""

import statistics

from .. import report

# Megabytes of a worker that serves MiniLM: the most ever, and steadily.
MEMORY = {"bf16": (150, 110), "int8": (120, 90)}
FIRST_ANSWER_MS = 300


def tables(header, run):
    return "\n\n".join((header, rates(run), targets(run))) + "\n"


def rates(run):
    head = ["tokens a call", "Triton calls/s", "Shoal calls/s", "Shoal's engine, in calls/s", "Triton p99", "Shoal p99", "cosine"]
    rows = []
    for length in run.lengths:
        engine = run.engine.get(length)
        rows.append(
            [
                str(length),
                *(f"{rate(run, name, length):.0f}" for name in ("Triton", "Shoal")),
                f"{engine / length:.0f}" if engine else "–",
                *(f"{p99(run, name, length):.0f} ms" for name in ("Triton", "Shoal")),
                f"{run.cosines[length]:.5f}",
            ]
        )
    return f"{run.in_flight} calls in flight, one row each; medians.\n\n{report.table(head, rows)}"


def targets(run):
    lengths = {f"length {length}": length for length in run.lengths}
    of_triton = {name: rate(run, "Shoal", at) / rate(run, "Triton", at) for name, at in lengths.items()}
    of_engine = {name: report.ratio(rate(run, "Shoal", at) * at, run.engine.get(at)) for name, at in lengths.items()}
    rows = [
        ["calls/s, of Triton with onnxruntime", "≥ 2", *report.verdict(2, of_triton)],
        ["tokens/s, of the engine's own", "≥ 0.85", *report.verdict(0.85, of_engine)],
    ]
    most, steady = MEMORY.get(run.dtype, (None, None))
    now, ever = run.worker_megabytes
    rows.append(at_most(f"{run.dtype} worker, most resident ever, MB", most, ever))
    rows.append(at_most(f"{run.dtype} worker, resident after the load, MB", steady, now))
    rows.append(at_most("start of server and worker to first answer, ms", FIRST_ANSWER_MS, run.first_answer_ms))
    return report.table(["Shoal", "target", "measured", ""], rows)


def at_most(what, most, found):
    if most is None:
        return [what, "–", f"{found:.0f}", ""]
    return [what, f"≤ {most}", f"{found:.0f}", "ok" if found <= most else "short"]


def rate(run, name, length):
    return statistics.median(measured.rate for measured in run.measured[name, length])


def p99(run, name, length):
    return statistics.median(measured.p99_ms for measured in run.measured[name, length])
