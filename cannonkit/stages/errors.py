"""Errors from repeat observations (paper section 3.7): factor of the formal errors, precision against S/N.

The factor f of equation 6 makes (l1 - l2) / sqrt(f^2 (c1 + c2)) have unit variance about zero over pairs
of spectra of one star; c are formal variances in label units. Whatever is wrong in every spectrum of a
star alike (misfit of the polynomial, elements that are not labels) cancels: f measures repeatability,
not accuracy. Against reference labels the same formulas hold with one spectrum, (l - r) / sqrt(f^2 c + e^2),
spread about its centre. Arrays in, arrays out.

Widths are half the distance of the 15.87th and 84.13th percentiles, which is 1 for a unit Gaussian; their
relative error over n differences is 0.962 / sqrt(n). The paper's own "16-84" is 0.994 of that.
"""
import math
from typing import NamedTuple

import numpy as np

from cannonkit.kernels import repeats as kernel

ONE_SIGMA = math.erf(math.sqrt(0.5))        # 0.6827: probability within one standard deviation
WIDTH_ERROR = 0.962                          # relative error of a 16-84 half range, times sqrt(n)
OUTLIER_WIDTH = 4.0                          # an outlier population is at least this much wider
OUTLIER_SHARE = 0.06                         # and at most this part: more is the errors' own distribution


class Differences(NamedTuple):
    """Differences of two measurements of the same stars, with their formal variances, one row per pair.

    Against reference labels `second` is all zero, `extra` the variance of the reference, `symmetric` False.
    """

    value: np.ndarray       # (n, n_label) label units
    first: np.ndarray       # (n, n_label) formal variance of the first
    second: np.ndarray      # (n, n_label) formal variance of the second
    extra: np.ndarray       # (n, n_label) variance that f does not scale
    weight: np.ndarray      # (n,)
    group: np.ndarray       # (n,) int64, 0 .. n_group - 1
    n_group: int
    symmetric: bool

    def only(self, keep):
        """The rows where keep (n,) is true; groups keep their numbers."""
        return self._replace(**{k: getattr(self, k)[keep] for k in ("value", "first", "second", "extra",
                                                                   "weight", "group")})


def of_pairs(labels, variance, pairs):
    """Differences of the pairs of `stages.repeats.pairs_of`; labels, variance (n_row, n_label)."""
    a, b = pairs.first, pairs.second
    return Differences(labels[a] - labels[b], variance[a], variance[b], np.zeros((len(a), labels.shape[1])),
                       pairs.weight, pairs.group, pairs.n_group, True)


def of_reference(labels, variance, reference, reference_variance, good):
    """Differences label - reference of the good rows; every row is a group of its own with weight 1."""
    rows = np.flatnonzero(good)
    n = len(rows)
    return Differences(labels[rows] - reference[rows], variance[rows], np.zeros_like(variance[rows]),
                       reference_variance[rows], np.ones(n), np.arange(n), n, False)


# --- widths -------------------------------------------------------------------------------------------

def half_range(value, weight=None, inside=ONE_SIGMA):
    """Half the 16-84 range of values (n,) with weights (`inside` of them within); NaN if there are none."""
    value = np.asarray(value, np.float64)
    order = np.argsort(value)
    value = value[order]
    weight = np.ones(len(value)) if weight is None else np.asarray(weight, np.float64)[order]
    low = kernel.weighted_quantile(value, weight, 0.5 - 0.5 * inside)
    return 0.5 * (kernel.weighted_quantile(value, weight, 0.5 + 0.5 * inside) - low)


def symmetric_width(value, weight, inside=ONE_SIGMA):
    """16-84 width of the symmetrised values {z, -z}: the weighted 68.27 % quantile of |z|, (n,) -> float."""
    size = np.abs(value)
    order = np.argsort(size)
    return kernel.weighted_quantile(size[order], np.asarray(weight, np.float64)[order], inside)


def core_probability(z, weight, n_iter=200):
    """How probably each z (n,) belongs to the Gaussian core and not to the outliers: (n,) float64.

    A mixture of two zero-mean Gaussians, the outliers' at least OUTLIER_WIDTH times as wide and at most
    OUTLIER_SHARE of the weight, fitted by EM on a histogram of ln|z| (steps of 1 %). Variable stars and
    binaries pull the 16-84 width outwards, by
    4 % for 3 % of them; weighted with this probability it is the width of the others.
    """
    size = np.abs(z)
    scale = symmetric_width(size, weight)
    if not (np.isfinite(scale) and scale > 0):
        return np.ones(len(size))
    step = 0.01
    place = np.clip(np.floor(np.log(np.maximum(size / scale, 1e-9)) / step).astype(np.int64) + 700, 0, 1599)
    mass = np.bincount(place, weights=weight, minlength=1600)
    centre = np.exp((np.arange(1600) - 700 + 0.5) * step)
    width, wide, part = 1.0, 10.0, 0.02
    for _ in range(n_iter):
        core = _core(centre, width, wide, part)
        inside, outside = mass * core, mass * (1 - core)
        new_width = math.sqrt((inside @ centre**2) / inside.sum())
        part = min(OUTLIER_SHARE, outside.sum() / mass.sum())
        if not part > 1e-9:
            break
        wide = max(OUTLIER_WIDTH * new_width, math.sqrt((outside @ centre**2) / outside.sum()))
        change, width = abs(new_width / width - 1), new_width
        if change < 1e-7:
            break
    return _core(size / scale, width, wide, part)


def _core(size, width, wide, part):
    """Probability of the core for |z| = size."""
    inside = (1 - part) / width * np.exp(-0.5 * (size / width) ** 2)
    outside = part / wide * np.exp(-0.5 * (size / wide) ** 2)
    total = inside + outside
    return np.divide(inside, total, out=np.zeros_like(total), where=total > 0)


# --- the factor of equation 6 ----------------------------------------------------------------------

class Factor(NamedTuple):
    """The factor of one label, with its bootstrap: errors are standard deviations of the draws, lo and hi
    the 2-sigma interval f exp(-+2 s), s the standard deviation of ln f."""

    standard: float
    standard_error: float
    standard_lo: float
    standard_hi: float
    robust: float
    robust_error: float
    robust_lo: float
    robust_hi: float
    plain: float           # half of the 84th minus the 16th percentile, outliers included
    offset: float          # median difference from the reference; 0 for pairs
    n_pair: int
    n_independent: float   # sum of the weights: n - 1 per group
    n_group: int
    n_outlier: int


def factor(differences, label, n_draw=100, seed=1):
    """The Factor of one label (its column). NaN where there is no usable pair.

    standard: the closed form sqrt(sum w z^2 / sum w); robust: 16-84 of the symmetrised z with outliers
    weighted down (pairs), 16-84 about the centre of all (reference: there the tails belong to the answer).
    Pairs whose difference or variance is not finite, or without formal variance, take no part.
    """
    d = differences
    value, variance = d.value[:, label], d.first[:, label] + d.second[:, label]
    extra = d.extra[:, label]
    good = np.isfinite(value) & np.isfinite(variance) & (variance > 0) & np.isfinite(extra)
    value, variance, extra = value[good], variance[good], extra[good]
    weight, group = d.weight[good], d.group[good]
    if not len(value):
        nan = float("nan")
        return Factor(*[nan] * 10, 0, 0.0, 0, 0)
    if d.symmetric:
        offset = 0.0
        z = value / np.sqrt(variance)
        core = core_probability(z, weight)
        standard = math.sqrt(np.sum(weight * z**2) / weight.sum())
        robust = symmetric_width(z, weight * core)
        plain = symmetric_width(z, weight, 0.68)
        z_standard, z_robust, share = z, np.abs(z), 1.0
        n_outlier = int((core < 0.5).sum())
    else:
        order = np.argsort(value)
        offset = kernel.weighted_quantile(value[order], weight[order], 0.5)
        original, value = value, value - offset
        core = np.ones(len(value))
        standard = _solve(lambda f: _spread(value, variance, extra, weight, f))
        robust = _solve(lambda f: half_range(value / np.sqrt(f * f * variance + extra), weight))
        plain = _solve(lambda f: half_range(original / np.sqrt(f * f * variance + extra), weight, 0.68))
        # The same z at the solution: its spread is f, and what it says of f is diluted by `extra`.
        z_standard, share = _scaled(value, variance, extra, standard)
        z_standard = z_standard - np.average(z_standard, weights=weight)
        z_robust, robust_share = _scaled(value, variance, extra, robust)
        z_robust = np.abs(z_robust - np.median(z_robust))
        n_outlier = int((z_robust > 5 * robust).sum())
    counts = _draws(group, d.n_group, n_draw, seed)
    s_standard = _bootstrap_spread(z_standard, weight, group, counts, share)
    s_robust = _bootstrap_width(z_robust, weight * core, group, counts,
                                1.0 if d.symmetric else robust_share)
    return Factor(standard, standard * s_standard, standard * math.exp(-2 * s_standard),
                  standard * math.exp(2 * s_standard), robust, robust * s_robust,
                  robust * math.exp(-2 * s_robust), robust * math.exp(2 * s_robust), plain, offset,
                  len(value), float(weight.sum()), len(np.unique(group)), n_outlier)


def _spread(value, variance, extra, weight, f):
    z = value / np.sqrt(f * f * variance + extra)
    mean = np.average(z, weights=weight)
    return math.sqrt(np.average((z - mean) ** 2, weights=weight))


def _scaled(value, variance, extra, f):
    """(value / sqrt(variance + extra / f^2), share of f's part in the variance)."""
    if not f > 0:
        return value / np.sqrt(variance + extra), 1.0
    share = f * f * variance / (f * f * variance + extra)
    return value / np.sqrt(variance + extra / f**2), float(np.mean(share))


def _solve(width, low=1e-4, high=1e8):
    """The f at which width(f) = 1 (it falls with f): bisection in ln f; 0 if it is below 1 everywhere."""
    if not width(low) > 1:
        return 0.0
    low, high = math.log(low), math.log(high)
    while high - low > 1e-10:
        middle = 0.5 * (low + high)
        if width(math.exp(middle)) > 1:
            low = middle
        else:
            high = middle
    return math.exp(0.5 * (low + high))


def _draws(group, n_group, n_draw, seed):
    """(n_draw, n_group) int32: how often each group is drawn, of the groups that have a pair."""
    there = np.unique(group)
    rng = np.random.default_rng(seed)
    counts = np.zeros((n_draw, n_group), np.int32)
    for draw in range(n_draw):
        counts[draw] = np.bincount(there[rng.integers(0, len(there), len(there))], minlength=n_group)
    return counts


def _bootstrap_spread(z, weight, group, counts, share):
    out = np.empty(len(counts))
    kernel.bootstrap_variances(z**2, weight, group, counts, out)
    return _deviation(0.5 * np.log(out)) / share


def _bootstrap_width(size, weight, group, counts, share):
    order = np.argsort(size)
    out = np.empty(len(counts))
    kernel.bootstrap_quantiles(size[order], weight[order], group[order], counts, ONE_SIGMA, out)
    return _deviation(np.log(out)) / share


def _deviation(values):
    values = values[np.isfinite(values)]
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


# --- precision against S/N -------------------------------------------------------------------------

class Curve(NamedTuple):
    """p(snr) = a exp(-snr / b) + c in label units; a, c >= 0, b > 0. NaN: not measured.

    Above S/N `top`, the highest at which it was measured, it stays what it is there: c = 0 says that the widths
    fall up to there without a plateau, not that better spectra have no error.
    """

    a: float
    b: float
    c: float
    top: float = math.inf

    def at(self, snr):
        """Precision at S/N (n,); NaN where the S/N or the curve is."""
        with np.errstate(over="ignore"):
            return self.a * np.exp(-np.minimum(np.asarray(snr, np.float64), self.top) / self.b) + self.c


NO_CURVE = Curve(math.nan, math.nan, math.nan)


class Points(NamedTuple):
    """Half 16-84 ranges in bins of S/N; all (n_bin,)."""

    snr: np.ndarray      # median of the bin
    width: np.ndarray    # label units
    error: np.ndarray
    count: np.ndarray


def snr_bins(snr, n_bin, smallest):
    """Row indices of each bin: about equally many rows each, at least `smallest`, at most n_bin bins."""
    snr = np.asarray(snr)
    order = np.argsort(snr, kind="stable")
    n_bin = max(1, min(n_bin, len(snr) // max(1, smallest)))
    return [part for part in np.array_split(order, n_bin) if len(part)]


def precision(value, snr, best_snr, n_bin=20, smallest=20):
    """(points, paper, unbiased) of one label: Points and two Curves.

    value     (n,)  label of a star's lower-S/N spectrum minus that of its best one
    snr       (n,)  of the lower one; best_snr (n,) of the best, infinite for a reference without noise
    paper     fits the widths of the bins as they are: the best spectrum's own noise is in them
    unbiased  the curve p with which value / sqrt(p(snr)^2 + p(best_snr)^2) has width 1 in the bins: iterated
    """
    value, snr, best_snr = (np.asarray(x, np.float64) for x in (value, snr, best_snr))
    good = np.isfinite(value) & np.isfinite(snr) & ~np.isnan(best_snr)
    value, snr, best_snr = value[good], snr[good], best_snr[good]
    if len(value) < 10:
        empty = np.zeros(0)
        return Points(empty, empty, empty, np.zeros(0, np.int64)), NO_CURVE, NO_CURVE
    bins = snr_bins(snr, n_bin, smallest)
    points = Points(np.array([np.median(snr[b]) for b in bins]),
                    np.array([half_range(value[b]) for b in bins]), None, np.array([len(b) for b in bins]))
    points = points._replace(error=WIDTH_ERROR * points.width / np.sqrt(points.count))
    top = float(points.snr[-1])
    paper = fit_exponential(points.snr, points.width, points.error)._replace(top=top)
    unbiased = paper
    for _ in range(50):
        pair = np.hypot(unbiased.at(snr), np.where(np.isinf(best_snr), 0.0, unbiased.at(best_snr)))
        tiny = np.finfo(float).tiny
        ratio = np.array([half_range(value[b] / np.maximum(pair[b], tiny)) for b in bins])
        target = unbiased.at(points.snr) * ratio
        new = fit_exponential(points.snr, target, WIDTH_ERROR * target / np.sqrt(points.count))._replace(top=top)
        moved = np.max(np.abs(new.at(points.snr) - unbiased.at(points.snr)) / np.maximum(points.error, tiny))
        unbiased = new
        if moved < 1e-3:
            break
    return points, paper, unbiased


def fit_exponential(snr, width, error):
    """The Curve with the least chi-square to widths (n,), a, c >= 0. For each b the problem is linear in
    a and c; b is scanned from the first step in S/N (a steeper rise cannot be seen, and would run away below
    the lowest bin) to ten times the range, then refined."""
    snr, width, error = (np.asarray(x, np.float64) for x in (snr, width, error))
    good = np.isfinite(width) & np.isfinite(snr)
    snr, width = snr[good], width[good]
    error = np.where(error[good] > 0, error[good], np.maximum(1e-6 * width.max(initial=0), 1e-300))
    weight = 1 / (error / error.max(initial=0)) ** 2 if len(error) else error
    if not len(snr):
        return NO_CURVE
    flat = Curve(0.0, 1.0, float(np.average(width, weights=weight)))
    span = float(np.ptp(snr))
    if len(snr) < 3 or not span > 0:
        return flat

    def best(b):
        # Relative to the lowest S/N, so that a large a does not overflow.
        e = np.exp(-(snr - snr[0]) / b)
        return min((_chi2(a, c, e, width, weight), a, c) for a, c in _linear(e, width, weight))

    grid = np.geomspace(min(max(snr[1] - snr[0], span / 100), span), span * 10, 120)
    k = int(np.argmin([best(b)[0] for b in grid]))
    low, high = math.log(grid[max(0, k - 1)]), math.log(grid[min(len(grid) - 1, k + 1)])
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if best(math.exp(left))[0] <= best(math.exp(right))[0]:
            high = right
        else:
            low = left
    b = math.exp(0.5 * (low + high))
    _, a, c = best(b)
    if a == 0:
        return Curve(0.0, 1.0, c)
    return Curve(a * math.exp(min(700.0, snr[0] / b)), b, c)


def _chi2(a, c, e, width, weight):
    return float(np.sum(weight * (width - a * e - c) ** 2))


def _linear(e, width, weight):
    """Candidates (a, c) of the least squares of width on (e, 1) with a, c >= 0."""
    see, se, s = np.sum(weight * e * e), np.sum(weight * e), np.sum(weight)
    sey, sy = np.sum(weight * e * width), np.sum(weight * width)
    found = [(0.0, max(0.0, sy / s)), (max(0.0, sey / see) if see > 0 else 0.0, 0.0)]
    determinant = see * s - se * se
    if determinant > 1e-12 * see * s:
        a, c = (s * sey - se * sy) / determinant, (see * sy - se * sey) / determinant
        if a >= 0 and c >= 0:
            found.append((a, c))
    return [(float(a), float(c)) for a, c in found]


# --- final errors -----------------------------------------------------------------------------------

def final_error(formal, snr, factors, curves):
    """(error, from_precision): max(f formal, precision(snr)), (n, n_label) float64 and bool.

    formal   (n, n_label)  formal errors in label units; NaN (a failed fit) gives NaN
    snr      (n,)          the survey's S/N; without one the factor alone counts
    factors  (n_label,)    f; curves: n_label Curves, of NaN where the precision was not measured
    """
    formal = np.asarray(formal, np.float64)
    scaled = formal * np.asarray(factors, np.float64)
    floor = np.stack([curve.at(snr) for curve in curves], axis=1)
    return np.where(np.isnan(scaled), np.nan, np.fmax(scaled, floor)), floor > scaled


def scaled_covariance(cov, formal, error):
    """Covariance (n, n_label, n_label) with the diagonal error^2 and the correlations of `cov`.

    formal = sqrt of cov's diagonal, error (n, n_label). A label without formal error gives NaN in its row
    and column. The matrix stays positive semi-definite, so errors of derived quantities can be computed.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(formal > 0, error / formal, np.nan)
    return cov * ratio[:, :, None] * ratio[:, None, :]


# --- pulls in bins -----------------------------------------------------------------------------------

class Bin(NamedTuple):
    """Pulls of one label in one bin of one quantity."""

    low: float
    high: float
    centre: float          # median
    n_pair: int
    n_independent: float
    widths: tuple          # 16-84 width of the pulls under each error model
    error: float           # standard error of a width of 1


def pull_bins(pulls, weight, x, n_bin=10):
    """Bins of about equally many pairs in x (n,): a list of Bin.

    pulls: one (n,) array of value / error per error model, about zero: a bias that only one bin has widens
    it. Rows with a NaN pull or x take no part.
    """
    good = np.isfinite(x) & np.all([np.isfinite(p) for p in pulls], axis=0)
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(x[rows], kind="stable")]
    found = []
    for part in np.array_split(rows, n_bin):
        if not len(part):
            continue
        n = float(weight[part].sum())
        widths = tuple(symmetric_width(p[part], weight[part]) for p in pulls)
        found.append(Bin(float(x[part[0]]), float(x[part[-1]]), float(np.median(x[part])), len(part), n,
                         widths, WIDTH_ERROR / math.sqrt(n)))
    return found
