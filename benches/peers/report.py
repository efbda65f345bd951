"""The tables, in Markdown."""

import math

from . import engines, shapes

OWN = ("f32", "bf16", "int8", "int8-mixed")
# Quantised without calibration, a text's embedding may be as far off as 0.74; below this it is another text's.
COSINE_LEAST = 0.5
SORTED = f"{shapes.MIXED}, sorted"
DTYPES = ("f32", "bf16", "int8")


def report(run, header):
    leave_out_wrong(run)
    parts = [header, rates(run), exactness(run), targets(run)]
    if run.lost:
        lost = "\n".join(f"- {engines.BY_NAME[name].title}: {why}" for name, why in run.lost.items())
        parts.append(f"Out of the run:\n\n{lost}")
    return "\n\n".join(parts) + "\n"


def leave_out_wrong(run):
    """How fast an engine is that computes something else says nothing."""
    for engine in engines.ENGINES:
        cosine = cosine_min(run, engine.name)
        if cosine is not None and cosine < COSINE_LEAST:
            run.lost[engine.name] = f"its answers are wrong: a cosine of {cosine:.3f}"
            for results in run.results.values():
                results.pop(engine.name, None)


def rates(run):
    """Tokens a second; where the silicon's peak was measured, also what it would give."""
    present = [engine for engine in engines.ENGINES if any(engine.name in found for found in run.results.values())]
    peaks = [dtype for dtype in DTYPES if any(run.peak(title, dtype) for title in run.results)]
    head = ["rows × length", *(engine.title for engine in present), *(f"silicon {dtype}" for dtype in peaks), "others"]
    rows = []
    for title, found in run.results.items():
        measured = [thousands(run.rate(title, engine.name)) if engine.name in found else "–" for engine in present]
        rows.append([title.replace("x", " × ") if title[0].isdigit() else title, *measured])
        rows[-1] += [silicon(run, title, dtype) for dtype in peaks]
        rows[-1].append(f"{run.others.get(title, 0):.0%}")
    text = "Tokens per second, without padding; each the median of its turns. Others: the share of the machine that "
    text += f"whoever else is on it took meanwhile.\n\n{table(head, rows)}"
    if peaks:
        text += "\n\nSilicon, Gop/s over all threads: " + ", ".join(f"{dtype} {span(run, dtype)}" for dtype in peaks) + "."
    return text


def silicon(run, title, dtype):
    peak = run.peak(title, dtype)
    return thousands(peak * 1e9 / flop_per_token(run, title)) if peak else "–"


def span(run, dtype):
    """The silicon's least and most over the shapes."""
    found = [peak for title in run.results if (peak := run.peak(title, dtype))]
    return f"{min(found):.0f} to {max(found):.0f}"


def exactness(run):
    """Cosines to the reference over all shapes, and whether a shape's answers were the same bits in every turn."""
    rows = []
    for engine in engines.ENGINES:
        found = {title: results[engine.name] for title, results in run.results.items() if engine.name in results}
        if not found:
            continue
        same = all(len(result.hashes) == 1 for result in found.values())
        cosine = cosine_min(run, engine.name)
        rows.append([engine.title, "–" if cosine is None else f"{cosine:.5f}", "yes" if same else "no"])
    reference = engines.BY_NAME[engines.REFERENCE].title
    return table(["engine", f"least cosine to {reference}", "same bits every turn"], rows)


def cosine_min(run, name):
    cosines = [
        cosine(own, reference)
        for results in run.results.values()
        if name in results and engines.REFERENCE in results
        for own, reference in zip(results[name].embeddings, results[engines.REFERENCE].embeddings, strict=True)
    ]
    return min(cosines, default=None)


def cosine(a, b):
    """-1, as far from right as can be, where either is no vector of finite numbers or they differ in length. JSON has null
    for what is not a number."""
    if len(a) != len(b) or None in a or None in b:
        return -1.0
    lengths = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    found = sum(x * y for x, y in zip(a, b)) / lengths if lengths else math.nan
    return found if math.isfinite(found) else -1.0


def targets(run):
    if not any(name in results for results in run.results.values() for name in OWN):
        return "No targets: Shoal's engine was not in the run (`--shoal`)."
    rows = [[what, f"≥ {least}", *verdict(least, found)] for what, least, found in measured(run)]
    return table(["Shoal", "target", "measured", ""], rows)


def verdict(least, found):
    """The worst that was found and what of it is short; what was not measured is neither short nor ok."""
    found = {title: value for title, value in found.items() if value is not None}
    if not found:
        return "–", "not measured"
    worst = min(found, key=found.get)
    short = [f"{value:.3g} at {title}" for title, value in found.items() if value < least]
    return f"{found[worst]:.4g} at {worst}", f"short: {', '.join(short)}" if short else "ok"


def measured(run):
    """Target by target: what it says, the least it asks, and what was measured by shape."""
    plain = [title for title in run.results if title != SORTED]
    rivals = {dtype: [rival.name for rival in engines.RIVALS if rival.dtype == dtype] for dtype in DTYPES}

    def against(own, others, titles):
        return {title: ratio(run.rate(title, own), fastest(run, title, others)) for title in titles}

    def of_peak(titles):
        return {title: share_of_peak(run, title, "bf16") for title in titles if title in run.results}

    yield "f32, of the fastest float32 peer", 1.0, against("f32", rivals["f32"], plain)
    yield "bf16, of OpenVINO bf16, one short row", 2.5, against("bf16", ["openvino-bf16"], ["1x16"])
    yield "bf16, of OpenVINO bf16", 1.15, against("bf16", ["openvino-bf16"], plain)
    yield "bf16, of the silicon's peak, length 128", 0.88, of_peak([name for name in plain if name.endswith("x128")])
    yield "bf16, of the silicon's peak, length 256", 0.80, of_peak(["32x256"])
    yield "int8, of onnxruntime int8", 1.5, against("int8", ["ort-int8"], plain)
    yield "int8, of OpenVINO int8", 1.0, against("int8", ["openvino-int8"], plain)
    yield "int8-mixed, of Shoal bf16", 1.15, against("int8-mixed", ["bf16"], plain)
    yield "int8-mixed, least cosine", 0.999, {"any shape": cosine_min(run, "int8-mixed")}
    for dtype in DTYPES:
        own = run.rate(shapes.MIXED, dtype)
        for least, title, how in ((2.0, shapes.MIXED, "as it comes"), (1.2, SORTED, "sorted by length")):
            # candle computes without padding, as it is ours.
            others = [name for name in rivals[dtype] if name != "candle"]
            found = {title: ratio(own, fastest(run, title, others))}
            yield f"{dtype}, mixed lengths, of the fastest {dtype} peer given them {how}", least, found


def fastest(run, title, names):
    return max((rate for name in names if (rate := run.rate(title, name))), default=None)


def ratio(own, other):
    return own / other if own and other else None


def share_of_peak(run, title, dtype):
    rate, peak = run.rate(title, dtype), run.peak(title, dtype)
    return rate * flop_per_token(run, title) / (peak * 1e9) if rate and peak else None


def flop_per_token(run, title):
    batch = run.batches[title]
    return shapes.flop(batch.rows, run.model) / batch.tokens


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def thousands(rate):
    return f"{rate / 1000:.1f}k" if rate >= 1000 else f"{rate:.0f}"
