"""Keys and sky searches against loops over all pairs."""
import math

import numpy as np
import pytest

from cannonkit.kernels import crossmatch


def separations(lon1, lat1, lon2, lat2):
    """All angles (n1, n2) in radians from unit vectors: 2 atan2(|u - v|, |u + v|), right at any distance."""
    u, v = (np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], -1)
            for a, b in ((lon1, lat1), (lon2, lat2)))
    minus = np.linalg.norm(u[:, None] - v[None], axis=-1)
    plus = np.linalg.norm(u[:, None] + v[None], axis=-1)
    return 2.0 * np.arctan2(minus, plus)


def list_near(lon, lat, right_lon, right_lat, radius, height):
    """The kernel's lists as a set {(left, right)} and a dict of its separations."""
    n_zone = int(math.ceil(math.pi / height)) + 1
    zone = np.minimum(((right_lat + 0.5 * math.pi) / height).astype(np.int64), n_zone - 1)
    order = np.lexsort((right_lon, zone))
    zones = np.searchsorted(zone[order], np.arange(n_zone + 1))
    first = np.zeros(len(lon) + 1, np.int64)
    args = (lon, lat, radius, height, zones, right_lon[order], right_lat[order], first)
    crossmatch.near(*args, np.empty(0, np.int64), np.empty(0))
    np.cumsum(first, out=first)
    right, separation = np.empty(first[-1], np.int64), np.empty(first[-1])
    if first[-1]:
        crossmatch.near(*args, right, separation)
    left = np.repeat(np.arange(len(lon)), np.diff(first))
    pairs = list(zip(left.tolist(), order[right].tolist(), strict=True))
    assert len(set(pairs)) == len(pairs), "a pair is listed twice"
    return dict(zip(pairs, separation.tolist(), strict=True))


def expected(lon, lat, right_lon, right_lat, radius):
    d = separations(lon, lat, right_lon, right_lat)
    return {(int(i), int(j)): d[i, j] for i, j in zip(*np.nonzero(d <= radius), strict=True)}


def around_pole(rng, n, sign):
    return rng.uniform(0, 2 * np.pi, n), sign * (np.pi / 2 - np.abs(rng.normal(0, 1e-3, n))), 4e-4


CASES = {
    "all sky": lambda rng, n: (rng.uniform(0, 2 * np.pi, n), np.arcsin(rng.uniform(-1, 1, n)), 0.1),
    "north pole": lambda rng, n: around_pole(rng, n, 1),
    "south pole": lambda rng, n: around_pole(rng, n, -1),
    "right ascension 0": lambda rng, n: (rng.normal(0, 1e-3, n) % (2 * np.pi), rng.normal(0, 1e-3, n), 2e-4),
    "one meridian": lambda rng, n: (np.full(n, 1.0), rng.uniform(-1.5, 1.5, n), 0.01),
    "one parallel": lambda rng, n: (rng.uniform(0, 2 * np.pi, n), np.full(n, 1.2), 0.01),
    "half a turn": lambda rng, n: (rng.uniform(0, 2 * np.pi, n), np.arcsin(rng.uniform(-1, 1, n)), 1.5),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("zones", [1, 7])
def test_near_equals_all_pairs(name, zones, rng):
    lon, lat, radius = CASES[name](rng, 150)
    right_lon, right_lat, _ = CASES[name](rng, 170)
    wanted = expected(lon, lat, right_lon, right_lat, radius)
    found = list_near(lon, lat, right_lon, right_lat, radius, radius * zones)
    assert len(wanted) > 20
    # a pair within 1e-12 of the radius may fall on either side of it
    for pair in set(found) ^ set(wanted):
        assert abs(found.get(pair, wanted.get(pair)) - radius) < 1e-12
    for pair in set(found) & set(wanted):
        assert found[pair] == pytest.approx(wanted[pair], abs=1e-12)


def test_near_at_exact_poles_and_edges():
    half = math.pi / 2
    lon = np.array([0.0, 3.0, 0.0, 0.0])
    lat = np.array([half, -half, 0.0, 0.3])
    right_lon = np.array([5.0, 1.0, 2 * math.pi - 1e-12, 1e-6])
    right_lat = np.array([half, -half, 0.0, 0.3])
    found = list_near(lon, lat, right_lon, right_lat, 1e-5, 1e-4)
    assert set(found) == {(0, 0), (1, 1), (2, 2), (3, 3)}


def test_near_is_the_same_for_any_thread_count(rng):
    import numba

    lon, lat, radius = CASES["all sky"](rng, 400)
    before, results = numba.get_num_threads(), []
    try:
        for n in (1, 2, 4):
            numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
            results.append(list_near(lon, lat, lat % 6.28, lat, radius, radius))
    finally:
        numba.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def number(keys):
    width = -(-keys.dtype.itemsize // 8)
    words = keys.astype(f"S{8 * width}").view(np.uint64).reshape(len(keys), width)
    codes = np.empty(len(keys), np.int64)
    crossmatch.number_keys(words, np.full(1 << int(2 * len(keys) + 1).bit_length(), -1, np.int64), codes)
    return codes


def test_equal_keys_get_equal_numbers(rng):
    keys = np.array([f"2M{n:017d}" for n in rng.integers(0, 300, 1000)] + ["", "2M", "2M0"], "S19")
    first = {}
    wanted = [-1 if k == b"" else first.setdefault(k, i) for i, k in enumerate(keys.tolist())]
    assert number(keys).tolist() == wanted


def test_keys_that_differ_in_one_bit_are_told_apart():
    keys = np.array([f"{2 ** 62 + n}" for n in range(2000)], "S20")
    assert number(keys).tolist() == list(range(2000))


def test_one_to_one_keeps_the_best_of_those_that_choose_the_same():
    # pairs, best first: (chooser, chosen)
    pairs = [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2)]
    taken = np.zeros(5, bool)
    chooser, chosen = (np.array(x, np.int64) for x in zip(*pairs, strict=True))
    crossmatch.one_to_one(chooser, chosen, np.zeros(3, bool), np.zeros(3, bool), taken)
    # 0 takes 0; 1 chose 0 and is left over; 2 chose 1, which nobody else has
    assert taken.tolist() == [True, False, False, True, False]
