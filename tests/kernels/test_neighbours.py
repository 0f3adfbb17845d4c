"""The k-d tree against all distances sorted."""
import numpy as np
import pytest

from cannonkit.kernels import neighbours


def brute_force(stars, points, metric, n_nearest, group=None, point_group=None):
    """Mean of the n_nearest smallest distances, each summed label by label; NaN where it cannot be."""
    result = np.full(len(stars), np.nan)
    for m, star in enumerate(stars):
        if not np.all(np.isfinite(star)):
            continue
        u = star - points
        d = np.sum(np.abs(u), axis=1) if metric == "absolute" else np.sum(u * u, axis=1)
        if group is not None:
            d = d[(point_group < 0) | (point_group != group[m])]
        if metric == "root":
            d = np.sqrt(d)
        if d.size >= n_nearest:
            result[m] = np.sort(d)[:n_nearest].mean()
    return result


def tree_distance(stars, points, metric, n_nearest, group=None, point_group=None):
    tree = neighbours.build_tree(points, point_group)
    distance = np.zeros(len(stars))
    group = np.full(len(stars), -1, np.int64) if group is None else group
    neighbours.mean_nearest_distance(stars, group, *tree, neighbours.METRICS[metric], n_nearest, distance)
    return distance


@pytest.mark.parametrize("metric", sorted(neighbours.METRICS))
@pytest.mark.parametrize("n_train, n_label, n_nearest", [(700, 4, 10), (13, 2, 3), (12, 4, 12), (64, 1, 5)])
def test_equals_brute_force(metric, n_train, n_label, n_nearest):
    rng = np.random.default_rng(n_train + n_nearest)
    points = rng.normal(size=(n_train, n_label)) * rng.uniform(0.3, 30, n_label)
    points[n_train // 2:n_train // 2 + 3] = points[0]        # equal stars: ties must not matter
    stars = np.concatenate([points[:20], rng.normal(size=(600, n_label)) * 20,
                            1e4 * rng.normal(size=(20, n_label))])
    stars[[5, 300], 0] = np.nan, np.inf
    expected = brute_force(stars, points, metric, n_nearest)
    found = tree_distance(stars, points, metric, n_nearest)
    # The same sums in the same order: only the mean of 10 differs in its order of addition.
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0, equal_nan=True)
    assert np.isnan(found[[5, 300]]).all() and np.isfinite(found).sum() == len(stars) - 2


def test_the_metric_decides_the_neighbour():
    # From (0, 0), (3, 0) is nearer than (2, 2) when differences are added, farther when they are squared.
    points = np.array([[3.0, 0.0], [2.0, 2.0]])
    star = np.zeros((1, 2))
    assert tree_distance(star, points, "absolute", 1)[0] == 3
    assert tree_distance(star, points, "squared", 1)[0] == 8
    assert tree_distance(star, points, "root", 1)[0] == np.sqrt(8)


@pytest.mark.parametrize("metric", sorted(neighbours.METRICS))
def test_a_star_of_the_same_group_is_no_neighbour(metric):
    rng = np.random.default_rng(1)
    points = rng.normal(size=(300, 4))
    point_group = np.arange(300) // 2                        # every star is in the training set twice
    point_group[10:14] = -1                                  # ... but for a few that belong to no group
    stars = points[:40] + 1e-3
    group = point_group[:40].copy()
    found = tree_distance(stars, points, metric, 10, group, point_group)
    np.testing.assert_allclose(found, brute_force(stars, points, metric, 10, group, point_group), rtol=1e-12)
    alone = tree_distance(stars, points, metric, 10)
    own = group >= 0
    assert np.all(found[own] > alone[own]) and np.all(found[~own] == alone[~own])


def test_too_few_training_stars_give_nan():
    points = np.arange(8.0).reshape(4, 2)
    stars = np.zeros((2, 2))
    group = np.array([0, -1])
    point_group = np.arange(4)
    found = tree_distance(stars, points, "squared", 4, group, point_group)
    assert np.isnan(found[0]) and np.isfinite(found[1])
    assert np.isnan(tree_distance(stars, points[:0], "squared", 1)).all()


def test_any_number_of_threads_gives_the_same_bits():
    import numba

    rng = np.random.default_rng(2)
    points, stars = rng.normal(size=(500, 4)), rng.normal(size=(3000, 4))
    before = numba.get_num_threads()
    answers = []
    for threads in range(1, before + 1):
        numba.set_num_threads(threads)
        answers.append(tree_distance(stars, points, "squared", 10))
    numba.set_num_threads(before)
    for start in (0, 1, 700):                                # and so does any cut into chunks
        answers.append(np.concatenate([tree_distance(part, points, "squared", 10)
                                       for part in np.split(stars, [start])]))
    for answer in answers[1:]:
        assert np.array_equal(answer, answers[0])
