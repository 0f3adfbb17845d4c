"""Pairs and weighted quantiles against plain loops."""
import itertools

import numpy as np

from cannonkit.kernels import repeats


def test_pairs():
    size = np.array([2, 1, 4, 3])
    start = np.array([0, 2, 3, 7])
    n = int((size * (size - 1) // 2).sum())
    first, second, group = (np.empty(n, np.int64) for _ in range(3))
    repeats.fill_pairs(start, size, first, second, group)
    expected = [(a, b, g) for g, (s, m) in enumerate(zip(start, size, strict=True))
                for a, b in itertools.combinations(range(s, s + m), 2)]
    assert list(zip(first, second, group, strict=True)) == expected


def test_quantile_of_whole_weights_is_that_of_repeated_values():
    rng = np.random.default_rng(1)
    value = np.sort(rng.normal(size=41))
    weight = rng.integers(0, 4, 41).astype(float)
    for fraction in (0.0, 0.16, 0.5, 0.6827, 1.0):
        found = repeats.weighted_quantile(value, np.ones(41), fraction)
        assert abs(found - np.quantile(value, fraction, method="hazen")) < 1e-12
        found = repeats.weighted_quantile(value, weight, fraction)
        assert value[weight > 0][0] <= found <= value[weight > 0][-1]
    many, ones = np.repeat(value, 1000), np.ones(41000)
    assert abs(repeats.weighted_quantile(many, ones, 0.3) - np.quantile(many, 0.3)) < 1e-12
    assert np.isnan(repeats.weighted_quantile(value, np.zeros(41), 0.5))


def test_bootstrap_draws_are_the_estimates_of_the_drawn_groups():
    rng = np.random.default_rng(2)
    value = np.sort(np.abs(rng.normal(size=200)))
    weight = rng.uniform(0.2, 1, 200)
    group = rng.integers(0, 30, 200)
    counts = rng.multinomial(30, np.full(30, 1 / 30), size=5)
    quantile, variance = np.empty(5), np.empty(5)
    repeats.bootstrap_quantiles(value, weight, group, counts, 0.6827, quantile)
    repeats.bootstrap_variances(value**2, weight, group, counts, variance)
    for draw in range(5):
        w = weight * counts[draw, group]
        assert quantile[draw] == repeats.weighted_quantile(value, w, 0.6827)
        np.testing.assert_allclose(variance[draw], np.sum(w * value**2) / w.sum(), rtol=1e-13)
