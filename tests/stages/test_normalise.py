"""Normalisation on synthetic spectra: the continuum comes back, and a star's flux does not move with its
S/N."""
from pathlib import Path

import numpy as np
import pytest

from cannonkit import errors, recipe
from cannonkit.recipe_spectra import Normalise
from cannonkit.stages import normalise as stage
from cannonkit.stages import resample

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def apogee():
    """Plan of the APOGEE recipe, its continuum pixels included."""
    spectra = recipe.load_survey(str(CONFIGS / "apogee_dr16.yaml")).spectra
    pixels = recipe.read_continuum(str(CONFIGS / "apogee_continuum.csv"))
    return resample.prepare(spectra, [("vacuum", [p.wavelength for p in pixels])])


def lines(plan, rng, n_line=400):
    """A normalised spectrum with lines everywhere but at the continuum pixels."""
    spectrum = np.ones(plan.grid.wavelength.size)
    x = np.arange(spectrum.size)
    for centre, depth in zip(rng.uniform(0, x.size, n_line), rng.uniform(0.02, 0.4, n_line), strict=True):
        spectrum -= depth * np.exp(-0.5 * ((x - centre) / 2.5) ** 2)
    spectrum = np.maximum(spectrum, 0.1)
    spectrum[plan.continuum.chosen] = 1.0
    return spectrum


def continuum(plan):
    """A parabola in each detector, falling by a quarter over the band."""
    out = np.zeros(plan.grid.wavelength.size)
    for k, (first, stop) in enumerate(plan.continuum.segments):
        x = np.linspace(-1, 1, stop - first)
        out[first:stop] = 300.0 * (1 - 0.12 * k) * (1 - 0.1 * x - 0.05 * x * x)
    return out


def observe(curve, snr, rng, n_draw):
    """n_draw spectra with photon noise, and errors that follow the *noisy* counts as a survey's do."""
    gain = snr ** 2 / np.median(curve[curve > 0])
    counts = rng.poisson(np.broadcast_to(curve * gain, (n_draw, curve.size)).clip(0)).astype(float)
    sigma = np.sqrt(np.maximum(counts, 1))
    seen = curve > 0
    return counts / gain, np.where(seen, gain ** 2 / sigma ** 2, 0.0)


def test_the_continuum_comes_back_exactly_without_noise(apogee):
    rng = np.random.default_rng(1)
    truth, curve = lines(apogee, rng), continuum(apogee)
    flux, ivar = (truth * curve)[None].copy(), np.where(curve > 0, 4.0, 0.0)[None].copy()
    assert stage.normalise(flux, ivar, apogee.continuum)[0] == 0
    good = curve > 0
    # 2e-6: the kernel's parabola is one in ln(wavelength), the test's in pixels
    np.testing.assert_allclose(flux[0, good], truth[good], rtol=2e-6)
    np.testing.assert_allclose(ivar[0, good], 4.0 * curve[good] ** 2, rtol=1e-5)
    assert (ivar[0, ~good] == 0).all()


def mean_flux(plan, curve, snr, seed, n_draw=60):
    flux, ivar = observe(curve, snr, np.random.default_rng(seed), n_draw)
    stage.normalise(flux, ivar, plan.continuum)
    return flux[ivar > 0].mean()


def test_normalised_flux_does_not_move_with_snr(apogee):
    """S/N 20, 50 and 200: the means differ by less than 0.001 (their own error here: 0.0001)."""
    curve = lines(apogee, np.random.default_rng(2)) * continuum(apogee)
    means = [mean_flux(apogee, curve, snr, 3 + k) for k, snr in enumerate((20, 50, 200))]
    print("mean normalised flux at S/N 20, 50, 200:", *(f"{m:.5f}" for m in means))
    assert max(means) - min(means) < 0.001


def test_weights_from_raw_errors_would_move(apogee):
    """Why errors are smoothed: 1/sigma^2 of the noisy pixels themselves is off by 1/(S/N)^2."""
    curve = lines(apogee, np.random.default_rng(2)) * continuum(apogee)
    flux, ivar = observe(curve, 20, np.random.default_rng(3), 60)
    x = apogee.continuum.chosen & (curve > 0)
    first, stop = apogee.continuum.segments[0]
    p = first + np.flatnonzero(x[first:stop])
    fits = [np.polyval(np.polyfit(p - first, f[p], 2, w=np.sqrt(w[p])), p - first)
            for f, w in zip(flux, ivar, strict=True)]
    raw = np.mean(fits) / curve[p].mean()
    assert -0.0045 < raw - 1 < -0.001


@pytest.mark.parametrize("method, settings", [
    ("sincos", Normalise("sincos", order=3, width=1400.0)),
    ("gaussian", Normalise("gaussian", width=30.0, errors=True)),
])
def test_other_smooth_continua_do_not_move_either(apogee, method, settings):
    plan = apogee
    pixels = [("vacuum", plan.grid.wavelength[plan.continuum.chosen])]
    own = stage.prepare(settings, plan.grid.wavelength, plan.grid.segment, "vacuum", pixels)
    curve = lines(plan, np.random.default_rng(2)) * continuum(plan)
    means = []
    for k, snr in enumerate((20, 50, 200)):
        flux, ivar = observe(curve, snr, np.random.default_rng(30 + k), 40)
        failed = stage.normalise(flux, ivar, own)
        assert not failed.any()
        means.append(flux[ivar > 0].mean())
    assert max(means) - min(means) < 0.001


def test_the_running_percentile_moves_as_its_documentation_says():
    """Noise alone lies 1.28 sigma below its 90th percentile: 0.064 of the flux at S/N 20."""
    wave = 5000 + 0.1 * np.arange(4000)
    settings = Normalise("percentile", width=50.0, percentile=90.0)
    own = stage.prepare(settings, wave, np.zeros(4000, int), "air")
    means = []
    for snr in (20, 200):
        rng = np.random.default_rng(snr)
        flux, ivar = 1 + rng.normal(size=(20, 4000)) / snr, np.full((20, 4000), float(snr) ** 2)
        stage.normalise(flux, ivar, own)
        means.append(flux.mean())
    assert abs((1 / means[0] - 1 / means[1]) - 1.2816 * (1 / 20 - 1 / 200)) < 0.003


def test_pixels_are_the_nearest_of_the_grid_in_its_own_medium():
    wave = 6000 + 0.5 * np.arange(100)
    segment = np.zeros(100, int)
    segment[50:] = -1
    chosen = stage.choose_pixels(wave, segment, [6010.2, 6010.3, 6030.0, 5990.0, 6049.99], "air", "air")
    assert np.flatnonzero(chosen).tolist() == [20, 21]      # the others lie outside or where no detector is
    shifted = stage.choose_pixels(wave, segment, [6012.0], "vacuum", "air")
    assert np.flatnonzero(shifted).tolist() == [21]         # 6012.00 in vacuum is 6010.34 in air
    with pytest.raises(errors.DataError, match="none of 1 continuum wavelengths"):
        stage.choose_pixels(wave, segment, [7000.0], "air", "air")


def test_too_few_continuum_pixels_are_an_error_that_names_the_segment():
    wave = 6000 + 0.5 * np.arange(100)
    with pytest.raises(errors.DataError, match="segment 6000.0 to 6049.5 Angstrom has 3 continuum pixels"):
        stage.prepare(Normalise("polynomial", order=2), wave, np.zeros(100, int), "air",
                      [("air", [6001.0, 6002.0, 6003.0])])


def test_segment_ranges():
    assert stage.segment_ranges([-1, 0, 0, -1, 1, 1, 2]).tolist() == [[1, 3], [4, 6], [6, 7]]
    assert stage.segment_ranges([0, 0]).tolist() == [[0, 2]]
    assert stage.segment_ranges([-1]).tolist() == []


def test_finder_chooses_flat_pixels_near_the_top():
    """Pixels that depend on a label, or lie in a line, or scatter, are not continuum."""
    rng = np.random.default_rng(9)
    n_star, n_pix = 300, 400
    labels = rng.normal(size=(n_star, 2))
    kind = np.arange(n_pix) % 8                # 0 continuum; 1 a line; 2, 3 depend on a label; 4 scatters
    flux = np.ones((n_star, n_pix))
    flux[:, kind == 1] -= 0.05
    flux[:, kind == 2] += 0.05 * labels[:, :1]
    flux[:, kind == 3] += 0.05 * labels[:, 1:]
    flux[:, kind == 4] += 0.05 * rng.normal(size=(n_star, 50))
    flux[:, kind > 4] -= 0.1 + 0.1 * labels[:, :1] ** 2
    flux += 0.01 * rng.normal(size=flux.shape)
    ivar = np.full(flux.shape, 1e4)
    ivar[:, 16] = 0                                        # a continuum pixel without data
    labels[0, 0] = np.nan                                  # a star without a label is left out
    finder = stage.Finder(n_pix, 2)
    for part in np.array_split(np.arange(n_star), 7):
        finder.add(flux[part], ivar[part], labels[part])
    chosen, merit = finder.choose(np.zeros(n_pix, int), fraction=0.1, bins=5)
    assert finder.count.max() == n_star - 1
    assert chosen.sum() == 40 and (kind[chosen] == 0).all() and not chosen[16]
    assert np.isinf(merit[16]) and merit[kind == 2].min() > 3 * merit[(kind == 0) & np.isfinite(merit)].max()
    with pytest.raises(errors.DataError, match="no continuum pixel found"):
        stage.Finder(n_pix, 2).choose(np.zeros(n_pix, int))
