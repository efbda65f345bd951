"""Dashboard, rules and scaling ask for metrics that there are, in PromQL that can be read."""

import json
import re
import unittest

import promql_parser

import chart

# Prometheus's own.
ALSO = {"up"}
LABELS = {"job", "namespace", "le", "__name__"}


def documented():
    """Names of series by the metrics page, each with its labels."""
    page = (chart.REPOSITORY / "server/docs/metrics.md").read_text()
    found = {}
    for name, kind, labels in re.findall(r"^\| `(shoal_[a-z_]+)` \| (\w+) \| [^|]+ \| ([^|]+) \|", page, re.M):
        names = [name + suffix for suffix in ("_bucket", "_sum", "_count")] if kind == "histogram" else [name]
        for series in names:
            found[series] = set() if labels == "–" else set(labels.split(", "))
    assert len(found) > 30, found
    return found


def reasons(metric):
    """The values of `reason` that the page gives for a metric."""
    page = (chart.REPOSITORY / "server/docs/metrics.md").read_text()
    text = re.search(rf"^Reasons of `{metric}`: (.*?)(?:\n\n|\Z)", page, re.M | re.S)[1]
    return set(re.findall(r"`([a-z_]+)`", text))


def selectors(query):
    """Every selection of series in a query; ValueError if it is none."""
    found = []

    def walk(expression):
        if isinstance(expression, promql_parser.VectorSelector):
            found.append(expression)
        for part in ("expr", "lhs", "rhs", "vector_selector", "param"):
            inner = getattr(expression, part, None)
            if inner is not None and not isinstance(inner, str):
                walk(inner)
        for inner in getattr(expression, "args", None) or []:
            walk(inner)

    # What Grafana puts in is a duration, or any value.
    walk(promql_parser.parse(query.replace("$__rate_interval", "5m")))
    return found


def wrong(query, known):
    """What a query asks for that there is not."""
    found = []
    selections = selectors(query)
    if not selections:
        found.append(f"no series in {query}")
    for selection in selections:
        labels = known.get(selection.name)
        if labels is None:
            found.append(f"there is no {selection.name}")
            continue
        for matcher in selection.matchers.matchers:
            if matcher.name not in labels | LABELS:
                found.append(f"{selection.name} has no label {matcher.name}")
    return found


class Monitoring(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.known = {**documented(), **{name: {"job", "namespace"} for name in ALSO}}
        cls.objects = chart.render(scenario="monitoring")
        cls.dashboard = json.loads(chart.one(cls.objects, "ConfigMap", "-dashboard")["data"]["shoal.json"])

    def rules(self):
        (group,) = chart.one(self.objects, "PrometheusRule")["spec"]["groups"]
        return group["rules"]

    def queries(self):
        """Every query there is, by where it is."""
        for panel in self.dashboard["panels"]:
            for target in panel.get("targets", []):
                yield f"panel {panel['title']}", target["expr"]
        for rule in self.rules():
            yield f"alert {rule['alert']}", rule["expr"]
        for scaled in chart.of_kind(chart.render(scenario="keda"), "ScaledObject"):
            for trigger in scaled["spec"]["triggers"]:
                if trigger["type"] == "prometheus":
                    yield "trigger", trigger["metadata"]["query"]

    def test_every_query_asks_for_what_there_is(self):
        queries = list(self.queries())
        self.assertGreater(len(queries), 35)
        for where, query in queries:
            with self.subTest(where):
                self.assertEqual(wrong(query, self.known), [], query)

    def test_a_query_that_asks_for_something_else_is_found(self):
        for query, says in [
            ('sum(rate(shoal_call_total{model="m"}[5m]))', "there is no shoal_call_total"),
            ("histogram_quantile(0.9, sum by (le) (rate(shoal_batch_rows[5m])))", "there is no shoal_batch_rows"),
            ('shoal_connections{model="m"}', "shoal_connections has no label model"),
            ("1 + 1", "no series"),
        ]:
            self.assertIn(says, str(wrong(query, self.known)))
        with self.assertRaises(ValueError):
            wrong("sum(rate(shoal_calls_total[5m])", self.known)

    def test_every_metric_that_tells_how_it_is_is_shown(self):
        shown = {s.name for where, query in self.queries() if where.startswith("panel") for s in selectors(query)}
        shown = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
        there = {re.sub("_(bucket|sum|count)$", "", name) for name in documented()}
        # Names of things; starts of local workers, of which there are none; counts that only explain others.
        not_shown = {
            "shoal_gpu_info",
            "shoal_gpu_memory_bytes",
            "shoal_worker_restarts_total",
            "shoal_tasks",
            "shoal_probes_total",
            "shoal_model_page_ins_total",
            # Alerts have them.
            "shoal_configurations_total",
            "shoal_configuration_refused",
            "shoal_model_wanted",
        }
        self.assertEqual(there - shown, not_shown)

    def test_alerts_name_reasons_that_there_are(self):
        (refused,) = [rule["expr"] for rule in self.rules() if rule["alert"] == "ShoalRefusesForLoad"]
        (pattern,) = re.findall(r'reason=~"([^"]+)"', refused)
        chosen = {reason for reason in reasons("shoal_rejects_total") if re.fullmatch(pattern, reason)}
        self.assertEqual(
            chosen,
            {
                "model_queue_full",
                "tenant_queue_full",
                "class_queue_full",
                "queue_bytes_full",
                "queue_timeout",
                "late",
                "deadline_unmeetable",
            },
        )
        self.assertIn("poison", reasons("shoal_rejects_total"))

    def test_alerts_are_of_this_release_alone(self):
        monitor = chart.one(self.objects, "ServiceMonitor")["spec"]
        self.assertEqual(monitor["namespaceSelector"], {"matchNames": ["apps"]})
        services = [
            s
            for s in chart.of_kind(self.objects, "Service")
            if monitor["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()
        ]
        self.assertEqual([s["metadata"]["name"] for s in services], ["rel-shoal-metrics"])
        self.assertEqual([p["name"] for p in services[0]["spec"]["ports"]], [monitor["endpoints"][0]["port"]])
        for rule in self.rules():
            with self.subTest(rule["alert"]):
                for selection in selectors(rule["expr"]):
                    matchers = {m.name: m.value for m in selection.matchers.matchers}
                    # A ServiceMonitor's job is its Service's name.
                    self.assertEqual((matchers["job"], matchers["namespace"]), ("rel-shoal-metrics", "apps"))
                self.assertIn(rule["labels"]["severity"], ("critical", "warning"))
                self.assertTrue(rule["annotations"]["summary"])

    def test_the_dashboard_is_one_that_grafana_reads(self):
        ids = [panel["id"] for panel in self.dashboard["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        taken = set()
        for panel in self.dashboard["panels"]:
            at = panel["gridPos"]
            self.assertLessEqual(at["x"] + at["w"], 24)
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            self.assertFalse(cells & taken, panel["title"])
            taken |= cells
        variables = {variable["name"] for variable in self.dashboard["templating"]["list"]}
        used = set(re.findall(r"\$\{?([a-z_]+)\}?", json.dumps(self.dashboard))) - {"__rate_interval", "__all"}
        self.assertEqual(used, variables)
        fill = next(p for p in self.dashboard["panels"] if p["title"] == "Latency against batch fill")
        self.assertEqual(
            {s.name for t in fill["targets"] for s in selectors(t["expr"])},
            {"shoal_batch_rows_sum", "shoal_batch_rows_count", "shoal_call_duration_seconds_bucket"},
        )

    def test_nothing_of_it_is_there_unless_asked_for(self):
        objects = chart.render()
        for kind in ("ServiceMonitor", "PrometheusRule"):
            self.assertEqual(chart.of_kind(objects, kind), [])
        self.assertEqual(len(chart.of_kind(objects, "ConfigMap")), 1)


if __name__ == "__main__":
    unittest.main()
