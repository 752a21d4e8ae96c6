"""Flink in a process of its own, for the comparisons beside it. Needs Java 17 (javac too), and pip for Flink's jars:
`apache-flink-libraries` of PyPI, 329 MB, downloaded once."""
import json
import subprocess
import sys
import zipfile
from pathlib import Path

FLINK = "2.3.0"
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
OURS = ROOT / "target/release/afflux-bench"
DIRECTORY = ROOT / "target/flink"
PACKAGES = ["lang", "util", "nio", "time", "lang.invoke", "lang.reflect", "util.concurrent", "net", "io", "text"]


def build_ours() -> None:
    cargo = ["cargo", "build", "--release", "--locked", "-q", "--bin", "afflux-bench"]
    subprocess.run(cargo, cwd=ROOT, check=True)


def jars() -> str:
    """The class path of Flink."""
    lib = DIRECTORY / "pyflink/lib"
    if not lib.exists():
        DIRECTORY.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"apache-flink-libraries=={FLINK}"]
        subprocess.run([*pip, "-d", str(DIRECTORY)], check=True)
        wheel = next(DIRECTORY.glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(DIRECTORY, [n for n in archive.namelist() if n.startswith("pyflink/lib/")])
        wheel.unlink()
    return f"{lib}/*"


class Flink:
    """One of the programs beside this file: takes lines, and answers each with a line of JSON."""

    def __init__(self, program: str, *words: str, heap: str) -> None:
        path, classes = jars(), DIRECTORY / "classes"
        subprocess.run(["javac", "-cp", path, "-d", str(classes), str(HERE / f"{program}.java")], check=True)
        opens = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in PACKAGES]
        self.log = DIRECTORY / "flink.log"
        java = ["java", f"-Xmx{heap}", *opens, "-cp", f"{classes}:{path}", program, *words]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(java, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.ready = self.line("its start").split()[1:]

    def line(self, when: str) -> str:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"Flink ended at {when}; see {self.log}")
        return line

    def ask(self, line: str) -> dict:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return json.loads(self.line(line))

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()
