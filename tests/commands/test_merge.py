"""cc-merge: parts of a job, and catalogues from labels of two surveys, checked column by column."""
import csv
import io
import warnings

import numpy as np
import products
import pytest

from cannonkit import bitmasks, schema

# Table A1 of the paper, in its order: name, unit, type.
LABEL_UNITS = (("teff", "K"), ("logg", "log(cm/s^2)"), ("feh", "dex"), ("alphafe", "dex"), ("vmicro", "km/s"),
               ("vbroad", "km/s"))
TABLE_A1 = [
    ("Unique_ID", "", "S"), ("dr2_source_id", "", "i8"), ("dr3_source_id", "", "i8"), ("ra", "deg", "f8"),
    ("dec", "deg", "f8"),
    *((f"{e}{n}Cann", u, "f8") for n, u in LABEL_UNITS for e in ("", "e_")),
    ("r_chi_sq", "", "f8"), ("snrCann", "", "f8"), ("Cannon_distance", "", "f8"), ("flag_id", "", "i2"),
    ("flag_Cannon_dist", "", "i2"), ("flag_spectra", "", "i8"), ("flag_sp_aspcap", "", "i8"),
    ("flag_survey", "", "i2"), ("flag_training", "", "i2"),
    *((f"{e}{n}", u, "f8") for n, u in LABEL_UNITS for e in ("", "e_")),
    ("snr", "", "f8"), ("r_est", "pc", "f8"), ("r_lo", "pc", "f8"), ("r_hi", "pc", "f8"),
    ("parallax", "mas", "f8"), ("e_parallax", "mas", "f8")]
N_A, N_G, N_BOTH = 300, 350, 60


def final_labels(path, rng, survey, model, ids, star_ids, scale="galah", with_survey_flags=True):
    """A labels product with flags and final errors."""
    n = len(ids)
    table = schema.labels_table(products.LABELS).with_columns(
        (*schema.flag_columns(with_survey_flags), *schema.error_columns(products.LABELS)))
    cov = products.covariance(rng, n)
    labels = products.training_labels(rng, n)
    snr = rng.uniform(20, 200, n)
    rows = table.rows(n, products.label_rows(ids, star_ids, labels, cov, snr))
    rows["chi2"] = rng.chisquare(994, n)
    rows["cov_final"] = 9 * cov
    for k, name in enumerate(products.LABELS):
        rows[f"err_{name}"] = 3 * np.sqrt(cov[:, k, k])
    rows["cannon_distance"] = rng.uniform(0, 10, n)
    rows["flag_cannon_dist"] = rows["cannon_distance"] > 8
    rows["flag_training"] = rng.integers(0, 2, n)
    for name in ("leverage", "outside_fraction", "spectrum_distance", "second_delta_chi2"):
        rows[name] = rng.uniform(size=n)
    rows["second_delta_chi2"][::3] = np.nan
    rows["error_source"], rows["spectrum_status"] = rng.integers(0, 64, n), rng.integers(0, 2, n)
    if with_survey_flags:
        rows["flag_spectra"], rows["flag_sp_aspcap"], rows["flag_survey"], rows["flag_snr"] = 0, 0, 0, 0
    for name in (*products.LABELS, *(f"err_{x}" for x in products.LABELS), "chi2", "cannon_distance", "cov_final"):
        rows[name][7] = np.nan
    # GALAH's row 7 and APOGEE's 8th from the end are one star: neither row is clean, and one fit failed.
    partner = slice(N_A - 8, N_A - 7)
    rows["cannon_distance"][partner], rows["flag_cannon_dist"][partner] = 9.0, 1
    rows["status"][7], rows["flag_cannon_dist"][7] = bitmasks.FIT_STATUS.NO_SPECTRUM, 1
    return products.write_labels(path, rows, table=table, header={"MODEL": model, "SURVEY": survey, "SCALE": scale},
                                 row_header={"SNRMIN": 80.0 if survey == "apogee" else 25.0, "CKMETRIC": "squared",
                                             "DISTMAX": 8.0, "ERRMODEL": "full", "ERRFACT": "robust",
                                             "ERRPREC": "paper"}), rows


@pytest.fixture(scope="module")
def made(tmp_path_factory, inside):
    """A folder with both surveys' selections, four labels files, and the two catalogues made of them; the rows of
    the first two."""
    folder = tmp_path_factory.mktemp("merge")
    rng = np.random.default_rng(1)
    galah_star = np.array([f"{k:08d}".encode() for k in range(N_G)])
    apogee_id = np.array([b"2M" + galah_star[k] if k < N_BOTH else b"2M9%07d" % k for k in range(N_A)])[::-1]
    galah_id = np.array([b"%d" % (150000000000000 + k) for k in range(N_G)])
    _, a = final_labels(folder / "acgs.fits", rng, "apogee", "ACGS", apogee_id, apogee_id)
    _, g = final_labels(folder / "gcgs.fits", rng, "galah", "GCGS", galah_id, galah_star)
    final_labels(folder / "acaa.fits", rng, "apogee", "ACAA", apogee_id, apogee_id, scale="apogee")
    final_labels(folder / "gcaa.fits", rng, "galah", "GCAA", galah_id, galah_star, scale="apogee")
    sentinel = {name: np.where(np.arange(N_A) == 3, np.nan, 1.0) for name in ("teff", "e_teff")}
    products.write_survey(folder / "apogee.fits", "apogee", apogee_id, apogee_id, rng,
                          flag_spectra=np.arange(N_A) % 3, reject=np.arange(N_A) % 2, **sentinel)
    dr3 = np.where(np.arange(N_G) == 5, schema.NULL_ID, 2**60 + np.arange(N_G))
    products.write_survey(folder / "galah.fits", "galah", galah_id, galah_star, rng, dr3_source_id=dr3,
                          e_vmicro=np.nan)
    assert inside("merge", "catalogue", folder / "acgs.fits", folder / "gcgs.fits", *surveys(folder),
                  "--best", folder / "best.fits", "-o", folder / "scaled.fits", "--quiet") == 0
    assert inside("merge", "catalogue", folder / "acaa.fits", folder / "gcaa.fits", *surveys(folder), "-o",
                  folder / "apogee_scaled.fits", "--quiet") == 0
    return folder, a, g


def surveys(folder):
    return ("--survey", str(folder / "apogee.fits"), "--recipe", "apogee_dr16", "--survey",
            str(folder / "galah.fits"), "--recipe", "galah_dr3")


@pytest.mark.parametrize("name, scale", [("scaled.fits", "galah"), ("apogee_scaled.fits", "apogee")])
def test_columns_of_table_a1(made, name, scale):
    rows, source = products.read(made[0] / name)
    assert len(TABLE_A1) == 44 and len(rows) == N_A + N_G
    for column, (name, unit, kind) in zip(source.table.columns[:44], TABLE_A1, strict=True):
        assert (column.name, column.unit) == (name, unit)
        assert column.dtype.lstrip("<>|").startswith(kind), column
        assert column.description and column.ucd
        integer_null = name in ("dr2_source_id", "dr3_source_id", "flag_spectra", "flag_sp_aspcap")
        assert column.null == (schema.NULL_ID if integer_null else None)
    assert source.header["SCALE"] == scale and source.header["SURVEY"] == "apogee,galah"
    assert source.header["MODEL"] == {"galah": "ACGS,GCGS", "apogee": "ACAA,GCAA"}[scale]
    assert source.header["ERRMODE0"] == source.header["ERRMODE1"] == "full" and source.header["DISTMAX1"] == 8
    assert source.header["CKMETRI0"] == "squared" and source.header["ERRPREC1"] == "paper"
    header = source.hdu.header
    assert header["RADESYS"] == "ICRS" and header["S1NAME"] == "apogee" and header["S0SNR"] == 25
    assert header["S1BMASK"] == 0x23E19 and header["P0BMASK"] == -1 and header["STAT06"] == "NO_SPECTRUM"
    assert header["P1B16"] == "TEFF_BAD" and header["S0B00"] == "BAD_SPECTRUM"


def test_values_come_from_their_places(made):
    folder, a, g = made
    rows, _ = products.read(folder / "scaled.fits")
    for part, labels, name, flag_id in ((rows[:N_A], a, "apogee", 1), (rows[N_A:], g, "galah", 0)):
        assert np.array_equal(part["Unique_ID"], labels["id"]) and np.all(part["flag_id"] == flag_id)
        np.testing.assert_array_equal(part["fehCann"], labels["fe_h"])
        np.testing.assert_array_equal(part["e_vbroadCann"], labels["err_vbroad"])
        np.testing.assert_array_equal(part["r_chi_sq"], labels["chi2"] / 993)
        np.testing.assert_array_equal(part["snrCann"], labels["snr_cannon"])
        np.testing.assert_array_equal(part["cov"], labels["cov_final"])
        for ours in ("leverage", "outside_fraction", "spectrum_distance", "second_delta_chi2", "error_source",
                     "spectrum_status", "flag_training", "flag_snr", "star_id"):
            np.testing.assert_array_equal(part[ours], labels[ours])
        with_survey = products.read(folder / f"{name}.fits")[0]
        for ours, theirs in (("ra", "ra"), ("feh", "fe_h"), ("e_alphafe", "e_alpha_fe"), ("snr", "snr"),
                             ("r_lo", "r_lo"), ("dr2_source_id", "dr2_source_id")):
            np.testing.assert_array_equal(part[ours], with_survey[f"{name}_{theirs}"].astype(part[ours].dtype))
        assert np.isnan(part["teffCann"][7]) and part["flag_Cannon_dist"][7] == 1
        assert part["fit_status"][7] == bitmasks.FIT_STATUS.NO_SPECTRUM
    assert np.isnan(rows["e_vmicro"][N_A:]).all()
    assert rows["dr3_source_id"][N_A + 5] == schema.NULL_ID and np.isnan(rows["teff"][3])
    assert rows["reject"][:4].tolist() == [0, 1, 0, 1]
    # The flags that cc-flag set are kept, not looked up again.
    assert not rows["flag_spectra"].any()


def test_stars_of_both_surveys_point_at_each_other(made):
    rows, source = products.read(made[0] / "scaled.fits")
    has = np.flatnonzero(rows["other_row"] != schema.NULL_ID)
    assert len(has) == 2 * N_BOTH and source.end_header["NBOTH"] == N_BOTH
    other = rows["other_row"][has]
    assert np.array_equal(rows["other_row"][other], has)
    assert np.array_equal(rows["other_id"][has], rows["Unique_ID"][other])
    star = schema.text(rows["star_id"])
    for one, two in zip(has, other, strict=True):
        assert star[min(one, two)] == "2M" + star[max(one, two)]
    assert np.all(schema.text(rows["other_id"][rows["other_row"] == schema.NULL_ID]) == "")


def test_stars_are_paired_by_gaia_id_where_the_pair_says_so(made, root, inside, tmp_path):
    folder = made[0]
    text = (root / "configs" / "apogee_galah.yaml").read_text()
    text = text.replace('["{star_id}"]', '["{dr3_source_id}"]').replace('["2M{star_id}"]', '["{dr3_source_id}"]')
    (tmp_path / "pair.yaml").write_text(text)
    assert text.count("dr3_source_id") == 2
    assert inside("merge", "catalogue", folder / "acgs.fits", folder / "gcgs.fits", *surveys(folder), "--pair",
                  tmp_path / "pair.yaml", "-o", tmp_path / "o.fits", "--quiet") == 0
    rows, _ = products.read(tmp_path / "o.fits")
    has = np.flatnonzero(rows["other_row"] != schema.NULL_ID)
    assert len(has) == 2 * (N_A - 1)                             # all of APOGEE but one: GALAH's row 5 has no Gaia id
    assert np.array_equal(rows["dr3_source_id"][has], rows["dr3_source_id"][rows["other_row"][has]])
    assert rows["other_row"][0] == N_A and np.array_equal(rows["teffCann"], products.read(
        folder / "scaled.fits")[0]["teffCann"], equal_nan=True)


def test_best_has_one_row_per_star(made):
    rows, _ = products.read(made[0] / "scaled.fits")
    best, source = products.read(made[0] / "best.fits")
    assert source.table.name == "BEST" and len(best) == N_A + N_G - N_BOTH
    assert len(np.unique(best["row"])) == len(best)
    one = best[best["other_row"] == schema.NULL_ID]
    np.testing.assert_array_equal(one["teffCann"], rows["teffCann"][one["row"]])
    assert np.all(one["n_used"] == 1) and np.isnan(one["consistency_chi2"]).all()
    two = best[best["other_row"] != schema.NULL_ID]
    assert len(two) == N_BOTH and np.all(two["consistency_dof"] <= 6)
    first, second = rows[two["row"]], rows[two["other_row"]]
    assert np.array_equal(first["Unique_ID"], two["Unique_ID"])

    def clean(x):
        return (x["flag_Cannon_dist"] == 0) & (x["flag_survey"] == 0) & (x["flag_snr"] == 0)
    equal = clean(first) == clean(second)
    good = equal & np.isfinite(first["teffCann"]) & np.isfinite(second["teffCann"])
    assert 10 < good.sum() < equal.sum() < N_BOTH            # a failed fit does not count
    assert np.array_equal(two["n_used"], np.where(good, 2, 1))
    assert np.array_equal(np.isfinite(two["consistency_chi2"]), two["consistency_dof"] > 0)
    w1, w2 = 1 / first["e_teffCann"][good] ** 2, 1 / second["e_teffCann"][good] ** 2
    np.testing.assert_allclose(two["teffCann"][good], (w1 * first["teffCann"][good] + w2 * second["teffCann"][good])
                               / (w1 + w2), rtol=1e-12)
    np.testing.assert_allclose(two["e_teffCann"][good], 1 / np.sqrt(w1 + w2), rtol=1e-12)
    chosen = np.where(clean(first), first["fehCann"], second["fehCann"])
    np.testing.assert_array_equal(two["fehCann"][~equal], chosen[~equal])


def test_survey_flags_are_made_where_cc_flag_had_no_catalogue(made, inside, tmp_path):
    folder, _, _ = made
    rng = np.random.default_rng(5)
    ids = products.read(folder / "apogee.fits")[0]["apogee_id"]
    final_labels(tmp_path / "acgs.fits", rng, "apogee", "ACGS", ids, ids, with_survey_flags=False)
    assert inside("merge", "catalogue", tmp_path / "acgs.fits", "--survey", folder / "apogee.fits", "--recipe",
                  "apogee_dr16", "-o", tmp_path / "one.fits", "--quiet") == 0
    rows, source = products.read(tmp_path / "one.fits")
    survey = products.read(folder / "apogee.fits")[0]
    np.testing.assert_array_equal(rows["flag_spectra"], survey["apogee_flag_spectra"])
    np.testing.assert_array_equal(rows["flag_snr"], ~(survey["apogee_snr"] > 80))
    assert source.end_header["NBOTH"] == 0


def test_catalogue_in_another_order_and_with_gaps(made, command, tmp_path):
    folder, a, _ = made
    survey = products.read(folder / "apogee.fits")[0]
    mixed = np.random.default_rng(6).permutation(N_A)[:N_A - 4]
    table = schema.training_table(["apogee"], products.LABELS)
    from cannonkit import stream
    with stream.create(tmp_path / "mixed.fits", "training", table, len(mixed)) as out:
        out.write(survey[mixed])
    result = command("merge", "catalogue", folder / "acgs.fits", "--survey", tmp_path / "mixed.fits", "--recipe",
                     "apogee_dr16", "-o", tmp_path / "one.fits", "--chunk", "64")
    assert result.code == 0 and "warning: 4 of 300 rows" in result.err
    rows, full = products.read(tmp_path / "one.fits")[0], products.read(folder / "scaled.fits")[0][:N_A]
    there = np.isin(np.arange(N_A), mixed)
    for name in ("ra", "teff", "dr2_source_id", "reject", "parallax"):
        np.testing.assert_array_equal(rows[name][there], full[name][there])
    assert np.isnan(rows["ra"][~there]).all() and np.all(rows["dr2_source_id"][~there] == schema.NULL_ID)
    assert np.all(rows["reject"][~there] == schema.NULL_ID)


def test_stdout_and_chunks_give_the_same_bytes(made, command, tmp_path):
    folder, _, _ = made
    result = command("merge", "catalogue", folder / "acgs.fits", folder / "gcgs.fits", *surveys(folder), "-o", "-",
                     "--chunk", "128")
    assert result.code == 0
    (tmp_path / "piped.fits").write_bytes(result.out)
    assert products.sums(tmp_path / "piped.fits") == products.sums(folder / "scaled.fits")


# --- other programs read it --------------------------------------------------------------------------------

def test_ucds_are_words_of_the_vocabulary():
    from astropy.io.votable import ucd
    names = products.LABELS
    for table in (schema.catalogue_table(names), schema.best_table(names), schema.spectra_table(10),
                  schema.labels_table(names).with_columns(schema.flag_columns() + schema.error_columns(names)),
                  schema.training_table(["apogee"], names), schema.model_training_table(names)):
        for column in table.columns:
            assert column.ucd or table.name not in ("CATALOGUE", "BEST"), column
            if column.ucd:
                ucd.parse_ucd(column.ucd, check_controlled_vocabulary=True)



def test_astropy_reads_it_with_no_warning_but_those_for_logarithms(made):
    from astropy.table import Table
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*'(dex|log\(cm/s\^2\))' did not parse as fits unit.*")
        table = Table.read(made[0] / "scaled.fits", hdu=1)
    assert table.colnames[:44] == [name for name, _, _ in TABLE_A1]
    assert table["dr3_source_id"].mask.sum() == 1 and table["teffCann"].mask.sum() == 2
    assert str(table["r_est"].unit) == "pc" and str(table["vbroadCann"].unit) == "km / s"


@pytest.mark.parametrize("file", ["scaled.fits", "apogee_scaled.fits"])
def test_stilts_shows_names_units_and_descriptions(made, program, start, file):
    path = f"{made[0] / file}#CATALOGUE"
    stilts = program("stilts")
    result = start([stilts, "tpipe", f"in={path}", "ifmt=fits", "cmd=meta Name Class Units Description UCD",
                    "omode=out", "ofmt=csv", "out=-"], timeout=120)
    assert result.code == 0, result
    meta = list(csv.DictReader(io.StringIO(result.out.decode())))
    for found, (name, unit, kind), column in zip(meta, TABLE_A1, schema.catalogue_table(products.LABELS).columns,
                                                 strict=False):
        assert found["Name"] == name and found["Units"] == unit
        assert found["Class"] == {"S": "String", "i8": "Long", "i2": "Short", "f8": "Double"}[kind]
        assert found["Description"] == column.description and found["UCD"] == column.ucd
    result = start([stilts, "tpipe", f"in={path}", "ifmt=fits", "cmd=stats Name NGood NBad", "omode=out", "ofmt=csv",
                    "out=-"], timeout=120)
    bad = {r["Name"]: int(r["NBad"]) for r in csv.DictReader(io.StringIO(result.out.decode()))}
    rows = products.read(made[0] / file)[0]
    for column in schema.catalogue_table(products.LABELS).columns[:44]:
        values = rows[column.name]
        nulls = np.isnan(values).sum() if values.dtype.kind == "f" else (values == column.null).sum() \
            if column.null is not None else 0
        assert bad[column.name] == nulls, column.name


def test_fitsverify_and_gnuastro(made, program, start):
    for name in ("scaled.fits", "best.fits"):
        result = start([program("fitsverify"), "-q", made[0] / name])
        assert result.code == 0 and b"verification OK" in result.out, result
    result = start([program("asttable"), made[0] / "scaled.fits", "-h1", "--information"])
    assert result.code == 0 and b"loggCann" in result.out and b"log(cm/s^2)" in result.out


# --- refusals ------------------------------------------------------------------------------------------------

def test_catalogue_refusals(made, inside, capfd, tmp_path):
    folder, a, g = made
    both = surveys(folder)
    rng = np.random.default_rng(7)
    final_labels(tmp_path / "acaa.fits", rng, "galah", "GCAA", g["id"], g["star_id"], scale="apogee")
    products.write_labels(tmp_path / "raw.fits", products.label_rows(
        a["id"], a["star_id"], products.training_labels(rng, N_A), products.covariance(rng, N_A), a["snr_survey"]))
    twice = np.concatenate([g["id"][:3], g["id"][:3], g["id"][:10]])
    final_labels(tmp_path / "twice.fits", rng, "galah", "GCGS", twice, np.array([b"%d" % k for k in range(16)]))
    cut = tmp_path / "cut.fits"
    cut.write_bytes((folder / "gcgs.fits").read_bytes()[:-2880])
    before = {p.name for p in tmp_path.iterdir()}
    out = tmp_path / "out.fits"
    acgs, gcgs = folder / "acgs.fits", folder / "gcgs.fits"
    for code, words, says in (
            (65, (acgs, tmp_path / "acaa.fits", *both), "a catalogue has one scale"),
            (65, (acgs, acgs, *both), "survey 'apogee' again"),
            (65, (acgs, gcgs, *both[:4]), "its spectra are of survey 'galah', --recipe has apogee"),
            (65, (acgs,), "no --survey is given"),
            (65, (tmp_path / "raw.fits", *both), "cc-flag and cc-errors apply"),
            (65, (acgs, tmp_path / "twice.fits", *both), "stands in rows 0 and 3"),
            (65, (acgs, cut, *both), "cut.fits"),
            (65, (acgs, "--survey", folder / "galah.fits", "--recipe", "apogee_dr16"), "apogee"),
            (64, ("-", gcgs, *both), "standard input"),
            (64, (acgs, *both[:2]), "belong together"),
            (64, (acgs, *both[:4], "--best", out), "same file"),
            (73, (acgs, *both[:4], "--best", acgs), "acgs.fits"),
            (66, (acgs, gcgs, *both, "--pair", "apogee_galax"), "did you mean 'apogee_galah'")):
        found = inside("merge", "catalogue", *words, "-o", out)
        err = capfd.readouterr().err
        assert found == code, (words, err)
        assert says in err and "Traceback" not in err, (words, err)
        assert {p.name for p in tmp_path.iterdir()} == before, words


# --- shards ---------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def job(tmp_path_factory, inside):
    """A folder with five parts of a cc-flag job and what one job writes."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(11)
    products.write_model(folder / "m.fits", rng)
    n = 700
    ids = products.star_names(n)
    rows = products.label_rows(ids, ids, products.training_labels(rng, n), products.covariance(rng, n),
                               rng.uniform(20, 200, n))
    products.write_labels(folder / "l.fits", rows)
    (folder / "parts").mkdir()
    words = ("flag", folder / "l.fits", "-m", folder / "m.fits", "--quiet")
    for i in range(5):
        assert inside(*words, "--shard", f"{i}/5", "-o", folder / "parts") == 0
    assert inside(*words, "-o", folder / "whole.fits") == 0
    return folder


def test_shards_make_what_one_job_makes(job, command, tmp_path):
    result = command("merge", "shards", job / "parts", "-o", tmp_path / "joined.fits")
    assert result.code == 0 and "5 parts, 700 rows" in result.err
    assert products.sums(tmp_path / "joined.fits") == products.sums(job / "whole.fits")
    joined, whole = products.read(tmp_path / "joined.fits")[1], products.read(job / "whole.fits")[1]
    assert joined.hdu.header["CKMETRIC"] == "squared" and joined.header["MODEL"] == "ACGS"
    assert joined.end_header["NFAR"] == whole.end_header["NFAR"]
    files = sorted((job / "parts").iterdir(), reverse=True)
    piped = command("merge", "shards", *files, "-o", "-")
    (tmp_path / "piped.fits").write_bytes(piped.out)
    assert piped.code == 0 and products.sums(tmp_path / "piped.fits") == products.sums(job / "whole.fits")


def test_shard_refusals(job, inside, capfd, tmp_path):
    parts = sorted((job / "parts").iterdir())
    quiet = ("flag", job / "l.fits", "-m", job / "m.fits", "--quiet")
    assert inside(*quiet, "--shard", "1/2", "-o", tmp_path / "half.fits") == 0
    assert inside(*quiet, "--shard", "2/5", "--limit", "5", "-o", tmp_path / "foreign.fits") == 0
    flipped = bytearray(parts[2].read_bytes())
    flipped[-2880 * 8] ^= 1
    (tmp_path / "flipped.fits").write_bytes(flipped)
    (tmp_path / "cut.fits").write_bytes(parts[2].read_bytes()[:-2880])
    (tmp_path / "empty").mkdir()
    before = {p.name for p in tmp_path.iterdir()}
    for code, words, says in (
            (65, (*parts[:2], *parts[3:]), "missing: part-00002-of-00005.fits"),
            (65, (*parts, parts[1]), "part 1 is there twice"),
            (65, (*parts, tmp_path / "half.fits"), "half.fits is part 1 of 2"),
            (65, (*parts[:2], tmp_path / "foreign.fits", *parts[3:]), "foreign.fits is of another run"),
            (65, (*parts, job / "whole.fits"), "whole.fits is no part of an array job"),
            (65, (*parts[:2], tmp_path / "flipped.fits", *parts[3:]), "flipped.fits"),
            (65, (*parts[:2], tmp_path / "cut.fits", *parts[3:]), "cut.fits"),
            (66, (tmp_path / "empty",), "no part-I-of-N.fits"),
            (66, (tmp_path / "nowhere",), "nowhere"),
            (64, ("-",), "standard input"),
            (73, (*parts,), "exists")):
        out = tmp_path / "out.fits" if code != 73 else tmp_path / "half.fits"
        found = inside("merge", "shards", *words, "-o", out)
        err = capfd.readouterr().err
        assert found == code, (words, err)
        assert says in err and "Traceback" not in err, (words, err)
        assert {p.name for p in tmp_path.iterdir()} == before


def test_empty_shards_of_a_small_table_join(job, inside, tmp_path):
    rows = products.read(job / "l.fits")[0][:70]
    products.write_labels(tmp_path / "small.fits", rows)
    (tmp_path / "parts").mkdir()
    for i in range(4):
        assert inside("flag", tmp_path / "small.fits", "-m", job / "m.fits", "--quiet", "--shard", f"{i}/4", "-o",
                      tmp_path / "parts") == 0
    assert inside("merge", "shards", tmp_path / "parts", "-o", tmp_path / "joined.fits", "--quiet") == 0
    assert len(products.read(tmp_path / "joined.fits")[0]) == 70


def test_the_examples_of_the_help_run(made, job, inside, capfd, tmp_path):
    import shutil

    from cannonkit.commands import merge as command
    folder = made[0]
    for name, source in (("acgs.final", folder / "acgs"), ("gcgs.final", folder / "gcgs"),
                         ("acaa.final", folder / "acgs"), ("gcaa.final", folder / "gcgs"),
                         ("apogee_catalogue", folder / "apogee"), ("galah_catalogue", folder / "galah"),
                         ("acgs.model", job / "m")):
        shutil.copy(f"{source}.fits", tmp_path / f"{name}.fits")
    shutil.copytree(job / "parts", tmp_path / "parts")
    products.run_examples("merge", command.__doc__, tmp_path, inside)
    for text, made_before in ((command.SHARDS, ("acgs.joined",)), (command.CATALOGUE, (
            "galah_scaled", "apogee_scaled", "apogee_best"))):
        for name in made_before:
            (tmp_path / f"{name}.fits").unlink()
        products.run_examples("merge", text, tmp_path, inside)
