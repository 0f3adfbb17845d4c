"""cc-flag through files, pipes and shards, with both surveys' words, and what it refuses."""
import re

import numpy as np
import products
import pytest

from cannonkit import bitmasks, fits, schema, stream

STARFLAG, ASPCAP = bitmasks.APOGEE_STARFLAG, bitmasks.APOGEE_ASPCAPFLAG
N = 400


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder with acgs.model.fits, acgs.labels.fits, apogee.fits; rows of the labels; training labels)."""
    folder = tmp_path_factory.mktemp("flag")
    rng = np.random.default_rng(1)
    _, training = products.write_model(folder / "acgs.model.fits", rng)
    stars = products.star_names(N)                          # 0 to 299 are the training stars
    labels = np.concatenate([training[:250], products.training_labels(rng, N - 250)])
    labels[300:310] += 30 * products.SIGMA
    labels[310] = np.nan
    cov = products.covariance(rng, N)
    rows = products.label_rows(stars, stars, labels, cov, rng.uniform(20, 200, N), status=0)
    rows["chi2"] = 994 + 44.6 * rng.normal(size=N)
    products.write_labels(folder / "acgs.labels.fits", rows,
                          row_header=schema.bit_cards("STAT", bitmasks.FIT_STATUS))
    words = {"flag_spectra": np.zeros(N, np.int64), "flag_sp": np.zeros(N, np.int64)}
    words["flag_spectra"][:20] = STARFLAG.BRIGHT_NEIGHBOR           # a warning
    words["flag_spectra"][20:30] = STARFLAG.BAD_PIXELS
    words["flag_sp"][30:35] = ASPCAP.TEFF_BAD
    words["flag_sp"][35:45] = ASPCAP.STAR_WARN
    words["flag_survey"] = np.zeros(N, np.int16)
    words["flag_survey"][45:48] = 1
    snr = np.full(N, 100.0)
    snr[48:52] = 80.0
    products.write_survey(folder / "apogee.fits", "apogee", stars[::-1], stars[::-1], rng, snr[::-1],
                          **{k: v[::-1] for k, v in words.items()})
    return folder, rows, training


def flag(made, inside, out, *options, labels="acgs.labels.fits"):
    assert inside("flag", made[0] / labels, "-m", made[0] / "acgs.model.fits", "-o", out, "--quiet", *options) == 0
    return products.read(out)


SURVEY = ("--recipe", "apogee_dr16")


def test_model_flags_alone(made, inside, tmp_path):
    found, source = flag(made, inside, tmp_path / "out.fits")
    folder, rows, training = made
    assert source.product == "labels" and source.header["SCALE"] == "galah"
    for name in rows.dtype.names:
        np.testing.assert_array_equal(found[name], rows[name])
    labels = schema.label_array(rows, products.LABELS)[:, :4]
    k = 4 * products.FORMAL[:4]
    for m in (0, 249, 260, 399):
        others = np.delete(training[:, :4], m, axis=0) if m < 300 else training[:, :4]
        d = np.sort((((labels[m] - others) / k) ** 2).sum(axis=1))[:10].mean()
        assert found["cannon_distance"][m] == pytest.approx(d, rel=1e-12)
    assert np.array_equal(found["flag_cannon_dist"], ~(found["cannon_distance"] <= 8))
    assert np.all(found["flag_cannon_dist"][300:311] == 1) and np.isnan(found["cannon_distance"][310])
    assert np.array_equal(found["flag_training"], np.arange(N) >= 300)
    assert np.nanmax(found["outside_fraction"]) == 1 and np.nanmin(found["outside_fraction"]) == 0
    assert "flag_spectra" not in found.dtype.names
    header = source.hdu.header
    assert header["CKMETRIC"] == "squared" and header["DISTMAX"] == 8 and header["NEAREST"] == 10
    assert header["DISTLAB"] == "teff,logg,fe_h,alpha_fe" and header["STAT01"] == "SINGULAR"
    assert 0.05 < header["LEVMEAN"] < 0.1
    assert np.nanmean(found["leverage"][:250]) == pytest.approx(header["LEVMEAN"], rel=0.2)


def test_survey_words(made, command, tmp_path):
    folder, _, _ = made
    result = command("flag", folder / "acgs.labels.fits", "-m", folder / "acgs.model.fits", "--survey",
                     folder / "apogee.fits", *SURVEY, "-o", tmp_path / "out.fits", "--limit", "1e9")
    assert result.code == 0 and result.out == b""
    found, source = products.read(tmp_path / "out.fits")
    # The catalogue has its rows in another order: joined by id.
    assert np.all(found["flag_spectra"][:20] == STARFLAG.BRIGHT_NEIGHBOR)
    assert np.all(found["flag_sp_aspcap"][30:35] == ASPCAP.TEFF_BAD)
    assert np.flatnonzero(found["flag_survey"]).tolist() == [45, 46, 47]
    assert np.flatnonzero(found["flag_snr"]).tolist() == [48, 49, 50, 51]     # not above 80
    header = source.hdu.header
    assert header["SNRMIN"] == 80 and header["FSPBMASK"] == 0x23E19 and header["FPIBMASK"] == 0x9F0000
    assert header["FSPB04"] == "LOW_SNR" and header["FPIB23"] == "STAR_BAD"
    # 10 bad spectra, 5 bad pipeline, 3 invalid, 4 faint, 1 without labels: 377 clean, 30 fewer by zero words.
    table = [re.fullmatch(r"cc-flag: (.*?) +(\d+) +([\d.]+) %", line) for line in result.err.splitlines()]
    table = {m[1]: (int(m[2]), float(m[3])) for m in table if m}
    assert table == {
        "stars": (400, 100.0), "in the training set": (300, 75.0), "distance above 1e+09, squared (the flag)": (1, 0.2),
        "distance above 1e+09, absolute": (1, 0.2), "distance above 1e+09, root": (1, 0.2),
        "flag_spectra: a bad bit": (10, 2.5), "flag_sp_aspcap: a bad bit": (5, 1.2),
        "flag_survey: an invalid label": (3, 0.8), "flag_snr: not above the limit": (4, 1.0),
        "clean: no flag and no bad bit": (377, 94.2), "clean, warnings counted: every word 0": (347, 86.8)}
    # Every bit of both words is named, and its meaning stands beside it.
    for prefix, word in (("FSPB", STARFLAG), ("FPIB", ASPCAP)):
        for bit in word.values():
            assert header[f"{prefix}{bit.number:02d}"] == bit.name
            assert header.comments[f"{prefix}{bit.number:02d}"] == bit.meaning != ""
    assert source.end_header["NCLEAN"] == 377 and source.end_header["NZERO"] == 347
    assert source.end_header["NTRAIN"] == 300


def test_the_survey_of_the_spectra_is_chosen_and_the_limit_of_its_snr_set(made, inside, tmp_path):
    folder, rows, _ = made
    ids = np.array([b"%d" % k for k in range(5)])
    other = products.write_survey(tmp_path / "g.fits", "galah", ids, ids, np.random.default_rng(3))
    found, source = flag(made, inside, tmp_path / "a.fits", "--survey", str(other), "--recipe", "galah_dr3", "--survey",
                         str(folder / "apogee.fits"), *SURVEY, "--snr-min", "79")
    assert not found["flag_snr"].any() and source.hdu.header["SNRMIN"] == 79
    alone, _ = flag(made, inside, tmp_path / "b.fits", "--survey", str(folder / "apogee.fits"), *SURVEY)
    np.testing.assert_array_equal(found["flag_spectra"], alone["flag_spectra"])
    assert alone["flag_snr"].sum() == 4


def test_galah_words_are_0_and_1(made, inside, tmp_path):
    folder, rows, _ = made
    rng = np.random.default_rng(2)
    status = bitmasks.SPECTRUM_STATUS
    products.write_model(tmp_path / "m.fits", np.random.default_rng(1), survey="galah", name="GCGS")
    own = rows[:50].copy()
    own["spectrum_status"][:2] = status.MISSING_SEGMENT, status.BAD_VALUES
    products.write_labels(tmp_path / "l.fits", own, header={"MODEL": "GCGS", "SURVEY": "galah", "SCALE": "galah"})
    flag_sp = np.zeros(50, np.int64)
    flag_sp[3:5] = bitmasks.GALAH_FLAG_SP.REDUCTION, bitmasks.GALAH_FLAG_SP.RUWE
    spectra = (flag_sp & bitmasks.GALAH_FLAG_SP.REDUCTION != 0).astype(int)
    survey = products.write_survey(tmp_path / "g.fits", "galah", rows["id"][:50], rows["star_id"][:50], rng,
                                   np.full(50, 30.0), flag_spectra=spectra, flag_sp=flag_sp)
    assert inside("flag", tmp_path / "l.fits", "-m", tmp_path / "m.fits", "--survey", survey, "--recipe",
                  "galah_dr3", "-o", tmp_path / "o.fits", "--quiet") == 0
    found, source = products.read(tmp_path / "o.fits")
    assert np.flatnonzero(found["flag_spectra"]).tolist() == [0, 3]
    assert found["flag_sp_aspcap"][4] == 1 and not found["flag_snr"].any()
    assert source.hdu.header["FSPB00"] == "BAD_SPECTRUM" and source.hdu.header["FPIBMASK"] == -1


@pytest.mark.parametrize("metric", ["squared", "absolute", "root"])
def test_metrics_and_other_settings(made, inside, tmp_path, metric):
    found, source = flag(made, inside, tmp_path / "o.fits", "--metric", metric, "--nearest", "3", "--labels",
                         "teff,logg", "--limit", "2.5")
    folder, rows, training = made
    u = np.abs(schema.label_array(rows[399:], ["teff", "logg"]) - training[:, :2]) / (4 * products.FORMAL[:2])
    d = u.sum(axis=1) if metric == "absolute" else (u**2).sum(axis=1) ** (0.5 if metric == "root" else 1)
    assert found["cannon_distance"][399] == pytest.approx(np.sort(d)[:3].mean(), rel=1e-12)
    assert source.hdu.header["CKMETRIC"] == metric and source.hdu.header["DISTLAB"] == "teff,logg"


def test_pipe_chunks_shards_and_threads_give_the_same_bytes(made, command, inside, tmp_path):
    folder, _, _ = made
    survey = ("--survey", str(folder / "apogee.fits"), *SURVEY)
    flag(made, inside, tmp_path / "a.fits", *survey, "--chunk", "64")
    piped = command("flag", "-", "-m", folder / "acgs.model.fits", *survey, "-o", "-", "--threads", "2",
                    stdin=(folder / "acgs.labels.fits").read_bytes())
    assert piped.code == 0
    (tmp_path / "b.fits").write_bytes(piped.out)
    assert products.sums(tmp_path / "a.fits") == products.sums(tmp_path / "b.fits")
    (tmp_path / "parts").mkdir()
    for i in range(4):
        flag(made, inside, tmp_path / "parts" / f"p{i}.fits", *survey, "--shard", f"{i}/4")
    joined = np.concatenate([products.read(p)[0] for p in sorted((tmp_path / "parts").iterdir())])
    assert joined.tobytes() == products.read(tmp_path / "a.fits")[0].tobytes()


def test_stars_that_the_catalogue_lacks(made, command, tmp_path):
    folder, rows, _ = made
    some = products.write_survey(tmp_path / "some.fits", "apogee", rows["id"][:390], rows["star_id"][:390],
                                 np.random.default_rng(3))
    words = ("flag", folder / "acgs.labels.fits", "-m", folder / "acgs.model.fits", "--survey")
    result = command(*words, some, *SURVEY, "-o", tmp_path / "o.fits")
    assert result.code == 0 and "warning: 10 of 400 stars are not in" in result.err
    found, _ = products.read(tmp_path / "o.fits")
    assert np.all(found["flag_spectra"][390:] == schema.NULL_ID) and np.all(found["flag_survey"][390:] == 1)
    ids = np.array([b"other%d" % k for k in range(5)])
    none = products.write_survey(tmp_path / "none.fits", "apogee", ids, ids, np.random.default_rng(3))
    result = command(*words, none, *SURVEY, "-o", tmp_path / "p.fits")
    assert result.code == 65 and "no id of" in result.err and "'2M00000000'" in result.err
    assert not (tmp_path / "p.fits").exists()


def test_a_model_of_three_labels(made, inside, tmp_path):
    rng = np.random.default_rng(5)
    names = ("teff", "logg", "fe_h")
    products.write_model(tmp_path / "m.fits", rng, 100, names, "miles", "miles", "M")
    labels = products.training_labels(rng, 20, names)
    ids = products.star_names(20, "m")
    rows = products.label_rows(ids, ids, labels, products.covariance(rng, 20, names), np.full(20, 50.0), names)
    products.write_labels(tmp_path / "l.fits", rows, names, {"MODEL": "M", "SURVEY": "miles", "SCALE": "miles"})
    assert inside("flag", tmp_path / "l.fits", "-m", tmp_path / "m.fits", "-o", tmp_path / "o.fits", "--quiet") == 0
    found, source = products.read(tmp_path / "o.fits")
    assert source.hdu.header["DISTLAB"] == "teff,logg,fe_h" and np.isfinite(found["cannon_distance"]).all()


def test_refusals(made, inside, capfd, tmp_path):
    folder, rows, _ = made
    model, labels = folder / "acgs.model.fits", folder / "acgs.labels.fits"
    other = products.write_labels(tmp_path / "other.fits", rows[:5],
                                  header={"MODEL": "GCGS", "SURVEY": "galah", "SCALE": "galah"})
    few, _ = products.write_model(tmp_path / "few.fits", np.random.default_rng(6), 9)
    raw, _ = products.write_model(tmp_path / "raw.fits", np.random.default_rng(6), rms=np.full(6, np.nan))
    twice = products.write_survey(tmp_path / "twice.fits", "apogee", np.array([b"a", b"a"]), np.array([b"a", b"a"]),
                                  np.random.default_rng(7))
    cut = tmp_path / "cut.fits"
    cut.write_bytes(labels.read_bytes()[:-100])
    survey = folder / "apogee.fits"
    out = tmp_path / "out.fits"
    before = {p.name for p in tmp_path.iterdir()}
    for code, words, says in (
            (65, (other, "-m", model), "come from another model"),
            (65, (labels, "-m", few), "9 training stars are too few"),
            (65, (labels, "-m", raw), "no cross-validation RMS"),
            (65, (cut, "-m", model), "cut.fits"),
            (65, (labels, "-m", labels), "expected model"),
            (65, (model, "-m", model), "expected labels"),
            (65, (labels, "-m", model, "--labels", "tef"), "did you mean 'teff'"),
            (65, (labels, "-m", model, "--survey", twice, "--recipe", "apogee_dr16"), "'a' stands in rows 0 and 1"),
            (65, (labels, "-m", model, "--survey", survey, "--recipe", "galah_dr3"), "galah"),
            (64, (labels, "-m", model, "--survey", survey), "belong together"),
            (64, (labels, "-m", model, "--metric", "cubed"), "squared"),
            (64, (labels, "-m", model, "--limit", "0"), "more than 0"),
            (66, (labels, "-m", tmp_path / "no.fits"), "no.fits"),
            (66, (labels, "-m", model, "--survey", survey, "--recipe", "apogee_dr61"), "did you mean 'apogee_dr16'")):
        found = inside("flag", *words, "-o", out)
        err = capfd.readouterr().err
        assert found == code and says in err and "Traceback" not in err, (words, found, err)
    assert {p.name for p in tmp_path.iterdir()} == before


def test_no_rows_and_dry_run(made, command, inside, tmp_path):
    folder, rows, _ = made
    empty = products.write_labels(tmp_path / "empty.fits", rows[:0])
    assert inside("flag", empty, "-m", folder / "acgs.model.fits", "--survey", folder / "apogee.fits", *SURVEY,
                  "-o", tmp_path / "o.fits") == 0
    assert len(products.read(tmp_path / "o.fits")[0]) == 0
    result = command("flag", folder / "acgs.labels.fits", "-m", folder / "acgs.model.fits", "--dry-run", "-o",
                     tmp_path / "p.fits")
    assert result.code == 0 and "training stars 300" in result.err and not (tmp_path / "p.fits").exists()


def raw_galah(path, rng, n):
    """A catalogue with GALAH's own column names; returns (path, sobject_id as text, star_id)."""
    labels = {"teff": "f8", "logg": "f8", "fe_h": "f8", "alpha_fe": "f4", "vmic": "f8", "vbroad": "f4"}
    errors = {f"e_{x}": "f8" for x in ("teff", "logg", "fe_h", "alpha_fe", "vbroad")}
    columns = [schema.Column("star_id", "S16"), schema.Column("sobject_id", "i8"), schema.Column("flag_sp", "i4"),
               schema.Column("ra_dr2", "f8"), schema.Column("dec_dr2", "f8"), schema.Column("snr_c2_iraf", "f4"),
               schema.Column("chi2_sp", "f4"), schema.Column("dr3_source_id", "i8"),
               *(schema.Column(k, v) for k, v in {**labels, **errors}.items())]
    table = schema.Table("", tuple(columns))
    rows = np.zeros(n, table.dtype)
    rows["sobject_id"] = 150000000000000 + np.arange(n)
    rows["star_id"] = [b"%08d" % k for k in range(n)]
    for name in (*labels, *errors, "ra_dr2", "dec_dr2", "chi2_sp"):
        rows[name] = rng.uniform(1, 2, n)
    rows["snr_c2_iraf"] = 30
    rows["teff"][4] = np.nan
    rows["flag_sp"][2] = bitmasks.GALAH_FLAG_SP.REDUCTION
    path.write_bytes(fits.primary_hdu() + fits.table_hdu(table, rows, {}))
    return path, np.array([b"%d" % k for k in rows["sobject_id"]]), rows["star_id"]


def test_a_raw_catalogue_is_read_through_its_recipe(inside, tmp_path):
    rng = np.random.default_rng(8)
    n = 200
    path, ids, star_ids = raw_galah(tmp_path / "raw.fits", rng, n)
    products.write_model(tmp_path / "m.fits", rng, survey="galah", name="GCGS")
    order = rng.permutation(n)
    rows = products.label_rows(ids[order], star_ids[order], products.training_labels(rng, n),
                               products.covariance(rng, n), np.full(n, 30.0))
    products.write_labels(tmp_path / "l.fits", rows, header={"MODEL": "GCGS", "SURVEY": "galah", "SCALE": "galah"})
    assert inside("flag", tmp_path / "l.fits", "-m", tmp_path / "m.fits", "--survey", path, "--recipe", "galah_dr3",
                  "-o", tmp_path / "o.fits", "--quiet") == 0
    found, _ = products.read(tmp_path / "o.fits")
    assert np.array_equal(np.flatnonzero(found["flag_survey"]), np.flatnonzero(order == 4))
    assert np.array_equal(np.flatnonzero(found["flag_spectra"]), np.flatnonzero(order == 2))
    assert found["flag_sp_aspcap"][order == 2] == bitmasks.GALAH_FLAG_SP.REDUCTION


def test_the_examples_of_the_help_run(made, inside, capfd, tmp_path):
    from cannonkit.commands import flag as command
    for name, file in (("acgs.labels", "acgs.labels"), ("acgs.model", "acgs.model"), ("apogee_catalogue", "apogee")):
        (tmp_path / f"{name}.fits").write_bytes((made[0] / f"{file}.fits").read_bytes())
    products.run_examples("flag", command.__doc__, tmp_path, inside)


def test_another_model_of_the_same_name_is_refused(made, inside, tmp_path, capfd):
    """The names agree; the data say that the model was trained again after the labels were made."""
    folder, rows, _ = made
    labels, again, out = tmp_path / "labels.fits", tmp_path / "acgs.model.fits", tmp_path / "out.fits"
    header, table = {"MODEL": "ACGS", "SURVEY": "apogee", "SCALE": "galah"}, schema.labels_table(products.LABELS)
    with stream.open_source(folder / "acgs.model.fits") as model, stream.create(
            labels, "labels", table, N, [], header, [model], {"command": "cc-infer"}, False) as infer:
        infer.write(rows)
    products.write_model(again, np.random.default_rng(2))
    assert inside("flag", labels, "-m", folder / "acgs.model.fits", "-o", out) == 0
    assert inside("flag", labels, "-m", again, "-o", out, "--overwrite") == 65
    assert "its labels come from another model than" in capfd.readouterr().err
