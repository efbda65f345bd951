"""h2load, which costs the machine least of all clients: it sends one prepared call again and again."""

import dataclasses
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys

CONNECTIONS = 8
WARM_SECONDS = 1
METHOD = "inference.GRPCInferenceService/ModelInfer"


@dataclasses.dataclass(frozen=True)
class Measured:
    # Calls a second.
    rate: float
    p99_ms: float


def program():
    tools = os.environ.get("SHOAL_TOOLS")
    found = (tools and shutil.which("h2load", path=f"{tools}/bin")) or shutil.which("h2load")
    return found or sys.exit("peers: there is no h2load: `export SHOAL_TOOLS=$(.ci/tools)`, or Debian's nghttp2-client")


def call(model, ids):
    """One row of ids, and as raw bytes, as tritonclient sends them; framed as gRPC frames a message."""
    import numpy
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model)
    for name, values in (("input_ids", ids), ("attention_mask", [1] * len(ids))):
        request.inputs.add(name=name, datatype="INT64", shape=[1, len(ids)])
        request.raw_input_contents.append(numpy.array(values, dtype="<i8").tobytes())
    body = request.SerializeToString()
    return struct.pack(">BI", 0, len(body)) + body


def put(server, path, in_flight, seconds, folder):
    """Sends the call in `path` for so long, with so many in flight."""
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)
    command = [program(), "-c", str(CONNECTIONS), "-m", str(in_flight // CONNECTIONS)]
    command += ["-D", str(seconds), f"--warm-up-time={WARM_SECONDS}", "--log-file", str(log)]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", str(path)]
    command.append(f"http://{server.grpc}/{METHOD}")
    before = server.answered()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + WARM_SECONDS + 60)
    found = re.search(r"(\d+) succeeded", done.stdout)
    if done.returncode or not found or not int(found[1]):
        sys.exit(f"peers: h2load could not load {server.name}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    succeeded = int(found[1])
    # h2load takes any answer for a good one.
    if server.answered() - before < succeeded:
        sys.exit(f"peers: {server.name} answered {succeeded} calls, not all of them with OK")
    return Measured(succeeded / seconds, p99_ms(log))


def p99_ms(log):
    """Of the log's lines of start, status and microseconds."""
    latencies = sorted(int(line.split("\t")[2]) for line in pathlib.Path(log).read_text().splitlines())
    return latencies[int(len(latencies) * 0.99)] / 1000
