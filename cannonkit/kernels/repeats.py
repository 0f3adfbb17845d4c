"""Pairs of repeat observations, and weighted quantiles of many bootstrap draws. Compiled."""
import numpy as np
from numba import njit, prange


@njit(cache=True)
def fill_pairs(start, size, first, second, group):
    """All pairs within each group of consecutive rows.

    start, size            (n_group,) int64: rows start[g] .. start[g] + size[g] - 1
    first, second, group   (n_pair,)  int64, output; n_pair = sum of size (size - 1) / 2
    """
    k = 0
    for g in range(start.size):
        for a in range(size[g]):
            for b in range(a + 1, size[g]):
                first[k] = start[g] + a
                second[k] = start[g] + b
                group[k] = g
                k += 1


@njit(cache=True)
def _quantile(value, weight, total, fraction):
    """Value below which `fraction` of the weight lies: value is sorted, a point's weight is centred on it."""
    target = fraction * total
    below = 0.0
    last_value, last_place = np.nan, 0.0
    for k in range(value.size):
        if weight[k] <= 0:
            continue
        place = below + 0.5 * weight[k]
        if place >= target:
            if np.isnan(last_value) or place == last_place:
                return value[k]
            return last_value + (value[k] - last_value) * (target - last_place) / (place - last_place)
        below += weight[k]
        last_value, last_place = value[k], place
    return last_value


@njit(cache=True)
def weighted_quantile(value, weight, fraction):
    """Weighted quantile of sorted values (n,), float64; NaN without weight. Linear between points, each
    of which stands at the middle of its weight; with equal weights, numpy's method 'hazen'."""
    total = 0.0
    for k in range(weight.size):
        total += weight[k]
    if not total > 0:
        return np.nan
    return _quantile(value, weight, total, fraction)


@njit(parallel=True, cache=True)
def bootstrap_quantiles(value, weight, group, counts, fraction, out):
    """Fill `out` (n_draw,) with the weighted quantile of each bootstrap draw over groups.

    value   (n,)  float64, sorted; weight (n,) float64; group (n,) int64: the group of each value
    counts  (n_draw, n_group)  how often each group is drawn
    Parallel over draws, each writing its own number.
    """
    for draw in prange(counts.shape[0]):
        w = np.empty(value.size)
        total = 0.0
        for k in range(value.size):
            w[k] = weight[k] * counts[draw, group[k]]
            total += w[k]
        out[draw] = _quantile(value, w, total, fraction) if total > 0 else np.nan


@njit(parallel=True, cache=True)
def bootstrap_variances(square, weight, group, counts, out):
    """Fill `out` (n_draw,) with sum(weight square) / sum(weight) of each bootstrap draw over groups."""
    for draw in prange(counts.shape[0]):
        total, norm = 0.0, 0.0
        for k in range(square.size):
            w = weight[k] * counts[draw, group[k]]
            total += w * square[k]
            norm += w
        out[draw] = total / norm if norm > 0 else np.nan
