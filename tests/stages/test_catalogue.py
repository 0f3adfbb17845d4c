"""Catalogue rows through the installed recipes: labels, flags, cuts, ids, selections."""
from dataclasses import replace

import numpy as np
import pytest

from cannonkit import bitmasks, errors, recipe, schema
from cannonkit.recipe import Cut
from cannonkit.stages import cuts, selection
from cannonkit.stages.catalogue import Mapping, galah_vmicro
from cannonkit.stages.columns import Columns

NULL = schema.NULL_ID


@pytest.fixture(scope="module")
def apogee():
    return recipe.load_survey("apogee_dr16")


@pytest.fixture(scope="module")
def galah():
    return recipe.load_survey("galah_dr3")


def columns_of(rows, nulls=None):
    """schema.Columns of a structured array."""
    nulls = nulls or {}
    return {n: schema.Column(n, rows.dtype[n].base.str.lstrip("<>|="), shape=rows.dtype[n].shape,
                             null=nulls.get(n)) for n in rows.dtype.names}


def mapped(survey, rows, nulls=None, **options):
    """Rows through a Mapping: (mapped rows, {bit name: bool array})."""
    mapping = Mapping(survey, columns_of(rows, nulls), "test.fits", **options)
    out, reject = mapping.rows(rows[mapping.needed], np.arange(len(rows)))
    assert out.dtype.names[:3] == ("id", "star_id", "spectrum")
    return out, {name: reject & (1 << i) != 0 for i, name in enumerate(mapping.rejects.names)}


APOGEE_DTYPE = [("APOGEE_ID", "S18"), ("APSTAR_ID", "S44"), ("TELESCOPE", "S8"), ("FIELD", "S16"), ("FILE", "S40"),
                ("RA", ">f8"), ("DEC", ">f8"), ("SNR", ">f4"), ("STARFLAG", ">i4"), ("ASPCAPFLAG", ">i4"),
                ("EXTRATARG", ">i2"), ("FPARAM_COV", ">f4", (81,)), ("TEFF", ">f4"), ("TEFF_ERR", ">f4"),
                ("LOGG", ">f4"), ("LOGG_ERR", ">f4"), ("VMICRO", ">f4"), ("VMACRO", ">f4"), ("VSINI", ">f4"),
                ("M_H", ">f4"), ("M_H_ERR", ">f4"), ("ALPHA_M", ">f4"), ("ALPHA_M_ERR", ">f4"),
                ("ASPCAP_CLASS", "S5"), ("GAIA_SOURCE_ID", ">i8"), ("GAIA_PARALLAX", ">f8"),
                ("GAIA_PARALLAX_ERROR", ">f8"), ("GAIA_R_EST", ">f8"), ("GAIA_R_LO", ">f8"), ("GAIA_R_HI", ">f8")]


def apogee_rows(n):
    """n good giants, to be spoilt by the tests."""
    rows = np.zeros(n, APOGEE_DTYPE)
    rows["APOGEE_ID"] = [f"2M{k:016d}".ljust(18) for k in range(n)]
    rows["APSTAR_ID"] = [f"apogee.apo25m.stars.{k}" for k in range(n)]
    rows["TELESCOPE"], rows["FIELD"] = "apo25m  ", "K2_C1           "
    rows["FILE"] = [f"apStar-r12-2M{k:016d}.fits" for k in range(n)]
    rows["RA"], rows["DEC"], rows["SNR"] = 10.0, -5.0, 200.0
    rows["TEFF"], rows["TEFF_ERR"], rows["LOGG"], rows["LOGG_ERR"] = 4700.0, 80.0, 2.4, 0.06
    rows["VMICRO"], rows["VMACRO"], rows["VSINI"] = 1.4, 4.0, -9999.99
    rows["M_H"], rows["M_H_ERR"], rows["ALPHA_M"], rows["ALPHA_M_ERR"] = -0.2, 0.01, 0.1, 0.02
    rows["ASPCAP_CLASS"], rows["GAIA_SOURCE_ID"] = "GKg_a", 604916731706106752 + np.arange(n)
    rows["FPARAM_COV"][:, 20], rows["FPARAM_COV"][:, 70] = 0.01 ** 2, 0.02 ** 2
    return rows


def test_apogee_labels(apogee):
    rows = apogee_rows(5)
    rows["ASPCAP_CLASS"][1:3], rows["VSINI"][1:3], rows["VMACRO"][1:3] = ["GKd", "Fd_b"], 12.0, 1.0
    rows["TEFF"][3], rows["TEFF_ERR"][3] = -9999.99, -999.99
    rows["VMACRO"][4], rows["LOGG_ERR"][4] = -9999.99, -999.99
    out, reject = mapped(apogee, rows)
    assert np.isnan(out["e_logg"]).tolist() == [False] * 4 + [True] and not np.isnan(out["logg"]).any()
    assert out["teff"].tolist()[:3] == [4700.0] * 3 and np.isnan(out["teff"][3]) and np.isnan(out["e_teff"][3])
    assert out["vbroad"][:4].tolist() == [4.0, 12.0, 12.0, 4.0] and np.isnan(out["vbroad"][4])
    assert out["flag_survey"].tolist() == [0, 0, 0, 1, 1]
    assert reject["APOGEE_NO_TEFF"].tolist() == [False] * 3 + [True, False]
    assert reject["APOGEE_NO_VBROAD"].tolist() == [False] * 4 + [True]
    # d(10^x) = 10^x ln 10 dx
    assert out["e_vmicro"][0] == pytest.approx(1.4 * np.log(10) * 0.01, rel=1e-6)
    assert out["e_vbroad"][1] == pytest.approx(12.0 * np.log(10) * 0.02, rel=1e-6)
    assert out["fe_h"][0] == np.float32(-0.2) and out["alpha_fe"][0] == np.float32(0.1)


def test_apogee_ids_and_paths(apogee):
    rows = apogee_rows(2)
    rows["FIELD"][1] = ""
    out, _ = mapped(apogee, rows)
    assert out["id"].tolist() == [b"2M0000000000000000", b"2M0000000000000001"]
    assert out["spectrum"].tolist() == [b"apo25m/K2_C1/apStar-r12-2M0000000000000000.fits", b""]
    assert out["dr2_source_id"].tolist() == [604916731706106752, 604916731706106753]
    assert out["dr3_source_id"].tolist() == [NULL, NULL]
    rows["FIELD"], rows["TELESCOPE"][1], rows["FILE"][1] = "K2_C1", "lco25m  ", "asStar-r12-2M0000000000000001.fits"
    assert mapped(apogee, rows)[0]["spectrum"][1] == b"lco25m/K2_C1/asStar-r12-2M0000000000000001.fits"    # du Pont
    no_file = rows[[n for n in rows.dtype.names if n != "FILE"]].copy()
    assert mapped(apogee, no_file)[0]["spectrum"][0] == b"apo25m/K2_C1/apStar-r12-2M0000000000000000.fits"
    out, _ = mapped(apogee, rows, selection="repeats")
    assert out["id"][0] == b"apogee.apo25m.stars.0" and out["star_id"][0] == b"2M0000000000000000"


def test_apogee_cuts_are_the_papers_masks(apogee, rng):
    """Every bit of both words alone, and random words: the hexadecimal masks of paper 3.2."""
    n = 31
    rows = apogee_rows(3 * n + 2)
    for bit in range(n):
        rows["STARFLAG"][bit] = 1 << bit
        rows["ASPCAPFLAG"][n + bit] = 1 << bit
    rows["STARFLAG"][2 * n:3 * n], rows["ASPCAPFLAG"][2 * n:3 * n] = rng.integers(0, 2 ** 31, (2, n))
    rows["ASPCAPFLAG"][-2] = -2 ** 31                       # bit 31 alone: no ASPCAP result
    rows["SNR"][:10] = np.linspace(75, 84, 10)
    out, reject = mapped(apogee, rows)
    starflag, aspcapflag = rows["STARFLAG"].astype(int), rows["ASPCAPFLAG"].astype(int)
    assert np.array_equal(reject["APOGEE_STARFLAG"], starflag & 0x23E19 != 0)
    assert np.array_equal(reject["APOGEE_ASPCAPFLAG"], aspcapflag & 0x9F0000 != 0)
    assert np.array_equal(reject["APOGEE_SNR"], ~(rows["SNR"] > 80))
    assert out["flag_sp"][-2] == 2 ** 31 and (out["flag_sp"] >= 0).all()
    flags = apogee.catalogue.flags
    assert flags["flag_spectra"].stored_mask == 0x23E19 and flags["flag_sp"].stored_mask == 0x9F0000
    assert np.array_equal(out["flag_spectra"], starflag)


def test_apogee_dr17_names(apogee):
    rows = apogee_rows(2)
    renamed = {"GAIA_SOURCE_ID": "GAIAEDR3_SOURCE_ID", "GAIA_PARALLAX": "GAIAEDR3_PARALLAX",
               "GAIA_PARALLAX_ERROR": "GAIAEDR3_PARALLAX_ERROR", "GAIA_R_EST": "GAIAEDR3_R_MED_GEO",
               "GAIA_R_LO": "GAIAEDR3_R_LO_GEO", "GAIA_R_HI": "GAIAEDR3_R_HI_GEO", "ASPCAP_CLASS": "ASPCAP_GRID"}
    rows = rows.astype([(renamed.get(n, n), *d) for n, *d in APOGEE_DTYPE])
    rows["GAIAEDR3_R_MED_GEO"], rows["ASPCAP_GRID"], rows["VSINI"], rows["TEFF"][1] = 850.0, "GKd_c", 7.0, np.nan
    out, reject = mapped(apogee, rows)
    assert out["dr3_source_id"][0] == 604916731706106752 and out["dr2_source_id"][0] == NULL
    assert out["r_est"][0] == 850.0 and out["vbroad"][0] == 7.0
    assert reject["APOGEE_NO_TEFF"].tolist() == [False, True]


def test_apogee_from_the_parameter_arrays(apogee):
    """Without the named columns: PARAM, with powers of ten."""
    rows = apogee_rows(1)
    keep = [d for d in APOGEE_DTYPE if d[0] not in ("TEFF", "LOGG", "VMICRO", "VMACRO", "VSINI", "M_H", "ALPHA_M")]
    short = np.zeros(1, [*keep, ("PARAM", ">f4", (9,))])
    for name, *_ in keep:
        short[name] = rows[name]
    short["PARAM"] = [4500, 2.1, np.log10(1.5), -0.3, 0, 0, 0.2, np.log10(6.0), 0]
    out, _ = mapped(apogee, short)
    assert out["vmicro"][0] == pytest.approx(1.5, rel=1e-6) and out["vbroad"][0] == pytest.approx(6.0, rel=1e-6)
    assert [out[n][0] for n in ("teff", "fe_h", "alpha_fe")] == pytest.approx([4500, -0.3, 0.2], rel=1e-6)


GALAH_DTYPE = [("star_id", "S16"), ("sobject_id", ">i8"), ("dr2_source_id", ">i8"), ("dr3_source_id", ">i8"),
               ("ra_dr2", ">f8"), ("dec_dr2", ">f8"), ("flag_sp", ">i4"), ("chi2_sp", ">f4"), ("teff", ">f4"),
               ("e_teff", ">f4"), ("logg", ">f4"), ("e_logg", ">f4"), ("fe_h", ">f4"), ("e_fe_h", ">f4"),
               ("flag_fe_h", ">i4"), ("alpha_fe", ">f4"), ("e_alpha_fe", ">f4"), ("flag_alpha_fe", ">i4"),
               ("vmic", ">f4"), ("vbroad", ">f4"), ("e_vbroad", ">f4"), ("snr_c2_iraf", ">f4"),
               ("flag_repeat", ">i4")]


def galah_rows(n):
    rows = np.zeros(n, GALAH_DTYPE)
    rows["star_id"] = [f"{k:016d}" for k in range(n)]
    rows["sobject_id"] = 131217003901110 + np.arange(n)
    rows["dr3_source_id"], rows["ra_dr2"], rows["dec_dr2"] = 604916731706106752, 10.0, -5.0
    rows["teff"], rows["logg"], rows["fe_h"], rows["alpha_fe"] = 5700, 4.3, 0.0, 0.02
    rows["vmic"], rows["vbroad"], rows["snr_c2_iraf"], rows["chi2_sp"] = 1.12, 5.0, 60.0, 1.0
    return rows


def test_galah_cuts_are_the_papers(galah):
    rows = galah_rows(6)
    rows["snr_c2_iraf"] = [25.0, 25.1, 60, 60, 60, np.nan]
    rows["chi2_sp"] = [1, 1, 4.0, 3.99, np.nan, 1]
    rows["flag_sp"] = [0, 8, 0, 1024, 0, 0]
    rows["flag_fe_h"], rows["flag_alpha_fe"] = 1, 1                    # the paper does not look at these
    out, reject = mapped(galah, rows)
    assert reject["GALAH_SNR"].tolist() == [True, False, False, False, False, True]
    assert reject["GALAH_CHI2_SP"].tolist() == [False, False, True, False, True, False]
    assert reject["GALAH_FLAG_SP"].tolist() == [False, True, False, True, False, False]
    assert out["flag_spectra"].tolist() == [0, 1, 0, 0, 0, 0] and out["flag_sp"].tolist() == rows["flag_sp"].tolist()
    assert galah.catalogue.flags["flag_spectra"].stored_mask == 1
    assert set(reject) == {f"GALAH_{n}" for n in (
        "SNR", "CHI2_SP", "FLAG_SP", *(f"NO_{x.upper()}" for x in galah.catalogue.labels))}
    assert np.isnan(out["e_vmicro"]).all()


def test_galah_ids_and_paths(galah):
    rows = galah_rows(2)
    rows["star_id"][1] = ""
    out, _ = mapped(galah, rows)
    assert out["id"].tolist() == [b"131217003901110", b"131217003901111"]
    assert out["spectrum"][0] == b"131217003901110{ccd}.fits"
    assert out["star_id"].tolist() == [b"0000000000000000", b""]
    assert out["dr2_source_id"][0] == NULL and out["dr3_source_id"][0] == 604916731706106752


@pytest.mark.parametrize("release", ["v1", "dr4"])
def test_galah_names_of_other_releases(galah, release):
    rows = galah_rows(3)
    names = {"v1": {"dr2_source_id": "source_id", "ra_dr2": "ra", "dec_dr2": "dec"},
             "dr4": {"star_id": "tmass_id", "dr3_source_id": "gaiadr3_source_id", "ra_dr2": "ra", "dec_dr2": "dec",
                     "vbroad": "vsini", "e_vbroad": "e_vsini", "snr_c2_iraf": "snr_px_ccd2"}}[release]
    rows["dr2_source_id"] = 7
    rows = rows.astype([(names.get(n, n), d) for n, d in GALAH_DTYPE])
    if release == "v1":
        rows = rows[[n for n in rows.dtype.names if n != "dr3_source_id"]].copy()
        out, _ = mapped(galah, rows)
        assert out["dr2_source_id"][0] == 7 and out["dr3_source_id"][0] == NULL
        return
    elements = ("mg", "si", "ca", "ti")
    more = [(p.format(e), t) for e in elements for p, t in (("{}_fe", "f4"), ("e_{}_fe", "f4"), ("flag_{}_fe", "i4"))]
    four = np.zeros(3, [d for d in rows.dtype.descr if "alpha" not in d[0]] + more)
    for name in four.dtype.names:
        if name in rows.dtype.names:
            four[name] = rows[name]
    for k, e in enumerate(elements):
        four[f"{e}_fe"], four[f"e_{e}_fe"] = 0.1 * (k + 1), 0.05 * (k + 1)
    four["flag_ti_fe"][1], four["si_fe"][1] = 32, np.nan
    for e in elements:
        four[f"flag_{e}_fe"][2] = 1
    out, reject = mapped(galah, four)
    value, sigma = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.05, 0.1, 0.15, 0.2])
    for row, good in ((0, [0, 1, 2, 3]), (1, [0, 2])):
        w = sigma[good] ** -2
        assert out["alpha_fe"][row] == pytest.approx((w * value[good]).sum() / w.sum(), rel=1e-6)
        assert out["e_alpha_fe"][row] == pytest.approx(w.sum() ** -0.5, rel=1e-6)
    assert np.isnan(out["alpha_fe"][2]) and reject["GALAH_NO_ALPHA_FE"].tolist() == [False, False, True]
    assert out["dr3_source_id"][0] == 604916731706106752 and out["snr"][0] == 60.0


def test_vmicro_by_galahs_relation():
    teff = np.array([5000.0, 5000, 5500, 6000, 4000, np.nan, 5000])
    logg = np.array([4.5, 4.2, 4.5, 4.5, 2.0, 2.0, np.nan])
    wanted = [1.1 - 0.08, 1.1 - 0.05 + 0.1, 1.1, 1.1 + 0.05 + 0.1, 1.1 - 0.15 + 0.9, np.nan, np.nan]
    np.testing.assert_allclose(galah_vmicro(teff, logg), wanted, rtol=1e-12)


def test_vmicro_relation_replaces_apogees_value():
    survey = recipe.load_pair("apogee_galah_vmicro").left.survey
    rows = apogee_rows(2)
    rows["TEFF"][1] = -9999.99
    out, reject = mapped(survey, rows)
    assert out["vmicro"][0] == pytest.approx(float(galah_vmicro(np.float32(4700.0), np.float32(2.4))), rel=1e-12)
    assert np.isnan(out["vmicro"][1]) and reject["APOGEE_NO_VMICRO"].tolist() == [False, True]


def test_vmicro_relation_on_real_benchmarks(shared):
    """36 Gaia benchmark spectra of GALAH's own pipeline: VMIC to 1e-4 km/s."""
    import fitsio

    rows = fitsio.read(str(shared / "data/catalogues/GALAH_gbs_lbol.fits"), ext=1, columns=["TEFF", "LOGG", "VMIC"])
    assert len(rows) == 36
    assert np.abs(galah_vmicro(rows["TEFF"], rows["LOGG"]) - rows["VMIC"]).max() < 1e-4


def test_real_dr12_rows(apogee, shared):
    """1622 real allStar rows (DR12): bits, -9999 and PARAM as they are. DR12 has no v_broad."""
    import fitsio

    rows = fitsio.read(str(shared / "data/catalogues/apogee_dr12_allstar_hipparcos.fits"), ext=1)
    rows = rows.astype([(n, "S" + str(rows.dtype[n].itemsize // 4)) if rows.dtype[n].kind == "U" else
                        (n, rows.dtype[n].base, rows.dtype[n].shape) for n in rows.dtype.names])
    catalogue = apogee.catalogue
    labels = {k: replace(v, error_is="sigma", error=()) for k, v in catalogue.labels.items() if k != "vbroad"}
    survey = replace(apogee, catalogue=replace(catalogue, labels=labels))
    out, reject = mapped(survey, rows)
    missing = rows["TEFF"] < -9000
    assert 0.7 < missing.mean() < 0.8 and np.array_equal(np.isnan(out["teff"]), missing)
    assert np.array_equal(reject["APOGEE_STARFLAG"], rows["STARFLAG"] & 0x23E19 != 0)
    assert np.array_equal(reject["APOGEE_ASPCAPFLAG"], rows["ASPCAPFLAG"].astype(int) & 0x9F0000 != 0)
    good = ~np.isnan(out["vmicro"])
    assert good.sum() > 300 and np.allclose(out["vmicro"][good], 10.0 ** rows["PARAM"][good, 2], rtol=1e-6)


# --- cuts -------------------------------------------------------------------------------------------------

VALUES = [-9999.99, -1.0, 0.0, 2.0, 3.0, np.nan, np.inf]


@pytest.mark.parametrize("op, value, values, passes", [
    (">", 2, (), [0, 0, 0, 0, 1, 0, 0]), (">=", 2, (), [0, 0, 0, 1, 1, 0, 0]),
    ("<", 2, (), [0, 1, 1, 0, 0, 0, 0]), ("<=", 2, (), [0, 1, 1, 1, 0, 0, 0]),
    ("==", 2, (), [0, 0, 0, 1, 0, 0, 0]), ("!=", 2, (), [0, 1, 1, 0, 1, 0, 0]),
    ("between", None, (0, 2), [0, 0, 1, 1, 0, 0, 0]), ("in", None, (0, 3), [0, 0, 1, 0, 1, 0, 0]),
    ("not_in", None, (0, 3), [0, 1, 0, 1, 0, 0, 0]), ("finite", None, (), [0, 1, 1, 1, 1, 0, 0])])
def test_comparisons(op, value, values, passes):
    rows = np.array([(v,) for v in VALUES], [("x", "f4")])
    test = cuts.CutTest(Cut(name="c", column=("x",), op=op, value=value, values=values),
                        Columns(columns_of(rows), "t"), {}, -9000.0)
    assert test.passes(rows, None).astype(int).tolist() == passes


@pytest.mark.parametrize("op, passes", [("bits_clear", [1, 0, 0, 1, 0]), ("bits_set", [0, 0, 1, 0, 0])])
def test_bits(op, passes):
    bits = bitmasks.GALAH_FLAG_SP
    rows = np.array([(v,) for v in (0, bits.RUWE, bits.RUWE | bits.CHI2, bits.EMISSION, -1)], [("w", "i4")])
    cut = Cut(name="c", column=("w",), op=op, word="GALAH flag_sp", bits=("RUWE", "CHI2"))
    test = cuts.CutTest(cut, Columns(columns_of(rows, {"w": -1}), "t"), {}, None)
    assert test.passes(rows, None).astype(int).tolist() == passes


def test_texts_are_compared_without_blanks():
    rows = np.array([(b" a  ",), (b"b",), (b"",)], [("t", "S4")])
    columns = Columns(columns_of(rows), "t")
    for op, values, passes in (("in", ("a", "c"), [1, 0, 0]), ("finite", (), [1, 1, 0])):
        test = cuts.CutTest(Cut(name="c", column=("t",), op=op, values=values), columns, {}, None)
        assert test.passes(rows, None).astype(int).tolist() == passes


def test_the_table_of_cuts():
    rejects = cuts.Rejects()
    a, b = rejects.add("A", "first"), rejects.add("B", "second")
    table = cuts.cut_table(np.array([0, a, b, a | b, a]), rejects)
    assert table == [("A", "first", 3, 3, 2), ("B", "second", 2, 1, 1)]
    assert rejects.cards() == {"REJB00": ("A", "first"), "REJB01": ("B", "second")}


# --- selections --------------------------------------------------------------------------------------------


def test_one_per_star_and_groups():
    ids = np.array([b"a", b"b", b"a", b"", b"c", b"a", b"", b"b"])
    snr = np.array([5.0, 7.0, 9.0, 1.0, np.nan, 9.0, 1.0, 7.0])
    assert selection.one_per_star(ids, snr).tolist() == [1, 2, 3, 4, 6]      # ties: the first; blanks stay
    rows, n_star, n_large = selection.in_groups(ids, snr, 2, 2)
    assert (rows.tolist(), n_star, n_large) == ([1, 7], 1, 1)
    assert selection.in_groups(ids, snr, 2, 15)[0].tolist() == [0, 1, 2, 5, 7]
    empty = np.zeros(0, "S1"), np.zeros(0)
    assert len(selection.one_per_star(*empty)) == 0 and len(selection.in_groups(*empty, 2, 15)[0]) == 0


def test_split_depends_on_the_id_alone():
    ids = np.array([f"2M{k:016d}" for k in range(20000)], "S18")
    held = selection.split_held_out(ids, 0.8, 1)
    assert held.mean() == pytest.approx(0.2, abs=0.012)                      # 4 sigma of a binomial
    assert np.array_equal(selection.split_held_out(ids[::-3].astype("S32"), 0.8, 1), held[::-3])
    other = selection.split_held_out(ids, 0.8, 2)
    assert (held & other).mean() == pytest.approx(0.04, abs=0.006)           # another seed is independent
    assert not selection.split_held_out(ids, 1.0, 1).any()
    assert (held | ~selection.split_held_out(ids, 0.9, 1)).all()             # a larger part contains the smaller


# --- what goes wrong -----------------------------------------------------------------------------------------


def without(rows, name):
    return rows[[n for n in rows.dtype.names if n != name]].copy()


@pytest.mark.parametrize("name, message", [
    ("APOGEE_ID", r"test.fits: id: no column 'APOGEE_ID' \(there are: APSTAR_ID, "),
    ("SNR", r"test.fits: snr: no column 'SNR'"), ("TEFF", r"label teff: no column 'TEFF' or 'PARAM\[0\]'"),
    ("STARFLAG", r"flag_spectra: no column 'STARFLAG'")])
def test_a_missing_column_is_named(apogee, name, message):
    with pytest.raises(errors.DataError, match=message):
        mapped(apogee, without(apogee_rows(1), name))


def test_an_optional_cut_needs_no_column(apogee):
    rows = without(apogee_rows(2), "EXTRATARG")
    mapping = Mapping(apogee, columns_of(rows), "t")
    assert mapping.kept(rows).all()


def test_names_in_other_case_are_found(galah):
    rows = galah_rows(1)
    out, _ = mapped(galah, rows.astype([(n.upper(), d) for n, d in GALAH_DTYPE]))
    assert out["teff"][0] == 5700


def test_ids_must_be_exact(galah):
    rows = galah_rows(2)
    as_float = rows.astype([(n, "f8" if n == "dr3_source_id" else d) for n, d in GALAH_DTYPE])
    with pytest.raises(errors.DataError, match="test.fits: column 'dr3_source_id': exact whole numbers are needed"):
        mapped(galah, as_float)
    as_float = rows.astype([(n, "f8" if n == "sobject_id" else d) for n, d in GALAH_DTYPE])
    assert mapped(galah, as_float)[0]["id"][0] == b"131217003901110"         # 15 digits are exact in a float64
    as_text = rows.astype([(n, "S20" if n == "dr3_source_id" else d) for n, d in GALAH_DTYPE])
    assert mapped(galah, as_text)[0]["dr3_source_id"][0] == 604916731706106752


def test_null_integers(galah):
    rows = galah_rows(3)
    rows["flag_sp"][1], rows["dr3_source_id"][2] = -99, -1
    out, reject = mapped(galah, rows, {"flag_sp": -99})
    assert out["flag_sp"].tolist() == [0, NULL, 0] and reject["GALAH_FLAG_SP"].tolist() == [False, True, False]
    assert out["dr3_source_id"][2] == NULL


def test_a_missing_flag_is_no_good_flag(apogee):
    rows = apogee_rows(2)
    rows["STARFLAG"][1] = -1
    out, reject = mapped(apogee, rows, {"STARFLAG": -1})
    assert reject["APOGEE_STARFLAG"].tolist() == [False, True] and out["flag_spectra"].tolist() == [0, NULL]


def test_a_long_id_is_refused(apogee):
    rows = apogee_rows(3)
    rows = rows.astype([(n, "S60" if n == "APOGEE_ID" else d[0], *d[1:]) for n, *d in APOGEE_DTYPE])
    rows["APOGEE_ID"][2] = "x" * 40
    with pytest.raises(errors.DataError, match="row 2: star_id .* is longer than 32"):
        mapped(apogee, rows)


def test_a_text_is_no_label(galah):
    rows = galah_rows(1).astype([(n, "S8" if n == "teff" else d) for n, d in GALAH_DTYPE])
    with pytest.raises(errors.DataError, match="test.fits: column 'teff': is a text"):
        mapped(galah, rows)


def test_empty_catalogue(apogee):
    out, reject = mapped(apogee, apogee_rows(0))
    assert len(out) == 0 and all(len(r) == 0 for r in reject.values())


# --- the surveys' own lists of columns -------------------------------------------------------------------------

KINDS = {"float32": "f4", "float64": "f8", "int16": "i2", "int32": "i4", "int64": "i8", "float": "f8",
         "integer": "i8", "string": "S32"}


def listed_columns(path, name):
    """{name: schema.Column} of a survey's published list of columns, and the rows (zeros) of such a table."""
    table = pytest.importorskip("astropy.table", reason="astropy reads the ECSV").Table.read(path, format="ascii.ecsv")
    columns, fields = {}, []
    for row in table:
        kind, _, size = row["type"].rstrip("]").partition("[")
        dtype = f"S{size}" if kind == "char" else KINDS[kind]
        shape = (int(size),) if size and kind != "char" else ()
        columns[row[name]] = schema.Column(row[name], dtype, shape=shape)
        fields.append((row[name], columns[row[name]].numpy_dtype, shape))
    return columns, np.zeros(3, fields)


@pytest.mark.parametrize("release, name", [("apogee_dr16_allstar", "name"), ("galah_dr3_allstar_v1", "name_v1")])
def test_every_column_is_found_in_the_surveys_own_list(shared, apogee, galah, release, name):
    """All 226 columns of DR16's allStar, and those of GALAH DR3 version 1: ids, labels with errors, flags, cuts,
    positions and paths are found, and with the types that they have there."""
    columns, rows = listed_columns(shared / "data" / "catalogues" / f"schema_{release}.ecsv", name)
    survey = apogee if "apogee" in release else galah
    for selection_name in survey.catalogue.selections:
        mapping = Mapping(survey, columns, release, selection_name)
        assert not mapping.skipped_cuts and len(mapping.cuts) == 3 and mapping.spectrum is not None
        assert all(flag is not None for flag in mapping.flags.values()) and mapping.position is not None
        for label, reader in mapping.labels.items():
            assert reader.value is not None, label
            assert reader.error is not None or (label, survey.survey) == ("vmicro", "galah"), label
        if survey.survey == "apogee":
            assert mapping.labels["vbroad"].choice is not None and len(columns) == 226
            # The named tags, not the arrays: calibrated values.
            assert [r.value.name for r in mapping.labels.values()] == [
                "TEFF", "LOGG", "M_H", "ALPHA_M", "VMICRO", "VMACRO"]
            assert mapping.selection.where == () or not any(t.skipped for t in mapping.where)
        found = {n for n, r in mapping.others.items() if r is not None}
        gaia = {"parallax", "e_parallax", "r_est", "r_lo", "r_hi", "dr2_source_id", "snr"}
        assert gaia <= found, gaia - found
        out, reject = mapping.rows(rows[mapping.needed], np.arange(3))
        assert len(out) == 3 and (reject != 0).all()                # zeros pass no S/N cut
