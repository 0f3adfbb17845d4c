"""Copies of small arrays by plain loops. Compiled.

`a[:] = b` in Numba brings the code of every broadcasting rule and of its error messages into each kernel
that uses it; these loops compile in a tenth of the time.
"""
from numba import njit


@njit(cache=True)
def copy_vector(source, target):
    """target = source, both (n,)."""
    for i in range(target.size):
        target[i] = source[i]


@njit(cache=True)
def copy_matrix(source, target):
    """target = source, both (n, m)."""
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = source[i, j]
