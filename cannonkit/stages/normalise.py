"""Continuum normalisation where the survey has none, and the choice of continuum pixels (paper section 3.1).

The paper does not describe how it normalised apStar spectra. Default for APOGEE: a parabola per detector
through fixed continuum pixels with (smoothed) errors as weights, as Cannon papers do. Measured on
Poisson-like noise at S/N 20, 50 and 200 the mean normalised flux of one star moves by less than 0.001
(tests); the running percentile moves by its nature: at S/N 20 the 90th percentile of noise alone lies 0.064
above the continuum.
"""
from dataclasses import dataclass

import numpy as np

from cannonkit import errors
from cannonkit.kernels import normalise as kernel
from cannonkit.kernels import to_grid
from cannonkit.stages import wavelength as media


@dataclass(frozen=True)
class Continuum:
    """Everything about the normalisation that is the same for all stars; made by `prepare`."""

    method: str
    segments: np.ndarray       # (n_segment, 2) int64 first, stop
    chosen: np.ndarray         # (n_pix,) bool
    basis: np.ndarray          # (n_pix, n_term) float64; n_term 0 where nothing is fitted
    wavelength: np.ndarray     # (n_pix,) float64
    width: float
    percentile: float
    weighted: bool
    least: int

    def for_kernel(self):
        """The arguments of kernels.to_grid from `continuum` to `weighted`."""
        how = {"none": to_grid.NONE, "polynomial": to_grid.FIT, "sincos": to_grid.FIT}.get(self.method,
                                                                                         to_grid.RUNNING)
        percentile = self.percentile if self.method == "percentile" else 0.0
        return (how, self.segments, self.basis, self.chosen, self.width, percentile, self.least, self.weighted)

    def describe(self):
        """One line for the header."""
        pixels = f"{int(self.chosen.sum())} continuum pixels"
        weights = "smoothed errors as weights" if self.weighted else "equal weights"
        return {
            "none": "none: as the survey gives it",
            "polynomial": f"Chebyshev order {self.basis.shape[1] - 1} per segment, {pixels}, {weights}",
            "sincos": f"{(self.basis.shape[1] - 1) // 2} sines and cosines, period {self.width:g} A, "
                      f"{pixels}, {weights}",
            "percentile": f"running {self.percentile:g}th percentile in {self.width:g} A, {pixels}",
            "gaussian": f"running mean, Gaussian sigma {self.width:g} A, {pixels}, {weights}",
        }[self.method]


def segment_ranges(segment):
    """(n_segment, 2) int64 first and stop pixel of each run of one segment number >= 0 in `segment`
    (n_pix,)."""
    segment = np.asarray(segment)
    change = np.flatnonzero(np.diff(segment)) + 1
    first = np.concatenate([[0], change]).astype(np.int64)
    stop = np.concatenate([change, [segment.size]]).astype(np.int64)
    keep = segment[first] >= 0 if segment.size else np.zeros(1, bool)
    return np.stack([first[keep], stop[keep]], axis=1)


def chebyshev(segments, wavelength, order):
    """(n_pix, order + 1) Chebyshev polynomials of ln(wavelength) scaled to -1..1 in each segment; 0 outside.

    Log and linear wavelength differ by less than the noise over one detector; the log is what surveys use."""
    basis = np.zeros((wavelength.size, order + 1))
    for first, stop in segments:
        x = np.log(wavelength[first:stop])
        x = 2.0 * (x - x[0]) / max(x[-1] - x[0], 1e-300) - 1.0 if stop - first > 1 else np.zeros(1)
        basis[first:stop] = np.polynomial.chebyshev.chebvander(x, order)
    return basis


def sines_and_cosines(segments, wavelength, order, period):
    """(n_pix, 2 order + 1): 1, sin and cos of 2 pi k (wavelength - middle of the segment) / period."""
    basis = np.zeros((wavelength.size, 2 * order + 1))
    for first, stop in segments:
        x = 2.0 * np.pi * (wavelength[first:stop] - 0.5 * (wavelength[first] + wavelength[stop - 1])) / period
        basis[first:stop, 0] = 1.0
        for k in range(1, order + 1):
            basis[first:stop, 2 * k - 1] = np.sin(k * x)
            basis[first:stop, 2 * k] = np.cos(k * x)
    return basis


def choose_pixels(wavelength, segment, listed, medium_of_list, medium):
    """(n_pix,) bool: the pixel of the grid nearest to each listed continuum wavelength, at most half a pixel
    off.

    listed: (n,) wavelengths in `medium_of_list`; ones outside the grid or its segments are left out. Raises
    DataError where none of them falls on the grid."""
    chosen = np.zeros(wavelength.size, bool)
    x = media.convert(np.asarray(listed, np.float64), medium_of_list, medium)
    right = np.clip(np.searchsorted(wavelength, x), 1, wavelength.size - 1)
    near = np.where(x - wavelength[right - 1] < wavelength[right] - x, right - 1, right)
    half = 0.5 * np.minimum(wavelength[right] - wavelength[right - 1], 1e9)
    good = (np.abs(wavelength[near] - x) <= half * 1.000001) & (segment[near] >= 0)
    chosen[near[good]] = True
    if not chosen.any():
        raise errors.DataError(f"none of {x.size} continuum wavelengths falls on the grid "
                               f"({wavelength[0]:.1f} to {wavelength[-1]:.1f} Angstrom, {medium})")
    return chosen


def prepare(settings, wavelength, segment, medium, continuum=None):
    """A `Continuum` for a grid.

    settings   recipe_spectra.Normalise
    wavelength (n_pix,) Angstrom in `medium`; segment (n_pix,) int, -1 = none
    continuum  [(medium, wavelengths)] of the recipe's list, or None = every pixel of the segments
    Raises DataError where a segment gets fewer continuum pixels than it needs."""
    wavelength = np.ascontiguousarray(wavelength, np.float64)
    segments = segment_ranges(segment)
    chosen = np.asarray(segment) >= 0
    if continuum is not None:
        chosen = np.zeros(wavelength.size, bool)
        for listed_medium, listed in continuum:
            chosen |= choose_pixels(wavelength, segment, listed, listed_medium, medium)
    basis = np.zeros((wavelength.size, 0))
    if settings.method == "polynomial":
        basis = chebyshev(segments, wavelength, settings.order)
    elif settings.method == "sincos":
        basis = sines_and_cosines(segments, wavelength, settings.order, settings.width)
    least = settings.least or max(1, 2 * basis.shape[1])
    if settings.method != "none":
        for first, stop in segments:
            n = int(chosen[first:stop].sum())
            if n < least:
                raise errors.DataError(
                    f"segment {wavelength[first]:.1f} to {wavelength[stop - 1]:.1f} Angstrom has {n} "
                    f"continuum pixels, normalisation {settings.method} needs {least}")
    return Continuum(settings.method, segments, chosen, np.ascontiguousarray(basis), wavelength,
                     float(settings.width), float(settings.percentile), bool(settings.errors), int(least))


def normalise(flux, ivar, continuum):
    """Divide `flux` (n_star, n_pix) float64 by its continuum and scale `ivar`, both in place.

    ivar 0 = masked, flux there becomes 1; NaN is not allowed (stages.resample has removed it). A segment that
    cannot be fitted is masked. Returns (n_star,) int64, the number of segments that failed in each star."""
    failed = np.zeros(flux.shape[0], np.int64)
    how, segments, basis, chosen, width, percentile, least, weighted = continuum.for_kernel()
    if how == to_grid.FIT:
        kernel.fit(flux, ivar, segments, basis, chosen, least, weighted, failed)
    elif how == to_grid.RUNNING:
        kernel.running(flux, ivar, segments, continuum.wavelength, chosen, width, percentile, least, weighted,
                       failed)
    return failed


# --- continuum pixels from spectra ------------------------------------------------------------------

class Finder:
    """Finds continuum pixels in spectra that are already roughly normalised, as they stream by.

    A pixel is continuum where its flux is near the local upper level and does not depend on the labels. Per
    pixel a linear model F = a + sum_i b_i x_i (x the labels, centred and divided by their spread) is fitted
    to all good stars with equal weights; the figure of merit is
    sqrt((1 - a / level)^2 + sum_i b_i^2 + s^2 - e^2), with `level` the running 95th percentile of a over the
    segment, s the scatter of the residuals and e their mean survey error (the difference not below 0).
    The best `fraction` of each of `bins` equal stretches of a segment is taken, so that every part of it has
    some.
    """

    def __init__(self, n_pix, n_label):
        k = n_label + 1
        self.normal = np.zeros((k * (k + 1) // 2, n_pix))
        self.right = np.zeros((k, n_pix))
        self.squares = np.zeros(n_pix)
        self.variance = np.zeros(n_pix)
        self.count = np.zeros(n_pix, np.int64)
        self.n_label = n_label

    def add(self, flux, ivar, x):
        """Add stars: flux, ivar (n_star, n_pix), x (n_star, n_label) scaled labels; rows with NaN labels are
        left out."""
        use = np.isfinite(x).all(axis=1)
        if not use.any():
            return
        flux, ivar = np.asarray(flux[use], np.float64), np.asarray(ivar[use], np.float64)
        v = np.concatenate([np.ones((use.sum(), 1)), x[use]], axis=1)
        good = ivar > 0
        flux = np.where(good, flux, 0.0)
        weight = good.astype(np.float64)
        i, j = np.tril_indices(self.n_label + 1)
        self.normal += (v[:, i] * v[:, j]).T @ weight
        self.right += v.T @ flux
        self.squares += (flux * flux).sum(axis=0)
        self.variance += np.divide(1.0, ivar, out=np.zeros_like(ivar), where=good).sum(axis=0)
        self.count += good.sum(axis=0)

    def merit(self, segment, level_width=301):
        """(n_pix,) figure of merit, inf where a pixel has too few stars; the smaller the better."""
        k = self.n_label + 1
        n_pix = self.count.size
        i, j = np.tril_indices(k)
        matrix = np.zeros((n_pix, k, k))
        matrix[:, i, j] = matrix[:, j, i] = self.normal.T
        usable = self.count > max(2 * k, 0.5 * self.count.max(initial=0))
        out = np.full(n_pix, np.inf)
        if not usable.any():
            return out
        ridge = 1e-9 * np.eye(k) * np.trace(matrix[usable], axis1=1, axis2=2)[:, None, None]
        theta = np.linalg.solve(matrix[usable] + ridge, self.right.T[usable][..., None])[..., 0]
        n = self.count[usable]
        scatter2 = (self.squares[usable] - (theta * self.right.T[usable]).sum(axis=1)) / (n - k)
        excess = np.maximum(scatter2 - self.variance[usable] / n, 0.0)
        a = np.full(n_pix, np.nan)
        a[usable] = theta[:, 0]
        level = _upper_level(a, segment, level_width)[usable]
        out[usable] = np.sqrt((1.0 - theta[:, 0] / level) ** 2 + (theta[:, 1:] ** 2).sum(axis=1) + excess)
        out[np.asarray(segment) < 0] = np.inf
        return out

    def choose(self, segment, fraction=0.07, bins=10):
        """(n_pix,) bool continuum pixels, and the merit. DataError where a segment gets none."""
        merit = self.merit(segment)
        chosen = np.zeros(merit.size, bool)
        for first, stop in segment_ranges(segment):
            edges = np.linspace(first, stop, bins + 1).astype(int)
            for lo, hi in zip(edges[:-1], edges[1:], strict=True):
                n = max(1, round(fraction * (hi - lo)))
                best = lo + np.argsort(merit[lo:hi], kind="stable")[:n]
                chosen[best[np.isfinite(merit[best])]] = True
            if not chosen[first:stop].any():
                raise errors.DataError(f"no continuum pixel found in pixels {first} to {stop - 1}: "
                                       "too few spectra have data there")
        return chosen, merit


def _upper_level(a, segment, width):
    """Running 95th percentile of `a` over `width` pixels within each segment; NaN values are left out."""
    level = np.ones(a.size)
    for first, stop in segment_ranges(segment):
        for p in range(first, stop, max(1, width // 10)):
            lo, hi = max(first, p - width // 2), min(stop, p + width // 2 + 1)
            values = a[lo:hi][np.isfinite(a[lo:hi])]
            if values.size:
                level[p:min(stop, p + max(1, width // 10))] = np.percentile(values, 95)
    return level
