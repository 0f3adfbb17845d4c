"""Small symmetric systems, one per pixel: Cholesky, minimum norm, Lasso and bounds. Compiled.

A matrix is n_term x n_term with some terms switched off (`active` 0: the coefficient is zero and not fitted).
Terms are brought to unit diagonal first, so that the pivots of the factorisation are 1 - R^2 of a term on the
terms before it: a pivot below TOLERANCE is a dependent term.
Cost: n_term^3 / 3 for the factor, 2 n_term^2 for a solution.
"""
import numpy as np
from numba import njit

# Sums may be regrouped for the vector units; NaN and infinity keep their meaning.
REGROUP = {"reassoc", "contract", "nsz"}

TOLERANCE = 1e-10     # of a term's own spread squared; rounding of the sums leaves about 1e-14


@njit(cache=True, fastmath=REGROUP)
def cholesky(matrix, active, tolerance, factor, scale):
    """Lower Cholesky factor at unit diagonal; False, with `factor` unfinished, where a pivot is not above `tolerance`.

    Arguments as in `factorise`.
    """
    n_term = matrix.shape[0]
    for i in range(n_term):
        on = active[i] != 0 and matrix[i, i] > 0.0
        scale[i] = 1.0 / np.sqrt(matrix[i, i]) if on else 0.0
    for i in range(n_term):
        if active[i] != 0 and scale[i] == 0.0:
            return False
    for j in range(n_term):
        if scale[j] == 0.0:
            for i in range(n_term):
                factor[i, j] = 0.0
                factor[j, i] = 0.0
            factor[j, j] = 1.0
            continue
        pivot = 1.0
        for k in range(j):
            pivot -= factor[j, k] * factor[j, k]
        if not pivot > tolerance:
            return False
        root = np.sqrt(pivot)
        factor[j, j] = root
        for i in range(j + 1, n_term):
            if scale[i] == 0.0:
                factor[i, j] = 0.0
                continue
            value = matrix[i, j] * scale[i] * scale[j]
            for k in range(j):
                value -= factor[i, k] * factor[j, k]
            factor[i, j] = value / root
    return True


@njit(cache=True, fastmath=REGROUP)
def factorise(matrix, active, factor, scale):
    """Factorise a matrix of normal equations. Returns how many active terms are dependent.

    matrix  (n_term, n_term)  float64, symmetric, finite; untouched
    active  (n_term,)         uint8
    factor  (n_term, n_term)  float64, output: lower Cholesky factor at unit diagonal or, when the return
                              value is not 0, the pseudo-inverse (minimum norm at unit diagonal)
    scale   (n_term,)         float64, output: 1 / sqrt(diagonal), 0 for terms that are switched off
    """
    if cholesky(matrix, active, TOLERANCE, factor, scale):
        return 0
    n_term = matrix.shape[0]
    unit = np.empty((n_term, n_term))
    n_active = 0
    for i in range(n_term):
        n_active += active[i] != 0
        for j in range(n_term):
            unit[i, j] = matrix[i, j] * scale[i] * scale[j]
    values, vectors = np.linalg.eigh(unit)
    factor[:] = 0.0
    rank = 0
    for e in range(n_term):
        if values[e] > TOLERANCE * n_term:
            rank += 1
            for i in range(n_term):
                part = vectors[i, e] * scale[i] / values[e]
                for j in range(n_term):
                    factor[i, j] += part * vectors[j, e] * scale[j]
    return max(1, n_active - rank)


@njit(cache=True, fastmath=REGROUP)
def solve(n_dependent, factor, scale, right, solution):
    """Fill `solution` (n_term,) with matrix^-1 right; zero where a term is switched off."""
    n_term = right.shape[0]
    if n_dependent > 0:
        for i in range(n_term):
            value = 0.0
            for j in range(n_term):
                value += factor[i, j] * right[j]
            solution[i] = value
        return
    for i in range(n_term):
        value = right[i] * scale[i]
        for k in range(i):
            value -= factor[i, k] * solution[k]
        solution[i] = value / factor[i, i]
    for i in range(n_term - 1, -1, -1):
        value = solution[i]
        for k in range(i + 1, n_term):
            value -= factor[k, i] * solution[k]
        solution[i] = value / factor[i, i]
    for i in range(n_term):
        solution[i] *= scale[i]


@njit(cache=True)
def trace_of_ratio(n_dependent, factor, scale, matrix):
    """tr(A^-1 matrix) for the factorised A: the derivative of ln|A| along `matrix`."""
    n_term = matrix.shape[0]
    column = np.empty(n_term)
    trace = 0.0
    for j in range(n_term):
        solve(n_dependent, factor, scale, matrix[j], column)
        trace += column[j]
    return trace


@njit(cache=True)
def log_determinant(n_dependent, factor, scale):
    """ln|A| over the active terms of the factorised A (pseudo-determinant is not needed: 0 then)."""
    value = 0.0
    if n_dependent == 0:
        for i in range(scale.shape[0]):
            if scale[i] > 0.0:
                value += 2.0 * (np.log(factor[i, i]) - np.log(scale[i]))
    return value


@njit(cache=True)
def _coordinate(rest, diagonal, penalty, low, high):
    """Minimum over one coefficient of diagonal t^2 - 2 rest t + penalty |t| within [low, high]."""
    half = 0.5 * penalty
    if rest > half:
        value = (rest - half) / diagonal
    elif rest < -half:
        value = (rest + half) / diagonal
    else:
        value = 0.0
    return min(max(value, low), high)


@njit(cache=True)
def lasso(matrix, right, active, penalty, low, high, max_sweep, tolerance, theta):
    """Minimise theta'M theta - 2 right'theta + sum_k penalty_k |theta_k| with low <= theta <= high.

    Cyclic coordinate descent with exact zeros. Once a sweep gains little, the free coefficients (neither zero
    by the penalty nor at a bound) are solved for together, kept where signs and bounds agree; a sweep right
    after that which gains no more than `tolerance` proves the optimum to that accuracy, in units
    of the objective. Where the free terms are dependent, sweeps go on to a millionth of `tolerance`.
    `theta` is the start and the output. Returns the number of sweeps, max_sweep + 1 if not converged.

    matrix (n_term, n_term), right (n_term,), active (n_term,) uint8, penalty, low, high (n_term,) float64;
    0 need not lie within [low, high]; terms that are switched off stay 0, those without any weight go as near to it
    as the bounds allow.
    """
    n_term = right.shape[0]
    gradient = right.copy()                      # right - M theta
    for i in range(n_term):
        value = theta[i] if matrix[i, i] > 0.0 else 0.0
        theta[i] = min(max(value, low[i]), high[i]) if active[i] != 0 else 0.0
    for i in range(n_term):
        if theta[i] != 0.0:
            for j in range(n_term):
                gradient[j] -= matrix[j, i] * theta[i]
    free = np.zeros(n_term, np.uint8)
    trial = np.empty(n_term)
    factor = np.empty((n_term, n_term))
    scale = np.empty(n_term)
    solved = False
    for sweep in range(max_sweep):
        gain = 0.0
        for i in range(n_term):
            if active[i] == 0 or matrix[i, i] <= 0.0:
                continue
            rest = gradient[i] + matrix[i, i] * theta[i]
            value = _coordinate(rest, matrix[i, i], penalty[i], low[i], high[i])
            step = value - theta[i]
            if step != 0.0:
                theta[i] = value
                gain += matrix[i, i] * step * step
                for j in range(n_term):
                    gradient[j] -= matrix[j, i] * step
        if gain <= (tolerance if solved else 1e-6 * tolerance):
            return sweep + 1
        solved = False
        if gain > 1e6 * tolerance and sweep % 8 != 7:
            continue
        for i in range(n_term):
            free[i] = (active[i] != 0 and matrix[i, i] > 0.0 and low[i] < theta[i] < high[i]
                       and (theta[i] != 0.0 or penalty[i] == 0.0))
        if factorise(matrix, free, factor, scale) == 0:
            solved = _solve_free(matrix, right, free, penalty, low, high, factor, scale, trial, theta)
            if solved:
                for j in range(n_term):
                    gradient[j] = right[j]
                    for i in range(n_term):
                        gradient[j] -= matrix[j, i] * theta[i]
    return max_sweep + 1


@njit(cache=True)
def _solve_free(matrix, right, free, penalty, low, high, factor, scale, trial, theta):
    """Solve for the free coefficients with signs and the others held; True if `theta` took the solution."""
    n_term = right.shape[0]
    rest = np.empty(n_term)
    for i in range(n_term):
        sign = 1.0 if theta[i] > 0.0 else -1.0 if theta[i] < 0.0 else 0.0
        rest[i] = right[i] - 0.5 * penalty[i] * sign
    for i in range(n_term):
        if free[i] == 0 and theta[i] != 0.0:
            for j in range(n_term):
                rest[j] -= matrix[j, i] * theta[i]
    solve(0, factor, scale, rest, trial)
    for i in range(n_term):
        if free[i] != 0:
            if not low[i] <= trial[i] <= high[i] or (penalty[i] > 0.0 and trial[i] * theta[i] <= 0.0):
                return False
    for i in range(n_term):
        if free[i] != 0:
            theta[i] = trial[i]
    return True
