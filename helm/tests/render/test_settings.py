"""The server's settings and the workers' arguments: what the configuration says there is, and where weights come from."""

import hashlib
import http.server
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import unittest

import chart

# Set by the chart itself, or for local workers, of which there are none.
NOT_SETTINGS = {
    "address",
    "grpc_port",
    "http_port",
    "metrics_address",
    "metrics_port",
    "admin_listen",
    "scaler_listen",
    "workers",
    "link_address",
    "link_port",
    "worker_token",
    "worker_token_file",
    "share_workers",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "tls_client_auth",
    "link_tls_cert",
    "link_tls_key",
    "link_tls_client_ca",
    "otlp_endpoint",
    "otlp_headers_file",
    "otlp_ca_file",
    "trace_sample",
    "trace_keep",
    "home",
    "drain_time_max",
    "log",
    "log_format",
    "device",
    "worker_threads",
    "cpu_isa",
    "worker_batch_tokens",
}


def toml(**kwargs):
    return chart.settings(chart.render(**kwargs))


def documented(heading):
    """Keys of a table of the configuration's page, each with its row."""
    page = (chart.REPOSITORY / "server/docs/configuration.md").read_text()
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    keys = dict(re.findall(r"^\| `([a-z_]+)` \|(.*)$", section, re.M))
    assert keys, heading
    return keys


class Settings(unittest.TestCase):
    def test_the_file_says_what_the_values_say(self):
        self.assertEqual(
            toml(scenario="cpu"),
            {
                "address": "0.0.0.0",
                "workers": "external",
                "worker_token_file": "/etc/shoal-token/token",
                "drain_time_max": "30s",
                "log": "info",
                "log_format": "json",
                "call_texts_max": 512,
                "queue_bytes_max": 2147483648,
                "tenant_key": "x-team",
                "models": {
                    "minilm": {"source": "minilm", "slo": "20ms", "preset": "latency", "dtype": "bf16"},
                    "search.v2": {
                        "source": "hf:sentence-transformers/all-MiniLM-L12-v2@0123456789abcdef0123456789abcdef01234567"
                    },
                },
            },
        )
        self.assertEqual(toml(scenario="openshift")["admin_listen"], "127.0.0.1:8004")

    def test_values_are_written_as_they_are(self):
        odd = 'a "b" \\ <c> é'
        settings = {"tenant_key": odd, "queue_bytes_max": 1 << 40}
        model = {"source": "minilm", "settings": {"preferred_rows": [8, 16], "batch_rows_max": 1_000_000}}
        read = toml(values={"server": {"settings": settings}, "log": {"filter": odd}, "models": {"minilm": model}})
        self.assertEqual((read["tenant_key"], read["queue_bytes_max"], read["log"]), (odd, 1 << 40, odd))
        self.assertEqual(read["models"]["minilm"]["preferred_rows"], [8, 16])
        self.assertEqual(read["models"]["minilm"]["batch_rows_max"], 1_000_000)

    def test_every_setting_there_is_can_be_stated_and_no_other(self):
        schema = json.loads((chart.CHART / "values.schema.json").read_text())
        server = schema["properties"]["server"]["properties"]["settings"]["properties"]
        self.assertEqual(set(server), (documented("Server") | documented("Limits")).keys() - NOT_SETTINGS)
        model = schema["definitions"]["model"]["properties"]["settings"]["properties"]
        self.assertEqual(set(model), documented("Models").keys() - {"source"})

    def test_a_choice_can_be_any_there_is(self):
        schema = json.loads((chart.CHART / "values.schema.json").read_text())
        rows = documented("Models")
        settings = schema["definitions"]["model"]["properties"]["settings"]["properties"]
        choices = {key: set(setting["enum"]) for key, setting in settings.items() if "enum" in setting}
        self.assertIn("dtype", choices)
        for key, choice in choices.items():
            with self.subTest(key):
                words = set(re.findall(r"`([a-z0-9-]+)`", rows[key])) - rows.keys()
                self.assertEqual(words, choice)

    def test_server_and_workers_name_the_same_models(self):
        for scenario in chart.SCENARIOS:
            models = toml(scenario=scenario)["models"]
            served = set()
            for deployment in chart.of_kind(chart.render(scenario=scenario), "Deployment"):
                args = chart.container(deployment)["args"]
                for name, source in (
                    a.removeprefix("--model=").split("=", 1) for a in args if a.startswith("--model=")
                ):
                    with self.subTest(scenario, model=name):
                        self.assertEqual(source, models[name]["source"])
                    served.add(name)
            self.assertEqual(served, set(models))


class Weights(unittest.TestCase):
    def setUp(self):
        objects = chart.render(scenario="sources")
        self.worker = chart.one(objects, "Deployment", "-worker-cpu")
        self.sources = {name: model["source"] for name, model in chart.settings(objects)["models"].items()}

    def test_a_folder_is_where_its_volume_is_mounted_read_only(self):
        volumes = {volume["name"]: volume for volume in chart.pod(self.worker)["volumes"]}
        mounts = {mount["mountPath"]: mount for mount in chart.container(self.worker)["volumeMounts"]}
        claim, image = mounts["/models/volume"], mounts["/models/artifact"]
        self.assertTrue(claim["readOnly"] and image["readOnly"])
        self.assertEqual(volumes[claim["name"]]["persistentVolumeClaim"], {"claimName": "weights", "readOnly": True})
        self.assertRegex(volumes[image["name"]]["image"]["reference"], "^registry.example/weights@sha256:[0-9a-f]{64}$")
        self.assertEqual(self.sources["volume"], "/models/volume")
        self.assertEqual(self.sources["artifact"], "/models/artifact/model")
        paths = toml(scenario="gpu")["models"]
        self.assertEqual(paths["rerank"]["source"], "/models/rerank/cross/encoder")

    def test_what_comes_over_the_network_comes_before_the_worker(self):
        before = {container["name"]: container for container in chart.pod(self.worker)["initContainers"]}
        self.assertEqual(sorted(before), ["download-fetched-2", "pull-catalogue-1", "pull-hub-3"])
        self.assertEqual(before["pull-catalogue-1"]["args"], ["models", "pull", "minilm"])
        self.assertEqual(
            before["pull-hub-3"]["args"], ["models", "pull", "hf:org/name@0123456789abcdef0123456789abcdef01234567"]
        )
        homes = {
            variable["value"]
            for c in (before["pull-hub-3"], chart.container(self.worker))
            for variable in c["env"]
            if variable["name"] == "SHOAL_HOME"
        }
        self.assertEqual(homes, {"/var/lib/shoal"})

    def test_a_hub_that_is_private_is_opened_where_weights_are_pulled_and_nowhere_else(self):
        for deployment in chart.of_kind(chart.render(scenario="cpu"), "Deployment"):
            for container in chart.containers(deployment):
                env = {variable["name"]: variable for variable in container["env"]}
                self.assertEqual("HF_TOKEN" in env, container["name"].startswith("pull-"))
                if container["name"].startswith("pull-"):
                    self.assertEqual(env["HF_ENDPOINT"]["value"], "https://hub.example")
                    self.assertEqual(env["HF_TOKEN"]["valueFrom"]["secretKeyRef"], {"name": "hub", "key": "token"})


class Downloads(unittest.TestCase):
    """The init container's own script, run against a server that gives what it is told to."""

    FILES = {
        "config.json": b"{}",
        "tokenizer.json": b"[]",
        "model.safetensors": b"weights" * 1000,
        "1_Pooling/config.json": b"1",
    }

    def setUp(self):
        if not (shutil.which("curl") and shutil.which("sha256sum")):
            self.skipTest("curl and sha256sum are not installed")
        self.home = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.served, self.asked = dict(self.FILES), []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                content = outer.served.get(self.path.split("?")[0].removeprefix("/"))
                self.send_response(404 if content is None else 200)
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        files = {
            path: {
                "url": f"http://127.0.0.1:{server.server_port}/{path}?sig=$a&b",
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            for path, content in self.FILES.items()
        }
        values = {"downloader": {"image": "i"}, "models": {"own": {"download": {"files": files}}}}
        worker = chart.one(chart.render(values), "Deployment", "-worker-cpu")
        self.container = next(c for c in chart.containers(worker) if c["name"].startswith("download-"))

    def run_it(self):
        (script,) = self.container["args"]
        script = script.replace("/var/lib/shoal/", f"{self.home}/")
        return subprocess.run([*self.container["command"], script], capture_output=True, text=True, check=False)

    def found(self):
        folder = self.home / "downloads/own"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def test_files_come_as_they_were_meant_and_only_once(self):
        done = self.run_it()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.found(), self.FILES)
        self.assertEqual(sorted(self.asked), sorted(f"/{path}?sig=$a&b" for path in self.FILES))
        self.assertEqual(self.run_it().returncode, 0)
        self.assertEqual(len(self.asked), len(self.FILES))

    def test_a_file_of_another_hash_ends_it_and_is_not_kept(self):
        self.served["model.safetensors"] = b"other"
        done = self.run_it()
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("/model.safetensors?sig=$a&b: is " + hashlib.sha256(b"other").hexdigest(), done.stderr)
        self.assertFalse(any(path.startswith("model.safetensors") for path in self.found()))

    def test_what_was_damaged_since_comes_again(self):
        self.run_it()
        (self.home / "downloads/own/config.json").write_bytes(b"damaged")
        self.assertEqual(self.run_it().returncode, 0)
        self.assertEqual(self.found(), self.FILES)

    def test_a_file_that_is_not_there_ends_it(self):
        del self.served["tokenizer.json"]
        self.assertNotEqual(self.run_it().returncode, 0)


if __name__ == "__main__":
    unittest.main()
