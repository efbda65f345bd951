"""Asks the engines in turn, so that what slows the machine for a while slows them all."""

import dataclasses
import os
import statistics
import sys
import time

from . import child, engines, machine, shapes

# Spinning threads of whoever was asked last are asleep by then.
BREATH_SECONDS = 0.02
ROUNDS_MAX = 200


@dataclasses.dataclass
class Result:
    """What one engine made of one shape."""

    tokens: int
    # Of each turn, the median of its rounds.
    seconds: list = dataclasses.field(default_factory=list)
    embeddings: list = dataclasses.field(default_factory=list)
    hashes: set = dataclasses.field(default_factory=set)

    @property
    def rate(self):
        """Tokens a second."""
        return self.tokens / statistics.median(self.seconds)


@dataclasses.dataclass
class Run:
    model: object
    # By the shape's title, then the engine's name.
    results: dict = dataclasses.field(default_factory=dict)
    batches: dict = dataclasses.field(default_factory=dict)
    # By the shape's title, then dtype: billions of operations a second, what the silicon showed as each turn began.
    peaks: dict = dataclasses.field(default_factory=dict)
    # By shape's title: the share of the machine that others took meanwhile.
    others: dict = dataclasses.field(default_factory=dict)
    # Engines that failed, and why.
    lost: dict = dataclasses.field(default_factory=dict)

    def rate(self, title, name):
        """Tokens a second, or None where it was not measured."""
        result = self.results.get(title, {}).get(name)
        return result.rate if result else None

    def peak(self, title, dtype):
        """What the silicon can do at most: the median of what was measured at the start of each of the shape's turns, since
        engines are held to how fast it was then."""
        found = self.peaks.get(title, {}).get(dtype)
        return statistics.median(found) if found else None


def title(name, group):
    return f"{name}, sorted" if group else name


def run(arguments, model):
    """All shapes on all engines. Ends every process that it started."""
    field = Field(Run(model))
    try:
        for engine in arguments.engines:
            field.start(engine, arguments)
        stream = shapes.stream()
        for name in arguments.shapes:
            for group in (0, shapes.SORTED_GROUP) if name == shapes.MIXED else (0,):
                # Who packs is not asked again for what others get sorted.
                asked = [engine for engine in arguments.engines if not (group and engine.shoal)]
                if any(engine.name in field.children for engine in asked):
                    one_shape(arguments, field, asked, shapes.shape(name, stream), group)
    finally:
        field.end()
    return field.done


class Field:
    """The engines still in the run. One that fails is out of it; the others go on."""

    def __init__(self, done):
        self.done = done
        self.children = {}
        self.tells_peaks = True

    def start(self, engine, arguments):
        try:
            self.children[engine.name] = engines.start(engine, self.done.model, arguments.threads, arguments.shoal)
        except child.EngineError as error:
            self.lose(engine.name, error)

    def ask(self, name, question):
        """What `question` returns for the engine's process, or None where there is none any more."""
        process = self.children.get(name)
        if process is None:
            return None
        try:
            return question(process)
        except child.EngineError as error:
            self.lose(name, error)
            return None

    def lose(self, name, error):
        print(f"peers: goes on without {name}: {error}", file=sys.stderr)
        self.done.lost[name] = str(error)
        process = self.children.pop(name, None)
        if process:
            process.end()

    def end(self):
        for process in self.children.values():
            process.end()


def one_shape(arguments, field, asked, shape, group):
    name = title(shape.name, group)
    print(f"peers: {name}", file=sys.stderr)
    field.done.batches[name] = shape
    results, rounds = {}, {}
    for engine in asked:
        # Twice, since the first call of a shape plans, allocates and wakes.
        answer = field.ask(engine.name, lambda process: process.shape(shape.rows, 2, want=True, group=group))
        if answer:
            rounds[engine.name] = rounds_of_a_turn(answer["seconds"][1], arguments.turn_seconds)
            results[engine.name] = Result(
                shape.tokens, embeddings=answer["embeddings"], hashes={answer["embeddings_sha"]}
            )
    others = machine.Others([os.getpid(), *(process.process.pid for process in field.children.values())])
    for _ in range(arguments.turns):
        measure_peaks(arguments, field, name)
        for chosen in rounds:
            field.ask(chosen, lambda process: turn(process, shape, group, *rounds[chosen], results[chosen]))
    field.done.others[name] = others.share()
    field.done.results[name] = {name: result for name, result in results.items() if name in field.children}


def turn(process, shape, group, rounds, warm, result):
    """Adds a turn of one engine to its result, when whoever was asked before is asleep."""
    time.sleep(BREATH_SECONDS)
    answer = process.shape(shape.rows, rounds + warm, group=group)
    result.seconds.append(statistics.median(answer["seconds"][warm:]))
    result.hashes.add(answer["embeddings_sha"])


def rounds_of_a_turn(seconds, turn_seconds):
    """How many rounds fill a turn, and whether one more goes first, uncounted, to bring the engine back into the caches.
    A round that is as long as a turn does that by itself."""
    if seconds >= turn_seconds:
        return 1, 0
    return min(ROUNDS_MAX, max(1, round(turn_seconds / max(seconds, 1e-6)))), 1


def measure_peaks(arguments, field, title):
    """Asks the first of Shoal's programs that runs: the silicon's peaks are the same for all. One that cannot tell is started
    again, as an engine like any other, and nobody is asked any more."""
    name = next((name for name in field.children if engines.BY_NAME[name].shoal), None)
    if name is None or not field.tells_peaks:
        return
    time.sleep(BREATH_SECONDS)
    try:
        found = field.children[name].ask({"op": "peak"})
    except child.EngineError as error:
        print(f"peers: goes on without the silicon's peaks: {error}", file=sys.stderr)
        field.tells_peaks = False
        field.children.pop(name).end()
        return field.start(engines.BY_NAME[name], arguments)
    peaks = field.done.peaks.setdefault(title, {})
    for dtype, peak in found.items():
        if peak:
            peaks.setdefault(dtype, []).append(peak)
