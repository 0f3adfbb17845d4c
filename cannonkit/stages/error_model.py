"""Errors as smooth functions of S/N, Teff, log g and [Fe/H] (`--error-model full`, beyond the paper).

    error = g(x) sqrt((f formal)^2 + floor^2),   ln g(x) = sum of functions of one and of two quantities

so f(x) = f g(x) and the floor of the precision, floor g(x), vary together over the labels. Each function is
linear between nodes (ln S/N for the S/N) and constant beyond the outermost ones. It is found by matching
widths: in turn, at every node of every function, the 16-84 width of the pulls around the node (weighted with
the hat of the node) is made 1. A node's step is shrunk by tau^2 / (tau^2 + v), v = 0.925 / n the variance of
ln width over n pairs and tau^2 the variance among the nodes of that function that v does not explain: a
function that the data do not ask for becomes 0, and a sparse corner falls back to the global value.

A pair's two spectra have different x; each counts with its share of the pair's variance. Outliers are
weighted down as for f. Widths, not squares, are matched: the calibration is that of the core.
"""
import itertools
import math
from typing import NamedTuple

import numpy as np

from cannonkit.stages import errors as stage

N_NODE = 16             # nodes of a function of one quantity
N_NODE_TWO = 4, 6       # fewest and most nodes along each side of a function of two
CELL = 60               # between them, so many independent differences a node
LOG_AXES = ("snr",)
WIDTH_VARIANCE = stage.WIDTH_ERROR ** 2
_STEP, _HALF = 0.02, 250   # histogram of ln|z|: -5 to 5


class Function(NamedTuple):
    """A function of one (second axis -1) or two quantities: values of ln g at its nodes."""

    first: int             # place among the axes
    second: int            # or -1
    first_nodes: np.ndarray
    second_nodes: np.ndarray
    value: np.ndarray      # (n_first,) or (n_first, n_second)
    count: np.ndarray      # pairs behind each node, same shape


class ErrorModel(NamedTuple):
    """The full model of one label."""

    factor: float          # f
    floor: float           # label units
    axes: tuple            # names: snr, teff, logg, fe_h
    functions: tuple       # of Function

    def log_scale(self, x):
        """ln g (n,) at x (n, n_axis), in the axes' units; a quantity that is NaN adds nothing."""
        x = transform(self.axes, x)
        total = np.zeros(len(x))
        for function in self.functions:
            index, share = _hats(function, x)
            total += np.sum(function.value.reshape(-1)[index] * share, axis=1)
        return total

    def error(self, formal, x):
        """Final error (n,) of the formal error (n,); NaN stays NaN."""
        return np.exp(self.log_scale(x)) * np.hypot(self.factor * np.asarray(formal, np.float64), self.floor)


def transform(axes, x):
    """x with the logarithm of S/N; not finite where S/N is not positive."""
    x = np.array(x, np.float64)
    for j, name in enumerate(axes):
        if name in LOG_AXES:
            with np.errstate(divide="ignore", invalid="ignore"):
                x[:, j] = np.where(x[:, j] > 0, np.log(x[:, j]), np.nan)
    return x


def _hat(x, nodes):
    """(index (n, 2), share (n, 2)) of the two nodes around x; share 0 where x is NaN."""
    known = np.isfinite(x)
    inside = np.clip(np.where(known, x, nodes[0]), nodes[0], nodes[-1])
    left = np.clip(np.searchsorted(nodes, inside, side="right") - 1, 0, len(nodes) - 2)
    right_share = (inside - nodes[left]) / (nodes[left + 1] - nodes[left])
    share = np.stack([1 - right_share, right_share], axis=1) * known[:, None]
    return np.stack([left, left + 1], axis=1), share


def _hats(function, x):
    """(index (n, 2 or 4) into the flattened values, share) of the nodes around each x."""
    index, share = _hat(x[:, function.first], function.first_nodes)
    if function.second < 0:
        return index, share
    index_2, share_2 = _hat(x[:, function.second], function.second_nodes)
    n = len(function.second_nodes)
    both = index[:, :, None] * n + index_2[:, None, :]
    return both.reshape(len(x), 4), (share[:, :, None] * share_2[:, None, :]).reshape(len(x), 4)


def _nodes(x, n_node):
    """Nodes at equal shares of the values, the outermost at 2 and 98 %; fewer where values repeat."""
    x = x[np.isfinite(x)]
    if not len(x):
        return np.zeros(0)
    nodes = np.unique(np.quantile(x, np.linspace(0.02, 0.98, n_node)))
    span = nodes[-1] - nodes[0]
    if not span > 1e-9 * max(1.0, abs(nodes[0])):
        return np.zeros(0)
    keep = np.append(True, np.diff(nodes) > 1e-3 * span)
    return nodes[keep]


def _node_widths(log_size, mass, index, share, n_node):
    """(ln of the 68.27 % quantile of exp(log_size), effective number) at every node, by histograms."""
    place = np.clip(np.floor(log_size / _STEP).astype(np.int64) + _HALF, 0, 2 * _HALF - 1)
    histogram = np.zeros((n_node, 2 * _HALF))
    number = np.zeros(n_node)
    square = np.zeros(n_node)
    for k in range(index.shape[1]):
        w = mass * share[:, k]
        histogram += np.bincount(index[:, k] * (2 * _HALF) + place, weights=w,
                                 minlength=n_node * 2 * _HALF).reshape(n_node, -1)
        number += np.bincount(index[:, k], weights=w, minlength=n_node)
        square += np.bincount(index[:, k], weights=mass * share[:, k] ** 2, minlength=n_node)
    total = np.cumsum(histogram, axis=1)
    log_width = np.zeros(n_node)
    for k in range(n_node):
        if number[k] > 0:
            target = stage.ONE_SIGMA * total[k, -1]
            place = int(np.searchsorted(total[k], target))
            place = min(place, 2 * _HALF - 1)
            before = total[k, place - 1] if place else 0.0
            inside = histogram[k, place]
            part = (target - before) / inside if inside > 0 else 0.5
            log_width[k] = (place + part - _HALF) * _STEP
    # Kish: hats and shares make some pairs count less, so fewer pairs stand behind the width.
    effective = np.divide(number**2, square, out=np.zeros(n_node), where=square > 0)
    return log_width, effective


def _shrunk(raw, effective):
    """Node values shrunk towards 0 by what their scatter tells (empirical Bayes)."""
    there = effective > 0
    if not there.any():
        return np.zeros_like(raw)
    variance = WIDTH_VARIANCE / np.maximum(effective, 1e-9)
    weight = np.where(there, effective, 0.0)
    # Only nodes that say something about the spread: one in a corner must not set it.
    spread = float(np.sum(weight * (raw**2 - variance)) / weight.sum())
    # One standard deviation of that estimate is left off, so that noise alone seldom makes a function.
    spread -= math.sqrt(2 * np.sum((weight * variance) ** 2)) / weight.sum()
    spread = max(0.0, spread)
    return np.where(there, raw * spread / (spread + variance), 0.0)


def fit(differences, label, x_first, x_second, axes, factor, curve=None, n_sweep=25):
    """The ErrorModel of one label.

    differences        stages.errors.Differences
    label              the label's column
    x_first, x_second  (n, n_axis) quantities of the two spectra of each pair, in the axes' units
    axes               their names
    factor             f to start from (robust); curve: the unbiased precision Curve, whose plateau is the
                       scale of the floors that are tried
    """
    d = differences
    value = d.value[:, label]
    first, second, extra = d.first[:, label], d.second[:, label], d.extra[:, label]
    good = np.isfinite(value) & (first + second > 0) & np.isfinite(first + second + extra)
    if not d.symmetric:
        value = value - np.median(value[good]) if good.any() else value
    value, first, second, extra = value[good], first[good], second[good], extra[good]
    weight = d.weight[good]
    if len(value) < 50 or not (np.isfinite(factor) and factor > 0):
        return ErrorModel(factor, 0.0, tuple(axes), ())
    floor = _floor(value, first, second, extra, weight, factor, curve, d.symmetric)
    base_1, base_2 = factor**2 * first + floor**2, np.where(second > 0, factor**2 * second + floor**2, 0.0)
    x = np.concatenate([transform(axes, x_first[good]), transform(axes, x_second[good])])
    functions = _empty_functions(x, len(axes), weight.sum())
    hats = [_hats(function, x) for function in functions]
    log_global, n = 0.0, len(value)
    log_g = np.zeros(2 * n)
    parts = [np.zeros(2 * n) for _ in functions]
    counts = [np.zeros(function.value.size) for function in functions]
    for sweep in range(n_sweep):
        largest = 0.0
        for k in range(-1, len(functions)):
            variance_1 = base_1 * np.exp(2 * (log_global + log_g[:n]))
            variance_2 = base_2 * np.exp(2 * (log_global + log_g[n:]))
            total = variance_1 + variance_2 + extra
            z = value / np.sqrt(total)
            if k < 0:
                mass = weight * stage.core_probability(z, weight, 30) if d.symmetric else weight
                # The whole width: what the functions, shrunk to mean 0, leave over.
                log_global += math.log(max(1e-12, stage.symmetric_width(z, mass)))
                continue
            log_size = np.log(np.maximum(np.abs(z), 1e-12))
            both = np.concatenate([mass * variance_1 / total, mass * variance_2 / total])
            index, share = hats[k]
            old = functions[k].value.reshape(-1)
            width, effective = _node_widths(np.concatenate([log_size, log_size]), both, index, share,
                                            old.size)
            raw = old + width
            mean = np.sum(raw * effective) / effective.sum() if effective.sum() > 0 else 0.0
            new = _shrunk(raw - mean, effective)
            # Half steps: functions of related quantities (Teff, log g) would otherwise overshoot together.
            new = old + 0.5 * (new - old)
            functions[k] = functions[k]._replace(value=new.reshape(functions[k].value.shape))
            counts[k] = effective
            part = np.sum(new[index] * share, axis=1)
            log_g += part - parts[k]
            parts[k] = part
            largest = max(largest, float(np.max(np.abs(new - old), initial=0.0)))
        if sweep and largest < 2e-3:
            break
    scale = math.exp(log_global)
    functions = tuple(function._replace(count=count.reshape(function.value.shape))
                      for function, count in zip(functions, counts, strict=True))
    return ErrorModel(factor * scale, floor * scale, tuple(axes), functions)


def _empty_functions(x, n_axis, n_independent):
    """Zero functions of every quantity, then of every pair of them."""
    side = int(np.clip(round(math.sqrt(n_independent / CELL)), *N_NODE_TWO))
    nodes = [_nodes(x[:, j], N_NODE) for j in range(n_axis)]
    coarse = [_nodes(x[:, j], side) for j in range(n_axis)]
    functions = [Function(j, -1, nodes[j], np.zeros(0), np.zeros(len(nodes[j])), np.zeros(len(nodes[j])))
                 for j in range(n_axis) if len(nodes[j]) > 1]
    for i, j in itertools.combinations(range(n_axis), 2):
        if len(coarse[i]) > 1 and len(coarse[j]) > 1:
            shape = (len(coarse[i]), len(coarse[j]))
            functions.append(Function(i, j, coarse[i], coarse[j], np.zeros(shape), np.zeros(shape)))
    return functions


def _floor(value, first, second, extra, weight, factor, curve, symmetric):
    """The floor under the formal errors, in label units: of some trial values the most probable one.

    Of error models with pulls of the same width the better one has the smaller mean ln(error)."""
    scale = curve.c if curve is not None and np.isfinite(curve.c) and curve.c > 0 else \
        factor * math.sqrt(np.median(first))
    best, best_score, gain = 0.0, math.inf, 3.0 / weight.sum()
    for part in np.append(0.0, np.geomspace(0.1, 3.0, 16)):
        floor = part * scale
        both = np.where(second > 0, 2.0, 1.0)
        sigma = np.sqrt(factor**2 * (first + second) + both * floor**2 + extra)
        width = stage.symmetric_width(value / sigma, weight)
        score = math.log(max(width, 1e-300)) + np.average(np.log(sigma), weights=weight)
        # A floor must earn its place: 3 in the logarithm of the likelihood over no floor at all.
        if score < best_score - (gain if best == 0.0 and part > 0 else 0.0):
            best, best_score = floor, score
    return best
