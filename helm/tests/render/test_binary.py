"""What the chart renders, run: the real binary takes the settings, is as ready as probes ask, and ends in its time."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import unittest

import chart
from chart.machine import OF_THE_BASE, Machine, wait
from chart.values import SCHEMA

BINARY = pathlib.Path(os.environ.get("SHOAL_TEST_BINARY") or chart.REPOSITORY / "target/release/shoal")
HOME = pathlib.Path(os.environ.get("SHOAL_HOME") or pathlib.Path.home() / ".cache/shoal")
VALUES = {
    "models": {
        "minilm": {"source": "minilm", "settings": {"slo": "10s"}},  # which no machine is too slow for
        "echo.v1": {"source": "echo"},
        "waits": {"source": "synthetic:base=1ms+per_row=10us"},
    },
    "pools": [
        {"name": "a", "models": ["minilm", "echo.v1"], "threads": 1, "batchTokens": 512},
        {"name": "b", "models": ["waits"], "cpuIsa": "avx2"},
    ],
    "server": {"admin": True, "settings": {"call_texts_max": 64, "queue_bytes_max": 64 << 20}},
    "log": {"filter": "info,shoal_server=debug"},
}


def tool(name):
    """Somebody else's client, which .ci/tools installs."""
    folders = [f"{os.environ['SHOAL_TOOLS']}/bin"] if os.environ.get("SHOAL_TOOLS") else []
    return shutil.which(name, path=os.pathsep.join([*folders, os.environ["PATH"]]))


# What a pod is made of here; many containers, of CI for one, may not do it.
PROBE = "mount -t tmpfs probe /tmp && mkdir /tmp/proc && mount -t proc proc /tmp/proc"


def forbidden():
    """Why this machine lets nobody run it, or None."""
    if os.geteuid() != 0:
        return "only root makes networks and mounts"
    if missing := [name for name in ("unshare", "nsenter", "curl") if not tool(name)]:
        return f"not installed: {', '.join(missing)}"
    probe = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", PROBE]
    made = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"networks and mounts cannot be made here: {made.stderr.strip()}" if made.returncode else None


def lacking():
    """What would have to be there first, or None."""
    if not BINARY.is_file():
        return f"there is no {BINARY}: `cargo build --release`, or SHOAL_TEST_BINARY"
    missing = [name for name in ("grpc-health-probe", "grpcurl", "ghz") if not tool(name)]
    return f"not installed: {', '.join(missing)}" if missing else None

NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]


class Binary(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if reason := lacking():
            # Whoever names a binary wants it tested.
            if os.environ.get("SHOAL_TEST_BINARY"):
                raise RuntimeError(reason)
            raise unittest.SkipTest(reason)
        if reason := forbidden():
            print(f"SKIPPED the real binary: {reason}", file=sys.stderr)
            raise unittest.SkipTest(reason)
        cls.objects = chart.render(VALUES)
        over = {"server": {"probes": {"protocol": "http"}}}
        cls.probed = {"grpc": cls.objects, "http": chart.render(chart.merged(VALUES, over))}
        cls.user = str(chart.pod(cls.deployment("-server"))["securityContext"]["runAsUser"])

    def setUp(self):
        self.machine = Machine(BINARY)
        self.secrets = {"rel-shoal-worker-token": {"token": b"t" * 32}}
        self.addCleanup(self.machine.stop)

    @classmethod
    def deployment(cls, name):
        return chart.one(cls.objects, "Deployment", name)

    def start(self, name, container=None):
        deployment = self.deployment(name)
        container = container or chart.container(deployment)
        volumes = {}
        for volume in chart.pod(deployment)["volumes"]:
            folder = volumes[volume["name"]] = self.machine.folder / f"{name}-{volume['name']}"
            folder.mkdir(exist_ok=True)
            if "configMap" in volume:
                for file, text in chart.one(self.objects, "ConfigMap", volume["configMap"]["name"])["data"].items():
                    (folder / file).write_text(text)
            elif "secret" in volume:
                contents = self.secrets[volume["secret"]["secretName"]]
                items = volume["secret"].get("items", [{"key": key, "path": key} for key in contents])
                for item in items:
                    (folder / item["path"]).write_bytes(contents[item["key"]])
            else:
                os.chown(folder, int(self.user), int(self.user))
        return self.machine.start(container, volumes, self.user, ["rel-shoal-link"])

    def probe(self, kind, protocol):
        """What a kubelet asks, and whether it is content."""
        container = chart.container(chart.one(self.probed[protocol], "Deployment", "-server"))
        if protocol == "grpc":
            asked = container[kind]["grpc"]
            address = f"-addr=127.0.0.1:{asked['port']}"
            command = [tool("grpc-health-probe"), address, f"-service={asked['service']}", "-rpc-timeout=5s"]
        else:
            asked = container[kind]["httpGet"]
            (port,) = [p["containerPort"] for p in container["ports"] if p["name"] == asked["port"]]
            command = ["curl", "-sf", "-o", "/dev/null", f"http://127.0.0.1:{port}{asked['path']}"]
        return self.machine.run(*command, check=False).returncode == 0

    def content(self):
        """The probes that are content: `sl` is one that has started and lives, and is not ready. Protocols agree on what is
        asked more than once."""
        kinds = ("startup", "readiness", "liveness")
        asked = [kind[0] for kind in kinds if self.probe(f"{kind}Probe", "grpc")]
        pages = [kind[0] for kind in kinds[1:] if self.probe(f"{kind}Probe", "http")]
        return "".join(asked) if [kind for kind in asked if kind != "s"] == pages else f"{asked} and {pages}"

    def weights(self):
        """Puts into the pool's home what its init container would pull, since there is no network here."""
        if not (HOME / "models/minilm").is_dir():
            subprocess.run(
                [BINARY, "models", "pull", "minilm"], check=True, env={**os.environ, "SHOAL_HOME": str(HOME)}
            )
        home = self.machine.folder / "-worker-a-home"
        shutil.copytree(HOME / "models/minilm", home / "models/minilm", dirs_exist_ok=True)
        subprocess.run(["chown", "-R", f"{self.user}:{self.user}", home], check=True)

    def notes(self):
        """The lines to paste that the chart prints, with what they are to do here."""
        text = chart.helm(
            "install",
            "rel",
            chart.CHART,
            "--dry-run=client",
            "-n",
            "apps",
            "--set",
            "image.repository=r",
            "--set",
            "models.minilm.source=minilm",
        )
        lines = text.split("NOTES:")[1].replace("\\\n", " ").splitlines()
        return [shlex.split(line) for line in lines if line.strip().startswith(("grpcurl", "ghz"))]

    def test_a_release_lives_and_ends(self):
        _, names = self.machine.libraries()
        self.assertLessEqual({name.split("/")[-1] for name in names}, OF_THE_BASE, "the image's base has no other")
        server = self.start("-server")
        # Up at once, and alive without a worker; not ready before there are all.
        wait("it is alive", lambda: self.content() == "l", 60, server)
        # With the folder made by the start above, the weights come, and the init container finds them there.
        worker = self.deployment("-worker-a")
        (pull,) = chart.pod(worker)["initContainers"]
        (self.machine.folder / "-worker-a-home").mkdir(exist_ok=True)
        self.weights()
        pulled = self.start("-worker-a", pull)
        self.assertEqual(pulled.process.wait(60), 0, pulled.said())
        a = self.start("-worker-a")
        wait(
            "one pool's models are there",
            lambda: "loaded model=minilm" in a.said() or '"model":"minilm"' in a.said(),
            60,
            server,
            a,
        )
        self.assertEqual(self.content(), "l", "a model of the other pool is not there yet")
        b = self.start("-worker-b")
        wait("it is ready", lambda: self.content() == "srl", 60, server, a, b)
        # Every line to paste works.
        lines = self.notes()
        self.assertEqual([line[0] for line in lines], ["grpcurl", "ghz"])
        for line in lines:
            said = self.machine.run(tool(line[0]), *line[1:]).stdout
            with self.subTest(line[0]):
                self.assertRegex(said, r'"values"|\[OK\]\s+2000 responses')
        # Metrics that dashboards ask for, where the ServiceMonitor looks.
        page = self.machine.run("curl", "-s", "http://127.0.0.1:8002/metrics").stdout
        self.assertIn('shoal_calls_total{model="minilm",code="OK"}', page)
        # Administration is reached from the pod alone: forwarding a port ends on its loopback.
        refused = {
            place: self.machine.run("curl", "-s", "-o", "/dev/null", f"http://{place}", check=False).returncode == 7
            for place in ("127.0.0.1:8004", "127.0.0.2:8004", "127.0.0.2:8002")
        }
        self.assertEqual(refused, {"127.0.0.1:8004": False, "127.0.0.2:8004": True, "127.0.0.2:8002": False})
        # A worker that goes takes its models with it, and the server lives on.
        code, seconds = b.terminate(chart.pod(self.deployment("-worker-b"))["terminationGracePeriodSeconds"])
        self.assertEqual(code, 0, b.said())
        wait("it is not ready any more, and has been", lambda: self.content() == "sl", 60, server, a)
        # A server that goes leaves its workers, which find the next one by themselves.
        code, seconds = server.terminate(chart.pod(self.deployment("-server"))["terminationGracePeriodSeconds"])
        self.assertEqual(code, 0, server.said())
        again, b = self.start("-server"), self.start("-worker-b")
        wait("it is ready again", lambda: self.content() == "srl", 60, again, a, b)

    def test_what_the_settings_may_not_be_is_found(self):
        """The binary reads the file: one that it does not take ends it."""
        saved = chart.one(self.objects, "ConfigMap")["data"]
        wrong = {"shoal.toml": saved["shoal.toml"].replace("call_texts_max", "call_text_max")}
        self.assertNotEqual(wrong, saved)
        objects, type(self).objects = self.objects, [
            o if o["kind"] != "ConfigMap" else {**o, "data": wrong} for o in self.objects
        ]
        try:
            server = self.start("-server")
            self.assertNotEqual(server.process.wait(60), 0)
            self.assertRegex(server.said(), "call_text_max.*call_texts_max")
        finally:
            type(self).objects = objects

    def test_every_setting_that_can_be_stated_is_one(self):
        """Each with a value that it takes: the binary would end with the key that it does not know."""
        server = {
            "server_threads": 2,
            "tokenizer_threads": 2,
            "model_control": "explicit",
            "tenant_key": "x-t",
            "call_texts_max": 1,
            "call_rows_max": 1,
            "call_bytes_max": 1 << 20,
            "connections_max": 7,
            "tenant_requests_max": 9,
            "class_requests_max": 9,
            "queue_bytes_max": 1 << 30,
            "attempts_max": 2,
            "resident_bytes_max": 1 << 30,
            "connection_age_max": "5m",
        }
        learned = {
            "slo": "50ms",
            "preset": "latency",
            "on_late": "shed",
            "dtype": "f32",
            "queue_time_max": "1s",
            "queue_requests_max": 9,
            "batch_time_max": "9s",
            "batch_rows_max": 8,
            "batch_tokens_max": 512,
            "policy": "learned",
        }
        triton = {"policy": "triton", "queue_delay_max": "1ms", "preferred_rows": [4, 8]}
        rare, canary = {"load": "demand", "unload_after": "1m"}, {"canary_of": "triton", "canary_percent": 5}
        models = {
            "minilm": {"source": "minilm", "settings": learned},
            "triton": {"source": "echo", "settings": triton},
            "rare": {"source": "echo", "settings": rare},
            "canary": {"source": "echo", "settings": canary},
        }
        self.assertEqual(set(server), set(SCHEMA["properties"]["server"]["properties"]["settings"]["properties"]))
        self.assertEqual(
            set(learned) | set(triton) | set(rare) | set(canary), set(SCHEMA["definitions"]["model"]["properties"]["settings"]["properties"])
        )
        objects, type(self).objects = self.objects, chart.render({"server": {"settings": server}, "models": models})
        try:
            running = self.start("-server")
            wait("it is alive", lambda: self.content() == "l", 30, running)
            self.assertEqual(running.terminate(40)[0], 0, running.said())
        finally:
            type(self).objects = objects

    def test_a_release_with_certificates_and_callers_serves(self):
        """With certificates as cert-manager would make them, for the names that the chart asks it for."""
        token = "0123456789abcdef"
        over = {
            "tls": {"certManager": {"issuer": "i"}},
            "access": [{"name": "a", "secret": {"name": "callers", "key": "a"}, "rights": ["infer", "inspect"]}],
            "models": {"minilm": {"source": "echo"}},
            "pools": [{"name": "a"}],
            "server": {"replicas": 2},
        }
        rendered = chart.render(over)
        ca = Authority(self.machine.folder)
        for certificate in chart.of_kind(rendered, "Certificate"):
            spec = certificate["spec"]
            self.secrets[spec["secretName"]] = ca.secret(spec["dnsNames"])
        self.secrets["callers"] = {"a": token.encode()}
        objects, type(self).objects = self.objects, rendered
        try:
            server, worker = self.start("-server"), self.start("-worker-a")
            container = chart.container(chart.one(rendered, "Deployment", "-server"))

            def answers(probe):
                path = container[f"{probe}Probe"]["httpGet"]["path"]
                page = f"http://127.0.0.1:8002{path}"
                return self.machine.run("curl", "-sf", "-o", "/dev/null", page, check=False).returncode == 0

            wait("it is ready", lambda: answers("startup") and answers("readiness"), 60, server, worker)
            ask = [tool("grpcurl"), "-cacert", ca.certificate, "-authority", "localhost"]
            models = ["127.0.0.1:8001", "shoal.v1.Inference/ListModels"]
            denied = self.machine.run(*ask, *models, check=False)
            self.assertIn("Unauthenticated", denied.stderr)
            said = self.machine.run(*ask, "-H", f"authorization: Bearer {token}", *models).stdout
            self.assertIn('"STATE_READY"', said)
            # One who has the token and no certificate is no worker, and what speaks no TLS is no client.
            plain = self.machine.run(tool("grpcurl"), "-plaintext", "-max-time", "5", *models, check=False)
            self.assertNotEqual(plain.returncode, 0)
            self.assertEqual(server.terminate(40)[0], 0, server.said())
        finally:
            type(self).objects = objects


class Authority:
    """Signs certificates, as an Issuer does."""

    def __init__(self, folder):
        self.folder = folder
        self.certificate, self.key = folder / "ca.crt", folder / "ca.key"
        made = ["-keyout", self.key, "-out", self.certificate]
        self.openssl("req", "-x509", *NEW_KEY, "-days", "2", "-subj", "/CN=ca", *made)

    @staticmethod
    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    def secret(self, names):
        request, key, made, extension = (self.folder / f"leaf.{kind}" for kind in ("csr", "key", "crt", "ext"))
        extension.write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names) + "\n")
        self.openssl("req", *NEW_KEY, "-subj", "/CN=leaf", "-keyout", key, "-out", request)
        signer = ["-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial"]
        self.openssl("x509", "-req", "-in", request, *signer, "-days", "1", "-extfile", extension, "-out", made)
        return {"tls.crt": made.read_bytes(), "tls.key": key.read_bytes(), "ca.crt": self.certificate.read_bytes()}


if __name__ == "__main__":
    unittest.main()
