"""A real Prometheus with the chart's rules scrapes three nodes of `flights dev --hold`; what should fire fires when
things break, and resolves when they are mended.

  live.py PROGRAM PROMETHEUS RULES

RULES are the chart's, rendered with monitoring.rules.for = 1s. What fires must do so within DEADLINE_SECONDS.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

program, prometheus, rules = (str(pathlib.Path(name).resolve()) for name in sys.argv[1:])
DEADLINE_SECONDS = 60
LABELS = {"namespace": "apps"}
scratch = pathlib.Path(tempfile.mkdtemp(dir=os.path.dirname(rules)))
here = scratch / "cluster"
here.mkdir()
started = []


def start(name, arguments, cwd, environment=None):
    log = open(scratch / f"{name}.log", "w")
    process = subprocess.Popen(
        arguments, cwd=cwd, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
    )
    started.append(process)
    return process


def until(what, holds):
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            found = holds()
        except (OSError, ValueError, KeyError):
            found = None
        if found:
            return found
        if time.monotonic() > end:
            for log in sorted(scratch.glob("*.log")):
                print(f"--- {log.name}")
                print("".join(open(log).readlines()[-15:]))
            print(json.dumps(ask("alerts"), indent=1))
            sys.exit(f"never: {what}")
        time.sleep(0.2)


def ask(path, **query):
    url = f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    return json.load(urllib.request.urlopen(url, timeout=10))["data"]


def value(expression):
    return [(found["metric"], float(found["value"][1])) for found in ask("query", query=expression)["result"]]


def firing():
    return {found["labels"]["alertname"] for found in ask("alerts")["alerts"] if found["state"] == "firing"}


def flights(*arguments):
    said = subprocess.run([program, *arguments], cwd=here, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert said.returncode == 0, said.stderr
    return said.stdout


def dev():
    return json.loads((here / ".afflux/dev.json").read_text())


def targets(nodes):
    """Written beside and renamed: Prometheus reads it when it changes."""
    text = json.dumps([{"targets": [admin], "labels": LABELS | {"pod": name}} for name, admin in nodes.items()])
    (scratch / "nodes.json.new").write_text(text)
    (scratch / "nodes.json.new").rename(scratch / "nodes.json")


try:
    start("dev", [program, "dev", "--hold"], here)
    until("three nodes", lambda: len(dev()["nodes"]) == 3 and all(node["admin"] for node in dev()["nodes"]))
    # The launcher's own job has to be over: it would end with a node. The next one runs for minutes.
    until("the first job is over", lambda: json.loads(flights("jobs", "--json"))[0]["state"] == "finished")
    job = flights("run", "hourly-delays", "--replay", "50000x", "--detach").strip()
    nodes = {node["id"]: node["admin"] for node in dev()["nodes"]}
    targets(nodes)
    (scratch / "prometheus.json").write_text(json.dumps({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"},
        "rule_files": [rules],
        "scrape_configs": [{"job_name": "shop", "file_sd_configs": [{"files": [str(scratch / "nodes.json")]}]}],
    }))  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    start("prometheus", [
        prometheus, f"--config.file={scratch}/prometheus.json", f"--storage.tsdb.path={scratch}/data",
        f"--web.listen-address={address}", "--log.level=warn",
    ], scratch)  # fmt: skip

    until("three nodes are scraped", lambda: len([v for _, v in value("up") if v == 1]) == 3)
    bad = [found for found in ask("targets")["activeTargets"] if found["lastError"]]
    assert not bad, bad
    until("operators are counted", lambda: value("afflux_operator_records_in_total > 0"))
    series = int(value("sum(scrape_samples_scraped)")[0][1])
    until("the rules are evaluated", lambda: all(
        rule["health"] == "ok" for group in ask("rules")["groups"] for rule in group["rules"]))  # fmt: skip
    count = sum(len(group["rules"]) for group in ask("rules")["groups"])
    print(f"{count} rules are evaluated over {series} series of three nodes")

    # There is no place for its checkpoints.
    until("AffluxNoCheckpointStore fires", lambda: "AffluxNoCheckpointStore" in firing())
    until("the recorded rules have values", lambda: value("afflux:busy_ratio:max") and value("afflux:source_lag_seconds:max"))
    quiet = firing() - {"AffluxNoCheckpointStore", "AffluxLagHigh"}
    assert not quiet, f"nothing is broken, and {quiet} fire"
    print("a job without a checkpoint store is told; nothing else fires, but the lag of data of 2013")

    coordinator = value('afflux_registry_is_leader{election="afflux.jobs"} == 1')[0][0]["pod"]
    lost = next(node for node in dev()["nodes"] if node["id"] == coordinator)
    os.kill(lost["pid"], signal.SIGKILL)
    begun = time.monotonic()
    until("AffluxNodeDown fires", lambda: "AffluxNodeDown" in firing())
    down = [found["labels"]["pod"] for found in ask("alerts")["alerts"] if found["labels"]["alertname"] == "AffluxNodeDown"]
    assert down == [coordinator], down
    print(f"{coordinator}, which led, was killed: AffluxNodeDown fired after {time.monotonic() - begun:.1f} s")
    until("AffluxJobFailed fires", lambda: "AffluxJobFailed" in firing())
    until("AffluxNoCheckpointStore resolves", lambda: "AffluxNoCheckpointStore" not in firing())
    print(f"without checkpoints {job} failed with its node: AffluxJobFailed fires, AffluxNoCheckpointStore does not any more")

    # Another process of the same name joins: it answers, and somebody leads.
    environment = os.environ | {"AFFLUX_TOKEN": dev()["token"]}
    start("again", [
        program, "node", "--id", coordinator, "--join", dev()["launcher"], "--listen", "127.0.0.1:0",
        "--admin-listen", "127.0.0.1:0", "--slots", "1", "--set", "tls.mode=loopback",
    ], here, environment)  # fmt: skip
    there = lambda: {node["id"]: node["admin"] for node in json.loads(flights("nodes", "--json")) if node["state"] == "ready"}
    until("it is back", lambda: len(there()) == 3)
    targets(there())
    begun = time.monotonic()
    until("AffluxNodeDown and AffluxNoLeader resolve", lambda: not firing() & {"AffluxNodeDown", "AffluxNoLeader"})
    assert len([v for _, v in value("up") if v == 1]) == 3, value("up")
    print(f"{coordinator} is back: AffluxNodeDown resolved after {time.monotonic() - begun:.1f} s")
    left = firing() - {"AffluxJobFailed", "AffluxLagHigh"}
    assert not left, left
finally:
    for process in reversed(started):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for process in started:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
