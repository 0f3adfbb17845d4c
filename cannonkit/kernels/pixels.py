"""The general solver of equation 4: every iteration a pass over the pixels, in float64. Compiled.

Any terms, any number of them. It is the referee of the compressed solver in kernels/sums.py, which sends it the
stars whose sums are not good enough. Cost: about ten passes of 2 n_pix K n_label operations per star and start.
"""
import numpy as np
from numba import njit

from cannonkit.kernels.copying import copy_matrix
from cannonkit.kernels.marginal import posterior_from_pixels, whiten
from cannonkit.kernels.minimise import (
    CONVERGED,
    SINGULAR,
    SMALLEST_PIVOT,
    best_of_starts,
    factorise,
    gauss_newton_matrix,
    invert_factored,
    solve_factored,
)
from cannonkit.kernels.spectrum import is_sane, median, read_floats
from cannonkit.kernels.terms import fill_terms

# States of a star, besides those of kernels/minimise.py.
TOO_FEW_PIXELS = 3
NO_PIXELS = 4
NO_FIXED_VALUE = 5
TRY_PIXELS = 6       # of kernels/infer.py: the sums are not good enough, `fit_stars` has to do it

# Ridge on the unit-diagonal matrix of the linear solution, which is only a start.
RIDGE = 1e-6


@njit(cache=True)
def linear_start(sum_m, sum_b, linear, low, high, start):
    """Fill start (n_label,) with the linear terms of the free least-squares solution, within [low, high].

    NaN (no such start) if the matrix is singular. sum_m (K, K), sum_b (K,).
    """
    n_term = sum_b.size
    scale_by = np.empty(n_term)
    for k in range(n_term):
        scale_by[k] = np.sqrt(sum_m[k, k]) if sum_m[k, k] > 0.0 else 0.0
    acting = np.empty(n_term, dtype=np.int64)
    n_acting = 0
    for k in range(n_term):
        if scale_by[k] > 0.0:
            acting[n_acting] = k
            n_acting += 1
    acting = acting[:n_acting]
    factor = np.zeros((n_term, n_term))
    solution = np.empty(n_term)
    start.fill(np.nan)
    if acting.size == 0 or not factorise(sum_m, RIDGE, scale_by, acting, factor) > 0.0:
        return
    solve_factored(factor, scale_by, acting, sum_b, solution)
    for i in range(start.size):
        value = solution[linear[i]] if linear[i] >= 0 else 0.0
        start[i] = min(max(value, low[i]), high[i])


@njit(cache=True)
def weigh(flux, ivar, constant, s2, ivar_scale, residual, weight, ratio, ratio_s2):
    """Residuals at the pivot, weights and signal-to-noise ratios of one spectrum in float64.

    flux, ivar (n_pix,) float32 as read; residual, weight (n_pix,) float64 and ratio, ratio_s2 (n_pix,)
    float32 are filled: 0, and +inf for the ratios, where a pixel is not used. Returns (pixels used, invalid
    pixels).
    """
    n_used = 0
    n_bad = 0
    for p in range(constant.size):
        residual[p] = 0.0
        weight[p] = 0.0
        ratio[p] = np.inf
        ratio_s2[p] = np.inf
        if not is_sane(flux[p], ivar[p]):
            n_bad += ivar[p] != 0.0
            continue
        a = np.float64(ivar[p]) * ivar_scale[p]
        if a > 0.0:
            w = a / (1.0 + a * s2[p])
            n_used += 1
            weight[p] = w
            residual[p] = flux[p] - constant[p]
            ratio[p] = np.float32(flux[p]) * np.sqrt(np.float32(a))
            ratio_s2[p] = np.float32(flux[p]) * np.sqrt(np.float32(w))
    return n_used, n_bad


@njit(cache=True)
def fit_one(residual, weight, theta, starts, linear, free, fixed, low, high, label, power,
            prior_mean, prior_ivar, max_iter, x, cov, second):
    """One star by passes over its pixels. Returns (chi2, second's difference, iterations, state)."""
    n_term, n_label = theta.shape[1], x.size
    sum_m = np.zeros((n_term, n_term))
    weighted = np.empty(theta.shape)
    for p in range(weight.size):
        for k in range(n_term):
            weighted[p, k] = weight[p] * theta[p, k]
    np.dot(theta.T, weighted, sum_m)
    sum_b = np.dot(residual, weighted)
    own = np.empty(starts.shape)
    copy_matrix(starts, own)
    linear_start(sum_m, sum_b, linear, low, high, own[0])
    hold(own, free, fixed)
    hessian = np.zeros((n_label, n_label))
    chi2, delta, n_iter, state = best_of_starts(
        own, free, low, high, label, power, sum_m, sum_b, 0.0, theta, residual, weight,
        prior_mean, prior_ivar, max_iter, x, hessian, second)
    if state != SINGULAR:
        gauss_newton_matrix(x, label, power, sum_m, sum_b, 0.0, theta, residual, weight, prior_ivar,
                            hessian)
        if not covariance_of(hessian, free, cov):
            state = SINGULAR
    return chi2, delta, n_iter, state


@njit(cache=True)
def fit_marginal(residual, weight, theta, starts, linear, free, fixed, low, high, label, power,
                 prior_mean, prior_ivar, max_iter, x, cov, second, z):
    """fit_one with misfit components, the last K columns of theta, eliminated; fills z (K,) at the solution."""
    n_term = label.shape[0]
    if z.size == 0:
        return fit_one(residual, weight, theta, starts, linear, free, fixed, low, high, label, power,
                       prior_mean, prior_ivar, max_iter, x, cov, second)
    flat_residual, unit, flat_theta = whiten(residual, weight, theta, n_term)
    found = fit_one(flat_residual, unit, flat_theta, starts, linear, free, fixed, low, high, label, power,
                    prior_mean, prior_ivar, max_iter, x, cov, second)
    v, slopes = np.empty(n_term), np.empty(label.shape)
    fill_terms(x, label, power, v, slopes)
    posterior_from_pixels(residual, weight, theta, v, z)
    return found


@njit(cache=True)
def hold(starts, free, fixed):
    """Put the fixed values into every start: labels that are not in `free`."""
    for i in range(fixed.size):
        is_free = False
        for a in range(free.size):
            is_free = is_free or free[a] == i
        if not is_free:
            for s in range(starts.shape[0]):
                starts[s, i] = fixed[i]


@njit(cache=True)
def covariance_of(hessian, free, cov):
    """Fill cov with the inverse of the free part of hessian; False if that is singular."""
    n_label = hessian.shape[0]
    scale_by = np.empty(n_label)
    for i in range(n_label):
        scale_by[i] = np.sqrt(hessian[i, i]) if hessian[i, i] > 0.0 else 0.0
    factor = np.zeros((n_label, n_label))
    if not factorise(hessian, 0.0, scale_by, free, factor) > SMALLEST_PIVOT:
        return False
    invert_factored(factor, scale_by, free, cov)
    return True


@njit(cache=True)
def clear(x, cov, second, numbers, counts, z):
    """One star's outputs before anything is known: NaN and 0."""
    x.fill(np.nan)
    cov.fill(np.nan)
    second.fill(np.nan)
    numbers.fill(np.nan)
    counts.fill(0)
    z.fill(np.nan)


@njit(cache=True)
def cannot_fit(n_used, free, fixed, n_label):
    """The state of a star that is not tried, or CONVERGED if it can be."""
    if n_used == 0:
        return NO_PIXELS
    if n_used <= free.size:
        return TOO_FEW_PIXELS
    n_value = 0
    for i in range(n_label):
        n_value += np.isfinite(fixed[i])
    return CONVERGED if n_value + free.size >= n_label else NO_FIXED_VALUE


@njit(cache=True, nogil=True)
def fit_stars(first, n_row, flux_rows, flux_at, ivar_rows, ivar_at, swap, constant, theta, s2, ivar_scale, starts,
              linear, free, fixed, low, high, label, power, prior_mean, prior_ivar, max_iter,
              x, cov, second, numbers, counts, z):
    """Fit the stars first ... first + n_row - 1; arrays as in kernels/infer.py."""
    n_label = x.shape[1]
    n_pix = constant.size
    words = np.empty((2, n_pix), dtype=np.uint32)
    flux, ivar = words[0].view(np.float32), words[1].view(np.float32)
    residual, weight = np.empty(n_pix), np.empty(n_pix)
    ratio, ratio_s2 = np.empty(n_pix, dtype=np.float32), np.empty(n_pix, dtype=np.float32)
    for m in range(first, first + n_row):
        clear(x[m], cov[m], second[m], numbers[m], counts[m], z[m])
        read_floats(flux_rows[m], flux_at, swap, n_pix, words[0])
        read_floats(ivar_rows[m], ivar_at, swap, n_pix, words[1])
        n_used, n_bad = weigh(flux, ivar, constant, s2, ivar_scale, residual, weight, ratio, ratio_s2)
        numbers[m, 2] = median(ratio, n_used)
        numbers[m, 3] = median(ratio_s2, n_used)
        counts[m, 0] = n_used
        counts[m, 1] = n_bad
        state = cannot_fit(n_used, free, fixed[m], n_label)
        if state == CONVERGED:
            numbers[m, 0], numbers[m, 1], counts[m, 2], state = fit_marginal(
                residual, weight, theta, starts, linear, free, fixed[m], low, high, label, power,
                prior_mean, prior_ivar, max_iter, x[m], cov[m], second[m], z[m])
        counts[m, 3] = state
