"""The two servers, each a process on free ports of the loopback, ended with the run."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request

from .. import export

START_SECONDS = 120
END_SECONDS = 10
MODEL = "minilm"


class Server:
    """A process that serves. Its output is in a file of the run's folder."""

    def __init__(self, name, command, environment, folder):
        self.name = name
        self.log = folder / f"{name}.log"
        self.began = time.monotonic()
        with open(self.log, "wb") as log:
            # It dies with this process, however that ends.
            command = ["setpriv", "--pdeathsig", "KILL", *command]
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        self.grpc = self.metrics = None

    def until(self, what, ready):
        """Waits for `ready` to return something true. Neither server tells when it is, but by its output."""
        while time.monotonic() < self.began + START_SECONDS:
            if self.process.poll() is not None:
                sys.exit(f"peers: {self.name} ended before it could {what}; it said\n{self.complaint()}")
            found = ready()
            if found:
                return found
            time.sleep(0.002)
        sys.exit(f"peers: {self.name} needs more than {START_SECONDS} s to {what}; it said\n{self.complaint()}")

    def said(self):
        return self.log.read_text(errors="replace")

    def complaint(self):
        """What of it says that something is wrong, or else its end."""
        lines = self.said().splitlines()
        return "\n".join([line[:600] for line in lines if re.search("error", line, re.IGNORECASE)][:10] or lines[-10:])

    def embed(self, ids):
        """The embedding of one row, by one call."""
        import numpy
        import tritonclient.grpc

        rows = numpy.array([ids], dtype=numpy.int64)
        inputs = []
        for name, values in (("input_ids", rows), ("attention_mask", numpy.ones_like(rows))):
            inputs.append(tritonclient.grpc.InferInput(name, values.shape, "INT64"))
            inputs[-1].set_data_from_numpy(values)
        client = tritonclient.grpc.InferenceServerClient(self.grpc)
        try:
            return client.infer(MODEL, inputs, client_timeout=30).as_numpy("embedding")[0].tolist()
        except tritonclient.grpc.InferenceServerException as error:
            sys.exit(f"peers: {self.name} refuses the call: {error}")
        finally:
            client.close()

    def answered(self):
        """Calls that it has answered well, as it counts them itself."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as page:
            text = page.read().decode()
        return sum(float(value) for value in re.findall(self.COUNTER + r"\S* (\S+)$", text, re.MULTILINE))

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Shoal(Server):
    COUNTER = r'^shoal_calls_total\{model="minilm",code="OK"\}'

    def __init__(self, binary, model, dtype, threads, folder):
        home = folder / "home"
        home.mkdir()
        # Rates are compared: within a second all calls in flight can be answered, so none is moved behind others.
        settings = f"{MODEL}={model.folder},dtype={dtype},preset=throughput"
        command = [binary, "serve", "--model", settings, "--worker-threads", str(threads)]
        command += ["--grpc-port", "0", "--metrics-port", "0", "--http-port", "off", "--log", "warn"]
        super().__init__("Shoal", command, {**os.environ, "SHOAL_HOME": str(home)}, folder)

    def wait(self):
        found = self.until("say its address", lambda: re.search(r"gRPC on (\S+:\d+),.* http://([^/\s]+:\d+)", self.said()))
        self.grpc, self.metrics = found.groups()

    def worker_megabytes(self):
        """Of its worker process: resident now, and the most ever."""
        pids = []
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            pids += (task / "children").read_text().split()
        [worker] = pids
        status = pathlib.Path(f"/proc/{worker}/status").read_text()
        return [int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024 / 1e6 for field in ("VmRSS", "VmHWM")]


class Triton(Server):
    COUNTER = r'^nv_inference_request_success\{model="minilm"'

    def __init__(self, model, threads, folder):
        site = pathlib.Path(sysconfig.get_path("purelib"))
        carried = site / "pytriton/tritonserver"
        ports = free_ports(3)
        command = [carried / "bin/tritonserver"]
        command += ["--model-repository", repository(model, threads, folder)]
        command += ["--backend-directory", backends(carried, folder)]
        for name, port in zip(("grpc", "http", "metrics"), ports):
            command += [f"--{name}-port", str(port), f"--{name}-address", "127.0.0.1"]
        # The stub runs the base Python, which finds its own library there; the model looks for packages here.
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": f"{site / 'nvidia_pytriton.libs'}:{libpython()}",
            "PYTHONHOME": sys.base_prefix,
            "SHOAL_PEERS_PACKAGES": str(site),
        }
        super().__init__("Triton", list(map(str, command)), environment, folder)
        self.grpc, self.http, self.metrics = (f"127.0.0.1:{port}" for port in ports)

    def wait(self):
        self.until("be ready", self.ready)

    def ready(self):
        try:
            with urllib.request.urlopen(f"http://{self.http}/v2/models/{MODEL}/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


def repository(model, threads, folder):
    """A model repository, in the layout that Triton documents."""
    here = pathlib.Path(__file__).parent
    home = folder / "repository" / MODEL
    (home / "1").mkdir(parents=True)
    shutil.copy(here / "model.py", home / "1/model.py")
    config = (here / "config.pbtxt").read_text()
    for name, value in (("hidden", model.hidden), ("onnx", export.files(model).f32), ("threads", threads)):
        config = config.replace(f"@{name}@", str(value))
    (home / "config.pbtxt").write_text(config)
    return home.parent


def backends(carried, folder):
    """The Python backend with the stub for this Python, which the wheel keeps apart and does not mark executable."""
    home = folder / "backends/python"
    shutil.copytree(carried / "backends/python", home)
    stub = shutil.copy(carried / "python_backend_stubs/3.11/triton_python_backend_stub", home)
    os.chmod(stub, 0o755)
    return home.parent


def libpython():
    """The folder of the library that the stub is linked to."""
    name = "libpython3.11.so.1.0"
    folder = pathlib.Path(sysconfig.get_config_var("LIBDIR"))
    for place in (folder, folder / (sysconfig.get_config_var("MULTIARCH") or "")):
        if (place / name).exists():
            return place
    sys.exit(f"peers: Triton's Python backend needs {name}, which is not in {folder} (Debian: libpython3.11)")


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
