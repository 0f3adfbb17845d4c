"""cc-mock: both surveys in their own layouts, said to be a mock, whole or not there."""
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_array_equal

from cannonkit import bitmasks, readers, stream

SMALL = ("--common", "24", "--apogee-only", "8", "--galah-only", "8", "--apogee-repeats", "5", "--galah-repeats", "6",
         "--clusters", "0.02")


@pytest.fixture(scope="module")
def mock(inside, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "mock"
    assert inside("mock", "-o", folder, "--quiet", "--seed", "3", *SMALL) == 0
    return folder


def table(path, hdu=1):
    with fits.open(path) as file:
        file.verify("exception")
        return np.array(file[hdu].data)


@pytest.fixture(scope="module")
def allstar(mock):
    return table(mock / "apogee" / "allStar-r12-mock.fits")


@pytest.fixture(scope="module")
def allspec(mock):
    return table(mock / "galah" / "GALAH_DR3_main_allspec_mock.fits")


@pytest.fixture(scope="module")
def truth(mock):
    with stream.open_source(str(mock / "truth.fits"), "truth", verify=True) as source:
        return source.read()


def apstar_path(mock, row):
    parts = [row[name].decode().strip() for name in ("TELESCOPE", "FIELD", "FILE")]
    return mock.joinpath("apogee", "spectra", *parts)


def test_the_tree_is_the_one_that_pipeline_mk_reads(mock):
    found = {p.relative_to(mock).as_posix() for p in mock.iterdir()}
    assert found == {"apogee", "galah", "gaia_edr3_mock.fits", "distances_mock.fits", "clusters_mock.fits",
                     "truth.fits", "nitrogen_template.csv"}
    assert sorted(p.name for p in (mock / "galah").iterdir()) == [
        "GALAH_DR3_main_allspec_mock.fits", "GALAH_DR3_main_allstar_mock.fits", "spectra"]
    assert not [p for p in mock.parent.iterdir() if p.name != "mock"]        # no temporary directory is left


def test_every_file_says_that_it_is_a_mock(mock):
    paths = sorted(mock.rglob("*.fits"))
    assert len(paths) > 150
    for path in paths:
        header = fits.getheader(path)
        assert header["MOCK"] is True and "cc-mock" in header["GENERATR"] and header["MOCKSEED"] == 3, path


# --- APOGEE ------------------------------------------------------------------------------------------

def test_allstar_has_the_columns_and_types_of_dr16(allstar):
    types = {"APSTAR_ID": "S57", "APOGEE_ID": "S18", "FILE": "S39", "TELESCOPE": "S8", "FIELD": "S16",
    "LOCATION_ID": "i4",
             "RA": "f8", "NVISITS": "i4", "SNR": "f4", "STARFLAG": "i4", "ANDFLAG": "i4", "ASPCAPFLAG": "i4",
             "EXTRATARG": "i2", "TEFF": "f4", "M_H_ERR": "f4", "ASPCAP_CLASS": "S5", "GAIA_SOURCE_ID": "i8"}
    for name, kind in types.items():
        assert allstar.dtype[name].newbyteorder("=") == np.dtype(kind), name
    assert allstar["PARAM"].shape[1:] == (9,) and allstar["FPARAM_COV"].shape[1:] == (81,)


def test_allstar_ids_are_padded_and_paths_lead_to_files(mock, allstar):
    raw = (mock / "apogee" / "allStar-r12-mock.fits").read_bytes()
    assert raw.count(b"apo25m  ") + raw.count(b"lco25m  ") >= len(allstar)
    for row in allstar:
        assert row["APOGEE_ID"].startswith(b"2M") and len(row["APOGEE_ID"].strip()) == 18
        path = apstar_path(mock, row)
        assert path.is_file(), path
        assert path.name.startswith("asStar" if row["TELESCOPE"].strip() == b"lco25m" else "apStar")
    assert len(list((mock / "apogee" / "spectra").rglob("*.fits"))) == len(allstar)


def test_apstar_layout(mock, allstar):
    flat, many = 0, 0
    for row in allstar[:30]:
        path = apstar_path(mock, row)
        with fits.open(path) as file:
            file.verify("exception")
            assert len(file) == 10
            assert file[0].header["BITPIX"] == 16 and file[0].header["NAXIS"] == 0
            visits = file[0].header["NVISITS"]
            assert visits == row["NVISITS"] and f"SNRVIS{visits}" in file[0].header
            shapes = {file[i].data.shape for i in range(1, 8)}
            assert len(shapes) == 1
            shape = shapes.pop()
            assert shape in ([(8575,), (1, 8575)] if visits == 1 else [(2 + visits, 8575)])
            flat += shape == (8575,)
            many += visits > 1
            assert [file[i].header["BITPIX"] for i in range(1, 9)] == [-32, -32, 16, -32, -32, -32, -32, -64]
            for i in (1, 2, 3):
                h = file[i].header
                assert (h["CRVAL1"], h["CDELT1"], h["CRPIX1"], h["DC-FLAG"]) == (4.179, 6e-6, 1, 1)
            assert file[8].data.shape == (26,) and len(file[9].data) == visits
    assert flat > 0 and many > 0


def test_apstar_gaps_masks_and_errors(mock, allstar):
    bad = bitmasks.APOGEE_PIXMASK.mask("BADPIX", "CRPIX", "SATPIX", "UNFIXABLE", "BADDARK", "BADFLAT",
    "BADERR", "NOSKY",
                                       "NOT_ENOUGH_PSF")
    sky = bitmasks.APOGEE_PIXMASK.mask("SIG_SKYLINE", "SIG_TELLURIC")
    filled, bad_share, sky_share, huge = [], [], [], 0.0
    for row in allstar[:40]:
        with fits.open(apstar_path(mock, row)) as file:
            flux, error, mask = (np.atleast_2d(file[i].data)[0].astype(float) for i in (1, 2, 3))
        mask = mask.astype(int)
        assert np.all(np.isfinite(flux)) and np.all(np.isfinite(error))
        empty = (flux == 0) & (error == 0)
        assert np.all(empty[3360:3500]) and np.all(empty[6150:6270]) and np.all(empty[:180]) and np.all(empty[8400:])
        assert not np.any(empty[246:3274]) and not np.any(empty[3585:6080]) and not np.any(empty[6344:8335])
        inside = ~empty
        filled.append(inside.sum())
        slices = np.r_[246:3274, 3585:6080, 6344:8335]
        bad_share.append(((mask & bad) != 0)[slices].mean())
        sky_share.append(((mask & sky) != 0)[inside].mean())
        huge = max(huge, error.max())
        # Not normalised: the continuum falls or rises over the range, and is not near 1.
        assert np.median(flux[inside]) > 5.0
    assert 7700 < np.mean(filled) < 7900            # 774 to 784 empty pixels in real rows
    assert 0.003 < np.mean(bad_share) < 0.02        # 0.6 and 1.8 % in real rows
    assert 0.08 < np.mean(sky_share) < 0.22         # 12 and 16 % in real rows
    assert huge > 1e10


def test_flags_and_sentinels(allstar):
    assert np.any(allstar["EXTRATARG"] & 16)
    lost = (allstar["ASPCAPFLAG"].astype(np.int64) & (1 << 31)) != 0
    assert np.all(allstar["TEFF"][lost] < -9000)
    named = allstar["TEFF"] > -9000
    assert np.all((allstar["TEFF"][named] > 2500) & (allstar["TEFF"][named] < 10000))
    np.testing.assert_allclose(allstar["PARAM"][named][:, 0], allstar["TEFF"][named], rtol=1e-6)
    np.testing.assert_allclose(10 ** allstar["PARAM"][named][:, 2], allstar["VMICRO"][named], rtol=1e-5)


# --- GALAH -------------------------------------------------------------------------------------------

def test_galah_catalogues(mock, allspec):
    star = table(mock / "galah" / "GALAH_DR3_main_allstar_mock.fits")
    assert_array_equal(star["sobject_id"], allspec["sobject_id"][allspec["flag_repeat"] == 0])
    assert len(np.unique(star["star_id"])) == len(star) < len(allspec)
    for name in ("dr3_source_id", "dr2_source_id", "ra_dr2", "dec_dr2", "vmic", "e_vbroad", "alpha_fe", "chi2_sp",
                 "snr_c1_iraf", "red_flag", "flag_alpha_fe"):
        assert name in allspec.dtype.names
    ratio = np.median(allspec["snr_c4_iraf"] / allspec["snr_c1_iraf"])
    assert ratio == pytest.approx(2.17, rel=0.01)


def test_galah_files(mock, allspec, truth):
    missing = {row["id"].decode().strip(): int(row["missing_camera"]) for row in truth
               if row["survey"].strip() == b"galah"}
    lengths = set()
    for row in allspec[:30]:
        name = str(row["sobject_id"])
        for ccd, (low, high, step) in enumerate(((4712.5, 4714.2, 0.046), (5646.9, 5650.0, 0.0547),
                                                 (6476.1, 6480.0, 0.0631), (7584.2, 7586.4, 0.0735)), 1):
            path = mock / "galah" / "spectra" / f"{name}{ccd}.fits"
            assert path.is_file() != (missing[name] == ccd)
            if not path.is_file():
                continue
            with fits.open(path) as file:
                file.verify("exception")
                assert [h.header["EXTNAME"] for h in file[1:4]] == ["input_sigma", "no_sky_subspectrum", "no_sky_sigma"]
                assert [h.header["BITPIX"] for h in file[:4]] == [-32] * 4
                seen = file[0].header
                assert low <= seen["CRVAL1"] <= high and seen["CDELT1"] == pytest.approx(step, rel=1e-3)
                lengths.add(seen["NAXIS1"])
                if len(file) == 5:
                    rest = file[4].header
                    assert rest["BITPIX"] == -64
                    # Formats page: start and step are both 1 - v / c of the observed ones.
                    assert rest["CRVAL1"] / seen["CRVAL1"] == pytest.approx(rest["CDELT1"] / seen["CDELT1"], rel=1e-12)
                    assert abs(1.0 - rest["CRVAL1"] / seen["CRVAL1"]) * 3e5 < 500.0
                    # TiO and the wings of potassium eat up to half of an M dwarf's flux.
                    assert 0.4 < np.median(file[4].data) < 1.1
    assert 4096 in lengths and min(lengths) >= 4096 and max(lengths) <= 4112


def test_lines_of_a_mock_stand_at_rest_in_both_surveys(mock, allstar, allspec, truth):
    # Mg I 5711.088 A (air) in GALAH, Fe I 15298.74 A (vacuum) in APOGEE: within 3 km/s, measured by centroid.
    done = 0
    for row in allspec[(allspec["teff"] < 6200) & (allspec["snr_c2_iraf"] > 40) & (allspec["fe_h"] > -0.6)][:6]:
        path = mock / "galah" / "spectra" / f"{row['sobject_id']}2.fits"
        if not path.is_file():
            continue
        with fits.open(path) as file:
            if len(file) < 5:
                continue
            h, flux = file[4].header, file[4].data
            wave = h["CRVAL1"] + h["CDELT1"] * np.arange(h["NAXIS1"])
        near = np.abs(wave - 5711.088) < 0.25
        depth = np.clip(1.0 - flux[near], 0.0, None)
        assert abs((depth * wave[near]).sum() / depth.sum() - 5711.088) / 5711.0 * 3e5 < 3.0
        done += 1
    assert done > 2


def test_readers_take_the_files_for_what_they_are(mock, allstar, allspec):
    with readers.File(str(apstar_path(mock, allstar[0])), "x") as file:
        assert readers.layout_of(file) == "apstar"
    name = f"{allspec['sobject_id'][0]}3.fits"
    with readers.File(str(mock / "galah" / "spectra" / name), "x") as file:
        assert readers.layout_of(file) == "galah_dr3"


# --- side tables -------------------------------------------------------------------------------------

def test_gaia_distances_and_clusters_share_the_ids(mock, allspec):
    gaia, far = table(mock / "gaia_edr3_mock.fits"), table(mock / "distances_mock.fits")
    assert_array_equal(gaia["source_id"], far["source_id"])
    assert np.all(np.isin(allspec["dr3_source_id"], gaia["source_id"]))
    good = np.isfinite(far["r_med_photogeo"])
    assert np.all(far["r_lo_geo"] < far["r_med_geo"]) and np.all(far["r_med_geo"] < far["r_hi_geo"])
    assert np.all(far["r_lo_photogeo"][good] < far["r_hi_photogeo"][good])
    members = table(mock / "clusters_mock.fits")
    assert set(members["memberprob"] > 0.5) == {True, False}
    assert np.all(np.isin(members["source_id"], gaia["source_id"]))


def test_truth_has_a_row_for_each_spectrum(truth, allstar, allspec):
    apogee = truth[truth["survey"] == b"apogee"]
    galah = truth[truth["survey"] == b"galah"]
    assert_array_equal(np.char.strip(apogee["repeat_id"]), np.char.strip(allstar["APSTAR_ID"]))
    assert_array_equal(galah["id"].astype(np.int64), allspec["sobject_id"])
    common = set(np.char.strip(apogee["star_id"])) & {b"2M" + s.strip() for s in galah["star_id"]}
    assert len(common) >= 24


# --- conduct -----------------------------------------------------------------------------------------

def test_same_seed_same_bytes_for_any_number_of_threads(mock, command, tmp_path):
    # The other run is a process of its own with one thread; truth.fits differs in how it was made, not in data.
    result = command("mock", "-o", tmp_path / "again", "--quiet", "--seed", "3", "--threads", "1", *SMALL)
    assert result.code == 0, result.err
    names = sorted(p.relative_to(mock) for p in mock.rglob("*.fits") if p.name != "truth.fits")
    assert names == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*.fits")
                           if p.name != "truth.fits")
    for name in names:
        assert (mock / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_another_seed_is_another_sky(mock, inside, tmp_path):
    assert inside("mock", "-o", tmp_path / "m", "--quiet", "--seed", "4", "--common", "3", "--apogee-only", "0",
                  "--galah-only", "0", "--clusters", "0", "--apogee-repeats", "0", "--galah-repeats", "0") == 0
    mine = table(tmp_path / "m" / "apogee" / "allStar-r12-mock.fits")
    assert not set(mine["APOGEE_ID"]) & set(table(mock / "apogee" / "allStar-r12-mock.fits")["APOGEE_ID"])


TINY = ("--common", "2", "--apogee-only", "0", "--galah-only", "0", "--clusters", "0", "--apogee-repeats", "0",
        "--galah-repeats", "0", "--quiet")


def test_a_directory_with_files_is_refused_and_a_strangers_never_replaced(inside, tmp_path, capfd):
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.tex").write_text("my life")
    assert inside("mock", "-o", own, *TINY) == 73
    assert "not empty" in capfd.readouterr().err
    assert inside("mock", "-o", own, "--overwrite", *TINY) == 73
    assert (own / "thesis.tex").read_text() == "my life" and os.listdir(tmp_path) == ["own"]
    (tmp_path / "file").write_text("x")
    assert inside("mock", "-o", tmp_path / "file", "--overwrite", *TINY) == 73


def test_an_earlier_mock_is_replaced_only_with_overwrite_and_an_empty_directory_is_used(inside, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    assert inside("mock", "-o", folder, *TINY) == 0
    (folder / "stale").write_text("x")
    assert inside("mock", "-o", folder, *TINY) == 73
    assert inside("mock", "-o", folder, "--overwrite", *TINY) == 0
    assert not (folder / "stale").exists() and (folder / "truth.fits").is_file()
    assert os.listdir(tmp_path) == ["m"]


def test_nothing_is_left_when_it_is_stopped(root, tmp_path):
    import signal

    process = subprocess.Popen([sys.executable, root / "bin" / "cc-mock", "-o", tmp_path / "m", "--common", "3000"],
                               stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".m.*.part/apogee/allStar*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (143, -signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []


def test_dry_run_writes_nothing(inside, tmp_path, capfd):
    assert inside("mock", "-o", tmp_path / "m", "--dry-run", *TINY[:-1]) == 0
    assert "apogee files 2" in capfd.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_wrong_setting_is_named(inside, tmp_path, capfd):
    assert inside("mock", "-o", tmp_path / "m", "--set", "comon=3") == 64
    assert "common" in capfd.readouterr().err
