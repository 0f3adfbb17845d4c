"""Factors, precision curves and final errors on simulated repeats whose errors are known."""
import math

import numpy as np
import pytest

from cannonkit.errors import DataError
from cannonkit.stages import error_model, errors, repeats


def star_names(size):
    return np.repeat(np.array([f"S{k:06d}".encode() for k in range(len(size))]), size)


def simulated(rng, size, factor, n_label=1, outliers=0.0):
    """(star_id, labels, formal variance) of groups of `size` spectra, with the given true factor; a share
    of the *pairs* of two is outlying (one of the spectra is off by a hundred sigma or so)."""
    star = star_names(size)
    variance = rng.uniform(0.5, 2.0, (len(star), n_label)) ** 2
    labels = rng.normal(size=(len(size), n_label))[np.repeat(np.arange(len(size)), size)] * 50
    labels = labels + factor * np.sqrt(variance) * rng.normal(size=variance.shape)
    first = np.cumsum(size) - size
    bad = first[rng.uniform(size=len(size)) < outliers]
    labels[bad] += factor * 15 * rng.normal(size=(len(bad), n_label))
    return star, labels, variance


def factor_of(star, labels, variance, weighting="group", seed=1, label=0):
    pairs = repeats.pairs_of(star, np.isfinite(labels).all(axis=1), weighting=weighting)
    return errors.factor(errors.of_pairs(labels, variance, pairs), label, 100, seed)


# --- groups and pairs ---------------------------------------------------------------------------------

def test_a_group_of_15_weighs_as_14_pairs():
    star = star_names(np.array([15, 2, 1, 3]))
    shuffled = np.random.default_rng(0).permutation(len(star))
    pairs = repeats.pairs_of(star[shuffled], np.ones(len(star), bool))
    assert pairs.size.tolist() == [15, 2, 3] and pairs.n_group == 3
    assert np.bincount(pairs.group).tolist() == [105, 1, 3]
    np.testing.assert_allclose(np.bincount(pairs.group, pairs.weight), [14, 1, 2], rtol=1e-12)
    assert np.all(star[shuffled][pairs.first] == star[shuffled][pairs.second])
    assert np.all(repeats.pairs_of(star, np.ones(len(star), bool), weighting="all").weight == 1)


def test_rows_that_are_not_good_and_blank_names_make_no_pairs():
    star = np.array([b"a", b"a ", b"b", b"b", b"", b"", b"a"], "S4")
    good = np.array([1, 1, 1, 0, 1, 1, 1], bool)
    pairs = repeats.pairs_of(star, good)
    assert sorted(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(0, 1), (0, 6), (1, 6)]
    assert len(repeats.pairs_of(star[:0], good[:0]).first) == 0


def test_a_stack_and_its_exposures_are_refused():
    star = star_names(np.array([2, 3, 2]))
    good = np.ones(7, bool)
    assert repeats.pairs_of(star, good, visit=np.zeros(7, int)).n_group == 3
    assert repeats.pairs_of(star, good, visit=np.array([0, 0, 1, 2, 3, 1, 2])).n_group == 3
    with pytest.raises(DataError, match="'S000001' has a combined spectrum .visit 0. and single visits"):
        repeats.pairs_of(star, good, visit=np.array([0, 0, 1, 0, 2, 1, 2]))


def test_best_spectrum_and_the_others():
    star = star_names(np.array([3, 1, 2, 2]))
    snr = np.array([10.0, 50, 20, 99, 7, 7, np.nan, 30])
    best, other, group = repeats.best_and_others(star, np.ones(8, bool), snr)
    found = set(zip(best.tolist(), other.tolist(), group.tolist(), strict=True))
    assert found == {(1, 0, 0), (1, 2, 0), (4, 5, 1)}


def test_kept_aside_keeps_stars_together_and_follows_the_name():
    star = star_names(np.full(4000, 2))
    aside = repeats.kept_aside(star, 0.3)
    assert np.all(aside[::2] == aside[1::2])
    assert abs(aside.mean() - 0.3) < 4 * math.sqrt(0.21 / 4000)
    some = np.random.default_rng(1).permutation(len(star))[:500]
    assert np.array_equal(repeats.kept_aside(star[some], 0.3), aside[some])
    assert not np.array_equal(repeats.kept_aside(star, 0.3, seed=1), aside)
    assert not repeats.kept_aside(star, 0.0).any()


# --- the factor -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("true", [1.0, 3.0, 8.0])
def test_factor_within_3_percent(true):
    rng = np.random.default_rng(int(10 * true))
    clean = factor_of(*simulated(rng, np.full(5000, 2), true))
    # 5,000 pairs: the standard deviation of f is 1.0 % (standard) and 1.4 % (robust).
    assert clean.standard == pytest.approx(true, rel=0.03)
    assert clean.robust == pytest.approx(true, rel=0.03)
    dirty = factor_of(*simulated(rng, np.full(5000, 2), true, outliers=0.03))
    assert dirty.robust == pytest.approx(true, rel=0.03)
    assert 90 <= dirty.n_outlier <= 160                     # 150 planted; a third of them lie within 5 sigma
    assert dirty.standard > 1.2 * true and clean.n_outlier < 15


def test_robust_factor_is_unbiased_by_outliers_of_any_kind():
    # The plain 16-84 width is 4 % too large with 3 % outliers; averaged over seeds the robust one is not.
    for width in (6, 15, 100):
        found = []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            z = rng.normal(size=5000)
            bad = rng.uniform(size=5000) < 0.03
            z[bad] *= width
            weight = np.ones(5000)
            core = errors.core_probability(z, weight)
            found.append([errors.symmetric_width(z, weight), errors.symmetric_width(z, weight * core)])
        plain, robust = np.mean(found, axis=0)
        # 12 seeds: 0.4 % of noise, and a Gaussian core of |z| < 4 hides a little of the outliers.
        assert abs(robust - 1) < 0.012 and plain > 1.03


def test_standard_factor_is_the_closed_form():
    rng = np.random.default_rng(5)
    star, labels, variance = simulated(rng, np.array([2, 2, 4, 3, 2]), 2.0)
    total = norm = 0.0
    for name in np.unique(star):
        rows = np.flatnonzero(star == name)
        for a in range(len(rows)):
            for b in range(a):
                i, j = rows[a], rows[b]
                square = (labels[i, 0] - labels[j, 0]) ** 2 / (variance[i, 0] + variance[j, 0])
                total += 2 / len(rows) * square
                norm += 2 / len(rows)
    found = factor_of(star, labels, variance)
    assert found.standard == pytest.approx(math.sqrt(total / norm), rel=1e-12)
    assert found.n_independent == pytest.approx(norm) == len(star) - 5
    assert found.n_pair == 1 + 1 + 6 + 3 + 1


def test_bootstrap_interval_covers_the_truth():
    # 200 seeds, 95.45 % expected: 180 to 198 is between four and two standard deviations wide.
    covered = np.zeros(2, int)
    for seed in range(200):
        rng = np.random.default_rng(20000 + seed)
        size = rng.integers(2, 6, 300)
        found = factor_of(*simulated(rng, size, 3.0), seed=seed)
        covered += [found.standard_lo <= 3.0 <= found.standard_hi, found.robust_lo <= 3.0 <= found.robust_hi]
    assert np.all((covered >= 180) & (covered <= 198)), covered


def test_pairs_of_large_groups_do_not_dominate():
    # One variable star with 15 spectra among 300 pairs: weight 14 of 314, not 105 of 405.
    rng = np.random.default_rng(6)
    size = np.append(15, np.full(300, 2))
    star, labels, variance = simulated(rng, size, 1.0)
    labels[:15] *= 3
    by_group, by_pair = (factor_of(star, labels, variance, w) for w in ("group", "all"))
    assert by_group.standard < by_pair.standard


def test_factor_against_a_reference():
    rng = np.random.default_rng(7)
    n = 5000
    variance = rng.uniform(0.5, 2, (n, 1)) ** 2
    reference = rng.normal(size=(n, 1)) * 100
    labels = reference + 5 + 3 * np.sqrt(variance) * rng.normal(size=(n, 1))
    exact = errors.of_reference(labels, variance, reference, np.zeros((n, 1)), np.ones(n, bool))
    found = errors.factor(exact, 0)
    assert found.offset == pytest.approx(5, abs=4 * 3 * 1.25 / math.sqrt(n) * 1.25)
    assert found.standard == pytest.approx(3, rel=0.04) and found.robust == pytest.approx(3, rel=0.05)
    # The paper's 84th minus 16th percentile, of the plain ratios, is 0.9945 of a Gaussian's two sigma.
    centred = errors.factor(exact._replace(value=exact.value - 5), 0)
    assert centred.plain / centred.robust == pytest.approx(0.9945, abs=0.006)
    assert found.robust_lo < 3 < found.robust_hi and found.n_pair == n
    # A noisy reference: its error is not put down to the formal errors.
    noise = np.full((n, 1), 4.0**2)
    noisy = reference + 4 * rng.normal(size=(n, 1))
    found = errors.factor(errors.of_reference(labels, variance, noisy, noise, np.ones(n, bool)), 0)
    assert found.robust == pytest.approx(3, rel=0.08) and found.standard == pytest.approx(3, rel=0.06)
    assert found.robust_error > 0.03
    # One that explains everything leaves nothing for f.
    explained = errors.of_reference(noisy, variance * 1e-9, reference, noise * 4, np.ones(n, bool))
    found = errors.factor(explained, 0)
    assert found.robust == 0


def test_nothing_to_measure_is_nan_not_an_error():
    star, labels, variance = simulated(np.random.default_rng(8), np.array([2, 2]), 1.0)
    variance[:] = 0
    found = factor_of(star, labels, variance)
    assert math.isnan(found.standard) and math.isnan(found.robust) and found.n_pair == 0
    single = factor_of(*simulated(np.random.default_rng(8), np.array([1, 1, 1]), 1.0))
    assert math.isnan(single.robust) and single.n_group == 0


# --- precision ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("a, b, c", [(120.0, 25.0, 30.0), (0.5, 60.0, 0.02), (0.0, 1.0, 0.05)])
def test_exponential_fit_finds_the_curve(a, b, c):
    snr = np.linspace(12, 250, 20)
    width = a * np.exp(-snr / b) + c
    found = errors.fit_exponential(snr, width, 0.01 * width)
    np.testing.assert_allclose(found.at(snr), width, rtol=1e-5)
    if a > 0:
        assert found[:3] == pytest.approx((a, b, c), rel=1e-3)


def test_exponential_fit_is_bounded_and_the_best():
    from scipy.optimize import minimize

    rng = np.random.default_rng(9)
    snr = np.linspace(10, 150, 15)
    for trial in range(6):
        width = np.abs(rng.normal(size=15)) + (2 - trial) * np.exp(-snr / 40)
        width = np.abs(width)
        error = rng.uniform(0.1, 0.3, 15)
        found = errors.fit_exponential(snr, width, error)
        assert found.a >= 0 and found.b > 0 and found.c >= 0

        def chi2(p, width=width, error=error):
            return np.sum(((p[0] * np.exp(-(snr - 10) / p[1]) + p[2] - width) / error) ** 2)
        ours = chi2([found.a * math.exp(-10 / found.b), found.b, found.c])
        for start in (5.0, 20.0, 100.0, 900.0):
            other = minimize(chi2, [1.0, start, 0.5], method="L-BFGS-B",
                             bounds=[(0, None), (10, 1400), (0, None)])
            assert ours <= other.fun * (1 + 1e-6) + 1e-9


def test_precision_paper_is_inflated_and_unbiased_is_not():
    rng = np.random.default_rng(10)
    n = 20000
    snr = rng.uniform(10, 100, n)
    best = snr + rng.uniform(0, 60, n)
    true = errors.Curve(150.0, 25.0, 30.0)
    value = rng.normal(size=n) * np.hypot(true.at(snr), true.at(best))
    points, paper, unbiased = errors.precision(value, snr, best)
    assert len(points.snr) == 20 and points.count.sum() == n
    at = np.array([15.0, 30, 60, 95])
    # 1,000 differences a bin: 3 % each, 1.5 % of the fitted curve.
    np.testing.assert_allclose(unbiased.at(at), true.at(at), rtol=0.06)
    assert np.all(paper.at(at) > 1.05 * unbiased.at(at)) and np.all(paper.at(at) < 1.5 * unbiased.at(at))
    np.testing.assert_allclose(paper.at(95), math.sqrt(2) * true.at(95), rtol=0.1)


def test_precision_is_not_extrapolated():
    # A plateau beyond the last bin is not seen: c = 0 is the best fit, but better spectra get no smaller errors.
    rng = np.random.default_rng(17)
    snr = rng.uniform(10, 60, 8000)
    value = rng.normal(size=8000) * 200 / snr
    points, paper, _ = errors.precision(value, snr, np.full(8000, 1e4))
    assert paper.top == points.snr[-1] == pytest.approx(58.7, abs=1)
    falling = paper._replace(c=0.0)
    assert falling.at(1000) == falling.at(paper.top) > 0
    assert errors.final_error(np.array([[1e-3]]), [1000.0], [1.0], [falling])[0][0, 0] == falling.at(paper.top)
    assert paper.at(30) == pytest.approx(200 / 30, rel=0.1)


def test_unbiased_precision_against_a_reference_without_noise_is_the_papers():
    rng = np.random.default_rng(18)
    snr = rng.uniform(10, 100, 20000)
    value = rng.normal(size=20000) * (50 * np.exp(-snr / 30) + 20)
    _, paper, unbiased = errors.precision(value, snr, np.full(20000, np.inf))
    at = np.array([12.0, 40, 90])
    np.testing.assert_allclose(unbiased.at(at), paper.at(at), rtol=0.02)


def test_precision_of_too_few_spectra_is_not_measured():
    points, paper, unbiased = errors.precision(np.ones(5), np.arange(5.0), np.arange(5.0) + 1)
    assert len(points.snr) == 0 and math.isnan(paper.c) and math.isnan(unbiased.c)


# --- final errors -----------------------------------------------------------------------------------------

def test_final_error_is_the_larger_of_the_two():
    formal = np.array([[10.0, 0.1], [10.0, 0.1], [np.nan, 0.1], [10.0, np.nan]])
    snr = np.array([50.0, np.nan, 50.0, 50.0])
    curves = [errors.Curve(0.0, 1.0, 70.0), errors.NO_CURVE]
    error, by_precision = errors.final_error(formal, snr, [6.0, 2.0], curves)
    # Without S/N, or without a measured curve, the factor alone counts; a failed fit stays NaN.
    np.testing.assert_array_equal(error, [[70.0, 0.2], [60.0, 0.2], [np.nan, 0.2], [70.0, np.nan]])
    assert by_precision.tolist() == [[True, False], [False, False], [False, False], [True, False]]


def test_scaled_covariance_keeps_correlations():
    rng = np.random.default_rng(11)
    root = rng.normal(size=(5, 3, 3))
    cov = root @ root.transpose(0, 2, 1)
    formal = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    error = formal * rng.uniform(0.5, 8, (5, 3))
    scaled = errors.scaled_covariance(cov, formal, error)
    np.testing.assert_allclose(np.diagonal(scaled, axis1=1, axis2=2), error**2, rtol=1e-12)
    np.testing.assert_allclose(scaled[:, 0, 1] / (error[:, 0] * error[:, 1]),
                               cov[:, 0, 1] / (formal[:, 0] * formal[:, 1]), rtol=1e-10)
    assert np.linalg.eigvalsh(scaled).min() > 0
    formal[0, 1] = 0
    assert np.isnan(errors.scaled_covariance(cov, formal, error)[0, 1]).all()


def test_pull_bins():
    rng = np.random.default_rng(12)
    x = rng.uniform(size=3000)
    pull = rng.normal(size=3000) * (1 + x)
    bins = errors.pull_bins((pull, pull / (1 + x)), np.ones(3000), x, 10)
    assert len(bins) == 10 and sum(b.n_pair for b in bins) == 3000
    for b in bins:
        assert b.low <= b.centre <= b.high
        assert abs(b.widths[0] / (1 + b.centre) - 1) < 4 * b.error + 0.01
        assert abs(b.widths[1] - 1) < 4 * b.error


# --- the full model -----------------------------------------------------------------------------------------

AXES = ("snr", "teff", "logg", "fe_h")


def repeats_with_varying_factor(rng, n_star, true_factor, outliers=0.0):
    """Differences, x of each spectrum and of the two of each pair, where f depends on x."""
    size = rng.integers(2, 5, n_star)
    star = star_names(size)
    each = np.repeat(np.arange(n_star), size)
    n = len(star)
    x = np.stack([np.exp(rng.normal(4, 0.6, n)), rng.uniform(4000, 6500, n_star)[each],
                  rng.uniform(0.5, 4.8, n_star)[each], rng.normal(-0.2, 0.3, n_star)[each]], axis=1)
    formal = 30 / x[:, 0] * np.exp(rng.normal(0, 0.2, n))
    true = true_factor(x) * formal
    labels = true * rng.normal(size=n)
    bad = rng.uniform(size=n) < outliers / 2
    labels[bad] += 20 * true[bad] * rng.normal(size=bad.sum())
    pairs = repeats.pairs_of(star, np.ones(n, bool))
    d = errors.of_pairs(labels[:, None], formal[:, None] ** 2, pairs)
    return d, x, formal, true, pairs, star, labels


def test_full_model_gives_unit_pulls_in_every_bin():
    def true_factor(x):
        return 2 + 3 * ((x[:, 1] - 4000) / 2500) ** 2 * np.sqrt(x[:, 0] / 60)

    # Enough stars that noise is well below the bound: 3 % of the calibration's and 3 % of the judged in a bin.
    rng = np.random.default_rng(13)
    d, x, _, _, pairs, *_ = repeats_with_varying_factor(rng, 15000, true_factor, outliers=0.02)
    start = errors.factor(d, 0)
    model = error_model.fit(d, 0, x[pairs.first], x[pairs.second], AXES, start.robust)
    d, x, formal, true, pairs, star, labels = repeats_with_varying_factor(rng, 10000, true_factor)
    error = model.error(formal, x)
    assert np.mean(np.abs(np.log(error / true)) < 0.25) > 0.9
    best, other, _ = repeats.best_and_others(star, np.ones(len(x), bool), x[:, 0])
    _, curve, _ = errors.precision(labels[other] - labels[best], x[other, 0], x[best, 0])
    paper, _ = errors.final_error(formal[:, None], x[:, 0], [start.robust], [curve])
    pulls = [d.value[:, 0] / np.hypot(e[pairs.first], e[pairs.second])
             for e in (start.robust * formal, paper[:, 0], error)]
    print("\nsimulated repeats, 16-84 widths of pulls: factor alone, the paper's model, the full model")
    widths = []
    for j in range(4):
        lower = np.minimum(x[pairs.first, j], x[pairs.second, j])
        for b in errors.pull_bins(pulls, d.weight, lower, 10):
            assert b.n_pair >= 200
            print(f"{AXES[j]:>5} {b.centre:9.2f} {b.n_pair:5d}  " + "  ".join(f"{w:.2f}" for w in b.widths))
            assert abs(b.widths[2] - 1) < max(0.1, 3 * b.error), (AXES[j], b)
            widths.append(b.widths)
    worst = np.max(np.abs(np.array(widths) - 1), axis=0)
    assert worst[0] > 0.3 and worst[1] > 0.3                 # what one factor for all leaves, and the paper's model
    assert len(widths) == 40


def test_full_model_of_a_constant_factor_is_constant():
    rng = np.random.default_rng(14)
    d, x, formal, _, pairs, *_ = repeats_with_varying_factor(rng, 3000, lambda x: np.full(len(x), 4.0))
    model = error_model.fit(d, 0, x[pairs.first], x[pairs.second], AXES, errors.factor(d, 0).robust)
    assert np.percentile(np.abs(np.log(model.error(formal, x) / (4 * formal))), 95) < 0.15
    # Far outside, and with an unknown quantity, it stays what it is at the edge and on the whole.
    far = np.array([[1e6, 9e4, -50, 40], [np.nan, np.nan, np.nan, np.nan], [-1.0, 5000, 2, 0]])
    assert np.all(np.abs(model.log_scale(far)) < 0.3) and model.log_scale(far)[1] == 0
    assert np.isnan(model.error(np.array([np.nan]), far[:1]))


def test_full_model_falls_back_where_there_are_few_pairs():
    rng = np.random.default_rng(15)
    d, x, _, _, pairs, *_ = repeats_with_varying_factor(rng, 20, lambda x: np.full(len(x), 4.0))
    few = d.only(np.arange(len(d.value)) < 30)
    model = error_model.fit(few, 0, x[pairs.first][:30], x[pairs.second][:30], AXES, 4.0)
    assert model.functions == () and model.factor == 4.0
    d, x, _, _, pairs, *_ = repeats_with_varying_factor(rng, 60, lambda x: np.full(len(x), 4.0))
    model = error_model.fit(d, 0, x[pairs.first], x[pairs.second], AXES, 4.0)
    assert np.all(np.abs(model.log_scale(x)) < 0.8)          # shrunk: 60 stars cannot make a wild function


def test_full_model_has_a_floor_where_the_formal_error_vanishes():
    rng = np.random.default_rng(16)
    n = 6000
    star = star_names(np.full(n // 2, 2))
    snr = np.exp(rng.uniform(2.5, 6, n))
    formal = 300 / snr
    labels = np.hypot(2 * formal, 20.0) * rng.normal(size=n)
    pairs = repeats.pairs_of(star, np.ones(n, bool))
    d = errors.of_pairs(labels[:, None], formal[:, None] ** 2, pairs)
    x = snr[:, None]
    model = error_model.fit(d, 0, x[pairs.first], x[pairs.second], ("snr",), errors.factor(d, 0).robust,
                            errors.Curve(1.0, 30.0, 20.0))
    assert model.error(np.array([0.01]), np.array([[5000.0]]))[0] == pytest.approx(20, rel=0.25)
    assert model.error(np.array([20.0]), np.array([[15.0]]))[0] == pytest.approx(math.hypot(40, 20), rel=0.15)
