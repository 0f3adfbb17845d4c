"""How far a star lies from the training set, and the flags of the catalogue (paper section 3.6).

The distance is equation 5 as its sources have it: D = mean over the nearest training stars of
sum_i (l_i - l_i,n)^2 / K_i^2, with K the cross-validation RMS of the model. The paper prints no square,
with which positive and negative terms would cancel; `metric` offers squared, absolute and root (mean of
the roots). Three more measures: leverage in the training design, the fraction of labels outside the
training percentiles, and the distance in spectrum. Arrays in, arrays out.
"""
from typing import NamedTuple

import numpy as np

from cannonkit import schema
from cannonkit.errors import DataError
from cannonkit.kernels import leverage as leverage_kernel
from cannonkit.kernels import neighbours
from cannonkit.stages import vectorizer
from cannonkit.stages.lookup import Lookup
from cannonkit.stages.words import (  # noqa: F401 - the flags of this stage that need no training set
    has_no_bad_bit,
    is_clean,
    is_clean_by_zero,
    survey_flags,
)

METRICS = tuple(neighbours.METRICS)


class Training(NamedTuple):
    """What the distances need of a model, prepared once by `training_of`."""

    names: tuple              # labels of the distance
    columns: np.ndarray       # their places among the model's labels
    rms: np.ndarray           # (n_flag,) K of equation 5
    tree: neighbours.Tree     # training labels divided by K
    stars: Lookup             # star_id of the training stars
    whiten: np.ndarray        # (rank, n_term), of kernels.leverage
    powers: np.ndarray        # (n_term, n_label)
    low: np.ndarray           # (n_label,) percentile 2.5
    pivot: np.ndarray         # (n_label,) percentile 50
    high: np.ndarray          # (n_label,) percentile 97.5
    n_train: int
    rank: int


def flag_labels(model, names=None):
    """The labels of the distance: `names`, or those of the paper's four that the model has."""
    chosen = tuple(names) if names else tuple(n for n in schema.FLAG_LABELS if n in model.label_names)
    if not chosen:
        raise DataError(f"the model has none of the labels {', '.join(schema.FLAG_LABELS)}: "
                        "name some (--labels)")
    return chosen


def training_of(model, names=None, nearest=10):
    """Prepare a model's training set: a k-d tree in labels / K, and the training design for the leverage.

    names    labels of the distance; None: those of Teff, log g, [Fe/H], [alpha/Fe] that the model has
    nearest  neighbours of the mean; DataError if the training set has not more stars than that
    """
    names = flag_labels(model, names)
    rms = model.crossval_rms(names)
    columns = np.array([model.label_index(n) for n in names])
    used = model.training["used"] != 0
    labels = model.training_labels
    finite = np.isfinite(labels).all(axis=1)
    labels, star_id = labels[finite], np.asarray(model.training["star_id"][used][finite])
    if len(labels) <= nearest:
        raise DataError(f"{len(labels)} training stars are too few for a distance to the nearest {nearest} "
                        "others (--nearest)")
    stars = Lookup(star_id, "the training set", unique=False)
    group = stars.find(stars.names)
    tree = neighbours.build_tree(labels[:, columns] / rms, group)
    design = vectorizer.design_matrix((labels - model.pivot) / model.scale, model.powers)
    whiten, rank = leverage_kernel.whitening(design)
    return Training(names, columns, rms, tree, stars, whiten, np.ascontiguousarray(model.powers, np.int64),
                    model.low, model.pivot, model.high, len(labels), rank)


def training_distance(labels, star_id, training, metric="squared", nearest=10):
    """Equation 5: (n_star,) float64, in units of the metric; NaN where a label of the distance is NaN.

    labels   (n_star, n_label)  float64, the model's labels in their units
    star_id  (n_star,)          bytes; a training star is not its own neighbour, nor its other spectra
    """
    stars = np.ascontiguousarray(labels[:, training.columns] / training.rms)
    distance = np.empty(len(stars))
    neighbours.mean_nearest_distance(stars, training.stars.find(star_id), *training.tree,
                                     neighbours.METRICS[metric], nearest, distance)
    return distance


def leverage(labels, training):
    """(n_star,) float64: leverage of the labels in the training design (mean over the training stars:
    rank / n_train); NaN where a label is NaN. labels (n_star, n_label) in their units."""
    x = np.ascontiguousarray((labels - training.pivot) / (training.high - training.low))
    h = np.empty(len(x))
    leverage_kernel.leverage(x, training.powers, training.whiten, h)
    return h


def outside_fraction(labels, training):
    """(n_star,) float64: fraction of the labels outside the training percentiles 2.5 to 97.5; NaN where
    a label is NaN."""
    outside = (labels < training.low) | (labels > training.high)
    return np.where(np.isfinite(labels).all(axis=1), outside.mean(axis=1), np.nan)


def spectrum_distance(chi2, n_pix_used, n_label):
    """(chi2 - nu) / sqrt(2 nu), nu = n_pix_used - n_label: (n_star,) float64; NaN where nu < 1.

    How many standard deviations chi2 lies from what the errors and the model scatter promise. Survey
    errors that are wrong by a factor move it for all stars together: compare stars, not with zero.
    """
    nu = np.asarray(n_pix_used, np.float64) - n_label
    nu = np.where(nu >= 1, nu, np.nan)
    return (np.asarray(chi2, np.float64) - nu) / np.sqrt(2 * nu)


def is_outside(distance, limit):
    """flag_cannon_dist, (n_star,) bool: D > limit, or no distance."""
    return ~(distance <= limit)


def not_in_training(star_id, training):
    """flag_training, (n_star,) bool: False (0) for stars of the training set, as in the paper."""
    return training.stars.find(star_id) < 0
