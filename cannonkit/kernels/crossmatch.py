"""Which rows of two catalogues belong together: equal keys, or close on the sky. Compiled.

Keys: an open-addressing hash table that compares whole keys, O(n), exact. Sky: the right catalogue is sorted
by declination zone and right ascension within a zone; each left row searches the zones that its circle
touches by bisection, O(n_left log n_right + pairs), whatever the survey's footprint. Separations are
haversines: 2 asin sqrt(sin^2(dlat / 2) + cos lat1 cos lat2 sin^2(dlon / 2)), good at any distance.
"""
import math

import numpy as np
from numba import njit, prange


@njit(cache=True)
def number_keys(words, table, codes):
    """Give equal keys equal numbers: codes[i] = index of the first row with the key of row i.

    words   (n, n_word)  uint64, the key's bytes padded with 0; a key of zeros is blank
    table   (2^k,)       int64, filled with -1, 2^k > n; scratch
    codes   (n,)         int64, output; -1 for blank keys
    """
    mask = table.shape[0] - 1
    for i in range(words.shape[0]):
        h = np.uint64(0)
        blank = True
        for k in range(words.shape[1]):
            w = words[i, k]
            if w != np.uint64(0):
                blank = False
            h = (h ^ w) * np.uint64(0x9E3779B97F4A7C15)
            h ^= h >> np.uint64(32)
        if blank:
            codes[i] = -1
            continue
        slot = np.int64(h & np.uint64(mask))
        while True:
            first = table[slot]
            if first < 0:
                table[slot] = i
                codes[i] = i
                break
            same = True
            for k in range(words.shape[1]):
                if words[first, k] != words[i, k]:
                    same = False
                    break
            if same:
                codes[i] = first
                break
            slot = (slot + 1) & mask


@njit(inline="always")
def _separation(lon1, lat1, lon2, lat2):
    """Angle between two directions; all in radians."""
    a = math.sin(0.5 * (lat2 - lat1))
    b = math.sin(0.5 * (lon2 - lon1))
    h = a * a + b * b * math.cos(lat1) * math.cos(lat2)
    return 2.0 * math.asin(math.sqrt(h)) if h < 1.0 else math.pi


@njit(inline="always")
def _first_not_below(values, start, stop, limit):
    """Index of the first of values[start:stop] (rising) that is >= limit; stop if there is none."""
    while start < stop:
        middle = (start + stop) // 2
        if values[middle] < limit:
            start = middle + 1
        else:
            stop = middle
    return start


@njit(parallel=True, cache=True)
def near(lon, lat, radius, height, zones, right_lon, right_lat, first, right, separation):
    """Right rows within `radius` of each left row: count them, or list them where the lists are allocated.

    lon, lat       (n_left,)   float64, radians, lon in [0, 2 pi), no NaN
    radius         float       radians, below pi / 2
    height         float       radians, of a declination zone
    zones          (n_zone+1,) int64, where each zone starts in the sorted right rows
    right_lon      (n_right,)  float64, sorted within each zone; right_lat beside it
    first          (n_left+1,) int64. With `right` empty an output: first[m + 1] = number of right rows near
                   left row m. Otherwise an input: the place of row m's list in `right` and `separation`
    right          (n_pair,)   int64, output: places in the sorted right rows
    separation     (n_pair,)   float64, output, radians

    Parallel over left rows; each writes its own part of the outputs. The window in lon is
    asin(sin r / cos lat), the whole circle where the radius reaches a pole; it is widened by 1e-9 so that
    rounding loses no pair.
    """
    counting = right.shape[0] == 0
    n_zone = zones.shape[0] - 1
    turn = 2.0 * math.pi
    for m in prange(lon.shape[0]):
        lon1, lat1 = lon[m], lat[m]
        found = 0
        place = 0 if counting else first[m]
        reach = radius * (1.0 + 1e-9) + 1e-14
        half = turn
        if math.sin(reach) < math.cos(lat1):
            half = math.asin(math.sin(reach) / math.cos(lat1)) * (1.0 + 1e-9) + 1e-14
        low = max(0, min(n_zone - 1, int(math.floor((lat1 - reach + 0.5 * math.pi) / height))))
        high = max(0, min(n_zone - 1, int(math.floor((lat1 + reach + 0.5 * math.pi) / height))))
        for zone in range(low, high + 1):
            start, stop = zones[zone], zones[zone + 1]
            if start == stop:
                continue
            # up to three windows: the circle itself, and its part beyond 0 or 2 pi
            for part in range(3):
                shift = (part - 1) * turn
                west, east = lon1 - half + shift, lon1 + half + shift
                if half >= math.pi:
                    if part != 1:
                        continue
                    west, east = -1.0, turn + 1.0
                elif east < 0.0 or west > turn:
                    continue
                k = _first_not_below(right_lon, start, stop, west)
                while k < stop and right_lon[k] <= east:
                    angle = _separation(lon1, lat1, right_lon[k], right_lat[k])
                    if angle <= radius:
                        if not counting:
                            right[place + found] = k
                            separation[place + found] = angle
                        found += 1
                    k += 1
        if counting:
            first[m + 1] = found


@njit(cache=True)
def one_to_one(chooser, chosen, chooser_seen, chosen_seen, taken):
    """Each row of one table chooses its best partner; of those that choose the same row the best keeps it.

    chooser, chosen  (n_pair,)  int64, rows of the two tables in each pair, best pair first
    chooser_seen     bool, all False, one per row of the choosing table; chosen_seen likewise; scratch
    taken            (n_pair,)  bool, output
    """
    for k in range(chooser.shape[0]):
        i, j = chooser[k], chosen[k]
        taken[k] = not (chooser_seen[i] or chosen_seen[j])
        if not chooser_seen[i]:
            chooser_seen[i] = True
            chosen_seen[j] = True
