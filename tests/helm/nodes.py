"""Three nodes that run as the chart's pods would: its settings, its environment, the account of its Role, a real API
server. What a kubelet does is done here: probes, SIGTERM; and what `helm test` runs is run.

  nodes.py PROGRAM RENDER KUBECONFIG NAMESPACE

The release has to be installed in the namespace. There is no controller that would make EndpointSlices, so
registry.service is empty: Leases alone say who is there. Ports are free ones of this machine.
"""

import json
import os
import pathlib
import re
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import yaml

program, render, kubeconfig, namespace = sys.argv[1:]
objects = [found for found in yaml.safe_load_all(open(render)) if found]
config = yaml.safe_load(open(kubeconfig))
cluster = config["clusters"][0]["cluster"]
context = ssl.create_default_context(cafile=cluster["certificate-authority"])
DEADLINE_SECONDS = 60


def one(kind, **labels):
    return next(found for found in objects if found["kind"] == kind and labels.items() <= found["metadata"]["labels"].items())


def api(path, body=None):
    request = urllib.request.Request(
        cluster["server"] + path,
        None if body is None else json.dumps(body).encode(),
        {"Authorization": f"Bearer {config['users'][0]['user']['token']}", "Content-Type": "application/json"},
    )
    return json.load(urllib.request.urlopen(request, context=context))


def until(what, holds):
    end = time.monotonic() + DEADLINE_SECONDS
    while not (found := holds()):
        if time.monotonic() > end:
            for node in nodes:
                print("".join(open(node.log).readlines()[-15:]))
            sys.exit(f"never: {what}")
        time.sleep(0.1)
    return found


def get(address, path):
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


statefulset = one("StatefulSet")
pod = statefulset["spec"]["template"]["spec"]
container = pod["containers"][0]
name = statefulset["metadata"]["name"]
account = pod["serviceAccountName"]
scratch = pathlib.Path(tempfile.mkdtemp(dir=os.path.dirname(render)))
(scratch / "afflux.toml").write_text(next(found["data"]["afflux.toml"] for found in objects if "afflux.toml" in found.get("data", {})))

# The token that a kubelet would mount for the pod's account: it may do what the chart's Role says, and no more.
token = api(
    f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
    {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}},
)["status"]["token"]
own = json.loads(json.dumps(config))
own["users"][0]["user"] = {"token": token}
own["contexts"][0]["context"]["namespace"] = namespace
(scratch / "kubeconfig").write_text(yaml.safe_dump(own))


class Node:
    def __init__(self, number):
        self.name = f"{name}-{number}"
        self.log = scratch / f"{self.name}.log"
        here = scratch / self.name
        here.mkdir()
        environment = {"PATH": os.environ["PATH"], "POD_NAME": self.name, "POD_IP": "127.0.0.1"}
        for variable in container["env"]:
            if "value" in variable:
                refer = lambda found: environment[found.group(1)]
                environment[variable["name"]] = re.sub(r"\$\((\w+)\)", refer, variable["value"])
        # What differs from a pod: one machine, and a file in place of the pod's account.
        environment |= {
            "AFFLUX_CONFIG": str(scratch / "afflux.toml"),
            "AFFLUX_NODE_LISTEN": "127.0.0.1:0",
            "AFFLUX_NODE_ADVERTISE": "",
            "AFFLUX_HEALTH_LISTEN": "127.0.0.1:0",
            "AFFLUX_ADMIN_LISTEN": "127.0.0.1:0",
            "AFFLUX_NODE_SLOTS": "1",
            "AFFLUX_REGISTRY_SERVICE": "",
            "AFFLUX_REGISTRY_KUBECONFIG": str(scratch / "kubeconfig"),
        }
        self.process = subprocess.Popen(
            [program, *container["args"]], cwd=here, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=open(self.log, "w"),
        )  # fmt: skip

    def started(self):
        for line in open(self.log):
            if '"node started"' in line:
                fields = json.loads(line)
                fields = fields.get("fields", fields)
                self.address, self.health = fields["address"], fields["health"].removeprefix("http://")
                return True
        return False

    def probe(self, kind):
        return get(self.health, container[f"{kind}Probe"]["httpGet"]["path"])


def command(*arguments):
    environment = {"PATH": os.environ["PATH"], "AFFLUX_CLUSTER": name}
    return subprocess.run(
        [program, *arguments, "--address", nodes[0].address], cwd=scratch, env=environment, capture_output=True, text=True,
        timeout=DEADLINE_SECONDS * 2,
    )  # fmt: skip


nodes = [Node(number) for number in range(statefulset["spec"]["replicas"])]
try:
    for node in nodes:
        until(f"{node.name} is there", node.started)
    for node in nodes:
        for kind in ["startup", "liveness", "readiness"]:
            until(f"{node.name} passes its {kind} probe", lambda: node.probe(kind)[0] == 200)
        status, metrics = get(node.health, "/metrics")
        assert status == 200 and "afflux_build_info" in metrics, metrics
        assert get(node.health, "/api/v1/nodes")[0] == 404, "the health port has more than probes and metrics"
    print(f"{len(nodes)} nodes pass their probes with the chart's settings and Role")

    def first():
        jobs = json.loads(command("jobs", "--json").stdout or "[]")
        return jobs if any(job["state"] == "finished" for job in jobs) else None

    jobs = until("the pipeline of pipelines.start has run", first)
    assert [job["pipeline"] for job in jobs] == ["hourly-delays"], jobs
    assert len({task["node"] for task in jobs[0]["tasks"]}) == len(nodes), "not on all nodes"
    print(f"{jobs[0]['id']} was started by itself, and ran on all of them")

    test = one("Pod", **{"app.kubernetes.io/component": "test"})["spec"]["containers"][0]["args"]
    said = command(*test[: test.index("--address")])
    assert said.returncode == 0, said.stderr
    counts = json.loads(said.stdout)
    assert counts["records_in"] == 336776 and counts["records_out"] == 116904, counts
    print(f"what `helm test` runs: {counts['records_in']} records in, {counts['records_out']} out")

    leaving, begun = nodes[-1], time.monotonic()
    leaving.process.terminate()
    until("a node that leaves is not ready", lambda: leaving.probe("readiness")[0] == 503)
    assert leaving.probe("liveness")[0] == 200 and leaving.probe("startup")[0] == 200
    code = leaving.process.wait(pod["terminationGracePeriodSeconds"])
    took = time.monotonic() - begun
    assert code == 0, code
    assert took >= 5, f"it left after {took:.1f} s, without its lame duck's time"
    kept = api(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases?labelSelector=afflux.dev%2Fkind%3Dnode")["items"]
    holders = sorted(lease["metadata"]["annotations"]["afflux.dev/name"] for lease in kept if lease["spec"].get("holderIdentity"))
    assert holders == [node.name for node in nodes[:-1]], holders
    print(f"on SIGTERM a node was not ready at once, left after {took:.1f} s of {pod['terminationGracePeriodSeconds']}, and its Lease is gone")
finally:
    for node in nodes:
        if node.process.poll() is None:
            node.process.terminate()
    for node in nodes:
        try:
            node.process.wait(30)
        except subprocess.TimeoutExpired:
            node.process.kill()
