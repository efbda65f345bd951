"""What tests of the chart have in common: where things are, and what the chart makes of values."""

import functools
import json
import os
import pathlib
import subprocess
import tempfile
import tomllib

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
CHART = REPOSITORY / "helm/shoal"
SCENARIOS = {path.name.removesuffix("-values.yaml"): path for path in sorted(CHART.glob("ci/*-values.yaml"))}
TOOLS = pathlib.Path(os.environ["SHOAL_HELM_TOOLS"])
KUBERNETES = "1.37"

# The fewest values that render.
FEWEST = {"image": {"repository": "registry.example/shoal"}, "models": {"minilm": {"source": "minilm"}}}


class Refused(Exception):
    """The chart renders nothing of these values; the text says why."""


def merged(below, above):
    """As Helm merges values: maps key by key, all else replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}


def helm(*args, **kwargs):
    """Runs Helm and returns what it prints; Refused has its complaint."""
    done = subprocess.run(["helm", *map(str, args)], capture_output=True, text=True, check=False, **kwargs)
    if done.returncode != 0:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def parse(text):
    """The objects in a text of YAML."""
    return [found for found in yaml.load_all(text, yaml.CSafeLoader) if found]


@functools.cache
def scenario_text(scenario, kubernetes, release, namespace):
    return helm("template", release, CHART, "-n", namespace, "--kube-version", kubernetes, "-f", SCENARIOS[scenario])


def text(values=None, scenario=None, kubernetes=KUBERNETES, release="rel", namespace="apps"):
    """What the chart renders, as text: of a scenario, or of FEWEST with `values` over it."""
    if scenario:
        return scenario_text(scenario, kubernetes, release, namespace)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(merged(FEWEST, values or {}), file)
        file.flush()
        return helm("template", release, CHART, "-n", namespace, "--kube-version", kubernetes, "-f", file.name)


def render(values=None, **kwargs):
    """The objects that the chart renders."""
    return parse(text(values, **kwargs))


def one(objects, kind, name=None):
    """The one object of a kind, and of a name that ends so."""
    found = [o for o in objects if o["kind"] == kind and (name is None or o["metadata"]["name"].endswith(name))]
    assert len(found) == 1, f"{len(found)} of {kind} {name or ''}: {[o['metadata']['name'] for o in found]}"
    return found[0]


def of_kind(objects, kind):
    return [o for o in objects if o["kind"] == kind]


def pod(deployment):
    """The spec of a Deployment's pods."""
    return deployment["spec"]["template"]["spec"]


def settings(objects):
    """The server's configuration, read."""
    (file,) = [o["data"]["shoal.toml"] for o in of_kind(objects, "ConfigMap") if "shoal.toml" in o["data"]]
    return tomllib.loads(file)


def container(deployment):
    """The one container of a Deployment's pods."""
    (only,) = pod(deployment)["containers"]
    return only


def containers(deployment):
    """All of them, with those that run before."""
    return pod(deployment).get("initContainers", []) + pod(deployment)["containers"]
