"""Normalisation kernels against NumPy: least squares, running percentile, running mean, failures."""
import numpy as np
import pytest

from cannonkit.kernels import normalise as kernel

WAVE = 5000.0 + 0.5 * np.arange(300)
SEGMENTS = np.array([[10, 140], [150, 290]])


def star(rng, n_star=4):
    curve = 50 + 20 * np.sin(WAVE / 40)
    flux = curve * (1 + 0.02 * rng.normal(size=(n_star, WAVE.size)))
    ivar = np.broadcast_to(1 / (0.02 * curve) ** 2, flux.shape) * rng.uniform(0.3, 1.0, flux.shape)
    ivar[rng.random(flux.shape) < 0.1] = 0
    flux[ivar == 0] = 1e20
    return flux, ivar


def smoothed(sigma):
    """Slow referee of the running median of the error."""
    out = np.empty(sigma.size)
    for i in range(sigma.size):
        window = np.sort(sigma[max(0, i - 12):i + 13])
        middle = window[window.size // 2]
        out[i] = middle if sigma[i] < 2 * middle else sigma[i]
    return out


@pytest.mark.parametrize("weighted", [True, False])
def test_fit_agrees_with_numpy_least_squares(weighted):
    rng = np.random.default_rng(5)
    flux, ivar = star(rng)
    ivar[1, 40:45] /= 100                              # errors ten times the others': they count as they are
    chosen = rng.random(WAVE.size) < 0.4
    basis = np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, WAVE.size), 3)
    expected_flux, expected_ivar = flux.copy(), ivar.copy()
    for m in range(len(flux)):
        for first, stop in SEGMENTS:
            p = first + np.flatnonzero(chosen[first:stop] & (ivar[m, first:stop] > 0))
            w = 1 / smoothed(1 / np.sqrt(ivar[m, p])) if weighted else np.ones(p.size)
            theta = np.linalg.lstsq(basis[p] * w[:, None], flux[m, p] * w, rcond=None)[0]
            c = basis[first:stop] @ theta
            good = (ivar[m, first:stop] > 0) & (c > 0)
            expected_flux[m, first:stop] = np.where(good, flux[m, first:stop] / c, 1)
            expected_ivar[m, first:stop] = np.where(good, ivar[m, first:stop] * c ** 2, 0)
    failed = np.full(4, 9)
    kernel.fit(flux, ivar, SEGMENTS, basis, chosen, 8, weighted, failed)
    assert (failed == 0).all() and (expected_ivar == 0).sum() > 50
    np.testing.assert_allclose(flux, expected_flux, rtol=1e-9)
    np.testing.assert_allclose(ivar, expected_ivar, rtol=1e-9)


def test_segments_that_cannot_be_fitted_are_masked_and_counted():
    rng = np.random.default_rng(6)
    flux, ivar = star(rng)
    basis = np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, WAVE.size), 2)
    ivar[0, 10:140] = 0                                # no data at all: masked, but nothing failed
    ivar[1, 10:135] = 0                                # five pixels: too few
    twice = np.concatenate([basis, basis[:, 1:2]], axis=1)
    failed = np.empty(4, np.int64)
    f, w = flux.copy(), ivar.copy()
    kernel.fit(f, w, SEGMENTS, basis, np.ones(WAVE.size, bool), 8, True, failed)
    assert failed.tolist() == [0, 1, 0, 0]
    assert (w[:2, 10:140] == 0).all() and (f[:2, 10:140] == 1).all() and (w[:, 150:290] > 0).any(axis=1).all()
    assert (w[2, 10:140] > 0).any()
    f, w = flux.copy(), ivar.copy()
    kernel.fit(f, w, SEGMENTS, twice, np.ones(WAVE.size, bool), 8, True, failed)
    assert failed.tolist() == [1, 2, 2, 2]             # the same basis function twice
    assert (w[:, 150:290] == 0).all()


def test_a_negative_continuum_is_masked():
    flux = np.linspace(-1, 3, WAVE.size)[None].copy()
    ivar, failed = np.ones_like(flux), np.empty(1, np.int64)
    basis = np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, WAVE.size), 1)
    kernel.fit(flux, ivar, np.array([[0, 300]]), basis, np.ones(300, bool), 4, True, failed)
    line = np.linspace(-1, 3, WAVE.size)
    assert (ivar[0, line < -1e-9] == 0).all() and (ivar[0, line > 1e-9] > 0).all()
    np.testing.assert_allclose(flux[0, line > 1e-6], 1, rtol=1e-7)


def test_running_mean_agrees_with_the_whole_sum():
    rng = np.random.default_rng(7)
    flux, ivar = star(rng, 2)
    expected = np.ones_like(flux)
    for m in range(2):
        for first, stop in SEGMENTS:
            good = ivar[m, first:stop] > 0
            x, f = WAVE[first:stop], flux[m, first:stop]
            for p in range(first, stop):
                g = np.exp(-0.5 * ((x - WAVE[p]) / 6.0) ** 2) * good
                if good[p - first]:
                    expected[m, p] = flux[m, p] / (g * np.where(good, f, 0)).sum() * g.sum()
    failed = np.empty(2, np.int64)
    kernel.running(flux, ivar, SEGMENTS, WAVE, np.ones(WAVE.size, bool), 6.0, 0.0, 1, False, failed)
    inside = np.zeros(WAVE.size, bool)
    inside[10:140] = inside[150:290] = True
    # nodes a tenth of sigma apart and 4 sigma of reach: 0.00125 sigma^2 C'' / C = 4e-4 for this curve
    np.testing.assert_allclose(flux[:, inside], expected[:, inside], rtol=6e-4)
    assert (failed == 0).all()


def test_running_percentile_agrees_with_numpy_at_its_nodes():
    rng = np.random.default_rng(8)
    flux, ivar = star(rng, 1)
    start = flux.copy()
    failed = np.empty(1, np.int64)
    width = 20.0
    kernel.running(flux, ivar, SEGMENTS[:1], WAVE, np.ones(WAVE.size, bool), width, 90.0, 1, True, failed)
    first, stop = SEGMENTS[0]
    span = WAVE[stop - 1] - WAVE[first]
    node = WAVE[first] + span * np.arange(int(np.ceil(span / 2.5)) + 1) / int(np.ceil(span / 2.5))
    good = np.flatnonzero(ivar[0] > 0)
    good = good[(good >= first) & (good < stop)]
    level = [np.percentile(start[0, good[np.abs(WAVE[good] - x) <= 10.0]], 90) for x in node]
    np.testing.assert_allclose(start[0, good] / flux[0, good], np.interp(WAVE[good], node, level), rtol=1e-9)


def test_a_wide_gap_takes_its_level_from_the_nearest_side():
    flux, ivar = np.full((1, 300), 4.0), np.ones((1, 300))
    ivar[0, 100:250] = 0
    flux[0, 250:] = 8.0
    failed = np.empty(1, np.int64)
    kernel.running(flux, ivar, np.array([[0, 300]]), WAVE, np.ones(300, bool), 4.0, 90.0, 1, True, failed)
    good = ivar[0] > 0
    assert good[:100].all() and good[250:].all()
    np.testing.assert_allclose(flux[0, good], 1.0)


def test_stars_do_not_touch_each_other():
    rng = np.random.default_rng(9)
    flux, ivar = star(rng)
    flux[2, ivar[2] > 0] = 1e300
    basis = np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, WAVE.size), 2)
    both, failed = [], np.empty(4, np.int64)
    for rows in (slice(0, 4), slice(0, 1)):
        f, w = flux[rows].copy(), ivar[rows].copy()
        kernel.fit(f, w, SEGMENTS, basis, np.ones(300, bool), 8, True, failed[rows])
        both.append((f[0], w[0]))
    np.testing.assert_array_equal(both[0][0], both[1][0])
    np.testing.assert_array_equal(both[0][1], both[1][1])
