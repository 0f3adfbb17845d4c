"""Equation 4 for one star: normal equations from sums or from pixels, damped Newton, several starts.
Compiled.

With r = F - theta_0 (the constant term taken off) the objective is
    chi2(x) = sum_p w_p (r_p - theta_p.v(x))^2 = c - 2 b.v + v'M v,
    c = sum w r^2,  b = theta' w r,  M = theta' W theta,
so u = M v - b is half its gradient in v, and H = dv' M dv is the Gauss-Newton matrix (J'WJ, whose inverse is
the covariance). `u` and H come either from the sums (n_term^2 operations) or from a pass over the pixels
(the general way and the referee); everything after that is shared. Each step solves (H + curvature) dx =
-dv'u, where the curvature u.d2v is left out as long as it makes the matrix indefinite (then the step is
Gauss-Newton's); Levenberg's damping is added after a step that did not lower the objective. A Gaussian prior
per label adds prior_ivar (x - prior_mean)^2 to the objective. Labels that are not in `free` keep their value.
"""
import numpy as np
from numba import njit

from cannonkit.kernels.copying import copy_matrix, copy_vector
from cannonkit.kernels.terms import add_curvature, fill_terms

CONVERGED = 0
ITERATION_LIMIT = 1
SINGULAR = 2
KNOWN = -1          # of a start only: it leads to a minimum that another start has found

# A step that lowers the objective by less than (1e-3 of an error bar)^2 is the last one: Newton steps
# converge quadratically, so what is left after it is far below the 1e-3 that is promised.
TOLERANCE = 1e-6
# No step moves a label by more than this many of its training ranges.
LONGEST_STEP = 1.0
# A label this many training ranges away from the median is no solution.
FARTHEST = 20.0
# A pivot of the unit-diagonal normal matrix below this: some label is a combination of the others.
SMALLEST_PIVOT = 1e-10
# Two solutions are different minima when they are more than this many error bars apart.
DIFFERENT = 0.5


@njit(cache=True)
def _from_sums(v, gradient, label, sum_m, sum_b, sum_c, u, work, hessian):
    """chi2, and fill u (n_term,) and hessian (n_label, n_label), from the sums.

    work (2, n_label + 1, n_term) takes dv/dx with v as its last row, and their products with M.
    """
    n_term, n_factor = label.shape
    n_label = hessian.shape[0]
    slopes, product = work[0], work[1]
    slopes.fill(0.0)
    for k in range(n_term):
        slopes[n_label, k] = v[k]
        for f in range(n_factor):
            if label[k, f] >= 0:
                slopes[label[k, f], k] += gradient[k, f]
    np.dot(slopes, sum_m, product)
    chi2 = sum_c
    hessian.fill(0.0)
    for k in range(n_term):
        u[k] = product[n_label, k] - sum_b[k]
        chi2 += v[k] * (u[k] - sum_b[k])
        for f in range(n_factor):
            i = label[k, f]
            if i < 0:
                break
            for j in range(n_label):
                hessian[i, j] += gradient[k, f] * product[j, k]
    return chi2


@njit(cache=True)
def _from_pixels(v, gradient, label, theta, residual, weight, u, work, hessian):
    """The same from the pixels: theta (n_pix, n_term), residual r and weight (n_pix,), all float64."""
    n_term, n_factor = label.shape
    n_label = hessian.shape[0]
    dense = np.zeros((n_term, n_label))
    for k in range(n_term):
        for f in range(n_factor):
            if label[k, f] >= 0:
                dense[k, label[k, f]] += gradient[k, f]
    left = np.empty(residual.size)
    np.dot(theta, v, left)
    chi2 = 0.0
    for p in range(left.size):
        left[p] = residual[p] - left[p]
        chi2 += weight[p] * left[p] * left[p]
        left[p] *= weight[p]
    np.dot(left, theta, u)
    for k in range(n_term):
        u[k] = -u[k]
    jacobian = np.empty((left.size, n_label))
    np.dot(theta, dense, jacobian)
    hessian.fill(0.0)
    for p in range(left.size):
        if weight[p] > 0.0:
            for i in range(n_label):
                slope = weight[p] * jacobian[p, i]
                for j in range(i + 1):
                    hessian[i, j] += slope * jacobian[p, j]
    for i in range(n_label):
        for j in range(i):
            hessian[j, i] = hessian[i, j]
    return chi2


@njit(cache=True)
def _equations(x, label, power, sum_m, sum_b, sum_c, theta, residual, weight,
               prior_mean, prior_ivar, v, gradient, u, work, hessian, full, slope):
    """chi2 and objective at x; fill hessian (Gauss-Newton), full (with curvature), slope = -gradient / 2."""
    n_label = x.size
    fill_terms(x, label, power, v, gradient)
    if residual.size > 0:
        chi2 = _from_pixels(v, gradient, label, theta, residual, weight, u, work, hessian)
    else:
        chi2 = _from_sums(v, gradient, label, sum_m, sum_b, sum_c, u, work, hessian)
    objective = chi2
    slope.fill(0.0)
    for k in range(label.shape[0]):
        for f in range(label.shape[1]):
            if label[k, f] < 0:
                break
            slope[label[k, f]] -= gradient[k, f] * u[k]
    for i in range(n_label):
        if prior_ivar[i] > 0.0:
            away = x[i] - prior_mean[i]
            objective += prior_ivar[i] * away * away
            slope[i] -= prior_ivar[i] * away
            hessian[i, i] += prior_ivar[i]
    copy_matrix(hessian, full)
    add_curvature(x, label, power, u, full)
    return chi2, objective


@njit(cache=True)
def factorise(matrix, damping, scale_by, free, factor):
    """Cholesky factor of the free part of matrix, scaled to unit diagonal by scale_by; its smallest pivot.

    factor (n_label, n_label) takes the lower triangle; `damping` is added to the unit diagonal. A pivot that
    is not positive is returned as it is (the factor is then of no use).
    """
    n_free = free.size
    smallest = 1.0
    for a in range(n_free):
        if not scale_by[free[a]] > 0.0:
            return -1.0
        for b in range(a + 1):
            s = matrix[free[a], free[b]] / (scale_by[free[a]] * scale_by[free[b]])
            if a == b:
                s += damping
            for k in range(b):
                s -= factor[a, k] * factor[b, k]
            if a == b:
                if not s > 0.0:
                    return -1.0
                smallest = min(smallest, s)
                factor[a, a] = np.sqrt(s)
            else:
                factor[a, b] = s / factor[b, b]
    return smallest


@njit(cache=True)
def solve_factored(factor, scale_by, free, slope, step):
    """Fill step (n_label,) with the solution for right side `slope`; zero for labels that are not free."""
    n_free = free.size
    step.fill(0.0)
    for a in range(n_free):
        s = slope[free[a]] / scale_by[free[a]]
        for k in range(a):
            s -= factor[a, k] * step[free[k]]
        step[free[a]] = s / factor[a, a]
    for a in range(n_free - 1, -1, -1):
        s = step[free[a]]
        for k in range(a + 1, n_free):
            s -= factor[k, a] * step[free[k]]
        step[free[a]] = s / factor[a, a]
    for a in range(n_free):
        step[free[a]] /= scale_by[free[a]]


@njit(cache=True)
def invert_factored(factor, scale_by, free, covariance):
    """Fill covariance (n_label, n_label) with the inverse of the factored matrix; 0 for labels not free."""
    n_label = covariance.shape[0]
    unit = np.zeros(n_label)
    column = np.zeros(n_label)
    covariance.fill(0.0)
    for a in range(free.size):
        unit.fill(0.0)
        unit[free[a]] = 1.0
        solve_factored(factor, scale_by, free, unit, column)
        for b in range(n_label):
            covariance[b, free[a]] = column[b]
    for i in range(n_label):          # exactly symmetric, so that no reader has to choose a triangle
        for j in range(i):
            mean = 0.5 * (covariance[i, j] + covariance[j, i])
            covariance[i, j] = mean
            covariance[j, i] = mean


@njit(cache=True)
def _root_diagonal(matrix, out):
    for i in range(out.size):
        out[i] = np.sqrt(matrix[i, i]) if matrix[i, i] > 0.0 else 0.0


@njit(cache=True)
def newton_step(hessian, full, slope, free, damping, scale_by, factor, step):
    """Fill step; returns its predicted gain slope.step (in squares of error bars), negative if singular."""
    _root_diagonal(hessian, scale_by)
    if factorise(full, damping, scale_by, free, factor) < SMALLEST_PIVOT and \
            factorise(hessian, damping, scale_by, free, factor) < SMALLEST_PIVOT:
        return -1.0
    solve_factored(factor, scale_by, free, slope, step)
    gain = 0.0
    for i in range(step.size):
        gain += slope[i] * step[i]
    return gain


@njit(cache=True)
def _distance2(x, other, hessian):
    s = 0.0
    for i in range(x.size):
        for j in range(x.size):
            s += (x[i] - other[i]) * hessian[i, j] * (x[j] - other[j])
    return s


@njit(cache=True)
def descend(x, free, label, power, sum_m, sum_b, sum_c, theta, residual, weight,
            prior_mean, prior_ivar, max_iter, hessian, known, known_hessian, known_objective):
    """Descend from x (changed in place) to a minimum. Returns (chi2, objective, iterations, state).

    Fills hessian (n_label, n_label), the Gauss-Newton matrix at the last x evaluated (a thousandth of an
    error bar from the solution). State: CONVERGED, ITERATION_LIMIT or SINGULAR; KNOWN as soon as a step leads
    down to within DIFFERENT of one of the minima known (n_known, n_label), with their matrices and objectives
    (infinite: no minimum).
    """
    n_term, n_factor = label.shape
    n_label = x.size
    v = np.empty(n_term)
    gradient = np.empty((n_term, n_factor))
    u = np.empty(n_term)
    work = np.empty((2, n_label + 1, n_term))
    full = np.empty((n_label, n_label))
    slope = np.empty(n_label)
    trial_hessian = np.empty((n_label, n_label))
    trial_full = np.empty((n_label, n_label))
    trial_slope = np.empty(n_label)
    factor = np.zeros((n_label, n_label))
    scale_by = np.empty(n_label)
    step = np.empty(n_label)
    trial = np.empty(n_label)

    chi2, objective = _equations(x, label, power, sum_m, sum_b, sum_c, theta, residual, weight,
                                 prior_mean, prior_ivar, v, gradient, u, work, hessian, full, slope)
    damping = 0.0
    for iteration in range(1, max_iter + 1):
        gain = newton_step(hessian, full, slope, free, damping, scale_by, factor, step)
        if gain < 0.0:
            damping = max(10.0 * damping, 1e-3)
            if damping > 1e9:
                return chi2, objective, iteration, SINGULAR
            continue
        longest = 0.0
        for i in range(n_label):
            longest = max(longest, abs(step[i]))
        shorten = LONGEST_STEP / longest if longest > LONGEST_STEP else 1.0
        for i in range(n_label):
            trial[i] = x[i] + shorten * step[i]
        if gain <= TOLERANCE and damping <= 1e-2:
            copy_vector(trial, x)
            return chi2 - gain, objective - gain, iteration, CONVERGED
        for s in range(known_objective.size):
            if known_objective[s] < objective and \
                    _distance2(trial, known[s], known_hessian[s]) <= DIFFERENT * DIFFERENT:
                return chi2, objective, iteration, KNOWN
        new_chi2, new_objective = _equations(
            trial, label, power, sum_m, sum_b, sum_c, theta, residual, weight,
            prior_mean, prior_ivar, v, gradient, u, work, trial_hessian, trial_full, trial_slope)
        if new_objective <= objective:
            copy_vector(trial, x)
            chi2, objective = new_chi2, new_objective
            copy_matrix(trial_hessian, hessian)
            copy_matrix(trial_full, full)
            copy_vector(trial_slope, slope)
            damping = 0.1 * damping if damping > 1e-4 else 0.0
        else:
            damping = max(10.0 * damping, 1e-3)
            if damping > 1e9:          # no direction lowers it: rounding hides what is left to gain
                return chi2, objective, iteration, CONVERGED
        for i in range(n_label):
            if not abs(x[i]) < FARTHEST:
                return chi2, objective, iteration, ITERATION_LIMIT
    return chi2, objective, max_iter, ITERATION_LIMIT


@njit(cache=True)
def gauss_newton_matrix(x, label, power, sum_m, sum_b, sum_c, theta, residual, weight,
                        prior_ivar, hessian):
    """Fill hessian (n_label, n_label) with J'WJ at x, the prior added."""
    n_term, n_factor = label.shape
    v = np.empty(n_term)
    gradient = np.empty((n_term, n_factor))
    u = np.empty(n_term)
    work = np.empty((2, x.size + 1, n_term))
    fill_terms(x, label, power, v, gradient)
    if residual.size > 0:
        _from_pixels(v, gradient, label, theta, residual, weight, u, work, hessian)
    else:
        _from_sums(v, gradient, label, sum_m, sum_b, sum_c, u, work, hessian)
    for i in range(x.size):
        hessian[i, i] += prior_ivar[i]


@njit(cache=True)
def _is_finite(x):
    for i in range(x.size):
        if not np.isfinite(x[i]):
            return False
    return True


@njit(cache=True)
def _inside(x, low, high):
    for i in range(x.size):
        if not (x[i] >= low[i] and x[i] <= high[i]):
            return False
    return True


@njit(cache=True)
def best_of_starts(starts, free, low, high, label, power, sum_m, sum_b, sum_c, theta, residual, weight,
                   prior_mean, prior_ivar, max_iter, x, hessian, second):
    """Descend from every start; keep the lowest minimum inside [low, high], or the lowest if none is inside.

    starts     (n_start, n_label)  float64, scaled labels; a start that is not finite is skipped
    low, high  (n_label,)          the range within which a solution is preferred
    x          (n_label,)          output, the solution; hessian its Gauss-Newton matrix
    second     (n_label,)          output, the lowest of the other minima, NaN if all starts end in x

    A start that does not converge counts only if none does. Returns (chi2, second chi2 - chi2, iterations of
    all starts, state); the difference is NaN without a second minimum, negative where that one is lower but
    outside the range.
    """
    n_start, n_label = starts.shape
    found = np.empty((n_start, n_label))
    found_hessian = np.zeros((n_start, n_label, n_label))
    chi2 = np.empty(n_start)
    objective = np.empty(n_start)
    minimum = np.empty(n_start)              # the objective of starts that converged
    state = np.empty(n_start, dtype=np.int64)
    chi2.fill(np.inf)
    objective.fill(np.inf)
    minimum.fill(np.inf)
    state.fill(SINGULAR)
    n_iter = 0
    for s in range(n_start):
        copy_vector(starts[s], found[s])
        if not _is_finite(found[s]):
            continue
        chi2[s], objective[s], used, state[s] = descend(
            found[s], free, label, power, sum_m, sum_b, sum_c, theta, residual, weight,
            prior_mean, prior_ivar, max_iter, found_hessian[s], found[:s], found_hessian[:s], minimum[:s])
        n_iter += used
        if state[s] == CONVERGED:
            minimum[s] = objective[s]
    best = -1
    best_rank = 9
    for s in range(n_start):
        if state[s] == SINGULAR or state[s] == KNOWN or not np.isfinite(objective[s]):
            continue
        rank = 2 * state[s] + (0 if _inside(found[s], low, high) else 1)
        if rank < best_rank or (rank == best_rank and objective[s] < objective[best]):
            best, best_rank = s, rank
    second.fill(np.nan)
    if best < 0:
        x.fill(np.nan)
        return np.nan, np.nan, n_iter, SINGULAR
    copy_vector(found[best], x)
    copy_matrix(found_hessian[best], hessian)
    other = -1
    for s in range(n_start):
        if s != best and state[s] == CONVERGED and (other < 0 or objective[s] < objective[other]) and \
                _distance2(found[s], x, hessian) > DIFFERENT * DIFFERENT:
            other = s
    delta = np.nan
    if other >= 0 and state[best] == CONVERGED:
        copy_vector(found[other], second)
        delta = chi2[other] - chi2[best]
    return chi2[best], delta, n_iter, state[best]
