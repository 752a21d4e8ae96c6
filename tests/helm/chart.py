"""What is generated of the chart, and what is checked of its renders: see run.

  chart.py schema|readme [--check]   writes, or compares, the part of values.schema.json that is made from
                                     docs/book/settings.md, and the table of values in the chart's README
  chart.py split RENDER DIR          a file for each object of a render that Kubernetes itself knows, and one for others
  chart.py rules RENDER              the groups of its PrometheusRule, for promtool
  chart.py values PAGE DIR           the values for the chart in a page's blocks of YAML, a file each; prints their names
  chart.py toml RENDER               the afflux.toml of its ConfigMap
  chart.py restricted RENDER         the StatefulSet's and the test's pods, for an API server with Pod Security
"""

import copy
import json
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/afflux"
SCHEMA = CHART / "values.schema.json"

# Settings that other values of the chart decide, or that are secrets or another's for each pod.
OWN = {
    "cluster", "token", "node.id", "node.listen", "node.advertise", "node.join", "admin.listen", "admin.tls",
    "health.listen", "grpc.listen", "auth.token_file", "auth.tokens", "auth.allow", "tls.mode", "tls.ca",
    "tls.certificate", "tls.key", "registry.namespace", "registry.service", "registry.kubeconfig",
    "registry.dns_name", "registry.password", "checkpoint.url", "checkpoint.dir", "checkpoint.interval_ms",
    "checkpoint.retain", "pipeline.start", "pipeline.start_nodes_min",
}  # fmt: skip


def settings_rows():
    for line in (ROOT / "docs/book/settings.md").read_text().splitlines():
        row = re.match(r"\| `([a-z_.]+)` \| (.*?) \| (.*?) \| (.*) \|$", line)
        if row:
            yield row.groups()


def settings_schema():
    top = {
        "type": "object",
        "additionalProperties": False,
        "description": "afflux.toml, table by table: docs/book/settings.md. Addresses, TLS, tokens, checkpoints and the "
        "pipelines to start are values of their own.",
        "properties": {},
    }
    for name, default, takes, doc in settings_rows():
        if name in OWN:
            continue
        kind = {"description": f"{doc} Default: {default}."}
        numbers = re.fullmatch(r"([\d,]+) to ([\d,]+)", takes)
        words = re.findall(r"`([^`]+)`", takes)
        if numbers:
            low, high = (int(number.replace(",", "")) for number in numbers.groups())
            kind |= {"type": "integer", "minimum": low, "maximum": high}
        elif takes == "a list":
            kind |= {"type": "array", "items": {"type": "string"}}
        elif words and words != ["HOST:PORT"]:
            # YAML takes on and off for truth values.
            kind |= {"enum": words + ([True, False] if "on" in words else [])}
        else:
            kind |= {"type": "string"}
        if name == "registry":
            kind["enum"] = [word for word in words if word != "embedded"]
            kind["description"] = "Who knows the nodes; all but kubernetes want their feature and their servers."
            name = "registry.kind"
        table, _, key = name.partition(".")
        if not key:
            top["properties"][table] = kind
            continue
        of = top["properties"].setdefault(
            table, {"type": "object", "additionalProperties": False, "description": f"Table {table}.", "properties": {}}
        )
        of["properties"][key] = kind
    top["properties"]["registry"]["required"] = ["kind"]
    top["required"] = ["registry"]
    return top


def schema_text():
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["settings"] = settings_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def check_schema():
    """What the chart takes has to be what the program takes; what the program has besides is told, and no error."""
    taken = json.loads(SCHEMA.read_text())["properties"]["settings"]
    known = settings_schema()
    wrong = []

    def compare(path, ours, theirs):
        if theirs is None:
            wrong.append(f"{path}: there is no such setting")
            return
        facts = lambda of: {key: value for key, value in of.items() if key not in ("description", "properties")}
        if facts(ours) != facts(theirs):
            wrong.append(f"{path}: {facts(ours)} here, {facts(theirs)} in docs/book/settings.md")
        for key, child in ours.get("properties", {}).items():
            compare(f"{path}.{key}", child, theirs.get("properties", {}).get(key))
        for key in theirs.get("properties", {}).keys() - ours.get("properties", {}).keys():
            print(f"       {path}.{key} is not in the chart's schema yet: tests/helm/run write")

    compare("settings", taken, known)
    if wrong:
        sys.exit("helm/afflux/values.schema.json, run tests/helm/run write:\n" + "\n".join(wrong))


BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"


def readme_text():
    schema = json.loads(SCHEMA.read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = ["| value | default | what it is for |", "|---|---|---|"]

    def show(default):
        text = json.dumps(default, ensure_ascii=False)
        return f"`{text}`".replace("|", "\\|")

    def walk(prefix, of, default):
        inner = of.get("properties")
        if not prefix.startswith("settings") and inner and isinstance(default, dict):
            for key, child in inner.items():
                if key != "global":
                    assert key in default, f"{prefix}{key} has no default in values.yaml"
                    walk(f"{prefix}{key}.", child, default[key])
            return
        name = prefix.rstrip(".")
        text = of["description"].replace("|", "\\|")
        rows.append(f"| `{name}` | {show(default)} | {text} |")

    # What a default has no row for: keys below a map that is open on purpose.
    schema["properties"]["updateStrategy"]["properties"].pop("rollingUpdate")
    walk("", schema, values)
    page = CHART / "README.md"
    text = page.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return head + BEGIN + "\n".join(rows) + "\n" + END + tail


def write(path, text, check):
    if not check:
        path.write_text(text)
    elif path.read_text() != text:
        sys.exit(f"{path.relative_to(ROOT)} is not what is generated: run tests/helm/run write")


def objects(render):
    return [found for found in yaml.safe_load_all(pathlib.Path(render).read_text()) if found]


def one(render, kind, name=""):
    return next(found for found in objects(render) if found["kind"] == kind and found["metadata"]["name"].endswith(name))


def main():
    command, *rest = sys.argv[1:]
    check = "--check" in rest
    if command == "schema" and check:
        check_schema()
    elif command == "schema":
        write(SCHEMA, schema_text(), check)
    elif command == "readme":
        write(CHART / "README.md", readme_text(), check)
    elif command == "split":
        own = []
        for number, found in enumerate(objects(rest[0])):
            group = found["apiVersion"].partition("/")[0]
            known = "." not in group or group.endswith(".k8s.io")
            path = pathlib.Path(rest[1]) / f"{number:02}-{found['kind'].lower()}.{'yaml' if known else 'custom'}"
            path.write_text(yaml.safe_dump(found))
            own.append(found["kind"])
        print(" ".join(own))
    elif command == "rules":
        print(yaml.safe_dump(one(rest[0], "PrometheusRule")["spec"]))
    elif command == "values":
        known = yaml.safe_load((CHART / "values.yaml").read_text()).keys()
        blocks = re.findall(r"^```yaml\n(.*?)^```", pathlib.Path(rest[0]).read_text(), re.M | re.S)
        found = [text for text in blocks if known & yaml.safe_load(text).keys()]
        for number, text in enumerate(found):
            path = pathlib.Path(rest[1]) / f"values-{number}.yaml"
            path.write_text(text)
            print(path)
        assert found, "there are no values in the page"
    elif command == "toml":
        configs = [found["data"]["afflux.toml"] for found in objects(rest[0]) if "afflux.toml" in found.get("data", {})]
        print(configs[0], end="")
    elif command == "restricted":
        pods = [copy.deepcopy(one(rest[0], "Pod"))]
        template = one(rest[0], "StatefulSet")["spec"]["template"]
        pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node", **template["metadata"]}, "spec": template["spec"]})
        print(yaml.safe_dump_all(pods))
    else:
        sys.exit(__doc__)


main()
