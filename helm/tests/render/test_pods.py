"""Pods: what they may do, how they start, go and are replaced, and where they land."""

import unittest

import chart


def deployments(**kwargs):
    return chart.of_kind(chart.render(**kwargs), "Deployment")


class Pods(unittest.TestCase):
    def every(self):
        for name in chart.SCENARIOS:
            for deployment in deployments(scenario=name):
                with self.subTest(name, deployment=deployment["metadata"]["name"]):
                    yield name, deployment

    def test_nothing_is_allowed_that_restricted_pods_are_not(self):
        for name, deployment in self.every():
            spec = chart.pod(deployment)
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertTrue(spec["securityContext"]["runAsNonRoot"])
            self.assertEqual("runAsUser" in spec["securityContext"], name != "openshift")
            for field in ("hostNetwork", "hostPID", "hostIPC"):
                self.assertNotIn(field, spec)
            for volume in spec["volumes"]:
                self.assertNotIn("hostPath", volume)
            for container in chart.containers(deployment):
                context = container["securityContext"]
                self.assertFalse(context["allowPrivilegeEscalation"])
                self.assertTrue(context["readOnlyRootFilesystem"])
                self.assertEqual(context["capabilities"], {"drop": ["ALL"]})

    def test_nothing_of_the_cluster_gets_in(self):
        for _, deployment in self.every():
            spec = chart.pod(deployment)
            self.assertIs(spec["automountServiceAccountToken"], False)
            # Else the Service NAME-link were the variable NAME_LINK_PORT, and with a release named shoal a setting.
            self.assertIs(spec["enableServiceLinks"], False)
        account = chart.one(chart.render(), "ServiceAccount")
        self.assertIs(account["automountServiceAccountToken"], False)

    def test_every_container_states_its_memory(self):
        for _, deployment in self.every():
            for container in chart.containers(deployment):
                self.assertIn("memory", container["resources"]["limits"])
                self.assertIn("memory", container["resources"]["requests"])
                self.assertNotIn("cpu", container["resources"]["limits"])

    def test_everything_that_is_mounted_is_there(self):
        for _, deployment in self.every():
            volumes = {volume["name"] for volume in chart.pod(deployment)["volumes"]}
            mounted = {
                mount["name"] for container in chart.containers(deployment) for mount in container["volumeMounts"]
            }
            self.assertEqual(mounted, volumes)

    def test_a_container_can_write_to_its_home_and_to_tmp_and_nowhere_else(self):
        for _, deployment in self.every():
            for container in chart.containers(deployment):
                writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
                self.assertEqual(writable, {"/var/lib/shoal", "/tmp"})

    def test_liveness_asks_for_the_process_alone(self):
        container = chart.container(chart.one(chart.render(), "Deployment", "-server"))
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        self.assertEqual(ports, {"grpc": 8001, "http": 8000, "metrics": 8002, "link": 8003})
        health = (chart.REPOSITORY / "server/src/rpc/health.rs").read_text()
        for probe, service in [
            ("startupProbe", "startup"),
            ("readinessProbe", "readiness"),
            ("livenessProbe", "liveness"),
        ]:
            # A kubelet takes no port by its name here.
            self.assertEqual(container[probe]["grpc"], {"port": 8001, "service": service})
            self.assertIn(f'const {service.upper()}: &str = "{service}";', health)
        # All workers may take half an hour to come; after it half a minute of silence is the end.
        startup, live = container["startupProbe"], container["livenessProbe"]
        self.assertEqual(startup["periodSeconds"] * startup["failureThreshold"], 1800)
        self.assertEqual(live["periodSeconds"] * live["failureThreshold"], 30)

    def test_probes_ask_the_port_of_metrics_where_it_is_said(self):
        values = {"server": {"probes": {"protocol": "http", "startupSeconds": 601}}}
        container = chart.container(chart.one(chart.render(values), "Deployment", "-server"))
        for probe, path in [("startupProbe", "/startupz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")]:
            self.assertEqual(container[probe]["httpGet"], {"path": path, "port": "metrics"})
            self.assertNotIn("grpc", container[probe])
        self.assertEqual(container["startupProbe"]["failureThreshold"], 601)

    def test_a_server_has_the_time_to_end(self):
        for values, grace in [
            ({}, 40),
            ({"drainSeconds": 120}, 130),
            ({"preStopSeconds": 15}, 50),
            ({"terminationGracePeriodSeconds": 300}, 300),
        ]:
            with self.subTest(str(values)):
                objects = chart.render({"server": values})
                server = chart.one(objects, "Deployment", "-server")
                self.assertEqual(chart.pod(server)["terminationGracePeriodSeconds"], grace)
                sleep = chart.container(server)["lifecycle"]["preStop"]["sleep"]["seconds"]
                self.assertEqual(sleep, values.get("preStopSeconds", 5))
                drain = values.get("drainSeconds", 30)
                self.assertEqual(chart.settings(objects)["drain_time_max"], f"{drain}s")
                self.assertGreater(grace, sleep + drain)

    def test_a_worker_has_the_time_that_it_gives_itself(self):
        options = (chart.REPOSITORY / "worker/src/options.rs").read_text()
        self.assertIn("grace: Duration::from_secs(25),", options)
        worker = chart.one(chart.render(), "Deployment", "-worker-cpu")
        self.assertEqual(chart.pod(worker)["terminationGracePeriodSeconds"], 25 + 5)

    def test_the_old_pod_goes_first_where_two_do_not_fit(self):
        first = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
        after = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        gpu, claim = {"device": {"resource": "nvidia.com/gpu"}}, {"home": {"claim": "c"}}
        pools = [{"name": "cpu"}, {"name": "gpu", **gpu}, {"name": "claim", **claim}]
        objects = chart.render({"pools": pools})
        for name, strategy in [
            ("-server", first),
            ("-worker-cpu", after),
            ("-worker-gpu", first),
            ("-worker-claim", first),
        ]:
            with self.subTest(name):
                self.assertEqual(chart.one(objects, "Deployment", name)["spec"]["strategy"], strategy)
        self.assertEqual(chart.one(objects, "Deployment", "-server")["spec"]["replicas"], 1)

    def test_a_gpu_is_asked_for_and_used(self):
        worker = chart.one(chart.render(scenario="gpu"), "Deployment", "-worker-l4")
        resources = chart.container(worker)["resources"]
        for kind in ("requests", "limits"):
            self.assertEqual(resources[kind]["nvidia.com/gpu"], 1)
            self.assertEqual(resources[kind]["memory"], "16Gi")
        self.assertIn("--device=cuda", chart.container(worker)["args"])
        spec = chart.pod(worker)
        self.assertEqual(spec["runtimeClassName"], "nvidia")
        self.assertEqual(spec["nodeSelector"], {"nvidia.com/gpu.product": "NVIDIA-L4"})
        self.assertIn({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, spec["tolerations"])

    def test_every_pool_has_its_own_device(self):
        objects = chart.render(scenario="mig")
        mig, whole, cpu = (chart.one(objects, "Deployment", name) for name in ("-mig", "-whole", "-cpu"))
        self.assertEqual(chart.container(mig)["resources"]["limits"]["nvidia.com/mig-1g.10gb"], 1)
        self.assertEqual(chart.container(whole)["resources"]["limits"]["nvidia.com/gpu"], 1)
        self.assertNotIn("nvidia", str(cpu))
        self.assertIn("--device=cpu", chart.container(cpu)["args"])
        self.assertEqual([tolerated["key"] for tolerated in chart.pod(mig)["tolerations"]], ["team", "nvidia.com/gpu"])
        self.assertEqual([d["spec"]["replicas"] for d in (mig, whole, cpu)], [3, 1, 0])

    def test_a_pool_is_its_defaults_and_what_it_says_over_them(self):
        objects = chart.render(
            {
                "poolDefaults": {
                    "replicas": 3,
                    "nodeSelector": {"a": "1", "b": "1"},
                    "resources": {"limits": {"memory": "8Gi"}},
                },
                "pools": [
                    {"name": "x"},
                    {"name": "y", "replicas": 0, "nodeSelector": {"b": "2"}, "resources": {"requests": {"cpu": None}}},
                ],
            }
        )
        x, y = (chart.one(objects, "Deployment", name) for name in ("-x", "-y"))
        self.assertEqual((x["spec"]["replicas"], y["spec"]["replicas"]), (3, 0))
        self.assertEqual(chart.pod(y)["nodeSelector"], {"a": "1", "b": "2"})
        self.assertEqual(chart.container(y)["resources"], {"requests": {"memory": "2Gi"}, "limits": {"memory": "8Gi"}})
        self.assertEqual(chart.container(x)["resources"]["requests"]["cpu"], "2")

    def test_pods_are_spread_unless_it_is_said_how(self):
        spread = chart.pod(chart.one(chart.render(), "Deployment", "-worker-cpu"))["topologySpreadConstraints"]
        self.assertEqual([s["topologyKey"] for s in spread], ["topology.kubernetes.io/zone", "kubernetes.io/hostname"])
        self.assertEqual({s["whenUnsatisfiable"] for s in spread}, {"ScheduleAnyway"})
        stated = chart.pod(chart.one(chart.render(scenario="ha"), "Deployment", "-worker-a"))[
            "topologySpreadConstraints"
        ]
        self.assertEqual([s["whenUnsatisfiable"] for s in stated], ["DoNotSchedule"])

    def test_only_what_changes_is_restarted(self):
        """A worker does not read the server's settings, nor any pod the chart's version."""

        def pods(values):
            return {d["metadata"]["name"]: d["spec"]["template"] for d in deployments(values=values)}

        before = pods({})
        after = pods({"server": {"settings": {"call_texts_max": 7}}})
        self.assertNotEqual(before["rel-shoal-server"], after["rel-shoal-server"])
        self.assertEqual(before["rel-shoal-worker-cpu"], after["rel-shoal-worker-cpu"])
        for template in before.values():
            self.assertNotIn("helm.sh/chart", template["metadata"]["labels"])

    def test_an_image_is_a_version_or_a_digest(self):
        for values, image in [
            ({}, "registry.example/shoal:0.1.0"),
            ({"tag": "1.2"}, "registry.example/shoal:1.2"),
            ({"tag": "1.2", "digest": "sha256:" + "a" * 64}, "registry.example/shoal@sha256:" + "a" * 64),
        ]:
            for deployment in deployments(values={"image": values}):
                for container in chart.containers(deployment):
                    self.assertEqual(container["image"], image)

    def test_the_charts_version_is_the_binarys(self):
        cargo = (chart.REPOSITORY / "Cargo.toml").read_text()
        version = cargo.split('version = "')[1].split('"')[0]
        self.assertIn(f"appVersion: {version}\n", (chart.CHART / "Chart.yaml").read_text())

    def test_a_token_is_made_or_taken(self):
        made = chart.render()
        secret = chart.one(made, "Secret")
        taken = chart.render(scenario="ha")
        self.assertEqual(chart.of_kind(taken, "Secret"), [])
        for objects, name, key in [(made, secret["metadata"]["name"], "token"), (taken, "shoal-token", "worker")]:
            for deployment in chart.of_kind(objects, "Deployment"):
                (volume,) = [v for v in chart.pod(deployment)["volumes"] if v["name"] == "worker-token"]
                self.assertEqual(volume["secret"], {"secretName": name, "items": [{"key": key, "path": "token"}]})
                (mount,) = [m for m in chart.container(deployment)["volumeMounts"] if m["name"] == "worker-token"]
                self.assertEqual((mount["mountPath"], mount["readOnly"]), ("/etc/shoal-token", True))
                for container in chart.pod(deployment).get("initContainers", []):
                    self.assertNotIn("token", str(container.get("volumeMounts")))
            self.assertEqual(chart.settings(objects)["worker_token_file"], "/etc/shoal-token/token")
            worker = chart.one(objects, "Deployment", "-worker-cpu" if objects is made else "-worker-a")
            self.assertIn("--token-file=/etc/shoal-token/token", chart.container(worker)["args"])


if __name__ == "__main__":
    unittest.main()
