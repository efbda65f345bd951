"""A control plane of Kubernetes on this machine: etcd, API server, controllers and scheduler, and kwok for nodes.

Everything decides as in a cluster; only nothing runs. kwok says of pods that are bound to a node that they run and are
ready, and of those that are deleted, a while later, that they are gone. So what is proven is what Kubernetes makes of the
chart's objects: validation, admission, rights, placing, rollouts, budgets, endpoints. Not proven is anything that a kubelet,
a network or a container does: images, probes, hooks, signals, mounts, NetworkPolicies. All listen on loopback.
"""

import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

# Who may ask, by the tokens of a file.
USERS = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "installer": "",
}
START_SECONDS_MAX = 90
# For how long a pod that is deleted still holds what it has, as one that drains does.
TERMINATION_SECONDS = 2
# The end of a pod, over kwok's own stages for the beginning of nodes and pods.
POD_DELETE = f"""
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {{ name: pod-delete }}
spec:
  resourceRef: {{ apiGroup: v1, kind: Pod }}
  selector:
    matchExpressions:
      - {{ key: .metadata.deletionTimestamp, operator: Exists }}
  delay: {{ durationMilliseconds: {TERMINATION_SECONDS * 1000} }}
  next: {{ delete: true }}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def die_with_parent():
    """Asks the kernel to end this process with the one that started it, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class ApiError(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body.get('message', body)}")
        self.status, self.body = status, body


class ControlPlane:
    def __init__(self, stages):
        self.stages = stages
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="shoal-control-plane-"))
        self.processes = {}
        self.port = free_port()
        self.known = None
        self.tokens = {user: f"token-{number}" for number, user in enumerate(USERS)}

    # Starting and stopping.

    def start(self):
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self):
        etcd, peer = free_port(), free_port()
        key, cert = self.folder / "sa.key", self.folder / "apiserver.crt"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text(
            "".join(
                f'{self.tokens[user]},{user},{user}{f",{group}" if group else ""}\n' for user, group in USERS.items()
            )
        )
        (self.folder / "pod-delete.yaml").write_text(POD_DELETE)
        self.spawn(
            "etcd",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            # Nothing here is to outlive the test.
            "--unsafe-no-fsync",
        )
        self.spawn(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self.folder}",
            f"--token-auth-file={self.folder}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={key}",
            f"--service-account-key-file={key}",
            "--endpoint-reconciler-type=none",
            # What asks for privileges is for Pod Security to refuse.
            "--allow-privileged=true",
        )
        self.wait("the API server is ready", lambda: self.get("/readyz", text=True) == "ok", START_SECONDS_MAX)
        self.spawn(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig('system:kube-controller-manager')}",
            "--leader-elect=false",
            f"--service-account-private-key-file={key}",
            f"--root-ca-file={cert}",
            "--use-service-account-credentials=true",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            "--horizontal-pod-autoscaler-sync-period=1s",
        )
        self.spawn(
            "kube-scheduler",
            f"--kubeconfig={self.kubeconfig('system:kube-scheduler')}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
        )
        self.spawn(
            "kwok",
            f"--kubeconfig={self.kubeconfig('admin')}",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=40",
            *(f"--config={path}" for path in [*sorted(self.stages.glob("*.yaml")), self.folder / "pod-delete.yaml"]),
            f"--server-address=127.0.0.1:{free_port()}",
            "--node-ip=10.1.0.1",
            "--cidr=10.2.0.0/16",
        )
        self.wait(
            "the default account is there",
            lambda: self.get("/api/v1/namespaces/default/serviceaccounts/default"),
            START_SECONDS_MAX,
        )

    def spawn(self, name, *args):
        log = open(self.folder / f"{name}.log", "w")  # noqa: SIM115: the process has it
        self.processes[name] = subprocess.Popen(
            [name, *map(str, args)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent
        )
        log.close()

    def stop(self):
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def check(self):
        """Fails with the end of its log if one of them has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                log = (self.folder / f"{name}.log").read_text()[-3000:]
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{log}")

    def wait(self, what, done, seconds=30):
        """Until `done` answers something that is true; what it last said is in the error."""
        until, last = time.monotonic() + seconds, None
        while time.monotonic() < until:
            self.check()
            try:
                last = done()
                if last:
                    return last
            except (ApiError, OSError) as error:
                last = error
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {what}; last: {last!r}")

    # Talking.

    def kubeconfig(self, user):
        path = self.folder / f"{user.replace(':', '-')}.kubeconfig"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "c",
                    "clusters": [
                        {
                            "name": "c",
                            "cluster": {
                                "server": f"https://127.0.0.1:{self.port}",
                                "certificate-authority": str(self.folder / "apiserver.crt"),
                            },
                        }
                    ],
                    "users": [{"name": "u", "user": {"token": self.tokens[user]}}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                }
            )
        )
        return path

    def call(self, method, path, body=None, user="admin", content="application/json", text=False):
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.tokens[user]}", "Content-Type": content},
        )
        context = ssl.create_default_context(cafile=self.folder / "apiserver.crt")
        try:
            with urllib.request.urlopen(request, context=context, timeout=30) as answer:
                read = answer.read().decode()
        except urllib.error.HTTPError as error:
            read = error.read().decode()
            try:
                raise ApiError(error.code, json.loads(read)) from None
            except json.JSONDecodeError:
                raise ApiError(error.code, {"message": read}) from None
        return read if text else json.loads(read)

    def get(self, path, **kwargs):
        return self.call("GET", path, **kwargs)

    def items(self, path, **labels):
        selector = "%2C".join(f"{key.replace('/', '%2F')}%3D{value}" for key, value in labels.items())
        return self.get(f"{path}?labelSelector={selector}")["items"]

    def resources(self):
        """Path of each kind's collection, by apiVersion and kind: a namespaced one with {} for the namespace. Asked for once
        other kinds are there."""
        return self.known or self.find_resources()

    def find_resources(self):
        found = {}
        groups = ["/api/v1"] + [f"/apis/{g['preferredVersion']['groupVersion']}" for g in self.get("/apis")["groups"]]
        for group in groups:
            listed = self.get(group)
            for resource in listed["resources"]:
                if "/" not in resource["name"]:
                    middle = "/namespaces/{}" if resource["namespaced"] else ""
                    found[listed["groupVersion"], resource["kind"]] = f"{group}{middle}/{resource['name']}"
        return found

    def define(self, crds):
        """Adds other projects' kinds."""
        for crd in crds:
            self.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        kinds = {
            (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"])
            for crd in crds
            for version in crd["spec"]["versions"]
            if version["storage"]
        }
        self.wait("the other kinds are there", lambda: kinds <= self.find_resources().keys())
        self.known = self.find_resources()

    def node(self, name, taints=(), labels=None, **resources):
        """A node with room, and with what else is said, such as **{"nvidia.com/gpu": 1}."""
        room = {
            "cpu": "64",
            "memory": "256Gi",
            "pods": "110",
            "ephemeral-storage": "1Ti",
            **{k: str(v) for k, v in resources.items()},
        }
        self.call(
            "POST",
            "/api/v1/nodes",
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "labels": {"kubernetes.io/hostname": name, **(labels or {})},
                    "annotations": {"kwok.x-k8s.io/node": "fake"},
                },
                "spec": {"taints": list(taints)},
                "status": {"capacity": room, "allocatable": room},
            },
        )
        self.wait(
            f"{name} is ready",
            lambda: any(
                c["type"] == "Ready" and c["status"] == "True"
                for c in self.get(f"/api/v1/nodes/{name}")["status"].get("conditions", [])
            ),
        )


def missing():
    """What is not installed that this takes."""
    needed = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "helm", "openssl"]
    return [name for name in needed if not shutil.which(name, path=os.environ["PATH"])]
