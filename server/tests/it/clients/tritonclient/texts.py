"""Texts and token ids on a real encoder."""

import json
import sys

import numpy as np
import tritonclient.grpc as triton


def text(values, shape=None):
    tensor = triton.InferInput("text", shape or [len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array(values, dtype=object).reshape(shape or [len(values)]))
    return tensor


def main(address):
    client = triton.InferenceServerClient(address)
    folder = "server/tests/fixtures/minilm"
    with open(f"{folder}/texts.json") as file:
        fixtures = json.load(file)
    expected = np.fromfile(f"{folder}/vectors.f32", dtype="<f4").reshape(-1, fixtures["dims"])
    chosen = [at for at, fixture in enumerate(fixtures["texts"]) if len(fixture["ids"]) <= 32][:12]
    texts = [fixtures["texts"][at]["text"] for at in chosen]
    expected = expected[chosen]

    def same(found):
        assert found.dtype == np.float32 and found.shape == expected.shape, found.shape
        # As near to float32 as bfloat16 comes, which is what processors that have it compute in.
        assert ((found * expected).sum(axis=1) > 0.9995).all()

    # As rows, as a column, and as the metadata shows them.
    [model_input] = client.get_model_metadata("minilm").inputs
    assert (model_input.name, model_input.datatype, list(model_input.shape)) == ("text", "BYTES", [-1, 1])
    same(client.infer("minilm", [text(texts)]).as_numpy("embedding"))
    same(client.infer("minilm", [text(texts, [len(texts), 1])]).as_numpy("embedding"))
    by_bytes = client.infer("minilm", [text([value.encode() for value in texts])], compression_algorithm="gzip")
    same(by_bytes.as_numpy("embedding"))

    # As ids, padded, with and without what is padding.
    ids = [fixtures["texts"][at]["ids"] for at in chosen]
    length = max(map(len, ids))
    padded = np.array([row + [0] * (length - len(row)) for row in ids], dtype=np.int64)
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in ids], dtype=np.int64)
    inputs = [triton.InferInput(name, padded.shape, "INT64") for name in ("input_ids", "attention_mask")]
    inputs[0].set_data_from_numpy(padded)
    inputs[1].set_data_from_numpy(mask)
    same(client.infer("minilm", inputs).as_numpy("embedding"))

    # By parameter: cut texts, shorter vectors, in the answer what was used.
    result = client.infer("minilm", [text(["word " * 1000])], parameters={"truncate": True, "dimensions": 64})
    assert result.as_numpy("embedding").shape == (1, 64)
    try:
        client.infer("minilm", [text(["short", "word " * 1000])])
        raise AssertionError("a text too long was taken")
    except triton.InferenceServerException as error:
        assert error.status() == "StatusCode.INVALID_ARGUMENT" and "inputs[0][1]" in error.message(), error
    client.close()


main(*sys.argv[1:])
