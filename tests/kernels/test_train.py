"""Kernels of training against a slow referee (scipy, one pixel at a time), and on degenerate pixels."""
import numba
import numpy as np
import pytest
from kernels.referee_train import fit_pixel, lasso, theta_at

from cannonkit import bitmasks
from cannonkit.kernels import dense, scatter
from cannonkit.kernels import train as kernel
from cannonkit.kernels.vectorizer import design_matrix
from cannonkit.stages.train import Problem, products_of
from cannonkit.stages.vectorizer import powers_of


class Case:
    """Synthetic spectra of a quadratic model: heteroscedastic noise, masked pixels, scatter s = s_rel sigma."""

    def __init__(self, rng, n_star=300, n_pix=12, n_label=3, s_rel=1.0, masked=0.1, snr=(30, 300), order=2):
        self.powers = powers_of(n_label, order)
        self.x = np.clip(0.3 * rng.normal(size=(n_star, n_label)), -1, 1)
        self.design = design_matrix(self.x, self.powers)
        self.products, self.pair_index = products_of(self.x, self.powers)
        self.theta = 0.05 * rng.normal(size=(n_pix, len(self.powers)))
        self.theta[:, 0] = 1.0
        sigma = (1 / rng.uniform(*snr, size=n_star))[:, None] * rng.uniform(0.7, 1.4, size=(n_star, n_pix))
        self.s = s_rel * np.median(sigma)
        noise = rng.normal(size=sigma.shape) * np.hypot(sigma, self.s)
        self.flux = (self.design @ self.theta.T + noise).astype("f4")
        self.ivar = (1 / sigma ** 2).astype("f4")
        self.ivar[rng.random(sigma.shape) < masked] = 0

    def fit(self, rule, **changes):
        return fit(rule, self.flux, self.ivar, self.design, self.products, self.pair_index, **changes)


def problem(rule, flux, ivar, design, products, pair_index, terms_on=None, **changes):
    terms_on = np.ones((flux.shape[1], design.shape[1]), np.uint8) if terms_on is None else terms_on
    return Problem(rule, flux, ivar, np.ones(flux.shape[1]), design, products, pair_index, terms_on, **changes)


def fit(*arguments, **changes):
    return problem(*arguments, **changes).fit()


def check(case, result, restricted=False):
    """Every pixel against the referee: objective 1e-9 relative, theta 1e-6, s2 1e-3 where not at the boundary."""
    theta, s2, status, n_good = result
    for p in range(len(s2)):
        ref_theta, ref_s2, ref_value = fit_pixel(case.flux[:, p], case.ivar[:, p], case.design, restricted)
        _, value, log_det = theta_at(case.flux[:, p], case.ivar[:, p], case.design, s2[p])
        value += log_det if restricted else 0.0
        assert abs(value - ref_value) <= 1e-9 * abs(ref_value), p
        assert n_good[p] == (case.ivar[:, p] > 0).sum()
        assert bool(status[p] & kernel.AT_ZERO) == (s2[p] == 0)
        assert status[p] & ~kernel.AT_ZERO == 0
        if ref_s2 > 1e-4 * np.median(1 / case.ivar[case.ivar[:, p] > 0, p]):
            assert abs(s2[p] - ref_s2) <= 1e-3 * ref_s2, p
        assert np.abs(theta[p] - ref_theta).max() <= 1e-6, p


@pytest.mark.parametrize("s_rel", [0.0, 0.02, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("rule", [kernel.ML, kernel.REML])
def test_agrees_with_the_referee(rng, s_rel, rule):
    case = Case(rng, s_rel=s_rel)
    result = case.fit(rule)
    check(case, result, rule == kernel.REML)
    if s_rel == 0.0:
        assert 0 < (result[1] == 0).sum() < len(result[1])   # the case has pixels on both sides


def test_finds_the_lower_of_two_minima(rng):
    """Overestimated errors of many precise stars and outliers among the rest: s2 = 0 and a positive s2 compete."""
    for n_outlier, wins_zero in ((3, True), (60, False)):
        case = Case(rng, n_star=200, n_pix=6, n_label=1, s_rel=0.0, masked=0.0, snr=(50, 60))
        case.flux = (case.design @ case.theta.T + 1e-5 * rng.normal(size=case.flux.shape)).astype("f4")
        case.ivar[:] = 1e8
        case.ivar[:n_outlier] = 1e3
        case.flux[:n_outlier] += (0.5 * rng.choice([-1, 1], size=(n_outlier, 6))).astype("f4")
        result = case.fit(kernel.ML)
        check(case, result)
        assert ((result[1] == 0) == wins_zero).all()


@pytest.mark.parametrize("n_star, snr", [(11, (5, 500)), (20, (1, 1000)), (60, (5, 500)), (400, (5, 500))])
def test_global_minimum_of_wild_data(rng, n_star, snr):
    """Errors that differ by a factor of a hundred or more, outliers, few stars: several minima are common."""
    case = Case(rng, n_star=n_star, n_pix=24, n_label=2)
    sigma = 1 / np.exp(rng.uniform(*np.log(snr), size=(n_star, 1))) * np.ones((n_star, 24))
    outlier = 0.3 * (rng.random(sigma.shape) < 0.05) * rng.normal(size=sigma.shape)
    width = np.hypot(sigma, rng.choice([0, 0.3, 3], size=24) * np.median(sigma)) * rng.choice([0.3, 1, 3], size=24)
    case.flux = (case.design @ case.theta.T + outlier + width * rng.normal(size=sigma.shape)).astype("f4")
    case.ivar = np.where(rng.random(sigma.shape) < 0.05, 0, 1 / sigma ** 2).astype("f4")
    for rule in (kernel.ML, kernel.REML):
        _, s2, status, _ = case.fit(rule)
        for p in np.flatnonzero(status & kernel.UNUSABLE == 0):
            assert status[p] & ~kernel.AT_ZERO == 0
            _, _, expected = fit_pixel(case.flux[:, p], case.ivar[:, p], case.design, rule == kernel.REML)
            _, value, log_det = theta_at(case.flux[:, p], case.ivar[:, p], case.design, s2[p])
            assert value + (log_det if rule == kernel.REML else 0) <= expected + 1e-9 * abs(expected) + 1e-9


def test_dependent_terms_give_the_referees_flux(rng):
    case = Case(rng, n_label=2)
    case.x[:, 1] = 0.4 * case.x[:, 0] ** 2 + 0.1                        # x_1 is a quadratic of x_0
    case.design = design_matrix(case.x, case.powers)
    case.products, case.pair_index = products_of(case.x, case.powers)
    case.flux = (case.design @ case.theta.T + 0.01 * rng.normal(size=case.flux.shape)).astype("f4")
    theta, s2, status, _ = case.fit(kernel.ML)
    assert (status & kernel.SINGULAR != 0).all()
    for p in range(len(s2)):
        ref_theta, ref_s2, _ = fit_pixel(case.flux[:, p], case.ivar[:, p], case.design)
        assert np.abs(case.design @ (theta[p] - ref_theta)).max() < 1e-6
        assert abs(s2[p] - ref_s2) <= 1e-3 * ref_s2 + 1e-9
    assert np.abs(theta).max() < 10                                     # minimum norm: nothing cancels


@pytest.mark.parametrize("order, n_label", [(1, 6), (3, 2)])
def test_linear_and_cubic_models_agree_with_the_referee(rng, order, n_label):
    case = Case(rng, n_label=n_label, order=order)
    check(case, case.fit(kernel.ML))


@pytest.mark.parametrize("width", [0.3, 0.1, 0.03])
def test_nearly_dependent_terms_agree_with_the_referee(rng, width):
    """Pivots (down to width^4) from above to below what float32 sums can carry (kernel.QUICK): the same minimum."""
    case = Case(rng, n_label=2, n_star=400)
    case.x[:, 1] = 0.5 * case.x[:, 0] + width * rng.normal(size=400)
    case.design = design_matrix(case.x, case.powers)
    case.products, case.pair_index = products_of(case.x, case.powers)
    theta, s2, status, _ = case.fit(kernel.ML)
    assert (status == 0).all()
    for p in range(len(s2)):
        ref_theta, ref_s2, ref_value = fit_pixel(case.flux[:, p], case.ivar[:, p], case.design)
        _, value, _ = theta_at(case.flux[:, p], case.ivar[:, p], case.design, s2[p])
        assert abs(value - ref_value) <= 1e-9 * abs(ref_value)
        assert np.abs(case.design @ (theta[p] - ref_theta)).max() < 1e-6
        assert abs(s2[p] - ref_s2) <= 1e-3 * ref_s2


def test_terms_that_are_off_are_zero_and_not_fitted(rng):
    case = Case(rng)
    terms_on = np.ones((len(case.theta), len(case.powers)), np.uint8)
    terms_on[::2, case.powers[:, 1] > 0] = 0
    theta, s2, _, _ = case.fit(kernel.ML, terms_on=terms_on)
    assert (theta[terms_on == 0] == 0).all()
    for p in range(len(s2)):
        on = terms_on[p] != 0
        ref_theta, ref_s2, _ = fit_pixel(case.flux[:, p], case.ivar[:, p], case.design[:, on])
        assert np.abs(theta[p, on] - ref_theta).max() < 1e-6
        assert abs(s2[p] - ref_s2) < 1e-3 * ref_s2


def test_fixed_none_and_median(rng):
    case = Case(rng, s_rel=2.0)
    theta, s2, status, _ = case.fit(kernel.NONE)
    assert (s2 == 0).all() and (status == 0).all()
    for p in range(len(s2)):
        assert np.abs(theta[p] - theta_at(case.flux[:, p], case.ivar[:, p], case.design, 0.0)[0]).max() < 1e-6
    given = np.full(len(s2), 3e-4)
    given[2] = np.inf
    fixed = case.fit(kernel.FIXED, s2_given=given)
    assert (fixed[1] == given).all() and fixed[2][2] == kernel.TOO_FEW_STARS and (fixed[0][2] == 0).all()
    assert np.abs(fixed[0][0] - theta_at(case.flux[:, 0], case.ivar[:, 0], case.design, 3e-4)[0]).max() < 1e-6
    median = case.fit(kernel.MEDIAN)
    assert (median[0] == theta).all()
    for p in range(len(s2)):
        residual = case.flux[:, p] - case.design @ theta[p]
        chi2 = case.ivar[:, p] * residual ** 2 / (1 + case.ivar[:, p] * median[1][p])
        assert median[1][p] > 0 and abs(np.median(chi2) - 1) < 1e-6


def test_unusable_pixels(rng):
    case = Case(rng, n_star=40, n_pix=40)
    case.ivar[:, 3] = 0
    case.ivar[9:, 5] = 0
    case.flux[:, 7] = np.nan
    case.ivar[:, 8] = -1
    case.ivar[:, 9] = 0
    case.ivar[:10, 9] = 1e4                                        # as many stars as terms: an exact fit
    for rule in (kernel.ML, kernel.REML, kernel.MEDIAN, kernel.NONE):
        theta, s2, status, n_good = case.fit(rule)
        assert status[3] == status[7] == status[8] == kernel.ALL_MASKED and status[5] == kernel.TOO_FEW_STARS
        bad = [3, 5, 7, 8] + ([9] if rule == kernel.REML else [])
        assert np.isinf(s2[bad]).all() and (theta[bad] == 0).all()
        good = np.delete(np.arange(40), bad)
        assert np.isfinite(theta[good]).all() and np.isfinite(s2[good]).all()
        assert n_good[5] == 9 and n_good[3] == 0


def folds_of(case, rule, s2, fold):
    made = problem(rule, case.flux, case.ivar, case.design, case.products, case.pair_index)
    return made.fit_folds(fold, np.arange(fold.max() + 1), s2, likelihood=True)


@pytest.mark.parametrize("s_rel", [0.0, 1.0])
@pytest.mark.parametrize("rule", [kernel.ML, kernel.REML, kernel.MEDIAN, kernel.NONE])
def test_folds_equal_fits_without_the_fold(rng, rule, s_rel):
    case = Case(rng, s_rel=s_rel, n_pix=40)
    fold = rng.integers(5, size=len(case.x))
    theta, s2, _, like, count = folds_of(case, rule, case.fit(rule)[1], fold)
    expected = np.zeros(40)
    for k in range(5):
        kept = fold != k
        again = fit(rule, case.flux[kept], case.ivar[kept], case.design[kept], case.products[kept],
                    case.pair_index)
        assert np.abs(theta[k] - again[0]).max() < 1e-6
        # In a fold the trace of restricted likelihood is exact at the full fit's s2 and scaled from there.
        np.testing.assert_allclose(s2[k], again[1], rtol=1e-3 if rule == kernel.REML else 1e-5, atol=1e-8)
        w = case.ivar[~kept] / (1 + case.ivar[~kept].astype(float) * s2[k])
        terms = w * (case.flux[~kept] - case.design[~kept] @ theta[k].T) ** 2 - np.log(np.where(w > 0, w, 1))
        expected += terms.sum(axis=0)
    np.testing.assert_allclose(like, expected, rtol=1e-9)
    assert (count == (case.ivar > 0).sum(axis=0)).all()


def test_same_bits_for_any_number_of_threads(rng):
    case = Case(rng, n_pix=200)
    fold = rng.integers(4, size=len(case.x))
    before, results = numba.get_num_threads(), []
    try:
        for n in (1, 2, 4):
            numba.set_num_threads(n)
            full = case.fit(kernel.ML)
            results.append((*full, *folds_of(case, kernel.ML, full[1], fold)))
    finally:
        numba.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


def test_pixels_do_not_depend_on_their_neighbours_values(rng):
    """A pixel's answer changes in the last bits at most when another pixel of its block is masked."""
    case = Case(rng, n_pix=20)
    first = case.fit(kernel.ML)
    case.ivar[:, 4] = 0
    second = case.fit(kernel.ML)
    keep = np.arange(20) != 4
    np.testing.assert_allclose(first[0][keep], second[0][keep], rtol=0, atol=1e-9)


@pytest.mark.parametrize("weight", [0.3, 10.0, 3000.0])
def test_lasso_reaches_the_exact_minimum(rng, weight):
    case = Case(rng, n_pix=8, n_star=200)
    penalty = np.full(len(case.powers), weight)
    penalty[0] = 0
    free = np.full(len(penalty), np.inf)
    theta, s2, status, _ = case.fit(kernel.ML, penalty=penalty, low=-free, high=free)
    assert (status & ~kernel.AT_ZERO == 0).all()
    for p in range(len(s2)):
        w = case.ivar[:, p] / (1 + case.ivar[:, p].astype(float) * s2[p])
        residual = case.flux[:, p] - case.design @ theta[p]
        value = np.sum(w * residual ** 2) + np.sum(penalty * np.abs(theta[p]))
        _, best = lasso(case.flux[:, p], case.ivar[:, p], case.design, s2[p], penalty)
        assert value <= best * (1 + 1e-8)
        slope = np.sum(w - w ** 2 * residual ** 2)                 # s2 is the minimum too
        assert s2[p] > 0 and abs(slope) < 1e-5 * np.sum(w)
        gradient = 2 * case.design.T @ (w * residual)
        assert np.abs(gradient[theta[p] != 0] - (penalty * np.sign(theta[p]))[theta[p] != 0]).max() < 1e-4
        assert (np.abs(gradient[theta[p] == 0]) <= penalty[theta[p] == 0] + 1e-4).all()
    if weight == 3000.0:
        assert (theta == 0).mean() > 0.3                           # exact zeros


def test_bounds_hold_and_are_optimal(rng):
    case = Case(rng, n_pix=8)
    low, high = np.full(len(case.powers), -np.inf), np.full(len(case.powers), np.inf)
    low[1], high[1], high[2], low[3] = 0.0, 0.02, 0.0, 0.01
    theta, s2, _, _ = case.fit(kernel.ML, penalty=np.zeros(len(low)), low=low, high=high)
    assert (theta >= low).all() and (theta <= high).all()
    assert (theta[:, 1] == 0).any() or (theta[:, 1] == 0.02).any()
    for p in range(len(s2)):
        w = case.ivar[:, p] / (1 + case.ivar[:, p].astype(float) * s2[p])
        value = np.sum(w * (case.flux[:, p] - case.design @ theta[p]) ** 2)
        _, best = lasso(case.flux[:, p], case.ivar[:, p], case.design, s2[p], np.zeros(len(low)), low, high)
        assert value <= best * (1 + 1e-8)


def test_slope_against_differences(rng):
    ivar = rng.uniform(0, 1e4, size=50).astype("f4")
    ivar[:5] = 0
    residual = rng.normal(size=50) * 0.02
    for s2 in (1e-5, 1e-3):
        f, slope, _, _ = scatter.moments(ivar, residual, s2)
        h = 1e-4 * s2
        up, down = scatter.objective(ivar, residual, s2 + h), scatter.objective(ivar, residual, s2 - h)
        assert abs(f - (up - down) / (2 * h)) < 1e-4 * abs(f) + 1e-6
        up, down = scatter.moments(ivar, residual, s2 + h)[0], scatter.moments(ivar, residual, s2 - h)[0]
        assert abs(slope - (up - down) / (2 * h)) < 1e-4 * abs(slope)


def test_factor_and_solve(rng):
    a = rng.normal(size=(30, 6))
    matrix = a.T @ a
    active = np.array([1, 1, 0, 1, 1, 1], np.uint8)
    factor, scale, out = np.empty((6, 6)), np.empty(6), np.empty(6)
    right = rng.normal(size=6)
    assert dense.factorise(matrix, active, factor, scale) == 0
    dense.solve(0, factor, scale, right, out)
    on = active != 0
    np.testing.assert_allclose(out[on], np.linalg.solve(matrix[np.ix_(on, on)], right[on]), rtol=1e-10)
    assert out[2] == 0
    assert dense.log_determinant(0, factor, scale) == pytest.approx(np.linalg.slogdet(matrix[np.ix_(on, on)])[1])
    other = np.where(np.outer(on, on), a.T @ (a * rng.random((30, 1))), 0)
    expected = np.trace(np.linalg.solve(matrix[np.ix_(on, on)], other[np.ix_(on, on)]))
    assert dense.trace_of_ratio(0, factor, scale, other) == pytest.approx(expected)
    a[:, 4] = 2 * a[:, 0] - a[:, 1]
    assert dense.factorise(a.T @ a, active, factor, scale) == 1
    y = rng.normal(size=30)
    dense.solve(1, factor, scale, a.T @ y, out)
    expected = np.linalg.lstsq(a[:, on], y, rcond=None)[0]
    np.testing.assert_allclose(a @ out, a[:, on] @ expected, atol=1e-9)


def test_status_numbers_are_those_of_bitmasks():
    for name in ("AT_ZERO", "TOO_FEW_STARS", "ALL_MASKED", "SINGULAR", "ITERATION_LIMIT"):
        assert getattr(kernel, name) == bitmasks.PIXEL_STATUS.mask(name)
    assert kernel.UNUSABLE == bitmasks.PIXEL_UNUSABLE
