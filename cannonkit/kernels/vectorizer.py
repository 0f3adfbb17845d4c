"""The vectorizer v(x) of equation 1: products of powers of the scaled labels. Compiled.

A term is a row of powers: (0, 0, ..) the constant, (1, 0, ..) x_0, (1, 1, ..) x_0 x_1. Linear, quadratic and
cubic models, or any chosen list of terms, are the same code. Cost: n_term * n_label multiplications a star.
"""
import numpy as np
from numba import njit


@njit(cache=True)
def fill_design(x, powers, design):
    """Fill `design` with v(x) of every star.

    x       (n_star, n_label)  float64, scaled labels; NaN gives NaN in the terms that contain the label
    powers  (n_term, n_label)  int64, >= 0
    design  (n_star, n_term)   float64, output
    """
    n_term, n_label = powers.shape
    for m in range(x.shape[0]):
        for k in range(n_term):
            value = 1.0
            for i in range(n_label):
                for _ in range(powers[k, i]):
                    value *= x[m, i]
            design[m, k] = value


@njit(cache=True)
def fill_gradient(x, powers, gradient):
    """Fill `gradient` with dv/dx of every star.

    x         (n_star, n_label)          float64, scaled labels
    powers    (n_term, n_label)          int64, >= 0
    gradient  (n_star, n_term, n_label)  float64, output: d v_k / d x_i
    """
    n_term, n_label = powers.shape
    for m in range(x.shape[0]):
        for k in range(n_term):
            for i in range(n_label):
                value = float(powers[k, i])
                if powers[k, i] > 0:
                    for j in range(n_label):
                        for _ in range(powers[k, j] - (1 if j == i else 0)):
                            value *= x[m, j]
                gradient[m, k, i] = value


def design_matrix(x, powers):
    """v(x): (n_star, n_term) float64 of the scaled labels x (n_star, n_label)."""
    x = np.ascontiguousarray(np.atleast_2d(x), dtype=np.float64)
    powers = np.ascontiguousarray(powers, dtype=np.int64)
    design = np.empty((x.shape[0], powers.shape[0]))
    fill_design(x, powers, design)
    return design
