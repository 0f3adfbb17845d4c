"""Inference with misfit components: z eliminated from sums and from pixels (design.md 5). Compiled.

With theta and U side by side, z is K more coefficients with the prior z'z. For one star, D = U'WU, e = U'Wr,
B = theta'WU and I + D = L L' (Cholesky), the objective at the best z is that of
    M - X'X,   b - X'h,   with X = L^-1 B' and h = L^-1 e,
and then z = L^-T (h - X v). In pixels, the inverse covariance (diag(1/w) + U U')^-1 = T'T with T = (I - P S P') W^1/2,
so that residuals and theta multiplied by T are those of a star with independent pixels.
"""
import numpy as np
from numba import njit


@njit(cache=True)
def _forward(factor, right):
    """Solve factor y = right in place; lower triangle."""
    for i in range(right.size):
        s = right[i]
        for j in range(i):
            s -= factor[i, j] * right[j]
        right[i] = s / factor[i, i]


@njit(cache=True)
def _backward(factor, right):
    """Solve factor' y = right in place."""
    for i in range(right.size - 1, -1, -1):
        s = right[i]
        for j in range(i + 1, right.size):
            s -= factor[j, i] * right[j]
        right[i] = s / factor[i, i]


@njit(cache=True)
def eliminate(full, right, matrix, factor, cross, half):
    """The sums without z.

    full    (n_term + K, n_term + K)  sums of products, components last
    right   (n_term + K,)             the sums b; its first n_term are changed to the marginal ones
    matrix  (n_term, n_term)          output, the marginal M
    factor  (K, K), cross (K, n_term), half (K,)  outputs L, X, h
    """
    n_term, n_component = matrix.shape[0], half.size
    for i in range(n_component):
        for j in range(i + 1):
            s = full[n_term + i, n_term + j] + (1.0 if i == j else 0.0)
            for k in range(j):
                s -= factor[i, k] * factor[j, k]
            factor[i, j] = np.sqrt(s) if i == j else s / factor[j, j]
        half[i] = right[n_term + i]
        for t in range(n_term):
            cross[i, t] = full[n_term + i, t]
    _forward(factor, half)
    for i in range(n_component):
        row = cross[i]
        for j in range(i):
            other, f = cross[j], factor[i, j]
            for t in range(n_term):
                row[t] -= f * other[t]
        f = 1.0 / factor[i, i]
        for t in range(n_term):
            row[t] *= f
    for t in range(n_term):
        for u in range(n_term):
            matrix[t, u] = full[t, u]
    for i in range(n_component):
        row, h = cross[i], half[i]
        for t in range(n_term):
            f = row[t]
            right[t] -= f * h
            for u in range(n_term):
                matrix[t, u] -= f * row[u]


@njit(cache=True)
def posterior(factor, cross, half, v, z):
    """Fill z (K,) with its mean at the terms v (n_term,)."""
    for i in range(z.size):
        s = half[i]
        for t in range(cross.shape[1]):
            s -= cross[i, t] * v[t]
        z[i] = s
    _backward(factor, z)


@njit(cache=True)
def settle(factor, cross, slope, z, step):
    """Make the exact gradient at (v, z) the marginal one at v, and say how far the best z is from z.

    slope (n_term + K,): theta' w left, U' w left of a pass over the pixels; its first n_term are changed.
    step (K,) is filled with L^-1 (slope of z). Returns what is to be added to chi2: z'z - step'step.
    """
    n_term = cross.shape[1]
    for i in range(z.size):
        step[i] = slope[n_term + i] - z[i]
    _forward(factor, step)
    change = 0.0
    for i in range(z.size):
        change += z[i] * z[i] - step[i] * step[i]
        for t in range(n_term):
            slope[t] -= cross[i, t] * step[i]
    return change


@njit(cache=True)
def move(factor, cross, step, before, after, z):
    """z at the terms `after`, from `settle` at `before`: z += L^-T (step - X (after - before))."""
    for i in range(z.size):
        for t in range(cross.shape[1]):
            step[i] -= cross[i, t] * (after[t] - before[t])
    _backward(factor, step)
    for i in range(z.size):
        z[i] += step[i]


@njit(cache=True)
def smallest_share(marginal, full, label, slopes, free):
    """The smallest part of a label's information that is left without z.

    marginal (n_label, n_label): Gauss-Newton matrix of the marginal sums, prior included or not; full: all sums;
    slopes (n_term, n_factor): derivatives of the terms (kernels/terms.py).
    """
    n_term, n_factor = label.shape
    smallest = 1.0
    dense = np.empty(n_term)
    for i in free:
        dense.fill(0.0)
        for k in range(n_term):
            for f in range(n_factor):
                if label[k, f] == i:
                    dense[k] += slopes[k, f]
        whole = 0.0
        for k in range(n_term):
            if dense[k] != 0.0:
                for j in range(n_term):
                    whole += dense[k] * full[k, j] * dense[j]
        if whole > 0.0:
            smallest = min(smallest, marginal[i, i] / whole)
    return smallest


@njit(cache=True)
def whiten(residual, weight, theta, n_term):
    """Residuals and theta as of a star with independent pixels of unit weight: (residual, weight, theta).

    residual, weight (n_pix,), theta (n_pix, n_term + K): terms first. New arrays; masked pixels are 0.
    With D = U'WU = E diag(d) E' the square root of I - W^1/2 U (I + D)^-1 U' W^1/2 needs
    E diag(1 / (s (s + 1))) E', s = sqrt(1 + d).
    """
    n_pix = weight.size
    unit, u = np.empty((n_pix, n_term)), np.empty((n_pix, theta.shape[1] - n_term))
    out = np.empty(n_pix)
    for p in range(n_pix):
        root = np.sqrt(weight[p])
        out[p] = root * residual[p]
        for t in range(n_term):
            unit[p, t] = root * theta[p, t]
        for i in range(u.shape[1]):
            u[p, i] = root * theta[p, n_term + i]
    values, vectors = np.linalg.eigh(np.dot(u.T, u))
    turned = np.dot(u, vectors)
    for i in range(values.size):
        s = np.sqrt(1.0 + max(values[i], 0.0))
        for p in range(n_pix):
            turned[p, i] *= 1.0 / np.sqrt(s * (s + 1.0))
    out -= np.dot(turned, np.dot(turned.T, out))
    unit -= np.dot(turned, np.dot(turned.T, unit))
    return out, np.ones(n_pix), unit


@njit(cache=True)
def posterior_from_pixels(residual, weight, theta, v, z):
    """Fill z (K,) with its mean at the terms v (n_term,), from residuals at the pivot (n_pix,), float64."""
    n_term, n_component = v.size, z.size
    matrix, right = np.zeros((n_component, n_component)), np.zeros(n_component)
    for p in range(weight.size):
        if weight[p] > 0.0:
            left = residual[p]
            for t in range(n_term):
                left -= theta[p, t] * v[t]
            for i in range(n_component):
                f = weight[p] * theta[p, n_term + i]
                right[i] += f * left
                for j in range(i + 1):
                    matrix[i, j] += f * theta[p, n_term + j]
    for i in range(n_component):
        matrix[i, i] += 1.0
        for j in range(i):
            matrix[j, i] = matrix[i, j]
    z[:] = np.linalg.solve(matrix, right)
