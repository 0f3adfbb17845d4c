"""Distances to the training set (paper size: 4,418 stars, four labels), for a million stars."""
import time

import numpy as np
from run import Entry, best

N_STAR, N_TRAIN, NEAREST = 1_000_000, 4418, 10


def _brute(stars, points, block=256):
    """Mean squared distance to the nearest points by NumPy differences, in blocks of stars."""
    out = np.empty(len(stars))
    for start in range(0, len(stars), block):
        d = np.sum((stars[start:start + block, None] - points) ** 2, axis=2)
        out[start:start + block] = np.partition(d, NEAREST - 1, axis=1)[:, :NEAREST].mean(axis=1)
    return out


def bench_distances():
    """Synthetic labels in units of the cross-validation RMS, with the spread of a survey; all three metrics;
    against brute force on every 200th star and SciPy's tree, in the same run."""
    from cannonkit.kernels import neighbours

    rng = np.random.default_rng(1)
    spread = np.array([30.0, 12.0, 8.0, 5.0])
    points = rng.normal(size=(N_TRAIN, 4)) * spread
    stars = rng.normal(size=(N_STAR, 4)) * spread * 1.1
    group, distance = np.full(N_STAR, -1), np.empty(N_STAR)
    seconds = {}
    for metric, number in neighbours.METRICS.items():
        def run(number=number):
            tree = neighbours.build_tree(points)
            neighbours.mean_nearest_distance(stars, group, *tree, number, NEAREST, distance)
        run()                                                      # the kernel is compiled once per machine
        seconds[metric] = best(run, 3)
        yield Entry(f"cc-flag distances, {metric}, 1,000,000 stars", seconds[metric], 5.0)
    some = np.arange(0, N_STAR, 200)
    start = time.perf_counter()
    brute = _brute(stars[some], points)
    per_star = (time.perf_counter() - start) / len(some)
    tree = neighbours.build_tree(points)
    neighbours.mean_nearest_distance(stars, group, *tree, neighbours.SQUARED, NEAREST, distance)
    np.testing.assert_allclose(distance[some], brute, rtol=1e-12)
    yield Entry("cc-flag distances, times faster than NumPy brute force", per_star * N_STAR / seconds["squared"],
                20.0, "x", smaller=False)
    from scipy.spatial import cKDTree

    yield Entry("SciPy cKDTree, the same query", best(lambda: cKDTree(points).query(stars, NEAREST, workers=-1), 1))


def bench_other_measures():
    """Leverage (28 terms), label range and spectrum distance: milliseconds per star, on one thread."""
    import sys

    sys.path.insert(0, str(__import__("run").ROOT / "tests"))
    import numba
    from products import CENTRE, SIGMA

    from cannonkit.stages import flag, vectorizer

    rng = np.random.default_rng(2)
    labels = CENTRE + SIGMA * rng.normal(size=(200_000, 6))
    low, pivot, high = vectorizer.scaling_of(labels[:N_TRAIN])
    from cannonkit.kernels import leverage, neighbours
    from cannonkit.stages.lookup import Lookup

    powers = vectorizer.powers_of(6)
    whiten, rank = leverage.whitening(vectorizer.design_matrix((labels[:N_TRAIN] - pivot) / (high - low), powers))
    training = flag.Training((), np.arange(4), np.ones(4), neighbours.build_tree(labels[:10, :4]),
                             Lookup(np.zeros(0, "S1")), whiten, powers, low, pivot, high, N_TRAIN, rank)

    def run():
        flag.leverage(labels, training)
        flag.outside_fraction(labels, training)
        flag.spectrum_distance(labels[:, 0], np.full(len(labels), 1000), 6)
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    run()
    yield Entry("cc-flag leverage, range, spectrum distance per star", 1e3 * best(run, 3) / len(labels), 0.1, "ms")
    numba.set_num_threads(before)
