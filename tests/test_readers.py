"""Readers: every quirk of the surveys' files, on files made here and on real ones beside the checkout."""
import gzip
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import survey_files
from astropy.io import fits as astropy_fits
from astropy.table import Table

from cannonkit import readers, recipe
from cannonkit.bitmasks import SPECTRUM_STATUS as STATUS
from cannonkit.recipe_spectra import Generic, Grid, Part, Spectra, Stretch, Velocity

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
N = 8575


def spectra_of(name):
    return recipe.load_survey(str(CONFIGS / f"{name}.yaml")).spectra


@pytest.fixture(scope="module")
def apogee():
    return spectra_of("apogee_dr16")


@pytest.fixture(scope="module")
def galah():
    return spectra_of("galah_dr3")


def one(spectra, root, file, **keywords):
    stars = readers.Reader(spectra, root).read(file, **keywords)
    assert len(stars) == 1
    return stars[0]


def random_apstar(rng, rows):
    return (rng.uniform(50, 90, (rows, N)), rng.uniform(1, 2, (rows, N)), rng.integers(0, 2 ** 14, (rows, N)))


# --- apStar ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows, flat, dtype, bits_type", [
    (1, False, "f4", "i2"), (1, True, "f4", "i2"), (1, True, "f8", "i8"), (2, False, "f8", "i8"),
    (4, False, "f4", "i2"), (5, False, "f8", "i8")])
def test_apstar_combined_row(tmp_path, rng, apogee, rows, flat, dtype, bits_type):
    flux, error, bits = random_apstar(rng, rows)
    if rows == 2:
        flux[1] = error[1] = bits[1] = 0              # DR17 with one visit
    survey_files.apstar(tmp_path / "a.fits", flux, error, bits, flat, dtype=dtype, bits_type=bits_type)
    star = one(apogee, tmp_path, "a.fits")
    spectrum = star.inputs[0]
    assert (star.status, star.visit, star.messages) == (0, 0, [])
    np.testing.assert_array_equal(spectrum.flux, flux[0].astype(dtype))
    np.testing.assert_array_equal(spectrum.error, error[0].astype(dtype))
    np.testing.assert_array_equal(spectrum.bits, bits[0])
    assert (spectrum.scale, spectrum.start, spectrum.step) == ("log10", 4.179, 6e-6)


def test_apstar_visits(tmp_path, rng, apogee):
    flux, error, bits = random_apstar(rng, 5)
    snr = {f"SNRVIS{k}": 10.0 * k for k in (1, 2, 3)}
    survey_files.apstar(tmp_path / "a.fits", flux, error, bits, header=snr)
    single = {"SNRVIS1": 33.0}
    survey_files.apstar(tmp_path / "b.fits", flux[:1], error[:1], bits[:1], flat=True, header=single)
    reader = readers.Reader(apogee, tmp_path)
    for visits, rows in (("combined", [0]), ("all", [0, 2, 3, 4]), ("only", [2, 3, 4])):
        stars = reader.read("a.fits", visits=visits)
        assert reader.count("a.fits", visits) == len(stars)
        for star, row in zip(stars, rows, strict=True):
            assert star.visit == max(0, row - 1)
            np.testing.assert_array_equal(star.inputs[0].flux, flux[row].astype("f4"))
            assert np.isnan(star.snr) if row == 0 else star.snr == 10.0 * star.visit
    # one visit: it is the combined spectrum
    assert [s.visit for s in reader.read("b.fits", visits="all")] == [0]
    assert reader.count("b.fits", "all") == 1
    only = reader.read("b.fits", visits="only")
    assert [(s.visit, s.snr) for s in only] == [(1, 33.0)] and reader.count("b.fits", "only") == 1
    assert reader.count("missing.fits", "all") == 1 == len(reader.read("missing.fits", visits="all"))


def test_aspcapstar(tmp_path, rng, apogee):
    flux, error = rng.uniform(0.5, 1, N), rng.uniform(0.01, 0.02, N)
    survey_files.aspcapstar(tmp_path / "s.fits", flux, error)
    star = one(replace(apogee, layout="aspcapstar"), tmp_path, "s.fits")
    np.testing.assert_array_equal(star.inputs[0].flux, flux.astype("f4"))
    assert (star.inputs[0].start, star.inputs[0].step) == (4.179, 6e-6) and star.status == 0


# --- GALAH ----------------------------------------------------------------------------------------


def write_galah(folder, rng, name="star", velocity=50.0, lengths=(4096, 4096, 4097, 4112), **keywords):
    out = []
    for k, (n, start, step) in enumerate(zip(lengths, (4713.0, 5648.0, 6478.0, 7585.0),
                                             (0.046, 0.0547, 0.0631, 0.0735), strict=True), 1):
        flux, relative = rng.uniform(0.5, 1, n), rng.uniform(0.01, 0.02, n)
        survey_files.galah(folder / f"{name}{k}.fits", flux, relative, start, step, velocity, **keywords)
        out.append((flux, relative))
    return out


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("crpix", [1.0, 0.0])
def test_galah_four_cameras(tmp_path, rng, galah, names, crpix):
    data = write_galah(tmp_path, rng, names=names, crpix=crpix)
    star = one(galah, tmp_path, "star{ccd}.fits")
    assert star.status == 0
    starts = (4713.0, 5648.0, 6478.0, 7585.0)
    for spectrum, (flux, relative), start in zip(star.inputs, data, starts, strict=True):
        np.testing.assert_array_equal(spectrum.flux, flux)
        np.testing.assert_array_equal(spectrum.error, relative.astype("f4"))
        assert np.isclose(spectrum.start, start * (1 - 50.0 / readers.LIGHT), rtol=1e-14)
    assert np.isclose((star.doppler - 1) * readers.LIGHT, 50.0, atol=0.01)


def test_galah_missing_camera_and_missing_all(tmp_path, rng, galah):
    write_galah(tmp_path, rng)
    os.unlink(tmp_path / "star4.fits")
    star = one(galah, tmp_path, "star{ccd}.fits")
    assert star.status == STATUS.MISSING_SEGMENT and [i is None for i in star.inputs] == [False] * 3 + [True]
    assert "star4.fits: No such file" in star.messages[0]
    star = one(galah, tmp_path, "other{ccd}.fits")
    assert star.status == STATUS.MISSING_FILE and len(star.messages) == 1


def test_galah_without_hdu4(tmp_path, rng, galah):
    write_galah(tmp_path, rng, n_hdu=4)
    star = one(galah, tmp_path, "star{ccd}.fits")
    assert star.status == STATUS.NOT_NORMALISED and "HDU 4" in star.messages[0]


def test_galah_length_of_the_error_differs(tmp_path, rng, galah):
    write_galah(tmp_path, rng)
    with astropy_fits.open(tmp_path / "star2.fits") as hdus:
        hdus[1].data = hdus[1].data[:-1]
        hdus.writeto(tmp_path / "star2.fits", overwrite=True)
    star = one(galah, tmp_path, "star{ccd}.fits")
    assert star.status == STATUS.BROKEN_FILE and "4095 pixels, expected 4096" in star.messages[0]


def test_galah_reduction_6_and_its_velocity(tmp_path, rng, galah):
    spectra = replace(galah, layout="galah_dr4", velocity=Velocity(header="RVCOM", good="RVCOM_OK"))
    flux, relative = rng.uniform(0.5, 1, 4096), rng.uniform(0.01, 0.02, 4096)
    for k, start in enumerate((4713.0, 5648.0, 6478.0, 7585.0), 1):
        survey_files.galah6(tmp_path / f"a{k}.fits", flux, relative, start, 0.05, -21.5)
        survey_files.galah6(tmp_path / f"b{k}.fits", flux, relative, start, 0.05)
    star = one(spectra, tmp_path, "a{ccd}.fits")
    assert star.status == 0 and star.velocity == -21.5 and star.doppler == 1.0
    np.testing.assert_array_equal(star.inputs[3].flux, flux.astype("f4"))
    assert np.isnan(one(spectra, tmp_path, "b{ccd}.fits").velocity)


# --- one layout given to another's reader ---------------------------------------------------------


def test_each_reader_refuses_the_others_files_and_names_both(tmp_path, rng, apogee, galah):
    flux, error, bits = random_apstar(rng, 3)
    survey_files.apstar(tmp_path / "apstar.fits", flux, error, bits)
    survey_files.aspcapstar(tmp_path / "aspcapstar.fits", flux[0], error[0])
    survey_files.galah(tmp_path / "galah_dr3.fits", flux[0], error[0], 4713.0, 0.046)
    survey_files.galah6(tmp_path / "galah_dr4.fits", flux[0], error[0], 4713.0, 0.046)
    chips = [astropy_fits.ImageHDU(np.ones((3, 4096), "f4"))] * 4
    astropy_fits.HDUList([astropy_fits.PrimaryHDU(), *chips]).writeto(tmp_path / "apvisit.fits")
    columns = {n: np.ones(9) for n in ("wave", "sob", "uob", "smod", "mob")}
    Table(columns).write(tmp_path / "galah_dr4_fit.fits")
    Table({"x": [1.0]}).write(tmp_path / "none.fits")
    one_file = dict(cameras=(), grid=Grid((Stretch(4715.94, 0.046, 3915),)))
    own = {"apstar": apogee, "aspcapstar": replace(apogee, layout="aspcapstar"),
           "galah_dr3": replace(galah, **one_file),
           "galah_dr4": replace(galah, layout="galah_dr4", **one_file)}
    found = sorted(p.stem for p in tmp_path.glob("*.fits"))
    assert len(found) == 7
    for layout, spectra in own.items():
        for name in found:
            star = one(spectra, tmp_path, f"{name}.fits")
            if name == layout:
                assert star.status == 0
                continue
            assert star.status == STATUS.WRONG_LAYOUT, (layout, name, star.messages)
            assert readers.NAMES[layout] in star.messages[0]
            assert readers.NAMES.get(name, "no known survey") in star.messages[0]


# --- broken files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("content, bit", [
    (b"", "BROKEN_FILE"), (b"hello", "BROKEN_FILE"), (b"SIMPLE  =" + b" " * 3000, "BROKEN_FILE"),
    (b"\x89PNG" + bytes(5000), "BROKEN_FILE"), (bytes(2880 * 3), "BROKEN_FILE")])
def test_files_that_are_none(tmp_path, apogee, content, bit):
    (tmp_path / "x.fits").write_bytes(content)
    star = one(apogee, tmp_path, "x.fits")
    assert star.status == STATUS.mask(bit) and star.messages[0].startswith("x.fits: ")


def test_gzip(tmp_path, rng, apogee):
    flux, error, bits = random_apstar(rng, 5)
    survey_files.apstar(tmp_path / "a.fits", flux, error, bits)
    data = gzip.compress((tmp_path / "a.fits").read_bytes(), 1)
    (tmp_path / "a.fits.gz").write_bytes(data)
    (tmp_path / "cut.fits.gz").write_bytes(data[:len(data) // 2])
    (tmp_path / "bad.fits.gz").write_bytes(data[:500] + bytes(100) + data[600:])
    star = one(apogee, tmp_path, "a.fits.gz")
    assert star.status == 0
    np.testing.assert_array_equal(star.inputs[0].flux, flux[0].astype("f4"))
    for name in ("cut", "bad"):
        star = one(apogee, tmp_path, f"{name}.fits.gz")
        assert star.status == STATUS.BROKEN_FILE and "gzip data are" in star.messages[0]


def test_directories_fifos_and_links_to_nowhere(tmp_path, apogee):
    (tmp_path / "d.fits").mkdir()
    os.mkfifo(tmp_path / "p.fits")
    os.symlink("nowhere", tmp_path / "l.fits")
    assert one(apogee, tmp_path, "d.fits").status == STATUS.BROKEN_FILE
    assert one(apogee, tmp_path, "p.fits").status == STATUS.BROKEN_FILE
    assert one(apogee, tmp_path, "l.fits").status == STATUS.MISSING_FILE
    assert one(apogee, tmp_path, "d.fits/x.fits").status == STATUS.MISSING_FILE


def test_every_cut_of_a_file_is_seen(tmp_path, rng, galah):
    """A file cut anywhere before the end of its last needed HDU is broken, never read short."""
    spectra = replace(galah, cameras=(), grid=Grid((Stretch(4715.94, 0.046, 3915),)))
    flux = rng.uniform(0.5, 1, 4096)
    survey_files.galah(tmp_path / "whole.fits", flux, np.full(4096, 0.01), 4713.0, 0.046)
    data = (tmp_path / "whole.fits").read_bytes()
    at_hdu4 = data.index(b"NORMALISED SPECTRA") // 2880 * 2880
    end = at_hdu4 + 2880 + 4096 * 8                           # of the data of HDU 4
    cuts = [*range(2880, end, 2880), *rng.integers(0, end, 20).tolist()]
    for cut in cuts:
        (tmp_path / "cut.fits").write_bytes(data[:cut])
        star = one(spectra, tmp_path, "cut.fits")
        if cut == at_hdu4:
            assert star.status == STATUS.NOT_NORMALISED       # a whole file that ends before HDU 4
        else:
            assert star.status in (STATUS.BROKEN_FILE, STATUS.WRONG_LAYOUT), (cut, star)
    assert one(spectra, tmp_path, "whole.fits").status == 0


def test_mutated_headers_never_crash(tmp_path, rng, galah):
    """1,500 byte changes in the headers: a status or a spectrum, never an exception."""
    spectra = replace(galah, cameras=(), grid=Grid((Stretch(4715.94, 0.046, 3915),)))
    survey_files.galah(tmp_path / "whole.fits", np.ones(400), np.full(400, 0.01), 4713.0, 0.046)
    data = bytearray((tmp_path / "whole.fits").read_bytes())
    headers = [i for i in range(0, len(data), 2880) if data[i:i + 8] in (b"SIMPLE  ", b"XTENSION")]
    refused = 0
    for _ in range(1500):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 5)):
            at = int(rng.choice(headers)) + int(rng.integers(0, 1000))
            changed[at] = int(rng.choice(np.frombuffer(b"0123456789-. ETXN=/'", np.uint8)))
        (tmp_path / "bad.fits").write_bytes(changed)
        star = one(spectra, tmp_path, "bad.fits")
        refused += star.status != 0
        if star.status == 0:
            assert 2 <= star.inputs[0].flux.size == star.inputs[0].error.size <= readers.MAX_PIXELS
    assert 50 < refused < 1450


@pytest.mark.parametrize("path", ["", "  ", "/etc/passwd", "../a.fits", "x/../../a.fits", "a\nb", "a\0b"])
def test_paths_stay_under_the_root(tmp_path, apogee, path):
    (tmp_path / "root").mkdir()
    (tmp_path / "a.fits").write_bytes(b"x")
    star = one(apogee, tmp_path / "root", path)
    assert star.status == STATUS.NO_PATH and star.inputs == [None]


def test_names_are_plain(tmp_path, rng, apogee):
    """CFITSIO's syntax in names means nothing here, and nothing is written."""
    names = ["a.fits(copy.fits)", "!a", "a.fits[1]", "-x", "http:"]
    for name in names:
        survey_files.apstar(tmp_path / "t", *random_apstar(rng, 1))
        os.rename(tmp_path / "t", tmp_path / name)
    before = sorted(os.listdir(tmp_path))
    for name in names:
        assert one(apogee, tmp_path, name).status == 0
    assert sorted(os.listdir(tmp_path)) == before


# --- generic --------------------------------------------------------------------------------------

GRID = Grid((Stretch(5000.0, 1.0, 100),))


def generic(file="{spectrum}", **keywords):
    return Spectra("generic", GRID, file=file, generic=Generic(medium="air", **keywords))


def test_generic_image_one_file_a_star(tmp_path, rng):
    flux, ivar = rng.uniform(0, 1, 50).astype("f4"), rng.uniform(1, 9, 50).astype("f4")
    for log in (False, True):
        head = {"CRVAL1": 5000.0, "CD1_1": 0.5, "CRPIX1": 2}
        if log:
            head = {"CRVAL1": 3.7, "CD1_1": 1e-4, "CRPIX1": 2, "CTYPE1": "WAVE-LOG"}
        hdus = [astropy_fits.PrimaryHDU(flux, header=astropy_fits.Header(head)),
                astropy_fits.ImageHDU(ivar, name="IV")]
        astropy_fits.HDUList(hdus).writeto(tmp_path / "a.fits", overwrite=True)
        star = one(generic(flux=Part(0), error=Part("IV"), error_kind="ivar"), tmp_path, "a.fits")
        spectrum = star.inputs[0]
        assert spectrum.scale == ("log10" if log else "linear")
        assert np.isclose(spectrum.start, 3.7 - 1e-4 if log else 4999.5) and spectrum.flux[3] == flux[3]
        np.testing.assert_array_equal(spectrum.error, ivar)


def test_generic_table_of_pixels_with_falling_wavelengths(tmp_path, rng):
    wave = np.linspace(5100, 5000, 50)
    flux, sigma, mask = rng.uniform(0, 1, 50), rng.uniform(0.1, 0.2, 50), (np.arange(50) == 7).astype("i2")
    Table({"lam": wave, "f": flux, "e": sigma, "m": mask}).write(tmp_path / "t.fits")
    spectra = generic(flux=Part(1, "f"), error=Part(1, "e"), mask=Part(1, "m"), wavelength=Part(1, "lam"))
    spectrum = one(spectra, tmp_path, "t.fits").inputs[0]
    np.testing.assert_array_equal(spectrum.listed, wave[::-1])
    np.testing.assert_array_equal(spectrum.flux, flux[::-1])
    assert spectrum.error[49 - 7] == 0 and spectrum.error[0] == sigma[-1] and spectrum.scale == "listed"


def test_generic_rows_of_one_image_from_many_threads(tmp_path, rng):
    flux = rng.uniform(0, 1, (30, 40)).astype("f4")
    good = rng.integers(0, 2, flux.shape).astype("u1")
    head = astropy_fits.Header({"CRVAL1": 5000.0, "CDELT1": -0.5})
    hdus = [astropy_fits.PrimaryHDU(header=head), astropy_fits.ImageHDU(flux, name="FLUX"),
            astropy_fits.ImageHDU(good, name="GOOD")]
    astropy_fits.HDUList(hdus).writeto(tmp_path / "all.fits")
    spectra = generic("all.fits", flux=Part("flux"), relative_error=0.01, mask=Part("GOOD"), mask_good=1,
                      row="{spectrum}")
    reader = readers.Reader(spectra, tmp_path)
    found = {}

    def work(rows):
        for k in rows:
            found[k] = reader.read("all.fits", row=str(k))[0]
    threads = [threading.Thread(target=work, args=(range(t, 30, 4),)) for t in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k in range(30):
        spectrum = found[k].inputs[0]
        np.testing.assert_array_equal(spectrum.flux, flux[k, ::-1])          # falling wavelengths
        np.testing.assert_array_equal(spectrum.error, 0.01 * good[k, ::-1])
        assert (spectrum.start, spectrum.step) == (5000.0 - 0.5 * 39, 0.5)
    assert reader.read("all.fits", row="30")[0].status == STATUS.BROKEN_FILE
    for row in ("", "x", "-1", "1.5"):
        assert reader.read("all.fits", row=row)[0].status == STATUS.NO_PATH
    reader.close()


def test_generic_rows_of_a_table_with_vectors(tmp_path, rng):
    flux, variance = rng.uniform(0, 1, (6, 20)), rng.uniform(0.1, 1, (6, 20))
    Table({"FLUX": flux, "VAR": variance}).write(tmp_path / "v.fits")
    spectra = generic("v.fits", flux=Part(1, "FLUX"), error=Part(1, "VAR"), error_kind="variance", start=3.7,
                      step=1e-4, scale="log10", row="{spectrum}")
    spectrum = one(spectra, tmp_path, "v.fits", row="4").inputs[0]
    np.testing.assert_array_equal(spectrum.flux, flux[4])
    np.testing.assert_array_equal(spectrum.error, variance[4])


def test_generic_says_what_is_there_instead(tmp_path, rng):
    images = {"FLUX": np.ones(9), "SHORT": np.ones(8), "TWO": np.ones((2, 9))}
    hdus = [astropy_fits.ImageHDU(data, name=name) for name, data in images.items()]
    astropy_fits.HDUList([astropy_fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "a.fits")
    given = dict(start=5000.0, step=1.0)
    for keywords, message in (
            (dict(flux=Part("FLUXX"), relative_error=0.1), "no HDU 'FLUXX' (has 0, FLUX, SHORT, TWO)"),
            (dict(flux=Part("FLUX"), error=Part("SHORT")), "flux has 9 pixels, error 8"),
            (dict(flux=Part("TWO"), relative_error=0.1), "expected one spectrum"),
            (dict(flux=Part("FLUX", "f"), relative_error=0.1), "expected a table with column 'f'")):
        star = one(generic(**keywords, **given), tmp_path, "a.fits")
        assert star.status == STATUS.WRONG_LAYOUT and message in star.messages[0], star.messages


def test_generic_units_of_wavelength(tmp_path, rng):
    flux = rng.uniform(0, 1, 50)
    spectra = generic(flux=Part(0), relative_error=0.1)
    for unit, start, step, head in (("nm", 500.0, 0.05, {}), ("um", 0.5, 5e-5, {}), ("Angstrom", 5000.0, 0.5, {}),
                                    ("log(nm)", 2.69897, 1e-5, {"CTYPE1": "LOG"})):
        header = astropy_fits.Header({"CRVAL1": start, "CDELT1": step, "CUNIT1": unit, **head})
        astropy_fits.PrimaryHDU(flux, header=header).writeto(tmp_path / "u.fits", overwrite=True)
        found = one(spectra, tmp_path, "u.fits").inputs[0]
        assert np.isclose(found.start, np.log10(5000.0) if head else 5000.0), unit
        assert np.isclose(found.step, step if head else 0.5)
    Table({"lam": np.linspace(500, 510, 50), "f": flux}, units={"lam": "nm"}).write(tmp_path / "t.fits")
    spectra = generic(flux=Part(1, "f"), relative_error=0.1, wavelength=Part(1, "lam"))
    np.testing.assert_allclose(one(spectra, tmp_path, "t.fits").inputs[0].listed, np.linspace(5000, 5100, 50))
    Table({"lam": np.linspace(500, 510, 50), "f": flux}, units={"lam": "Hz"}).write(tmp_path / "h.fits")
    star = one(spectra, tmp_path, "h.fits")
    assert star.status == STATUS.WRONG_LAYOUT and "wavelengths in 'Hz'" in star.messages[0]


# --- real files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared):
    return shared / "data"


def galah_stars(real):
    return sorted({p.name[:15] for p in (real / "galah_dr3_spectra").glob("1*.fits")})


def test_real_galah_stars(real, galah):
    """All 36: same numbers as astropy, velocities as in the index, odd lengths, blank names, a missing
    camera."""
    stars, lengths = galah_stars(real), {}
    index = Table.read(real / "galah_dr3_spectra" / "index.ecsv")
    velocities = {str(r["sobject_id"]): r["rv"] for r in index}
    assert len(stars) == 36
    for name in stars:
        star = one(galah, real / "galah_dr3_spectra", f"{name}{{ccd}}.fits")
        lacking = name == "181222001801157"
        assert star.status == (STATUS.MISSING_SEGMENT if lacking else 0)
        assert (star.inputs[3] is None) == lacking
        if name in velocities:
            assert abs((1 - 1 / star.doppler) * readers.LIGHT - velocities[name]) < 0.006
        for k, spectrum in enumerate(i for i in star.inputs if i is not None):
            with astropy_fits.open(real / "galah_dr3_spectra" / f"{name}{k + 1}.fits") as hdus:
                np.testing.assert_array_equal(spectrum.flux, hdus[4].data)
                np.testing.assert_array_equal(spectrum.error, hdus[1].data)
                assert (spectrum.start, spectrum.step) == (hdus[4].header["CRVAL1"], hdus[4].header["CDELT1"])
            lengths.setdefault(spectrum.flux.size, set()).add(name)
    assert lengths.keys() - {4096} == {4097, 4111, 4112}
    assert "150429004102015" in lengths[4112] and "150607002101267" in lengths[4097]


def test_real_apstar(real, apogee):
    """DR17, 3 visits: NaN gaps in the combined row, zeros in the visits' rows, errors up to 1e13."""
    name = "apStar-dr17-2M17335483-2753043.fits"
    stars = readers.Reader(apogee, real / "apogee_spectra").read(name, visits="all")
    assert [s.visit for s in stars] == [0, 1, 2, 3] and all(s.status == 0 for s in stars)
    assert 774 <= np.isnan(stars[0].inputs[0].flux).sum() <= 784
    assert not np.isnan(stars[1].inputs[0].flux).any() and (stars[1].inputs[0].flux == 0).sum() > 700
    assert max(np.nanmax(s.inputs[0].error) for s in stars) > 1e9
    assert np.isclose(stars[2].snr, 90.562, atol=1e-3)
    with astropy_fits.open(real / "apogee_spectra" / name) as hdus:
        for star, row in zip(stars, (0, 2, 3, 4), strict=True):
            np.testing.assert_array_equal(star.inputs[0].flux, hdus[1].data[row])
            np.testing.assert_array_equal(star.inputs[0].error, hdus[2].data[row])
            np.testing.assert_array_equal(star.inputs[0].bits, hdus[3].data[row])


def test_real_files_of_other_layouts_are_refused(real, apogee, galah):
    single = replace(galah, cameras=(), grid=Grid((Stretch(4715.94, 0.046, 3915),)))
    for folder, file, spectra, found in (
            ("galah_dr4_spectra", "2101150022012391.fits", single, "GALAH reduction 6.0"),
            ("galah_dr4_spectra", "150411003101372_allstar_fit_spectrum.fits", single, "fit table of GALAH"),
            ("apogee_spectra", "apStar-dr17-2M17335483-2753043.fits", single, "APOGEE apStar"),
            ("apogee_spectra", "apVisit-r13-5095-55844-128.fits", apogee, "APOGEE apVisit"),
            ("galah_dr3_spectra", "1403100038010491.fits", apogee, "GALAH DR3")):
        star = one(spectra, real / folder, file)
        assert star.status == STATUS.WRONG_LAYOUT and found in star.messages[0], star.messages


def test_real_reduction_6(real, galah):
    """The Sun by Vesta: H-alpha is at rest after the velocity of the header is taken out."""
    spectra = replace(galah, layout="galah_dr4", velocity=Velocity(header="RVCOM", good="RVCOM_OK"))
    star = one(spectra, real / "galah_dr4_spectra", "210115002201239{ccd}.fits")
    assert star.status == 0 and abs(star.velocity + 21.38) < 0.01
    red = star.inputs[2]
    wave = (red.start + red.step * np.arange(red.flux.size)) / (1 + star.velocity / readers.LIGHT)
    line = np.abs(wave - 6562.8) < 1.2
    centre = (wave[line] * (1 - red.flux[line])).sum() / (1 - red.flux[line]).sum()
    assert abs(centre - 6562.80) < 0.05
    moved = np.abs(wave * (1 + star.velocity / readers.LIGHT) - 6562.8) < 1.2
    assert moved.any()
