"""What misfit components do to labels and their errors: tables for a mock run with known truth, and for MILES.

    python tests/study_components.py mock build/demo [K,K,...]       a finished `make demo`
    python tests/study_components.py miles build/real [K,K,...]      miles_spectra.fits, miles_stars.fits of `make real`

Scatter is half the 16-84 range of inferred minus reference, the pull width the same of that over the formal error (for
MILES: over the formal error alone, as no label errors are published). Mock: stars that no model was trained on, dwarfs
and giants, labels inside the training range, against the truth on the label scale. Where fewer than 20 have an S/N,
better spectra are given noise (*). A cell is scatter/pull/pull with the uncertainty of the label scale (the training
labels' errors times the root of the star's leverage, which no spectrum knows); the last line of each model is the pulls
of repeats: differences of pairs of spectra over the root of their summed variances. Not a test: it asserts nothing.
"""
import os
import sys
from dataclasses import replace
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from cannonkit import config, recipe, schema, stream  # noqa: E402
from cannonkit.bitmasks import SPECTRUM_UNUSABLE  # noqa: E402
from cannonkit.stages import censor, infer, train, vectorizer  # noqa: E402

NAMES = tuple(schema.LABELS)
MODELS = {"acgs": ("apogee", "galah"), "gcgs": ("galah", "galah"), "gcaa": ("galah", "apogee"),
          "acaa": ("apogee", "apogee")}
SNR = ((20, 45, 30), (60, 110, 80), (150, 300, 200))
CLIP = 6.0              # as cannon_components.yaml, for K = 0 too
FEW = 20                # stars; fewer of an S/N are made from better spectra


def read(path, columns=None):
    with stream.open_source(path) as source:
        return source.read(columns), source.extensions.get("WAVELENGTH"), source.extensions


def width(values):
    """Half the 16-84 range of each column; NaN left out."""
    low, high = np.nanpercentile(values, [15.8655, 84.1345], axis=0)
    return 0.5 * (high - low)


def ids_of(column):
    return np.char.strip(np.asarray(column).astype("S"))


def training_set(spectra, grid, rows, labels, errors, survey):
    """TrainingSet of the spectra that `rows` names, and their places; labels, errors (n_row, n_label)."""
    names = ids_of(spectra["id"])
    place = {name: k for k, name in enumerate(names)}
    at = np.array([place.get(name, -1) for name in ids_of(rows)])
    usable = (at >= 0) & np.isfinite(labels).all(axis=1)
    usable[usable] = (spectra["status"][at[usable]] & SPECTRUM_UNUSABLE) == 0
    at = at[usable]
    windows = recipe.read_linemask({"apogee": "linemask_apogee_dr16", "galah": "linemask_galah_dr3"}[survey], None)
    wavelength, medium = np.asarray(grid.data["wavelength"], float), str(grid.header["MEDIUM"])
    ids = names[at]
    return train.TrainingSet(
        flux=schema.native(spectra["flux"][at]), ivar=schema.native(spectra["ivar"][at]), labels=labels[usable],
        id=ids, star_id=ids, group=ids, wavelength=wavelength, segment=np.asarray(grid.data["segment"]), medium=medium,
        label_names=NAMES, label_units=tuple(schema.LABELS[n].unit for n in NAMES), survey=survey,
        censor=censor.censor_of(wavelength, medium, windows, {"alpha_fe": ("Si", "Mg", "Ti", "Ca")}, NAMES),
        label_errors=errors[usable]), at


def pulls_of_repeats(rows, star_id):
    """Widths of (l1 - l2) / sqrt(c1 + c2) over all pairs of spectra of one star."""
    labels, var = schema.label_array(rows, NAMES), np.diagonal(rows["cov"], axis1=1, axis2=2)
    found = []
    for name in np.unique(star_id):
        at = np.flatnonzero(star_id == name)
        for i, a in enumerate(at):
            found += [(labels[a] - labels[b]) / np.sqrt(var[a] + var[b]) for b in at[:i]]
    found = np.array(found)
    return width(np.concatenate([found, -found]))


def with_noise(spectra, use, snr, seed=1):
    """(flux, ivar) of spectra with noise added to that S/N."""
    rng = np.random.default_rng(seed)
    flux, ivar = schema.native(spectra["flux"][use]), schema.native(spectra["ivar"][use]).copy()
    ratio = np.maximum(spectra["snr_survey"][use] / snr, 1.0)[:, None] ** 2
    good = ivar > 0
    sigma = np.sqrt((ratio - 1.0) / np.where(good, ivar, 1.0))
    return (flux + sigma * rng.standard_normal(flux.shape) * good).astype(np.float32), (ivar / ratio).astype(np.float32)


def leverage(model, training, labels):
    """v'(V'V)^-1 v of stars, and what the components' effects on labels take, for errors alike in all stars."""
    v, own = (vectorizer.design_matrix(model.scaled(x), model.powers) for x in (training, labels))
    return np.einsum("ni,ij,nj->n", own, np.linalg.pinv(v.T @ v), own) + model.n_component / len(v)


def print_row(what, cells):
    print(f"  {what:<34}" + "".join(f"{c:>20}" for c in cells), flush=True)


def mock(run, numbers):
    run = Path(run)
    truth = read(run / "mock/truth.fits")[0]
    training = read(run / "training.fits")[0]
    training = training[training["selected"] != 0]
    rules = config.Train(scatter="reml", cross_validate=0, order=2)
    print("MOCK: scatter against the truth / pull / pull with the uncertainty of the label scale")
    for name, (survey, scale) in MODELS.items():
        spectra, grid, _ = read(run / f"{survey}_spectra.fits")
        repeats = read(run / f"{survey}_repeat_spectra.fits")[0]
        own = truth[(truth["survey"] == survey.encode()) & (truth["repeat"] == 0)]
        known = {n: k for k, n in enumerate(ids_of(own["id"]))}
        true = np.full((len(spectra), len(NAMES)), np.nan)
        second, plain = np.zeros(len(spectra), int), np.zeros(len(spectra), bool)
        for k, one in enumerate(ids_of(spectra["id"])):
            if one in known:
                row = own[known[one]]
                true[k] = [row[f"{scale}_{n}"] for n in NAMES]
                plain[k] = row["kind"] in (b"dwarf", b"giant")
                second[k] = (row["cluster"] == b"NGC 104") * (1 + row["second_generation"])
        noisy = schema.label_array(training, [f"{scale}_{n}" for n in NAMES])
        errors = schema.label_array(training, [f"{scale}_e_{n}" for n in NAMES])
        at_truth = {n: t for n, t in zip(ids_of(spectra["id"]), true, strict=True)}
        exact = np.array([at_truth.get(n, np.full(len(NAMES), np.nan)) for n in ids_of(training[f"{survey}_id"])])
        for kind, labels, error in (("exact", exact, np.zeros_like(exact)), ("noisy", noisy, errors)):
            data, at = training_set(spectra, grid, training[f"{survey}_id"], labels, error, survey)
            of_labels = width(noisy - exact) if kind == "noisy" else np.zeros(len(NAMES))
            held = np.ones(len(spectra), bool)
            held[at] = False
            low, high = np.percentile(data.labels, [1, 99], axis=0)
            inside = held & plain & ((true > low) & (true < high)).all(axis=1)
            print(f"\n{name} (spectra {survey}, labels {scale}), {kind} training labels, {len(at)} trained\n  {'':<34}"
                  + "".join(f"{n:>20}" for n in NAMES))
            for number in numbers:
                model, _, _ = train.train(data, replace(rules, components=str(number)))
                for least, most, snr in SNR:
                    use = inside & (spectra["snr_survey"] > least) & (spectra["snr_survey"] < most)
                    made = use.sum() < FEW
                    if made:
                        use = inside & (spectra["snr_survey"] > snr)
                    if use.sum() < FEW:
                        continue
                    given = with_noise(spectra, use, snr if made else np.inf)
                    found = infer.fit(model, *given, clip=CLIP)
                    away = schema.label_array(found, NAMES) - true[use]
                    sigma = np.sqrt(np.diagonal(found["cov"], axis1=1, axis2=2))
                    whole = np.hypot(sigma, of_labels * np.sqrt(leverage(model, data.labels, true[use]))[:, None])
                    print_row(f"K {model.n_component}, S/N {snr}{'*' if made else ''} ({use.sum()})",
                              [f"{a:.3g}/{b:.2f}/{c:.2f}" for a, b, c in zip(width(away), width(away / sigma),
                                                                            width(away / whole), strict=True)])
                again = infer.fit(model, schema.native(repeats["flux"]), schema.native(repeats["ivar"]), clip=CLIP)
                print_row(f"K {model.n_component}, repeats: pulls",
                          [f"{v:.2f}" for v in pulls_of_repeats(again, ids_of(repeats["star_id"]))])
                i = NAMES.index("fe_h")
                for group, shown in ((1, "first"), (2, "second")):
                    use = held & (second == group)
                    if use.sum() > 2:
                        found = infer.fit(model, *with_noise(spectra, use, np.inf), clip=CLIP)
                        mean = np.nanmean(found["fe_h"] - true[use, i])
                        formal = np.nanmedian(np.sqrt(found["cov"][:, i, i]))
                        print(f"  K {model.n_component}, NGC 104, {shown} generation ({use.sum()}): [Fe/H] {mean:+.3f} "
                              f"= {mean / formal:+.1f} formal errors of a star", flush=True)


def miles(run, numbers, seeds=5):
    run = Path(run)
    spectra, grid, _ = read(run / "miles_spectra.fits")
    stars = read(run / "miles_stars.fits")[0]
    stars = stars[stars["selected"] != 0]
    names, prefix = ("teff", "logg", "fe_h"), "miles_"
    labels = schema.label_array(stars, [f"{prefix}{n}" for n in names])
    place = {n: k for k, n in enumerate(ids_of(spectra["id"]))}
    at = np.array([place[n] for n in ids_of(stars[f"{prefix}id"])])
    ids = ids_of(stars[f"{prefix}id"])
    data = train.TrainingSet(
        flux=schema.native(spectra["flux"][at]), ivar=schema.native(spectra["ivar"][at]), labels=labels, id=ids,
        star_id=ids, group=ids_of(stars[f"{prefix}star_id"]), wavelength=np.asarray(grid.data["wavelength"], float),
        segment=np.asarray(grid.data["segment"]), medium=str(grid.header["MEDIUM"]), label_names=names,
        label_units=("K", "dex", "dex"))
    print(f"\nMILES, real: {len(at)} stars, 5 folds, mean and standard deviation over {seeds} seeds\n"
          f"  {'':<24}" + "".join(f"{f'{what} {n}':>20}" for what in ("scatter", "std", "pull") for n in names))
    for k in numbers:
        found = []
        for seed in range(1, seeds + 1):
            rules = config.Train(scatter="reml", cross_validate=5, seed=seed, components=str(k))
            model, _, _ = train.train(data, rules)
            rows = model.training
            away = schema.label_array(rows, [f"cv_{n}" for n in names]) - labels
            pull = away / np.sqrt(np.diagonal(rows["cv_cov"], axis1=1, axis2=2))
            found.append(np.concatenate([width(away), np.nanstd(away, axis=0), width(pull)]))
        mean, spread = np.mean(found, axis=0), np.std(found, axis=0, ddof=1)
        print(f"  K {k} ({model.n_component})".ljust(26)
              + "".join(f"{f'{m:.3g} +- {s:.2g}':>20}" for m, s in zip(mean, spread, strict=True)), flush=True)


if __name__ == "__main__":
    what, where = sys.argv[1:3]
    study, numbers = {"mock": (mock, "0,20"), "miles": (miles, "0,5,20,auto")}[what]
    study(where, (sys.argv[3] if len(sys.argv) > 3 else numbers).split(","))
