"""Whether the objects that the chart gives to operators are what their CustomResourceDefinitions take.

  operators.py schema DEFINITIONS OBJECT...              by openAPIV3Schema alone; a field that it does not have is an error
  operators.py server KUBECONFIG DEFINITIONS OBJECT...   by an API server that is given the definitions, with their rules
                                                         in CEL: `dryRun=All`, `fieldValidation=Strict`

DEFINITIONS is a directory of them. Each object is asked for a second time with a field that nobody knows, and has to be
refused: else the question proves nothing.
"""

import copy
import json
import pathlib
import ssl
import sys
import time
import urllib.error
import urllib.request

import yaml

ESTABLISHED_SECONDS_MAX = 30
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(path):
    return yaml.load(pathlib.Path(path).read_text(), LOADER)


def definitions(folder):
    """By group and kind."""
    found = [load(path) for path in sorted(pathlib.Path(folder).glob("*.yaml"))]
    return {(of["spec"]["group"], of["spec"]["names"]["kind"]): of for of in found}


def strict(schema):
    """A schema of Kubernetes as one of JSON Schema that takes no field that is not named."""
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"], **{key: schema[key] for key in ("pattern",) if key in schema}}
    made = {key: value for key, value in schema.items() if not key.startswith("x-") and key not in ("description", "format", "nullable", "default")}
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        made["type"] = [schema["type"], "null"]
    if "properties" in schema:
        made["properties"] = {key: strict(child) for key, child in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        made["items"] = strict(schema["items"])
    return made


def by_schema(known):
    import jsonschema

    def ask(found, of):
        version = found["apiVersion"].partition("/")[2]
        schema = next(each["schema"]["openAPIV3Schema"] for each in of["spec"]["versions"] if each["name"] == version)
        schema = strict(schema)
        # What every object has is not said by its definition.
        schema["properties"]["metadata"] = {"type": "object"}
        errors = jsonschema.Draft7Validator(schema).iter_errors(json.loads(json.dumps(found)))
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]

    return ask


def by_server(kubeconfig, known):
    config = load(kubeconfig)
    cluster = config["clusters"][0]["cluster"]
    context = ssl.create_default_context(cafile=cluster["certificate-authority"])
    token = config["users"][0]["user"]["token"]

    def call(path, body=None):
        request = urllib.request.Request(
            cluster["server"] + path,
            None if body is None else json.dumps(body, default=str).encode(),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        try:
            return 200, json.load(urllib.request.urlopen(request, context=context))
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for of in known.values():
        status, answer = call(path, of)
        if status != 200:
            sys.exit(f"{of['metadata']['name']}: {status} {answer['message']}")
    end = time.monotonic() + ESTABLISHED_SECONDS_MAX
    for of in known.values():
        while True:
            conditions = call(f"{path}/{of['metadata']['name']}")[1].get("status", {}).get("conditions", [])
            if any(each["type"] == "Established" and each["status"] == "True" for each in conditions):
                break
            if time.monotonic() > end:
                sys.exit(f"{of['metadata']['name']} is not established: {conditions}")
            time.sleep(0.1)

    def ask(found, of):
        body = copy.deepcopy(found)
        body["metadata"].pop("namespace", None)
        resource = f"/apis/{found['apiVersion']}/namespaces/default/{of['spec']['names']['plural']}"
        # An established definition is served a moment later.
        while True:
            status, answer = call(f"{resource}?dryRun=All&fieldValidation=Strict", body)
            if status != 404 or time.monotonic() > end:
                return [] if status == 200 else [f"{status} {answer['message']}"]
            time.sleep(0.1)

    return ask


def main():
    how, *rest = sys.argv[1:]
    kubeconfig = rest.pop(0) if how == "server" else None
    known = definitions(rest[0])
    ask = by_schema(known) if how == "schema" else by_server(kubeconfig, known)
    kinds = []
    for path in rest[1:]:
        found = load(path)
        group, kind = found["apiVersion"].partition("/")[0], found["kind"]
        of = known.get((group, kind))
        if of is None:
            sys.exit(f"{path}: there is no definition of {kind} in {group}")
        if errors := ask(found, of):
            sys.exit(f"{path}: {kind}: " + "\n".join(errors))
        spoilt = copy.deepcopy(found)
        spoilt["spec"]["nobodyKnowsThis"] = 1
        if not ask(spoilt, of):
            sys.exit(f"{path}: a {kind} with a field that nobody knows is taken, too")
        kinds.append(kind)
    print(f"{' '.join(sorted(kinds))}: taken {'with their definitions by an API server' if how == 'server' else 'by the schemas of their definitions'}")


main()
