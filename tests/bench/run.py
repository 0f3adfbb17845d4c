"""Run the benchmarks of this folder; print a table and write build/bench.json.

    python tests/bench/run.py              all of them
    python tests/bench/run.py start        those in bench_start.py

A benchmark is a function `bench_*()` in a file bench_*.py that yields or returns `Entry`s. Its
docstring says what is measured and on what data. build/bench.json is a list of objects with `name`,
`value`, `bound`, `unit` and `holds`; an entry without a bound only informs (`holds` is null).
The exit code is 1 if a bound does not hold or a benchmark fails.
"""
import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUTPUT = ROOT / "build" / "bench.json"

sys.modules["run"] = sys.modules[__name__]  # `from run import Entry` in a benchmark is this module


class Entry:
    """One number: value and bound in `unit`; `smaller` says on which side of the bound it must be."""

    def __init__(self, name, value, bound=None, unit="s", smaller=True):
        self.name, self.value, self.bound, self.unit, self.smaller = name, value, bound, unit, smaller

    @property
    def holds(self):
        if self.bound is None:
            return None
        return bool(self.value <= self.bound if self.smaller else self.value >= self.bound)

    def as_dict(self):
        return {"name": self.name, "value": self.value, "bound": self.bound, "unit": self.unit,
                "holds": self.holds}


def best(function, repeats=5):
    """Seconds of the quickest of some calls: the time that the machine's other work disturbs least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


# A small process in between: a child's peak memory is never less than that of the process that starts it.
MEASURE = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
print(json.dumps([process.returncode, time.perf_counter() - start, usage.ru_maxrss / 1024]))
"""


def measured(command, env=None):
    """(seconds, peak memory in MB) of a process in this environment or `env`; it must succeed. Its standard output
    goes nowhere."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, command)], stdout=subprocess.PIPE, text=True,
                          check=True, env=env)
    code, seconds, memory = json.loads(done.stdout)
    assert code == 0, command
    return seconds, memory


def peer(name):
    """The Python of a peer's environment (`make bench PEERS=1`), or None where it is not installed."""
    path = ROOT / "build" / "peers" / name / "bin" / "python"
    return path if path.exists() else None


def collect(names):
    """(label, function) of the benchmarks in files bench_NAME.py."""
    for path in sorted(HERE.glob("bench_*.py")):
        if names and path.stem.removeprefix("bench_") not in names:
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for key, value in vars(module).items():
            if key.startswith("bench_") and callable(value):
                yield f"{path.stem}.{key}", value


def show(entry):
    sign = "<=" if entry.smaller else ">="
    bound = "" if entry.bound is None else f"{sign} {entry.bound:<10.4g}"
    verdict = {None: "", True: "holds", False: "DOES NOT HOLD"}[entry.holds]
    print(f"{entry.name:<58} {entry.value:>10.4g} {entry.unit:<12} {bound:<14} {verdict}", flush=True)


def main(names):
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
    sys.path.insert(0, str(HERE))
    entries, failed = [], []
    for label, function in collect(names):
        try:
            for entry in function() or ():
                entries.append(entry)
                show(entry)
        except Exception:
            failed.append(label)
            print(f"{label}: failed\n{traceback.format_exc()}", file=sys.stderr)
    OUTPUT.parent.mkdir(exist_ok=True)
    written = [entry.as_dict() for entry in entries]
    if names and OUTPUT.exists():  # some of them: keep the others' last numbers
        new = {entry["name"] for entry in written}
        written = [entry for entry in json.loads(OUTPUT.read_text()) if entry["name"] not in new] + written
    OUTPUT.write_text(json.dumps(written, indent=1) + "\n")
    wrong = [entry for entry in entries if entry.holds is False]
    print(f"{len(entries)} numbers, {len(wrong)} outside their bound, {len(failed)} benchmarks failed; "
          f"written to {OUTPUT.relative_to(ROOT)}")
    return 1 if wrong or failed or not entries else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
