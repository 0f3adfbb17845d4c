"""The recipes that come with the package, and what is refused in one's own."""
import glob
import os
from pathlib import Path

import numpy as np
import pytest

from cannonkit import config, errors, recipe

PAIRS = ("apogee_galah", "apogee_galah_vmicro", "sky")
SURVEYS = ("apogee_dr16", "galah_dr3", "miles")
ATTACHED = ("gaia_edr3", "gaia_edr3_sky", "distances_geo", "distances_photogeo", "clusters")


def test_every_installed_recipe_loads():
    files = {os.path.basename(f)[:-5] for f in glob.glob(os.path.join(config.recipe_folder(), "*.yaml"))}
    settings = {"cannon", "cannon_components"}
    assert files >= {*PAIRS, *SURVEYS, *ATTACHED, *settings}
    for name in files - settings:
        if name in ATTACHED:
            assert recipe.load_attach(name).columns
        elif recipe.is_pair(name):
            pair = recipe.load_pair(name)
            assert pair.left.survey.survey != pair.right.survey.survey
        else:
            assert recipe.load_survey(name).survey


def test_the_papers_cuts_all_of_them():
    """Section 3.2 of the paper, number by number."""
    pair = recipe.load_pair("apogee_galah")
    apogee, galah = pair.left.survey.catalogue, pair.right.survey.catalogue
    assert pair.left.key == ("{star_id}",) and pair.right.key == ("2M{star_id}",)
    assert (pair.join.by, pair.join.find, pair.join.keep) == ("id", "best", "inner")
    assert set(pair.labels) == {"teff", "logg", "fe_h", "alpha_fe", "vmicro", "vbroad"}
    assert set(pair.left.cuts) == {"SNR", "ASPCAPFLAG", "STARFLAG"}
    assert set(pair.right.cuts) == {"SNR", "CHI2_SP", "FLAG_SP"}
    cut = apogee.cut("SNR")
    assert (cut.op, cut.value) == (">", 80) and apogee.snr_min == 80 and apogee.columns["snr"] == ("SNR",)
    assert apogee.cut("ASPCAPFLAG").flag == "flag_sp" and apogee.flags["flag_sp"].mask == 0x9F0000 == 10420224
    assert apogee.cut("STARFLAG").flag == "flag_spectra" and apogee.flags["flag_spectra"].mask == 0x23E19 == 146969
    cut = galah.cut("SNR")
    assert (cut.op, cut.value) == (">", 25) and galah.snr_min == 25 and galah.columns["snr"][0] == "snr_c2_iraf"
    cut = galah.cut("CHI2_SP")
    assert (cut.column, cut.op, cut.value) == (("chi2_sp",), "<", 4)
    assert galah.cut("FLAG_SP").flag == "flag_sp" and galah.flags["flag_sp"].mask == -1
    assert (apogee.flags["flag_sp"].column, galah.flags["flag_sp"].column) == (("ASPCAPFLAG",), ("flag_sp",))
    assert (pair.left.survey.flag_id, pair.right.survey.flag_id) == (1, 0)


def test_the_vmicro_recipe_differs_in_one_label():
    plain, other = recipe.load_pair("apogee_galah"), recipe.load_pair("apogee_galah_vmicro")
    assert other.left.survey.catalogue.labels["vmicro"] == recipe.Label(relation="galah_vmicro")
    for name, label in plain.left.survey.catalogue.labels.items():
        assert name == "vmicro" or other.left.survey.catalogue.labels[name] == label
    assert plain.left.cuts == other.left.cuts and plain.right.survey == other.right.survey


def test_paths_and_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own" / "apogee_dr16.yaml"
    own.parent.mkdir()
    own.write_text(Path(recipe.find("apogee_dr16")).read_text().replace("title: APOGEE DR16", "title: mine", 1))
    assert recipe.load_survey("apogee_dr16").title == "APOGEE DR16"
    assert recipe.load_survey(own).title == "mine"
    pair = own.parent / "pair.yaml"
    pair.write_text(Path(recipe.find("apogee_galah")).read_text())
    loaded = recipe.load_pair(pair)           # beside it first, then the installed one
    assert loaded.left.survey.title == "mine" and loaded.right.survey.title == "GALAH DR3"
    with pytest.raises(errors.NoInputError, match="did you mean 'galah_dr3'"):
        recipe.load_survey("galah_dr")


def changed(tmp_path, name, old, new):
    text = Path(recipe.find(name)).read_text()
    assert old in text
    path = tmp_path / f"{name}.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize("old, new, message", [
    ("survey: apogee", "survey: apogee-2", "cannot begin column names"),
    ("flag: flag_sp\n", "flag: flag_ps\n", "no flag 'flag_ps'"),
    ("- name: ASPCAPFLAG", "- name: SNR", "two cuts called 'SNR'"),
    ("word: APOGEE_STARFLAG", "word: APOGEE_STARFLAGS", "did you mean 'APOGEE_STARFLAG'"),
    ("group: [2, 15]", "group: [15, 2]", "two sizes"),
    ("frame: icrs", "frame: ecliptic", "frame: 'ecliptic'"),
    ("    snr: [SNR]", "    snt: [SNR]", "did you mean 'snr'"),
    ("      value: 80\n", "", "needs a `value`"),
    ("    snr: [SNR]", "    snr: SNR", "key 'catalogue.columns.snr'")])
def test_what_is_wrong_is_named(tmp_path, old, new, message):
    with pytest.raises(errors.ConfigError) as caught:
        recipe.load_survey(changed(tmp_path, "apogee_dr16", old, new))
    assert "apogee_dr16.yaml" in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize("old, new, message", [
    ("- STARFLAG ", "- STARFLAK ", "did you mean 'STARFLAG'"),
    ("labels: [teff", "labels: [tef", "apogee has no label 'tef'"),
    ("by: id", "by: name", "by: 'name'"),
    ("recipe: galah_dr3.yaml", "recipe: galah_dr3.yaml\n  selection: al", "no selection 'al'"),
    ("  find: best", "  radius: 0", "radius")])
def test_what_is_wrong_in_a_pair_is_named(tmp_path, old, new, message):
    with pytest.raises(errors.ConfigError) as caught:
        recipe.load_pair(changed(tmp_path, "apogee_galah", old, new))
    assert "apogee_galah.yaml" in str(caught.value) and message in str(caught.value)


def test_two_surveys_need_two_names(tmp_path):
    path = changed(tmp_path, "apogee_galah", "recipe: galah_dr3.yaml", "recipe: apogee_dr16.yaml")
    path.write_text(path.read_text().replace("- CHI2_SP", "- ASPCAPFLAG").replace("- FLAG_SP", "- STARFLAG"))
    with pytest.raises(errors.ConfigError, match="both surveys are called 'apogee'"):
        recipe.load_pair(path)


# --- tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, medium, low, high, counts", [
    ("linemask_apogee_dr16", "vacuum", 15100, 17000, {"Mg": (17, 13), "Si": (29, 29), "Ca": (4, 4), "Ti": (9, 9)}),
    ("linemask_galah_dr3", "air", 4710, 7880, {"Mg": (6, 3), "Si": (13, 8), "Ca": (5, 5), "Ti": (36, 21)})])
def test_line_masks(name, medium, low, high, counts):
    """Windows (all, and those in use) per element as in formats.md B: 37 GALAH lines of table A2."""
    windows = recipe.read_linemask(name)
    for element, (n_all, n_used) in counts.items():
        mine = [w for w in windows if w.element == element]
        assert (len(mine), sum(w.weight > 0 for w in mine)) == (n_all, n_used)
    assert {w.element for w in windows} == set(counts) and {w.medium for w in windows} == {medium}
    assert all(low < w.wave_lo < w.wave_hi < high and w.wave_hi - w.wave_lo < 7 for w in windows)


def test_line_masks_are_the_pipelines(shared):
    from astropy.table import Table

    folder = shared / "data" / "linemasks"
    for ours, theirs, switch in (("linemask_apogee_dr16", "apogee_dr16_windows.ecsv", "weight"),
                                 ("linemask_galah_dr3", "galah_dr3_lines.ecsv", "in_table_a2")):
        table = Table.read(folder / theirs, format="ascii.ecsv")
        expected = [(r["element"], r["wave_lo"], r["wave_hi"], r["medium"], float(r[switch])) for r in table]
        assert [(w.element, w.wave_lo, w.wave_hi, w.medium, w.weight) for w in recipe.read_linemask(ours)] == expected


def test_continuum_pixels():
    pixels = recipe.read_continuum("apogee_continuum")
    assert len(pixels) == 532 and {p.medium for p in pixels} == {"vacuum"}
    place = (np.log10([p.wavelength for p in pixels]) - 4.179) / 6e-6
    assert np.abs(place - np.round(place)).max() < 1e-3          # pixel centres, to the 4 decimals of the file
    place = np.round(place).astype(int)
    assert (np.diff(place) > 0).all()
    on_detector = sum(((place >= a) & (place < b)).sum() for a, b in ((246, 3274), (3585, 6080), (6344, 8335)))
    assert on_detector == len(place)


@pytest.mark.parametrize("text, message", [
    ("element,wave_lo\nMg,1\n", "line 1: columns element,wave_lo"),
    ("# c\nelement,wave_lo,wave_hi,medium,weight\nMg,1,2,air\n", "line 3: 4 values for 5 columns"),
    ("element,wave_lo,wave_hi,medium,weight\nMg,x,2,air,1\n", "line 2: wave_lo: 'x' is no number"),
    ("element,wave_lo,wave_hi,medium,weight\nMg,nan,2,air,1\n", "line 2: wave_lo: 'nan' is no number"),
    ("element,wave_lo,wave_hi,medium,weight\nMg,3,2,air,1\n", "line 2: window 3.0 to 2.0"),
    ("element,wave_lo,wave_hi,medium,weight\nMg,1,2,water,1\n", "line 2: medium 'water'"),
    ("# nothing\n", "empty")])
def test_a_bad_line_mask_is_refused(tmp_path, text, message):
    path = tmp_path / "mask.csv"
    path.write_text(text)
    with pytest.raises(errors.ConfigError, match="mask.csv") as caught:
        recipe.read_linemask(path)
    assert message in str(caught.value)
