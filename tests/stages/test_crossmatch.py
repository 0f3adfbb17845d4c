"""Joins against plain loops, and against stilts and astropy where they are there."""
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cannonkit import errors
from cannonkit.stages import crossmatch, sky

ARCSEC = 1 / 3600


def plain_join(left, right, radius, find="best"):
    """The rule in words, pair by pair: {(left, right): separation in arcsec}."""
    def separation(a, b):
        u, v = (np.array([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)])
                for x, y in np.radians([a, b]))
        return np.degrees(2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))) * 3600
    pairs = {}
    for i, a in enumerate(zip(*left, strict=True)):
        for j, b in enumerate(zip(*right, strict=True)):
            d = separation(a, b)
            if d <= radius:
                pairs[i, j] = d
    if find == "all":
        return pairs
    axis = 0 if len(left[0]) >= len(right[0]) else 1          # the larger table chooses
    choice = {}
    for pair, d in pairs.items():                             # earlier rows first: they win ties
        if pair[axis] not in choice or d < pairs[choice[pair[axis]]] - 1e-9:
            choice[pair[axis]] = pair
    kept = {}
    for pair in sorted(choice.values()):
        other = pair[1 - axis]
        if other not in kept or pairs[pair] < pairs[kept[other]] - 1e-9:
            kept[other] = pair
    return {pair: pairs[pair] for pair in kept.values()}


def crowd(rng, n, width=3.0):
    """Positions within a few arcsec around RA 0, Dec 40."""
    return rng.normal(0, width * ARCSEC, n) % 360, 40 + rng.normal(0, width * ARCSEC, n)


@pytest.mark.parametrize("sizes", [(40, 40), (40, 25), (25, 40)])
@pytest.mark.parametrize("find", ["best", "all"])
def test_sky_join_is_the_rule(sizes, find, rng):
    left, right = crowd(rng, sizes[0]), crowd(rng, sizes[1])
    a, b, separation, _ = crossmatch.join_sky(left, right, 1.0, find)
    wanted = plain_join(left, right, 1.0, find)
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == set(wanted) and len(wanted) > 5
    for i, j, d in zip(a.tolist(), b.tolist(), separation, strict=True):
        assert d == pytest.approx(wanted[i, j], abs=1e-8)
    assert np.all(np.diff(a) >= 0)
    if find == "best":
        assert len(set(a.tolist())) == len(a) and len(set(b.tolist())) == len(b)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2 ** 32 - 1))
def test_ties_on_a_lattice(n_left, n_right, seed):
    """Exactly equal positions, many times: earlier rows win."""
    rng = np.random.default_rng(seed)
    left = 30.0 + rng.integers(0, 3, n_left), rng.integers(0, 2, n_left) * 10.0
    right = 30.0 + rng.integers(0, 3, n_right), rng.integers(0, 2, n_right) * 10.0
    a, b, _, _ = crossmatch.join_sky(left, right, 1.0)
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == set(plain_join(left, right, 1.0))


def test_ties_go_to_the_highest_snr():
    left = np.array([10.0, 10.0, 10.0]), np.array([5.0, 5.0, 5.0])
    right = np.array([10.0, 10.0]), np.array([5.0, 5.0])
    a, b, _, counts = crossmatch.join_sky(left, right, 1.0, "best", np.array([5.0, 50.0, np.nan]),
                                          np.array([7.0, 70.0]))
    assert (a.tolist(), b.tolist()) == ([1], [1])
    assert counts["pairs left out, one of the two has a better partner"] == 5


def test_rows_without_position_match_nothing():
    lon, lat = np.array([0.0, np.nan, 5.0, 7.0]), np.array([0.0, 0.0, 90.0001, np.nan])
    a, b, _, counts = crossmatch.join_sky((lon, lat), (lon, lat), 1.0)
    assert (a.tolist(), b.tolist()) == ([0], [0])
    assert counts["left rows without position"] == 3 == counts["right rows without position"]


def test_right_ascension_in_any_range():
    a, b, _, _ = crossmatch.join_sky((np.array([-0.0001, 720.0]), np.array([1.0, 80.0])),
                                     (np.array([359.9999, 0.0]), np.array([1.0, 80.0])), 0.1)
    assert list(zip(a, b, strict=True)) == [(0, 0), (1, 1)]


def test_empty_tables():
    nothing = np.empty(0), np.empty(0)
    some = np.array([1.0]), np.array([2.0])
    for left, right in ((nothing, some), (some, nothing), (nothing, nothing)):
        assert len(crossmatch.join_sky(left, right, 1.0)[0]) == 0
    assert len(crossmatch.join_keys(np.empty(0, "S1"), np.array([b"a"]))[0]) == 0


def test_radius_out_of_range():
    with pytest.raises(errors.SettingError, match="radius"):
        crossmatch.join_sky((np.zeros(1), np.zeros(1)), (np.zeros(1), np.zeros(1)), 0.0)


def test_stilts_finds_the_same_pairs(program, tmp_path, rng):
    """Crowds at RA 0 and both poles, exact ties, three size ratios: the pair set of tskymatch2 find=best."""
    import fitsio

    stilts = program("stilts")
    for n_left, n_right in ((600, 600), (600, 350), (350, 600)):
        tables = []
        for name, n in (("left", n_left), ("right", n_right)):
            third = n // 3
            ra, dec = crowd(rng, n, 15.0)
            dec[:third] = 90 - np.abs(rng.normal(0, 15 * ARCSEC, third))
            ra[:third] = rng.uniform(0, 360, third)
            dec[third:2 * third] = -90 + np.abs(rng.normal(0, 15 * ARCSEC, third))
            ra[third:2 * third] = rng.uniform(0, 360, third)
            ra[-40:], dec[-40:] = rng.integers(0, 12, 40) * 1.0, 3.0
            tables.append((ra, dec))
            rows = np.zeros(n, [("k", "i8"), ("ra", "f8"), ("dec", "f8")])
            rows["k"], rows["ra"], rows["dec"] = np.arange(n), ra, dec
            fitsio.write(str(tmp_path / f"{name}.fits"), rows, clobber=True)
        out = tmp_path / "pairs.fits"
        subprocess.run([stilts, "tskymatch2", f"in1={tmp_path}/left.fits", f"in2={tmp_path}/right.fits",
                        "ra1=ra", "dec1=dec", "ra2=ra", "dec2=dec", "error=1", "find=best", f"out={out}",
                        "ofmt=fits-basic"], check=True, stderr=subprocess.DEVNULL)
        theirs = fitsio.read(str(out), ext=1)
        a, b, _, _ = crossmatch.join_sky(*tables, 1.0)
        assert len(a) > 50
        assert set(zip(a.tolist(), b.tolist(), strict=True)) == \
            set(zip(theirs["k_1"].tolist(), theirs["k_2"].tolist(), strict=True))


# --- by identifier ---------------------------------------------------------------------------------------


def test_keys_against_a_loop(rng):
    left = np.array([f"s{n}" if n else "" for n in rng.integers(0, 40, 80)], "S4")
    right = np.array([f"s{n}" if n else "" for n in rng.integers(0, 60, 90)], "S8")
    a, b, counts = crossmatch.join_keys(left, right, "all")
    wanted = {(i, j) for i, x in enumerate(left) for j, y in enumerate(right) if x and x == y}
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == wanted
    assert counts["left rows without identifier"] == (left == b"").sum()
    snr_left, snr_right = rng.uniform(1, 100, 80), rng.uniform(1, 100, 90)
    a, b, _ = crossmatch.join_keys(left, right, "best", snr_left, snr_right)
    best = set()
    for key in {x for x, y in zip(left, left, strict=True) if x} & set(right.tolist()):
        rows = [max((k for k, x in enumerate(keys) if x == key), key=lambda k, s=s: s[k])
                for keys, s in ((left, snr_left), (right, snr_right))]
        best.add(tuple(rows))
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == best


def test_gaia_identifiers_are_exact():
    """Neighbouring 64-bit numbers, which are one and the same float64."""
    left = np.array([b"604916731706106752", b"604916731706106753"])
    right = np.array([b"604916731706106753", b"604916731706106754"])
    a, b, _ = crossmatch.join_keys(left, right)
    assert (a.tolist(), b.tolist()) == ([1], [0])


def test_left_join_keeps_every_row():
    left, right, place = crossmatch.keep_left(np.array([1, 1, 3]), np.array([7, 8, 9]), 5)
    assert left.tolist() == [0, 1, 1, 2, 3, 4] and right.tolist() == [-1, 7, 8, -1, 9, -1]
    assert place.tolist() == [3, 0, 1, 3, 2, 3]


# --- positions -----------------------------------------------------------------------------------------


def test_galactic_coordinates_are_astropys(rng):
    """1e-6 arcsec: far below any match radius, far above rounding (1e-10 arcsec)."""
    units = pytest.importorskip("astropy.units", reason="astropy is not installed")
    from astropy.coordinates import SkyCoord

    lon, lat = rng.uniform(0, 360, 200), np.degrees(np.arcsin(rng.uniform(-1, 1, 200)))
    ra, dec = sky.galactic_to_icrs(lon, lat)
    icrs = SkyCoord(l=lon * units.deg, b=lat * units.deg, frame="galactic").icrs
    found = SkyCoord(ra * units.deg, dec * units.deg)
    assert found.separation(icrs).arcsec.max() < 1e-6


def test_designation():
    ra, dec = sky.designation_position(np.array([
        b"08514268+1146365", b"2M00000000-8959599", b" 23595999+0000000 ", b"25000000+0000000",
        b"AP0851426+1146365", b"", b"08514268 1146365"]))
    assert ra[0] == pytest.approx(15 * (8 + 51 / 60 + 42.68 / 3600), abs=1e-12)
    assert dec[0] == pytest.approx(11 + 46 / 60 + 36.5 / 3600, abs=1e-12)
    assert dec[1] == pytest.approx(-(89 + 59 / 60 + 59.9 / 3600), abs=1e-12) and ra[1] == 0
    assert ra[2] == pytest.approx(15 * (23 + 59 / 60 + 59.99 / 3600), abs=1e-12)
    assert np.isnan(ra[3:]).all() and np.isnan(dec[3:]).all()


def test_proper_motion_against_astropy(rng):
    """Straight motion on the sky against motion in space: they part by (pm t)^2, below 0.001 arcsec here."""
    units = pytest.importorskip("astropy.units", reason="astropy is not installed")
    from astropy.coordinates import SkyCoord
    from astropy.time import Time

    n = 50
    ra, dec = rng.uniform(0, 360, n), rng.uniform(-85, 85, n)
    pm = rng.normal(0, 1000, (2, n))
    moved = SkyCoord(ra * units.deg, dec * units.deg, pm_ra_cosdec=pm[0] * units.mas / units.yr,
                     pm_dec=pm[1] * units.mas / units.yr, distance=np.full(n, 100.0) * units.pc,
                     obstime=Time(2000.0, format="jyear")).apply_space_motion(Time(2015.5, format="jyear"))
    found = SkyCoord(*(x * units.deg for x in sky.propagate(ra, dec, *pm, 15.5)))
    assert found.separation(moved).arcsec.max() < 1e-3
    still = sky.propagate(ra, dec, np.full(n, np.nan), pm[1] * 0, 15.5)
    assert np.allclose(still[0], ra) and np.allclose(still[1], dec)
