"""Spectra of the mock surveys: stars -> fine spectra -> pixels of a survey's files. Arrays only.

`Synthesis` holds what is made once (line lists, working grids); `apogee_block` and `galah_block` give the
planes
of the files of some spectra. Formats.md A1, A2, D1 and D5. Every random number comes from the seed and the
spectrum's own number, so blocks can be made in any order and size.
"""

from typing import NamedTuple

import numpy as np

from cannonkit.kernels import mock, mock_atmosphere, mock_noise
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
    """

    def __init__(self, keep_clear=()):
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
        centre = np.array([r[2] for r in REGIONS])
        metal, hydrogen = (np.array([r[i] for r in REGIONS]) for i in (4, 5))
        state = np.zeros((len(stars), len(REGIONS), mock_atmosphere.N_STATE))
        density = np.zeros((len(stars), len(REGIONS), mock_atoms.N_SPECIES))
        mock_atmosphere.build_atmospheres(
            np.ascontiguousarray(stars["teff"]),
            np.ascontiguousarray(stars["logg"]),
            mock_stars.abundances(stars),
            self.elements,
            self.molecules,
            centre,
            metal,
            hydrogen,
            state,
            density,
        )
        return state, density

    def fine(self, stars, region, atmospheres=None):
        """Normalised flux (n_star, n_point) of stars before rotation and instrument, on the region's grid."""
        state, density = self.atmospheres(stars) if atmospheres is None else atmospheres
        r = self.regions[region]
        wavelength, species, excitation, log_gf, damping = r.lines
        flux = np.empty((len(stars), r.n_point))
        mock.synthesise(
            region,
            r.first,
            r.step,
            wavelength,
            species,
            excitation,
            log_gf,
            damping,
            self.mass,
            r.hydrogen,
            density,
            state,
            np.ascontiguousarray(stars["vmicro"]),
            flux,
        )
        return flux

    def wavelength(self, region):
        """Vacuum wavelengths (Angstrom) of the working grid."""
        r = self.regions[region]
        return np.exp(r.first + r.step * np.arange(r.n_point))


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


def observations(survey, star, snr, settings):
    """Observation of every spectrum of a survey ('apogee' = 1, 'galah' = 2 in the keys)."""
    n = len(star)
    rng = np.random.default_rng([settings.seed, 77, 1 if survey == "apogee" else 2])
    lsf = 1.0 + (0.035 * rng.standard_normal(n) if settings.lsf_variation else np.zeros(n))
    shift = (0.12 if survey == "apogee" else 0.35) * rng.standard_normal(n)
    return Observation(
        np.asarray(star, dtype=np.int64),
        np.arange(n, dtype=np.int64),
        np.asarray(snr, float),
        np.clip(lsf, 0.85, 1.15),
        shift,
    )


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


def _pixels(synthesis, region, sub, fine, rows, other, stars, obs, log_start, log_step, linear, n_pix, sigma):
    """Noiseless pixels (n, longest) of spectra, binaries and emission lines included."""
    r = synthesis.regions[region]
    out = np.ones((len(rows), int(n_pix.max())))
    width = obs.lsf[:, None] * np.asarray(sigma)

    def show(which, shift, target):
        rotation, macro = sub["v_rotation"][which], sub["v_macro"][which]
        mock.observe_many(
            fine,
            which,
            r.first,
            r.step,
            log_start,
            log_step,
            linear,
            n_pix,
            np.ascontiguousarray(width[:, 0]),
            np.ascontiguousarray(width[:, 1]),
            np.ascontiguousarray(rotation),
            np.ascontiguousarray(macro),
            shift,
            target,
        )

    show(rows, obs.shift, out)
    pairs = np.flatnonzero(other >= 0)
    if pairs.size:
        second = np.ones((pairs.size, out.shape[1]))
        star = stars[obs.star[pairs]]
        w, q = width[pairs], star["flux_ratio"]
        mock.observe_many(
            fine,
            other[pairs],
            r.first,
            r.step,
            log_start[pairs],
            log_step[pairs],
            linear,
            n_pix[pairs],
            np.ascontiguousarray(w[:, 0]),
            np.ascontiguousarray(w[:, 1]),
            np.ascontiguousarray(sub["v_rotation"][other[pairs]]),
            np.ascontiguousarray(sub["v_macro"][other[pairs]]),
            obs.shift[pairs] + star["velocity_difference"],
            second,
        )
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
    rng = np.random.default_rng([settings.seed, 78])
    p = np.array([0.40, 0.16, 0.26, 0.08, 0.05, 0.05])[: settings.most_visits]
    return rng.choice(len(p), size=len(obs.star), p=p / p.sum()) + 1


def apogee_block(synthesis, stars, obs, visits, settings):
    """Planes of apStar files: dict of (n, n_row, 8575) float32 (mask int16), and weight, shift, fill.

    visits: (n,) of these spectra. n_row = 2 + the most visits among them (1 where all have one visit).
    """
    n = len(obs.star)
    sub, rows, other = _unique(stars, obs.star)
    fine = synthesis.fine(sub, 0)
    whole = np.full(n, APOGEE_PIXELS)
    clean = _pixels(
        synthesis,
        0,
        sub,
        fine,
        rows,
        other,
        stars,
        obs,
        np.full(n, APOGEE_LOG[0]),
        np.full(n, APOGEE_LOG[1] - APOGEE_LOG[0]),
        False,
        whole,
        APOGEE_SIGMA,
    )
    most = int(visits.max())
    n_row = 1 if most == 1 else 2 + most
    weight = np.zeros((n, most))
    shift = np.zeros((n, most))
    ends = np.zeros((n, 6), dtype=np.int64)
    persistence = np.zeros(n, dtype=np.int64)
    for i in range(n):
        rng = np.random.default_rng([settings.seed, 79, int(obs.number[i])])
        share = rng.uniform(0.4, 1.0, visits[i])
        weight[i, : visits[i]] = share / share.sum()
        shift[i, : visits[i]] = 0.25 * rng.standard_normal(visits[i])
        ends[i] = np.array(APOGEE_DETECTORS).ravel() + rng.integers(-6, 7, 6)
        persistence[i] = int(rng.integers(9, 12)) if rng.random() < 0.12 else 0
    shape = (n, n_row, APOGEE_PIXELS)
    planes = {
        name: np.zeros(shape) for name in ("flux", "error", "sky", "sky_error", "telluric", "telluric_error")
    }
    planes["mask"] = np.zeros(shape, dtype=np.int64)
    star = stars[obs.star]
    scale = 10.0 ** (-0.4 * (star["h_mag"] - 12.0)) * 180.0
    mock_noise.apogee_planes(
        clean,
        visits.astype(np.int64),
        np.ascontiguousarray(star["teff"]),
        scale,
        np.ascontiguousarray(star["radial_velocity"]),
        obs.snr,
        weight,
        shift,
        obs.number,
        settings.seed,
        0.0015 if settings.wiggles else 0.0,
        settings.junk,
        persistence,
        ends,
        planes["flux"],
        planes["error"],
        planes["mask"],
        planes["sky"],
        planes["sky_error"],
        planes["telluric"],
        planes["telluric_error"],
    )
    return planes, weight, shift, clean


def galah_grids(obs, settings):
    """HDU 0 grids: (n, 4) start and step (Angstrom, observer's frame) and n_pix; 5 % are not 4096 long."""
    rng = np.random.default_rng([settings.seed, 80])
    n = len(obs.star)
    start, step = np.empty((n, 4)), np.empty((n, 4))
    n_pix = np.full((n, 4), 4096)
    long = rng.random(n) < 0.05
    for c, (low, high, width, _) in enumerate(GALAH_CAMERAS):
        start[:, c] = rng.uniform(low, high, n)
        step[:, c] = width * (1.0 + 4e-4 * rng.uniform(-1.0, 1.0, n))
        n_pix[long, c] = rng.choice([4096, 4097, 4111, 4112], size=int(long.sum()))
    return start, step, n_pix


def galah_block(synthesis, stars, obs, grids, settings):
    """Planes of GALAH camera files: list over cameras of dicts, and the rest-frame grids.

    Each dict: start, step (n,) HDU 4 grid (Angstrom, air, rest frame), n_pix (n,), and (n, longest) float64
    normalised (HDU 4), sigma (HDU 1, relative), counts (HDU 0), with_sky (HDU 2), sky_sigma (HDU 3).
    """
    n = len(obs.star)
    sub, rows, other = _unique(stars, obs.star)
    atmospheres = synthesis.atmospheres(sub)
    star = stars[obs.star]
    start, step, n_pix = grids
    rest = 1.0 - star["radial_velocity"] / mock.LIGHT
    out = []
    for c in range(4):
        fine = synthesis.fine(sub, c + 1, atmospheres)
        s, d, k = start[:, c] * rest, step[:, c] * rest, n_pix[:, c]
        # A linear grid in air is linear in vacuum to 1e-4 of a pixel inside a camera: exact at both ends.
        ends = wavelengths.air_to_vacuum(np.stack([s, s + d * 4095]))
        clean = _pixels(
            synthesis,
            c + 1,
            sub,
            fine,
            rows,
            other,
            stars,
            obs,
            ends[0],
            (ends[1] - ends[0]) / 4095,
            True,
            k,
            (1.05 * GALAH_SIGMA, 0.95 * GALAH_SIGMA),
        )
        planes = {
            name: np.ones(clean.shape) for name in ("normalised", "sigma", "counts", "with_sky", "sky_sigma")
        }
        snr = obs.snr * GALAH_SNR_RATIO[c] / GALAH_SNR_RATIO[1]
        level = 40.0 * obs.snr * GALAH_SNR_RATIO[c]
        slope = np.clip((star["teff"] - 5000.0) / 9000.0, -0.3, 0.3) * (1.0 if c < 2 else 0.5)
        mock_noise.galah_planes(
            clean,
            k,
            np.full(n, c),
            s,
            d,
            np.ascontiguousarray(star["radial_velocity"]),
            1.0 / snr,
            np.full(n, GALAH_CAMERAS[c][3]),
            level,
            slope,
            obs.number,
            settings.seed,
            0.004 if settings.wiggles else 0.0,
            settings.junk,
            planes["normalised"],
            planes["sigma"],
            planes["counts"],
            planes["with_sky"],
            planes["sky_sigma"],
        )
        out.append({"start": s, "step": d, "n_pix": k, "clean": clean, **planes})
    return out
