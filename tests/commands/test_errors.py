"""cc-errors: calibrate, apply and validate on simulated repeats, foreign tables, pipes and damaged input."""
import numpy as np
import products
import pytest

from cannonkit import fits, schema

F_TRUE = np.array([6.0, 3.0, 8.0, 1.0, 2.0, 5.0])


def repeats(path, rng, n_star=1500, header=None, visit=0, **values):
    size = rng.integers(2, 5, n_star)
    star = np.repeat(products.star_names(n_star), size)
    n = len(star)
    snr = np.exp(rng.normal(4.2, 0.5, n))
    formal = products.FORMAL * (60 / snr)[:, None]
    cov = products.covariance(rng, n, formal=formal)
    labels = (products.CENTRE + products.SIGMA * rng.normal(size=(n_star, 6)))[np.repeat(np.arange(n_star), size)]
    labels = labels + F_TRUE * formal * rng.normal(size=(n, 6))
    rows = products.label_rows(products.star_names(n, "spec"), star, labels, cov, snr, visit=visit, **values)
    return products.write_labels(path, rows, header=header), rows


@pytest.fixture(scope="module")
def made(tmp_path_factory, inside):
    """(folder with repeats.fits, errors.fits of both models, flagged.fits; the rows of repeats.fits)."""
    folder = tmp_path_factory.mktemp("errors")
    path, rows = repeats(folder / "repeats.fits", np.random.default_rng(1))
    assert inside("errors", "calibrate", path, "--error-model", "full", "--holdout", "0.3",
                  "-o", folder / "errors.fits", "--quiet") == 0
    return folder, rows


def test_calibrate_finds_the_factors(made):
    rows, source = products.read(made[0] / "errors.fits")
    assert rows["label"].tolist() == [n.encode() for n in products.LABELS]
    assert [u.decode() for u in rows["unit"]] == ["K", "dex", "dex", "dex", "km/s", "km/s"]
    # About 1,000 stars and 1,900 independent pairs: f to 1.6 % and 2.2 %.
    np.testing.assert_allclose(rows["f_standard"], F_TRUE, rtol=0.065)
    np.testing.assert_allclose(rows["f_robust"], F_TRUE, rtol=0.09)
    assert np.all(rows["f_robust_lo"] < rows["f_robust"]) and np.all(rows["f_robust"] < rows["f_robust_hi"])
    np.testing.assert_allclose(rows["f_scaled"], rows["f_1684"] * rows["scale"])
    np.testing.assert_allclose(rows["scale"], 3.92 * np.hypot(products.SIGMA, F_TRUE * products.FORMAL), rtol=0.1)
    assert list(source.extensions) == ["PRECISION", "POINTS", "FULL"]
    assert source.header["AGAINST"] is False and source.header["HOLDOUT"] == 0.3
    assert source.header["MODEL"] == "ACGS" and source.header["SCALE"] == "galah"
    points = source.extensions["POINTS"].data
    curves = source.extensions["PRECISION"].data
    assert set(curves["kind"].tolist()) == {b"paper", b"unbiased"} and len(curves) == 12
    for name in rows["label"]:
        own = points[points["label"] == name]
        assert np.all(np.diff(own["snr"]) > 0) and np.all(own["width"] > 0)
        paper, unbiased = (curves[(curves["label"] == name) & (curves["kind"] == k)][0]
                           for k in (b"paper", b"unbiased"))
        assert paper["a"] >= 0 and paper["c"] >= 0 and unbiased["n"] == own["count"].sum()


def test_some_labels_of_a_product(made, inside, tmp_path):
    assert inside("errors", "calibrate", made[0] / "repeats.fits", "--labels", "fe_h,teff", "--holdout", "0.3", "-o",
                  tmp_path / "e.fits", "--quiet") == 0
    rows, whole = products.read(tmp_path / "e.fits")[0], products.read(made[0] / "errors.fits")[0]
    assert rows["label"].tolist() == [b"fe_h", b"teff"]
    np.testing.assert_array_equal(rows["f_robust"], whole["f_robust"][[2, 0]])


def test_summary_goes_to_stderr_in_both_units(made, command, tmp_path):
    result = command("errors", "calibrate", made[0] / "repeats.fits", "-o", tmp_path / "e.fits")
    assert result.code == 0 and result.out == b""
    assert "f robust" in result.err and "scaled: robust" in result.err and "teff: precision" in result.err
    assert "1500 stars with repeats" in result.err


def test_apply_takes_the_larger_and_scales_the_covariance(made, inside, tmp_path):
    folder, rows = made
    factors, source = products.read(folder / "errors.fits")
    assert inside("errors", "apply", folder / "repeats.fits", "--errors", folder / "errors.fits",
                  "-o", tmp_path / "final.fits", "--quiet") == 0
    found, final = products.read(tmp_path / "final.fits")
    assert len(found) == len(rows) and final.header["SCALE"] == "galah"
    curves = source.extensions["PRECISION"].data
    for k, name in enumerate(products.LABELS):
        curve = curves[(curves["label"] == name.encode()) & (curves["kind"] == b"paper")][0]
        points = source.extensions["POINTS"].data       # above its last point the curve is not extrapolated
        top = points["snr"][points["label"] == name.encode()].max()
        precision = curve["a"] * np.exp(-np.minimum(rows["snr_survey"], top) / curve["b"]) + curve["c"]
        scaled = factors["f_robust"][k] * rows[f"e_{name}"]
        np.testing.assert_allclose(found[f"err_{name}"], np.maximum(scaled, precision), rtol=1e-12)
        assert np.array_equal(found["error_source"] >> k & 1, precision > scaled)
        np.testing.assert_array_equal(found[name], rows[name])
    diagonal = np.sqrt(np.diagonal(found["cov_final"], axis1=1, axis2=2))
    np.testing.assert_allclose(diagonal[:, 2], found["err_fe_h"], rtol=1e-12)
    correlation = found["cov_final"][:, 0, 1] / diagonal[:, 0] / diagonal[:, 1]
    np.testing.assert_allclose(correlation, 0.3, rtol=1e-9)
    assert final.table["err_teff"].unit == "K" and final.hdu.header["ERRMODEL"] == "paper"


@pytest.mark.parametrize("options", [["--precision", "unbiased"], ["--factor", "standard"],
                                     ["--error-model", "full"], ["--factor", "1684"]])
def test_apply_options_change_the_errors(made, inside, tmp_path, options):
    folder, _ = made
    for name, extra in (("a", []), ("b", options)):
        assert inside("errors", "apply", folder / "repeats.fits", "--errors", folder / "errors.fits",
                      "-o", tmp_path / name, "--quiet", *extra) == 0
    a, b = products.read(tmp_path / "a")[0], products.read(tmp_path / "b")[0]
    assert np.isfinite(b["err_teff"]).all()
    assert not np.allclose(a["err_teff"], b["err_teff"], rtol=1e-6)
    np.testing.assert_allclose(b["err_teff"], a["err_teff"], rtol=1)
    # The covariance goes with the errors, whatever their model: same correlations, new variances.
    for rows in (a, b):
        error = schema.label_array(rows, [f"err_{n}" for n in products.LABELS])
        np.testing.assert_allclose(rows["cov_final"] / (error[:, :, None] * error[:, None, :]),
                                   0.3 + 0.7 * np.broadcast_to(np.eye(6), rows["cov"].shape), rtol=1e-9)


def test_validate_says_where_nothing_was_left_aside(made, inside, capfd, tmp_path):
    repeats_file = made[0] / "repeats.fits"
    assert inside("errors", "calibrate", repeats_file, "-o", tmp_path / "e.fits", "--quiet") == 0
    capfd.readouterr()
    assert inside("errors", "validate", repeats_file, "--errors", tmp_path / "e.fits", "-o", tmp_path / "p.fits") == 0
    err = capfd.readouterr().err
    assert "warning" in err and "no stars were left aside (calibrate --holdout)" in err
    pulls, _ = products.read(tmp_path / "p.fits")
    assert len(pulls) == 6 * (1 + 4 * 10) and np.isnan(pulls["full"]).all()     # ten bins of each quantity


def test_failed_fits_and_missing_snr_keep_their_rows(made, inside, tmp_path):
    folder, _ = made
    rng = np.random.default_rng(2)
    labels = np.tile(products.CENTRE, (4, 1))
    cov = products.covariance(rng, 4)
    labels[1], cov[1] = np.nan, np.nan
    cov[2, 5], cov[2, :, 5] = np.nan, np.nan
    rows = products.label_rows(products.star_names(4), products.star_names(4), labels, cov,
                               np.array([50, 50, 50, np.nan]))
    products.write_labels(tmp_path / "in.fits", rows)
    assert inside("errors", "apply", tmp_path / "in.fits", "--errors", folder / "errors.fits",
                  "-o", tmp_path / "out.fits", "--quiet") == 0
    found, _ = products.read(tmp_path / "out.fits")
    error = schema.label_array(found, [f"err_{n}" for n in products.LABELS])
    assert np.isnan(error[1]).all() and np.isnan(error[2]).tolist() == [False] * 5 + [True]
    f = products.read(folder / "errors.fits")[0]["f_robust"]
    np.testing.assert_allclose(error[3], f * np.sqrt(np.diagonal(cov[3])), rtol=1e-12)


def test_pipe_chunks_and_shards_give_the_same_bytes(made, command, inside, tmp_path):
    folder, rows = made
    errors = folder / "errors.fits"
    assert inside("errors", "apply", folder / "repeats.fits", "--errors", errors, "-o", tmp_path / "a.fits",
                  "--chunk", "64", "--quiet") == 0
    piped = command("errors", "apply", "-", "--errors", errors, "-o", "-",
                    stdin=(folder / "repeats.fits").read_bytes())
    assert piped.code == 0
    (tmp_path / "b.fits").write_bytes(piped.out)
    assert products.sums(tmp_path / "a.fits") == products.sums(tmp_path / "b.fits")
    (tmp_path / "parts").mkdir()
    for i in range(3):
        assert inside("errors", "apply", folder / "repeats.fits", "--errors", errors, "--shard", f"{i}/3",
                      "-o", tmp_path / "parts", "--quiet") == 0
    parts = sorted((tmp_path / "parts").iterdir())
    assert [p.name for p in parts] == [f"part-0000{i}-of-00003.fits" for i in range(3)]
    joined = np.concatenate([products.read(p)[0] for p in parts])
    assert joined.tobytes() == products.read(tmp_path / "a.fits")[0].tobytes() and len(joined) == len(rows)


def test_resume_leaves_a_finished_output_alone(made, command, tmp_path):
    folder, _ = made
    words = ("errors", "apply", folder / "repeats.fits", "--errors", folder / "errors.fits", "-o",
             tmp_path / "a.fits", "--resume")
    assert command(*words).code == 0
    before = (tmp_path / "a.fits").stat().st_mtime_ns
    again = command(*words)
    assert again.code == 0 and "nothing to do" in again.err
    assert (tmp_path / "a.fits").stat().st_mtime_ns == before
    assert command(*words, "--factor", "standard").code == 73


def test_validate_uses_the_stars_left_aside(made, command, tmp_path):
    folder, rows = made
    result = command("errors", "validate", folder / "repeats.fits", "--errors", folder / "errors.fits",
                     "-o", tmp_path / "pulls.fits", "--bins", "4")
    assert result.code == 0
    assert "stars that calibrate left aside" in result.err and "factor" in result.err
    pulls, _ = products.read(tmp_path / "pulls.fits")
    assert set(pulls["axis"].tolist()) == {b"all", b"snr", b"teff", b"logg", b"fe_h"}
    assert len(pulls) == 6 * (1 + 4 * 4)
    whole = pulls[pulls["axis"] == b"all"]
    n_pair = products.read(folder / "errors.fits")[0]["n_pair"]
    assert np.all(whole["n_pair"] < n_pair) and np.all(whole["n_pair"] > 0.2 * n_pair)
    np.testing.assert_allclose(whole["formal"], F_TRUE, rtol=0.12)
    np.testing.assert_allclose(whole["factor"], 1, atol=0.12)
    np.testing.assert_allclose(whole["full"], 1, atol=0.12)
    bins = pulls[pulls["axis"] != b"all"]
    assert np.all(np.abs(bins["factor"] - 1) < np.maximum(0.1, 4 * bins["error"]))
    # The paper's error is the larger of two, so its pulls are narrower.
    assert np.all(whole["paper"] <= whole["factor"] + 1e-9)


def test_validate_across_a_column(tmp_path, inside, capfd):
    # Repeats in four parts, each judged by the factor of the others; a part whose formal errors are half as large
    # must not be judged by itself.
    path, rows = repeats(tmp_path / "repeats.fits", np.random.default_rng(8), 800)
    star = np.unique(rows["star_id"], return_inverse=True)[1]
    rows["visit"] = 1 + star % 4
    small = rows["visit"] == 2
    rows["cov"][small] /= 4
    products.write_labels(path, rows)
    words = ("errors", "validate", path, "--across", "visit", "-o", tmp_path / "pulls.fits", "--overwrite")
    assert inside(*words, "--labels", "teff,fe_h") == 0
    assert "teff: " in capfd.readouterr().err
    pulls, source = products.read(tmp_path / "pulls.fits")
    assert source.header["ACROSS"] == "visit" and np.isnan(pulls["full"]).all()
    whole = pulls[pulls["axis"] == b"all"]
    _, size = np.unique(rows["star_id"], return_counts=True)
    assert whole["n_pair"].tolist() == [int(np.sum(size * (size - 1) // 2))] * 2
    # Parts of the stars by their names: as many pairs, each once.
    assert inside(*words[:3], "--across", "5", *words[5:], "--labels", "teff", "--error-model", "full", "--quiet") == 0
    parts, _ = products.read(tmp_path / "pulls.fits")
    every = parts[parts["axis"] == b"all"]
    assert every["n_pair"] == whole["n_pair"][0] and np.isfinite(every["full"])
    # By hand: f of the others for each quarter.
    for k, name in ((0, "teff"), (2, "fe_h")):
        pull = []
        for part in range(1, 5):
            assert inside("errors", "calibrate", path, "--rows", "visit=" + ",".join(
                str(p) for p in range(1, 5) if p != part), "-o", tmp_path / "e.fits", "--overwrite", "--quiet") == 0
            f = products.read(tmp_path / "e.fits")[0]["f_robust"][k]
            own = rows[rows["visit"] == part]
            for s in np.unique(own["star_id"]):
                same = own[own["star_id"] == s]
                for a in range(len(same)):
                    for b in range(a):
                        sigma = f * np.sqrt(same["cov"][a, k, k] + same["cov"][b, k, k])
                        pull.append((abs(same[name][a] - same[name][b]) / sigma, 2 / len(same)))
        size, weight = np.array(sorted(pull)).T
        below = np.cumsum(weight) - weight / 2
        width = np.interp(0.6826894921 * weight.sum(), below, size)
        assert whole["factor"][[0, 2].index(k)] == pytest.approx(width, rel=1e-9)
    for column, says in (("snr_survey", "not whole numbers"), ("n_iter", "1 different parts"), ("nothing", "nothing")):
        assert inside("errors", "validate", path, "--across", column, "-o", tmp_path / "x.fits") == 65
        assert says in capfd.readouterr().err
    assert inside("errors", "validate", path, "--across", "visit", "--errors", tmp_path / "e.fits", "-o",
                  tmp_path / "x.fits") == 64
    assert inside("errors", "validate", path, "-o", tmp_path / "x.fits") == 64


# --- other tables ------------------------------------------------------------------------------------------

def foreign(path, rng, n=3000, scaled=False, names=("teff", "logg")):
    """A foreign table: labels x_cannon, reference x, covariance (perhaps in scaled units), fold; no repeats."""
    n_label = len(names)
    reference = products.CENTRE[:n_label] + products.SIGMA[:n_label] * rng.normal(size=(n, n_label))
    formal = products.FORMAL[:n_label] * rng.uniform(0.7, 1.4, (n, n_label))
    true = np.array([4.0, 7.0, 5.0])[:n_label]
    labels = reference + np.array([30.0, 0.0, 0.0])[:n_label] + true * formal * rng.normal(size=(n, n_label))
    scale = np.subtract(*np.percentile(reference, [97.5, 2.5], axis=0)) if scaled else np.ones(n_label)
    cov = np.zeros((n, n_label, n_label))
    cov[:, range(n_label), range(n_label)] = (formal / scale) ** 2
    table = schema.Table("", (*(schema.Column(x, "f8") for x in names),
                              *(schema.Column(f"{x}_cannon", "f4") for x in names),
                              *(schema.Column(f"s_{x}", "f4") for x in names),
                              schema.Column("cov_cannon", "f8", shape=(n_label, n_label)),
                              schema.Column("fold", "i2"), schema.Column("object", "i8")))
    rows = np.zeros(n, table.dtype)
    for k, name in enumerate(names):
        rows[name], rows[f"{name}_cannon"], rows[f"s_{name}"] = reference[:, k], labels[:, k], formal[:, k]
    rows["cov_cannon"], rows["fold"], rows["object"] = cov, 1 + np.arange(n) % 3, np.arange(n) // 2
    path.write_bytes(fits.primary_hdu() + fits.table_hdu(table, rows, {}))
    return path


OPTIONS = ("--labels", "teff,logg", "--label-column", "{}_cannon", "--against", "{}")


@pytest.mark.parametrize("options, scaled", [
    (("--covariance", "cov_cannon"), False),
    (("--covariance", "cov_cannon", "--covariance-units", "scaled"), True),
    (("--covariance", "", "--error-column", "s_{}"), False)])
def test_against_a_reference_in_a_foreign_table(command, tmp_path, options, scaled):
    path = foreign(tmp_path / "foreign.fits", np.random.default_rng(3), scaled=scaled)
    result = command("errors", "calibrate", path, *OPTIONS, *options, "-o", tmp_path / "e.fits")
    assert result.code == 0, result
    assert "no repeats are used" in result.err and "accuracy against the reference" in result.err
    rows, source = products.read(tmp_path / "e.fits")
    np.testing.assert_allclose(rows["f_robust"], [4, 7], rtol=0.07)
    np.testing.assert_allclose(rows["f_1684"], [4 * 0.9945, 7 * 0.9945], rtol=0.07)
    assert abs(rows["offset"][0] - 30) < 10 and source.header["AGAINST"] is True
    # Without S/N there is no precision curve: the factor alone makes the error.
    assert np.isnan(source.extensions["PRECISION"].data["c"]).all() and len(source.extensions["POINTS"].data) == 0
    part = command("errors", "calibrate", path, *OPTIONS, *options, "--rows", "fold=1,2", "-o", tmp_path / "p.fits")
    assert part.code == 0 and products.read(tmp_path / "p.fits")[0]["n_pair"].tolist() == [2000, 2000]
    pulls = command("errors", "validate", path, *OPTIONS, *options, "--rows", "fold=3", "--errors",
                    tmp_path / "p.fits", "-o", tmp_path / "pulls.fits")
    assert pulls.code == 0
    whole = products.read(tmp_path / "pulls.fits")[0]
    np.testing.assert_allclose(whole[whole["axis"] == b"all"]["factor"], 1, atol=0.1)


def test_whole_numbers_can_name_the_star(inside, tmp_path):
    path = foreign(tmp_path / "foreign.fits", np.random.default_rng(3))
    assert inside("errors", "calibrate", path, "--labels", "teff,logg", "--covariance", "cov_cannon", "--star-column",
                  "object", "--snr-column", "s_teff", "-o", tmp_path / "e.fits", "--quiet") == 0
    assert products.read(tmp_path / "e.fits")[0]["n_pair"].tolist() == [1500, 1500]


REAL = ("--labels", "teff,logg,fe_h", "--label-column", "{}_cannon", "--covariance", "cov_cannon",
        "--covariance-units", "scaled", "--against", "{}")


def test_real_galah_dr4_labels(shared, command, inside, tmp_path):
    # 4,253 real stars; reference calculation with numpy: 16-84 of (label - reference) / (scaled formal error)
    # gives 7.5, 8.0, 6.0 and the standard deviation 17, 21, 13 (formats.md 0.1).
    path = shared / "data/labels/galah_dr4_labels_cannon_kfold.fits"
    options = REAL
    result = command("errors", "calibrate", path, *options, "-o", tmp_path / "e.fits")
    assert result.code == 0, result
    rows, _ = products.read(tmp_path / "e.fits")
    assert np.round(rows["f_1684"], 1).tolist() == [7.5, 8.0, 6.0]
    assert np.round(rows["f_standard"]).tolist() == [17, 21, 13]
    np.testing.assert_allclose(rows["f_scaled"], [21730, 24.1, 8.37], rtol=0.01)
    np.testing.assert_allclose(rows["f_robust"], rows["f_1684"], rtol=0.03)
    printed = [line.split() for line in result.err.splitlines()]           # the table of f, in both units
    for name, row in zip(("teff", "logg", "fe_h"), rows, strict=True):
        line = next(words for words in printed if words[1:2] == [name])
        f = [row[n] for n in ("f_robust", "f_robust_err", "f_standard", "f_standard_err", "f_1684")]
        scaled = [row[n] * row["scale"] for n in ("f_robust", "f_standard", "f_1684")]
        np.testing.assert_allclose(np.array(line[3:11], float), [*f, *scaled], rtol=1e-3, atol=0.005)
    # The file holds three of the Cannon's five folds. Each is judged by f of the other two, all stars binned together:
    # 90 bins of 425 stars, 4.7 % of noise each, so that right errors leave 87 within 0.1.
    assert inside("errors", "validate", path, *options, "--across", "fold", "--error-model", "full", "-o",
                  tmp_path / "pulls.fits", "--quiet") == 0
    pulls, source = products.read(tmp_path / "pulls.fits")
    assert source.header["ACROSS"] == "fold" and source.header["AGAINST"] is True
    whole, bins = pulls[pulls["axis"] == b"all"], pulls[pulls["axis"] != b"all"]
    print(f"\nreal GALAH DR4, {len(bins)} bins: {spread_of(bins, 'full')}; one factor: {spread_of(bins, 'factor')}")
    np.testing.assert_allclose(whole["full"], 1, atol=0.03)
    np.testing.assert_allclose(whole["factor"], 1, atol=0.05)
    assert len(bins) == 90 and np.max(np.abs(bins["full"] - 1)) <= 0.1
    assert np.max(bins["factor"]) > 2 and np.sum(np.abs(bins["factor"] - 1) <= 0.1) < 45


def spread_of(bins, kind):
    off = np.abs(bins[kind] - 1)
    return f"{np.sum(off <= 0.1)} within 0.1 of 1, largest {off.max():.3f}, rms {np.sqrt(np.mean(off**2)):.3f}"


def test_real_galah_dr4_labels_three_fifths_judge_the_others(shared, inside, tmp_path):
    # As if all five folds were there: f from three fifths of the stars on the other two, for five turns of the fifths.
    # A bin has 170 stars, 7.4 % of noise (6 % more from the calibration): right errors leave some 74 of 90 bins within
    # 0.1 in one turn, and 86 in the mean over the turns, where every star counts twice.
    rows, source = products.read(shared / "data/labels/galah_dr4_labels_cannon_kfold.fits")
    rows["fold"] = np.arange(len(rows)) % 5
    path = tmp_path / "fifths.fits"
    path.write_bytes(fits.primary_hdu() + fits.table_hdu(source.table, rows, {}))
    turns = []
    for k in range(5):
        ours, others = (",".join(str((k + j) % 5) for j in part) for part in ((0, 1, 2), (3, 4)))
        assert inside("errors", "calibrate", path, *REAL, "--rows", f"fold={ours}", "--error-model", "full", "-o",
                      tmp_path / f"three{k}.fits", "--quiet") == 0
        assert inside("errors", "validate", path, *REAL, "--rows", f"fold={others}", "--errors",
                      tmp_path / f"three{k}.fits", "-o", tmp_path / f"two{k}.fits", "--quiet") == 0
        pulls, _ = products.read(tmp_path / f"two{k}.fits")
        whole, bins = pulls[pulls["axis"] == b"all"], pulls[pulls["axis"] != b"all"]
        np.testing.assert_allclose(whole["full"], 1, atol=0.1)
        np.testing.assert_allclose(whole["factor"], 1, atol=0.1)
        near = np.abs(bins["full"] - 1) <= np.maximum(0.1, 3 * bins["error"])
        print(f"\nfifths {ours} on {others}: {spread_of(bins, 'full')}; within 3 errors {near.sum()}")
        assert near.sum() >= 87
        turns.append(bins["full"])
    mean = np.mean(turns, axis=0)
    print(f"mean of five turns: {np.sum(np.abs(mean - 1) <= 0.1)} of {len(mean)} within 0.1, "
          f"largest {np.abs(mean - 1).max():.3f}")
    assert np.sum(np.abs(mean - 1) <= 0.1) >= 85 and np.max(np.abs(mean - 1)) < 0.15


# --- refusals -----------------------------------------------------------------------------------------------

def test_refusals(made, inside, capfd, tmp_path):
    folder, rows = made
    errors = folder / "errors.fits"
    rng = np.random.default_rng(4)
    other, _ = repeats(tmp_path / "other.fits", rng, 40, {"MODEL": "GCGS", "SURVEY": "galah", "SCALE": "galah"})
    mixed, _ = repeats(tmp_path / "mixed.fits", rng, 40)
    mixed_rows = products.read(mixed)[0]
    mixed_rows["visit"][0] = 3
    products.write_labels(mixed, mixed_rows)
    alone = products.write_labels(tmp_path / "alone.fits", rows[:1])
    cut = tmp_path / "cut.fits"
    cut.write_bytes((folder / "repeats.fits").read_bytes()[:-5760])
    out = tmp_path / "out.fits"
    for code, words, says in (
            (65, ("apply", other, "--errors", errors), "calibrated on 'ACGS'"),
            (65, ("calibrate", mixed), "a stack and its own exposures"),
            (65, ("calibrate", cut), "cut or damaged"),
            (65, ("apply", folder / "repeats.fits", "--errors", folder / "repeats.fits"), "expected errors"),
            (65, ("calibrate", folder / "repeats.fits", "--labels", "tefff"), "did you mean 'teff'"),
            (65, ("calibrate", folder / "repeats.fits", "--covariance", "e_teff"), "expected (6, 6)"),
            (65, ("calibrate", folder / "repeats.fits", "--covariance", "", "--error-column", "cov{}"), "'covteff'"),
            (65, ("validate", alone, "--errors", errors), "no repeats to validate"),
            (64, ("calibrate", folder / "repeats.fits", "--against", "teff,logg"), "2 columns for 6 labels"),
            (64, ("calibrate", folder / "repeats.fits", "--label-column", "x"), "{} must stand"),
            (64, ("calibrate", folder / "repeats.fits", "--rows", "fold"), "COLUMN=1,2"),
            (64, ("apply", folder / "repeats.fits"), "--errors"),
            (66, ("calibrate", tmp_path / "nothing.fits"), "nothing.fits"),
            (64, ("calibrate", folder / "repeats.fits", "--set", "drws=3"), "did you mean 'draws'"),
            (64, ("calibrate", folder / "repeats.fits", "--draws", "1"), "at least 2")):
        found = inside("errors", *words, "-o", out)
        err = capfd.readouterr().err
        assert found == code and says in err and "Traceback" not in err, (words, found, err)
        assert not out.exists() and err.strip().splitlines()[-1].startswith("cc-errors")
    assert {p.name for p in tmp_path.iterdir()} == {"other.fits", "mixed.fits", "alone.fits", "cut.fits"}


def test_stars_without_repeats_are_nothing_to_calibrate_on(made, command, tmp_path):
    _, rows = made
    alone = products.write_labels(tmp_path / "alone.fits", rows[:1])
    result = command("errors", "calibrate", alone, "-o", tmp_path / "e.fits")
    assert result.code == 65 and "no star has two spectra" in result.err and not (tmp_path / "e.fits").exists()


def test_apply_of_an_empty_table(made, inside, tmp_path):
    folder, rows = made
    empty = products.write_labels(tmp_path / "empty.fits", rows[:0])
    assert inside("errors", "apply", empty, "--errors", folder / "errors.fits", "-o", tmp_path / "out.fits") == 0
    assert len(products.read(tmp_path / "out.fits")[0]) == 0


def test_every_product_passes_fitsverify(made, program, start, tmp_path, inside):
    fitsverify = program("fitsverify")
    folder, _ = made
    assert inside("errors", "apply", folder / "repeats.fits", "--errors", folder / "errors.fits",
                  "-o", tmp_path / "final.fits", "--quiet") == 0
    for path in (folder / "errors.fits", tmp_path / "final.fits"):
        result = start([fitsverify, "-q", path])
        assert result.code == 0 and b"verification OK" in result.out, result


def test_the_examples_of_the_help_run(made, inside, capfd, tmp_path):
    from cannonkit.commands import errors as command
    rng = np.random.default_rng(20)
    for name in ("acgs.repeats", "acgs.flagged"):
        (tmp_path / f"{name}.fits").write_bytes((made[0] / "repeats.fits").read_bytes())
    foreign(tmp_path / "kfold.fits", rng, 600, scaled=True, names=("teff", "logg", "fe_h"))
    products.run_examples("errors", command.__doc__, tmp_path, inside)
    for k, text in enumerate((command.CALIBRATE, command.APPLY, command.VALIDATE)):
        if k == 0:
            (tmp_path / "acgs.errors.fits").unlink()
        elif k == 1:
            (tmp_path / "acgs.final.fits").unlink()
        else:
            (tmp_path / "acgs.pulls.fits").unlink()
        products.run_examples("errors", text, tmp_path, inside)
