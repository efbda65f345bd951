"""Embeds texts with Shoal, and says how alike the first two are and what the answer took.

    python -m grpc_tools.protoc -I proto/proto --python_out=. --grpc_python_out=. shoal/v1/inference.proto
    PYTHONPATH=. python proto/examples/python/embed.py 127.0.0.1:8001 "the cat sat" "a kitten rests"
"""

import sys
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from shoal.v1 import inference_pb2, inference_pb2_grpc


def main(address, *texts):
    with grpc.insecure_channel(address) as channel:
        client = inference_pb2_grpc.InferenceStub(channel)
        answer = embed(client, inference_pb2.EmbedRequest(texts=texts), until=time.monotonic() + 20)
    a, b = (embedding.values for embedding in answer.embeddings[:2])
    # The vectors have length 1, so that this is their cosine.
    print(f"{len(a)} dimensions, similarity {sum(x * y for x, y in zip(a, b)):.4f}")
    usage = answer.usage
    print(f"{usage.tokens} tokens, queued {millis(usage.queue_time)}, computed {millis(usage.compute_time)}")
    for batch in usage.batches:
        reason = inference_pb2.CloseReason.Name(batch.close_reason)
        print(f"batch of {batch.rows} rows, {batch.own_rows} of them ours, {reason}")


def embed(client, request, until):
    """Asks again when a full server says that it pays, for as long as `until` allows."""
    while True:
        try:
            return client.Embed(request, timeout=until - time.monotonic())
        except grpc.RpcError as error:
            wait = retry_after(error)
            if wait is None or time.monotonic() + wait > until:
                raise
            print(f"the server is full, trying again in {wait} s", file=sys.stderr)
            time.sleep(wait)


def retry_after(error):
    """Seconds after which trying again makes sense; only RESOURCE_EXHAUSTED says so."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.ToTimedelta().total_seconds()
    return None


def millis(duration):
    return f"{duration.ToTimedelta().total_seconds() * 1e3:.1f} ms"


if __name__ == "__main__":
    main(*sys.argv[1:])
