"""Values that are wrong are refused, by a message that names them."""

import concurrent.futures
import re
import unittest

import chart

SHA = "0" * 64
FILE = {"url": "https://files.example/x", "sha256": SHA}
FILES = {"config.json": FILE, "tokenizer.json": FILE, "model.safetensors": FILE}
HPA = {"kind": "hpa"}
KEDA = {"kind": "keda"}
CALLER = {"name": "a", "rights": ["infer"]}
GPU = {"resource": "nvidia.com/gpu"}


def pool(**values):
    return {"pools": [{"name": "a", **values}]}


def model(**values):
    return {"models": {"m": values}}


# What is stated, and what the message says.
REFUSED = [
    # Values that do not go together.
    ({"image": {"repository": ""}}, "image.repository: is required"),
    (model(), "models.m: states none, and needs one of source, claim, image and download"),
    (model(source="minilm", claim={"name": "c"}), "models.m: states source and claim"),
    (model(download={"files": FILES}), "downloader.image: is required by models.m.download"),
    (pool(models=["minlm"]), r"pools\[0\] \(a\).models: there is no models.minlm"),
    ({**model(source="echo"), **pool(models=["m"])}, "models.minilm: no pool serves it"),
    ({"pools": [{"name": "a"}, {"name": "a"}]}, r"pools\[1\].name: a is the name of another pool"),
    (pool(device={**GPU, "count": 2}), r"pools\[0\] \(a\).device.count: a worker uses one GPU"),
    (pool(device={"resource": "nvidia.com/mig-1g.10gb", "count": 2}), "device.count: a worker uses one GPU"),
    (pool(autoscaling={**HPA, "minReplicas": 5}), "autoscaling.minReplicas: 5 is more than maxReplicas, 4"),
    (pool(autoscaling=HPA, device=GPU), "autoscaling.hpa.metrics: is required on a GPU"),
    (
        pool(autoscaling=HPA, resources={"requests": {"cpu": None}}),
        "resources.requests.cpu: is required by autoscaling.hpa",
    ),
    (
        pool(autoscaling={**KEDA, "keda": {"source": "prometheus"}}),
        r"monitoring.prometheusAddress: is required by pools\[0\] \(a\).autoscaling.keda.source prometheus",
    ),
    (
        {
            **pool(autoscaling={**KEDA, "minReplicas": 0, "keda": {"source": "prometheus"}}),
            "monitoring": {"prometheusAddress": "http://prometheus:9090"},
        },
        "autoscaling.minReplicas: 0 needs keda.source server",
    ),
    ({"server": {"replicas": 2, "home": {"claim": "c"}}}, "server.home.claim: is one server's own"),
    ({"tls": {"clients": {"clientAuth": "required"}}}, "tls.clients.clientAuth: needs tls.clients.secret"),
    ({"tls": {"link": {"secret": "s"}}}, "tls.link: secret and workerSecret go together"),
    ({"access": [{**CALLER, "certificate": "spiffe://a"}]}, r"access\[0\].certificate: needs tls.clients.clientAuth"),
    ({"access": [{**CALLER, "tokenSha256": "0" * 64, "models": ["x"]}]}, r"access\[0\].models: there is no models.x"),
    ({"access": [{**CALLER, "tokenSha256": "0" * 64}] * 2}, r"access\[1\].name: a is the name of another entry"),
    ({"access": [CALLER]}, "/access/0"),
    ({"access": [{**CALLER, "tokenSha256": "0" * 64, "rights": []}]}, "/access/0/rights"),
    (
        {"access": [{**CALLER, "tokenSha256": "0" * 64, "rights": ["admin"], "models": []}]},
        r"access\[0\].models: not with the right control or admin",
    ),
    (
        {"access": [{**CALLER, "tokenSha256": "0" * 64}, {**CALLER, "name": "b", "tokenSha256": "0" * 64}]},
        r"access\[1\]: shows what another entry shows",
    ),
    (
        {"tls": {"clients": {"secret": "s"}}, "grpcRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}},
        "grpcRoute.enabled: a Gateway would speak no TLS",
    ),
    ({"access": [{**CALLER, "tokenSha256": "0" * 64, "rights": ["all"]}]}, "/access/0/rights/0"),
    ({"traces": {"endpoint": "collector:4317"}}, "/traces/endpoint"),
    (pool(autoscaling={**HPA, "minReplicas": 0}), "autoscaling.minReplicas: 0 needs kind keda"),
    (model(source="echo", settings={"unload_after": "1m"}), "models.m.settings.unload_after: needs load: demand"),
    (model(source="echo", settings={"canary_of": "minilm"}), "models.m.settings: canary_of and canary_percent go together"),
    (
        model(source="echo", settings={"canary_of": "minlm", "canary_percent": 5}),
        "models.m.settings.canary_of: there is no models.minlm",
    ),
    (pool(autoscaling={**KEDA, "minReplicas": 0}), "models.minilm.settings.load: must be demand"),
    (
        {**pool(autoscaling={**KEDA, "minReplicas": 0}), "server": {"replicas": 2}},
        r"pools\[0\] \(a\).autoscaling.minReplicas: 0 needs server.replicas 1: KEDA asks one server",
    ),
    (
        {
            "models": {"minilm": {"settings": {"load": "demand"}}},
            "pools": [{"name": name, "autoscaling": {**KEDA, "minReplicas": 0}} for name in "ab"],
        },
        r"pools\[1\] \(b\).models: minilm is of another pool that may have no pods",
    ),
    ({"grpcRoute": {"enabled": True}}, "grpcRoute.parentRefs: is required"),
    # Time to end.
    (
        {"server": {"terminationGracePeriodSeconds": 39}},
        r"server.terminationGracePeriodSeconds: 39 s is too short: 5 s of sleep, 30 s to drain and 5 s to end are 40 s",
    ),
    ({"server": {"drainSeconds": 60, "terminationGracePeriodSeconds": 69}}, "69 s is too short"),
    ({"server": {"preStopSeconds": 20, "terminationGracePeriodSeconds": 54}}, "54 s is too short"),
    (pool(terminationGracePeriodSeconds=29), r"pools \(a\).terminationGracePeriodSeconds: 29 s is too short"),
    # Keys that are none.
    ({"imag": {}}, "'imag'"),
    ({"server": {"drainSecond": 5}}, "/server.*'drainSecond'"),
    ({"server": {"settings": {"grpc_port": 1}}}, "/server/settings.*'grpc_port'"),
    ({"poolDefaults": {"name": "a"}}, "/poolDefaults/name"),
    (pool(replica=1), "/pools/0.*'replica'"),
    (pool(autoscaling={"keda": {"external": True}}), "/pools/0/autoscaling/keda.*'external'"),
    (model(source="echo", settings={"sloo": "1s"}), "/models/m/settings.*'sloo'"),
    (model(source="echo", url="x"), "/models/m.*'url'"),
    ({"labels": {"app.kubernetes.io/name": "x"}}, "/labels/app.kubernetes.io~1name"),
    (pool(podLabels={"shoal/pool": "x"}), "/pools/0/podLabels/shoal~1pool"),
    # Values of another kind, or out of range.
    ({"image": {"digest": "sha256:1"}}, "/image/digest"),
    ({"server": {"address": 1}}, "/server/address"),
    ({"server": {"preStopSeconds": 0}}, "/server/preStopSeconds"),
    ({"server": {"probes": {"startupSeconds": 599}}}, "/server/probes/startupSeconds"),
    ({"server": {"probes": {"protocol": "tcp"}}}, "/server/probes/protocol"),
    ({"server": {"drainSeconds": "30s"}}, "/server/drainSeconds"),
    ({"server": {"disruptionBudget": {"maxUnavailable": "half"}}}, "/server/disruptionBudget/maxUnavailable"),
    ({"server": {"home": {"size": "lots"}}}, "/server/home/size"),
    ({"service": {"type": "ExternalName"}}, "/service/type"),
    ({"log": {"format": "xml"}}, "/log/format"),
    ({"networkPolicy": {"downloadPorts": [0]}}, "/networkPolicy/downloadPorts/0"),
    ({"monitoring": {"prometheusAddress": "prometheus"}}, "/monitoring/prometheusAddress"),
    ({"pools": []}, "/pools"),
    ({"pools": [{}]}, "/pools/0.*'name'"),
    ({"pools": [{"name": "A"}]}, "/pools/0/name"),
    (pool(replicas=-1), "/pools/0/replicas"),
    (pool(cpuIsa="sse"), "/pools/0/cpuIsa"),
    (pool(device={"count": 0}), "/pools/0/device/count"),
    (pool(autoscaling={"minReplicas": -1}), "/pools/0/autoscaling/minReplicas"),
    ({"models": {"Minilm": {"source": "echo"}}}, "/models.*'Minilm'"),
    (model(source="hf:org/name@main"), "/models/m/source"),
    (model(source="https://host/x"), "/models/m/source"),
    (model(source="/models/x"), "/models/m/source"),
    (model(source="synthetic:base=1ms,x=1"), "/models/m/source"),
    (model(claim={"path": "x"}), "/models/m/claim.*'name'"),
    (model(claim={"name": "c", "path": "../x/"}), "/models/m/claim/path"),
    (model(image={"reference": "registry.example/weights:v1"}), "/models/m/image/reference"),
    (model(download={"files": {"config.json": FILE}}), "/models/m/download/files"),
    (model(download={"files": {**FILES, "../x": FILE}}), "/models/m/download/files.*'../x'"),
    (model(download={"files": {**FILES, "x": {"url": "https://x"}}}), "/models/m/download/files/x.*'sha256'"),
    (
        model(download={"files": {**FILES, "x": {"url": "https://x'; rm -r /", "sha256": SHA}}}),
        "/models/m/download/files/x/url",
    ),
    ({"server": {"settings": {"queue_bytes_max": "1 GiB"}}}, "/server/settings/queue_bytes_max"),
    (model(source="echo", settings={"slo": 50}), "/models/m/settings/slo"),
    (model(source="echo", settings={"batch_rows_max": 0}), "/models/m/settings/batch_rows_max"),
]


def complaint(values):
    """What Helm says of values that it refuses."""
    try:
        chart.text(values)
    except chart.Refused as refused:
        return str(refused)
    return None


class Refusals(unittest.TestCase):
    def test_values_that_are_wrong_are_refused_by_name(self):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            complaints = pool.map(complaint, (values for values, _ in REFUSED))
        for (values, says), said in zip(REFUSED, complaints):
            with self.subTest(str(values)):
                self.assertIsNotNone(said, "nothing was refused")
                self.assertRegex(said, re.compile(says))

    def test_a_chart_without_models_says_so(self):
        with self.assertRaisesRegex(chart.Refused, "models: is empty"):
            chart.helm("template", "x", chart.CHART, "--kube-version", chart.KUBERNETES, "--set", "image.repository=r")

    def test_what_is_just_right_is_taken(self):
        for values in [
            {"server": {"terminationGracePeriodSeconds": 40}},
            {"server": {"drainSeconds": 60, "terminationGracePeriodSeconds": 70}},
            pool(terminationGracePeriodSeconds=30),
            pool(device={"resource": "vendor.example/memory-gib", "count": 20}),
            pool(autoscaling={**HPA, "minReplicas": 4}),
            pool(autoscaling=HPA, resources={"requests": {"cpu": "100m"}}),
            model(source="hf:org/name@" + "a" * 40),
            model(source="synthetic"),
        ]:
            with self.subTest(str(values)):
                chart.text(values)

    def test_older_clusters_are_refused(self):
        with self.assertRaisesRegex(chart.Refused, "kubeVersion"):
            chart.text(kubernetes="1.29")
        chart.text(kubernetes="1.30")

    def test_an_image_is_a_volume_only_where_clusters_know_that(self):
        values = {**model(image={"reference": "registry.example/weights@sha256:" + SHA})}
        with self.assertRaisesRegex(chart.Refused, "models.m.image: needs Kubernetes 1.35"):
            chart.text(values, kubernetes="1.34")
        chart.text(values, kubernetes="1.35")


if __name__ == "__main__":
    unittest.main()
