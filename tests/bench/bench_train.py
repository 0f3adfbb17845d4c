"""Training (issue cc-train): the paper's size (4,418 stars, 8,575 pixels, 6 labels, 28 terms), synthetic spectra.

S/N 80 to 300, 2 % masked pixels, float32 input, scatter of the size of the noise. Times are ratios within one run.
"""
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numba
import numpy as np
from numba import njit, prange
from run import ROOT, Entry, best, measured, peer

N_STAR, N_PIX, N_LABEL, N_FOLD = 4418, 8575, 6, 12
PEER_PIXELS = 400


def case(n_star=N_STAR, n_pix=N_PIX, n_label=N_LABEL, seed=1):
    """(scaled labels, flux, ivar): a random quadratic model, scatter as large as the median noise."""
    from cannonkit.stages.vectorizer import design_matrix, powers_of

    rng = np.random.default_rng(seed)
    x = np.clip(0.3 * rng.standard_normal((n_star, n_label)), -1, 1)
    powers = powers_of(n_label, 2)
    theta = 0.03 * rng.standard_normal((n_pix, len(powers)))
    theta[:, 0] = 1
    sigma = (1 / rng.uniform(80, 300, size=n_star)).astype(np.float32)
    flux = (design_matrix(x, powers) @ theta.T).astype(np.float32)
    ivar = np.empty_like(flux)
    spread = np.hypot(sigma, np.median(sigma)).astype(np.float32)
    for n in range(n_star):
        flux[n] += spread[n] * rng.standard_normal(n_pix, dtype=np.float32)
        ivar[n] = np.where(rng.random(n_pix, dtype=np.float32) < 0.02, 0, sigma[n] ** -2)
    return x, flux, ivar


def problem_of(x, flux, ivar, rule="ml"):
    from cannonkit.stages import train
    from cannonkit.stages.vectorizer import design_matrix, powers_of

    powers = powers_of(x.shape[1], 2)
    products, pair_index = train.products_of(x, powers)
    return train.Problem(train.RULES[rule], flux, ivar, np.ones(flux.shape[1]), design_matrix(x, powers), products,
                         pair_index, np.ones((flux.shape[1], len(powers)), np.uint8))


@njit(parallel=True)
def _product(weights, products, sums, n_block):
    for b in prange(weights.shape[0] // n_block):
        sums[b * n_block:(b + 1) * n_block] = np.dot(weights[b * n_block:(b + 1) * n_block], products)


@njit(parallel=True, error_model="numpy")
def _division_and_logarithm(ivar, s2, out):
    for p in prange(ivar.shape[0]):
        total = 0.0
        for n in range(ivar.shape[1]):
            total += np.log(1.0 / (np.float64(ivar[p, n]) + 1.0) + s2)
        out[p] = total


def seconds_of_product(problem, n_pix=2048):
    """Seconds of the bare float64 product (pixels, stars) @ (stars, sums) on all threads, for all pixels."""
    n_star = len(problem.design)
    weights = np.ascontiguousarray(problem.ivar[:, :n_pix].T.astype(np.float64))
    sums = np.empty((n_pix, problem.products.shape[1]))
    assert weights.shape == (n_pix, n_star)
    _product(weights, problem.products, sums, 32)
    return best(lambda: _product(weights, problem.products, sums, 32), 5) * problem.flux.shape[1] / n_pix


def bench_full_case():
    """Whole training in memory against one bare matrix product, in the same run; its parts; 12 folds."""
    x, flux, ivar = case()
    problem = problem_of(x, flux, ivar)
    problem_of(x, flux[:, :64], ivar[:, :64]).fit()                          # compiled
    bare = seconds_of_product(problem)
    out = np.empty(2048)
    some = np.ascontiguousarray(ivar[:, :2048].T)
    _division_and_logarithm(some, 1e-4, out)
    passed = best(lambda: _division_and_logarithm(some, 1e-4, out), 3) * N_PIX / 2048
    yield Entry("cc-train: bare product (8,575 x 4,418) @ (4,418 x 210)", bare)
    yield Entry("cc-train: one pass of a division and a logarithm", passed)
    training = best(problem.fit, 3)
    yield Entry("cc-train: training in memory", training)
    yield Entry("cc-train: training over the bare product", training / bare, 12.0, "x")
    for rule in ("reml", "median"):
        yield Entry(f"cc-train: --scatter {rule} over the bare product", best(problem_of(x, flux, ivar, rule).fit, 1)
                    / bare, None, "x")
    _, s2, status, _ = problem.fit()
    fold = np.arange(N_STAR) % N_FOLD
    start = time.perf_counter()
    problem.fit_folds(fold, np.arange(N_FOLD), s2)
    folds = time.perf_counter() - start
    yield Entry("cc-train: 12-fold cross-validation over one training", folds / training, 5.0, "x")
    yield Entry("cc-train: pixels that did not converge", int(np.sum(status & 16 != 0)), 0, "pixels")


def bench_scaling():
    """Milliseconds per pixel against stars, labels and threads (512 pixels each)."""
    for n_star in (500, 1000, 4418, 16000):
        problem = problem_of(*case(n_star, 512))
        yield Entry(f"cc-train: {n_star} stars, 6 labels, per pixel", best(problem.fit, 2) / 512 * 1e3, None, "ms")
    for n_label in (3, 8, 10):
        problem = problem_of(*case(N_STAR, 512, n_label))
        n_term = problem.design.shape[1]
        yield Entry(f"cc-train: 4418 stars, {n_label} labels ({n_term} terms), per pixel",
                    best(problem.fit, 2) / 512 * 1e3, None, "ms")
    for n_pix in (1024, 4096):
        problem = problem_of(*case(1000, n_pix))
        yield Entry(f"cc-train: 1000 stars, {n_pix} pixels, per pixel", best(problem.fit, 2) / n_pix * 1e3, None, "ms")
    problem, before, seconds = problem_of(*case(N_STAR, 1024)), numba.get_num_threads(), {}
    for n in sorted({1, min(2, before)}):
        numba.set_num_threads(n)
        seconds[n] = best(problem.fit, 3)
    numba.set_num_threads(before)
    if len(seconds) == 2:
        yield Entry("cc-train: two threads, times faster than one", seconds[1] / seconds[2], None, "x")


def _write(folder, n_pix, change=None, label_error=None):
    """A spectra and a training product of the case; returns their paths. change(flux): in place."""
    from cannonkit import schema, stream

    x, flux, ivar = case(n_pix=n_pix)
    if change is not None:
        change(flux)
    names = list(schema.LABELS)
    ids = np.array([f"mock{n:06d}" for n in range(N_STAR)], dtype="S")
    table = schema.training_table(["apogee"], names)
    values = {f"apogee_{name}": x[:, i] for i, name in enumerate(names)}
    if label_error:
        values |= {f"apogee_e_{name}": np.full(N_STAR, label_error) for name in names}
    training, spectra = folder / f"training_{n_pix}.fits", folder / f"spectra_{n_pix}.fits"
    with stream.create(training, "training", table, N_STAR) as out:
        out.write(table.rows(N_STAR, selected=1, apogee_id=ids, apogee_star_id=ids, **values))
    table = schema.spectra_table(n_pix, 4)
    grid = schema.WAVELENGTH.rows(n_pix, wavelength=15100 + 0.2 * np.arange(n_pix), segment=0)
    extension = stream.Extension("WAVELENGTH", grid, schema.WAVELENGTH, {"MEDIUM": "vacuum", "SURVEY": "apogee"})
    with stream.create(spectra, "spectra", table, N_STAR, [extension], {"SURVEY": "apogee"}) as out:
        for first in range(0, N_STAR, 512):
            rows = slice(first, min(first + 512, N_STAR))
            out.write(table.rows(rows.stop - first, id=ids[rows], star_id=ids[rows], visit=0, status=0, n_bad=0,
                                 flux=flux[rows], ivar=ivar[rows]))
    return spectra, training


def _environment():
    """A user's environment: Python may keep compiled modules, and BLAS takes the threads that it likes."""
    dropped = ("PYTHONDONTWRITEBYTECODE", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    return {key: value for key, value in os.environ.items() if key not in dropped}


def _run_command(spectra, training, output, *more):
    """(seconds, peak megabytes) of cc-train as a process of its own."""
    return measured([sys.executable, ROOT / "bin" / "cc-train", spectra, "--training", training, "--quiet",
                     "--overwrite", "-o", output, *more], _environment())


def bench_files_and_memory():
    """cc-train as a process, start to finish, and the paper's code in the same way; peak memory.

    Both from files that the system has in memory to a model file: cc-train from a spectra and a training product in
    FITS, annieslasso from arrays in .npy files, quicker than the pickles of its guide (float64: with float32 its
    optimiser fails for some pixels and falls back to a slower one), see peer_train.py. It runs with its documented
    defaults (one process, L-BFGS-B), once with the BLAS threads that it gets by itself and once with one; the quicker
    counts. Its training is timed on some pixels, as columns of the whole arrays, and scaled; everything else is timed
    whole.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        spectra, training = _write(folder, N_PIX)
        _run_command(spectra, training, folder / "m.fits", "--cross-validate", "2")        # compiled
        runs = [_run_command(spectra, training, folder / "m.fits", "--cross-validate", "0") for _ in range(5)]
        seconds, memory = min(runs)
        yield Entry("cc-train: from files to a model, no cross-validation", seconds)
        yield Entry("cc-train: peak memory, 8,575 pixels", memory, 1200, "MB")
        full, memory = _run_command(spectra, training, folder / "m.fits")
        yield Entry("cc-train: from files to a model, 12 folds and their labels", full)
        yield Entry("cc-train: peak memory with 12 folds, 8,575 pixels", memory, 1200, "MB")
        yield from _peer(folder, seconds)
        spectra.unlink()
        spectra, training = _write(folder, 16384)
        _, memory = _run_command(spectra, training, folder / "m.fits")
        yield Entry("cc-train: peak memory with 12 folds, 16,384 pixels", memory, 2000, "MB")


def _peer(folder, seconds):
    python = peer("annieslasso")
    if python is None:
        print("cc-train against annieslasso: skipped, make bench PEERS=1 installs it")
        return
    x, flux, ivar = case()
    np.save(folder / "labels.npy", x)
    np.save(folder / "flux.npy", flux.astype(float))
    np.save(folder / "ivar.npy", ivar.astype(float))
    training, whole = min((_peer_run(python, folder, more) for more in ({}, {"OPENBLAS_NUM_THREADS": "1"})
                           for _ in range(2)), key=lambda pair: pair[1])
    problem = problem_of(x, flux, ivar)
    memory = best(problem.fit, 3)
    yield Entry("annieslasso 0.2.96: training in memory, scaled to all pixels", training)
    yield Entry("annieslasso 0.2.96: from files to a model", whole)
    yield Entry("cc-train in memory, times faster than annieslasso", training / memory, None, "x", smaller=False)
    yield Entry("cc-train from files, times faster than annieslasso", whole / seconds, 15.0, "x", smaller=False)


def _peer_run(python, folder, more):
    """(seconds of its training, of all from start to finish), the training scaled to all pixels."""
    start = time.perf_counter()
    done = subprocess.run([python, Path(__file__).parent / "peer_train.py", *(folder / f"{name}.npy" for name in
                           ("flux", "ivar", "labels")), str(PEER_PIXELS), folder / "peer.model"],
                          capture_output=True, text=True, timeout=1800, env={**_environment(), **more})
    whole = time.perf_counter() - start
    found = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("seconds ")]
    assert found, done.stderr[-2000:]
    return float(found[0]) * N_PIX / PEER_PIXELS, whole + float(found[0]) * (N_PIX / PEER_PIXELS - 1)
