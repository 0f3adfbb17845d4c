"""Checks of the training labels before anything is fitted: what is wrong is said with the labels' names."""
import numpy as np

from cannonkit.errors import DataError
from cannonkit.kernels.dense import TOLERANCE
from cannonkit.stages.vectorizer import term_name

CORRELATED = 0.9


def check_labels(labels, names, n_term, extra=0):
    """Raise DataError for labels that no model can be trained on. labels (n_star, n_label), no NaN.

    extra  stars that are needed beyond the number of terms (1 for restricted likelihood)
    """
    n_star = len(labels)
    if n_star < n_term + extra:
        raise DataError(f"{n_star} stars are too few for {n_term} terms per pixel: use a lower --order, "
                        "an explicit list of terms, fewer labels, or more stars")
    low, high = np.percentile(labels, [2.5, 97.5], axis=0)
    for i, name in enumerate(names):
        if np.ptp(labels[:, i]) == 0:
            raise DataError(f"label {name!r} is constant over the training set ({labels[0, i]:g}): "
                            "leave it out with --label-names")
        if not high[i] > low[i]:
            raise DataError(f"label {name!r} is {low[i]:g} for at least 95 % of the training stars: it cannot be "
                            "scaled (equation 2); leave it out with --label-names")


def correlated_pairs(labels, names, limit=CORRELATED):
    """[(name, name, r)] of the label pairs with |r| above the limit (Pearson)."""
    if len(names) < 2:
        return []
    # At unit range first: the square of a very small number is zero.
    r = np.corrcoef((labels - labels.mean(axis=0)) / np.ptp(labels, axis=0), rowvar=False)
    return [(names[i], names[j], float(r[i, j])) for i in range(len(names)) for j in range(i + 1, len(names))
            if abs(r[i, j]) > limit]


def dependent_terms(design, powers, names):
    """Terms that are combinations of others: [(term, its partners)] as text, [] if the rank is full.

    design  (n_star, n_term) float64. QR with column pivoting of the columns at unit length; a column whose
    remainder is below sqrt(dense.TOLERANCE) of its length depends on those before it, its partners are the
    ones with a share above a thousandth of the largest.
    """
    length = np.linalg.norm(design, axis=0)
    length[length == 0] = 1.0
    unit = design / length
    # No diagonal element of the factor is below the least singular value, so this answer is that of the QR.
    if np.linalg.eigvalsh(unit.T @ unit)[0] > 10 * TOLERANCE:
        return []
    from scipy import linalg  # takes 0.15 s to import

    r, order = linalg.qr(unit, mode="r", pivoting=True)
    n_rank = int(np.sum(np.abs(np.diag(r)) > np.sqrt(TOLERANCE)))
    if n_rank == len(powers):
        return []
    shares = linalg.solve_triangular(r[:n_rank, :n_rank], r[:n_rank, n_rank:]) if n_rank else np.zeros((0, 1))
    found = []
    for c, k in enumerate(order[n_rank:]):
        share = np.abs(shares[:, c])
        partners = [order[e] for e in np.argsort(-share) if share[e] > 1e-3 * max(share.max(), 1e-300)]
        found.append((term_name(powers[k], names), [term_name(powers[e], names) for e in sorted(partners)]))
    return found


def labels_of(terms, powers, names):
    """The labels that occur in the named terms, in the model's order."""
    text = {term_name(row, names): row for row in powers}
    used = np.sum([text[t] for t in terms], axis=0)
    return [n for n, u in zip(names, used, strict=True) if u]
