"""The report's numbers against calculations of another kind: sorting by hand, loops, and astropy's coordinates."""
import math

import numpy as np
import pytest

from cannonkit.stages import line_candidates, report


def percentile(values, level):
    """Linear interpolation between sorted values, by the definition."""
    values = sorted(float(v) for v in values)
    at = (len(values) - 1) * level / 100
    below = int(math.floor(at))
    above = min(below + 1, len(values) - 1)
    return values[below] + (at - below) * (values[above] - values[below])


def scatter(values):
    return 0.5 * (percentile(values, 84) - percentile(values, 16))


def test_moments_by_hand(rng):
    values = rng.normal(3.0, 2.0, 101)
    m = report.moments(np.concatenate([values, [np.nan, np.inf]]))
    mean = sum(values) / len(values)
    assert m.n == 101
    assert m.mean == pytest.approx(mean, rel=1e-13)
    assert m.median == sorted(values)[50]
    assert m.scatter == pytest.approx(scatter(values), rel=1e-13)
    assert m.std == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / 101), rel=1e-12)
    assert m.rms == pytest.approx(math.sqrt(sum(v * v for v in values) / 101), rel=1e-12)


def test_nothing_gives_nan():
    m = report.moments([np.nan])
    assert m.n == 0 and all(math.isnan(v) for v in m[1:])
    assert math.isnan(report.half_range([]))
    assert report.member([]) == (0, pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True))
    assert report.agreement([np.nan, 1.0], [2.0, np.nan]).n == 0


def test_differences_of_all_giants_and_dwarfs(rng):
    left, right = rng.normal(0, 1, (300, 2)), rng.normal(0.3, 1, (300, 2))
    left[7, 1] = np.nan
    logg = rng.uniform(1, 5, 300)
    logg[:3] = 3.5, np.nan, 3.4999
    table = report.differences(left, right, logg, 3.5)
    for sample, keep in (("all", lambda g: True), ("giants", lambda g: g < 3.5), ("dwarfs", lambda g: g >= 3.5)):
        for i in range(2):
            d = [left[n, i] - right[n, i] for n in range(300) if keep(logg[n]) and not math.isnan(left[n, i])]
            m = table[sample][i]
            assert (m.n, m.mean, m.scatter) == (len(d), pytest.approx(sum(d) / len(d)), pytest.approx(scatter(d)))
    assert sum(table[s][0].n for s in ("giants", "dwarfs")) == 299


def test_running_quantiles(rng):
    x, y = rng.uniform(0, 10, 400), rng.normal(0, 1, 400)
    x[0], x[1], y[2] = 10.0, 11.0, np.nan
    edges = np.array([0.0, 1.0, 4.0, 10.0])
    line = report.running(x, y, edges, min_count=50)
    for b in range(3):
        own = [y[k] for k in range(400) if not math.isnan(y[k]) and edges[b] <= x[k]
               and (x[k] < edges[b + 1] or b == 2 and x[k] == edges[3])]
        assert line.n[b] == len(own)
        if len(own) >= 50:
            assert [line.low[b], line.median[b], line.high[b]] == pytest.approx(
                [percentile(own, p) for p in (16, 50, 84)])
        else:
            assert math.isnan(line.median[b])
    assert (line.n < 50).any() and (line.n >= 50).any(), "the test wants both kinds of bins"


def test_trend_is_the_weighted_deviation_of_the_running_median():
    line = report.Running(np.arange(3.0), np.array([1, 3, 9]), *[np.array([1.0, 2.0, np.nan])] * 3)
    assert report.trend(line) == pytest.approx(math.sqrt((1 * 0.75 ** 2 + 3 * 0.25 ** 2) / 4))


def test_agreement_finds_a_planted_pull(rng):
    reference = rng.normal(0, 1, 4000)
    predicted = 0.8 * reference + 0.1 + rng.normal(0, 0.05, 4000)
    a = report.agreement(reference, predicted)
    d = predicted - reference
    assert a.n == 4000 and a.bias == pytest.approx(d.mean()) and a.median == pytest.approx(np.median(d))
    assert a.scatter == pytest.approx(scatter(d))
    assert a.slope == pytest.approx(np.polyfit(reference, d, 1)[0])
    assert a.slope == pytest.approx(-0.2, abs=0.01)
    # mean of a unit Gaussian's outer tenth is +-1.755
    assert a.low_end == pytest.approx(0.1 + 0.2 * 1.755, abs=0.02)
    assert a.high_end == pytest.approx(0.1 - 0.2 * 1.755, abs=0.02)


def test_contours_enclose_their_share(rng):
    density = report.density(rng.normal(size=5000), rng.normal(size=5000), (-4, 4), (-4, 4), 40)
    assert density.counts.sum() == pytest.approx(5000, abs=3)
    for fraction in (0.3, 0.9):
        (level,) = report.contour_levels(density.counts, [fraction])
        inside = density.counts[density.counts >= level].sum() / density.counts.sum()
        above = density.counts[density.counts > level].sum() / density.counts.sum()
        assert above < fraction <= inside
    assert len(report.contour_levels(np.zeros((3, 3)), [0.5])) == 0


def test_column_quantiles_are_percentiles_of_what_is_not_masked(rng):
    values = rng.normal(size=(37, 11)).astype(np.float32)
    values[rng.random((37, 11)) < 0.3] = np.nan
    values[:, 4], values[1:, 5] = np.nan, np.nan
    values[0, 5] = 7.0
    out = report.column_quantiles(values, (16, 50, 84), block=4)
    for p in range(11):
        own = [v for v in values[:, p].tolist() if not math.isnan(v)]
        expected = [percentile(own, q) for q in (16, 50, 84)] if own else [math.nan] * 3
        assert out[:, p] == pytest.approx(expected, nan_ok=True)
    assert math.isnan(out[0, 4]) and out[0, 5] == 7.0


def test_outliers_are_runs_of_pixels():
    median = np.array([0.0, 0.02, -0.05, 0.0, np.nan, 0.011, 0.0])
    assert report.outliers(median, 0.01) == [(1, 2, -0.05), (5, 5, 0.011)]


def test_cluster_members():
    values = [0.01, -0.03, 0.05, 0.02, np.nan]
    m = report.member(values)
    mean = sum(values[:4]) / 4
    assert m.n == 4 and m.median == pytest.approx(0.015)
    assert m.std == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values[:4]) / 3))
    assert math.isnan(report.member([1.0]).std)


def test_galactic_coordinates_against_astropy(rng):
    coordinates = pytest.importorskip("astropy.coordinates", reason="astropy is the referee")
    units = pytest.importorskip("astropy.units")
    ra, dec = rng.uniform(0, 360, 200), np.degrees(np.arcsin(rng.uniform(-1, 1, 200)))
    expected = coordinates.SkyCoord(ra * units.deg, dec * units.deg, frame="icrs").galactic
    lon, lat = report.galactic(ra, dec)
    # the definition in FK4 and the pole of the Hipparcos catalogue differ by some milliarcseconds
    assert np.abs((lon - expected.l.deg + 180) % 360 - 180).max() * 3600 < 0.5 / np.cos(np.radians(lat)).min()
    assert np.abs(lat - expected.b.deg).max() * 3600 < 0.1


def test_galactocentric_of_known_places():
    lon, lat = report.galactic([266.40499], [-28.93617])       # the galactic centre
    assert abs((lon[0] + 180) % 360 - 180) < 0.001 and abs(lat[0]) < 0.001
    r, z = report.galactocentric([266.40499, 266.40499, 192.85948, 10.0], [-28.93617, -28.93617, 27.12825, 10.0],
                                 [8200.0, 4200.0, 1000.0, np.nan], r_sun=8.2, z_sun=0.02)
    assert r[:3] == pytest.approx([0.0, 4.0, 8.2], abs=0.001)
    assert z[:3] == pytest.approx([0.02, 0.02, 1.02], abs=0.001)
    assert math.isnan(r[3]) and math.isnan(z[3])


def test_cut_counts():
    reject = np.array([0, 1, 1, 3, 2, 4])
    assert report.cut_counts(reject, [0, 1, 2]) == [(0, 3, 2), (1, 2, 1), (2, 1, 1)]
    assert report.cut_counts(reject, [0], reject != 3) == [(0, 2, 2)]


def test_coverage_is_the_share_outside():
    everyone, share = report.coverage([1, 1, 1, 3], [1, 1, 1, 3], [True, False, False, True], (0, 4), (0, 4), bins=2)
    assert everyone.counts.tolist() == [[3, 0], [0, 1]]
    assert share[0, 0] == pytest.approx(1 / 3) and share[1, 1] == 1 and math.isnan(share[0, 1])


def test_take_gives_nan_where_there_is_no_row():
    assert report.take([5.0, 6.0], np.array([1, -1, 0])) == pytest.approx([6.0, math.nan, 5.0], nan_ok=True)


def test_limits_hold_the_values():
    low, high = report.limits([0.0, 1.0, np.nan], [10.0], fraction=1.0, pad=0.1)
    assert (low, high) == (-1.0, 11.0)
    assert report.limits([3.0, 3.0]) == pytest.approx((1.35, 4.65))
    assert report.limits([]) == (0.0, 1.0)


def test_pairs_are_alike_in_labels_and_differ_in_offset(rng):
    n = 60
    labels = np.stack([rng.uniform(4500, 4900, n), rng.uniform(2, 3, n), rng.normal(-0.75, 0.05, n)], axis=1)
    offset, width = rng.normal(0, 0.08, n), np.array([100.0, 0.2, 0.1])
    found = report.alike_pairs(labels, width, offset, 3)
    best = max(offset[b] - offset[a] - 2 * abs(offset[a]) for a in range(n) for b in range(n)
               if all(abs(labels[a] - labels[b]) <= width) and offset[b] > abs(offset[a]))
    a, b = found[0]
    assert offset[b] - offset[a] - 2 * abs(offset[a]) == best
    assert len(found) == 3 and len({star for pair in found for star in pair}) == 6
    for a, b in found:
        assert (np.abs(labels[a] - labels[b]) <= width).all() and offset[b] > abs(offset[a])
    assert report.alike_pairs(labels, width * 0, offset, 3) == []


def test_features_are_the_strongest_and_apart(rng):
    x = np.arange(200) * 0.1
    error = np.full(200, 0.01)
    difference = error * rng.standard_normal(200)
    difference[48:53] -= 0.2
    difference[100:105] += 0.1
    difference[150] = np.nan
    found = report.features(x, difference, error, 5, 1.0, 2)
    assert [round(f[0], 1) for f in found] == [5.0, 10.2]
    assert found[0][1] == pytest.approx(difference[48:53].mean()) and found[1][1] == pytest.approx(
        difference[100:105].mean())
    assert found[0][2] == pytest.approx(difference[48:53].mean() / (0.01 / np.sqrt(5)))
    many = report.features(x, difference, error, 5, 1.0, 100)
    places = np.sort([f[0] for f in many])
    assert np.all(np.diff(places) >= 1.0 - 1e-9) and not np.any(np.abs(places - 15.0) < 0.15)


def test_candidate_lines_are_the_strong_ones_of_a_giant():
    lines = line_candidates.of_star(7694.0, 7876.0, "air", 4700.0, 2.2, -0.7)
    assert np.all(np.diff(lines["wavelength"]) > 0) and 7690 < lines["wavelength"].min()
    (potassium,) = line_candidates.near(lines, 7698.97, 0.1)
    assert potassium["species"] == b"K I" and potassium["strength"] == lines["strength"].max()
    assert line_candidates.near(lines, 7748.27, 0.2)["species"][0] == b"Fe I"
    cn = lines[lines["species"] == b"CN"]
    assert cn["wavelength"].min() > 7860 and len(cn) > 10
    assert len(line_candidates.near(lines, 7765.0, 0.3)) == 0


def test_mean_and_error():
    mean, error = report.mean_and_error([1.0, 2.0, 4.0, np.nan])
    assert mean == pytest.approx(7 / 3) and error == pytest.approx(np.std([1, 2, 4], ddof=1) / math.sqrt(3))
    assert all(math.isnan(v) for v in report.mean_and_error([1.0]))
