"""A Triton server with onnxruntime beside Shoal's, over gRPC: the same calls, as many in flight, in turn.

- `servers`: both servers, each started, asked once and ended; `model`: what runs inside Triton.
- `load`: the call, and h2load that sends it.
- `results`: the tables.
"""
