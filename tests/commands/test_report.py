"""cc-report: the page and its files, numbers against other calculations, absent and damaged files, exit codes."""
import base64
import html
import os
import re
import shlex
import shutil
import sys

import numpy as np
import pytest
import report_run

from cannonkit.commands import report

PNG = b"\x89PNG\r\n\x1a\n"
SMALL = ("--dpi", "50")         # quicker to draw


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, Stars, {name: Fitted}, {name: (star rows, found labels)}) of the synthetic run."""
    folder = tmp_path_factory.mktemp("report") / "run"
    folder.mkdir()
    return folder, *report_run.make(folder, np.random.default_rng(5), n_common=220, n_only=60)


@pytest.fixture(scope="module")
def page(made):
    """(report folder, text of index.html) of that run."""
    pytest.importorskip("matplotlib", reason="matplotlib is the extra `report`")
    out = made[0].parent / "out"
    assert report.main([str(made[0]), "-o", str(out), "--quiet", *SMALL]) == 0
    return out, (out / "index.html").read_text()


def table(path):
    """A table of the report, read by astropy."""
    tables = pytest.importorskip("astropy.table", reason="astropy reads the ECSV")
    return tables.Table.read(path, format="ascii.ecsv")


def half_range(values):
    values = np.sort(values[np.isfinite(values)])
    at = np.array([0.16, 0.84]) * (len(values) - 1)
    low, high = np.interp(at, np.arange(len(values)), values)
    return (high - low) / 2


# --- the page -----------------------------------------------------------------------------------

def test_page_is_self_contained(page):
    folder, text = page
    assert "<script" not in text and "http:" not in text and "https:" not in text and "@import" not in text
    sources = re.findall(r'<img[^>]* src="([^"]*)"', text)
    assert len(sources) >= 25 and all(s.startswith("data:image/png;base64,") for s in sources)
    embedded = {base64.b64decode(s.partition(",")[2]) for s in sources}
    files = {path.read_bytes() for path in (folder / "figures").iterdir()}
    assert embedded == files and all(data.startswith(PNG) for data in files)
    for link in re.findall(r'href="(tables/[^"]*)"', text):
        assert (folder / link).is_file(), link
    assert {f"tables/{p.name}" for p in (folder / "tables").iterdir()} <= set(re.findall(r'href="([^"]*)"', text))


def test_every_kind_of_figure_is_there(page):
    from cannonkit.figures import registry

    assert tuple(registry.FIGURES) == report.FIGURES
    commands = {shlex.split(c)[1] for c in commands_of(page[1])}
    assert commands == set(report.FIGURES)


def commands_of(text):
    return [html.unescape(c) for c in re.findall(r'<code class="command">(.*?)</code>', text, re.S)]


@pytest.mark.parametrize("figure", ["kiel", "survey-differences", "one-to-one", "vmicro-relation", "residuals",
                                    "label-differences", "clusters", "flags", "precision", "truth"])
def test_command_of_a_caption_makes_the_same(page, tmp_path, monkeypatch, figure):
    folder, text = page
    monkeypatch.chdir(tmp_path)
    command = next(c for c in commands_of(text) if shlex.split(c)[1] == figure)
    assert report.main([*shlex.split(command)[1:], "--quiet"]) == 0
    (name,) = os.listdir(tmp_path)
    kind = "figures" if name.endswith(".png") else "tables"
    assert (tmp_path / name).read_bytes() == (folder / kind / name).read_bytes()


def test_mock_is_said_everywhere(page):
    folder, text = page
    assert "Mock data." in text
    for path in (folder / "tables").iterdir():
        assert '"mock": true' in path.read_text(), path
    for path in (folder / "figures").iterdir():
        assert b"MOCK: simulated stars" in path.read_bytes(), path
    assert "MOCK" in (folder / "cannonkit-report.txt").read_text()


def test_nothing_is_called_mock_that_is_not(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is the extra `report`")
    run = tmp_path / "run"
    run.mkdir()
    report_run.make(run, np.random.default_rng(6), n_common=80, n_only=10, mock=False)
    for name in ("gcgs", "gcaa", "acaa"):
        for path in run.glob(f"{name}.*"):
            path.unlink()
    assert report.main([str(run), "-o", str(tmp_path / "out"), "--quiet", *SMALL]) == 0
    text = (tmp_path / "out" / "index.html").read_text()
    assert "Mock data" not in text and "truth.fits" in text[text.index("Absent"):]
    assert not any(b"MOCK" in path.read_bytes() for path in (tmp_path / "out" / "figures").iterdir())


def test_same_input_same_bytes(made, page, tmp_path):
    for name in ("one-to-one-acgs.png", "cuts.png"):
        figure = "one-to-one" if name.startswith("one") else "cuts"
        source = made[0] / ("acgs.model.fits" if figure == "one-to-one" else "training.fits")
        assert report.main([figure, str(source), "-o", str(tmp_path / name), "--quiet", *SMALL]) == 0
        assert (tmp_path / name).read_bytes() == (page[0] / "figures" / name).read_bytes()


# --- the numbers --------------------------------------------------------------------------------

def test_table_1(made, page):
    stars = made[1]
    found = table(page[0] / "tables" / "survey-differences.ecsv")
    assert found["unit"].tolist() == [report_run.UNITS[n] for n in report_run.LABELS]
    difference = (stars.survey["apogee"] - stars.survey["galah"])[stars.selected]
    logg = stars.survey["galah"][stars.selected, 1]
    for sample, keep in (("all", logg < 99), ("giants", logg < 3.5), ("dwarfs", logg >= 3.5)):
        assert set(found[f"n_{sample}"]) == {keep.sum()}
        assert found[f"mean_{sample}"].tolist() == pytest.approx(difference[keep].mean(axis=0))
        assert found[f"scatter_{sample}"].tolist() == pytest.approx([half_range(d) for d in difference[keep].T])


def test_table_3(made, page):
    stars, found = made[1], made[3]
    for a, b in (("acgs", "gcgs"), ("acaa", "gcaa")):
        labels = {}
        for name in (a, b):
            rows, values = found[name]
            labels[name] = np.full((stars.n, 6), np.nan)
            labels[name][rows] = values
        difference = (labels[a] - labels[b])[stars.selected]
        result = table(page[0] / "tables" / f"label-differences-{a}-{b}.ecsv")
        assert result["mean_all"].tolist() == pytest.approx(np.nanmean(difference, axis=0))
        assert result["scatter_all"].tolist() == pytest.approx([half_range(d) for d in difference.T])


def test_cross_validation(made, page):
    stars, fitted = made[1], made[2]
    for name, model in fitted.items():
        d = (model.cv - model.training)[stars.selected[:stars.n_common]]
        result = table(page[0] / "tables" / f"one-to-one-{name}.ecsv")
        assert result["bias"].tolist() == pytest.approx(d.mean(axis=0))
        assert result["median"].tolist() == pytest.approx(np.median(d, axis=0))
        assert result["scatter"].tolist() == pytest.approx([half_range(x) for x in d.T])
        assert result["rms"].tolist() == pytest.approx(np.sqrt((d ** 2).mean(axis=0)))


def test_figure_a3_is_an_entry_of_its_own(page):
    folder, text = page
    assert "Figure A3" in text and "Planted: in the mock" in text
    assert (folder / "figures" / "vmicro-relation-acaa.png").is_file()
    a3, plain = (table(folder / "tables" / f"{n}-acaa.ecsv") for n in ("vmicro-relation", "one-to-one"))
    assert a3["scatter"].tolist() == plain["scatter"].tolist()     # the synthetic run has the same model twice


def test_truth_is_compared_on_the_scale_of_the_model(made, page):
    rows, _ = made[3]["gcaa"]
    result = table(page[0] / "tables" / "truth-gcaa.ecsv")
    assert result["n"][0] < len(rows)       # flagged stars and failed fits are left out
    assert np.abs(result["bias"] / result["scatter"]).max() < 0.3
    assert result["scatter"].tolist() == pytest.approx(report_run.PRECISION["galah"], rel=0.2)


def test_clusters(made, page):
    stars = made[1]
    result = table(page[0] / "tables" / "clusters.ecsv")
    catalogue = read_catalogue(made[0] / "galah_scaled.fits")
    good = clean(catalogue)
    cluster = dict(zip(stars.dr3.tolist(), stars.cluster.tolist(), strict=True))
    names = [cluster[int(k)] for k in catalogue["dr3_source_id"]]
    checked = 0
    for row in result[result["scale"] == "galah"]:
        flag = {"galah": 0, "apogee": 1}[row["spectra"]]
        own = [k for k in range(len(names)) if good[k] and catalogue["flag_id"][k] == flag
               and names[k] == row["cluster"].encode()]
        values = catalogue["fehCann"][own]
        assert row["n"] == len(own)
        assert row["feh_cannon_median"] == pytest.approx(np.median(values))
        assert row["feh_cannon_error"] == pytest.approx(np.median(catalogue["e_fehCann"][own]))
        if len(own) > 1:
            assert row["feh_cannon_std"] == pytest.approx(np.std(values, ddof=1))
        checked += 1
    assert checked >= 3
    # the star whose membership is 0.2 is in no cluster
    assert b"" == cluster[int(stars.dr3[0])]


def test_clusters_against_the_truth(made, page):
    """Odd stars are the second generation of the made-up run."""
    stars = made[1]
    result = table(page[0] / "tables" / "clusters-known.ecsv")
    catalogue = read_catalogue(made[0] / "apogee_scaled.fits")
    own = np.flatnonzero(clean(catalogue) & (catalogue["flag_id"] == 1))
    star = {name: k for k, name in enumerate(stars.ids["apogee"].tolist())}
    place = np.array([star[name.strip()] for name in catalogue["Unique_ID"][own].tolist()])
    true = stars.on_scale("apogee")[place, 2]
    off = catalogue["fehCann"][own] - true
    (row,) = result[(result["cluster"] == "NGC 2682") & (result["scale"] == "apogee") & (result["spectra"] == "apogee")]
    inside, second = stars.cluster[place] == b"NGC 2682", place % 2 == 1
    assert row["n"] == inside.sum() and row["n_second"] == (inside & second).sum()
    assert row["std"] == pytest.approx(np.std(catalogue["fehCann"][own][inside], ddof=1))
    assert row["planted"] == pytest.approx(np.std(true[inside], ddof=1))
    assert row["off_std"] == pytest.approx(np.std(off[inside], ddof=1))
    assert row["field"] == pytest.approx(half_range(off[stars.cluster[place] == b""]))
    assert row["error"] == pytest.approx(np.median(catalogue["e_fehCann"][own][inside]))
    assert row["second"] == pytest.approx(off[inside & second].mean())
    assert row["e_second"] == pytest.approx(off[inside & second].std(ddof=1) / np.sqrt((inside & second).sum()))


def read_catalogue(path):
    from cannonkit import stream

    with stream.open_source(path) as source:
        return source.read()


def clean(rows):
    """The paper's clean rows, star by star (bits of formats.md A3, A4)."""
    out = []
    for row in rows:
        apogee = row["flag_id"] == 1
        bad_spectrum = row["flag_spectra"] & 0x23E19 if apogee else row["flag_spectra"] != 0
        bad_pipeline = row["flag_sp_aspcap"] & 0x9F0000 if apogee else row["flag_sp_aspcap"] != 0
        out.append(not (row["flag_Cannon_dist"] or row["flag_survey"] or row["flag_snr"] or bad_spectrum
                        or bad_pipeline))
    return np.array(out)


def test_flags(made, page):
    result = table(page[0] / "tables" / "flags.ecsv")
    for scale in ("galah", "apogee"):
        rows = read_catalogue(made[0] / f"{scale}_scaled.fits")
        good = clean(rows)
        for name, flag in (("galah", 0), ("apogee", 1)):
            own = rows["flag_id"] == flag
            (found,) = result[(result["scale"] == scale) & (result["spectra"] == name)]
            assert (found["rows"], found["clean"]) == (own.sum(), good[own].sum())
            assert found["flag_Cannon_dist"] == rows["flag_Cannon_dist"][own].sum()
            assert found["failed"] == np.isnan(rows["teffCann"][own]).sum()


def test_residuals_name_the_pixels_that_stand_out(made, page):
    """The spectra are those of ACGS: its residuals are noise; ACAA is another model of the same pixels."""
    result = table(page[0] / "tables" / "residuals-apogee.ecsv")
    assert set(result["model"]) == {"ACAA"}
    assert np.abs(result["residual"]).min() > 0.01


def test_factors_and_precision(made, page):
    factors = table(page[0] / "tables" / "factors.ecsv")
    assert set(factors["f"]) == {2.1, 1.8, 2.5, 1.3, 3.0, 4.0}
    (row,) = factors[(factors["model"] == "ACGS") & (factors["label"] == "teff")]
    model = made[2]["acgs"]
    assert row["f_paper"] == 12200 and row["f_scaled"] == pytest.approx(2.1 * (model.high - model.low)[0])
    precision = table(page[0] / "tables" / "precision.ecsv")
    (row,) = precision[(precision["model"] == "GCGS") & (precision["label"] == "teff")]
    assert row["at_80"] == pytest.approx(40 * (1 + 3 * np.exp(-80 / 35)))


def test_factors_and_pulls_of_two_runs_stand_side_by_side(made, tmp_path, capfd):
    """A run and a copy of it with other error models; other figures take one run."""
    other = tmp_path / "other"
    shutil.copytree(made[0], other)
    (other / "acgs.errors.fits").unlink()
    runs = [str(made[0]), str(other)]
    assert report.main(["factors", *runs, "-o", str(tmp_path / "factors-compared.ecsv")]) == 0
    found = table(tmp_path / "factors-compared.ecsv")
    assert found.colnames == ["model", "label", "f_1", "f_2"]
    for row in found:
        assert np.isnan(row["f_2"]) if row["model"] == "ACGS" else row["f_1"] == row["f_2"]
    pulls = sorted(made[0].glob("*.pulls.fits"))
    name = pulls[0].name.removesuffix(".pulls.fits")
    assert report.main(["pulls", *runs, "-o", str(tmp_path / f"pulls-compared-{name}.png"), *SMALL]) == 0
    capfd.readouterr()
    assert report.main(["kiel", *runs, "-o", str(tmp_path / "x.png")]) == 64
    assert "takes one RUN_DIR" in capfd.readouterr().err


def test_summary_is_short_and_says_what_was_asked(made, capsys):
    assert report.main(["summary", str(made[0])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 15 and max(map(len, lines)) < 200
    stars = made[1]
    text = "\n".join(lines)
    assert f"{stars.n_common} common stars, {stars.selected.sum()} of them selected" in text
    assert "MOCK" in lines[0] and "truth (mock)" in text and "galah_scaled.fits (" in text
    d = (made[2]["acgs"].cv - made[2]["acgs"].training)[stars.selected[:stars.n_common], 0]
    (line,) = [x for x in lines if x.startswith("ACGS")]
    assert f"{half_range(d):.0f}/" in line and "/2.1" in line
    assert "far, 1 failed of 280" in text


# --- what is absent, damaged or wrong -------------------------------------------------------------

def test_absent_files_are_named(made, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is the extra `report`")
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(made[0] / "acgs.model.fits", run)
    assert report.main([str(run), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    text = (tmp_path / "out" / "index.html").read_text()
    absent = text[text.index('id="absent"'):]
    for name in ("training.fits", "*_spectra.fits", "*.errors.fits", "*_scaled.fits", "*_catalogue.fits"):
        assert name in absent
    assert "one-to-one-acgs" in text[:text.index('id="absent"')]
    assert report.main(["summary", str(run)]) == 0


@pytest.fixture(scope="module")
def alone(made, tmp_path_factory):
    """(run directory, report of it by one process)."""
    pytest.importorskip("matplotlib", reason="matplotlib is the extra `report`")
    folder = tmp_path_factory.mktemp("alone")
    (folder / "run").mkdir()
    for name in ("acgs.model.fits", "acgs.errors.fits"):
        shutil.copy(made[0] / name, folder / "run")
    assert report.main([str(folder / "run"), "-o", str(folder / "out"), "--threads", "1", "--quiet", *SMALL]) == 0
    return folder / "run", folder / "out"


@pytest.mark.parametrize("broken", [False, True], ids=["with helper", "helper fails"])
def test_second_process_changes_no_byte(alone, tmp_path, command, root, broken):
    """With two threads a helper draws some figures; the report is the same, also where it does not start."""
    env = {"PYTHONPATH": root}
    if broken:
        (tmp_path / "sitecustomize.py").write_text("import sys\nif sys.argv[0] == '-c':\n    sys.exit(1)\n")
        env = {"PYTHONPATH": f"{tmp_path}:{root}"}
    done = command("report", alone[0], "-o", tmp_path / "out", "--threads", "2", "--quiet", *SMALL, env=env)
    assert done.code == 0 and done.err == ""
    one, two = ({str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.*")}
                for out in (alone[1], tmp_path / "out"))
    assert one == two
    assert {"figures/one-to-one-acgs.png", "figures/coefficients-acgs.png", "figures/precision.png"} <= set(one)


def test_damaged_file_is_named_and_the_rest_is_drawn(made, tmp_path, capfd):
    pytest.importorskip("matplotlib", reason="matplotlib is the extra `report`")
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(made[0] / "acgs.model.fits", run)
    data = (made[0] / "training.fits").read_bytes()
    (run / "training.fits").write_bytes(data[:len(data) // 2])
    (run / "gcgs.model.fits").write_bytes((made[0] / "gcgs.errors.fits").read_bytes())
    assert report.main([str(run), "-o", str(tmp_path / "out")]) == 0
    err = capfd.readouterr().err
    assert "training.fits is left out" in err and "a errors file, expected model" in err and "Traceback" not in err
    text = (tmp_path / "out" / "index.html").read_text()
    assert "training.fits" in text[text.index('id="absent"'):]


def test_empty_run_says_what_was_expected(tmp_path, capfd):
    assert report.main([str(tmp_path), "-o", str(tmp_path / "out")]) == 66
    err = capfd.readouterr().err
    assert "training.fits" in err and "*.model.fits" in err and "pipeline.mk" in err
    assert report.main([str(tmp_path / "nowhere"), "-o", str(tmp_path / "out")]) == 66
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments, code, words", [
    (["kiell", "training.fits", "-o", "x.png"], 64, "did you mean 'kiel'"),
    (["kiel", "-o", "x.png"], 64, "kiel of what"),
    (["cuts", "training.fits"], 64, "-o is needed"),
    (["cuts", "training.fits", "-o", "x.jpg"], 64, ".png"),
    (["cuts", "training.fits", "-o", "-"], 64, "standard output"),
    (["flags", "galah_scaled.fits", "-o", "x.png"], 64, "-o x.ecsv"),
    (["one-to-one", "acgs.model.fits", "gcgs.model.fits", "-o", "x.png"], 64, "one-to-one-gcgs.png"),
    (["one-to-one", "training.fits", "-o", "x.png"], 65, "no model"),
    (["galaxy", "nothing.fits", "-o", "x.png"], 66, "nothing.fits"),
    (["cuts", "training.fits", "-o", "no/such/x.png"], 73, "does not exist"),
    (["cuts", "training.fits", "-o", "training.fits.png", "--set", "bins=1"], 64, "bins"),
])
def test_exit_codes(made, monkeypatch, capfd, arguments, code, words):
    monkeypatch.chdir(made[0])
    assert report.main(arguments) == code
    err = capfd.readouterr().err
    assert words in err and "Traceback" not in err and len(err.splitlines()) == 1


def test_outputs_are_not_replaced_unasked(made, tmp_path, capfd):
    pytest.importorskip("matplotlib", reason="matplotlib is the extra `report`")
    source, png = str(made[0] / "training.fits"), tmp_path / "x.png"
    png.write_bytes(b"mine")
    assert report.main(["cuts", source, "-o", str(png)]) == 73 and png.read_bytes() == b"mine"
    assert report.main(["cuts", source, "-o", str(png), "--overwrite"]) == 0 and png.read_bytes().startswith(PNG)
    run, out = tmp_path / "run", tmp_path / "out"
    for folder in (run, out):
        folder.mkdir()
    shutil.copy(made[0] / "acgs.errors.fits", run)
    (out / "thesis.tex").write_text("mine")
    for extra in ([], ["--overwrite"]):
        assert report.main([str(run), "-o", str(out), *extra]) == 73
    assert (out / "thesis.tex").read_text() == "mine" and os.listdir(out) == ["thesis.tex"]
    (out / "thesis.tex").unlink()
    assert report.main([str(run), "-o", str(out)]) == 0
    assert report.main([str(run), "-o", str(out)]) == 73
    assert report.main([str(run), "-o", str(out), "--overwrite"]) == 0
    assert sorted(os.listdir(tmp_path)) == ["out", "run", "x.png"]


def test_dry_run_writes_nothing(made, tmp_path):
    assert report.main([str(made[0]), "-o", str(tmp_path / "out"), "--dry-run"]) == 0
    assert report.main(["cuts", str(made[0] / "training.fits"), "-o", str(tmp_path / "x.png"), "--dry-run"]) == 0
    assert not os.listdir(tmp_path)


def test_other_formats(made, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is the extra `report`")
    for suffix, start in (("pdf", b"%PDF"), ("svg", b"<?xml"), ("ecsv", b"# %ECSV 1.0")):
        path = tmp_path / f"x.{suffix}"
        assert report.main(["cuts", str(made[0] / "training.fits"), "-o", str(path), "--quiet"]) == 0
        assert path.read_bytes().startswith(start)
    cuts = table(tmp_path / "x.ecsv")
    stars = made[1]
    reject = stars.reject[:stars.n_common]
    assert cuts["fails"].tolist() == [int(((reject >> k) & 1).sum()) for k in range(3)]
    assert cuts["cut"].tolist() == list(report_run.REJECT) and cuts.meta["mock"] is True


def test_without_matplotlib(made, tmp_path, start, root):
    """The summary works; a figure is refused with the extra's name, before any work."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')\n")
    env = {"PYTHONPATH": f"{tmp_path}:{root}"}
    program = [sys.executable, root / "bin" / "cc-report"]
    done = start([*program, "cuts", made[0] / "training.fits", "-o", tmp_path / "x.png"], env=env)
    assert done.code == 69 and "cannonkit[report]" in done.err and not (tmp_path / "x.png").exists()
    done = start([*program, made[0], "-o", tmp_path / "out"], env=env)
    assert done.code == 69 and not (tmp_path / "out").exists()
    done = start([*program, "summary", made[0]], env=env)
    assert done.code == 0 and b"common stars" in done.out
    done = start([*program, "cuts", made[0] / "training.fits", "-o", tmp_path / "x.ecsv"], env=env)
    assert done.code == 0


def test_without_a_home(made, tmp_path, start, root):
    pytest.importorskip("matplotlib", reason="matplotlib is the extra `report`")
    done = start([sys.executable, root / "bin" / "cc-report", "cuts", made[0] / "training.fits", "-o",
                  tmp_path / "x.png", "--quiet"], env={"HOME": None, "MPLCONFIGDIR": None})
    assert done.code == 0 and done.err == ""


def test_figures_of_a_directory(made, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is the extra `report`")
    monkeypatch.chdir(tmp_path)
    assert report.main(["one-to-one", str(made[0]), "-o", "one-to-one-gcaa.png", "--quiet"]) == 0
    spectra = str(made[0] / "galah_spectra.fits")
    assert report.main(["spectra", spectra, "-o", "s.png", "--spectra", "3", "--quiet"]) == 0
    assert sorted(os.listdir()) == ["one-to-one-gcaa.png", "s.png"]


def test_isochrones_are_drawn_and_bad_ones_named(made, tmp_path, capfd):
    pytest.importorskip("matplotlib", reason="matplotlib is the extra `report`")
    files = [str(made[0] / n) for n in ("mock/clusters_mock.fits", "galah_scaled.fits")]
    (tmp_path / "NGC 104.csv").write_text("# an isochrone\nteff,logg\n6000,4.2\n5000,3.0\n4500,1.8\n")
    plain, lined = tmp_path / "a.png", tmp_path / "b.png"
    assert report.main(["clusters-kiel", *files, "-o", str(plain), "--quiet"]) == 0
    assert report.main(["clusters-kiel", *files, "-o", str(lined), "--isochrones", str(tmp_path)]) == 0
    assert plain.read_bytes() != lined.read_bytes() and "isochrones from" in capfd.readouterr().err
    (tmp_path / "NGC 104.csv").write_text("teff\n6000\n")
    assert report.main(["clusters-kiel", *files, "-o", str(tmp_path / "c.png"), "--isochrones", str(tmp_path)]) == 65
    assert "NGC 104.csv" in capfd.readouterr().err


def test_a_template_difference_is_drawn_with_the_pairs_and_a_bad_one_named(made, tmp_path, capfd):
    pytest.importorskip("matplotlib", reason="matplotlib is the extra `report`")
    plain, lined, template = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "n08.csv"
    template.write_text("wavelength,difference\n4000,0.0\n5500,-0.02\n9000,0.01\n16000,-0.03\n")
    assert report.main(["pairs", str(made[0]), "-o", str(plain), "--quiet"]) == 0
    assert report.main(["pairs", str(made[0]), "-o", str(lined), "--quiet", "--pair-template", str(template)]) == 0
    assert plain.read_bytes() != lined.read_bytes()
    template.write_text("# of a mock\nwavelength,difference\n4000,0.0\n9000,0.01\n")
    assert report.main(["pairs", str(made[0]), "-o", str(lined), "--overwrite", "--quiet", "--pair-template",
                        str(template)]) == 0
    lines, listed = tmp_path / "lines.csv", tmp_path / "pairs-1.ecsv"
    lines.write_text("wavelength,species\n" + "".join(f"{w:.1f},Xx I\n" for w in np.arange(4000.0, 9000.0, 0.3)))
    assert report.main(["pairs", str(made[0]), "-o", str(listed), "--quiet", "--pair-lines", str(lines)]) == 0
    assert set(np.char.partition(np.array(table(listed)["candidates"], str), " ")[:, 0]) == {"Xx"}
    template.write_text("wavelength\n4000\n")
    assert report.main(["pairs", str(made[0]), "-o", str(tmp_path / "c.png"), "--pair-template", str(template)]) == 65
    assert "n08.csv" in capfd.readouterr().err
    assert report.main(["pairs", str(made[0]), "-o", str(tmp_path / "c.png"), "--pair-template", "none.csv"]) == 66


def test_what_to_be_careful_with_says_what_is_beyond_its_limit_and_nothing_else(made, page):
    folder, text = page
    assert "What to be careful with" in text
    careful = table(folder / "tables" / "careful.ecsv")
    wanted = []
    for name, model in made[2].items():
        d = (model.cv - model.training)[made[1].selected[:made[1].n_common]]
        for label, difference in zip(report_run.LABELS, d.T, strict=True):
            if abs(difference.mean()) > 0.2 * half_range(difference):
                wanted.append((name, label))
    said = [row for row in careful if row["finding"] == "cross-validation bias"]
    assert len(said) == len(wanted) > 0
    assert sorted(row["where"].lower() for row in said) == sorted(name for name, _ in wanted)
    assert all(str(row["number"]).strip() for row in careful if str(row["limit"]).strip())
    # the worst first, by kind and within a kind
    kinds = table(folder / "tables" / "careful-kinds.ecsv")
    assert np.all(np.diff(kinds["times"]) <= 0) and kinds["count"].sum() == len(careful)
    assert list(dict.fromkeys(careful["finding"])) == list(kinds["finding"])
    for kind in kinds:
        own = careful[careful["finding"] == kind["finding"]]
        assert np.all(np.diff(own["times"]) <= 0) and own["times"][0] == kind["times"] and len(own) == kind["count"]


def test_examples_of_the_help_run_as_printed(made, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is the extra `report`")
    monkeypatch.chdir(tmp_path)
    os.mkdir("run")
    shutil.copy(made[0] / "acgs.model.fits", "run")
    examples = [line.strip() for line in report.__doc__.partition("Examples:")[2].strip().splitlines()]
    assert len(examples) == 3
    for example in examples:
        program, *arguments = shlex.split(example)
        assert program == "cc-report" and report.main(arguments) == 0
    assert os.path.exists("run/report/index.html") and os.path.exists("one-to-one.png")
