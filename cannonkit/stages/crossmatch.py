"""Join two catalogues by identifier or on the sky (paper section 3.2). Arrays in, pairs of row numbers out.

find "best" is one-to-one: each row of the larger table (of rows that can match; the left one where both are
equal) chooses its closest row of the other, and of those that choose the same row the closest keeps it.
Equal separations, and equal identifiers, go to the higher S/N of the left row, then of the right row, then to
the earlier left and right row. Without S/N that is the pair set of `stilts tskymatch2 find=best` (which
calls that table larger that has more rows in the common region of the sky).
find "all" keeps every pair. Pairs come sorted by left row, then separation, then right row.
"""
import math

import numpy as np

from cannonkit import errors
from cannonkit.kernels import crossmatch as kernels
from cannonkit.stages.selection import key_numbers

ARCSEC = math.pi / 648000.0
ZONE = 60.0 * ARCSEC            # height of a declination zone, where the radius is smaller


def join_keys(left, right, find="best", left_snr=None, right_snr=None):
    """Rows with equal keys.

    left, right          bytes (n,), without surrounding blanks; blank keys match nothing
    left_snr, right_snr  float64 (n,) or None; NaN is lowest
    Returns (left rows, right rows) int64, and a dict of counts.
    """
    width = max(left.dtype.itemsize, right.dtype.itemsize, 1)
    both = np.concatenate([left.astype(f"S{width}"), right.astype(f"S{width}")])
    codes = key_numbers(both)
    n_left = len(left)
    lefts, rights = codes[:n_left], codes[n_left:]
    counts = {"left rows without identifier": int((lefts < 0).sum()),
              "right rows without identifier": int((rights < 0).sum())}
    order = np.argsort(rights, kind="stable")
    order = order[rights[order] >= 0]
    sorted_right = rights[order]
    rows = np.flatnonzero(lefts >= 0)
    first = np.searchsorted(sorted_right, lefts[rows], "left")
    number = np.searchsorted(sorted_right, lefts[rows], "right") - first
    pair_left = np.repeat(rows, number)
    within = np.arange(len(pair_left)) - np.repeat(np.cumsum(number) - number, number)
    pair_right = order[np.repeat(first, number) + within]
    separation = np.zeros(len(pair_left))
    sizes = n_left, len(right), True
    found = _choose(pair_left, pair_right, separation, sizes, find, left_snr, right_snr, counts)
    return found[0], found[1], counts


def join_sky(left, right, radius, find="best", left_snr=None, right_snr=None):
    """Rows within `radius` arcsec of each other on the sky.

    left, right   (ra, dec) float64 degrees, any right ascension; rows with NaN or |dec| > 90 match nothing
    Returns (left rows, right rows, separation in arcsec), and a dict of counts.
    """
    if not 0 < radius <= 36000:
        raise errors.SettingError(f"radius: {radius} arcsec (expected above 0, at most 10 degrees)", "radius")
    angle = radius * ARCSEC
    left_rows, left_lon, left_lat = _radians(*left)
    right_rows, right_lon, right_lat = _radians(*right)
    counts = {"left rows without position": len(left[0]) - len(left_rows),
              "right rows without position": len(right[0]) - len(right_rows)}
    height = max(angle, ZONE)
    n_zone = int(math.ceil(math.pi / height)) + 1
    zone = np.minimum(((right_lat + 0.5 * math.pi) / height).astype(np.int64), n_zone - 1)
    order = np.lexsort((right_lon, zone))
    zones = np.searchsorted(zone[order], np.arange(n_zone + 1))
    right_lon, right_lat, right_rows = right_lon[order], right_lat[order], right_rows[order]
    del zone, order
    first = np.zeros(len(left_rows) + 1, np.int64)
    nothing = np.empty(0, np.int64), np.empty(0, np.float64)
    kernels.near(left_lon, left_lat, angle, height, zones, right_lon, right_lat, first, *nothing)
    np.cumsum(first, out=first)
    pair_left = np.repeat(left_rows, np.diff(first))
    pair_right, separation = np.empty(first[-1], np.int64), np.empty(first[-1])
    if len(pair_right):
        kernels.near(left_lon, left_lat, angle, height, zones, right_lon, right_lat, first, pair_right,
                     separation)
    pair_right = right_rows[pair_right]
    sizes = len(left[0]), len(right[0]), len(left_rows) >= len(right_rows)
    found = _choose(pair_left, pair_right, separation, sizes, find, left_snr, right_snr, counts)
    return found[0], found[1], found[2] / ARCSEC, counts


def _radians(lon, lat):
    """Valid rows and their positions in radians, longitudes in [0, 2 pi)."""
    rows = np.flatnonzero(np.isfinite(lon) & (np.abs(lat) <= 90.0))
    lon = np.radians(np.asarray(lon, np.float64)[rows] % 360.0)
    lon[lon >= 2.0 * math.pi] = 0.0
    return rows, lon, np.radians(np.asarray(lat, np.float64)[rows])


def _choose(left, right, separation, sizes, find, left_snr, right_snr, counts):
    """All pairs or the best ones, sorted by left row; counts what was left out.

    sizes: rows of the left and of the right table, and whether the left rows choose."""
    counts["pairs"] = len(left)
    if find == "best" and len(left):
        order = np.lexsort((right, left, _rank(right_snr, right), _rank(left_snr, left), separation))
        n_left, n_right, left_chooses = sizes
        taken = np.zeros(len(left), bool)
        tables = [(left[order], np.zeros(n_left, bool)), (right[order], np.zeros(n_right, bool))]
        (chooser, seen), (chosen, chosen_seen) = tables if left_chooses else tables[::-1]
        kernels.one_to_one(chooser, chosen, seen, chosen_seen, taken)
        kept = order[taken]
        counts["pairs left out, one of the two has a better partner"] = len(left) - len(kept)
        left, right, separation = left[kept], right[kept], separation[kept]
    order = np.lexsort((right, separation, left))
    return left[order], right[order], separation[order]


def _rank(snr, rows):
    """Falling S/N as a rising number; NaN last."""
    if snr is None:
        return np.zeros(len(rows))
    return -np.nan_to_num(np.asarray(snr, np.float64)[rows], nan=-np.inf)


def keep_left(pair_left, pair_right, n_left):
    """The pairs of a left join: rows without a partner are added with right row -1, sorted by left row.

    Returns left rows, right rows, and which pair each of them is (the number of pairs for a row alone).
    """
    alone = np.setdiff1d(np.arange(n_left), pair_left)
    left = np.concatenate([pair_left, alone])
    right = np.concatenate([pair_right, np.full(len(alone), -1, np.int64)])
    place = np.minimum(np.arange(len(left)), len(pair_left))
    order = np.argsort(left, kind="stable")
    return left[order], right[order], place[order]
