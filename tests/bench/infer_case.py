"""Made-up models and spectra for the benchmarks of cc-infer: no survey's data, no physics.

    python infer_case.py N_STAR MODEL        writes a spectra product of N_STAR rows to standard output
    python infer_case.py measure             prints seconds per spectrum: the bare products, and the fit in memory

The rows repeat one chunk of 1,024 spectra under new names: the time of cc-infer does not depend on their values,
and making a million different ones would take longer than fitting them.
"""
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import synthetic  # noqa: E402
from run import best  # noqa: E402

from cannonkit import model as models  # noqa: E402
from cannonkit import schema, stream  # noqa: E402

CHUNK = 1024


def make(n_pix=8575, n_label=6, seed=1, n_star=CHUNK):
    """(model, flux, ivar) of n_star spectra, S/N 20 to 300, 3 % of the pixels masked.

    Quadratic coefficients are nearly as large as linear ones, as in models trained on spectra (their rms ratio
    is 0.7 to 1.1 in those of the demo and of `make real`).
    """
    rng = np.random.default_rng(seed)
    model = synthetic.make_model(rng, n_pix=n_pix, n_label=n_label, n_train=2000, curvature=0.9)
    _, flux, ivar = synthetic.draw(rng, model, n_star, rng.uniform(20, 300, n_star))
    return model, flux, ivar


def write(path, model, flux, ivar, n_star):
    """A spectra product of n_star rows on the model's grid, to a file or `-`."""
    table = schema.spectra_table(model.n_pix, 8)
    grid = schema.WAVELENGTH.rows(model.n_pix, wavelength=model.wavelength, segment=model.segment)
    extension = stream.Extension("WAVELENGTH", grid, schema.WAVELENGTH, {"MEDIUM": (model.medium, "")})
    rows = table.rows(len(flux), visit=0, snr_survey=50.0, status=0, flux=flux, ivar=ivar)
    header = {"SURVEY": model.survey, "MOCK": (True, "simulated data: not real stars")}
    with stream.create(path, "spectra", table, n_star, [extension], header, [], None, True) as out:
        for at in range(0, n_star, len(rows)):
            part = rows[:n_star - at]
            part["id"] = part["star_id"] = np.char.mod("star%07d", np.arange(at, at + len(part))).astype("S")
            out.write(part)


def product_time(fitter, n_block=64):
    """Seconds per star of the bare float32 products, weights @ pairs and weighted residuals @ theta, in blocks of
    64 stars on all threads."""
    pairs = np.ascontiguousarray(fitter.tiles[4].transpose(0, 2, 1)).reshape(-1, fitter.tiles[4].shape[1])
    pairs = pairs[:fitter.model.n_pix]
    theta = np.ascontiguousarray(fitter.theta, np.float32)
    weights = np.random.default_rng(1).random((64, fitter.model.n_pix), np.float32)

    def block(_):
        return weights @ pairs, weights @ theta

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return best(lambda: list(pool.map(block, range(n_block)))) / (64 * n_block)


def measure():
    from cannonkit.stages import infer

    model, flux, ivar = make()
    fitter = infer.prepare(model)
    fitter.fit(flux, ivar)
    return {"product": product_time(fitter), "fit": best(lambda: fitter.fit(flux, ivar)) / len(flux)}


if __name__ == "__main__" and sys.argv[1] == "measure":
    print(json.dumps(measure()))
elif __name__ == "__main__":
    model = models.read(sys.argv[2])
    _, flux, ivar = synthetic.draw(np.random.default_rng(2), model, CHUNK, 100.0)
    write("-", model, flux, ivar, int(sys.argv[1]))
