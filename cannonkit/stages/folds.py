"""Folds of cross-validation (paper section 3.4): whole stars and whole groups stay together."""
import numpy as np

from cannonkit.errors import DataError, SettingError


def folds_of(groups, n_fold, seed=1):
    """Fold number of every row: (n_row,) int64 from 0, rows with equal `groups` in the same fold.

    groups  (n_row,) of any type that sorts (ids, cluster names)
    The sorted groups are shuffled (seeded), then each goes to the fold with the fewest rows: folds are equal
    to within the largest group, and do not depend on the order of the rows. Raises DataError for fewer groups
    than folds, SettingError for one fold.
    """
    names, number, size = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if n_fold < 2:
        raise SettingError(f"cross-validation with {n_fold} fold: at least 2 are needed", "cross_validate")
    if len(names) < n_fold:
        raise DataError(f"cross-validation with {n_fold} folds needs as many groups of stars; there are {len(names)}")
    fold_of_group = np.empty(len(names), np.int64)
    filled = np.zeros(n_fold, np.int64)
    for g in np.random.default_rng(seed).permutation(len(names)):
        k = int(np.argmin(filled))
        fold_of_group[g] = k
        filled[k] += size[g]
    return fold_of_group[number]


def leave_one_out(groups):
    """Every group is a fold of its own: (n_row,) int64. Raises DataError if there is only one group."""
    names, number = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise DataError("leave-one-group-out needs at least two groups of stars")
    return number.astype(np.int64)
