"""cc-check on foreign files: what they are, and what our readers would make of them."""

import numpy as np
import survey_files
from astropy.io import fits


def test_files_of_spectra(command, tmp_path):
    flux = np.ones((5, 8575))
    survey_files.apstar(tmp_path / "a.fits", flux, flux, flux)
    survey_files.galah(tmp_path / "g1.fits", np.ones(4096), np.ones(4096), 4715.0, 0.046)
    survey_files.galah6(tmp_path / "g6.fits", np.ones(4096), np.ones(4096), 4715.0, 0.046)
    fits.HDUList([fits.PrimaryHDU(np.zeros((3, 4))), fits.ImageHDU(np.zeros(7), name="ERROR")]).writeto(
        tmp_path / "i.fits"
    )
    done = command("check", *(tmp_path / n for n in ("a.fits", "g1.fits", "g6.fits", "i.fits")))
    text = done.out.decode()
    assert done.code == 0 and "NOT GOOD" not in text, done
    assert (
        "APOGEE apStar; cc-resample reads it with a recipe of layout apstar: the combined spectrum and 3 visits"
        in text
    )
    assert "recipe of layout galah_dr3" in text and "recipe of layout galah_dr4" in text
    assert "of no survey's layout that is known" in text and "1 ERROR: image, 7" in text


def test_damaged_files_of_spectra(command, tmp_path):
    survey_files.galah(tmp_path / "g.fits", np.ones(4096), np.ones(4096), 4715.0, 0.046)
    data = (tmp_path / "g.fits").read_bytes()
    (tmp_path / "g.fits").write_bytes(data[:-2880])
    done = command("check", tmp_path / "g.fits")
    assert done.code == 65 and done.out.count(b"\n") == 1 and b"cut or damaged" in done.out


def test_what_is_no_fits_file_or_no_file(command, tmp_path):
    """Not damaged: something else, or not there. A line each, without the word for damage."""
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    done = command("check", "t.csv", "absent.fits", cwd=tmp_path)
    first, second = done.out.decode().splitlines()
    assert done.code == 66 and first.startswith("t.csv: not a FITS file")
    assert second == "absent.fits: No such file or directory"
    assert command("check", "t.csv", cwd=tmp_path).code == 65


def test_catalogues(command, tmp_path):
    """A survey's table is told the recipe that reads it; one survey's rows of it are a selection."""
    done = command("mock", "-o", tmp_path / "mock", "--layout", "catalogues", "--common", "12", "--apogee-only", "3",
                   "--galah-only", "3", "--clusters", "0")
    assert done.code == 0, done
    table = next((tmp_path / "mock").rglob("allStar*.fits"))
    text = command("check", table).out.decode()
    assert "not a cannonkit product" in text and text.endswith("cc-crossmatch reads it with --recipe apogee_dr16\n")
    assert command("crossmatch", table, "--recipe", "apogee_dr16", "-o", tmp_path / "c.fits").code == 0
    assert command("crossmatch", tmp_path / "c.fits", "-o", tmp_path / "d.fits").code == 0
    text = command("check", "--tree", tmp_path / "d.fits").out.decode()
    assert "d.fits: selection, whole" in text and "<- c.fits (selection)" in text
    assert f"<- {table.name} (foreign)" in text
