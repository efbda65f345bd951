"""Services, policies, routes and scaling: whatever names something else names what is there."""

import unittest

import chart


def matches(selector, labels):
    return selector.items() <= labels.items()


def chosen(objects, selector):
    """Names of the Deployments whose pods a selector chooses."""
    return sorted(
        d["metadata"]["name"]
        for d in chart.of_kind(objects, "Deployment")
        if matches(selector, d["spec"]["template"]["metadata"]["labels"])
    )


class Objects(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scenarios = {name: chart.render(scenario=name) for name in chart.SCENARIOS}

    def test_a_deployment_chooses_its_own_pods_and_no_others(self):
        for name, objects in self.scenarios.items():
            for deployment in chart.of_kind(objects, "Deployment"):
                with self.subTest(name, deployment=deployment["metadata"]["name"]):
                    selector = deployment["spec"]["selector"]["matchLabels"]
                    self.assertEqual(chosen(objects, selector), [deployment["metadata"]["name"]])

    def test_names_that_yaml_takes_for_numbers_are_names(self):
        for name in ("4090", "1", "true", "1e3"):
            values = {"pools": [{"name": name, "home": {"claim": name}, "priorityClassName": name}]}
            for thing in chart.render(values=values, namespace="123"):
                with self.subTest(name, thing=thing["metadata"]["name"]):
                    self.assertEqual(thing["metadata"]["namespace"], "123")
                    for label in thing["metadata"]["labels"].values():
                        self.assertIsInstance(label, str)
            worker = chart.one(chart.render(values=values), "Deployment", f"-worker-{name}")
            pod = worker["spec"]["template"]["spec"]
            claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
            self.assertEqual((pod["priorityClassName"], claims), (name, [name]))
            self.assertEqual(worker["spec"]["selector"]["matchLabels"]["shoal/pool"], name)

    def test_services_lead_to_the_servers_ports(self):
        for name, objects in self.scenarios.items():
            server = chart.one(objects, "Deployment", "-server")
            ports = {port["name"] for port in chart.container(server)["ports"]}
            led = set()
            for service in chart.of_kind(objects, "Service"):
                with self.subTest(name, service=service["metadata"]["name"]):
                    self.assertEqual(chosen(objects, service["spec"]["selector"]), [server["metadata"]["name"]])
                    for port in service["spec"]["ports"]:
                        self.assertIn(port["targetPort"], ports)
                        h2c = port["targetPort"] in ("grpc", "link", "scaler")
                        spoken = "kubernetes.io/h2c" if h2c else "http"
                        if name in ("safe", "secrets") and port["targetPort"] in ("grpc", "link", "http"):
                            spoken = "https"
                        self.assertEqual(port["appProtocol"], spoken)
                        led.add(port["targetPort"])
            self.assertEqual(led, ports)

    def test_a_worker_finds_a_server_that_is_not_ready(self):
        objects = chart.render()
        link = chart.one(objects, "Service", "-link")
        self.assertEqual(link["spec"]["clusterIP"], "None")
        self.assertIs(link["spec"]["publishNotReadyAddresses"], True)
        self.assertEqual(link["spec"]["ports"][0]["port"], 8003)
        worker = chart.one(objects, "Deployment", "-worker-cpu")
        self.assertIn("--connect=http://rel-shoal-link:8003", chart.container(worker)["args"])
        # A client, on the other hand, is led to a server that is.
        self.assertNotIn("publishNotReadyAddresses", chart.one(objects, "Service", "rel-shoal")["spec"])
        self.assertEqual(chart.one(objects, "Service", "-headless")["spec"]["clusterIP"], "None")

    def test_policies_let_through_what_is_needed_and_nothing_else(self):
        objects = chart.render(scenario="gateway")
        server = chart.one(objects, "NetworkPolicy", "-server")["spec"]
        worker = chart.one(objects, "NetworkPolicy", "-worker")["spec"]
        self.assertEqual(chosen(objects, server["podSelector"]["matchLabels"]), ["rel-shoal-server"])
        self.assertEqual(chosen(objects, worker["podSelector"]["matchLabels"]), ["rel-shoal-worker-cpu"])
        for policy in (server, worker):
            self.assertEqual(policy["policyTypes"], ["Ingress", "Egress"])
        values = chart.merged({}, {"clients": "gateways", "metrics": "monitoring"})
        clients, link, metrics = server["ingress"]
        self.assertEqual([port["port"] for port in clients["ports"]], ["grpc", "http"])
        self.assertIn(values["clients"], str(clients["from"]))
        self.assertEqual([port["port"] for port in link["ports"]], ["link"])
        (workers,) = link["from"]
        self.assertEqual(chosen(objects, workers["podSelector"]["matchLabels"]), ["rel-shoal-worker-cpu"])
        self.assertEqual([port["port"] for port in metrics["ports"]], ["metrics"])
        self.assertIn(values["metrics"], str(metrics["from"]))
        self.assertEqual(server["egress"], [])
        self.assertEqual(worker["ingress"], [])
        names, servers, weights = worker["egress"]
        self.assertEqual({port["port"] for port in names["ports"]}, {53})
        self.assertEqual(chosen(objects, servers["to"][0]["podSelector"]["matchLabels"]), ["rel-shoal-server"])
        self.assertEqual(weights, {"ports": [{"port": 443, "protocol": "TCP"}]})

    def test_workers_whose_weights_are_there_may_fetch_none(self):
        for scenario in ("gpu",):
            egress = chart.one(self.scenarios[scenario], "NetworkPolicy", "-worker")["spec"]["egress"]
            self.assertEqual(len(egress), 2, egress)
        built_in = chart.render({"models": {"minilm": {"source": "echo"}}})
        self.assertEqual(len(chart.one(built_in, "NetworkPolicy", "-worker")["spec"]["egress"]), 2)

    def test_who_may_call_is_everyone_unless_it_is_said(self):
        for rule in chart.one(chart.render(), "NetworkPolicy", "-server")["spec"]["ingress"]:
            self.assertEqual("from" in rule, rule["ports"][0]["port"] == "link")
        self.assertEqual(chart.of_kind(self.scenarios["openshift"], "NetworkPolicy"), [])

    def test_http_can_be_left_out(self):
        objects = self.scenarios["openshift"]
        self.assertNotIn("http'", str([s["spec"]["ports"][0]["name"] for s in chart.of_kind(objects, "Service")]))
        self.assertNotIn(
            8000, [p["containerPort"] for p in chart.container(chart.one(objects, "Deployment", "-server"))["ports"]]
        )
        self.assertEqual(chart.settings(objects)["http_port"], "off")

    def test_a_route_leads_to_the_service(self):
        objects = self.scenarios["gateway"]
        route = chart.one(objects, "GRPCRoute")["spec"]
        (rule,) = route["rules"]
        service = chart.one(objects, "Service", rule["backendRefs"][0]["name"])
        self.assertIn(rule["backendRefs"][0]["port"], [port["port"] for port in service["spec"]["ports"]])
        self.assertEqual(route["parentRefs"], [{"name": "public", "namespace": "gateways", "sectionName": "grpc"}])
        self.assertEqual(service["spec"]["type"], "LoadBalancer")

    def test_budgets_are_for_one_deployment_each(self):
        objects = self.scenarios["ha"]
        budgets = {b["metadata"]["name"]: b["spec"] for b in chart.of_kind(objects, "PodDisruptionBudget")}
        self.assertEqual(set(budgets), {"rel-shoal-server", "rel-shoal-worker-a"})
        for name, budget in budgets.items():
            self.assertEqual(chosen(objects, budget["selector"]["matchLabels"]), [name])
            self.assertEqual(budget["unhealthyPodEvictionPolicy"], "AlwaysAllow")
        self.assertEqual(budgets["rel-shoal-server"]["maxUnavailable"], 0)
        self.assertEqual(budgets["rel-shoal-worker-a"]["maxUnavailable"], "34%")
        default = chart.of_kind(self.scenarios["default"], "PodDisruptionBudget")
        self.assertEqual(
            [(b["metadata"]["name"], b["spec"]["maxUnavailable"]) for b in default], [("rel-shoal-worker-cpu", 1)]
        )

    def test_who_scales_a_pool_alone_says_how_many_there_are(self):
        """A Deployment that stated replicas would be set back to them by each upgrade."""
        for scenario, kind in [("cpu", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")]:
            objects = self.scenarios[scenario]
            scaled = {o["spec"]["scaleTargetRef"]["name"] for o in chart.of_kind(objects, kind)}
            self.assertTrue(scaled)
            for deployment in chart.of_kind(objects, "Deployment"):
                with self.subTest(scenario, deployment=deployment["metadata"]["name"]):
                    self.assertEqual("replicas" in deployment["spec"], deployment["metadata"]["name"] not in scaled)
            self.assertLessEqual(scaled, {d["metadata"]["name"] for d in chart.of_kind(objects, "Deployment")})

    def test_workers_go_slower_than_they_come(self):
        down = {"scaleDown": {"stabilizationWindowSeconds": 300}}
        hpa = chart.one(self.scenarios["cpu"], "HorizontalPodAutoscaler")["spec"]
        keda = chart.one(self.scenarios["keda"], "ScaledObject", "-gpu")["spec"]
        self.assertEqual(hpa["behavior"], down)
        self.assertEqual(keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"], down)

    def test_processors_scale_by_their_use(self):
        hpa = chart.one(self.scenarios["cpu"], "HorizontalPodAutoscaler")["spec"]
        self.assertEqual((hpa["minReplicas"], hpa["maxReplicas"]), (2, 10))
        self.assertEqual(
            hpa["metrics"],
            [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
                }
            ],
        )
        own = [
            {
                "type": "External",
                "external": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}},
            }
        ]
        gpu = {
            "name": "g",
            "device": {"resource": "nvidia.com/gpu"},
            "autoscaling": {"kind": "hpa", "hpa": {"metrics": own}},
        }
        self.assertEqual(chart.one(chart.render({"pools": [gpu]}), "HorizontalPodAutoscaler")["spec"]["metrics"], own)

    def test_keda_asks_the_server_for_the_pools_own_models(self):
        objects = self.scenarios["keda"]
        (trigger,) = chart.one(objects, "ScaledObject", "-gpu")["spec"]["triggers"]
        self.assertEqual(trigger["type"], "external-push")
        self.assertEqual(
            trigger["metadata"],
            {
                "scalerAddress": "rel-shoal-scaler.apps:8005",
                "pool": "gpu",
                "models": "minilm,all.v2",
                "queuedSeconds": "1",
                "busyWorkers": "0.7",
            },
        )
        (port,) = chart.one(objects, "Service", "-scaler")["spec"]["ports"]
        server = chart.one(objects, "Deployment", "-server")["spec"]["template"]["spec"]["containers"][0]
        self.assertIn({"name": port["targetPort"], "containerPort": port["port"]}, server["ports"])
        self.assertEqual(chart.settings(objects)["scaler_listen"], "0.0.0.0:8005")
        pods = chart.one(objects, "Deployment", "-gpu")["spec"]["template"]["spec"]["containers"][0]
        self.assertIn("--pool=gpu", pods["args"])
        self.assertEqual(chart.one(objects, "ScaledObject", "-rare")["spec"]["minReplicaCount"], 0)
        six = chart.render({"server": {"address": "::"}, "poolDefaults": {"autoscaling": {"kind": "keda"}}})
        address = chart.settings(six)["scaler_listen"]
        self.assertEqual(address, "[::]:8005")

    def test_models_come_without_a_restart_of_the_server_and_settings_with_one(self):
        def checksum(**values):
            server = chart.one(chart.render(values), "Deployment", "-server")
            return server["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

        self.assertEqual(checksum(), checksum(models={"m": {"source": "echo", "settings": {"slo": "1s"}}}))
        self.assertNotEqual(checksum(), checksum(models={"m": {"source": "minilm", "settings": {"dtype": "f32"}}}))
        self.assertNotEqual(checksum(), checksum(server={"settings": {"call_texts_max": 3}}))

    def test_without_keda_nobody_is_told_how_busy_workers_are(self):
        objects = self.scenarios["cpu"]
        self.assertFalse([o for o in chart.of_kind(objects, "Service") if o["metadata"]["name"].endswith("-scaler")])
        self.assertNotIn("scaler_listen", chart.settings(objects))

    def test_keda_asks_prometheus_for_the_pool(self):
        busy, queued = chart.one(self.scenarios["keda"], "ScaledObject", "-watched")["spec"]["triggers"]
        series = '{job="rel-shoal-metrics", namespace="apps", pool="watched"}'
        self.assertEqual(busy["metadata"]["query"], f"sum(rate(shoal_pool_compute_seconds_total{series}[1m]))")
        total = f"sum(shoal_pool_queued_per_worker_seconds{series} * shoal_pool_workers{series})"
        self.assertEqual(queued["metadata"]["query"], total)
        self.assertEqual((busy["metadata"]["threshold"], queued["metadata"]["threshold"]), ("0.7", "0.5"))
        self.assertEqual(
            chart.one(self.scenarios["keda"], "ScaledObject", "-cpu")["spec"]["triggers"][0]["type"], "cron"
        )

    def test_cert_manager_makes_what_is_not_stated(self):
        objects = self.scenarios["safe"]
        made = {c["spec"]["secretName"]: c["spec"] for c in chart.of_kind(objects, "Certificate")}
        self.assertEqual(set(made), {"rel-shoal-tls", "rel-shoal-link-tls", "rel-shoal-worker-tls"})
        # Whom clients and workers dial is whom the certificates are for.
        self.assertIn("rel-shoal-headless.apps.svc", made["rel-shoal-tls"]["dnsNames"])
        worker = chart.one(objects, "Deployment", "-worker-cpu")
        (connect,) = [a for a in chart.container(worker)["args"] if a.startswith("--connect=")]
        self.assertEqual(connect, "--connect=https://rel-shoal-link:8003")
        self.assertIn("rel-shoal-link", made["rel-shoal-link-tls"]["dnsNames"])
        # A worker's certificate must not do for a server's.
        self.assertEqual(made["rel-shoal-worker-tls"]["usages"], ["client auth"])
        self.assertEqual(chart.of_kind(self.scenarios["secrets"], "Certificate"), [])

    def test_every_file_that_is_named_is_mounted(self):
        for name in ("safe", "secrets", "default"):
            objects = self.scenarios[name]
            for suffix in ("-server", "-worker-cpu"):
                deployment = chart.one(objects, "Deployment", suffix)
                mounts = {m["mountPath"]: m["name"] for m in chart.container(deployment)["volumeMounts"]}
                volumes = {v["name"]: v for v in chart.pod(deployment)["volumes"]}
                named = [a.split("=", 1)[1] for a in chart.container(deployment)["args"] if "=/etc/" in a]
                if suffix == "-server":
                    settings = chart.settings(objects)
                    named += [v for v in settings.values() if isinstance(v, str) and v.startswith("/etc/")]
                    named += [e["token_file"] for e in settings.get("access", []) if "token_file" in e]
                self.assertTrue(named)
                for path in named:
                    with self.subTest(name, deployment=suffix, path=path):
                        folder, file = path.rsplit("/", 1)
                        secret = volumes[mounts[folder]]["secret"]
                        if "items" in secret:
                            self.assertIn(file, [item["path"] for item in secret["items"]])
                        else:
                            self.assertIn(file, ("tls.crt", "tls.key", "ca.crt"))

    def test_several_servers_share_the_workers(self):
        objects = self.scenarios["safe"]
        server = chart.one(objects, "Deployment", "-server")
        self.assertEqual(server["spec"]["replicas"], 3)
        self.assertTrue(chart.settings(objects)["share_workers"])
        self.assertEqual(chart.settings(objects)["connection_age_max"], "5m")
        self.assertEqual(len(chart.pod(server)["topologySpreadConstraints"]), 2)
        (trigger,) = chart.one(objects, "ScaledObject")["spec"]["triggers"]
        self.assertEqual(trigger["metadata"]["servers"], "3")
        self.assertNotIn("share_workers", chart.settings(self.scenarios["cpu"]))

    def test_a_caller_for_whom_no_models_are_listed_has_none(self):
        entry = {"name": "a", "tokenSha256": "0" * 64, "rights": ["infer"]}
        access = [{**entry, "models": []}, {**entry, "name": "b", "tokenSha256": "1" * 64}]
        none, every = chart.settings(chart.render({"access": access}))["access"]
        self.assertEqual(none["models"], [])
        self.assertNotIn("models", every)

    def test_spans_have_a_way_out_and_say_where_they_are_from(self):
        objects = self.scenarios["safe"]
        (names, collector) = chart.one(objects, "NetworkPolicy", "-server")["spec"]["egress"]
        self.assertEqual({port["port"] for port in names["ports"]}, {53})
        self.assertEqual(collector["ports"], [{"port": 4317, "protocol": "TCP"}])
        env = {v["name"]: v for v in chart.container(chart.one(objects, "Deployment", "-server"))["env"]}
        self.assertIn("k8s.pod.name=$(POD_NAME)", env["OTEL_RESOURCE_ATTRIBUTES"]["value"])
        self.assertEqual(chart.one(self.scenarios["cpu"], "NetworkPolicy", "-server")["spec"]["egress"], [])

    def test_with_tls_probes_ask_the_port_that_speaks_none(self):
        for name in ("safe", "secrets"):
            container = chart.container(chart.one(self.scenarios[name], "Deployment", "-server"))
            paths = [container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")]
            self.assertEqual(paths, ["/startupz", "/readyz", "/livez"])


if __name__ == "__main__":
    unittest.main()
