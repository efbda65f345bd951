"""What is computed: batches of token ids, the same in every run and for every engine."""

import dataclasses
import json
import pathlib
import random

TEXTS = pathlib.Path(__file__).parents[2] / "server/tests/fixtures/minilm/texts.json"
CLS, SEP = 101, 102
MIXED_ROWS, MIXED_SHORTEST, MIXED_LONGEST = 32, 8, 256
# The rows that a peer pads together when it is given them sorted by length.
SORTED_GROUP = 8
MIXED = "mixed"
NAMES = ("1x16", "1x128", "8x16", "8x128", "32x128", "32x256", "1x512", MIXED)


@dataclasses.dataclass(frozen=True)
class Shape:
    name: str
    rows: list

    @property
    def tokens(self):
        """Without padding: nobody is paid for that."""
        return sum(map(len, self.rows))


def shape(name, stream):
    """The batch of that name: `ROWSxLENGTH`, or `mixed`."""
    if name == MIXED:
        draw = random.Random(4)
        lengths = [draw.randint(MIXED_SHORTEST, MIXED_LONGEST) for _ in range(MIXED_ROWS)]
    else:
        rows, length = map(int, name.split("x"))
        lengths = [length] * rows
    draw = random.Random(name)
    return Shape(name, [row(stream, length, draw) for length in lengths])


def row(stream, length, draw):
    """A passage of running text from anywhere in the stream."""
    start = draw.randrange(len(stream))
    inner = [stream[(start + at) % len(stream)] for at in range(length - 2)]
    return [CLS, *inner, SEP]


def stream(path=TEXTS):
    """The fixture's texts one after another, as ids: real language, since int8 is as exact as its activations are tame."""
    texts = json.loads(path.read_text())["texts"]
    return [token for text in texts for token in text["ids"][1:-1]]


def groups(rows, size):
    """Which rows are padded together: all, or of those sorted by length `size` at a time."""
    if not size:
        return [list(range(len(rows)))]
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
    return [order[at : at + size] for at in range(0, len(order), size)]


def flop(rows, model):
    """Floating-point operations of the encoder's layers, a multiply-add being two: matrices, then scores and their use."""
    hidden, inner = model.hidden, model.intermediate
    per_token = 2 * (4 * hidden * hidden + 2 * hidden * inner)
    return sum(len(row) * model.layers * (per_token + 4 * len(row) * hidden) for row in rows)
