"""Terms of the vectorizer and their derivatives for one star, in sparse form. Compiled.

A term is a product of a few labels raised to powers; it is kept as its list of factors. A quadratic term has
at most two factors, so the 27 x 6 matrix dv/dx holds 42 numbers: `gradient[k, f]` is the derivative of term
k with respect to the label of its factor f. The constant term is left out by the callers (its derivative is
zero). Cost of `fill_terms`: about n_term * n_factor^2 multiplications.
"""
import numpy as np
from numba import njit


def factors_of(powers):
    """Factor lists of terms: (label, power), each (n_term, n_factor) int64; label -1 where there is no
    factor.

    powers  (n_term, n_label)  int, >= 0; n_factor is the largest number of labels in one term, at least 1
    """
    powers = np.asarray(powers, dtype=np.int64)
    n_factor = max(1, int((powers > 0).sum(axis=1).max(initial=0)))
    label = np.full((len(powers), n_factor), -1, dtype=np.int64)
    power = np.zeros((len(powers), n_factor), dtype=np.int64)
    for k, row in enumerate(powers):
        found = np.flatnonzero(row)
        label[k, :len(found)] = found
        power[k, :len(found)] = row[found]
    return label, power


@njit(cache=True)
def _power(x, n):
    value = 1.0
    for _ in range(n):
        value *= x
    return value


@njit(cache=True)
def fill_terms(x, label, power, v, gradient):
    """Fill v (n_term,) and gradient (n_term, n_factor) at the scaled labels x (n_label,); float64."""
    n_term, n_factor = label.shape
    for k in range(n_term):
        value = 1.0
        for f in range(n_factor):
            if label[k, f] < 0:
                break
            value *= _power(x[label[k, f]], power[k, f])
        v[k] = value
        for f in range(n_factor):
            slope = 0.0
            if label[k, f] >= 0:
                slope = power[k, f] * _power(x[label[k, f]], power[k, f] - 1)
                for e in range(n_factor):
                    if e != f and label[k, e] >= 0:
                        slope *= _power(x[label[k, e]], power[k, e])
            gradient[k, f] = slope


@njit(cache=True)
def add_curvature(x, label, power, u, hessian):
    """Add sum_k u_k d2 v_k / dx_i dx_j to hessian (n_label, n_label); u is (n_term,)."""
    n_term, n_factor = label.shape
    for k in range(n_term):
        for f in range(n_factor):
            i = label[k, f]
            if i < 0:
                break
            if power[k, f] > 1:
                value = power[k, f] * (power[k, f] - 1) * _power(x[i], power[k, f] - 2)
                for e in range(n_factor):
                    if e != f and label[k, e] >= 0:
                        value *= _power(x[label[k, e]], power[k, e])
                hessian[i, i] += u[k] * value
            for e in range(f):
                j = label[k, e]
                value = power[k, f] * _power(x[i], power[k, f] - 1) * power[k, e] * _power(x[j], power[k, e] - 1)
                for d in range(n_factor):
                    if d != e and d != f and label[k, d] >= 0:
                        value *= _power(x[label[k, d]], power[k, d])
                hessian[i, j] += u[k] * value
                hessian[j, i] += u[k] * value
