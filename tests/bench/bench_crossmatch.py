"""cc-crossmatch against stilts: an all-sky match, command line to file."""
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from run import Entry, best

N_LEFT, N_RIGHT, N_TRUE = 470_000, 680_000, 150_000
TIME_BOUND, MEMORY_BOUND = 0.35, 250  # of the wall time of stilts; MB


def tables(folder, n_left=N_LEFT, n_right=N_RIGHT, n_true=N_TRUE, seed=1):
    """Two simulated all-sky tables (id, ra, dec) with n_true common stars scattered by 0.2 arcsec, some at
    the poles and at RA 0, some rows twice at one place; written as FITS. Returns their paths."""
    import fitsio

    rng = np.random.default_rng(seed)
    ra = rng.uniform(0, 360, n_left + n_right)
    dec = np.degrees(np.arcsin(rng.uniform(-1, 1, n_left + n_right)))
    left, right = np.arange(n_left), np.arange(n_left, n_left + n_right)
    dec[:2000] = 90 - np.abs(rng.normal(0, 0.01, 2000))           # crowded poles
    dec[2000:4000] = -90 + np.abs(rng.normal(0, 0.01, 2000))
    ra[4000:6000] = rng.normal(0, 0.001, 2000) % 360               # on both sides of RA 0
    common = right[:n_true]
    step = np.degrees(rng.normal(0, 0.2 / 206265, (2, n_true)))
    dec[common] = np.clip(dec[left[:n_true]] + step[1], -90, 90)
    ra[common] = (ra[left[:n_true]] + step[0] / np.maximum(1e-6, np.cos(np.radians(dec[common])))) % 360
    double = right[n_true:n_true + 500]                            # exact ties
    ra[double], dec[double] = ra[common[:500]], dec[common[:500]]
    paths = []
    for name, rows in (("left", left), ("right", rng.permutation(right))):
        table = np.zeros(len(rows), [("id", "i8"), ("ra", "f8"), ("dec", "f8")])
        table["id"], table["ra"], table["dec"] = rows, ra[rows], dec[rows]
        paths.append(Path(folder) / f"{name}.fits")
        fitsio.write(str(paths[-1]), table, clobber=True)
    return paths


def bench_sky_match():
    """470,000 x 680,000 simulated all-sky rows within 1 arcsec, 150,000 true pairs; ratio of wall times and
    largest memory, and pairs that differ from those of `stilts tskymatch2 find=best`."""
    import fitsio

    with tempfile.TemporaryDirectory() as folder:
        left, right = tables(folder)
        out, other = Path(folder) / "ours.fits", Path(folder) / "stilts.fits"
        program = Path(sys.executable).parent / "cc-crossmatch"
        ours = [program, left, right, "--recipe", "sky", "-o", out, "--overwrite", "--quiet"]
        subprocess.run(ours, check=True)                           # fills the kernel cache
        seconds = best(lambda: subprocess.run(ours, check=True), 3)
        measured = subprocess.run([sys.executable, "-c", (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"), *map(str, ours)],
            check=True, capture_output=True, text=True)
        yield Entry("crossmatch, 470,000 x 680,000", seconds)
        yield Entry("crossmatch, 470,000 x 680,000: memory", int(measured.stdout) / 1024, MEMORY_BOUND, "MB")
        if shutil.which("stilts") is None:
            print("stilts is not installed: no ratio to it", file=sys.stderr)
            return
        theirs = ["stilts", "tskymatch2", f"in1={left}", f"in2={right}", "ra1=ra", "dec1=dec", "ra2=ra",
                  "dec2=dec", "error=1", "find=best", f"out={other}", "ofmt=fits-basic"]
        quiet = {"check": True, "stderr": subprocess.DEVNULL}
        peer = best(lambda: subprocess.run(theirs, **quiet), 3)
        yield Entry("stilts tskymatch2, the same", peer)
        yield Entry("crossmatch, wall time / stilts", seconds / peer, TIME_BOUND, "ratio")
        rows, reference = fitsio.read(str(out), ext="TRAINING"), fitsio.read(str(other), ext=1)
        pairs = set(zip(rows["a_id"].astype(int).tolist(), rows["b_id"].astype(int).tolist(), strict=True))
        expected = set(zip(reference["id_1"].tolist(), reference["id_2"].tolist(), strict=True))
        yield Entry("crossmatch, pairs of stilts", len(expected), None, "pairs")
        yield Entry("crossmatch, pairs that differ from stilts", len(pairs ^ expected), 0, "pairs")
