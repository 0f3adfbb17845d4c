"""Which rows of a catalogue a table has: one per star, or the stars with several (paper sections 2, 3.7);
and which stars are held out of the training set."""
import numpy as np

from cannonkit.kernels import crossmatch
from cannonkit.stages.columns import strip


def one_per_star(star_ids, snr):
    """Rows (sorted) with the highest S/N of each star_id; equal S/N: the first row. Blank ids are stars of
    their own. star_ids: bytes (n,); snr: float64 (n,), NaN lowest."""
    order, starts, _ = _groups(star_ids, snr)
    blank = np.flatnonzero(star_ids == b"")
    return np.sort(np.concatenate([order[starts], blank]))


def in_groups(star_ids, snr, smallest, largest):
    """Rows (sorted) of stars that have `smallest` to `largest` rows; blank ids are no star. Also returns the
    number of stars kept and of stars dropped for having more rows than `largest`."""
    order, starts, sizes = _groups(star_ids, snr)
    good = (sizes >= smallest) & (sizes <= largest)
    return np.sort(order[np.repeat(good, sizes)]), int(good.sum()), int((sizes > largest).sum())


def _groups(star_ids, snr):
    """Rows with an id, star by star, the highest S/N of a star first; where each star starts; its size."""
    codes = key_numbers(star_ids)
    filled = np.flatnonzero(codes >= 0)
    codes = codes[filled]
    order = np.lexsort((-np.nan_to_num(snr[filled], nan=-np.inf), codes))
    codes = codes[order]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    return filled[order], starts, np.diff(np.append(starts, len(codes)))


def key_numbers(keys):
    """A number for each key: the index of the first row with the same key, -1 for blank ones. Exact.

    keys: bytes (n,), without surrounding blanks. Returns int64 (n,).
    """
    width = -(-max(1, keys.dtype.itemsize) // 8)
    words = np.ascontiguousarray(keys.astype(f"S{8 * width}")).view(np.uint64).reshape(len(keys), width)
    table = np.full(1 << int(2 * len(keys) + 1).bit_length(), -1, np.int64)
    codes = np.empty(len(keys), np.int64)
    crossmatch.number_keys(words, table, codes)
    return codes


def split_held_out(ids, fraction, seed):
    """True for stars held out of the training set: a fixed random number in [0, 1) of each id, at least
    `fraction`. The number depends on the id's text and `seed` only (FNV-1a, 64 bits, then mixed), so spectra
    of one star stay together and other rows change nothing."""
    ids = np.ascontiguousarray(strip(ids))
    width = max(1, ids.dtype.itemsize)
    view = ids.view(np.uint8).reshape(len(ids), width)
    h = np.full(len(ids), np.uint64(14695981039346656037) ^ np.uint64(seed), np.uint64)
    with np.errstate(over="ignore"):
        for k in range(width):
            step = (h ^ view[:, k]) * np.uint64(1099511628211)
            h = np.where(view[:, k] != 0, step, h)
        h ^= h >> np.uint64(30)
        h *= np.uint64(0xBF58476D1CE4E5B9)
        h ^= h >> np.uint64(27)
        h *= np.uint64(0x94D049BB133111EB)
        h ^= h >> np.uint64(31)
    return (h >> np.uint64(11)).astype(np.float64) * 2.0 ** -53 >= fraction
