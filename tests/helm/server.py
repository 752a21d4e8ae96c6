"""Asks an API server whether it would take pods into a namespace with Pod Security's level `restricted`.

  server.py KUBECONFIG PODS

Nothing is kept (`dryRun=All`), unknown fields are errors (`fieldValidation=Strict`). A pod whose container may gain
privileges is asked for last and has to be refused: else the question proves nothing.
"""

import copy
import json
import ssl
import sys
import urllib.error
import urllib.request

import yaml

config = yaml.safe_load(open(sys.argv[1]))
cluster = config["clusters"][0]["cluster"]
token = config["users"][0]["user"]["token"]
context = ssl.create_default_context(cafile=cluster["certificate-authority"])


def post(path, body):
    request = urllib.request.Request(
        cluster["server"] + path,
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        urllib.request.urlopen(request, context=context).read()
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["message"]
    return 200, ""


labels = {"pod-security.kubernetes.io/enforce": "restricted"}
status, why = post("/api/v1/namespaces", {"metadata": {"name": "restricted", "labels": labels}})
assert status == 200, why
pods = [pod for pod in yaml.safe_load_all(open(sys.argv[2])) if pod]
path = "/api/v1/namespaces/restricted/pods?dryRun=All&fieldValidation=Strict"
for pod in pods:
    pod["metadata"].pop("namespace", None)
    status, why = post(path, pod)
    if status != 200:
        sys.exit(f"{pod['metadata']['name']}: {why}")
loose = copy.deepcopy(pods[-1])
del loose["spec"]["containers"][0]["securityContext"]
status, why = post(path, loose)
if status != 403 or "restricted" not in why:
    sys.exit(f"a pod that may gain privileges is not refused: {status} {why}")
print(f"{len(pods)} pods pass Pod Security's level restricted, and one that may gain privileges does not")
