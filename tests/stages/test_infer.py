"""Labels of spectra: against scipy, pulls of simulated spectra, bad input, and bits that never change."""
from dataclasses import replace

import numba
import numpy as np
import pytest
import synthetic
from scipy import optimize, stats

from cannonkit.bitmasks import FIT_FAILED, FIT_STATUS, SPECTRUM_STATUS
from cannonkit.errors import DataError, SettingError
from cannonkit.stages import infer, vectorizer
from cannonkit.stages.residuals import Residuals

SOLVERS = ("sums", "pixels")


def referee(model, flux, ivar, start, free=None, prior=None):
    """scipy with tight tolerances: (labels, covariance, chi2) of one star, float64 throughout.

    free: labels that move (all); prior: {label: (mean, sigma)}. The covariance is from differences of the model.
    """
    names, free = model.label_names, np.arange(model.n_label) if free is None else np.array(free)
    good = model.usable & np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
    root = np.sqrt(1 / (1 / ivar[good].astype(float) + model.s2[good]))
    whole = model.scaled(start)[0]

    def residual(x):
        full = whole.copy()
        full[free] = x
        data = root * (flux[good] - vectorizer.design_matrix(full, model.powers)[0] @ model.theta[good].T)
        labels = full * model.scale + model.pivot
        more = [(labels[names.index(n)] - mean) / sigma for n, (mean, sigma) in (prior or {}).items()]
        return np.r_[data, more]

    def jacobian(x):
        full = whole.copy()
        full[free] = x
        slope = -root[:, None] * (model.theta[good] @ vectorizer.gradient(full, model.powers)[0][:, free])
        more = [(np.arange(model.n_label) == names.index(n))[free] * model.scale[free] / sigma
                for n, (mean, sigma) in (prior or {}).items()]
        return np.r_[slope, np.array(more).reshape(-1, len(free))]

    found = optimize.least_squares(residual, whole[free], jacobian, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15,
                                   max_nfev=2000)
    whole[free] = found.x
    cov = np.linalg.inv(jacobian(found.x).T @ jacobian(found.x)) * np.outer(model.scale[free], model.scale[free])
    return whole * model.scale + model.pivot, cov, float((residual(found.x)[:good.sum()] ** 2).sum())


# --- the answer -----------------------------------------------------------------------------------

@pytest.mark.parametrize("solver", SOLVERS)
def test_against_scipy(rng, solver):
    """The promise: labels to 1e-3 of an error bar, covariance to 1e-3, chi2 to 0.1; faint (S/N 5), very bright
    (S/N 2,000), half-masked stars and stars outside of the training set. Scipy starts where we ended, so a worse
    minimum would pass here; the search for the lowest is tested below. (2,000 stars in the benchmarks.)"""
    model = synthetic.make_model(rng, n_pix=800, n_label=6)
    n = 80
    snr = np.r_[np.full(20, 5.0), np.full(20, 2000.0), rng.uniform(20, 200, n - 40)]
    spread = np.where(np.arange(n) % 4 == 0, 2.5, 1.0)[:, None]
    labels = synthetic.CENTRE[:6] + spread * synthetic.SPREAD[:6] * rng.normal(size=(n, 6))
    _, flux, ivar = synthetic.draw(rng, model, n, snr, labels=labels)
    ivar[10:30, 1::2] = 0
    found = infer.fit(model, flux, ivar, solver=solver)
    assert (found["status"] & FIT_STATUS.OUTSIDE_TRAINING != 0).sum() > 10
    assert (found["status"] & (FIT_FAILED | FIT_STATUS.ITERATION_LIMIT) == 0).all()
    for m, row in enumerate(found):
        own = np.array([row[name] for name in model.label_names])
        exact, cov, chi2 = referee(model, flux[m], ivar[m], own)
        error = np.sqrt(np.diag(cov))
        assert (np.abs(own - exact) < 1e-4 * error).all()              # ten times better than promised
        assert np.abs((row["cov"] - cov) / np.outer(error, error)).max() < 1e-4
        assert row["chi2"] == pytest.approx(chi2, abs=0.01)
        np.testing.assert_allclose([row[f"e_{n}"] for n in model.label_names], error, rtol=1e-4)
        good = model.usable & (ivar[m] > 0)
        assert row["n_pix_used"] == good.sum() and row["r_chi2"] == pytest.approx(chi2 / (good.sum() - 6), rel=1e-4)
        f, v = flux[m][good].astype(float), ivar[m][good].astype(float)
        assert row["snr"] == pytest.approx(np.median(f * np.sqrt(v)), rel=1e-6)
        assert row["snr_cannon"] == pytest.approx(np.median(f / np.sqrt(1 / v + model.s2[good])), rel=1e-6)


def test_pulls_of_simulated_spectra(rng):
    """Widths 1.00 +- 0.03 for every label, and Mahalanobis distances that follow chi2 with 6 degrees of freedom;
    20,000 spectra, so that the widths are known to 0.005."""
    model = synthetic.make_model(rng, n_pix=300, n_label=6, scatter=0.005)
    fitter = infer.prepare(model)
    pulls, distance, chi2 = [], [], []
    for _ in range(10):
        labels, flux, ivar = synthetic.draw(rng, model, 2000, rng.uniform(80, 200, 2000), spread=0.7)
        found = fitter.fit(flux, ivar)
        off = synthetic.labels_of(found, model) - labels
        pulls.append(off / synthetic.errors_of(found, model))
        distance.append(np.einsum("ni,nij,nj->n", off, np.linalg.inv(found["cov"]), off))
        chi2.append(found["r_chi2"])
    pulls, distance = np.concatenate(pulls), np.concatenate(distance)
    assert np.abs(pulls.std(axis=0) - 1).max() < 0.03 and np.abs(pulls.mean(axis=0)).max() < 0.1
    assert distance.mean() == pytest.approx(6, rel=0.03)
    assert stats.kstest(distance, stats.chi2(6).cdf).statistic < 0.02
    assert np.mean(chi2) == pytest.approx(1, abs=0.01)


def test_scaled_covariance(rng):
    model = synthetic.make_model(rng)
    _, flux, ivar = synthetic.draw(rng, model, 5)
    plain, scaled = infer.fit(model, flux, ivar), infer.fit(model, flux, ivar, scaled_covariance=True)
    np.testing.assert_allclose(plain["cov"], scaled["cov"] * np.outer(model.scale, model.scale), rtol=1e-12)
    np.testing.assert_allclose(plain["e_teff"], scaled["e_teff"] * model.scale[0], rtol=1e-12)
    np.testing.assert_array_equal(plain["teff"], scaled["teff"])


def test_ivar_scale_of_the_model_is_applied(rng):
    model = synthetic.make_model(rng, scatter=0.0)
    _, flux, ivar = synthetic.draw(rng, model, 5)
    four = infer.fit(replace(model, ivar_scale=np.full(model.n_pix, 4.0)), flux, ivar)
    one = infer.fit(model, flux, ivar)
    np.testing.assert_allclose(four["chi2"], 4 * one["chi2"], rtol=1e-5)
    np.testing.assert_allclose(four["e_teff"], one["e_teff"] / 2, rtol=1e-5)
    np.testing.assert_allclose(four["snr"], 2 * one["snr"], rtol=1e-6)


# --- starts and minima ----------------------------------------------------------------------------

def two_minima(x, ratio):
    """One label, flux 1 + a x + b x^2 with a / b about `ratio`: the minima are at x and near -ratio - x."""
    rng = np.random.default_rng(3)
    model = synthetic.make_model(rng, n_pix=300, n_label=1, unusable=0)
    line = rng.random(300) ** 4
    model.theta[:] = np.c_[np.ones(300), 0.2 * ratio * line * rng.uniform(0, 2, 300), 0.2 * line]
    model.s2[:] = 0
    labels = model.pivot + model.scale * np.array(x)[:, None]
    return model, labels, *synthetic.draw(rng, model, len(x), 500.0, labels=labels)[1:]


@pytest.mark.parametrize("solver", SOLVERS)
def test_second_minimum_is_reported(solver):
    model, labels, flux, ivar = two_minima([0.4, -0.45, 0.3], 0.1)
    found = infer.fit(model, flux, ivar, starts=20, solver=solver)
    np.testing.assert_allclose(found["teff"], labels[:, 0], atol=5 * found["e_teff"].max())
    assert (found["status"] & FIT_STATUS.SECOND_MINIMUM != 0).all() and (found["second_delta_chi2"] > 10).all()
    for m in range(3):
        other, _, chi2 = referee(model, flux[m], ivar[m], [found["second_teff"][m]])
        assert found["second_teff"][m] == pytest.approx(other[0], abs=0.01 * found["e_teff"][m])
        assert found["second_delta_chi2"][m] == pytest.approx(chi2 - found["chi2"][m], abs=0.1)
        assert abs(other[0] - found["teff"][m]) > 100 * found["e_teff"][m]


def test_a_lower_minimum_outside_of_the_training_range_does_not_win():
    """The truth, at x = 1, has the lower chi2; the other minimum, near -0.5, lies among the training stars."""
    model, labels, flux, ivar = two_minima([1.0], -0.5)
    assert model.training_labels.max() < labels[0, 0] - 0.1 * model.scale[0]
    found = infer.fit(model, flux, ivar, starts=20, margin=0.0)
    assert found["teff"][0] < model.pivot[0] and found["second_delta_chi2"][0] < -10
    assert found["second_teff"][0] == pytest.approx(labels[0, 0], abs=5 * found["e_teff"][0])
    wide = infer.fit(model, flux, ivar, starts=20, margin=1.0)
    assert wide["teff"][0] == pytest.approx(labels[0, 0], abs=5 * found["e_teff"][0])
    assert wide["second_delta_chi2"][0] == pytest.approx(-found["second_delta_chi2"][0], rel=1e-4)


def test_starts_find_what_fifty_starts_find(rng):
    """The pivot and the linear solution already find nearly every star's lowest chi2 in the range."""
    model = synthetic.make_model(rng, n_pix=300, n_label=4, curvature=0.8)
    _, flux, ivar = synthetic.draw(rng, model, 400, 50.0)
    few, many = infer.fit(model, flux, ivar), infer.fit(model, flux, ivar, starts=50)
    moved = np.abs(synthetic.labels_of(few, model) - synthetic.labels_of(many, model)) > synthetic.errors_of(few, model)
    missed = moved.any(axis=1)
    assert missed.mean() < 0.02
    assert (many["chi2"] <= few["chi2"] + 1e-3)[(few["status"] & FIT_STATUS.OUTSIDE_TRAINING) == 0].all()
    # a star that had two minima in sight says so
    assert (many["status"][missed] & FIT_STATUS.SECOND_MINIMUM != 0).all()


def test_seeded_starts(rng):
    model = synthetic.make_model(rng)
    one, same, other = (infer.prepare(model, starts=5, seed=s).starts for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any() and len(one) == 7
    assert all((np.abs(model.scaled(model.training_labels) - x).sum(axis=1) < 1e-12).any() for x in one[2:])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_star_that_starts_at_its_solution_is_a_solution(rng, solver):
    model = synthetic.make_model(rng)
    flux = model.predict(model.pivot)
    flux[:, ~model.usable] = 1
    row = infer.fit(model, flux, np.full(flux.shape, 1e4), solver=solver)[0]
    assert row["status"] == 0 and row["chi2"] == pytest.approx(0, abs=1e-4)
    for i, name in enumerate(model.label_names):
        assert row[name] == pytest.approx(model.pivot[i], abs=1e-3 * row[f"e_{name}"])


def test_iteration_limit(rng):
    model = synthetic.make_model(rng)
    _, flux, ivar = synthetic.draw(rng, model, 3, 500.0)
    found = infer.fit(model, flux, ivar, max_iter=1)
    assert (found["status"] & FIT_STATUS.ITERATION_LIMIT != 0).all() and np.isfinite(found["teff"]).all()


# --- held labels, priors --------------------------------------------------------------------------

@pytest.mark.parametrize("solver", SOLVERS)
def test_labels_held_fixed(rng, solver):
    model = synthetic.make_model(rng)
    labels, flux, ivar = synthetic.draw(rng, model, 6)
    values = labels[:, [2, 0]] + [0.05, 30.0]                # fe_h and teff, off the truth
    values[5, 0] = np.nan
    fitter = infer.prepare(model, fixed=("fe_h", "teff"), solver=solver)
    assert fitter.fixed_names == ("teff", "fe_h")
    found = fitter.fit(flux, ivar, fixed=values[:, ::-1])
    for m in range(5):
        start = [values[m, 1], labels[m, 1], values[m, 0]]
        exact, cov, chi2 = referee(model, flux[m], ivar[m], start, free=[1])
        assert found["teff"][m] == pytest.approx(values[m, 1]) and found["fe_h"][m] == pytest.approx(values[m, 0])
        assert found["logg"][m] == pytest.approx(exact[1], abs=1e-4 * found["e_logg"][m])
        assert found["cov"][m, 1, 1] == pytest.approx(cov[0, 0], rel=1e-4) and found["e_teff"][m] == 0
        assert found["chi2"][m] == pytest.approx(chi2, abs=0.01)
        assert found["r_chi2"][m] == pytest.approx(chi2 / (found["n_pix_used"][m] - 1), rel=1e-4)
    assert found["status"][5] == FIT_STATUS.NO_FIXED_VALUE and np.isnan(found["logg"][5])


@pytest.mark.parametrize("solver", SOLVERS)
def test_prior(rng, solver):
    model = synthetic.make_model(rng)
    _, flux, ivar = synthetic.draw(rng, model, 4, 20.0)
    free = infer.fit(model, flux, ivar, solver=solver)
    prior = {"logg": (3.4, float(free["e_logg"].mean()))}
    found = infer.fit(model, flux, ivar, prior=prior, solver=solver)
    for m in range(4):
        own = [found[n][m] for n in model.label_names]
        exact, cov, chi2 = referee(model, flux[m], ivar[m], own, prior=prior)
        np.testing.assert_allclose(own, exact, atol=1e-4 * np.sqrt(np.diag(cov)).min())
        np.testing.assert_allclose(found["cov"][m], cov, rtol=1e-3, atol=1e-6)
        assert found["chi2"][m] == pytest.approx(chi2, abs=0.01)       # without the prior's own term
    assert (found["e_logg"] < free["e_logg"]).all() and (found["chi2"] >= free["chi2"] - 1e-3).all()


# --- bad pixels, bad stars ------------------------------------------------------------------------

BAD_IVAR = (np.nan, np.inf, -np.inf, -1.0, 1e-39, 1e38)


@pytest.mark.parametrize("solver", SOLVERS)
def test_bad_pixels_are_masked_and_counted(rng, solver):
    """The same labels as if ivar were 0 there, for every kind of bad number in flux and ivar."""
    model = synthetic.make_model(rng, unusable=0.0)
    _, flux, ivar = synthetic.draw(rng, model, 10, masked=0.0)
    clean_flux, clean_ivar = flux.copy(), ivar.copy()
    clean_ivar[:, 5:5 + len(BAD_IVAR) + 3] = 0
    for k, value in enumerate(BAD_IVAR):
        ivar[:, 5 + k] = value
    flux[:, 5 + len(BAD_IVAR)], flux[:, 6 + len(BAD_IVAR)] = np.nan, -np.inf
    ivar[:, 7 + len(BAD_IVAR)], flux[:, 7 + len(BAD_IVAR)] = 0, np.nan          # a mask: not counted
    found, clean = (infer.fit(model, f, i, solver=solver) for f, i in ((flux, ivar), (clean_flux, clean_ivar)))
    assert (found["n_pix_bad"] == len(BAD_IVAR) + 2).all() and (clean["n_pix_bad"] == 0).all()
    assert (found["status"] == clean["status"] | FIT_STATUS.BAD_PIXELS_MASKED).all()
    for name in found.dtype.names:
        if name not in ("n_pix_bad", "status"):
            np.testing.assert_array_equal(found[name], clean[name], err_msg=name)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_bad_star_never_touches_another(rng, solver):
    """Rows 3, 64 and 70 hold anything at all; every other row keeps every bit."""
    model = synthetic.make_model(rng, n_pix=1200)
    _, flux, ivar = synthetic.draw(rng, model, 100)
    fitter = infer.prepare(model, solver=solver)
    before = fitter.fit(flux, ivar)
    others = np.setdiff1d(np.arange(100), [3, 64, 70])
    for value_f, value_i in ((np.nan, 1.0), (1.0, np.nan), (np.inf, np.inf), (1e7, 1e14), (-1e7, 1e-38), (1, 0)):
        flux[[3, 64, 70]], ivar[[3, 64, 70]] = value_f, value_i
        with np.errstate(all="raise"):
            after = fitter.fit(flux, ivar)
        assert (before[others] == after[others]).all() or before[others].tobytes() == after[others].tobytes()
        assert before[others].tobytes() == after[others].tobytes()


@pytest.mark.parametrize("solver", SOLVERS)
def test_too_few_pixels(rng, solver):
    model = synthetic.make_model(rng, unusable=0.0)
    _, flux, ivar = synthetic.draw(rng, model, 5, masked=0.0)
    strong = np.argsort(-np.abs(model.theta[:, 1:4]).min(axis=1))
    for m, n_good in enumerate((0, 1, 2, 3, 10)):
        ivar[m, strong[n_good:]] = 0
    found = infer.fit(model, flux, ivar, solver=solver)
    assert list(found["n_pix_used"]) == [0, 1, 2, 3, 10]
    few = FIT_STATUS.TOO_FEW_PIXELS
    assert list(found["status"][:4]) == [few | FIT_STATUS.NO_SPECTRUM, few, few, few]
    assert np.isnan(found["snr"][0]) and found["snr"][1] > 0
    for name in ("teff", "e_teff", "cov", "chi2", "r_chi2"):
        assert np.isnan(found[name][:4]).all() and np.isfinite(found[name][4]).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_label_that_cannot_be_measured_is_singular(rng, solver):
    model = synthetic.make_model(rng)
    model.theta[:, np.asarray(model.powers)[:, 1] > 0] = 0
    _, flux, ivar = synthetic.draw(rng, model, 3)
    found = infer.fit(model, flux, ivar, solver=solver)
    assert (found["status"] == FIT_STATUS.SINGULAR).all() and np.isnan(synthetic.labels_of(found, model)).all()
    held = infer.prepare(model, fixed=("logg",), solver=solver).fit(flux, ivar, fixed=np.full((3, 1), 3.0))
    assert (held["status"] & FIT_FAILED == 0).all() and np.isfinite(held["teff"]).all()


def test_status_of_the_training_range(rng):
    model = synthetic.make_model(rng)
    training = model.training_labels
    labels = np.array([model.pivot, model.pivot, model.pivot])
    labels[1, 0] = (model.high[0] + training[:, 0].max()) / 2
    labels[2, 0] = training[:, 0].max() + model.scale[0] / 4
    _, flux, ivar = synthetic.draw(rng, model, 3, 1000.0, labels=labels)
    status = infer.fit(model, flux, ivar)["status"]
    assert list(status) == [0, FIT_STATUS.AT_EDGE, FIT_STATUS.AT_EDGE | FIT_STATUS.OUTSIDE_TRAINING]


def test_unusable_spectra_are_not_tried(rng):
    model = synthetic.make_model(rng)
    _, flux, ivar = synthetic.draw(rng, model, 4)
    words = np.array([0, SPECTRUM_STATUS.MISSING_FILE, SPECTRUM_STATUS.MISSING_SEGMENT,
                      SPECTRUM_STATUS.BROKEN_FILE | SPECTRUM_STATUS.BAD_VALUES])
    found = infer.fit(model, flux, ivar, spectrum_status=words)
    assert list(np.isnan(found["teff"])) == [False, True, False, True]
    assert (found["status"][[1, 3]] == FIT_STATUS.NO_SPECTRUM).all()


# --- bits -----------------------------------------------------------------------------------------

def as_rows(flux, ivar, odd):
    """Rows of a spectra table as they stand in a file; `odd` bytes before them put the numbers anywhere."""
    rows = np.zeros(len(flux), [("id", f"S{odd}"), ("status", ">i4"), ("flux", ">f4", flux.shape[1]),
                                ("ivar", ">f4", flux.shape[1])])
    rows["flux"], rows["ivar"] = flux, ivar
    return rows


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_same_bits_for_any_cut_threads_and_bytes(rng, solver):
    """Threads 1, 2 and 4; chunks of 1 to 300 rows; shards that start at multiples of 64; big-endian rows of odd
    length, swapped and native arrays: every result row keeps every bit. More than one tile of pixels."""
    model = synthetic.make_model(rng, n_pix=1300)
    _, flux, ivar = synthetic.draw(rng, model, 300, rng.uniform(5, 500, 300))
    fitter = infer.prepare(model, starts=2, solver=solver)
    whole = fitter.fit(flux, ivar).tobytes()

    def cut(sizes, first=0):
        parts = []
        for size in sizes:
            parts.append(fitter.fit(flux[first:first + size], ivar[first:first + size], first_row=first).tobytes())
            first += size
        return b"".join(parts)

    for threads in (1, 2, 4):
        numba.set_num_threads(threads)
        try:
            assert fitter.fit(flux, ivar).tobytes() == whole
        finally:
            numba.set_num_threads(4)
    for sizes in ([1] * 70 + [230], [64] * 5, [63, 2, 235], [128, 172], [299, 1]):
        assert cut([min(s, 300) for s in sizes]) == whole, sizes
    size = len(whole) // 300
    assert cut([108], first=192) == whole[192 * size:]
    assert fitter.fit_rows(as_rows(flux, ivar, 5)).tobytes() == whole
    assert fitter.fit_rows(as_rows(flux, ivar, 8)[64:], first_row=64).tobytes() == whole[64 * size:]
    assert fitter.fit(flux.astype(">f4"), ivar.astype(">f4")).tobytes() == whole
    assert fitter.fit(flux.astype("f8"), ivar.astype("f8")).tobytes() == whole
    assert fitter.fit(np.asfortranarray(flux), ivar[:, ::1]).tobytes() == whole
    assert infer.prepare(model, starts=2, solver=solver).fit(flux, ivar).tobytes() == whole


def test_chunks_can_be_fitted_together(rng):
    """Several begun before the first is asked for, asked for in another order, by two models: the same rows."""
    fitters = [infer.prepare(synthetic.make_model(rng, n_pix=500, n_label=n)) for n in (3, 2)]
    _, flux, ivar = synthetic.draw(rng, fitters[0].model, 300)
    rows = as_rows(flux, ivar, 4)
    parts = [(0, 100), (100, 228), (228, 300)]
    begun = [(fitter, a, b, fitter.start_rows(rows[a:b], a)) for a, b in parts for fitter in fitters]
    for fitter, a, b, finish in reversed(begun):
        assert finish().tobytes() == fitter.fit(flux, ivar)[a:b].tobytes()


def test_no_stars(rng):
    model = synthetic.make_model(rng)
    empty = np.empty((0, model.n_pix), np.float32)
    assert len(infer.fit(model, empty, empty)) == 0


# --- what is refused ------------------------------------------------------------------------------

def test_refused(rng):
    model = synthetic.make_model(rng)
    _, flux, ivar = synthetic.draw(rng, model, 3)
    with pytest.raises(DataError, match="shape .* the model has 400 pixels"):
        infer.fit(model, flux[:, 1:], ivar[:, 1:])
    with pytest.raises(DataError, match="no label 'tef'.*teff"):
        infer.fit(model, flux, ivar, prior={"tef": (5000, 100)})
    with pytest.raises(SettingError, match="sigma 0"):
        infer.fit(model, flux, ivar, prior={"teff": (5000, 0)})
    with pytest.raises(DataError, match="every label is fixed"):
        infer.prepare(model, fixed=model.label_names)
    with pytest.raises(DataError, match="solver 'fast'"):
        infer.prepare(model, solver="fast")
    rows = as_rows(flux, ivar, 4)
    with pytest.raises(DataError, match="'ivar'"):
        infer.prepare(model).fit_rows(rows[["id", "flux"]])
    with pytest.raises(DataError, match="do not vary in logg"):
        infer.prepare(replace(model, high=np.where([0, 1, 0], model.low, model.high)))
    broken = replace(model, theta=model.theta.copy())
    broken.theta[np.flatnonzero(model.usable)[0], 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        infer.prepare(broken)


def test_grids(rng):
    model = synthetic.make_model(rng)
    grid = model.wavelength
    infer.check_grid(grid, "vacuum", model)
    infer.check_grid(grid + 0.001, "vacuum", model)                 # a two-hundredth of a pixel
    for other, medium in ((grid + 0.1, "vacuum"), (grid[::-1], "vacuum"), (grid[1:], "vacuum"), (grid, "air"),
                          (np.r_[grid[:-1], np.nan], "vacuum"), (grid[:0], "vacuum")):
        with pytest.raises(DataError, match="400 pixels from 15100.0000 to .* first step 0.2"):
            infer.check_grid(other, medium, model, "s.fits")


def test_residuals_of_a_perfect_model(rng):
    model = synthetic.make_model(rng)
    labels, flux, ivar = synthetic.draw(rng, model, 500, 100.0)
    residuals = Residuals(model)
    labels[7] = np.nan
    for at in range(0, 500, 130):
        residuals.add(flux[at:at + 130].astype(">f4"), ivar[at:at + 130], labels[at:at + 130])
    values = residuals.table_values()
    assert (values["n_star"][~model.usable] == 0).all() and np.isnan(values["median"][~model.usable]).all()
    used = model.usable
    assert (values["n_star"][used] > 440).all() and (values["n_star"][used] <= 499).all()
    width = (values["p84"] - values["p16"])[used] / 2
    np.testing.assert_allclose(width, np.sqrt(1e-4 + model.s2[used]), rtol=0.25)       # 4 sigma for 485 stars
    assert np.abs(values["median"][used]).max() < 0.003
