"""Calibration on as many repeats as the paper has: 28,570 APOGEE and 47,189 GALAH groups."""
import sys
import tempfile
from pathlib import Path

import numpy as np
from run import ROOT, Entry, measured

sys.path.insert(0, str(ROOT / "tests"))


def _sizes(rng, n_group, mean_extra, largest):
    """Group sizes 2 to `largest` with `mean_extra` rows more than one a group, as in the paper."""
    return np.minimum(largest, 2 + rng.geometric(1 / mean_extra, n_group) - 1)


def bench_calibrate():
    """cc-errors calibrate as a process, from file to file, six labels, 100 bootstrap draws: simulated repeats
    in groups of 2 to 15 (extra rows a group: 1.26 and 1.90), 3 % of the pairs outlying."""
    import products

    rng = np.random.default_rng(1)
    size = np.concatenate([_sizes(rng, 28570, 1.26, 14), _sizes(rng, 47189, 1.90, 15)])
    star = np.repeat(products.star_names(len(size)), size)
    n = len(star)
    each = np.repeat(np.arange(len(size)), size)
    snr = np.exp(rng.normal(4.2, 0.5, n))
    formal = products.FORMAL * (60 / snr)[:, None]
    true = np.array([6.0, 3.0, 8.0, 1.0, 2.0, 5.0])
    labels = products.training_labels(rng, len(size))[each] + true * formal * rng.normal(size=(n, 6))
    bad = rng.uniform(size=n) < 0.015
    labels[bad] += 20 * (true * formal)[bad] * rng.normal(size=(int(bad.sum()), 6))
    rows = products.label_rows(products.star_names(n, "s"), star, labels, products.covariance(rng, n, formal=formal),
                               snr)
    with tempfile.TemporaryDirectory() as folder:
        path = products.write_labels(Path(folder) / "repeats.fits", rows)
        del rows, labels, formal, star
        for model, bound in (("paper", 10.0), ("full", None)):
            out = Path(folder) / f"{model}.errors.fits"
            command = [sys.executable, ROOT / "bin" / "cc-errors", "calibrate", path, "-o", out, "--quiet",
                       "--error-model", model]
            # The second time the kernels are cached.
            runs = [measured([*command, "--overwrite"]) for _ in range(2 if model == "paper" else 1)]
            yield Entry(f"cc-errors calibrate ({model}), {len(size)} groups, {n} spectra", min(runs)[0], bound)
            yield Entry(f"cc-errors calibrate ({model}), peak memory", max(r[1] for r in runs), None, "MB")
        found = products.read(Path(folder) / "paper.errors.fits")[0]
        yield Entry("largest error of a robust factor there", 100 * np.max(np.abs(found["f_robust"] / true - 1)), 3.0,
                    "%")
