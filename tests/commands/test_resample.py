"""cc-resample: row for row, whatever is wrong with a star; the same bytes for any threads, shards, pipe or file."""
import os

import numpy as np
import pytest
import survey_files
from astropy.io import fits as astropy_fits
from astropy.table import Table

from cannonkit import provenance, schema, stream
from cannonkit.bitmasks import SPECTRUM_STATUS as STATUS

N = 8575


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """A little APOGEE: 70 stars with 1 to 4 visits, and what can be wrong with a file."""
    rng = np.random.default_rng(11)
    root = tmp_path_factory.mktemp("apogee")
    names = []
    for k in range(70):
        visits = int(rng.integers(1, 5))
        rows = 1 if visits == 1 else visits + 2
        flux = 100 * (1 + 0.02 * rng.normal(size=(rows, N)))
        error = np.full((rows, N), 2.0)
        error[:, rng.integers(0, N, 20)] = 1e13
        bits = np.where(rng.random((rows, N)) < 0.01, 1, 0)
        header = {f"SNRVIS{v}": 10.0 + v for v in range(1, visits + 1)}
        survey_files.apstar(root / f"s{k:02d}.fits", flux, error, bits, flat=visits == 1, header=header)
        names.append(f"s{k:02d}.fits")
    (root / "cut.fits").write_bytes((root / "s00.fits").read_bytes()[:50_000])
    survey_files.galah(root / "galah.fits", np.ones(4096), np.full(4096, 0.01), 4713.0, 0.046)
    names[5:5] = ["nowhere.fits", "cut.fits", "galah.fits", "../apogee/s00.fits", ""]
    table = Table({"id": [f"star {k}" for k in range(len(names))], "star_id": [f"g{k // 2}" for k in range(len(names))],
                   "spectrum": names, "snr": 50.0 + np.arange(len(names))})
    table.write(root / "table.fits")
    return root


def rows_of(path):
    with stream.open_source(path, "spectra", verify=True) as source:
        return source.read()


def sums(path):
    with stream.open_source(path, "spectra", verify=True) as source:
        return source.datasums()


def options(survey, out, *more):
    return [survey / "table.fits", "--recipe", "apogee_dr16", "--root", survey, "-o", out, *more]


@pytest.fixture(scope="module")
def whole(survey, inside, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "spectra.fits"
    assert inside("resample", *options(survey, out)) == 0
    return out


def test_every_row_is_there_in_order_with_its_status(survey, whole):
    rows = rows_of(whole)
    assert len(rows) == 75
    assert schema.text(rows["id"]).tolist() == [f"star {k}" for k in range(75)]
    assert schema.text(rows["star_id"]).tolist() == [f"g{k // 2}" for k in range(75)]
    assert (rows["visit"] == 0).all() and schema.text(rows["file"])[10] == "s05.fits"
    np.testing.assert_array_equal(rows["snr_survey"], 50.0 + np.arange(75))
    expected = np.zeros(75, int)
    expected[5:10] = [STATUS.MISSING_FILE, STATUS.BROKEN_FILE, STATUS.WRONG_LAYOUT, STATUS.NO_PATH, STATUS.NO_PATH]
    assert rows["status"].tolist() == expected.tolist()
    bad = expected > 0
    assert (rows["ivar"][bad] == 0).all() and (rows["flux"][bad] == 1).all() and np.isnan(rows["snr"][bad]).all()
    assert (rows["n_bad"][bad] == 7514).all() and (rows["n_bad"][~bad] < 200).all()
    good = rows[~bad]
    assert np.isfinite(good["flux"]).all() and (good["flux"][good["ivar"] == 0] == 1).all()
    assert np.abs(good["snr"] - 50).max() < 1 and np.abs(good["flux"].mean(axis=1) - 1).max() < 0.01


def test_the_product_describes_itself(whole):
    with stream.open_source(whole, "spectra") as source:
        header, wave = source.header, source.extensions["WAVELENGTH"]
        assert (header["SURVEY"], header["MEDIUM"], header["LAYOUT"]) == ("apogee", "vacuum", "apstar")
        assert header["NORM"].startswith("Chebyshev order 2 per segment, 532 continuum pixels")
        assert "SIG_SKYLINE" in header["MASKS"] and header["RESAMPLE"] == "flux" and header["VISITS"] == "combined"
        assert wave.header["MEDIUM"] == "vacuum" and (wave.data["segment"] == -1).sum() == N - 7514
        assert source.hdu.header["STAT03"] == "MISSING_SEGMENT"
        record = provenance.from_header(header)[0]
        assert record["command"] == "cc-resample" and record["recipe"]["layout"] == "apstar"
        assert source.end_header["N02"] == 1 and source.end_header["N07"] == 2
    with astropy_fits.open(whole, checksum=True) as hdus:
        assert hdus["SPECTRA"].data["flux"].shape == (75, N)


def test_messages_name_file_and_reason(survey, tmp_path, inside, capfd):
    assert inside("resample", *options(survey, tmp_path / "o.fits")) == 0
    err = capfd.readouterr().err
    assert "star 5: nowhere.fits: No such file or directory" in err
    assert "star 7: galah.fits: has the layout of GALAH DR3, expected APOGEE apStar" in err
    assert "star 8: '../apogee/s00.fits': not a path under the root" in err
    assert "75 spectra, 70 without any remark, 5 without a usable pixel" in err
    assert "Traceback" not in err


def test_threads_and_pipes_change_no_byte(survey, whole, tmp_path, command):
    for threads in ("1", "2", "4"):
        out = tmp_path / f"t{threads}.fits"
        done = command("resample", *options(survey, out, "--threads", threads, "--quiet"))
        assert done.code == 0, done
        assert sums(out) == sums(whole)
    done = command("resample", *options(survey, "-", "--quiet"))
    assert done.code == 0
    (tmp_path / "piped.fits").write_bytes(done.out)
    assert sums(tmp_path / "piped.fits") == sums(whole)
    with open(survey / "table.fits", "rb") as table:
        done = command("resample", "-", *options(survey, tmp_path / "stdin.fits", "--quiet")[1:], stdin=table)
    assert done.code == 0, done
    assert sums(tmp_path / "stdin.fits") == sums(whole)


@pytest.mark.parametrize("more", [(), ("--visits", "all")])
def test_shards_add_up(survey, tmp_path, inside, more):
    assert inside("resample", *options(survey, tmp_path / "w.fits", *more)) == 0
    parts = []
    (tmp_path / "parts").mkdir()
    for k in range(3):
        assert inside("resample", *options(survey, tmp_path / "parts", "--shard", f"{k}/3", *more)) == 0
        parts.append(rows_of(tmp_path / "parts" / f"part-{k:05d}-of-00003.fits"))
    assert [len(p) for p in parts][0] == 0 or more or [len(p) for p in parts] == [0, 64, 11]
    assert np.concatenate(parts).tobytes() == rows_of(tmp_path / "w.fits").tobytes()


def test_visits(survey, whole, tmp_path, inside):
    for what in ("all", "only"):
        assert inside("resample", *options(survey, tmp_path / f"{what}.fits", "--visits", what)) == 0
    combined, every, only = rows_of(whole), rows_of(tmp_path / "all.fits"), rows_of(tmp_path / "only.fits")
    assert every[every["visit"] == 0].tobytes() == combined.tobytes()
    visits = every[every["visit"] > 0]
    np.testing.assert_array_equal(visits["snr_survey"], 10.0 + visits["visit"])
    single = {s for s, n in zip(*np.unique(every["id"], return_counts=True), strict=True) if n == 1}
    assert 5 < len(single) < 40
    several = only[~np.isin(only["id"], list(single))]
    for name in ("id", "visit", "flux", "ivar", "snr"):
        np.testing.assert_array_equal(several[name], visits[name])
    ones = only[np.isin(only["id"], list(single)) & (only["status"] == 0)]
    assert (ones["visit"] == 1).all() and (ones["snr_survey"] == 11).all()
    np.testing.assert_array_equal(ones["flux"], combined["flux"][np.isin(combined["id"], ones["id"])])


def test_no_rows(survey, tmp_path, inside):
    Table({"id": np.zeros(0, "S5"), "spectrum": np.zeros(0, "S5")}).write(tmp_path / "none.fits")
    assert inside("resample", tmp_path / "none.fits", *options(survey, tmp_path / "o.fits")[1:]) == 0
    assert len(rows_of(tmp_path / "o.fits")) == 0


def test_max_failed_is_a_gate(survey, tmp_path, inside, capfd):
    assert inside("resample", *options(survey, tmp_path / "a.fits", "--max-failed", "5")) == 0
    assert inside("resample", *options(survey, tmp_path / "b.fits", "--max-failed", "4")) == 1
    assert "5 spectra have no usable pixel, more than --max-failed 4" in capfd.readouterr().err
    assert sums(tmp_path / "a.fits") == sums(tmp_path / "b.fits")


def test_resume(survey, whole, tmp_path, inside, capfd):
    out = tmp_path / "r.fits"
    assert inside("resample", *options(survey, out, "--resume")) == 0
    before = os.stat(out).st_mtime_ns
    capfd.readouterr()
    assert inside("resample", *options(survey, out, "--resume")) == 0
    assert "nothing to do" in capfd.readouterr().err and os.stat(out).st_mtime_ns == before
    # other settings, or a damaged output, are another run
    assert inside("resample", *options(survey, out, "--resume", "--method", "linear")) == 73
    assert inside("resample", *options(survey, out, "--resume", "--method", "linear", "--overwrite")) == 0
    data = bytearray(out.read_bytes())
    data[len(data) // 2] ^= 1
    out.write_bytes(data)
    assert inside("resample", *options(survey, out, "--resume", "--method", "linear")) == 73
    assert inside("resample", *options(survey, out, "--resume", "--overwrite")) == 0
    assert sums(out) == sums(whole)


@pytest.mark.parametrize("arguments, code, words", [
    (["{table}", "--recipe", "apogee_dr16", "--root", "{root}/nowhere", "-o", "{out}"], 66, "no such directory"),
    (["{table}", "--recipe", "apogee", "--root", "{root}", "-o", "{out}"], 66, "apogee_dr16"),
    (["{root}/nowhere.fits", "--recipe", "apogee_dr16", "--root", "{root}", "-o", "{out}"], 66, "No such file"),
    (["{table}", "--recipe", "apogee_dr16", "--root", "{root}", "-o", "{out}", "--select", "repeats"], 64, "own rows"),
    (["{table}", "--recipe", "apogee_dr16", "--root", "{root}", "-o", "{root}"], 73, "is a directory"),
    (["{table}", "--recipe", "apogee_dr16", "--root", "{root}", "-o", "{out}", "--method", "sinc"], 64, "sinc"),
    (["{root}/s00.fits", "--recipe", "apogee_dr16", "--root", "{root}", "-o", "{out}"], 65, "lacks columns"),
])
def test_bad_calls(survey, tmp_path, inside, capfd, arguments, code, words):
    places = {"table": survey / "table.fits", "root": survey, "out": tmp_path / "o.fits"}
    assert inside("resample", *[a.format(**places) for a in arguments]) == code
    err = capfd.readouterr().err
    assert words in err and "Traceback" not in err and os.listdir(tmp_path) == []


def test_dry_run_writes_nothing(survey, tmp_path, inside, capfd):
    assert inside("resample", *options(survey, tmp_path / "o.fits", "--dry-run")) == 0
    assert "rows 75" in capfd.readouterr().err and os.listdir(tmp_path) == []


def test_a_recipe_without_spectra(tmp_path, survey, inside, capfd):
    (tmp_path / "r.yaml").write_text("survey: x\ncatalogue:\n  id: ['{id}']\n  star_id: ['{id}']\n")
    assert inside("resample", survey / "table.fits", "--recipe", tmp_path / "r.yaml", "--root", survey,
                  "-o", tmp_path / "o.fits") == 78
    assert "no section 'spectra:'" in capfd.readouterr().err


def test_a_recipe_with_a_wrong_word(tmp_path, survey, inside, capfd):
    text = "survey: x\ncatalogue:\n  id: ['{id}']\n  star_id: ['{id}']\nspectra:\n  layout: apstarr\n  grid:\n" \
           "    stretches: [{start: 1, step: 1, n_pix: 5}]\n"
    (tmp_path / "r.yaml").write_text(text)
    assert inside("resample", survey / "table.fits", "--recipe", tmp_path / "r.yaml", "--root", survey,
                  "-o", tmp_path / "o.fits") == 78
    err = capfd.readouterr().err
    assert "apstarr" in err and "did you mean 'apstar'" in err and "r.yaml" in err


def training(path, survey, n=20):
    """A training product of two surveys, one of which has the files of `survey`."""
    table = schema.training_table(("apogee", "galah"), ("teff",))
    rows = table.empty(n)
    for k in range(n):
        rows["apogee_id"][k], rows["apogee_star_id"][k] = f"A{k}", f"A{k}"
        rows["apogee_spectrum"][k] = f"s{k:02d}.fits" if k != 3 else ""
        rows["galah_id"][k], rows["galah_spectrum"][k] = f"{k}", f"{k}{{ccd}}.fits"
    rows["apogee_snr"] = np.arange(n)
    with stream.create(path, "training", table, n) as out:
        out.write(rows)


ANOTHER = """
survey: other
catalogue:
  id: ["{id}"]
  star_id: ["{id}"]
spectra:
  layout: generic
  file: "{spectrum}"
  generic: {flux: {hdu: 0}, error: {hdu: 1}, error_kind: KIND, medium: air}
  velocity: {column: rv}
  grid: {scale: linear, medium: vacuum, stretches: [{start: 5000.0, step: 0.25, n_pix: 400}]}
  masks:
    windows: [{low: 5080.0, high: 5082.0, frame: observed, why: sky line}, {low: 5010.0, high: 5011.0}]
  least_pixels: 100
"""


@pytest.mark.parametrize("method, kind", [("flux", "sigma"), ("linear", "ivar"), ("cubic", "variance"),
                                          ("lanczos", "sigma")])
def test_another_survey_with_velocity_air_windows_and_method_all_stated(tmp_path, inside, method, kind):
    """A line at 5040 A in air, seen at +100 km/s, lands at rest in vacuum; the header says what was done."""
    from cannonkit.stages import wavelength
    light, velocity = 299792.458, 100.0
    wave = 4990.0 + 0.2 * np.arange(700)
    rest = wave / (1 + velocity / light)
    flux = 1 - 0.6 * np.exp(-0.5 * ((rest - 5040.0) / 0.6) ** 2)
    error = {"sigma": 0.01, "ivar": 1e4, "variance": 1e-4}[kind]
    header = astropy_fits.Header({"CRVAL1": 4990.0, "CDELT1": 0.2, "CRPIX1": 1.0})
    astropy_fits.HDUList([astropy_fits.PrimaryHDU(flux, header=header),
                          astropy_fits.ImageHDU(np.full(700, error))]).writeto(tmp_path / "a.fits")
    (tmp_path / "r.yaml").write_text(ANOTHER.replace("KIND", kind))
    (tmp_path / "t.csv").write_text(f"id,spectrum,rv\na,a.fits,{velocity}\n")
    assert inside("resample", tmp_path / "t.csv", "--recipe", tmp_path / "r.yaml", "--root", tmp_path, "--method",
                  method, "-o", tmp_path / "o.fits") == 0
    rows = rows_of(tmp_path / "o.fits")
    with stream.open_source(tmp_path / "o.fits") as source:
        head, grid = source.header, source.extensions["WAVELENGTH"].data["wavelength"]
    assert head["RESAMPLE"] == method and head["MEDIUM"] == "vacuum" and head["CONVERT"] == "air to vacuum"
    assert head["VELOCITY"] == "taken out: rv" and "2 windows" in head["MASKS"]
    near = np.abs(grid - wavelength.air_to_vacuum(5040.0)) < 3
    depth = 1 - rows["flux"][0][near]
    assert abs((grid[near] * depth).sum() / depth.sum() - wavelength.air_to_vacuum(5040.0)) < 0.004
    masked = grid[rows["ivar"][0] == 0]
    moved = masked[masked > 5050] * (1 + velocity / light)
    assert 5079.5 < moved.min() and moved.max() < 5082.5 and len(moved) >= 6          # a sky line stays where it is
    assert len(masked[masked < 5050]) >= 3
    # Unit error 0.01 before, less after: each method averages a little.
    assert 0.004 < np.median(rows["ivar"][0][rows["ivar"][0] > 0]) ** -0.5 < 0.0102


def test_aspcapstar_by_three_lines_of_a_recipe(survey, root, tmp_path, inside):
    """What apogee_dr16.yaml says to write: flux and errors pass unchanged, on the same grid, without a mask."""
    text = (root / "configs" / "apogee_dr16.yaml").read_text()
    text = text[:text.index("  masks:\n")] + "  normalise: {method: none}\n  least_pixels: 1000\n"
    text = text.replace("  layout: apstar\n", "  layout: aspcapstar\n")
    (tmp_path / "r.yaml").write_text(text)
    rng = np.random.default_rng(4)
    flux, error = rng.uniform(0.5, 1.1, N).astype("f4"), rng.uniform(0.01, 0.02, N).astype("f4")
    flux[3300:3500] = error[3300:3500] = 0
    survey_files.aspcapstar(tmp_path / "a.fits", flux, error)
    (tmp_path / "t.csv").write_text("id,spectrum\na,a.fits\nb,s00.fits\n")
    os.symlink(survey / "s00.fits", tmp_path / "s00.fits")
    assert inside("resample", tmp_path / "t.csv", "--recipe", tmp_path / "r.yaml", "--root", tmp_path, "-o",
                  tmp_path / "o.fits") == 0
    rows = rows_of(tmp_path / "o.fits")
    assert rows["status"].tolist() == [0, STATUS.WRONG_LAYOUT]      # an apStar file is no aspcapStar file
    good = rows["ivar"][0] > 0
    with stream.open_source(tmp_path / "o.fits") as source:
        segment = source.extensions["WAVELENGTH"].data["segment"]
    assert np.array_equal(good, (segment >= 0) & (error > 0))
    np.testing.assert_array_equal(rows["flux"][0][good], flux[good])
    np.testing.assert_allclose(rows["ivar"][0][good], error[good].astype(float) ** -2, rtol=1e-6)


def test_a_training_product_row_for_row(survey, tmp_path, inside):
    training(tmp_path / "t.fits", survey)
    assert inside("resample", tmp_path / "t.fits", "--recipe", "apogee_dr16", "--root", survey,
                  "-o", tmp_path / "o.fits") == 0
    rows = rows_of(tmp_path / "o.fits")
    assert schema.text(rows["id"]).tolist() == [f"A{k}" for k in range(20)]
    assert rows["status"].tolist() == [STATUS.NO_PATH if k == 3 else 0 for k in range(20)]
    with stream.open_source(tmp_path / "o.fits") as source:
        inputs = provenance.from_header(source.header)[0]["inputs"]
    assert inputs[0]["product"] == "training"
    assert inside("resample", tmp_path / "t.fits", "--recipe", "galah_dr3", "--root", survey,
                  "-o", tmp_path / "g.fits") == 0
    galah = rows_of(tmp_path / "g.fits")
    assert (galah["status"] == STATUS.MISSING_FILE).all() and schema.text(galah["file"])[7] == "7{ccd}.fits"
    assert inside("resample", tmp_path / "t.fits", "--recipe", "miles", "--root", survey,
                  "-o", tmp_path / "m.fits") == 65


def test_a_training_product_from_a_pipe_when_it_is_needed_twice(survey, tmp_path, inside, command):
    """Visits are counted first, and labels are scaled first: the rows of a pipe are kept for that."""
    training(tmp_path / "t.fits", survey)
    data = (tmp_path / "t.fits").read_bytes()
    more = ["--recipe", "apogee_dr16", "--root", survey, "--visits", "all"]
    assert inside("resample", tmp_path / "t.fits", *more, "-o", tmp_path / "file.fits") == 0
    done = command("resample", "-", *more, "-o", tmp_path / "pipe.fits", stdin=data)
    assert done.code == 0, done
    assert rows_of(tmp_path / "pipe.fits").tobytes() == rows_of(tmp_path / "file.fits").tobytes()
    done = command("resample", "-", *more, "-o", tmp_path / "cut.fits", stdin=data[:-3000])
    assert done.code == 65 and not (tmp_path / "cut.fits").exists(), done
    assert inside("resample", tmp_path / "t.fits", *more, "--find-continuum", tmp_path / "c.csv",
                  "-o", tmp_path / "c.fits") == 65              # its labels are missing
    assert not (tmp_path / "c.csv").exists() and not (tmp_path / "c.fits").exists()


def test_a_survey_catalogue_through_its_recipe(survey, tmp_path, inside):
    """Rows of a selection: here one of two rows of a star is a duplicate."""
    n = 6
    floats = {c: np.full(n, 1.0, "f4") for c in ("TEFF", "LOGG", "M_H", "ALPHA_M", "VMICRO", "VMACRO")}
    os.makedirs(tmp_path / "apo25m" / "F", exist_ok=True)
    for k in range(n):
        os.symlink(survey / f"s{k:02d}.fits", tmp_path / "apo25m" / "F" / f"s{k:02d}.fits")
    ids = [f"2M{k}" for k in (0, 1, 1, 2, 3, 4)]
    Table({"APOGEE_ID": [f"{i:<18}" for i in ids], "TELESCOPE": ["apo25m  "] * n, "FIELD": ["F               "] * n,
           "FILE": [f"s{k:02d}.fits" for k in range(n)], "SNR": np.arange(n, dtype="f4") + 90,
           "APSTAR_ID": [f"x.{k}" for k in range(n)],
           "RA": np.zeros(n), "DEC": np.zeros(n), "EXTRATARG": np.array([0, 16, 0, 0, 0, 0], "i2"),
           "STARFLAG": np.zeros(n, "i4"), "ASPCAPFLAG": np.zeros(n, "i4"), **floats}).write(tmp_path / "in.fits")
    rows = {}
    for select in ("catalogue", "repeats", "all"):
        assert inside("resample", tmp_path / "in.fits", "--recipe", "apogee_dr16", "--root", tmp_path,
                      "--select", select, "-o", tmp_path / f"{select}.fits") == 0
        rows[select] = rows_of(tmp_path / f"{select}.fits")
    assert schema.text(rows["catalogue"]["file"]).tolist() == [f"apo25m/F/s{k:02d}.fits" for k in (0, 2, 3, 4, 5)]
    assert schema.text(rows["catalogue"]["id"]).tolist() == [ids[k] for k in (0, 2, 3, 4, 5)]
    assert schema.text(rows["repeats"]["id"]).tolist() == ["x.1", "x.2"]
    assert schema.text(rows["repeats"]["star_id"]).tolist() == ["2M1", "2M1"]
    assert len(rows["all"]) == 6
    for select in rows:
        assert (rows[select]["status"] == 0).all()


def test_a_catalogue_that_names_no_files(survey, tmp_path, inside, capfd):
    n = 3
    floats = {c: np.full(n, 1.0, "f4") for c in ("TEFF", "LOGG", "M_H", "ALPHA_M", "VMICRO", "VMACRO")}
    Table({"APOGEE_ID": ["a", "b", "c"], "SNR": np.ones(n, "f4"), "STARFLAG": np.zeros(n, "i4"),
           "ASPCAPFLAG": np.zeros(n, "i4"), "EXTRATARG": np.zeros(n, "i2"), **floats}).write(tmp_path / "in.fits")
    assert inside("resample", tmp_path / "in.fits", "--recipe", "apogee_dr16", "--root", survey,
                  "-o", tmp_path / "o.fits") == 65
    err = capfd.readouterr().err
    assert "spectrum: no column" in err and "'FILE'" in err and not (tmp_path / "o.fits").exists()


# --- mock spectra ---------------------------------------------------------------------------------


def mock_files_of(folder, plan, settings, which, snr, n):
    """n spectra of one mock star at one S/N in both surveys' own files: {survey: [(id, path template)]}."""
    from cannonkit import mock_files, recipe
    from cannonkit.stages import mock_spectra
    synthesis = mock_spectra.Synthesis([p.wavelength for p in recipe.read_continuum("apogee_continuum")])
    # The same random numbers at every S/N: the same waves in the continuum, the same noise but for its size.
    obs = mock_spectra.Observation(np.full(n, which), np.arange(n), np.full(n, float(snr)), np.ones(n),
                                   np.zeros(n))
    planes, weight, shift, _ = mock_spectra.apogee_block(synthesis, plan.stars, obs, np.ones(n, int), settings)
    start, step, n_pix = grids = mock_spectra.galah_grids(obs, settings)
    cameras = mock_spectra.galah_block(synthesis, plan.stars, obs, grids, settings)
    row = mock_files.rows(mock_files.ALLSTAR, plan.apogee.columns, np.arange(1))[0]
    names = {"apogee": [], "galah": []}
    for k in range(n):
        name = f"{which}-{snr}-{k}"
        mock_files.write(folder / f"{name}.fits", mock_files.apstar_bytes(
            row, {plane: values[k] for plane, values in planes.items()}, 1, weight[k], shift[k], 1, k % 2 == 0))
        for c in range(4):
            mock_files.write(folder / f"{name}{c + 1}.fits",
                             mock_files.galah_bytes(cameras[c], name, k, start[k, c], step[k, c], 1))
        names["apogee"].append((name, f"{name}.fits"))
        names["galah"].append((name, f"{name}{{ccd}}.fits"))
    return names


@pytest.mark.parametrize("which, what", [(0, "dwarf of 6,270 K"), (1, "giant of 4,870 K")])
def test_a_mock_star_does_not_move_with_its_snr(tmp_path, inside, which, what):
    """S/N 20, 50 and 200, wiggles and junk included: mean normalised fluxes within 0.001 in both surveys."""
    from cannonkit import config
    from cannonkit.stages import mock
    settings = config.Mock(common=20, apogee_only=0, galah_only=0, apogee_repeats=0, galah_repeats=0, clusters=0.0,
                           odd=0.0)
    plan, n = mock.plan(settings), 10
    names = [mock_files_of(tmp_path, plan, settings, which, snr, n) for snr in (20, 50, 200)]
    for survey, recipe_name in (("apogee", "apogee_dr16"), ("galah", "galah_dr3")):
        table = tmp_path / f"{survey}.csv"
        table.write_text("id,spectrum\n" + "".join(f"{a},{b}\n" for x in names for a, b in x[survey]))
        assert inside("resample", table, "--recipe", recipe_name, "--root", tmp_path, "-o",
                      tmp_path / f"{survey}.spectra.fits", "--quiet") == 0
        rows = rows_of(tmp_path / f"{survey}.spectra.fits")
        flux, good = rows["flux"].reshape(3, -1), rows["ivar"].reshape(3, -1) > 0
        means = [f[g].mean(dtype=float) for f, g in zip(flux, good, strict=True)]
        print(f"\nmock {what}, {survey}: mean normalised flux at S/N 20, 50, 200:", *(f"{m:.5f}" for m in means),
              f"differ by {max(means) - min(means):.5f}")
        # Their own errors: 0.05 / sqrt(70,000 pixels) = 0.0002 at S/N 20.
        assert max(means) - min(means) < 0.001
        assert 0.9 < means[2] < 0.99 and np.all(np.isfinite(rows["snr"]))
        measured = np.median(rows["snr"].reshape(3, n), axis=1)
        np.testing.assert_allclose(measured / measured[2], [0.1, 0.25, 1.0], rtol=0.25)


# --- real spectra ---------------------------------------------------------------------------------


def test_real_galah(shared, tmp_path, inside):
    root = shared / "data" / "galah_dr3_spectra"
    names = sorted({p.name[:15] for p in root.glob("1*.fits")})
    (tmp_path / "t.csv").write_text("id,spectrum\n" + "".join(f"g{n},{n}{{ccd}}.fits\n" for n in names))
    for policy, good in (("reject", 35), ("keep", 36)):
        assert inside("resample", tmp_path / "t.csv", "--recipe", "galah_dr3", "--root", root,
                      "--missing-segment", policy, "-o", tmp_path / f"{policy}.fits") == 0
        rows = rows_of(tmp_path / f"{policy}.fits")
        assert np.isfinite(rows["snr"]).sum() == good and (rows["status"] != 0).sum() <= 3
    lacking = names.index("181222001801157")
    assert rows["status"][lacking] == STATUS.MISSING_SEGMENT and rows["n_bad"][lacking] >= 2461


def test_real_dr4_by_two_lines_of_a_recipe(shared, root, tmp_path, inside):
    """What galah_dr3.yaml says to write for DR4; H-alpha of the Sun (Vesta) is then at rest."""
    text = (root / "configs" / "galah_dr3.yaml").read_text()
    dr4 = "  layout: galah_dr4\n  velocity: {header: RVCOM, good: RVCOM_OK}\n"
    changed = text.replace("  layout: galah_dr3\n", dr4)
    assert changed != text
    (tmp_path / "dr4.yaml").write_text(changed)
    (tmp_path / "t.csv").write_text("id,spectrum\nsun,210115002201239{ccd}.fits\nother,1403100038010491.fits\n")
    assert inside("resample", tmp_path / "t.csv", "--recipe", tmp_path / "dr4.yaml", "--root",
                  shared / "data" / "galah_dr4_spectra", "-o", tmp_path / "o.fits") == 0
    rows = rows_of(tmp_path / "o.fits")
    assert rows["status"].tolist() == [0, STATUS.MISSING_FILE] and rows["snr"][0] > 300
    with stream.open_source(tmp_path / "o.fits") as source:
        wave = source.extensions["WAVELENGTH"].data["wavelength"]
        assert source.header["VELOCITY"] == "taken out: RVCOM"
    near = np.abs(wave - 6562.8) < 1.0
    depth = 1 - rows["flux"][0][near]
    assert abs((wave[near] * depth).sum() / depth.sum() - 6562.80) < 0.03          # 0.5 A off before


def test_real_miles_is_a_recipe_and_no_code(shared, tmp_path, inside):
    """342 stars of one image: the running mean by a plain sum, and continuum pixels that avoid the Balmer lines."""
    path = shared / "data" / "labelled_miles" / "miles_stars.fits"
    assert inside("resample", path, "--recipe", "miles", "--root", path.parent, "--select", "all",
                  "--find-continuum", tmp_path / "c.csv", "-o", tmp_path / "m.fits") == 0
    rows = rows_of(tmp_path / "m.fits")
    assert len(rows) == 342 and (rows["status"] == 0).all()
    with astropy_fits.open(path) as hdus:
        flux, good = hdus["FLUX"].data[:, 511:511 + 3722].astype(float), hdus["GOOD"].data[:, 511:511 + 3722] == 1
        names = hdus["STARS"].data["name"]
    x = 0.9 * np.arange(3722)
    for m in (0, 17, 341):
        assert schema.text(rows["star_id"])[m] == names[m].strip()
        weights = np.exp(-0.5 * ((x[:, None] - x) / 50.0) ** 2) * good[m]
        expected = flux[m] / ((weights * np.where(good[m], flux[m], 0)).sum(axis=1) / weights.sum(axis=1))
        use = rows["ivar"][m] > 0
        np.testing.assert_array_equal(use, good[m] & (flux[m] > 0))
        # 1e-3: nodes 5 A apart and 4 sigma of reach
        np.testing.assert_allclose(rows["flux"][m][use], expected[use], rtol=1e-3)
    lines = np.loadtxt(tmp_path / "c.csv", delimiter=",", skiprows=3, usecols=0)
    assert 240 < lines.size < 280
    for balmer in (4101.7, 4340.5, 4861.3, 6562.8):
        assert np.abs(lines - balmer).min() > 4
