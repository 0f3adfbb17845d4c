"""The resampling stage: grids, policies, units of velocity and medium, statuses; a line stays where it is."""
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from cannonkit import errors, readers, recipe
from cannonkit.bitmasks import SPECTRUM_STATUS as STATUS
from cannonkit.recipe_spectra import Generic, Grid, Masks, MaskWindow, Normalise, Part, Spectra, Stretch, Velocity
from cannonkit.stages import resample, wavelength

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LIGHT = 299792.458
GRID = Grid((Stretch(5000.0, 0.25, 400), Stretch(6000.0, 0.25, 400)))


@dataclass
class Spectrum:
    """What a reader hands over."""

    flux: np.ndarray
    error: np.ndarray
    scale: str = "linear"
    start: float = 0.0
    step: float = 0.0
    listed: np.ndarray | None = None
    bits: np.ndarray | None = None


@dataclass
class Star:
    inputs: list
    status: int = 0
    doppler: float = np.nan
    velocity: float = np.nan
    messages: list = field(default_factory=list)


def two_cameras(**keywords):
    generic = Generic(flux=Part(0), error=Part(1), medium=keywords.pop("medium", "air"),
                      error_kind=keywords.pop("error_kind", "sigma"))
    return Spectra("generic", keywords.pop("grid", GRID), file="{id}{ccd}", cameras=("1", "2"), generic=generic,
                   **keywords)


def line_at(centre, start=4995.0, step=0.2, n=600, depth=0.6, width=0.6, sigma=0.01):
    x = start + step * np.arange(n)
    return Spectrum(1 - depth * np.exp(-0.5 * ((x - centre) / width) ** 2), np.full(n, sigma), "linear", start, step)


def centre_of(wave, flux):
    depth = 1 - flux
    return (wave * depth).sum() / depth.sum()


def run(plan, stars):
    return resample.resample(plan, resample.gather(plan, stars))


def test_common_grid_of_a_recipe():
    grid = resample.common_grid(recipe.load_survey(str(CONFIGS / "apogee_dr16.yaml")).spectra.grid)
    assert grid.wavelength.size == 8575 and grid.medium == "vacuum"
    np.testing.assert_allclose(grid.wavelength[[0, -1]], [15100.80, 16999.8], atol=0.01)
    counts = [(grid.segment == k).sum() for k in (-1, 0, 1, 2)]
    assert counts == [8575 - 7514, 3028, 2495, 1991]
    grid = resample.common_grid(recipe.load_survey(str(CONFIGS / "galah_dr3.yaml")).spectra.grid)
    assert grid.wavelength.size == 14304 and np.diff(grid.pieces, axis=1).ravel().tolist() == [3915, 3968, 3960, 2461]
    for (first, stop), ends in zip(grid.pieces, ((4715.94, 4895.984), (5650.06, 5868.245), (6480.52, 6733.896),
                                                 (7693.5, 7875.54)), strict=True):
        np.testing.assert_allclose(grid.wavelength[[first, stop - 1]], ends, atol=1e-6)
    assert np.all(grid.high > grid.low)


@pytest.mark.parametrize("method", ["flux", "linear", "cubic", "lanczos"])
def test_a_line_stays_where_it_is(method):
    plan = resample.prepare(two_cameras(method=method))
    out = run(plan, [Star([line_at(5040.03), line_at(6040.03, 5995.0)])])
    assert out.status[0] == 0
    for k, centre in enumerate((5040.03, 6040.03)):
        part = slice(*plan.grid.pieces[k])
        assert abs(centre_of(plan.grid.wavelength[part], out.flux[0, part]) - centre) < 1e-3
    assert out.snr[0] > 90 and out.n_bad[0] == 0


def test_velocity_is_taken_out():
    plan = resample.prepare(two_cameras(velocity=Velocity(column="rv")))
    stars = [Star([line_at(5040.0 * (1 + v / LIGHT)), line_at(6040.0 * (1 + v / LIGHT), 5985.0, n=800)], velocity=v)
             for v in (-60.0, 0.0, 120.0)]
    out = run(plan, [*stars, Star(stars[0].inputs), Star(stars[0].inputs, velocity=1e5)])
    assert out.status.tolist() == [0, 0, 0, STATUS.NO_VELOCITY, STATUS.NO_VELOCITY]
    part = slice(*plan.grid.pieces[0])
    for m in range(3):
        assert abs(centre_of(plan.grid.wavelength[part], out.flux[m, part]) - 5040.0) < 1e-3
    assert (out.ivar[3:] == 0).all() and np.isnan(out.snr[3:]).all()


@pytest.mark.parametrize("scale", ["linear", "log10", "listed"])
def test_air_becomes_vacuum(scale):
    plan = resample.prepare(two_cameras(grid=replace(GRID, medium="vacuum")))
    inputs = []
    for low, centre in ((4995.0, 5040.0), (5995.0, 6040.0)):
        n = 600
        x = low + 0.2 * np.arange(n) if scale != "log10" else 10 ** (np.log10(low) + 1.7e-5 * np.arange(n))
        flux = 1 - 0.6 * np.exp(-0.5 * ((x - centre) / 0.6) ** 2)
        start, step = {"linear": (low, 0.2), "log10": (np.log10(low), 1.7e-5), "listed": (0.0, 0.0)}[scale]
        inputs.append(Spectrum(flux, np.full(n, 0.01), scale, start, step, x if scale == "listed" else None))
    out = run(plan, [Star(inputs)])
    for k, centre in enumerate((5040.0, 6040.0)):
        part = slice(*plan.grid.pieces[k])
        found = centre_of(plan.grid.wavelength[part], out.flux[0, part])
        # 0.003 A: flux within an input pixel counts as even, which moves a centroid by a hundredth of a pixel
        assert abs(found - wavelength.air_to_vacuum(centre)) < 3e-3 and found - centre > 1.3


def test_missing_camera_rejects_or_keeps():
    star = Star([line_at(5040.0), None], status=STATUS.MISSING_SEGMENT)
    out = run(resample.prepare(two_cameras()), [star])
    assert out.status[0] == STATUS.MISSING_SEGMENT and (out.ivar == 0).all() and np.isnan(out.snr[0])
    out = run(resample.prepare(two_cameras(missing_segment="keep")), [star])
    assert out.status[0] == STATUS.MISSING_SEGMENT
    assert (out.ivar[0, :400] > 0).all() and (out.ivar[0, 400:] == 0).all() and out.n_bad[0] == 400


@pytest.mark.parametrize("bit", ["MISSING_FILE", "BROKEN_FILE", "WRONG_LAYOUT", "NO_PATH"])
def test_an_unusable_star_has_no_pixels_and_disturbs_no_other(bit):
    plan = resample.prepare(two_cameras(missing_segment="keep"))
    good = Star([line_at(5040.0), line_at(6040.0, 5995.0)])
    bad = Star([line_at(5040.0), None], status=STATUS.mask(bit))
    out, alone = run(plan, [bad, good, bad]), run(plan, [good])
    assert (out.ivar[[0, 2]] == 0).all() and (out.flux[[0, 2]] == 1).all()
    assert out.status.tolist() == [STATUS.mask(bit), 0, STATUS.mask(bit)]
    np.testing.assert_array_equal(out.flux[1], alone.flux[0])
    np.testing.assert_array_equal(out.ivar[1], alone.ivar[0])


def test_bad_values_are_masked_and_said():
    plan = resample.prepare(two_cameras(least_pixels=700))
    few, many = line_at(5040.0), line_at(5040.0)
    few.flux[100:105] = np.nan
    many.flux[100:200], many.error[300:310] = np.inf, -1.0
    other = line_at(6040.0, 5995.0)
    out = run(plan, [Star([few, other]), Star([many, other])])
    assert out.status.tolist() == [0, STATUS.BAD_VALUES]
    assert np.isfinite(out.flux).all() and np.isfinite(out.ivar).all()
    assert 4 <= out.n_bad[0] <= 8 and 90 <= out.n_bad[1] <= 100
    empty = line_at(5040.0)
    empty.error[:] = 0
    assert run(plan, [Star([empty, other])]).status.tolist() == [STATUS.TOO_FEW_PIXELS]


def test_survey_bits_by_name():
    spectra = recipe.load_survey(str(CONFIGS / "apogee_dr16.yaml")).spectra
    assert spectra.masks.bad_bits == 16639 | 1 << 12
    plan = resample.prepare(replace(spectra, normalise=Normalise()))
    bits = np.zeros(8575, int)
    bits[1000], bits[1001], bits[1002], bits[50] = 1 << 12, 1 << 13, 1 << 0, 1 << 0
    star = Star([Spectrum(np.ones(8575), np.full(8575, 0.1), "log10", 4.179, 6e-6, None, bits)])
    out = run(plan, [star])
    gaps = plan.grid.segment < 0
    assert set(np.flatnonzero((out.ivar[0] == 0) & ~gaps)) == {1000, 1002} and out.n_bad[0] == 2
    assert (out.ivar[0][gaps] == 0).all()
    np.testing.assert_allclose(out.ivar[0][1001], 100, rtol=1e-6)


def test_windows_at_rest_and_observed():
    windows = (MaskWindow(5020.0, 5021.0), MaskWindow(5050.0, 5051.0, "observed"))
    spectra = two_cameras(masks=Masks(windows=windows), velocity=Velocity(column="rv"))
    plan = resample.prepare(spectra)
    v = 100.0
    out = run(plan, [Star([line_at(5040.0), line_at(6040.0, 5985.0, n=800)], velocity=v)])
    masked = plan.grid.wavelength[(out.ivar[0] == 0)]
    rest, observed = masked[masked < 5030], masked[masked > 5030]
    assert rest.min() >= 5020 - 0.26 and rest.max() <= 5021 + 0.26 and rest.size >= 4
    assert observed.min() * (1 + v / LIGHT) >= 5050 and observed.max() * (1 + v / LIGHT) <= 5051
    assert 3 <= observed.size <= 5


def test_spikes_before_or_after_normalisation():
    spectrum = line_at(5040.0)
    spectrum.flux[300] = 3.0
    other = line_at(6040.0, 5995.0)
    for settings in (Normalise(), Normalise("gaussian", width=20.0)):
        plan = resample.prepare(two_cameras(masks=Masks(spike=1.2), normalise=settings))
        out = run(plan, [Star([spectrum, other])])
        hit = plan.grid.wavelength[(out.ivar[0] == 0) & (plan.grid.wavelength < 5090)]
        assert hit.size and np.abs(hit - 5055.0).max() < 0.5


def test_a_failed_segment_is_said_and_the_others_stay():
    settings = Normalise("polynomial", order=2, least=300)
    plan = resample.prepare(two_cameras(normalise=settings))
    broken = line_at(5040.0)
    broken.error[200:] = 0
    out = run(plan, [Star([broken, line_at(6040.0, 5995.0)])])
    assert out.status[0] == STATUS.NORMALISATION_FAILED
    assert (out.ivar[0, :400] == 0).all() and (out.ivar[0, 400:] > 0).all()


def test_aligned_grids_are_copied_and_others_are_not():
    plan = resample.prepare(two_cameras())
    rng = np.random.default_rng(3)
    inputs = [Spectrum(rng.normal(1, 0.1, n), np.full(n, 0.1), "linear", start, 0.25)
              for n, start in ((450, 4999.0), (380, 6001.0))]
    batch = resample.gather(plan, [Star(inputs), Star([line_at(5040.0), inputs[1]])])
    assert resample.alignment(plan, batch).tolist() == [[4, -4], [resample.kernel.NOT_ALIGNED, -4]]
    out = resample.resample(plan, batch)
    np.testing.assert_array_equal(out.flux[0, :400], inputs[0].flux[4:404].astype("f4"))
    assert (out.ivar[0, 400:404] == 0).all() and (out.ivar[0, 784:] == 0).all()
    np.testing.assert_array_equal(out.flux[0, 404:784], inputs[1].flux.astype("f4"))


def test_galah_flux_does_not_move_with_snr():
    """Relative errors that follow the noisy flux, spikes masked: means at S/N 20, 50, 200 within 0.001."""
    spectra = recipe.load_survey(str(CONFIGS / "galah_dr3.yaml")).spectra
    plan = resample.prepare(spectra)
    truth = []
    for k, (start, step, n) in enumerate(((4713.0, 0.046, 4096), (5648.0, 0.0547, 4096), (6478.0, 0.0631, 4097),
                                          (7585.0, 0.0735, 4112))):
        rng = np.random.default_rng(k)
        x = np.arange(n)
        flux = np.ones(n)
        for centre, depth in zip(rng.uniform(0, n, 150), rng.uniform(0.02, 0.7, 150), strict=True):
            flux -= depth * np.exp(-0.5 * ((x - centre) / 3) ** 2)
        truth.append((np.maximum(flux, 0.05), start, step))
    means = []
    for snr in (20, 50, 200):
        rng = np.random.default_rng(snr)
        stars = []
        for _ in range(30):
            inputs = []
            for flux, start, step in truth:
                noisy = rng.poisson(flux * snr ** 2) / snr ** 2
                with np.errstate(divide="ignore"):
                    relative = np.where(noisy > 0, 1 / (np.sqrt(noisy) * snr), -1)
                inputs.append(Spectrum(noisy, relative, "linear", start, step))
            stars.append(Star(inputs))
        out = run(plan, stars)
        means.append(out.flux[out.ivar > 0].mean(dtype=float))
    print("mean flux at S/N 20, 50, 200:", *(f"{m:.5f}" for m in means))
    assert max(means) - min(means) < 0.001


def test_grids_that_make_no_sense():
    with pytest.raises(ValueError, match="begins before"):
        Grid((Stretch(5000.0, 1.0, 100), Stretch(5050.0, 1.0, 100)))
    with pytest.raises(errors.DataError, match="increasing positive"):
        resample.common_grid(Grid((Stretch(-5.0, 1.0, 100),)))


def test_correlation_of_a_recipe():
    plan = resample.prepare(two_cameras())
    values = resample.correlation(plan, "linear", 4990.0, 0.2, 700)
    inside = values[:399]
    assert np.isfinite(inside).all() and 0.05 < inside.mean() < 0.4 and np.isnan(values[399:]).all()


# --- real spectra -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_galah(shared):
    spectra = recipe.load_survey(str(CONFIGS / "galah_dr3.yaml")).spectra
    plan = resample.prepare(spectra)
    root = shared / "data" / "galah_dr3_spectra"
    names = sorted({p.name[:15] for p in root.glob("1*.fits")})
    reader = readers.Reader(spectra, root)
    return plan, names, [reader.read(f"{n}{{ccd}}.fits")[0] for n in names]


def test_real_stars_are_at_rest(real_galah):
    """H-alpha at 6562.80 A (air) in all stars without emission, though velocities run from -73 to 200 km/s."""
    plan, names, stars = real_galah
    out = run(replace(plan, spectra=replace(plan.spectra, missing_segment="keep")), stars)
    near = np.abs(plan.grid.wavelength - 6562.80) < 1.0
    centres = np.array([centre_of(plan.grid.wavelength[near], f[near]) for f in out.flux])
    absorbed = out.flux[:, near].min(axis=1) < 0.9
    assert absorbed.sum() >= 34
    assert np.median(np.abs(centres - 6562.80)[absorbed]) < 0.04        # 2 km/s
    assert np.abs(centres - 6562.80)[absorbed].max() < 0.2              # S/N 5 to 10 in the worst
    assert np.ptp([s.doppler for s in stars]) * LIGHT > 250        # as much as 6 A at H-alpha


def test_real_stars_rebinned_as_by_a_plain_sum(real_galah):
    """Camera 1 of every star against overlaps computed by numpy, masks included."""
    plan, names, stars = real_galah
    masks = replace(plan.spectra.masks, error_above=1e6)
    out = run(replace(plan, spectra=replace(plan.spectra, missing_segment="keep", masks=masks)), stars)
    first, stop = plan.grid.pieces[0]
    for m, star in enumerate(stars):
        spectrum = star.inputs[0]
        edge = spectrum.start + spectrum.step * (np.arange(spectrum.flux.size + 1) - 0.5)
        sigma = np.abs(spectrum.flux) * spectrum.error
        good = (spectrum.error > 0) & (sigma >= 0.1 * np.median(sigma[::8][sigma[::8] > 0]))
        good &= ~(spectrum.flux > 1.2 + 3 * sigma)
        area = np.concatenate([[0], np.cumsum(np.where(good, spectrum.flux, 0) * spectrum.step)])
        low, high = plan.grid.low[first:stop], plan.grid.high[first:stop]
        mean = (np.interp(high, edge, area) - np.interp(low, edge, area)) / (high - low)
        bad = np.concatenate([[0], np.cumsum(~good)])
        i = np.clip(np.searchsorted(edge, low, side="right") - 1, 0, None)
        j = np.searchsorted(edge, high, side="left")
        clear = (bad[np.clip(j, 0, bad.size - 1)] == bad[i]) & (low >= edge[0]) & (high <= edge[-1])
        found = out.ivar[m, first:stop] > 0
        np.testing.assert_array_equal(found, clear)
        np.testing.assert_allclose(out.flux[m, first:stop][found], mean[found], atol=2e-6)
    assert (out.ivar[:, first:stop] == 0).sum() > 10


def test_real_apstar_is_flat_and_its_visits_agree(shared):
    """The cool giant: median 0.92 as tried by others, S/N of the header, visits equal within their noise."""
    spectra = recipe.load_survey(str(CONFIGS / "apogee_dr16.yaml")).spectra
    pixels = recipe.read_continuum(str(CONFIGS / "apogee_continuum.csv"))
    plan = resample.prepare(spectra, [("vacuum", [p.wavelength for p in pixels])])
    stars = readers.Reader(spectra, shared / "data" / "apogee_spectra").read(
        "apStar-dr17-2M17335483-2753043.fits", visits="all")
    out = run(plan, stars)
    assert (out.status == 0).all()
    medians = [np.median(f[w > 0]) for f, w in zip(out.flux, out.ivar, strict=True)]
    assert np.abs(np.array(medians) - 0.916).max() < 0.01
    assert abs(out.snr[0] / 154.2 - 1) < 0.05 and np.abs(out.snr[1:] / [67.2, 90.6, 105.9] - 1).max() < 0.05
    good = (out.ivar > 0).all(axis=0)
    flux, ivar = out.flux[:, good], out.ivar[:, good]
    pulls = (flux[2] - flux[3]) / np.sqrt(1 / ivar[2] + 1 / ivar[3])
    assert 0.3 < 0.5 * np.ptp(np.percentile(pulls, [16, 84])) < 3
    assert plan.continuum.describe().startswith("Chebyshev order 2 per segment, 532 continuum pixels")
