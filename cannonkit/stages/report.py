"""The numbers behind the figures and tables of the paper, for any run (paper sections 3 and 4).

Means are plain means; a scatter is half of the 84th minus the 16th percentile (sections 3.2, 3.4), percentiles
by linear interpolation between the sorted values. Every function ignores NaN, star by star and label by label,
and gives NaN where it has nothing to work with, so an incomplete run still has a report.
"""
import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

# Direction of the north galactic pole and longitude of the celestial pole, ICRS (Hipparcos Catalogue,
# volume 1, section 1.5.3), in degrees.
POLE_RA, POLE_DEC, POLE_LON = 192.85948, 27.12825, 122.93192


class Moments(NamedTuple):
    """Summary of a sample: count, mean, median, half 16-84 range, standard deviation, root mean square."""

    n: int
    mean: float
    median: float
    scatter: float
    std: float
    rms: float


def finite(values):
    """The finite values of an array, flat, float64."""
    values = np.asarray(values, np.float64).ravel()
    return values[np.isfinite(values)]


def half_range(values):
    """(84th - 16th percentile) / 2; NaN without values."""
    values = finite(values)
    if not len(values):
        return math.nan
    low, high = np.percentile(values, [16, 84])
    return float(high - low) / 2


def moments(values):
    """Moments of the finite values; std divides by n (NaN without values)."""
    values = finite(values)
    if not len(values):
        return Moments(0, *[math.nan] * 5)
    return Moments(len(values), float(values.mean()), float(np.median(values)), half_range(values),
                   float(values.std()), float(math.sqrt(np.mean(values ** 2))))


# --- Tables 1 and 3 -----------------------------------------------------------------------------

SAMPLES = ("all", "giants", "dwarfs")


def samples(logg, cut=3.5):
    """{'all', 'giants', 'dwarfs': (n,) bool}: giants have log g < cut; a NaN is in neither of the two."""
    logg = np.asarray(logg, np.float64)
    return {"all": np.ones(len(logg), bool), "giants": logg < cut, "dwarfs": logg >= cut}


def differences(left, right, logg, cut=3.5):
    """Table 1 or 3: {sample: [Moments of left - right per label]}, from (n_star, n_label) arrays."""
    difference = np.asarray(left, np.float64) - np.asarray(right, np.float64)
    return {name: [moments(difference[chosen, i]) for i in range(difference.shape[1])]
            for name, chosen in samples(logg, cut).items()}


# --- running medians, histograms, contours --------------------------------------------------------

class Running(NamedTuple):
    """Quantiles of y in bins of x; bins with too few stars are NaN."""

    x: np.ndarray        # (n_bin,) middle of the bin
    n: np.ndarray        # (n_bin,) stars
    low: np.ndarray      # 16th percentile
    median: np.ndarray
    high: np.ndarray     # 84th percentile


def running(x, y, edges, min_count=10):
    """Median and 16-84 range of y in the bins of x between `edges` (the last one includes its upper edge)."""
    x, y, edges = (np.asarray(a, np.float64) for a in (x, y, edges))
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    place = np.searchsorted(edges, x, side="right") - 1
    place[x == edges[-1]] = len(edges) - 2
    n_bin = len(edges) - 1
    out = np.full((3, n_bin), np.nan)
    count = np.bincount(place[(place >= 0) & (place < n_bin)], minlength=n_bin)
    order = np.argsort(place, kind="stable")
    first = np.searchsorted(place[order], np.arange(n_bin))
    for b in np.flatnonzero(count >= max(1, min_count)):
        out[:, b] = np.percentile(y[order[first[b]:first[b] + count[b]]], [16, 50, 84])
    return Running((edges[1:] + edges[:-1]) / 2, count, *out)


def trend(line):
    """How much a running median moves: its standard deviation over the stars (bins weighted by their stars)."""
    good = np.isfinite(line.median)
    if not good.any():
        return math.nan
    weight, median = line.n[good], line.median[good]
    mean = np.average(median, weights=weight)
    return float(math.sqrt(np.average((median - mean) ** 2, weights=weight)))


def limits(*arrays, fraction=0.99, pad=0.05):
    """(low, high) that hold the central `fraction` of the values, widened by `pad` of it; (0, 1) without any."""
    values = np.concatenate([finite(a) for a in arrays]) if arrays else np.empty(0)
    if not len(values):
        return 0.0, 1.0
    low, high = np.percentile(values, [50 * (1 - fraction), 50 * (1 + fraction)])
    width = high - low
    if not width > 0:
        width = max(abs(float(high)), 1.0)
        low, high = low - width / 2, high + width / 2
    return float(low - pad * width), float(high + pad * width)


class Density(NamedTuple):
    """A 2-d histogram: counts (n_x, n_y) of the stars between the edges."""

    counts: np.ndarray
    x_edges: np.ndarray
    y_edges: np.ndarray


def density(x, y, x_range, y_range, bins=100):
    """Counts in bins x bins cells of the two ranges; stars outside them, or NaN, are not counted."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    good = np.isfinite(x) & np.isfinite(y)
    return Density(*np.histogram2d(x[good], y[good], bins, [sorted(x_range), sorted(y_range)]))


def contour_levels(counts, fractions):
    """Heights of a histogram that enclose these fractions of its stars, rising; equal heights are dropped."""
    flat = np.sort(np.asarray(counts, np.float64).ravel())[::-1]
    total = flat.sum()
    if not total > 0:
        return np.empty(0)
    share = np.cumsum(flat) / total
    levels = [flat[min(np.searchsorted(share, f), len(flat) - 1)] for f in fractions]
    return np.unique([v for v in levels if v > 0])


def smooth(counts, width=1.2):
    """Counts after a Gaussian of `width` cells: for contours only."""
    return ndimage.gaussian_filter(np.asarray(counts, np.float64), width, mode="constant")


# --- one-to-one ---------------------------------------------------------------------------------

class Agreement(NamedTuple):
    """How well a predicted label follows its reference, over the stars that have both."""

    n: int
    bias: float              # mean of predicted - reference
    median: float
    scatter: float           # its half 16-84 range
    rms: float
    spread: float            # half 16-84 range of the reference
    slope: float             # of (predicted - reference) against the reference, least squares
    low_end: float           # mean difference for the lowest tenth of the reference
    high_end: float          # and for the highest tenth


def agreement(reference, predicted, end=0.1):
    """Agreement of two (n,) arrays. The slope and the ends show the pull towards the middle of the label
    that noise and the edges of the training set cause: a perfect method has 0 in all three."""
    reference, predicted = np.asarray(reference, np.float64), np.asarray(predicted, np.float64)
    good = np.isfinite(reference) & np.isfinite(predicted)
    reference, difference = reference[good], (predicted - reference)[good]
    m = moments(difference)
    if m.n < 2:
        return Agreement(m.n, m.mean, m.median, m.scatter, m.rms, half_range(reference), *[math.nan] * 3)
    centred = reference - reference.mean()
    power = float(centred @ centred)
    slope = float(centred @ difference) / power if power > 0 else math.nan
    low, high = np.percentile(reference, [100 * end, 100 * (1 - end)])
    return Agreement(m.n, m.mean, m.median, m.scatter, m.rms, half_range(reference), slope,
                     float(difference[reference <= low].mean()), float(difference[reference >= high].mean()))


# --- residual spectra ---------------------------------------------------------------------------

def column_quantiles(values, levels=(16, 50, 84), block=512):
    """Percentiles over the stars, pixel by pixel: (n_level, n_pix) float64 from values (n_star, n_pix).

    Values that are not finite (masked) do not count; a pixel without any is NaN. Works on `block` pixels at a
    time, so that a large float32 array is never copied as a whole.
    """
    n_pix = values.shape[1]
    out = np.full((len(levels), n_pix), np.nan)
    for first in range(0, n_pix, block):
        part = np.array(values[:, first:first + block].T, np.float64, order="C")
        part[~np.isfinite(part)] = np.inf
        part.sort(axis=1)
        n = np.isfinite(part).sum(axis=1)
        has = np.flatnonzero(n > 0)
        for k, level in enumerate(levels):
            at = (n[has] - 1) * (level / 100)
            below = np.floor(at).astype(np.intp)
            above = np.minimum(below + 1, n[has] - 1)
            low, high = part[has, below], part[has, above]
            out[k, first + has] = low + (at - below) * (high - low)
    return out


def outliers(median, limit):
    """Runs of pixels whose |median residual| exceeds limit: [(first, last, largest value)], largest first."""
    above = np.abs(np.nan_to_num(median)) > limit
    edge = np.diff(np.concatenate([[0], above.astype(np.int8), [0]]))
    runs = []
    for first, stop in zip(np.flatnonzero(edge == 1), np.flatnonzero(edge == -1), strict=True):
        part = median[first:stop]
        runs.append((int(first), int(stop - 1), float(part[np.argmax(np.abs(part))])))
    return sorted(runs, key=lambda run: -abs(run[2]))


def nearest_star(labels, target, width):
    """Row whose labels are nearest to `target`, in units of `width`; -1 if no row is complete."""
    d = (((np.asarray(labels, np.float64) - target) / width) ** 2).sum(axis=1)
    return int(np.nanargmin(d)) if np.isfinite(d).any() else -1


# --- clusters -----------------------------------------------------------------------------------

class Member(NamedTuple):
    """One sample of a cluster's members: count, median and standard deviation (n - 1) of a label."""

    n: int
    median: float
    std: float


def member(values):
    """Member of the finite values; the deviation of a single star is NaN."""
    values = finite(values)
    if not len(values):
        return Member(0, math.nan, math.nan)
    return Member(len(values), float(np.median(values)), float(values.std(ddof=1)) if len(values) > 1 else math.nan)


# --- Galaxy -------------------------------------------------------------------------------------

def galactic(ra, dec):
    """Galactic longitude and latitude, degrees, of ICRS positions in degrees."""
    ra, dec = np.radians(np.asarray(ra, np.float64)), np.radians(np.asarray(dec, np.float64))
    pole_ra, pole_dec = math.radians(POLE_RA), math.radians(POLE_DEC)
    sin_b = np.sin(dec) * math.sin(pole_dec) + np.cos(dec) * math.cos(pole_dec) * np.cos(ra - pole_ra)
    y = np.cos(dec) * np.sin(ra - pole_ra)
    x = np.sin(dec) * math.cos(pole_dec) - np.cos(dec) * math.sin(pole_dec) * np.cos(ra - pole_ra)
    return (POLE_LON - np.degrees(np.arctan2(y, x))) % 360, np.degrees(np.arcsin(np.clip(sin_b, -1, 1)))


def galactocentric(ra, dec, distance, r_sun=8.2, z_sun=0.0208):
    """R and Z in kpc (cylindrical, about the galactic centre) from degrees and distances in pc.

    r_sun, z_sun: the Sun's place in kpc (GRAVITY 2019 rounded; Bennett and Bovy 2019). Z is measured from the
    Sun's plane plus z_sun: the tilt of that plane, z_sun / r_sun = 0.15 degrees, is left out.
    A distance that is NaN or not positive gives NaN.
    """
    lon, lat = galactic(ra, dec)
    d = np.asarray(distance, np.float64) / 1000
    d = np.where(d > 0, d, np.nan)
    flat = d * np.cos(np.radians(lat))
    r = np.hypot(r_sun - flat * np.cos(np.radians(lon)), flat * np.sin(np.radians(lon)))
    return r, d * np.sin(np.radians(lat)) + z_sun


# --- cuts and counts ----------------------------------------------------------------------------

def cut_counts(reject, bits, considered=None):
    """What each quality cut removed: [(bit, fails, fails only this one)] over the considered rows.

    reject  (n,) integers, a set bit = a failed cut; bits: their numbers; considered: (n,) bool (all)
    """
    reject = np.asarray(reject, np.int64)
    if considered is not None:
        reject = reject[considered]
    return [(bit, int((reject >> bit & 1).sum()), int((reject == 1 << bit).sum())) for bit in bits]


# --- joins ---------------------------------------------------------------------------------------

def take(values, rows):
    """values[rows] as float64, NaN where the row is -1; values (n, ...)."""
    values = np.asarray(values, np.float64)
    out = np.full((len(rows), *values.shape[1:]), np.nan)
    out[rows >= 0] = values[rows[rows >= 0]]
    return out


def coverage(x, y, outside, x_range, y_range, bins=40):
    """Share of stars that are `outside`, in cells: (Density of all stars, share (bins, bins), NaN where empty)."""
    outside = np.asarray(outside, bool)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    everyone = density(x, y, x_range, y_range, bins)
    out = density(x[outside], y[outside], x_range, y_range, bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        return everyone, np.where(everyone.counts > 0, out.counts / everyone.counts, np.nan)


# --- pairs of stars -------------------------------------------------------------------------------

def alike_pairs(labels, width, offset, most):
    """Pairs of stars with the same labels and different offsets: [(row near 0, row above)], at most `most`.

    labels  (n, n_label); two stars are alike where each label differs by no more than `width` (n_label,)
    offset  (n,), for instance Cannon minus survey [Fe/H]; of a pair one is above the other, and nearer to 0
    Sorted by the difference of the offsets minus twice the size of the smaller one; no star stands in two pairs.
    """
    labels, offset = np.asarray(labels, np.float64), np.asarray(offset, np.float64)
    found = []
    for a in range(len(labels)):
        near = np.flatnonzero((np.abs(labels - labels[a]) <= width).all(axis=1) & (offset > offset[a])
                              & (np.abs(offset) > abs(offset[a])))
        found += [(offset[b] - offset[a] - 2 * abs(offset[a]), a, int(b)) for b in near]
    out, used = [], set()
    for score, a, b in sorted(found, reverse=True):
        if score > 0 and not {a, b} & used and len(out) < most:
            out.append((a, b))
            used |= {a, b}
    return out


def mean_and_error(values):
    """Mean of the finite values and its standard error as if they were independent; NaN for fewer than 2."""
    values = finite(values)
    if len(values) < 2:
        return math.nan, math.nan
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def features(x, difference, error, width, apart, most):
    """The `most` strongest features of a difference of two spectra: [(x, difference, significance)], strongest first.

    difference, error (n,) at x (n,), NaN where there is none; a feature is the mean of `width` neighbouring pixels
    (all of them there), its significance that mean over its error; features are at least `apart` from each other.
    """
    good = np.isfinite(difference) & np.isfinite(error)
    box = np.ones(width)
    n = np.convolve(good, box, "same")
    mean = np.convolve(np.where(good, difference, 0.0), box, "same") / width
    sigma = np.sqrt(np.convolve(np.where(good, error, 0.0) ** 2, box, "same")) / width
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.where((n == width) & (sigma > 0), np.abs(mean) / sigma, 0.0)
    out = []
    for k in np.argsort(-size, kind="stable"):
        if size[k] <= 0 or len(out) == most:
            break
        if all(abs(x[k] - found[0]) >= apart for found in out):
            out.append((float(x[k]), float(mean[k]), float(mean[k] / sigma[k])))
    return out
