"""Spectra of the mock surveys: stars -> fine spectra -> pixels of a survey's files. Arrays only.

`Synthesis` holds what is made once (line lists, working grids); `apogee_block` and `galah_block` give the planes of the
files of some spectra, or what a stream needs of them. Formats.md A1, A2, D1 and D5. Every random number comes from the
seed and the spectrum's own number, so blocks can be made in any order and size.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import wofz

from cannonkit.kernels import mock, mock_atmosphere, mock_noise, mock_stream
from cannonkit.stages import mock_atoms, mock_lines, mock_stars
from cannonkit.stages import wavelength as wavelengths

# Regions: where, and at which optical depths metal and hydrogen lines form. Working grid: vacuum, Angstrom.
REGIONS = (
    # low, high, centre (micrometre), step (km/s), depth of metal lines, depth of hydrogen lines
    (15070.0, 17040.0, 1.60, 1.38, 0.25, 0.25),
    (4700.0, 4912.0, 0.480, 1.2, 0.30, 0.90),
    (5635.0, 5885.0, 0.576, 1.2, 0.30, 0.90),
    (6462.0, 6755.0, 0.660, 1.2, 0.30, 0.90),
    (7565.0, 7905.0, 0.774, 1.2, 0.30, 0.90),
)
APOGEE_PIXELS = 8575
VISITS = np.cumsum([0.40, 0.16, 0.26, 0.08, 0.05, 0.05])  # share of spectra with up to 1, 2, ... visits
MOST_VISITS = len(VISITS)
APOGEE_LOG = np.log(10.0) * (4.179 + 6e-6 * np.arange(APOGEE_PIXELS))
APOGEE_DETECTORS = ((197, 3323), (3533, 6129), (6291, 8381))  # filled pixels of a real file (formats.md A1)
APOGEE_SIGMA = (6.1, 5.2)  # km/s, line-spread function at the blue and the red end: R = 22,500 on average
GALAH_SIGMA = 4.55  # km/s: R = 28,000
# HDU 0 start (lowest, highest), step, and the share of HDU 1 that is pixel scatter, per camera (formats.md
# 0, A2).
GALAH_CAMERAS = (
    (4712.5, 4714.2, 0.0460, 0.59),
    (5646.9, 5650.0, 0.0547, 0.45),
    (6476.1, 6480.0, 0.0631, 0.50),
    (7584.2, 7586.4, 0.0735, 0.55),
)
GALAH_SNR_RATIO = (1.0, 1.30, 1.70, 2.17)


class _Region(NamedTuple):
    first: float
    step: float
    n_point: int
    lines: tuple
    hydrogen: np.ndarray


class Synthesis:
    """Line lists and working grids of the five regions (0 = H band, 1-4 = GALAH cameras).

    keep_clear: vacuum wavelengths (Angstrom) that get no lines within 0.6 A: the APOGEE continuum pixels.
    wanted: the regions that are used; the atmospheres of others are left out.
    quick: noiseless pixels by kernels/mock_stream.py.
    """

    def __init__(self, keep_clear=(), wanted=(0, 1, 2, 3, 4), quick=False):
        self.wanted = np.array(wanted)
        self.series = voigt_series() if quick else None
        self.elements = mock_atoms.element_table()
        self.molecules = mock_atoms.molecule_table()
        masses = np.repeat(self.elements[:, 0], 2)
        pairs = self.molecules[:, :2].astype(int)
        self.mass = np.concatenate([masses, self.elements[pairs[:, 0], 0] + self.elements[pairs[:, 1], 0]])
        self.regions = []
        for number, (low, high, _, v_step, _, _) in enumerate(REGIONS):
            lines = mock_lines.lines_between(low - 5.0, high + 5.0, keep_clear if number == 0 else None, 0.6)
            step = v_step / mock.LIGHT
            fields = tuple(np.ascontiguousarray(lines[name]) for name in lines.dtype.names)
            self.regions.append(
                _Region(
                    np.log(low),
                    step,
                    int(np.log(high / low) / step),
                    fields,
                    mock_lines.hydrogen_between(low, high),
                )
            )

    def atmospheres(self, stars):
        """(state, density) of stars (STAR rows) for all regions; see kernels/mock_atmosphere.py."""
        chosen = [REGIONS[k] for k in self.wanted]
        centre, metal, hydrogen = (np.array([r[i] for r in chosen]) for i in (2, 4, 5))
        own_state = np.zeros((len(stars), len(chosen), mock_atmosphere.N_STATE))
        own_density = np.zeros((len(stars), len(chosen), mock_atoms.N_SPECIES))
        mock_atmosphere.build_atmospheres(
            np.ascontiguousarray(stars["teff"]),
            np.ascontiguousarray(stars["logg"]),
            mock_stars.abundances(stars),
            self.elements,
            self.molecules,
            centre,
            metal,
            hydrogen,
            own_state,
            own_density,
        )
        state = np.zeros((len(stars), len(REGIONS), mock_atmosphere.N_STATE))
        density = np.zeros((len(stars), len(REGIONS), mock_atoms.N_SPECIES))
        state[:, self.wanted], density[:, self.wanted] = own_state, own_density
        return state, density

    def fine(self, stars, region, atmospheres=None):
        """Normalised flux (n_star, n_point) of stars before rotation and instrument, on the region's grid."""
        state, density = self.atmospheres(stars) if atmospheres is None else atmospheres
        r = self.regions[region]
        flux = np.empty((len(stars), r.n_point))
        mock.synthesise(region, r.first, r.step, *r.lines, self.mass, r.hydrogen, density, state,
                        np.ascontiguousarray(stars["vmicro"]), flux)
        return flux

    def observer(self, stars, region, atmospheres=None):
        """A function (star, grid, instrument, out) that fills out with noiseless pixels of rows `star` of stars.

        grid, instrument: the arguments of mock.observe_many from log_start to n_pix, and from sigma_start on.
        """
        r = self.regions[region]
        if self.series is None:
            fine = self.fine(stars, region, atmospheres)
            return lambda star, grid, instrument, out: mock.observe_many(fine, star, r.first, r.step, *grid,
                                                                         *instrument, out)
        state, density = self.atmospheres(stars) if atmospheres is None else atmospheres
        v_micro = np.ascontiguousarray(stars["vmicro"])
        return lambda star, grid, instrument, out: mock_stream.draw(
            region, r.first, r.step, r.n_point, *r.lines, self.mass, r.hydrogen, density, state, v_micro, self.series,
            star, *grid, *instrument, out)

    def wavelength(self, region):
        """Vacuum wavelengths (Angstrom) of the working grid."""
        r = self.regions[region]
        return np.exp(r.first + r.step * np.arange(r.n_point))


def voigt_series(most=10.0, n_term=6):
    """(n_node, n_term) Taylor coefficients in a of the Voigt function H(a, x) at x = node / mock.NODES, up to `most`.

    H is the real part of w(x + i a), w' = -2 z w + 2 i / sqrt(pi), and d/da = i d/dz.
    """
    x = np.arange(int(mock.NODES * most) + 2) / mock.NODES
    w = [wofz(x)]
    w.append(-2.0 * x * w[0] + 2j / np.sqrt(np.pi))
    for n in range(1, n_term - 1):
        w.append(-2.0 * x * w[n] - 2.0 * n * w[n - 1])
    factorial = np.cumprod([1.0, *range(1, n_term)])
    return np.ascontiguousarray(np.stack([(1j**n * w[n]).real / factorial[n] for n in range(n_term)], axis=1))


class Observation(NamedTuple):
    """What belongs to a spectrum and not to its star: arrays of one length.

    star: row of the star table; number: the spectrum's key; snr: catalogue S/N; lsf: factor of the
    line-spread function's width (fibre); shift: km/s, what is left of the radial velocity.
    """

    star: np.ndarray
    number: np.ndarray
    snr: np.ndarray
    lsf: np.ndarray
    shift: np.ndarray


SURVEY_KEY = {"apogee": 1, "galah": 2}
WIGGLE = {"apogee": 0.0015, "galah": 0.004}  # rms of the waves in the continuum


def uniform(survey, number, plane, count, settings):
    """(n, count) numbers in (0, 1) of the spectra `number` (n,); `plane` keeps uses apart."""
    out = np.empty((len(number), count))
    mock_noise.fill_uniform(settings.seed, SURVEY_KEY[survey], np.asarray(number, np.int64), plane, out)
    return out


def normal(one, two):
    """Standard normal numbers from two arrays of uniform ones (Box and Muller)."""
    return np.sqrt(-2.0 * np.log(one)) * np.cos(2.0 * np.pi * two)


def observations(survey, star, snr, settings, number=None):
    """Observation of spectra of a survey; `number` (n,) are their keys (None: 0, 1, 2, ...)."""
    n = len(star)
    number = np.arange(n, dtype=np.int64) if number is None else np.asarray(number, np.int64)
    u = uniform(survey, number, 1000, 4, settings)
    lsf = 1.0 + (0.035 * normal(u[:, 0], u[:, 1]) if settings.lsf_variation else np.zeros(n))
    shift = (0.12 if survey == "apogee" else 0.35) * normal(u[:, 2], u[:, 3])
    return Observation(np.asarray(star, dtype=np.int64), number, np.asarray(snr, float), np.clip(lsf, 0.85, 1.15),
                       shift)


def take(obs, which):
    """The Observation of some spectra (index array or slice)."""
    return Observation(*(a[which] for a in obs))


def _unique(stars, star):
    """Rows of the stars needed, with companions; for each spectrum its row in them and its companion's."""
    companion = stars["companion"][star]
    wanted = np.unique(np.concatenate([star, companion[companion >= 0]]))
    place = {s: i for i, s in enumerate(wanted)}
    rows = np.array([place[s] for s in star], dtype=np.int64)
    other = np.array([place.get(s, -1) for s in companion], dtype=np.int64)
    return stars[wanted], rows, other


def _pixels(observe, sub, rows, other, stars, obs, log_start, log_step, linear, n_pix, sigma):
    """Noiseless pixels (n, longest) of spectra, binaries and emission lines included; observe: Synthesis.observer."""
    out = np.ones((len(rows), int(n_pix.max())))
    width = obs.lsf[:, None] * np.asarray(sigma)

    def show(which, star, shift, target):
        arrays = (width[which, 0], width[which, 1], sub["v_rotation"][star], sub["v_macro"][star], shift)
        observe(star, (log_start[which], log_step[which], linear, n_pix[which]),
                tuple(np.ascontiguousarray(a) for a in arrays), target)

    show(slice(None), rows, obs.shift, out)
    pairs = np.flatnonzero(other >= 0)
    if pairs.size:
        second = np.ones((pairs.size, out.shape[1]))
        star = stars[obs.star[pairs]]
        q = star["flux_ratio"]
        show(pairs, other[pairs], obs.shift[pairs] + star["velocity_difference"], second)
        out[pairs] = (out[pairs] + q[:, None] * second) / (1.0 + q[:, None])
    strength = stars["emission"][obs.star]
    for i in np.flatnonzero(strength > 0.0):
        place = log_start[i] + log_step[i] * np.arange(n_pix[i])
        wave = place if linear else np.exp(place)
        for centre, share in ((6564.61, 1.0), (4862.68, 0.3), (16811.1, 0.15)):
            x = (wave - centre) / (centre * 60.0 / mock.LIGHT)
            out[i, : n_pix[i]] += share * strength[i] * np.exp(-0.5 * x**2)
    return out


def n_visits(obs, settings):
    """Visits of each APOGEE spectrum: 1 for 40 %, up to settings.most_visits."""
    p = VISITS[: settings.most_visits]
    return np.searchsorted(p[:-1] / p[-1], uniform("apogee", obs.number, 1001, 1, settings)[:, 0], "right") + 1


def apogee_block(synthesis, stars, obs, visits, settings, whole=True):
    """Planes of apStar files: dict of (n, n_row, 8575) arrays, and weight, shift, noiseless flux.

    visits: (n,) of these spectra. n_row = 2 + the most visits among them (1 where all have one visit).
    whole: False leaves out sky and telluric planes and gives row 0 alone.
    """
    n = len(obs.star)
    sub, rows, other = _unique(stars, obs.star)
    clean = _pixels(synthesis.observer(sub, 0), sub, rows, other, stars, obs, np.full(n, APOGEE_LOG[0]),
                    np.full(n, APOGEE_LOG[1] - APOGEE_LOG[0]), False, np.full(n, APOGEE_PIXELS), APOGEE_SIGMA)
    most = int(visits.max())
    n_row = 2 + most if whole and most > 1 else 1
    u = uniform("apogee", obs.number, 1002, 3 * MOST_VISITS + 8, settings)      # as many for any block
    one, two, three, rest = np.split(u, [MOST_VISITS, 2 * MOST_VISITS, 3 * MOST_VISITS], axis=1)
    own = np.arange(most) < visits[:, None]
    weight = np.where(own, 0.4 + 0.6 * one[:, :most], 0.0)
    weight /= weight.sum(axis=1, keepdims=True)
    shift = np.where(own, 0.25 * normal(two, three)[:, :most], 0.0)
    ends = np.array(APOGEE_DETECTORS).ravel() + np.floor(13.0 * rest[:, :6]).astype(np.int64) - 6
    persistence = np.where(rest[:, 6] < 0.12, 9 + np.floor(3.0 * rest[:, 7]).astype(np.int64), 0)
    shape = (n, n_row, APOGEE_PIXELS)
    planes = {name: np.zeros(shape) for name in ("flux", "error")}
    planes["mask"] = np.zeros(shape, dtype=np.int64)
    for name in ("sky", "sky_error", "telluric", "telluric_error"):
        planes[name] = np.zeros(shape if whole else (0, 0, 0))
    star = stars[obs.star]
    scale = 10.0 ** (-0.4 * (star["h_mag"] - 12.0)) * 180.0
    mock_noise.apogee_planes(
        clean, visits.astype(np.int64), np.ascontiguousarray(star["teff"]), scale,
        np.ascontiguousarray(star["radial_velocity"]), obs.snr, weight, shift, obs.number, settings.seed,
        WIGGLE["apogee"] if settings.wiggles else 0.0, settings.junk, persistence, ends, planes["flux"],
        planes["error"], planes["mask"], planes["sky"], planes["sky_error"], planes["telluric"],
        planes["telluric_error"])
    return planes, weight, shift, clean


def galah_grids(obs, settings):
    """HDU 0 grids: (n, 4) start and step (Angstrom, observer's frame) and n_pix; 5 % are not 4096 long."""
    n = len(obs.star)
    u = uniform("galah", obs.number, 1003, 13, settings)
    start, step = np.empty((n, 4)), np.empty((n, 4))
    n_pix = np.full((n, 4), 4096)
    long = u[:, 12] < 0.05
    for c, (low, high, width, _) in enumerate(GALAH_CAMERAS):
        start[:, c] = low + (high - low) * u[:, c]
        step[:, c] = width * (1.0 + 4e-4 * (2.0 * u[:, 4 + c] - 1.0))
        n_pix[long, c] = np.array([4096, 4097, 4111, 4112])[np.floor(4.0 * u[long, 8 + c]).astype(int)]
    return start, step, n_pix


def galah_block(synthesis, stars, obs, grids, settings, whole=True):
    """Planes of GALAH camera files: list over cameras of dicts, and the rest-frame grids.

    Each dict: start, step (n,) HDU 4 grid (Angstrom, air, rest frame), n_pix (n,), and (n, longest) float64
    normalised (HDU 4), sigma (HDU 1, relative), counts (HDU 0), with_sky (HDU 2), sky_sigma (HDU 3).
    whole: False leaves out the last three.
    """
    n = len(obs.star)
    sub, rows, other = _unique(stars, obs.star)
    atmospheres = synthesis.atmospheres(sub)
    star = stars[obs.star]
    start, step, n_pix = grids
    rest = 1.0 - star["radial_velocity"] / mock.LIGHT
    out = []
    for c in range(4):
        s, d, k = start[:, c] * rest, step[:, c] * rest, n_pix[:, c]
        # A linear grid in air is linear in vacuum to 1e-4 of a pixel inside a camera: exact at both ends.
        ends = wavelengths.air_to_vacuum(np.stack([s, s + d * 4095]))
        clean = _pixels(synthesis.observer(sub, c + 1, atmospheres), sub, rows, other, stars, obs, ends[0],
                        (ends[1] - ends[0]) / 4095, True, k, (1.05 * GALAH_SIGMA, 0.95 * GALAH_SIGMA))
        planes = {name: np.ones(clean.shape) for name in ("normalised", "sigma")}
        for name in ("counts", "with_sky", "sky_sigma"):
            planes[name] = np.ones(clean.shape if whole else (0, 0))
        snr = obs.snr * GALAH_SNR_RATIO[c] / GALAH_SNR_RATIO[1]
        level = 40.0 * obs.snr * GALAH_SNR_RATIO[c]
        slope = np.clip((star["teff"] - 5000.0) / 9000.0, -0.3, 0.3) * (1.0 if c < 2 else 0.5)
        mock_noise.galah_planes(
            clean, k, np.full(n, c), s, d, np.ascontiguousarray(star["radial_velocity"]), 1.0 / snr,
            np.full(n, GALAH_CAMERAS[c][3]), level, slope, obs.number, settings.seed,
            WIGGLE["galah"] if settings.wiggles else 0.0, settings.junk, planes["normalised"], planes["sigma"],
            planes["counts"], planes["with_sky"], planes["sky_sigma"])
        out.append({"start": s, "step": d, "n_pix": k, "clean": clean, **planes})
    return out


def nitrogen_template(cameras):
    """(wavelength, difference) of a giant like those of NGC 104 with [N/Fe] = 0.8 minus the same with 0, noiseless.

    cameras: (start, step, n_pix) of each camera's grid, air, Angstrom.
    """
    stars = np.zeros(2, mock_stars.STAR)
    stars["logg"], stars["fe_h"], stars["alpha_fe"], stars["v_macro"] = 2.2, -0.76, 0.25, 4.5
    stars["teff"] = mock_stars.giant_teff(stars["logg"], stars["fe_h"])
    stars["vmicro"] = mock_stars.micro_turbulence(stars["teff"], stars["logg"])
    stars["n_fe"] = 0.8, 0.0
    synthesis = Synthesis(wanted=(1, 2, 3, 4))
    atmospheres = synthesis.atmospheres(stars)
    instrument = tuple(np.ascontiguousarray(a) for a in (np.full(2, GALAH_SIGMA), np.full(2, GALAH_SIGMA),
                                                         stars["v_rotation"], stars["v_macro"], np.zeros(2)))
    wave, difference = [], []
    for c, (start, step, n_pix) in enumerate(cameras):
        air = start + step * np.arange(n_pix)
        vacuum = wavelengths.air_to_vacuum(air[[0, -1]])
        flux = np.empty((2, n_pix))
        grid = (np.full(2, vacuum[0]), np.full(2, (vacuum[1] - vacuum[0]) / (n_pix - 1)), True, np.full(2, n_pix))
        synthesis.observer(stars, c + 1, atmospheres)(np.arange(2), grid, instrument, flux)
        wave.append(air)
        difference.append(flux[0] - flux[1])
    return np.concatenate(wave), np.concatenate(difference)
