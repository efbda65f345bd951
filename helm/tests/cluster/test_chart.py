"""The chart on a control plane: what Kubernetes lets in, and what it makes of it."""

import copy
import json
import re
import time
import unittest

import yaml

import chart
from cluster.control_plane import ApiError, ControlPlane, missing

INSTANCE = "app.kubernetes.io/instance"
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
# Values that keep a test from waiting for what is not there.
QUICK = {"models": {"minilm": {"source": "echo"}}, "poolDefaults": {"minReadySeconds": 0}}
ONE_GPU = {"pools": [{"name": "gpu", "device": {"resource": "nvidia.com/gpu"}}]}

plane = None


def setUpModule():
    global plane
    if lacking := missing():
        raise RuntimeError(f"not installed: {', '.join(lacking)} (helm/tests/run cluster installs all but openssl)")
    began = time.monotonic()
    plane = ControlPlane(chart.TOOLS / "kwok").start()
    unittest.addModuleCleanup(plane.stop)
    print(f"control plane {plane.get('/version')['gitVersion']} up in {time.monotonic() - began:.1f} s", flush=True)
    plane.define([yaml.safe_load(path.read_text()) for path in sorted((chart.TOOLS / "crds").glob("*.yaml"))])
    plane.node("plain-1", labels={"topology.kubernetes.io/zone": "a"})
    plane.node("plain-2", labels={"topology.kubernetes.io/zone": "b"})
    plane.node("one-gpu", taints=[GPU_TAINT], **{"nvidia.com/gpu": 1})
    plane.node("parts", taints=[GPU_TAINT], **{"nvidia.com/mig-1g.10gb": 3})


class Cluster(unittest.TestCase):
    """A namespace of level `restricted` for each test, and somebody who may do there what its owner may."""

    def setUp(self):
        self.namespace = re.sub("[^a-z0-9]+", "-", self._testMethodName.removeprefix("test_"))[:40].strip("-")
        levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
        plane.call("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace, "labels": levels}})
        plane.call(
            "POST",
            f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.namespace}/rolebindings",
            {
                "metadata": {"name": "owner"},
                "subjects": [{"kind": "User", "name": "installer"}],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
            },
        )
        plane.wait(
            "the account is there", lambda: plane.get(f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default")
        )
        self.addCleanup(self.clean)

    def clean(self):
        plane.call("DELETE", f"/api/v1/namespaces/{self.namespace}")

    def helm(self, *args, values=None, user="installer", timeout=60):
        file = self.stated(values)
        verb = args[0]
        more = ["-f", file, "--wait", "--timeout", f"{timeout}s"] if verb in ("install", "upgrade") else []
        return chart.helm(*args, "-n", self.namespace, "--kubeconfig", plane.kubeconfig(user), *more)

    def stated(self, values):
        """The file with these values, and what makes the rest quick."""
        file = plane.folder / f"{self.namespace}.json"
        file.write_text(json.dumps(chart.merged(chart.merged(chart.FEWEST, QUICK), values or {})))
        return file

    def install(self, values=None, release="rel", **kwargs):
        return self.helm("install", release, chart.CHART, values=values, **kwargs)

    def upgrade(self, values=None, release="rel", **kwargs):
        return self.helm("upgrade", release, chart.CHART, values=values, **kwargs)

    def path(self, kind, name="", api="apps/v1"):
        return plane.resources()[api, kind].format(self.namespace) + (f"/{name}" if name else "")

    def get(self, kind, name, api="apps/v1"):
        return plane.get(self.path(kind, name, api))

    def pods(self, **labels):
        return plane.items(self.path("Pod", api="v1"), **labels)

    def workers(self, pool):
        return self.pods(**{"shoal/pool": pool})

    def alive(self, pool):
        return [pod for pod in self.workers(pool) if "deletionTimestamp" not in pod["metadata"]]

    def create(self, o, user="admin", **query):
        options = {"fieldValidation": "Strict", **query}
        path = self.path(o["kind"], api=o["apiVersion"])
        return plane.call("POST", path + "?" + "&".join(f"{k}={v}" for k, v in options.items()), o, user=user)


class Admission(Cluster):
    def rendered(self, scenario):
        return chart.render(scenario=scenario, namespace=self.namespace)

    def test_every_object_of_every_scenario_is_let_in(self):
        for scenario in chart.SCENARIOS:
            for o in self.rendered(scenario):
                with self.subTest(scenario, kind=o["kind"], name=o["metadata"]["name"]):
                    made = self.create(o, dryRun="All")
                    self.assertEqual(made["metadata"]["name"], o["metadata"]["name"])

    def test_a_field_that_is_misspelt_is_not_let_in(self):
        o = chart.one(self.rendered("default"), "Deployment", "-server")
        o["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 40
        with self.assertRaisesRegex(ApiError, "unknown field.*terminationGracePeriodSecond"):
            self.create(o, dryRun="All")

    def test_what_only_a_server_knows_is_checked(self):
        """Rules that no schema has: a budget of two kinds, a port's name of more than 15 letters, a selector of nothing."""
        objects = self.rendered("default")
        budget = chart.one(objects, "PodDisruptionBudget")
        budget["spec"]["minAvailable"] = 1
        service = chart.one(objects, "Service", "-metrics")
        service["spec"]["ports"][0]["name"] = "a" * 64
        deployment = chart.one(objects, "Deployment", "-server")
        deployment["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] = "other"
        for o, says in [
            (budget, "cannot be both set"),
            (service, "no more than 63"),
            (deployment, "does not match template"),
        ]:
            with self.subTest(o["kind"]), self.assertRaisesRegex(ApiError, says):
                self.create(o, dryRun="All")

    def pod_of(self, deployment):
        template = copy.deepcopy(deployment["spec"]["template"])
        metadata = {**template["metadata"], "name": deployment["metadata"]["name"], "namespace": self.namespace}
        # The account is the chart's, which is not there yet.
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {**template["spec"], "serviceAccountName": "default"},
        }

    def test_every_pod_is_a_restricted_one(self):
        for scenario in chart.SCENARIOS:
            for deployment in chart.of_kind(self.rendered(scenario), "Deployment"):
                with self.subTest(scenario, name=deployment["metadata"]["name"]):
                    pod = self.pod_of(deployment)
                    pod["spec"].pop("runtimeClassName", None)  # Such a class is the cluster's, which has none here.
                    self.create(pod, dryRun="All")

    def test_a_pod_that_asks_for_more_is_not_let_in(self):
        deployment = chart.one(self.rendered("default"), "Deployment", "-worker-cpu")

        def privileged(spec):
            spec["containers"][0]["securityContext"] |= {"privileged": True, "allowPrivilegeEscalation": True}

        def capable(spec):
            spec["containers"][0]["securityContext"]["capabilities"] = {"drop": ["ALL"], "add": ["SYS_ADMIN"]}

        def root(spec):
            spec["securityContext"]["runAsUser"] = 0

        def any_user(spec):
            for context in (
                spec["securityContext"],
                *(c["securityContext"] for c in spec["containers"] + spec["initContainers"]),
            ):
                context.pop("runAsNonRoot")

        def host_path(spec):
            spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}})

        def host_network(spec):
            spec["hostNetwork"] = True

        def unconfined(spec):
            spec["securityContext"]["seccompProfile"] = {"type": "Unconfined"}

        for more in (privileged, capable, root, any_user, host_path, host_network, unconfined):
            with self.subTest(more.__name__):
                pod = self.pod_of(deployment)
                more(pod["spec"])
                with self.assertRaisesRegex(ApiError, 'violates PodSecurity "restricted:latest"') as refused:
                    self.create(pod, dryRun="All")
                self.assertEqual(refused.exception.status, 403)


class Install(Cluster):
    def test_who_owns_a_namespace_can_install_and_nobody_is_given_rights(self):
        self.install({"pools": [{"name": "cpu", "replicas": 2}]})
        server = self.get("Deployment", "rel-shoal-server")
        self.assertEqual(server["status"]["readyReplicas"], 1)
        self.assertEqual(self.get("Deployment", "rel-shoal-worker-cpu")["status"]["readyReplicas"], 2)
        # Nothing but what belongs to a namespace, and no roles.
        for o in chart.render():
            self.assertIn("{}", plane.resources()[o["apiVersion"], o["kind"]])
            self.assertNotIn("Role", o["kind"])
        (pod,) = self.pods(**{"app.kubernetes.io/component": "server"})
        self.assertEqual(pod["spec"]["serviceAccountName"], "rel-shoal")
        self.assertNotIn("kube-api-access", str(pod["spec"]["volumes"]))
        account = f"system:serviceaccount:{self.namespace}:rel-shoal"
        for resource, verb in [("pods", "list"), ("secrets", "get"), ("configmaps", "get"), ("deployments", "update")]:
            review = plane.call(
                "POST",
                "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                {
                    "spec": {
                        "user": account,
                        "groups": ["system:serviceaccounts", "system:authenticated"],
                        "resourceAttributes": {"namespace": self.namespace, "verb": verb, "resource": resource},
                    }
                },
            )
            self.assertIs(review["status"]["allowed"], False, f"{verb} {resource}")

    def test_who_may_not_touch_the_namespace_cannot_install(self):
        """The same person elsewhere: it is the namespace's rights that are enough above."""
        with self.assertRaisesRegex(chart.Refused, "forbidden"):
            chart.helm(
                "install",
                "rel",
                chart.CHART,
                "-n",
                "default",
                "--kubeconfig",
                plane.kubeconfig("installer"),
                "--set",
                "image.repository=r",
                "--set",
                "models.minilm.source=echo",
            )

    def test_endpoints_are_those_that_each_is_for(self):
        self.install({"pools": [{"name": "cpu", "replicas": 2}]})
        (server,) = self.pods(**{"app.kubernetes.io/component": "server"})

        def addresses(service):
            slices = plane.items(
                self.path("EndpointSlice", api="discovery.k8s.io/v1"), **{"kubernetes.io/service-name": service}
            )
            return [
                (e["addresses"][0], e["conditions"]["ready"], e["conditions"]["serving"])
                for s in slices
                for e in s["endpoints"] or []
            ], {port["name"]: (port["port"], port.get("appProtocol")) for s in slices for port in s["ports"]}

        address = server["status"]["podIP"]
        h2c = "kubernetes.io/h2c"
        for service, ports in [
            ("rel-shoal", {"grpc": (8001, h2c), "http": (8000, "http")}),
            ("rel-shoal-headless", {"grpc": (8001, h2c), "http": (8000, "http")}),
            ("rel-shoal-link", {"link": (8003, h2c)}),
            ("rel-shoal-metrics", {"metrics": (8002, "http")}),
        ]:
            with self.subTest(service):
                plane.wait("the address is there", lambda s=service: addresses(s)[0] == [(address, True, True)])
                self.assertEqual(addresses(service)[1], ports)
        # A server without workers is not ready: clients are not led to it, and workers are.
        status = copy.deepcopy(server["status"])
        for condition in status["conditions"]:
            if condition["type"] in ("Ready", "ContainersReady"):
                condition["status"] = "False"
        path = self.path("Pod", server["metadata"]["name"], "v1")
        plane.call(
            "PATCH",
            f"{path}/status",
            {"status": {"conditions": status["conditions"]}},
            content="application/merge-patch+json",
        )
        for service, ready in [("rel-shoal", False), ("rel-shoal-headless", False), ("rel-shoal-link", True)]:
            with self.subTest(service):
                plane.wait("it follows", lambda s=service, r=ready: addresses(s)[0] == [(address, r, False)])

    def test_two_releases_in_one_namespace_do_not_meet(self):
        self.install()
        self.install(release="second")
        for release in ("rel", "second"):
            server = self.get("Deployment", f"{release}-shoal-server")
            self.assertEqual(server["status"]["replicas"], 1)
            selector = self.get("Service", f"{release}-shoal", "v1")["spec"]["selector"]
            found = self.pods(**selector)
            self.assertEqual([pod["metadata"]["labels"][INSTANCE] for pod in found], [release])

    def test_an_uninstall_leaves_nothing(self):
        self.install(
            {"monitoring": {"dashboard": {"enabled": True}}, "pools": [{"name": "cpu", "autoscaling": {"kind": "hpa"}}]}
        )
        self.helm("uninstall", "rel")

        def left():
            return [
                (kind, o["metadata"]["name"])
                for (_, kind), path in plane.resources().items()
                if "{}" in path and kind not in ("Event", "Binding", "LocalSubjectAccessReview")
                for o in plane.items(path.format(self.namespace), **{INSTANCE: "rel"})
            ]

        plane.wait("nothing is left", lambda: not left(), 30)


class Rollouts(Cluster):
    def test_a_pool_with_one_gpu_is_replaced(self):
        """Two pods never fit: the new one waits for the old one's end, which comes."""
        self.install(ONE_GPU)
        (old,) = self.workers("gpu")
        self.assertEqual(old["spec"]["nodeName"], "one-gpu")
        self.upgrade(chart.merged(ONE_GPU, {"log": {"filter": "debug"}}))
        (new,) = self.alive("gpu")
        self.assertNotEqual(new["metadata"]["uid"], old["metadata"]["uid"])
        self.assertEqual(new["spec"]["nodeName"], "one-gpu")
        self.assertIn("--log=debug", new["spec"]["containers"][0]["args"])
        self.helm("uninstall", "rel", "--wait")

    def test_a_pool_whose_new_pod_comes_first_is_stuck(self):
        """What the chart's strategy is for: with the usual one the same change never ends, until it is rolled back."""
        self.install(ONE_GPU)
        path = self.path("Deployment", "rel-shoal-worker-gpu")
        plane.call(
            "PATCH",
            path,
            {
                "spec": {
                    "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                    "template": {"metadata": {"annotations": {"changed": "true"}}},
                }
            },
            content="application/merge-patch+json",
        )

        def unplaced():
            for pod in self.workers("gpu"):
                for condition in pod["status"].get("conditions", []):
                    if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
                        return condition["message"]

        self.assertIn("Insufficient nvidia.com/gpu", plane.wait("the new pod finds no place", unplaced))
        time.sleep(2 * 2 + 1)  # Longer than any pod here takes to go.
        self.assertTrue(unplaced())
        self.assertEqual(self.get("Deployment", "rel-shoal-worker-gpu")["status"]["updatedReplicas"], 1)
        # What somebody else has set is Helm's again.
        self.helm("upgrade", "rel", chart.CHART, "--force-conflicts", values=ONE_GPU)
        self.assertEqual(len(self.alive("gpu")), 1)
        self.helm("uninstall", "rel", "--wait")

    def test_a_cpu_pool_is_replaced_without_a_gap(self):
        self.install()
        self.upgrade({"log": {"filter": "debug"}})
        replica_sets = plane.items(self.path("ReplicaSet"), **{"shoal/pool": "cpu"})
        self.assertEqual(len(replica_sets), 2)
        strategy = self.get("Deployment", "rel-shoal-worker-cpu")["spec"]["strategy"]["rollingUpdate"]
        self.assertEqual(strategy, {"maxSurge": 1, "maxUnavailable": 0})

    def test_pools_land_where_their_devices_are(self):
        self.install(
            {
                "models": {"minilm": {"source": "echo"}, "small": {"source": "echo"}},
                "pools": [
                    {"name": "cpu", "replicas": 4, "models": ["minilm"]},
                    {
                        "name": "mig",
                        "replicas": 3,
                        "models": ["small"],
                        "device": {"resource": "nvidia.com/mig-1g.10gb"},
                    },
                ],
            }
        )
        self.assertEqual({pod["spec"]["nodeName"] for pod in self.workers("mig")}, {"parts"})
        # Spread over what bears no taint of GPUs.
        self.assertEqual(
            sorted(pod["spec"]["nodeName"] for pod in self.workers("cpu")), ["plain-1"] * 2 + ["plain-2"] * 2
        )
        (server,) = self.pods(**{"app.kubernetes.io/component": "server"})
        self.assertIn(server["spec"]["nodeName"], ("plain-1", "plain-2"))

    def test_more_workers_than_parts_wait(self):
        """What is said to be placed above is placed because there is room."""
        with self.assertRaises(chart.Refused):
            self.install(
                {"pools": [{"name": "mig", "replicas": 4, "device": {"resource": "nvidia.com/mig-1g.10gb"}}]}, timeout=8
            )
        ready = self.get("Deployment", "rel-shoal-worker-mig")["status"].get("readyReplicas", 0)
        self.assertEqual(ready, 3)
        self.helm("uninstall", "rel", "--wait")

    def uids(self, **labels):
        return sorted(
            pod["metadata"]["uid"] for pod in self.pods(**labels) if "deletionTimestamp" not in pod["metadata"]
        )

    def test_an_upgrade_restarts_what_it_changes_and_a_rollback_brings_it_back(self):
        self.install()
        token = self.get("Secret", "rel-shoal-worker-token", "v1")["data"]["token"]
        before = self.get("ConfigMap", "rel-shoal", "v1")["data"]
        server, workers = self.uids(**{"app.kubernetes.io/component": "server"}), self.uids(**{"shoal/pool": "cpu"})
        self.upgrade({"server": {"settings": {"call_texts_max": 7}}})
        self.assertEqual(
            chart.settings([self.get("ConfigMap", "rel-shoal", "v1") | {"kind": "ConfigMap"}])["call_texts_max"], 7
        )
        self.assertNotEqual(self.uids(**{"app.kubernetes.io/component": "server"}), server)
        self.assertEqual(self.uids(**{"shoal/pool": "cpu"}), workers)
        self.assertEqual(self.get("Secret", "rel-shoal-worker-token", "v1")["data"]["token"], token)
        self.helm("rollback", "rel", "1", "--wait", "--timeout", "60s")
        self.assertEqual(self.get("ConfigMap", "rel-shoal", "v1")["data"], before)
        self.assertEqual(self.uids(**{"shoal/pool": "cpu"}), workers)
        # A pool that is added and taken away again.
        two = {"pools": [{"name": "cpu"}, {"name": "more"}]}
        self.upgrade(two)
        self.assertEqual(len(self.alive("more")), 1)
        self.upgrade()
        plane.wait("its pods go with it", lambda: not self.workers("more"))
        self.assertEqual(self.uids(**{"shoal/pool": "cpu"}), workers)

    def test_an_upgrade_that_is_refused_changes_nothing(self):
        self.install()
        before = self.get("Deployment", "rel-shoal-server")["metadata"]["generation"]
        with self.assertRaisesRegex(chart.Refused, "server.terminationGracePeriodSeconds: 10 s is too short"):
            self.upgrade({"server": {"terminationGracePeriodSeconds": 10}})
        self.assertEqual(self.get("Deployment", "rel-shoal-server")["metadata"]["generation"], before)


class Scaling(Cluster):
    def evict(self, pod):
        name = pod["metadata"]["name"]
        return plane.call(
            "POST",
            f"{self.path('Pod', name, 'v1')}/eviction",
            {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": self.namespace}},
        )

    def test_a_drain_takes_one_worker_at_a_time(self):
        # As many as there are parts: what comes for one that goes has to wait until it is gone.
        self.install({"pools": [{"name": "mig", "replicas": 3, "device": {"resource": "nvidia.com/mig-1g.10gb"}}]})

        def budget():
            return self.get("PodDisruptionBudget", "rel-shoal-worker-mig", "policy/v1")["status"]

        plane.wait("the budget is known", lambda: budget()["disruptionsAllowed"] == 1)
        self.assertEqual((budget()["expectedPods"], budget()["desiredHealthy"]), (3, 2))
        first, second, _ = self.workers("mig")
        self.evict(first)
        with self.assertRaises(ApiError) as refused:
            self.evict(second)
        self.assertEqual(refused.exception.status, 429)
        self.assertIn("disruption budget", str(refused.exception))
        plane.wait("a new one is there", lambda: budget()["disruptionsAllowed"] == 1)
        self.evict(second)
        self.helm("uninstall", "rel", "--wait")

    def test_a_server_is_drained_unless_it_is_said_otherwise(self):
        self.install()
        (server,) = self.pods(**{"app.kubernetes.io/component": "server"})
        self.upgrade({"server": {"disruptionBudget": {"maxUnavailable": 0}}})
        plane.wait(
            "the budget is known",
            lambda: self.get("PodDisruptionBudget", "rel-shoal-server", "policy/v1")["status"].get("expectedPods") == 1,
        )
        with self.assertRaises(ApiError) as refused:
            self.evict(server)
        self.assertEqual(refused.exception.status, 429)
        self.upgrade()
        plane.wait("it can be drained again", lambda: self.evict(server))

    def test_a_scaler_finds_its_pool_and_an_upgrade_leaves_what_it_said(self):
        pool = {"pools": [{"name": "cpu", "autoscaling": {"kind": "hpa", "minReplicas": 2, "maxReplicas": 6}}]}
        self.install(pool)

        def conditions():
            status = self.get("HorizontalPodAutoscaler", "rel-shoal-worker-cpu", "autoscaling/v2").get("status", {})
            return {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions", [])}

        plane.wait("the scaler has found the pool", lambda: conditions().get("AbleToScale", ("",))[0] == "True")
        # It brings the pool to the fewest by itself; there is nobody here who measures processors.
        plane.wait("there are the fewest", lambda: len(self.alive("cpu")) == 2)
        plane.wait("it has asked", lambda: conditions().get("ScalingActive", ("", ""))[1] == "FailedGetResourceMetric")
        path = self.path("Deployment", "rel-shoal-worker-cpu")
        plane.call("PATCH", f"{path}/scale", {"spec": {"replicas": 4}}, content="application/merge-patch+json")
        plane.wait("there are four", lambda: len(self.alive("cpu")) == 4)
        self.upgrade(chart.merged(pool, {"log": {"filter": "debug"}}))
        self.assertEqual(self.get("Deployment", "rel-shoal-worker-cpu")["spec"]["replicas"], 4)

    def test_other_projects_objects_are_taken_by_their_definitions(self):
        """By who may make them: an owner of a namespace may not, by default."""
        values = {
            "monitoring": {
                "serviceMonitor": {"enabled": True},
                "rules": {"enabled": True},
                "prometheusAddress": "http://prometheus:9090",
            },
            "grpcRoute": {"enabled": True, "parentRefs": [{"name": "g"}]},
            "pools": [{"name": "cpu", "autoscaling": {"kind": "keda"}}],
        }
        self.install(values, user="admin")
        # Not beside a route, which would end at a server that speaks TLS. Nobody here signs anything, so no pod gets ready.
        tls = {"tls": {"certManager": {"issuer": "i"}}}
        chart.helm("install", "safe", chart.CHART, "-n", self.namespace, "--kubeconfig", plane.kubeconfig("admin"),
                   "-f", self.stated(tls))
        for release, api, kind, count in [
            ("rel", "monitoring.coreos.com/v1", "ServiceMonitor", 1),
            ("rel", "monitoring.coreos.com/v1", "PrometheusRule", 1),
            ("rel", "gateway.networking.k8s.io/v1", "GRPCRoute", 1),
            ("rel", "keda.sh/v1alpha1", "ScaledObject", 1),
            ("safe", "cert-manager.io/v1", "Certificate", 3),
        ]:
            self.assertEqual(len(plane.items(self.path(kind, api=api), **{INSTANCE: release})), count, kind)
        route = chart.one(chart.render(scenario="gateway", namespace=self.namespace), "GRPCRoute")
        route["spec"]["rules"][0]["backendRefs"][0].pop("port")
        with self.assertRaisesRegex(ApiError, "Must have port for Service reference"):
            self.create(route, dryRun="All")


if __name__ == "__main__":
    unittest.main()
