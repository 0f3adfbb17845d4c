"""Resampling kernels against slow referees: conservation, unit response, noise, masks, edges."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cannonkit.kernels import resample as kernel

RNG_SEED = 20220711


def run(method, start, step, flux, ivar, wavelength, low, high, scale="linear", factor=1.0, listed=None):
    """One star, one input, one piece through the kernel: (flux, ivar) on the output grid."""
    n = flux.size
    out_flux, out_ivar = np.empty((1, wavelength.size)), np.empty((1, wavelength.size))
    kernel.resample(np.array(flux, float)[None, None], np.array(ivar, float)[None, None], np.array([[n]]),
                    np.array([[kernel.SCALES[scale]]]), np.array([[float(start)]]), np.array([[float(step)]]),
                    np.array([float(factor)]),
                    np.zeros((0, 0, 0)) if listed is None else np.array(listed, float)[None, None],
                    np.array([[kernel.NOT_ALIGNED]]), kernel.METHODS[method], wavelength, low, high,
                    np.array([[0, wavelength.size]]), np.array([0]), out_flux, out_ivar)
    return out_flux[0], out_ivar[0]


def grid(start, step, n):
    i = np.arange(n)
    return start + step * i, start + step * (i - 0.5), start + step * (i + 0.5)


def referee(method, centre, edge, flux, ivar, wavelength, low, high):
    """The same sums, one output pixel at a time over all input pixels, with a matrix of weights."""
    out_flux, out_ivar = np.ones(wavelength.size), np.zeros(wavelength.size)
    step = centre[1] - centre[0]
    for p in range(wavelength.size):
        w = np.zeros(centre.size)
        if method == "flux":
            overlap = np.minimum(edge[1:], high[p]) - np.maximum(edge[:-1], low[p])
            w = np.maximum(0, overlap) / (high[p] - low[p])
            w[w < 1e-6] = 0
            if abs(w.sum() - 1) > 1e-5:
                continue
        else:
            x = (wavelength[p] - centre[0]) / step          # in pixels: these inputs have equal steps
            k = int(np.floor(x + 1e-9))
            t = x - k
            if abs(t) < 1e-6:
                taps = {k: 1.0}
            elif method == "linear":
                taps = {k: 1 - t, k + 1: t}
            elif method == "cubic":
                taps = {k - 1: -t * (t - 1) * (t - 2) / 6, k: (t + 1) * (t - 1) * (t - 2) / 2,
                        k + 1: -(t + 1) * t * (t - 2) / 2, k + 2: (t + 1) * t * (t - 1) / 6}
            else:
                taps = {k + a: np.sinc(t - a) * np.sinc((t - a) / 3) for a in range(-2, 4)}
                total = sum(taps.values())
                taps = {a: v / total for a, v in taps.items()}
            if min(taps) < 0 or max(taps) >= centre.size:
                continue
            for a, v in taps.items():
                w[a] = v
        used = w != 0
        if (ivar[used] == 0).any():
            continue
        out_flux[p] = (w * flux).sum() / w.sum()
        out_ivar[p] = w.sum() ** 2 / (w[used] ** 2 / ivar[used]).sum()
    return out_flux, out_ivar


@pytest.mark.parametrize("method", kernel.METHODS)
@pytest.mark.parametrize("out_step", [0.35, 0.8, 1.0, 2.7])
def test_agrees_with_the_referee(method, out_step):
    rng = np.random.default_rng(RNG_SEED)
    n = 120
    centre, low, high = grid(5000.0, 0.8, n)
    edge = np.append(low, high[-1])
    flux, ivar = rng.normal(1, 0.3, n), rng.uniform(1, 100, n)
    ivar[[0, 17, 60, 61]] = 0
    wave, lo, hi = grid(4990.03, out_step, int(115 / out_step))       # beyond both ends of the input
    expected = referee(method, centre, edge, flux, ivar, wave, lo, hi)
    found = run(method, 5000.0, 0.8, flux, ivar, wave, lo, hi)
    assert (expected[1] == 0).sum() > 5 and (expected[1] > 0).sum() > 20
    np.testing.assert_array_equal(found[1] > 0, expected[1] > 0)
    # 1e-9: Lagrange weights from wavelengths of 5000 lose a few digits against weights in pixels
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-8)


@settings(max_examples=60, deadline=None)
@given(start=st.floats(4000, 4010), step=st.floats(0.02, 2.0), ratio=st.floats(0.2, 5.0),
       shift=st.floats(-3, 3), seed=st.integers(0, 2 ** 32 - 1))
def test_rebinning_conserves_flux(start, step, ratio, shift, seed):
    """The integral over any run of output pixels is the integral over the same range of the input."""
    rng = np.random.default_rng(seed)
    n = 200
    flux = rng.normal(1, 1, n)
    centre, low, high = grid(start, step, n)
    m = max(3, int(150 / ratio))
    wave, lo, hi = grid(start + (20 + shift) * step, ratio * step, m)
    m = int((hi <= high[-1]).sum())
    wave, lo, hi = wave[:m], lo[:m], hi[:m]
    out, ivar = run("flux", start, step, flux, np.ones(n), wave, lo, hi)
    assert (ivar > 0).all()
    cumulative = np.concatenate([[0.0], np.cumsum(flux * step)])
    integral = np.interp(hi[-1], np.append(low, high[-1]), cumulative) \
        - np.interp(lo[0], np.append(low, high[-1]), cumulative)
    # overlaps below 1e-6 of a pixel are ignored: that is the tolerance, times the pixels
    assert abs((out * (hi - lo)).sum() - integral) < 3e-6 * step * (ratio + 1) * m


@pytest.mark.parametrize("method", kernel.METHODS)
def test_unit_response(method):
    """A flat spectrum stays flat at any phase; a straight line stays one with linear and cubic."""
    centre, _, _ = grid(5000.0, 0.05, 400)
    wave, lo, hi = grid(5002.013, 0.0537, 280)
    flat, ivar = run(method, 5000.0, 0.05, np.full(400, 0.7), np.ones(400), wave, lo, hi)
    assert (ivar > 0).all()
    np.testing.assert_allclose(flat, 0.7, rtol=1e-12)
    if method in ("linear", "cubic"):
        line, _ = run(method, 5000.0, 0.05, 0.1 * (centre - 5000), np.ones(400), wave, lo, hi)
        np.testing.assert_allclose(line, 0.1 * (wave - 5000), atol=1e-9)


def test_cubic_is_exact_for_cubics_on_uneven_pixels():
    rng = np.random.default_rng(RNG_SEED)
    centre = np.cumsum(rng.uniform(0.5, 1.5, 60))
    poly = np.polynomial.Polynomial([1.0, -0.2, 0.01, 0.0003])
    wave, lo, hi = grid(centre[3] + 0.1, 0.7, 60)
    out, ivar = run("cubic", 0, 0, poly(centre), np.ones(60), wave, lo, hi, scale="listed", listed=centre)
    good = ivar > 0
    assert good.sum() > 40
    np.testing.assert_allclose(out[good], poly(wave[good]), rtol=1e-10)


@pytest.mark.parametrize("method", kernel.METHODS)
@pytest.mark.parametrize("ratio", [0.6, 1.0, 1.9])
def test_ivar_against_500_noise_draws(method, ratio):
    """1 / ivar is the variance of the output over noise draws: 3 % in the mean over all pixels."""
    rng = np.random.default_rng(RNG_SEED)
    n = 200
    ivar = rng.uniform(20, 200, n)
    wave, lo, hi = grid(5000.33 + 6, 0.8 * ratio, int(180 / ratio))
    draws = [run(method, 5000.0, 0.8, 1 + rng.normal(size=n) / np.sqrt(ivar), ivar, wave, lo, hi)
             for _ in range(500)]
    good = draws[0][1] > 0
    assert good.sum() > 80
    ratio = np.var([d[0] for d in draws], axis=0)[good] * draws[0][1][good]
    # 500 draws give each pixel's variance to 6.3 %; neighbours are correlated, so take 2 pixels for 1
    assert abs(ratio.mean() - 1) < min(0.03, 4 * 0.063 / np.sqrt(good.sum() / 2))
    assert np.std(ratio) < 2 * 0.063


@pytest.mark.parametrize("method", kernel.METHODS)
def test_neighbour_correlation_against_noise(method):
    rng = np.random.default_rng(RNG_SEED)
    n = 60
    wave, lo, hi = grid(5006.8, 0.8, 40)                     # equal steps, half a pixel out of phase
    expected = np.empty(wave.size)
    kernel.neighbour_correlation(0, 5000.0, 0.8, n, kernel.METHODS[method], wave, lo, hi, expected)
    draws = np.array([run(method, 5000.0, 0.8, rng.normal(size=n), np.ones(n), wave, lo, hi)[0]
                      for _ in range(4000)])
    found = np.array([np.corrcoef(draws[:, p], draws[:, p + 1])[0, 1] for p in range(wave.size - 1)])
    good = np.isfinite(expected[:-1])
    assert good.sum() > 30 and np.isnan(expected[-1])
    assert np.abs(found - expected[:-1])[good].max() < 5 / np.sqrt(4000)
    # the numbers of the module's docstring
    stated = {"flux": 0.50, "linear": 0.50, "cubic": 0.38, "lanczos": 0.26}[method]
    assert abs(np.median(expected[:-1][good]) - stated) < 0.006


@pytest.mark.parametrize("method", kernel.METHODS)
def test_shift_invariance(method):
    """Both grids moved by the same wavelength: the same answer."""
    rng = np.random.default_rng(RNG_SEED)
    flux, ivar = rng.normal(1, 0.2, 300), rng.uniform(1, 9, 300)
    ivar[100:103] = 0
    results = []
    for move in (0.0, 512.0):                                  # a power of two: no rounding of the steps
        wave, lo, hi = grid(5010.7 + move, 0.3125, 250)
        results.append(run(method, 5000.0 + move, 0.25, flux, ivar, wave, lo, hi))
    np.testing.assert_array_equal(results[0][1] > 0, results[1][1] > 0)
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-8)


@pytest.mark.parametrize("method, reach", [("flux", 1), ("linear", 1), ("cubic", 2), ("lanczos", 3)])
def test_a_masked_pixel_poisons_only_what_it_touches(method, reach):
    rng = np.random.default_rng(RNG_SEED)
    flux = rng.normal(1, 0.2, 100)
    wave, lo, hi = grid(5008.3, 1.0, 80)
    whole = run(method, 5000.0, 1.0, flux, np.ones(100), wave, lo, hi)
    ivar = np.ones(100)
    ivar[50] = 0
    flux[50] = 1e30
    holed = run(method, 5000.0, 1.0, flux, ivar, wave, lo, hi)
    poisoned = np.flatnonzero((holed[1] == 0) & (whole[1] > 0))
    x = wave[poisoned] - 5050.0                              # distance from the masked pixel, in pixels
    assert poisoned.size == 2 * reach and np.abs(x).max() < reach
    kept = holed[1] > 0
    np.testing.assert_array_equal(holed[0][kept], whole[0][kept])
    np.testing.assert_array_equal(holed[1][kept], whole[1][kept])
    assert (holed[0][~kept] == 1).all()


def test_equal_grids_neither_smear_nor_poison():
    """An input on the output's own pixels passes unchanged, by every method, and by copying."""
    rng = np.random.default_rng(RNG_SEED)
    flux, ivar = rng.normal(1, 0.2, 100), rng.uniform(1, 9, 100)
    ivar[30] = 0
    for scale, start, step in (("linear", 4715.94, 0.046), ("log10", 4.179, 6e-6)):
        i = np.arange(100)
        parts = [start + step * (i + s) for s in (0, -0.5, 0.5)]
        wave, lo, hi = [10 ** p for p in parts] if scale == "log10" else parts
        for method in kernel.METHODS:
            out = run(method, start, step, flux, ivar, wave, lo, hi, scale=scale)
            np.testing.assert_array_equal(out[1] > 0, ivar > 0)
            good = ivar > 0
            np.testing.assert_allclose(out[0][good], flux[good], atol=1e-9)
            np.testing.assert_allclose(out[1][good], ivar[good], rtol=1e-9)


def test_factor_moves_wavelengths():
    wave, lo, hi = grid(5010.0, 0.5, 100)
    line = np.exp(-0.5 * ((np.arange(400) * 0.25 + 5000 - 5040.0) / 1.0) ** 2)
    out, ivar = run("flux", 5000.0, 0.25, 1 - 0.5 * line, np.ones(400), wave, lo, hi, factor=1 - 5.0 / 5040.0)
    assert abs(wave[np.argmin(out)] - 5035.0) < 0.3 and (ivar > 0).all()


def clean(flux, error, kind="sigma", bits=None, bad_bits=0, spike=np.inf, least=0.0):
    n = len(flux)
    flux = np.array(flux, float)[None, None]
    ivar, invalid = np.empty((1, 1, n)), np.empty(1, np.int64)
    kernel.clean(flux, np.array(error, float)[None, None],
                 np.zeros((0, 0, 0), np.int64) if bits is None else np.array(bits, np.int64)[None, None],
                 np.array([[n]]), kernel.ERROR_KINDS[kind], bad_bits, spike, 3.0, least, ivar, invalid)
    return flux[0, 0], ivar[0, 0], invalid[0]


def test_error_kinds():
    for kind, error in (("sigma", 0.5), ("ivar", 4.0), ("variance", 0.25), ("relative", 0.25)):
        flux, ivar, invalid = clean([2.0], [error], kind)
        assert (flux[0], ivar[0], invalid) == (2.0, 4.0, 0)
    assert clean([-2.0], [0.25], "relative")[1][0] == 4.0      # a negative flux has a positive error


@pytest.mark.parametrize("flux, error, invalid", [
    (np.nan, 0.1, 1), (np.inf, 0.1, 1), (-np.inf, 0.1, 1), (1.0, -0.1, 1), (np.nan, -0.1, 1),
    (1.0, 0.0, 0), (1.0, np.nan, 0), (1.0, np.inf, 0), (np.nan, np.nan, 0), (0.0, 0.0, 0)])
def test_bad_values_are_masked_and_only_wrong_ones_counted(flux, error, invalid):
    f, ivar, n = clean([1.0, flux, 1.0], [0.1, error, 0.1])
    assert np.isfinite(f).all() and ivar[1] == 0 and n == invalid
    np.testing.assert_allclose(ivar[[0, 2]], 100.0)


@pytest.mark.parametrize("error", [1e13, 1e-30, 1e38, 5e-324])
def test_extreme_errors_stay_finite(error):
    _, ivar, _ = clean([1.0, 1.0], [0.1, error])
    assert ivar[0] > 0 and ivar[1] >= 0 and not np.isnan(ivar).any()


def test_bits_spikes_and_absurd_errors():
    flux, error = np.ones(64), np.full(64, 0.1)
    flux[[10, 11]] = [1.49, 1.51]            # 1.2 + 3 sigma = 1.5
    error[20] = 0.001
    bits = np.zeros(64, int)
    bits[[30, 31]] = [1 << 12, 1 << 13]
    _, ivar, _ = clean(flux, error, bits=bits, bad_bits=1 << 12, spike=1.2, least=0.1)
    assert set(np.flatnonzero(ivar == 0)) == {11, 20, 30}


def finish(flux, ivar, dead=None, windows=(), doppler=np.nan, spike=np.inf, most=10.0):
    n_star, n_pix = np.shape(flux)
    out = np.empty((n_star, n_pix), np.float32), np.empty((n_star, n_pix), np.float32)
    snr, bad, good = np.empty(n_star), np.empty(n_star, np.int64), np.empty(n_star, np.int64)
    dead = np.zeros(n_pix, bool) if dead is None else dead
    kernel.finish(np.array(flux, float), np.array(ivar, float), dead,
                  5000.0 + np.arange(n_pix), np.array(windows, float).reshape(-1, 2),
                  np.full(n_star, doppler), spike, 3.0, most, *out, snr, bad, good)
    return *out, snr, bad, good


def test_finish_counts_measures_and_masks():
    flux, ivar = np.full((2, 10), 0.9), np.full((2, 10), 100.0)
    ivar[0, 3], ivar[0, 4] = 0, 1e-3          # the second: an error of 32
    ivar[1] = 0
    dead = np.zeros(10, bool)
    dead[9] = True
    f, w, snr, bad, good = finish(flux, ivar, dead)
    assert (bad.tolist(), good.tolist()) == ([2, 9], [7, 0])
    assert np.isclose(snr[0], 9.0) and np.isnan(snr[1])
    assert (f[w == 0] == 1).all() and (w[0, 9], w[0, 3], w[0, 4]) == (0, 0, 0)


def test_observed_windows_follow_the_star():
    flux, ivar = np.ones((1, 100)), np.ones((1, 100))
    _, w, *_ = finish(flux, ivar, windows=[(5030.5, 5033.5)], doppler=1.0 + 20.0 / 5030.0)
    assert set(np.flatnonzero(w[0] == 0)) == {11, 12, 13}
    _, w, *_ = finish(flux, ivar, windows=[(5030.5, 5033.5)], doppler=np.nan)
    assert (w > 0).all()


def test_answers_do_not_depend_on_the_other_stars():
    rng = np.random.default_rng(RNG_SEED)
    wave, lo, hi = grid(5002.0, 0.33, 100)
    flux, ivar = rng.normal(1, 0.1, (5, 1, 80)), rng.uniform(0, 9, (5, 1, 80))
    n_in = np.full((5, 1), 80)
    n_in[2] = 0

    def go(keep):
        k = len(keep)
        out = np.empty((k, 100)), np.empty((k, 100))
        kernel.resample(flux[keep], ivar[keep], n_in[keep], np.zeros((k, 1), np.int64),
                        np.full((k, 1), 5000.0), np.full((k, 1), 0.5), np.ones(k), np.zeros((0, 0, 0)),
                        np.full((k, 1), kernel.NOT_ALIGNED), 0, wave, lo, hi,
                        np.array([[0, 100]]), np.array([0]), *out)
        return out
    every = go([0, 1, 2, 3, 4])
    assert (every[1][2] == 0).all() and (every[0][2] == 1).all()
    for star in (0, 1, 3, 4):
        alone = go([star])
        np.testing.assert_array_equal(alone[0][0], every[0][star])
        np.testing.assert_array_equal(alone[1][0], every[1][star])


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 999, 1000])
def test_median(n):
    rng = np.random.default_rng(n)
    for values in (rng.normal(50, 5, n), rng.normal(0, 1, n) ** 9, np.full(n, 3.0), rng.integers(0, 3, n) * 1.0,
                   np.where(rng.random(n) < 0.1, 1e12, rng.normal(size=n))):
        found = kernel.median(values, n, np.empty(max(n, 1)))
        assert np.isnan(found) if n == 0 else found == np.median(values)
