"""cc-crossmatch on small catalogues in the surveys' own layouts, and on the real M67."""
import importlib.util
from pathlib import Path

import fitsio
import numpy as np
import pytest

from cannonkit import errors, schema, stream, surveys

REAL = Path(__file__).resolve().parent.parent / "real"
GAIA = 604916731706106752


def load(name):
    """The rows of another test module's makers (tests are no package)."""
    path = Path(__file__).resolve().parent.parent / "stages" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"makers_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


makers = load("test_catalogue")
N_APOGEE, N_GALAH, N_COMMON = 60, 80, 30


@pytest.fixture
def apogee(tmp_path):
    """60 APOGEE rows, the last 10 of them lower S/N duplicates of stars 0 to 9."""
    rows = makers.apogee_rows(N_APOGEE)
    rows["RA"], rows["DEC"] = 100 + np.arange(N_APOGEE), -10.0
    for name in ("APOGEE_ID", "RA", "DEC", "GAIA_SOURCE_ID"):
        rows[name][50:] = rows[name][:10]
    rows["SNR"][50:], rows["EXTRATARG"][50:] = 90.0, 1 << 4
    rows["SNR"][3], rows["STARFLAG"][4], rows["TEFF"][5] = 70.0, 1 << 9, -9999.99
    return write(tmp_path / "allStar.fits", rows)


@pytest.fixture
def galah(tmp_path):
    """80 GALAH rows; the first 30 are the stars 0 to 29 of APOGEE, 0.3 arcsec away."""
    rows = makers.galah_rows(N_GALAH)
    rows["star_id"][N_COMMON:] = [f"9{k:015d}" for k in range(N_COMMON, N_GALAH)]
    rows["star_id"][-1] = ""
    rows["ra_dr2"], rows["dec_dr2"] = 100 + np.arange(N_GALAH), -10.0 + 0.3 / 3600
    rows["ra_dr2"][N_COMMON:], rows["dr3_source_id"] = 300.0, GAIA + np.arange(N_GALAH)
    rows["flag_sp"][2], rows["chi2_sp"][4] = 8, 5.0
    order = np.random.default_rng(3).permutation(N_GALAH)
    return write(tmp_path / "allstar.fits", rows[order])


def write(path, rows):
    with fitsio.FITS(str(path), "rw", clobber=True) as file:
        file.write(rows)
    return path


def read(path):
    rows = fitsio.read(str(path), ext="TRAINING")
    header = fitsio.read_header(str(path), ext="TRAINING")
    names = [str(header[f"REJB{i:02d}"]) for i in range(62) if f"REJB{i:02d}" in header]
    return rows, {name: rows["reject"] & (1 << i) != 0 for i, name in enumerate(names)}, header


def test_training_table(inside, apogee, galah, tmp_path, capfd):
    out = tmp_path / "training.fits"
    assert inside("crossmatch", apogee, galah, "--recipe", "apogee_galah", "-v", "-o", out) == 0
    rows, reject, _ = read(out)
    assert len(rows) == N_COMMON
    stars = [int(x[2:]) for x in rows["apogee_id"]]
    assert sorted(stars) == list(range(N_COMMON)) and stars == sorted(stars)
    assert [int(x) for x in rows["galah_star_id"]] == stars
    assert (rows["apogee_snr"] >= 70).all() and rows["apogee_snr"][0] == 200
    assert rows["galah_dr3_source_id"].tolist() == [GAIA + s for s in stars]
    failing = {"APOGEE_SNR": [3], "APOGEE_STARFLAG": [4], "APOGEE_NO_TEFF": [5], "GALAH_FLAG_SP": [2],
               "GALAH_CHI2_SP": [4]}
    for name, bad in reject.items():
        assert np.flatnonzero(bad).tolist() == failing.get(name, []), name
    assert len(reject) == 18
    assert np.flatnonzero(rows["selected"] == 0).tolist() == [2, 3, 4, 5]
    text = capfd.readouterr().err
    assert f"{N_COMMON} common stars of apogee and galah by identifier" in text
    assert "30 rows written, 26 selected" in text
    lines = {line.split()[0]: line.split()[1:4] for line in text.splitlines() if line.startswith(("APOGEE_", "GALAH_"))}
    assert lines["APOGEE_SNR"] == ["1", "1", "29"] and lines["GALAH_CHI2_SP"] == ["1", "0", "27"]
    with stream.open_source(out, "training", verify=True) as source:
        assert source.header["SURVEY"] == "apogee,galah"


@pytest.mark.parametrize("options", [[], ["--keep", "left"], ["--find", "all"], ["--find", "all", "--keep", "left"]])
def test_on_the_sky_the_same_pairs(inside, apogee, galah, tmp_path, options):
    by_id, on_sky = tmp_path / "a.fits", tmp_path / "b.fits"
    args = ["crossmatch", apogee, galah, "--recipe", "apogee_galah", "--select", "all", "--quiet", *options]
    assert inside(*args, "-o", by_id) == 0
    assert inside(*args, "--by", "sky", "--radius", "0.5", "-o", on_sky) == 0
    a, b = read(by_id)[0], read(on_sky)[0]
    assert a["apogee_id"].tolist() == b["apogee_id"].tolist() and a["galah_id"].tolist() == b["galah_id"].tolist()
    assert np.array_equal(a["reject"], b["reject"])
    n_pair = N_COMMON + (10 if "all" in options else 0)
    assert (b["galah_id"] != "").sum() == n_pair
    assert len(b) == (N_APOGEE if "left" in options else n_pair)
    pair = b["galah_id"] != ""
    assert b["separation"][pair] == pytest.approx(0.3, abs=1e-3) and np.isnan(b["separation"][~pair]).all()
    assert np.isnan(b["galah_teff"][~pair]).all() and not b["selected"][~pair].any()
    assert (b["galah_dr3_source_id"][~pair] == schema.NULL_ID).all()


def test_stars_that_move_are_found_at_one_epoch(inside, galah, tmp_path):
    """APOGEE's positions are of 2000, GALAH's of 2015.5: 200 mas/yr make 3.1 arcsec of it."""
    rows = makers.apogee_rows(N_APOGEE)
    moving = np.zeros(N_APOGEE, [*rows.dtype.descr, ("GAIA_PMRA", ">f8"), ("GAIA_PMDEC", ">f8")])
    for name in rows.dtype.names:
        moving[name] = rows[name]
    moving["RA"], moving["GAIA_PMDEC"] = 100 + np.arange(N_APOGEE), 200.0
    moving["DEC"] = -10.0 - 15.5 * 0.2 / 3600
    moving["GAIA_PMDEC"][7] = np.nan
    out = tmp_path / "t.fits"
    assert inside("crossmatch", write(tmp_path / "moving.fits", moving), galah, "--recipe", "apogee_galah", "--by",
                  "sky", "--quiet", "-o", out) == 0
    table, _, _ = read(out)
    assert [int(x[2:]) for x in table["apogee_id"]] == [k for k in range(N_COMMON) if k != 7]
    assert table["separation"] == pytest.approx(0.3, abs=1e-3)
    # the same with the tables in the other order: then the right one moves
    pair = Path(surveys.recipe.find("apogee_galah")).read_text()
    swapped = tmp_path / "swapped.yaml"
    swapped.write_text(pair.replace("left:", "x:").replace("right:", "left:").replace("x:", "right:"))
    assert inside("crossmatch", galah, tmp_path / "moving.fits", "--recipe", swapped, "--by", "sky", "--quiet",
                  "--overwrite", "-o", out) == 0
    assert len(read(out)[0]) == N_COMMON - 1


def test_selections_of_one_survey(inside, apogee, tmp_path):
    out = tmp_path / "c.fits"
    assert inside("crossmatch", apogee, "--recipe", "apogee_dr16", "--quiet", "-o", out) == 0
    rows, reject, _ = read(out)
    assert len(rows) == 50 and len(set(rows["apogee_id"])) == 50 and (rows["apogee_snr"] != 90).all()
    assert rows["selected"].sum() == 47 and len(reject) == 9
    assert inside("crossmatch", apogee, "--recipe", "apogee_dr16", "--select", "repeats", "--quiet", "--overwrite",
                  "-o", out) == 0
    rows, _, _ = read(out)
    assert len(rows) == 20 and len(set(rows["apogee_id"])) == 20 and len(set(rows["apogee_star_id"])) == 10


def test_surveys_read_gives_the_same(inside, apogee, galah, tmp_path):
    out = tmp_path / "t.fits"
    inside("crossmatch", apogee, galah, "--recipe", "apogee_galah", "--quiet", "-o", out)
    raw, joined = surveys.read(galah, "galah_dr3"), surveys.read(out, "galah_dr3")
    assert len(raw) == N_GALAH and raw.dtype.names == joined.dtype.names
    place = {x: i for i, x in enumerate(raw["id"].tolist())}
    same = raw[[place[x] for x in joined["id"].tolist()]]
    for name in raw.dtype.names:
        if name not in ("selected", "reject"):
            np.testing.assert_array_equal(same[name], joined[name], err_msg=name)
    few = surveys.read(apogee, "apogee_dr16", "repeats", columns=["id", "teff"])
    assert few.dtype.names == ("id", "teff", "selected", "reject") and len(few) == 20
    with pytest.raises(errors.DataError, match="no column 'tef' .did you mean 'teff'"):
        surveys.read(out, "galah_dr3", columns=["tef"])


def test_split(inside, apogee, galah, tmp_path):
    first, second = tmp_path / "a.fits", tmp_path / "b.fits"
    args = ["crossmatch", apogee, galah, "--recipe", "apogee_galah", "--quiet"]
    assert inside(*args, "-o", first) == 0 and inside(*args, "--split", "0.5", "--seed", "4", "-o", second) == 0
    (a, _, _), (b, reject, _) = read(first), read(second)
    held = reject["HELD_OUT"]
    assert 5 < held.sum() < 25
    assert np.array_equal(b["selected"] != 0, (a["selected"] != 0) & ~held)


def gaia_table(path):
    """Every second common star twice: the second row is the one with the higher probability."""
    n = 2 * N_COMMON
    rows = np.zeros(n, [("source_id", ">i8"), ("parallax", ">f8"), ("parallax_error", ">f4"), ("Cluster", "S10"),
                        ("memberprob", ">f4"), ("r_med_geo", ">f8"), ("r_lo_geo", ">f8"), ("r_hi_geo", ">f8")])
    rows["source_id"] = GAIA + np.arange(n) // 2 * 2
    rows["parallax"], rows["parallax_error"] = np.arange(n), 0.02
    rows["memberprob"], rows["Cluster"] = np.where(np.arange(n) % 2, 0.9, 0.6), [f"NGC {k}" for k in range(n)]
    rows["r_med_geo"], rows["r_lo_geo"], rows["r_hi_geo"] = 800.0, 790.0, 810.0
    return write(path, rows)


def test_attached_tables(inside, galah, tmp_path, capfd):
    gaia, out = gaia_table(tmp_path / "gaia.fits"), tmp_path / "c.fits"
    assert inside("crossmatch", galah, "--recipe", "galah_dr3", "-o", out, "--attach", gaia, "gaia_edr3", "--attach",
                  gaia, "distances_geo", "--attach", gaia, "clusters,cluster_prob=memberprob") == 0
    rows, _, _ = read(out)
    star = rows["galah_dr3_source_id"] - GAIA
    has = (star % 2 == 0) & (star < 2 * N_COMMON)
    assert len(rows) == N_GALAH and has.sum() == N_COMMON
    assert np.array_equal(rows["galah_parallax"][has], star[has]) and np.isnan(rows["galah_parallax"][~has]).all()
    assert (rows["galah_r_est"][has] == 800).all() and np.isnan(rows["galah_r_est"][~has]).all()
    assert rows["galah_cluster"][has].tolist() == [f"NGC {s + 1}" for s in star[has]]
    assert rows["galah_cluster_prob"][has] == pytest.approx(0.9) and set(rows["galah_cluster"][~has]) == {""}
    assert f"for galah: {N_GALAH} rows, {N_COMMON} found, {N_COMMON} further partners" in capfd.readouterr().err


def test_photogeometric_distances_by_option(inside, galah, tmp_path):
    n = N_COMMON
    rows = np.zeros(n, [("source_id", ">i8"), *((f"r_{a}_{b}", ">f8") for b in ("geo", "photogeo")
                                                for a in ("med", "lo", "hi"))])
    rows["source_id"] = GAIA + np.arange(n)
    for k, name in enumerate(rows.dtype.names[1:]):
        rows[name] = 100.0 * (k + 1) + np.arange(n)
    rows["r_med_photogeo"][4] = np.nan                          # no colour
    path = write(tmp_path / "gedr3dist.fits", rows)
    for recipe, kind in (("distances_geo", "geo"), ("distances_photogeo", "photogeo")):
        out = tmp_path / f"{kind}.fits"
        assert inside("crossmatch", galah, "--recipe", "galah_dr3", "--attach", path, recipe, "--quiet", "-o", out) == 0
        found, _, _ = read(out)
        star = found["galah_dr3_source_id"] - GAIA
        has = star < n
        for ours, theirs in (("est", "med"), ("lo", "lo"), ("hi", "hi")):
            np.testing.assert_array_equal(found[f"galah_r_{ours}"][has], rows[f"r_{theirs}_{kind}"][star[has]])


def test_a_wide_table_is_attached_in_little_memory(inside, galah, tmp_path):
    """120 MB of 300 columns, of which three are wanted: 16 MB of rows at a time."""
    import tracemalloc
    n = 50_000
    fields = [("source_id", ">i8"), ("parallax", ">f8"), ("parallax_error", ">f8"), ("rest", ">f8", 297)]
    rows = np.zeros(n, fields)
    rows["source_id"], rows["parallax"] = GAIA - n + 40 + np.arange(n), np.arange(n)
    gaia, out = write(tmp_path / "wide.fits", rows), tmp_path / "o.fits"
    assert rows.nbytes > 119e6
    del rows
    tracemalloc.start()
    try:
        assert inside("crossmatch", galah, "--recipe", "galah_dr3", "--attach", gaia, "gaia_edr3", "--quiet", "-o",
                      out) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    found, _, _ = read(out)
    assert np.isfinite(found["galah_parallax"]).sum() == 40
    # Two chunks of 16 MB (one is read while the other is used), keys of 50,000 rows, modules.
    assert peak < 60e6, peak


@pytest.mark.parametrize("recipe", ["clusters", "gaia_edr3_sky"])
def test_attached_table_without_rows(inside, galah, tmp_path, recipe):
    rows = np.zeros(0, [("source_id", ">i8"), ("parallax", ">f8"), ("parallax_error", ">f8"), ("cluster", "S4"),
                        ("prob", ">f8"), ("ra", ">f8"), ("dec", ">f8")])
    empty, out = write(tmp_path / "none.fits", rows), tmp_path / "c.fits"
    assert inside("crossmatch", galah, "--recipe", "galah_dr3", "--attach", empty, recipe, "--quiet", "-o", out) == 0
    table, _, _ = read(out)
    assert len(table) == N_GALAH and np.isnan(table["galah_parallax"]).all()
    assert recipe != "clusters" or set(table["galah_cluster"]) == {""}


def test_chain_of_training_tables(inside, command, apogee, galah, tmp_path):
    """Attaching later, from a pipe, gives the data of attaching at once."""
    gaia = gaia_table(tmp_path / "gaia.fits")
    once, plain, later = (tmp_path / f"{n}.fits" for n in "abc")
    args = ["crossmatch", apogee, galah, "--recipe", "apogee_galah", "--quiet"]
    assert inside(*args, "--attach", gaia, "clusters", "-o", once) == 0 and inside(*args, "-o", plain) == 0
    done = command("crossmatch", "-", "--attach", gaia, "clusters", "-o", later, stdin=plain.read_bytes())
    assert done.code == 0, done
    (a, first, _), (b, second, _) = read(once), read(later)
    assert a.dtype == b.dtype and a.tobytes() == b.tobytes() and list(first) == list(second)


def test_attach_on_the_sky_moves_to_our_epoch(inside, galah, tmp_path):
    """GALAH's positions are of 2015.5, these of 2016.0: 4 arcsec/yr would carry them out of 1 arcsec."""
    rows = np.zeros(N_COMMON, [("source_id", ">i8"), ("ra", ">f8"), ("dec", ">f8"), ("pmra", ">f8"),
                               ("pmdec", ">f8"), ("parallax", ">f8"), ("parallax_error", ">f8")])
    rows["source_id"], rows["ra"], rows["pmdec"] = GAIA + np.arange(N_COMMON), 100 + np.arange(N_COMMON), 4000.0
    rows["dec"] = -10 + (0.3 + 2.0) / 3600
    rows["pmdec"][5], rows["parallax"] = 0.0, 1.0
    gaia, out = write(tmp_path / "gaia.fits", rows), tmp_path / "c.fits"
    assert inside("crossmatch", galah, "--recipe", "galah_dr3", "--attach", gaia, "gaia_edr3_sky", "-o", out,
                  "--quiet") == 0
    table, _, _ = read(out)
    found = np.isfinite(table["galah_parallax"])
    assert sorted(int(x) for x in table["galah_star_id"][found]) == [k for k in range(N_COMMON) if k != 5]


# --- input and output --------------------------------------------------------------------------------


def test_csv_is_read_as_fits(inside, galah, tmp_path):
    rows = fitsio.read(str(galah), ext=1)
    text = "\n".join(["# a comment", ",".join(rows.dtype.names)]
                     + [",".join("" if v != v else str(v).strip() for v in row) for row in rows.tolist()])
    (tmp_path / "galah.csv").write_text(text + "\n")
    a, b = surveys.read(galah, "galah_dr3"), surveys.read(tmp_path / "galah.csv", "galah_dr3")
    for name in a.dtype.names:
        if a[name].dtype.kind == "f":
            np.testing.assert_allclose(b[name], a[name], rtol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(b[name], a[name], err_msg=name)


@pytest.mark.parametrize("text, message", [
    ("a,b\n1\n", "row 0: 1 values for 2 columns"), ("a,A\n1,2\n", "same name twice"), ("", "empty")])
def test_bad_csv(tmp_path, text, message):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(errors.DataError, match=message):
        surveys.open_table(path)


def test_members_in_a_directory_of_texts(inside, galah, tmp_path):
    """The layout in which Vasiliev & Baumgardt publish: a file per cluster, named after it."""
    folder = tmp_path / "members"
    folder.mkdir()
    (folder / "NGC_104.txt").write_text("# source_id ra memberprob\n"
                                        f"{GAIA} 1.5 0.9\n{GAIA + 1} 1.5 0.2\n{GAIA + 2} 1 1e-3\n")
    (folder / "NGC_288.txt").write_text(f"source_id  ra memberprob\n{GAIA + 1} 1.5 0.8\n")
    out = tmp_path / "o.fits"
    assert inside("crossmatch", galah, "--recipe", "galah_dr3", "--attach", folder, "clusters", "--quiet",
                  "-o", out) == 0
    rows, _, _ = read(out)
    found = {int(i - GAIA): (c, round(p, 3)) for i, c, p in zip(
        rows["galah_dr3_source_id"], rows["galah_cluster"], rows["galah_cluster_prob"], strict=True) if c}
    assert found == {0: ("NGC_104", 0.9), 1: ("NGC_288", 0.8), 2: ("NGC_104", 0.001)}
    (folder / "NGC_288.txt").write_text("source_id memberprob\n1 0.8\n")
    with pytest.raises(errors.DataError, match="NGC_288.txt: columns source_id memberprob, those of NGC_104.txt"):
        surveys.open_table(folder)


def test_csv_types(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("big,gap,real,text,name\n9223372036854775807,1,1.5,007,a\n-1,,,12,\n")
    with surveys.open_table(path) as table:
        assert {n: c.dtype for n, c in table.columns.items()} == {
            "big": "i8", "gap": "i8", "real": "f8", "text": "S3", "name": "S1"}
        (first, rows), = table.chunks()
    assert rows["big"].tolist() == [2 ** 63 - 1, -1] and rows["gap"].tolist() == [1, schema.NULL_ID]
    assert np.isnan(rows["real"][1]) and rows["text"].tolist() == [b"007", b"12"]


@pytest.mark.parametrize("chunk", [1, 7, 10 ** 6])
def test_chunks_change_nothing(inside, apogee, galah, tmp_path, monkeypatch, chunk):
    one, other = tmp_path / "a.fits", tmp_path / "b.fits"
    args = ["crossmatch", apogee, galah, "--recipe", "apogee_galah", "--keep", "left", "--quiet"]
    assert inside(*args, "-o", one) == 0
    monkeypatch.setattr(surveys, "CHUNK", chunk)
    assert inside(*args, "-o", other) == 0
    assert read(one)[0].tobytes() == read(other)[0].tobytes()


def test_to_a_pipe(command, apogee, galah, tmp_path, inside):
    out = tmp_path / "a.fits"
    inside("crossmatch", apogee, galah, "--recipe", "apogee_galah", "--quiet", "-o", out)
    done = command("crossmatch", apogee, galah, "--recipe", "apogee_galah", "-o", "-")
    assert done.code == 0, done
    (tmp_path / "b.fits").write_bytes(done.out)
    assert read(tmp_path / "b.fits")[0].tobytes() == read(out)[0].tobytes()


def test_empty_catalogue(inside, apogee, tmp_path):
    empty, out = write(tmp_path / "empty.fits", makers.galah_rows(0)), tmp_path / "t.fits"
    assert inside("crossmatch", apogee, empty, "--recipe", "apogee_galah", "--quiet", "-o", out) == 0
    assert fitsio.FITS(str(out))["TRAINING"].get_nrows() == 0
    assert inside("crossmatch", empty, "--recipe", "galah_dr3", "--select", "repeats", "--quiet", "--overwrite", "-o",
                  out) == 0


@pytest.mark.parametrize("arguments, code, message", [
    (["{apogee}", "--recipe", "galah_dr3"], 65,
     "allStar.fits[1]: lacks columns that the recipe of 'galah' names: id: no 'sobject_id'; "),
    (["{apogee}", "--recipe", "apogee_dr61"], 66, "did you mean 'apogee_dr16'"),
    (["{apogee}", "--recipe", "apogee_galah"], 64, "for two catalogues"),
    (["{apogee}", "{galah}", "--recipe", "apogee_dr16"], 64, "for one catalogue"),
    (["{apogee}", "{galah}"], 64, "--recipe is missing"),
    (["nothing.fits", "--recipe", "apogee_dr16"], 66, "nothing.fits"),
    (["{apogee}", "--recipe", "apogee_dr16", "--select", "repeat"], 64, "did you mean 'repeats'"),
    (["{apogee}", "--recipe", "apogee_dr16", "--left-position", "here"], 64, "expected degrees:RA,DEC"),
    (["{apogee}", "--recipe", "apogee_dr16", "--attach", "{galah}", "clusters,clutser=x"], 64,
     "did you mean 'cluster'"),
    (["{apogee}", "--recipe", "apogee_dr16", "--attach", "{galah}", "gaia_edr3"], 65,
     "attached column parallax: no column 'parallax'")])
def test_wrong_calls(inside, apogee, galah, tmp_path, capfd, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    arguments = [a.format(apogee=apogee, galah=galah) for a in arguments]
    assert inside("crossmatch", *arguments, "-o", "out.fits") == code
    text = capfd.readouterr().err
    assert message in text and "Traceback" not in text
    assert sorted(tmp_path.iterdir()) == before


def test_the_examples_of_the_help_run(inside, apogee, galah, tmp_path, monkeypatch, capfd):
    assert inside("crossmatch", "--help") == 0
    text = capfd.readouterr().out
    lines = [line.split() for line in text[text.index("Examples:"):].splitlines() if "cc-crossmatch " in line]
    for folder in ("apogee", "galah"):
        (tmp_path / "mock" / folder).mkdir(parents=True)
    apogee.rename(tmp_path / "mock/apogee/allStar-r12-mock.fits")
    for name in ("allstar", "allspec"):
        (tmp_path / f"mock/galah/GALAH_DR3_main_{name}_mock.fits").write_bytes(galah.read_bytes())
    gaia_table(tmp_path / "mock/distances_mock.fits")
    monkeypatch.chdir(tmp_path)
    assert len(lines) == 3
    for words in lines:
        assert inside("crossmatch", *words[1:]) == 0, words


def test_an_existing_output_is_kept(inside, apogee, tmp_path, capfd):
    out = tmp_path / "out.fits"
    out.write_text("mine")
    assert inside("crossmatch", apogee, "--recipe", "apogee_dr16", "-o", out) == 73
    assert out.read_text() == "mine"
    assert inside("crossmatch", apogee, "--recipe", "apogee_dr16", "-o", tmp_path / "other.fits", "--dry-run") == 0
    assert "rows 50" in capfd.readouterr().err and not (tmp_path / "other.fits").exists()


def test_wrong_recipes_name_file_and_line(inside, apogee, tmp_path, capfd):
    text = (Path(surveys.recipe.find("apogee_dr16"))).read_text()
    for old, new, message in (("PERSIST_HIGH", "PERSIST_HIHG", "did you mean 'PERSIST_HIGH'"),
                              ('op: ">"', 'op: "=>"', "op: '=>' is not known"),
                              ("      - name: SNR", "      - nam: SNR", "unknown key 'nam'"),
                              ("error_is: log10_variance", "error_is: variance10", "error_is")):
        wrong = tmp_path / "wrong.yaml"
        assert old in text or "name: SNR" in old
        wrong.write_text(text.replace(old, new, 1) if old in text else text.replace("- name: SNR", "- nam: SNR"))
        assert inside("crossmatch", apogee, "--recipe", wrong, "-o", tmp_path / "o.fits") == 78
        err = capfd.readouterr().err
        assert "wrong.yaml, line" in err and message in err, err


# --- real data ---------------------------------------------------------------------------------------------


def test_real_m67(inside, shared, tmp_path, capfd):
    """165 stars of GALAH DR3 in the APOGEE DR16 OCCAM table, by identifier and within 1 arcsec (GALAH's position
    from the 2MASS name, OCCAM's from Galactic coordinates): the same, at most 0.41 arcsec apart."""
    folder = shared / "data" / "catalogues"
    args = ["crossmatch", folder / "galah_dr3_m67.csv", folder / "apogee_dr16_occam_members.fits", "--recipe",
            REAL / "m67.yaml", "-v"]
    tables = []
    for by in ("id", "sky"):
        assert inside(*args, "--by", by, "-o", tmp_path / f"{by}.fits") == 0
        err = capfd.readouterr().err
        print(f"real M67, joined by {by}:\n" + err)
        assert "165 common stars" in err and "21 pairs left out, one of the two has a better partner" in err
        rows, reject, _ = read(tmp_path / f"{by}.fits")
        tables.append(rows)
        lines = {line.split()[0]: line.split()[1:4] for line in err.splitlines() if line.split()[0] in reject}
        left = np.ones(len(rows), bool)
        for name, bad in reject.items():                        # the numbers of each cut, alone and in order
            assert lines[name] == [str(x) for x in (bad.sum(), (bad & left).sum(), (left & ~bad).sum())], name
            left &= ~bad
    by_id, on_sky = tables
    assert len(by_id) == 165
    assert set(zip(by_id["galah_id"], by_id["occam_id"], strict=True)) == \
        set(zip(on_sky["galah_id"], on_sky["occam_id"], strict=True))
    assert 0.40 < on_sky["separation"].max() < 0.411
    good = (by_id["galah_flag_sp"] == 0) & ~np.isnan(by_id["galah_fe_h"]) & ~np.isnan(by_id["occam_fe_h"])
    difference = (by_id["occam_fe_h"] - by_id["galah_fe_h"])[good]
    assert good.sum() == pytest.approx(109, abs=2) and np.median(difference) == pytest.approx(0.012, abs=0.002)


def test_real_m67_positions_by_option(inside, shared, tmp_path):
    folder = shared / "data" / "catalogues"
    assert inside("crossmatch", folder / "galah_dr3_m67.csv", folder / "apogee_dr16_occam_members.fits", "--recipe",
                  "sky", "--left-position", "designation:tmass_id", "--right-position", "galactic:GLON,GLAT", "-o",
                  tmp_path / "o.fits", "--quiet") == 0
    rows, _, _ = read(tmp_path / "o.fits")
    assert len(rows) == 165 and rows["separation"].max() < 0.411


def test_real_occam_members_by_apogee_id(inside, shared, apogee, tmp_path):
    """OCCAM names its stars by APOGEE_ID; a star in several clusters' fields goes to its most probable cluster."""
    path = shared / "data" / "catalogues" / "apogee_dr16_occam_members.fits"
    members = fitsio.read(str(path), ext=1)
    ids = np.char.strip(members["APOGEE_ID"].astype("S18"))
    names, first, count = np.unique(ids, return_index=True, return_counts=True)
    chosen = np.concatenate([names[count > 1][:20], names[count == 1][:20]])
    rows = fitsio.read(str(apogee), ext=1)[:50]
    rows["APOGEE_ID"][:40] = chosen
    out = tmp_path / "o.fits"
    assert inside("crossmatch", write(tmp_path / "a.fits", rows), "--recipe", "apogee_dr16", "--attach", path,
                  "clusters,key=APOGEE_ID,on=star_id,cluster_prob=FEH_PROB", "--quiet", "-o", out) == 0
    found, _, _ = read(out)
    ours = {r["apogee_id"].strip(): (r["apogee_cluster"].strip(), r["apogee_cluster_prob"]) for r in found}
    assert sum(c != "" for c, _ in ours.values()) == 40
    for name in chosen:
        mine = np.flatnonzero(ids == name)
        prob = np.where(members["FEH_PROB"][mine] < -0.5, np.nan, members["FEH_PROB"][mine])
        best = mine[np.argmax(np.nan_to_num(prob, nan=-1))]
        cluster, found_prob = ours[name.decode()]
        assert cluster == members["CLUSTER"][best].astype(str).strip()
        np.testing.assert_allclose(found_prob, np.nanmax(prob) if np.isfinite(prob).any() else np.nan, rtol=1e-6)


def test_stilts_reads_units_and_nulls(program, start, inside, apogee, galah, tmp_path):
    stilts, out = program("stilts"), tmp_path / "t.fits"
    inside("crossmatch", apogee, galah, "--recipe", "apogee_galah", "--quiet", "-o", out)
    done = start([stilts, "tpipe", f"in={out}#TRAINING", "cmd=meta Name Units Description", "omode=out", "ofmt=csv",
                  "out=-"])
    assert done.code == 0 and b"apogee_teff,K,apogee: effective temperature" in done.out
    done = start([stilts, "tpipe", f"in={out}#TRAINING", "cmd=stats Name NGood NBad", "omode=out", "ofmt=csv",
                  "out=-"])
    counts = {line.split(b",")[0]: line.split(b",")[1:] for line in done.out.splitlines()}
    assert counts[b"apogee_dr3_source_id"] == [b"0", b"30"] and counts[b"apogee_teff"] == [b"29", b"1"]
