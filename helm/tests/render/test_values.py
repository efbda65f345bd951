"""Every value is described, has its default, and does something."""

import concurrent.futures
import json
import re
import unittest

import chart
from chart import values

SHA = "0" * 64
TRACED = {"traces": {"endpoint": "http://before:4317"}}
SCALED = {"autoscaling": {"kind": "keda"}}
WATCHED = {"autoscaling": {"kind": "keda", "keda": {"source": "prometheus"}}}
HPA = {"autoscaling": {"kind": "hpa"}}
FILE = {"url": "https://files.example/x", "sha256": SHA}
FILES = {name: FILE for name in ("config.json", "tokenizer.json", "model.safetensors")}

TWO = {
    "models": {"other": {"source": "echo"}},
    "pools": [{"name": "own", "models": ["minilm", "other"]}, {"name": "cpu"}],
}

# What else must be stated for a value to matter, where something must.
NEEDS = {
    "workerToken.key": {"workerToken": {"existingSecret": "s"}},
    "poolDefaults.models": TWO,
    "tls.clients.clientAuth": {"tls": {"clients": {"secret": "s"}}},
    "tls.link.secret": {"tls": {"link": {"secret": "s", "workerSecret": "w"}}},
    "tls.link.workerSecret": {"tls": {"link": {"secret": "s", "workerSecret": "w"}}},
    "tls.certManager.kind": {"tls": {"certManager": {"issuer": "i"}}},
    "traces.sample": TRACED,
    "traces.keep": TRACED,
    "traces.headersSecret": TRACED,
    "traces.headersKey": {"traces": {"endpoint": "http://before:4317", "headersSecret": "s"}},
    "traces.caSecret": TRACED,
    "hub.tokenKey": {"hub": {"tokenSecret": "s"}},
    "downloader.image": {"models": {"m": {"download": {"files": FILES}}}, "downloader": {"image": "before"}},
    "poolDefaults.autoscaling.minReplicas": {"poolDefaults": HPA},
    "poolDefaults.autoscaling.maxReplicas": {"poolDefaults": HPA},
    "poolDefaults.autoscaling.scaleDownSeconds": {"poolDefaults": HPA},
    "poolDefaults.autoscaling.hpa": {"poolDefaults": HPA},
    "poolDefaults.autoscaling.keda": {"poolDefaults": SCALED, "monitoring": {"prometheusAddress": "http://before"}},
    "networkPolicy.keda": {"poolDefaults": SCALED},
    "monitoring.prometheusAddress": {"poolDefaults": WATCHED, "monitoring": {"prometheusAddress": "http://before"}},
    "monitoring.serviceMonitor": {"monitoring": {"serviceMonitor": {"enabled": True}}},
    "monitoring.rules": {"monitoring": {"rules": {"enabled": True}}},
    "monitoring.dashboard": {"monitoring": {"dashboard": {"enabled": True}}},
    "grpcRoute": {"grpcRoute": {"enabled": True, "parentRefs": [{"name": "before"}]}},
    "poolDefaults.device.count": {"poolDefaults": {"device": {"resource": "vendor.example/part"}}},
}
# Values to try where the kind alone does not say one.
TRY = {
    "image.digest": "sha256:" + SHA,
    "hub.endpoint": "https://hub.example",
    "downloader.image": "after",
    "server.settings": {"call_texts_max": 3},
    "access": [{"name": "a", "tokenSha256": "0" * 64, "rights": ["infer"]}],
    "traces.endpoint": "https://after:4317",
    "traces.sample": 0.5,
    "server.address": "::",
    "server.home.size": "3Gi",
    "poolDefaults.home.size": "3Gi",
    "poolDefaults.models": ["minilm"],
    "poolDefaults.autoscaling.keda.busyWorkers": 0.5,
    "poolDefaults.autoscaling.keda.queuedSeconds": 2,
    "poolDefaults.autoscaling.keda.triggers": [{"type": "cron"}],
    "server.terminationGracePeriodSeconds": 300,
    "poolDefaults.terminationGracePeriodSeconds": 300,
    "server.disruptionBudget.maxUnavailable": 0,
    "poolDefaults.disruptionBudget.maxUnavailable": None,
    "grpcRoute.parentRefs": [{"name": "after"}],
    "networkPolicy.downloadPorts": [8443],
    "monitoring.prometheusAddress": "http://after",
    "monitoring.serviceMonitor.interval": "7s",
    "poolDefaults.autoscaling.kind": "hpa",
    "poolDefaults.device.resource": "nvidia.com/gpu",
}


def sample(path, schema):
    """A value that is not the default."""
    if path in TRY:
        return TRY[path]
    said = values.default(path)
    types = schema.get("type", "object")
    first = types if isinstance(types, str) else types[0]
    if "enum" in schema:
        return next(value for value in schema["enum"] if value != said)
    return {
        "boolean": lambda: not said,
        "integer": lambda: (said or 1) + 1,
        "string": lambda: "other",
        "array": lambda: [{"key": "k", "name": "n"} if schema["items"]["type"] == "object" else "other"],
        "object": lambda: {"other": "other"},
    }[first]()


def nested(path, value):
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def rendered(stated):
    """What is rendered, without the token, which is another each time."""
    return re.sub(r"^  token: .*$", "", chart.text(stated), flags=re.M)


class Values(unittest.TestCase):
    leaves = {path: schema for path, schema in values.leaves(values.SCHEMA)}
    # Those of the models are tried by test_settings, and a pool's are the defaults'.
    tried = {
        path: schema
        for path, schema in leaves.items()
        if not path.startswith(("models.", "pools[]")) and path not in ("image.repository",)
    }

    def test_every_value_does_something(self):
        def both(item):
            path, schema = item
            needs = next((NEEDS[n] for n in sorted(NEEDS, key=len, reverse=True) if path.startswith(n)), {})
            if path in (
                "monitoring.serviceMonitor.enabled",
                "monitoring.rules.enabled",
                "monitoring.dashboard.enabled",
            ):
                needs = {}
            if path == "grpcRoute.enabled":
                needs = {"grpcRoute": {"parentRefs": [{"name": "g"}]}}
            return rendered(needs), rendered(chart.merged(needs, nested(path, sample(path, schema))))

        with concurrent.futures.ThreadPoolExecutor() as pool:
            results = pool.map(both, self.tried.items())
        for path, (before, after) in zip(self.tried, results):
            with self.subTest(path):
                self.assertTrue(before != after, "nothing changed")
        self.assertGreater(len(self.tried), 80)

    def test_values_yaml_has_every_value_and_no_other(self):
        for path in self.leaves:
            if not path.startswith(("models.", "pools[]")):
                with self.subTest(path):
                    self.assertTrue(values.stated(path))

        def paths(at, path=""):
            if isinstance(at, dict) and at and path not in self.leaves:
                for key, value in at.items():
                    yield from paths(value, f"{path}.{key}" if path else key)
            else:
                yield path

        known = {*self.leaves, "models", "pools"}
        self.assertEqual(set(paths(values.DEFAULTS)) - known, set())

    def test_every_value_is_described(self):
        for path, schema in self.leaves.items():
            with self.subTest(path):
                self.assertRegex(schema.get("description", ""), r"^\S.*[^.]$")

    def test_every_map_refuses_what_it_does_not_know(self):
        def walk(schema, path):
            if not isinstance(schema, dict):
                return
            if schema.get("type") == "object" and ("properties" in schema or "patternProperties" in schema):
                self.assertIn("additionalProperties", schema, path)
            for key in ("properties", "patternProperties", "definitions"):
                for name, part in schema.get(key, {}).items():
                    walk(part, f"{path}/{name}")
            walk(schema.get("items"), path + "[]")

        walk(json.loads((chart.CHART / "values.schema.json").read_text()), "")

    def test_the_readme_has_every_value_as_it_is(self):
        text = values.README.read_text()
        self.assertTrue(text == values.written(text), "it is stale: helm/tests/run docs writes it anew")
        for path in self.tried:
            self.assertIn(f"| `{path}` |", text)

    def test_a_readme_that_says_something_else_is_found(self):
        text = values.README.read_text()
        stale = text.replace("| `server.drainSeconds` | `30` |", "| `server.drainSeconds` | `31` |")
        self.assertTrue(stale != text)
        self.assertTrue(values.written(stale) == text)


if __name__ == "__main__":
    unittest.main()
