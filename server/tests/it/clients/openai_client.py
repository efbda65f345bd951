"""OpenAI's own client against a server: `openai_client.py TASK BASE_URL FIXTURES`.

Ends with an error where an answer is not what it must be.
"""

import base64
import concurrent.futures
import json
import math
import pathlib
import struct
import sys
import time

import openai

TASK, BASE_URL, FIXTURES = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
TEXTS = json.loads((FIXTURES / "texts.json").read_text())
DIMS = TEXTS["dims"]
TEXTS = TEXTS["texts"]
VECTORS = [list(vector) for vector in struct.iter_unpack(f"<{DIMS}f", (FIXTURES / "vectors.f32").read_bytes())]
MODEL = "minilm"


def client(**options):
    return openai.OpenAI(base_url=BASE_URL, api_key="none", **{"max_retries": 0, **options})


def check(found, expected, what):
    assert len(found) == len(expected), (what, len(found))
    dot = lambda a, b: sum(x * y for x, y in zip(a, b))
    cosine = dot(found, expected) / math.sqrt(dot(found, found) * dot(expected, expected))
    # As near to float32 as bfloat16 comes, which is what processors that have it compute in.
    assert cosine >= 0.9995, (what, cosine)


def fails(exception, call, **arguments):
    try:
        call(**arguments)
    except exception as error:
        assert type(error) is exception, (arguments, error)
        return error
    raise AssertionError(f"{arguments} did not fail")


def answers():
    embeddings = client().embeddings
    texts = [text["text"] for text in TEXTS]
    # Of its own the client asks for base64, and hands out numbers.
    together = embeddings.create(model=MODEL, input=texts, extra_body={"truncate": True})
    assert (together.object, together.model) == ("list", MODEL)
    assert together.usage.prompt_tokens == together.usage.total_tokens == sum(len(text["ids"]) for text in TEXTS)
    for index, (entry, text, vector) in enumerate(zip(together.data, TEXTS, VECTORS, strict=True)):
        assert (entry.index, entry.object) == (index, "embedding")
        check(entry.embedding, vector, text["name"])
    few = [text for text in TEXTS if not text["truncated"]][:4]
    vectors = [VECTORS[TEXTS.index(text)] for text in few]
    for text, vector in zip(few, vectors):
        numbers = embeddings.create(model=MODEL, input=text["text"], encoding_format="float")
        check(numbers.data[0].embedding, vector, text["name"])
        packed = embeddings.create(model=MODEL, input=text["text"], encoding_format="base64")
        # A number reads back as the very `f32` it was written from.
        written = struct.pack(f"<{DIMS}f", *numbers.data[0].embedding)
        assert written == base64.b64decode(packed.data[0].embedding), text["name"]
        ids = embeddings.create(model=MODEL, input=text["ids"])
        check(ids.data[0].embedding, vector, text["name"])
        assert ids.usage.prompt_tokens == len(text["ids"])
    lists = embeddings.create(model=MODEL, input=[text["ids"] for text in few])
    for entry, vector in zip(lists.data, vectors, strict=True):
        check(entry.embedding, vector, "ids")
    short = embeddings.create(model=MODEL, input=few[0]["text"], dimensions=64).data[0].embedding
    check(short, vectors[0][:64], "short")
    assert abs(math.hypot(*short) - 1) < 1e-5, "normalised anew"
    listed = client().models.list()
    assert [model.id for model in listed] == [MODEL]
    assert client().models.retrieve(MODEL).owned_by == "shoal"
    raw = embeddings.with_raw_response.create(model=MODEL, input="a", extra_headers={"x-request-id": "mine"})
    assert raw.headers["x-request-id"] == "mine" and int(raw.headers["x-shoal-compute-us"]) > 0, raw.headers


def errors():
    create = client().embeddings.create
    unknown = fails(openai.NotFoundError, create, model="minlm", input="a")
    assert unknown.code == "model_not_found" and "`minilm`" in unknown.message, unknown
    fails(openai.NotFoundError, client().models.retrieve, model="nobody")
    fails(openai.NotFoundError, client().chat.completions.create, model=MODEL, messages=[])
    long = "word " * 300
    cases = {
        "input[1]": {"input": ["a", long]},
        "input": {"input": long},
        "input[0]": {"input": [[101, 40000, 102]]},
        "dimensions": {"input": "a", "dimensions": 385},
        "encoding_format": {"input": "a", "encoding_format": "hex"},
        "surprise": {"input": "a", "extra_body": {"surprise": 1}},
    }
    for param, arguments in cases.items():
        error = fails(openai.BadRequestError, create, model=MODEL, **arguments)
        assert error.param == param and param in error.message, error
    error = fails(openai.BadRequestError, create, model=MODEL, input=["a"] * 2049)
    assert error.param == "input" and "2048" in error.message, error
    error = fails(openai.APIStatusError, create, model=MODEL, input="a " * (9 << 20))
    assert error.status_code == 413 and error.code == "request_too_large", error
    late = fails(openai.InternalServerError, create, model=MODEL, input="a", extra_headers={"x-shoal-timeout": "0s"})
    assert late.status_code == 504 and late.code == "deadline_passed", late


def full():
    impatient, patient = client(), client(max_retries=100)
    until = time.monotonic() + 60
    refusals = []

    def ask_until_refused():
        while not refusals and time.monotonic() < until:
            try:
                impatient.embeddings.create(model=MODEL, input="a")
            except openai.RateLimitError as error:
                refusals.append(error)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for asking in [pool.submit(ask_until_refused) for _ in range(16)]:
            asking.result()
        assert refusals[0].code == "model_queue_full", refusals[0]
        headers = refusals[0].response.headers
        assert int(headers["retry-after"]) >= 1 and int(headers["retry-after-ms"]) >= 1, headers
        # Who waits as told gets through.
        calls = [pool.submit(patient.embeddings.create, model=MODEL, input=text["text"]) for text in TEXTS[:16]]
        for call, vector in zip(calls, VECTORS):
            check(call.result().data[0].embedding, vector, "after a full queue")


{"answers": answers, "errors": errors, "full": full}[TASK]()
