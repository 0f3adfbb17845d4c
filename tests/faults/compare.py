"""The same five troubles for cannonkit and for the tools one would otherwise pipe together: the README's table.

    python tests/faults/compare.py [ROWS]

Each tool copies a labels table of ROWS rows (default 20,000) in its own way: cc-flag, stilts tpipe, gnuastro's
asttable. Printed for each trouble: the exit code, and what stands under the output's name afterwards.
Needs root for the full disk (a tmpfs of 4 MB); a tool that is not installed has no column.
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import products  # noqa: E402

from cannonkit import fits, stream  # noqa: E402


def tools(folder):
    """{name: function(input, output, column) -> arguments}; output `-` is standard output."""
    found = {"cannonkit": lambda source, out, column: [
        sys.executable, ROOT / "bin" / "cc-flag", source, "-m", folder / "model.fits", "-o", out, "--quiet",
        *(["--labels", f"teff,{column}"] if column else [])]}
    if shutil.which("stilts"):
        found["stilts"] = lambda source, out, column: [
            "stilts", "tpipe", f"in={source}#1", "ifmt=fits", *([f"cmd=keepcols {column}"] if column else []),
            "ofmt=fits-basic", f"out={out}"]
    if shutil.which("asttable"):
        found["gnuastro"] = lambda source, out, column: [
            "asttable", source, "--hdu=1", *(["-c", column] if column else []),
            *([] if out == "-" else [f"--output={out}"])]
    return found


def verdict(code, path):
    """Exit code and what is there."""
    if not path.exists():
        return f"{code}, no file"
    try:
        with stream.open_source(path, verify=True):
            what = "a file that looks whole"
    except Exception:
        what = "a damaged file"
    return f"{code}, {what} of {path.stat().st_size / 1e6:.1f} MB"


def call(arguments, **keywords):
    done = subprocess.run([str(a) for a in arguments], stderr=subprocess.PIPE, **keywords)
    return done.returncode


def troubles(make, folder):
    """(trouble, verdict) of one tool."""
    out = folder / "out.fits"
    with open("/dev/full", "wb") as full:
        yield "`> /dev/full`", f"{call(make(folder / 'labels.fits', '-', ''), stdout=full)}"
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk]).returncode == 0:
        try:
            code = call(make(folder / "labels.fits", disk / "out.fits", ""), stdout=subprocess.DEVNULL)
            yield "full disk", verdict(code, disk / "out.fits")
        finally:
            subprocess.run(["umount", disk], check=True)
    code = call(make(folder / "cut.fits", out, ""), stdout=subprocess.DEVNULL)
    yield "input cut short", verdict(code, out)
    out.unlink(missing_ok=True)
    yield "kill -9 while writing", killed(make(folder / "labels.fits", out, ""), out)
    out.unlink(missing_ok=True)
    code = call(make(folder / "labels.fits", out, "no_such"), stdout=subprocess.DEVNULL)
    yield "a column that is not there", verdict(code, out)
    out.unlink(missing_ok=True)


def killed(arguments, out):
    """Kill the process group when 2 MB of output have been written, wherever they are."""
    with subprocess.Popen([str(a) for a in arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          start_new_session=True) as process:
        while process.poll() is None and written(process.pid) < 2_000_000:
            time.sleep(0.002)
        if process.poll() is not None:
            return "ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
    return verdict(process.returncode, out)


def written(pid):
    """Bytes that a process and its children have written."""
    total = 0
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("wchar"):
                total = int(line.split()[1])
    except OSError:
        return total
    return total + sum(written(int(child)) for child in children)


def main(n_row):
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        products.write_model(folder / "model.fits", rng)
        rows = products.label_rows(products.star_names(n_row), products.star_names(n_row),
                                   products.training_labels(rng, n_row), products.covariance(rng, n_row),
                                   rng.uniform(20, 200, n_row))
        products.write_labels(folder / "labels.fits", rows)
        data = (folder / "labels.fits").read_bytes()
        (folder / "cut.fits").write_bytes(data[:len(data) * 2 // 3 // fits.BLOCK * fits.BLOCK])
        table = {tool: dict(troubles(make, folder)) for tool, make in tools(folder).items()}
    print("| trouble | " + " | ".join(table) + " |")
    print("|---" * (len(table) + 1) + "|")
    for trouble in next(iter(table.values())):
        print(f"| {trouble} | " + " | ".join(found.get(trouble, "-") for found in table.values()) + " |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
