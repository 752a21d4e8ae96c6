"""A CycloneDX 1.6 bill of materials of a program, from what Cargo says of it: every crate that is linked into it, with
version, licence and the checksum of Cargo.lock. The same sources give the same bytes.

  sbom.py PACKAGE FEATURES [TARGET]     FEATURES as Cargo takes them; writes to the standard output

What is needed to build and not to run (build scripts, derives, tests) is left out.
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    package, features, *rest = sys.argv[1:]
    target = rest[0] if rest else "x86_64-unknown-linux-gnu"
    # By `tree`, which takes the features of this program alone, and not those of the whole workspace.
    form = "\t{p}\t{l}\t{r}"
    command = ["cargo", "tree", "--locked", "-p", package, "--features", features, "--target", target]
    command += ["--edges", "normal,no-proc-macro", "--prefix", "depth", "--format", form, "--charset", "ascii"]
    lines = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in lock["package"]}

    components, depends, above = {}, {}, []
    for line in lines:
        depth, crate, licence, repository = line.removesuffix(" (*)").split("\t")
        name, version = re.match(r"(\S+) v(\S+)", crate).groups()
        reference = f"pkg:cargo/{name}@{version}"
        above = [*above[: int(depth)], reference]
        depends.setdefault(reference, set())
        if int(depth):
            depends[above[-2]].add(reference)
        components[reference] = shown = {
            "type": "library" if int(depth) else "application",
            "bom-ref": reference,
            "name": name,
            "version": version,
            "purl": reference,
        }
        if licence:
            # Some write `/` for what is `OR` now.
            shown["licenses"] = [{"expression": " ".join(licence.replace("/", " OR ").split())}]
        if checksums.get((name, version)):
            shown["hashes"] = [{"alg": "SHA-256", "content": checksums[name, version]}]
        if repository.startswith("https://"):
            shown["externalReferences"] = [{"type": "vcs", "url": repository}]

    program = components.pop(above[0])
    listed = [components[reference] for reference in sorted(components)]
    graph = [{"ref": reference, "dependsOn": sorted(depends[reference])} for reference in sorted(depends)]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([program, features, target, listed, graph]))
    properties = [{"name": "afflux:features", "value": features}, {"name": "afflux:target", "value": target}]
    print(json.dumps({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": program, "properties": properties},
        "components": listed,
        "dependencies": graph,
    }, indent=1))  # fmt: skip


main()
