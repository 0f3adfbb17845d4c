"""Statistical leverage of labels in the training design. Compiled; arrays in, arrays out.

h = v(x)' (V'V)^-1 v(x), V the (n_train, n_term) matrix of v at the training stars: how far v(x) lies from
where the coefficients were fitted, in units of what one training star weighs. The training stars' own mean
is rank(V) / n_train. The matrix is not inverted: V = U S W', h = |S^-1 W' v|^2, directions with a negligible
singular value (dependent terms, in which the coefficients are the minimum-norm ones) left out.
"""
import numpy as np
from numba import njit, prange

from cannonkit.kernels.vectorizer import fill_design

BLOCK = 256


def whitening(design, tolerance=1e-10):
    """S^-1 W' (rank, n_term) of the training design (n_train, n_term), float64, and its rank."""
    _, s, wt = np.linalg.svd(np.asarray(design, np.float64), full_matrices=False)
    keep = s > tolerance * s.max(initial=0.0)
    return np.ascontiguousarray(wt[keep] / s[keep, None]), int(keep.sum())


@njit(parallel=True, cache=True)
def leverage(x, powers, whiten, h):
    """Fill `h` (n_star,) with the leverage of each star.

    x       (n_star, n_label)  float64, scaled labels (equation 2); a NaN label gives NaN
    powers  (n_term, n_label)  int64
    whiten  (rank, n_term)     float64, of `whitening`
    h       (n_star,)          float64, output

    Parallel over blocks of stars, each writing only its own rows; sums in the order of the terms, so the
    answer does not depend on threads or chunks. rank * n_term multiplications a star: under a microsecond.
    """
    n_star = x.shape[0]
    rank, n_term = whiten.shape
    for block in prange((n_star + BLOCK - 1) // BLOCK):
        a = block * BLOCK
        b = min(n_star, a + BLOCK)
        v = np.empty((b - a, n_term))
        fill_design(x[a:b], powers, v)
        for m in range(b - a):
            total = 0.0
            for r in range(rank):
                y = 0.0
                for k in range(n_term):
                    y += whiten[r, k] * v[m, k]
                total += y * y
            h[a + m] = total
