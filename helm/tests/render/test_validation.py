"""Everything that a scenario renders is what Kubernetes and others take, by the tools that say so before a cluster does."""

import json
import subprocess
import unittest

import jsonschema
import kubernetes_validate
import yaml

import chart

# The oldest and the newest that the chart is for.
KUBERNETES = ("1.30", chart.KUBERNETES)
# What kube-score asks for that is not done, and why not.
NOT_DONE = {
    "container-resources": "a limit of processors only slows down; memory has one, which is tested here",
    "container-image-pull-policy": "a tag is a version, and a digest needs no pull",
    "container-ephemeral-storage-request-and-limit": "what is written to is a volume with a limit",
    "deployment-replicas": "a worker serves one server",
    "deployment-has-host-podantiaffinity": "workers are spread by constraints, and there is one server",
}


def definitions():
    """Schemas of other projects' kinds, made as strict as an API server is with what it is sent."""
    found = {}
    for path in sorted((chart.TOOLS / "crds").glob("*.yaml")):
        crd = yaml.safe_load(path.read_text())
        for version in crd["spec"]["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            found[f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]] = strict(schema, root=True)
    assert len(found) >= 4, found.keys()
    return found


def strict(schema, root=False):
    """Unknown fields refused, where the definition does not say to keep them."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if key != "format"}
    if "(?i)" in made.get("pattern", ""):
        made["pattern"] = "(?i)" + made["pattern"].replace("(?i)", "")  # Python has such flags at the start alone.
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
    if "properties" in schema and isinstance(schema["properties"], dict):
        made["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        if root:
            made["properties"]["metadata"] = {"type": "object"}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            made["additionalProperties"] = False
    return made


def score(text):
    """What kube-score finds, as (kind, check, comment)."""
    ignored = [part for name in NOT_DONE for part in ("--ignore-test", name)]
    done = subprocess.run(
        ["kube-score", "score", *ignored, "--output-format", "json", "--output-version", "v2", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return [
        (found["object_name"], check["check"]["id"], comment["summary"])
        for found in json.loads(done.stdout) or []
        for check in found["checks"] or []
        if not check["skipped"] and check["grade"] < 10
        for comment in check["comments"] or [{"summary": ""}]
    ]


class Validation(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.text = {name: chart.text(scenario=name) for name in chart.SCENARIOS}
        cls.objects = {name: chart.parse(text) for name, text in cls.text.items()}
        cls.definitions = definitions()

    def test_there_is_a_scenario_for_each_thing_that_can_be_asked_for(self):
        kinds = {o["kind"] for objects in self.objects.values() for o in objects}
        self.assertLessEqual(
            {
                "HorizontalPodAutoscaler",
                "ScaledObject",
                "GRPCRoute",
                "ServiceMonitor",
                "PrometheusRule",
                "NetworkPolicy",
                "PodDisruptionBudget",
                "Secret",
            },
            kinds,
        )

    def test_helm_finds_nothing_to_complain_of(self):
        for name, path in chart.SCENARIOS.items():
            with self.subTest(name):
                chart.helm("lint", "--strict", chart.CHART, "-f", path, "--kube-version", chart.KUBERNETES)

    def test_every_object_is_one_that_kubernetes_knows(self):
        for name, objects in self.objects.items():
            for version in KUBERNETES:
                if version == "1.30" and name == "sources":
                    continue  # An image as a volume is refused there, which test_models has.
                for o in objects:
                    with self.subTest(name, version=version, kind=o["kind"]):
                        self.validate(o, version)

    def validate(self, o, version=chart.KUBERNETES):
        if definition := self.definitions.get((o["apiVersion"], o["kind"])):
            jsonschema.validate(o, definition)
        else:
            kubernetes_validate.validate(o, version, strict=True)

    def test_a_field_that_is_misspelt_is_found(self):
        def misspelt(o, path, name):
            o = json.loads(json.dumps(o))
            at = o
            for key in path:
                at = at[key]
            at[name] = at.pop(name[:-1])
            return o

        server = chart.one(self.objects["default"], "Deployment", "-server")
        wrong = misspelt(server, ["spec", "template", "spec", "containers", 0, "livenessProbe"], "periodSecondss")
        with self.assertRaisesRegex(kubernetes_validate.ValidationError, "periodSecondss"):
            self.validate(wrong)
        for scenario, kind, path, name in [
            ("gateway", "GRPCRoute", ["spec", "rules", 0, "backendRefs", 0], "portt"),
            ("keda", "ScaledObject", ["spec"], "maxReplicaCountt"),
            ("monitoring", "ServiceMonitor", ["spec", "endpoints", 0], "intervall"),
            ("monitoring", "PrometheusRule", ["spec", "groups", 0, "rules", 0], "exprr"),
        ]:
            o = chart.of_kind(self.objects[scenario], kind)[0]
            with self.subTest(kind), self.assertRaisesRegex(jsonschema.ValidationError, name):
                self.validate(misspelt(o, path, name))

    def test_kube_score_finds_nothing_to_complain_of(self):
        # Where it is asked for that others choose users, and that there are no policies.
        asked_for = {"openshift": {"pod-networkpolicy", "container-security-context-user-group-id"}}
        for name, text in self.text.items():
            with self.subTest(name):
                found = score(text)
                self.assertEqual({check for _, check, _ in found}, asked_for.get(name, set()), found)

    def test_what_kube_score_is_for_is_found(self):
        for wrong, check in [
            (
                ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
                "container-security-context-readonlyrootfilesystem",
            ),
            (("image: registry.example/shoal:0.1.0", "image: registry.example/shoal:latest"), "container-image-tag"),
            (("runAsUser: 65532", "runAsUser: 0"), "container-security-context-user-group-id"),
            (
                (
                    "app.kubernetes.io/component: worker\n  policyTypes",
                    "app.kubernetes.io/component: nobody\n  policyTypes",
                ),
                "networkpolicy-targets-pod",
            ),
        ]:
            with self.subTest(check):
                self.assertIn(wrong[0], self.text["default"])
                found = score(self.text["default"].replace(*wrong))
                self.assertIn(check, {id for _, id, _ in found}, found)

    def test_names_are_told_once_and_fit(self):
        long = "a-release-with-a-name-as-long-as-helm-lets-it-be-53ch"
        for objects in [*self.objects.values(), chart.render(release=long)]:
            names = [(o["kind"], o["metadata"]["name"]) for o in objects]
            self.assertEqual(len(names), len(set(names)))
            for kind, name in names:
                # A Service's name is a label of DNS.
                self.assertLessEqual(len(name), 63 if kind == "Service" else 253, name)
            for deployment in chart.of_kind(objects, "Deployment"):
                for container in chart.containers(deployment):
                    # Server-side apply refuses a name that is there twice.
                    variables = [variable["name"] for variable in container.get("env", [])]
                    self.assertEqual(len(variables), len(set(variables)), container["name"])
                volumes = [volume["name"] for volume in chart.pod(deployment)["volumes"]]
                self.assertEqual(len(volumes), len(set(volumes)))

    def test_every_object_says_what_it_belongs_to(self):
        for name, objects in self.objects.items():
            for o in objects:
                with self.subTest(name, kind=o["kind"]):
                    self.assertEqual(o["metadata"]["namespace"], "apps")
                    self.assertEqual(o["metadata"]["labels"]["app.kubernetes.io/instance"], "rel")
                    self.assertEqual(o["metadata"]["labels"]["app.kubernetes.io/managed-by"], "Helm")


if __name__ == "__main__":
    unittest.main()
