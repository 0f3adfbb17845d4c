"""Repeat observations: which rows are spectra of one star, and the pairs that they make (paper section 3.7).

A repeat is an independent spectrum of a star. A stack (visit 0) and its own exposures (visit 1, 2, ...)
are not independent, and a group that mixes them is refused.
"""
from typing import NamedTuple

import numpy as np

from cannonkit.errors import DataError
from cannonkit.kernels import repeats as kernel


class Pairs(NamedTuple):
    """Pairs of rows of one star. `weight` is 2/n for a group of n, so that the group counts n - 1."""

    first: np.ndarray    # (n_pair,) int64, rows of the table
    second: np.ndarray   # (n_pair,) int64
    weight: np.ndarray   # (n_pair,) float64
    group: np.ndarray    # (n_pair,) int64, 0 .. n_group - 1
    star: np.ndarray     # (n_group,) bytes, star_id of each group
    size: np.ndarray     # (n_group,) int64, spectra of each group

    @property
    def n_group(self):
        return len(self.size)

    def of_groups(self, keep):
        """The pairs of the groups where keep (n_group,) is true, with groups numbered anew."""
        number = np.cumsum(keep) - 1
        chosen = keep[self.group]
        return Pairs(self.first[chosen], self.second[chosen], self.weight[chosen], number[self.group[chosen]],
                     self.star[keep], self.size[keep])


def _groups(star_id, good):
    """(row order, start, size, star_id of each) of the stars with two or more good rows."""
    names = np.char.rstrip(np.asarray(star_id))
    rows = np.flatnonzero(np.asarray(good) & (names != b""))
    rows = rows[np.argsort(names[rows], kind="stable")]
    names = names[rows]
    first = np.flatnonzero(np.append(True, names[1:] != names[:-1])[:len(rows)])
    size = np.diff(np.append(first, len(rows)))
    several = size > 1
    return rows, first[several], size[several], names[first[several]]


def pairs_of(star_id, good, visit=None, weighting="group"):
    """All pairs of good rows of one star.

    star_id    (n_row,) bytes; a blank one has no repeats
    good       (n_row,) bool: rows that take part (finite labels and errors)
    visit      (n_row,) int, 0 = a combined spectrum; a star with combined spectra and single visits is
               refused (DataError): a stack is not independent of its own exposures
    weighting  "group": weight 2/n in a group of n; "all": 1, as the paper does
    """
    rows, start, size, star = _groups(star_id, good)
    if visit is not None and len(start):
        single = np.asarray(visit)[rows] != 0
        total = np.append(0, np.cumsum(single))
        singles = total[start + size] - total[start]
        mixed = np.flatnonzero((singles > 0) & (singles < size))
        if mixed.size:
            name = star[mixed[0]].decode("latin-1")
            raise DataError(
                f"star_id {name!r} has a combined spectrum (visit 0) and single visits: a stack and its own "
                f"exposures are not independent repeats ({mixed.size} such stars; select one kind, "
                "for instance with cc-resample's selection, or --visits)")
    n_pair = int((size * (size - 1) // 2).sum())
    first, second, group = (np.empty(n_pair, np.int64) for _ in range(3))
    kernel.fill_pairs(start, size, first, second, group)
    weight = 2.0 / size[group] if weighting == "group" else np.ones(n_pair)
    return Pairs(rows[first], rows[second], weight, group, star, size)


def best_and_others(star_id, good, snr):
    """(best, other, group): each lower-S/N row of a star and the star's row of highest S/N, (n_other,) int64.

    snr (n_row,): rows without a finite S/N take no part. Equal S/N: the first row is the best.
    """
    snr = np.asarray(snr, np.float64)
    rows, start, size, _ = _groups(star_id, np.asarray(good) & np.isfinite(snr))
    if not len(start):
        return tuple(np.zeros(0, np.int64) for _ in range(3))
    inside = _ranges(start, size)
    group = np.repeat(np.arange(len(start)), size)
    order = np.lexsort((inside, -snr[rows[inside]], group))
    first_of_group = np.append(0, np.cumsum(size)[:-1])
    best_row = rows[inside[order[first_of_group]]]
    is_best = np.zeros(len(inside), bool)
    is_best[order[first_of_group]] = True
    other = ~is_best
    return best_row[group[other]], rows[inside[other]], group[other]


def _ranges(start, size):
    """Concatenated arange(start, start + size) of every group."""
    offset = np.repeat(start - np.append(0, np.cumsum(size)[:-1]), size)
    return np.arange(int(size.sum())) + offset


def kept_aside(star_id, fraction, seed=0):
    """(n,) bool: the stars set aside for validation, about `fraction` of them; see `places`."""
    return places(star_id, seed) < fraction if fraction > 0 else np.zeros(len(star_id), bool)


def places(star_id, seed=0):
    """(n,) float64, a random place from 0 to 1 for every star; by name, so that it is the same in every table and
    every order. All spectra of a star have one place."""
    import hashlib

    names = np.char.rstrip(np.asarray(star_id))
    if not len(names):
        return np.zeros(0)
    unique, inverse = np.unique(names, return_inverse=True)
    salt = f"{seed}:".encode()
    place = np.array([int.from_bytes(hashlib.blake2b(salt + name, digest_size=8).digest(), "big")
                      for name in unique.tolist()], np.float64) / 2.0 ** 64
    return place[inverse]
