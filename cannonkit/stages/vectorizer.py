"""Terms of the spectral model (paper equation 1): which products of labels, as integer powers."""
import itertools

import numpy as np

from cannonkit.errors import DataError
from cannonkit.kernels import vectorizer as kernel


def powers_of(n_label, order=2):
    """Powers of all products of up to `order` labels: (n_term, n_label) int64.

    Term 0 is the constant, then the labels, then x_i x_j for i <= j in row-major order, then
    x_i x_j x_k for i <= j <= k. Two orders and six labels give the 28 terms of the paper.
    """
    rows = []
    for degree in range(order + 1):
        for labels in itertools.combinations_with_replacement(range(n_label), degree):
            row = np.zeros(n_label, dtype=np.int64)
            np.add.at(row, list(labels), 1)
            rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(len(rows), n_label)


def powers_from_terms(terms, label_names):
    """Powers of an explicit list of terms, each written `teff`, `teff*logg` or `teff^2*fe_h`.

    The constant is always term 0 and may be written `1`. Raises DataError for an unknown label, a term
    that cannot be read, or one given twice (`a*b` and `b*a` are the same).
    """
    label_names = list(label_names)
    rows = [tuple([0] * len(label_names))]
    for term in terms:
        row = [0] * len(label_names)
        for factor in str(term).replace(" ", "").split("*"):
            if factor == "1":
                continue
            name, _, power = factor.partition("^")
            if name not in label_names:
                raise DataError(f"term {term!r}: {name!r} is no label of the model "
                                f"(there are: {', '.join(label_names)})")
            if power and not power.isdigit():
                raise DataError(f"term {term!r}: the power {power!r} is not a whole number")
            row[label_names.index(name)] += int(power) if power else 1
        if not any(row):
            continue
        if tuple(row) in rows:
            raise DataError(f"term {term!r} is given twice")
        rows.append(tuple(row))
    return np.array(rows, dtype=np.int64)


def term_name(row, label_names):
    """A term as text: `1`, `teff`, `teff*logg`, `teff^2`."""
    factors = [name if p == 1 else f"{name}^{p}" for name, p in zip(label_names, row, strict=True) if p]
    return "*".join(factors) or "1"


def design_matrix(x, powers):
    """v(x) of every star: (n_star, n_term) float64 from scaled labels x (n_star, n_label). NaN stays NaN."""
    return kernel.design_matrix(x, powers)


def gradient(x, powers):
    """dv/dx of every star: (n_star, n_term, n_label) float64 from scaled labels x (n_star, n_label)."""
    x = np.ascontiguousarray(np.atleast_2d(x), dtype=np.float64)
    powers = np.ascontiguousarray(powers, dtype=np.int64)
    out = np.empty((x.shape[0], *powers.shape))
    kernel.fill_gradient(x, powers, out)
    return out


def scaling_of(labels):
    """The scaling of equation 2: percentiles (2.5, 50, 97.5) of each column of labels (n_star, n_label).

    Returns (low, pivot, high), each (n_label,) float64; x = (label - pivot) / (high - low).
    """
    low, pivot, high = np.percentile(np.asarray(labels, dtype=np.float64), [2.5, 50.0, 97.5], axis=0)
    return low, pivot, high
