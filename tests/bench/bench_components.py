"""Misfit components (design.md 5): training and inference against the classic model, at the paper's size.

4,418 stars, 8,575 pixels, 6 labels, 28 terms (bench_train.case), with 20 true components; labels exact, and with errors
of 0.13 of their spread, as Teff in the paper's Table 1. Times are ratios within one run, model for model in memory.
"""
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_train import N_FOLD, N_PIX, N_STAR, _run_command, _write, case, problem_of
from run import ROOT, Entry, best, measured

sys.path.insert(0, str(ROOT / "tests"))
K, LABEL_ERROR = 20, 0.04


def with_components(flux, rng):
    """flux plus K components, smooth on all scales, of falling strength; in place."""
    p = np.arange(flux.shape[1])
    waves = np.stack([np.sin(2 * np.pi * 2.0 ** rng.uniform(0, 10) * p / len(p) + rng.uniform(0, 6)) for _ in range(K)])
    waves *= 0.003 * 0.9 ** np.arange(K)[:, None]
    for first in range(0, len(flux), 512):
        z = rng.standard_normal((len(flux[first:first + 512]), K))
        flux[first:first + 512] += (z @ waves).astype(np.float32)
    return flux


def bench_training():
    """components.fit, after the classic fit that it starts from and with it, over that fit; a fold too."""
    from cannonkit.stages import components
    from cannonkit.stages.vectorizer import powers_of

    rng = np.random.default_rng(2)
    x, flux, ivar = case()
    with_components(flux, rng)
    rows = np.arange(N_STAR)
    for kind in ("exact labels", "labels with errors"):
        labels = None
        if kind != "exact labels":
            x = x + LABEL_ERROR * rng.standard_normal(x.shape)
            labels = components.Labels(x, np.full(x.shape, LABEL_ERROR), powers_of(x.shape[1], 2))
        problem = problem_of(x, flux, ivar, "reml")
        small = problem_of(x[:300], flux[:300, :300], ivar[:300, :300])
        theta, s2, _, _ = small.fit()
        components.fit(small, rows[:300], theta, s2, 2, None if labels is None else replace(
            labels, given=labels.given[:300], error=labels.error[:300]))                     # compiled
        classic = best(problem.fit, 3)
        theta, s2, _, _ = problem.fit()
        found = []
        seconds = best(lambda: found.append(components.fit(problem, rows, theta, s2, K, labels, True)), 2)  # noqa: B023
        one = found[-1]
        yield Entry(f"components: {kind}, training over the classic one", 1 + seconds / classic, 15.0, "x")
        yield Entry(f"components: {kind}, found", one.components.shape[1], None, "components")
        yield Entry(f"components: {kind}, likelihoods", len(one.curve), None, "likelihoods")
        kept = np.flatnonzero(rows % N_FOLD)
        fold = best(lambda: components.fit(problem, kept, theta, s2, K, labels, True, one), 1)             # noqa: B023
        yield Entry(f"components: {kind}, {N_FOLD} folds over the classic training", N_FOLD * fold / classic, None, "x")


def bench_inference():
    """cc-infer's fit with 20 components over the classic one, whose sums are the full ones; both in memory."""
    from infer_case import make

    from cannonkit.stages import infer

    model, flux, ivar = make()
    rng = np.random.default_rng(2)
    u = 0.003 * rng.standard_normal((model.n_pix, K)) * 0.9 ** np.arange(K)
    flux = (flux + rng.standard_normal((len(flux), K)) @ u.T).astype(np.float32)
    seconds, ours = {}, replace(model, components=u, strength=np.ones(K))
    for name, one, clip in (("classic", model, 0), ("components", ours, 0), ("clipped", ours, 6)):
        fitter = infer.prepare(one, solver="sums", clip=clip)
        fitter.fit(flux[:128], ivar[:128])
        seconds[name] = best(lambda: fitter.fit(flux, ivar), 3)                              # noqa: B023
    yield Entry(f"components: inference with {K} over classic", seconds["components"] / seconds["classic"], 4.0, "x")
    yield Entry("components: the same, looking for spikes", seconds["clipped"] / seconds["classic"], None, "x")


def bench_memory():
    """cc-train as a process with 20 components and errors of the labels, without folds and with 12; cc-infer."""
    rng = np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        spectra, training = _write(folder, N_PIX, lambda flux: with_components(flux, rng), LABEL_ERROR)
        for what, folds in (("", "0"), (" and 12 folds", "12")):
            seconds, memory = _run_command(spectra, training, folder / "m.fits", "--components", str(K),
                                           "--cross-validate", folds)
            yield Entry(f"components: cc-train with errors of labels{what}, start to finish", seconds)
            yield Entry(f"components: cc-train's peak memory{what}", memory, 1200, "MB")
        _, memory = measured([sys.executable, ROOT / "bin" / "cc-infer", spectra, "-m", folder / "m.fits", "-o",
                              folder / "l.fits", "--quiet", "--overwrite"])
        yield Entry(f"components: cc-infer's peak memory, {N_STAR} spectra", memory, 400, "MB")
