"""Rows 5 to 14, 20, 21, 23 and 24: values, stars, identifiers, grids, columns, tables, models, settings, same bytes."""

import gzip
import os
import pickle

import numpy as np
import pytest
from faults import rewriting

from cannonkit import fits, schema, stream

LABELS = ("teff", "logg", "fe_h")
ODD = {
    "NaN flux": (np.nan, 1e4),
    "inf flux": (np.inf, 1e4),
    "-inf flux": (-np.inf, 1e4),
    "NaN ivar": (1.0, np.nan),
    "inf ivar": (1.0, np.inf),
    "negative ivar": (1.0, -1.0),
    "zero ivar": (1.0, 0.0),
    "subnormal ivar": (1.0, 1e-40),
    "1e38 ivar": (1.0, 1e38),
    "1e38 flux": (1e38, 1e4),
}
MASKED = ("NaN flux", "inf flux", "-inf flux", "NaN ivar", "inf ivar", "negative ivar")


def read(path):
    with stream.open_source(path, verify=True) as source:
        return source.read()


def sums(path):
    with stream.open_source(path, verify=True) as source:
        return source.datasums()


def others_are_the_same(path, base, star):
    """None, or what differs in the rows of other stars."""
    ours, keep = read(path), np.arange(len(base)) != star
    return None if ours[keep].tobytes() == base[keep].tobytes() else "another star's row changed"


def spoil(star, pixels, flux, ivar):
    def change(rows):
        rows["flux"][star, pixels], rows["ivar"][star, pixels] = flux, ivar
        return rows

    return change


def test_odd_pixels(world, tool, play, judge):
    """Odd flux and ivar in three pixels of a star: masked, counted or used; nobody else's numbers move."""
    verdict = judge(5)
    star, pixels, base = 70, slice(10, 13), read(world["labels"])
    play(
        "infer",
        rewriting.product(world["spectra"], play.folder / "s.fits", spoil(star, pixels, 1.0, 0.0)),
        "-m",
        world["model"],
        "-o",
        "masked.fits",
    )
    masked = read(play.folder / "masked.fits")[star]
    for what, (flux, ivar) in ODD.items():
        rewriting.product(world["spectra"], play.folder / "s.fits", spoil(star, pixels, flux, ivar))
        answer = play("infer", "s.fits", "-m", world["model"], "-o", "l.fits", "--overwrite")
        problem = None
        if answer.code == 0:
            row = read(play.folder / "l.fits")[star]
            problem = others_are_the_same(play.folder / "l.fits", base, star)
            values = [row[n] for n in LABELS]
            if row["status"] == 0 and not np.isfinite(values).all():
                problem = f"status 0 with labels {values}"
            if what in MASKED and not np.array_equal(values, [masked[n] for n in LABELS], equal_nan=True):
                problem = f"{values}: not as with these pixels masked"
        verdict.done(f"infer, {what}", answer, problem)
        answer = play(*world.train("s.fits", world["stars"]), "-o", "m.fits", "--overwrite")
        if answer.code == 0:
            with stream.open_source(play.folder / "m.fits") as source:
                finite = np.isfinite(source.extensions["THETA"].data).all()
            problem = None if finite else "theta is not finite"
        verdict.done(f"train, {what}", answer, problem)
    star_rows = {"resample": "stars"}
    for what, (flux, ivar) in ODD.items():
        folder = _survey_files(world, play, lambda f, s, flux=flux, ivar=ivar: _put(f, s, flux, ivar))
        answer = play(
            "resample",
            world[star_rows["resample"]],
            "--recipe",
            world["recipe"],
            "--root",
            folder,
            "-o",
            "r.fits",
            "--overwrite",
        )
        rows = read(play.folder / "r.fits") if answer.code == 0 else None
        problem = None
        if rows is not None and not (
            np.isfinite(rows["flux"]).all() and np.isfinite(rows["ivar"]).all() and (rows["ivar"] >= 0).all()
        ):
            problem = "flux or ivar that is not a number came out"
        if rows is not None and problem is None:
            before = read(world["spectra"])
            keep = np.arange(len(rows)) != 70
            problem = None if rows[keep].tobytes() == before[keep].tobytes() else "another star's row changed"
        verdict.done(f"resample, {what}", answer, problem)


def _put(flux, sigma, value, ivar):
    with np.errstate(all="ignore"):
        flux[70, 10:13], sigma[70, 10:13] = value, np.where(ivar < 0, -1.0, 1 / np.sqrt(np.abs(np.float64(ivar))))


def _survey_files(world, play, change):
    from astropy.io import fits as af

    folder = play.folder / "root"
    folder.mkdir(exist_ok=True)
    with af.open(world["spectra_file"]) as hdus:
        flux, sigma = hdus["FLUX"].data.copy(), hdus["SIGMA"].data.copy()
    change(flux, sigma)
    af.HDUList([af.PrimaryHDU(), af.ImageHDU(flux, name="FLUX"), af.ImageHDU(sigma, name="SIGMA")]).writeto(
        folder / "toy_spectra.fits", overwrite=True
    )
    return folder


@pytest.mark.parametrize("good", [0, 1, 2, 3])
def test_stars_with_few_pixels(world, play, judge, good):
    """0, 1, k-1 and k good pixels for k labels: the row stays; no labels and a status, or finite labels."""
    verdict = judge(6)
    star, base = 70, read(world["labels"])
    masked = np.ones(40, bool)
    masked[:good] = False
    rewriting.product(world["spectra"], play.folder / "s.fits", spoil(star, masked, 1.0, 0.0))
    answer = play("infer", "s.fits", "-m", world["model"], "-o", "l.fits")
    row = read(play.folder / "l.fits")[star]
    problem = others_are_the_same(play.folder / "l.fits", base, star)
    nothing = all(np.isnan(row[n]) for n in LABELS)
    if row["status"] == 0 or (good < 3 and not nothing):
        problem = f"status {row['status']}, labels {[row[n] for n in LABELS]}"
    verdict.done(f"infer, {good} good pixels", answer, problem)
    answer = play("infer", "s.fits", "-m", world["model"], "-o", "l2.fits", "--max-failed", "0")
    if nothing:
        verdict.check(
            "--max-failed 0: written, and 1",
            answer.code == 1 and len(read(play.folder / "l2.fits")) == len(base),
            repr(answer),
        )
    for name, arguments in (("flag", ["-m", world["model"]]), ("apply", ["--errors", world["errors"]])):
        command = ["errors", "apply"] if name == "apply" else [name]
        source = "l.fits" if name == "flag" else "flag.fits"
        answer = play(*command, source, *arguments, "-o", f"{name}.fits")
        kept = read(play.folder / f"{name}.fits")[star] if answer.code == 0 else None
        problem = None
        if kept is not None and nothing:
            problem = (
                None
                if (name != "flag" or kept["flag_cannon_dist"] == 1) and (name != "apply" or np.isnan(kept["err_teff"]))
                else f"not flagged: {kept}"
            )
        verdict.done(f"{name} of that star", answer, problem)


def test_training_that_cannot_work(world, play, judge):
    verdict = judge(7)
    before_files = []

    def training(what, spectra=None, stars=None, code=65, words=()):
        spectra = rewriting.product(world["spectra"], play.folder / "s.fits", spectra) if spectra else world["spectra"]
        stars = rewriting.product(world["stars"], play.folder / "t.fits", stars) if stars else world["stars"]
        before_files[:] = play.files()
        answer = play(*world.train(spectra, stars), "-o", "m.fits")
        if code:
            verdict.refused(what, answer, code, words, play, list(before_files))
        else:
            problem = None
            if answer.code == 0:
                with stream.open_source(play.folder / "m.fits") as source:
                    theta, s2 = (source.extensions[x].data for x in ("THETA", "S2"))
                unusable = np.isinf(s2)
                if not np.isfinite(theta).all() or (theta[unusable] != 0).any() or np.isnan(s2).any():
                    problem = "theta or s2 is not a number"
                if what == "pixel masked in all stars" and not unusable[7]:
                    problem = "the masked pixel counts as usable"
                (play.folder / "m.fits").unlink()
            verdict.done(what, answer, problem)

    def column(name, value):
        def change(rows):
            rows[name] = value
            return rows

        return change

    training("constant label", stars=column("toy_fe_h", -0.5), words=["fe_h"])
    training("label that is NaN everywhere", stars=column("toy_fe_h", np.nan))
    training("fewer stars than terms", stars=lambda rows: rows[:8])
    training("no star", stars=lambda rows: rows[:0])
    training("none selected", stars=column("selected", 0), words=["selected"])
    training("another survey's ids", stars=column("toy_id", b"nobody"))
    training("the same star twice", stars=lambda rows: np.r_[rows, rows[3:4]], words=["two"])
    training("all pixels masked", spectra=column("ivar", 0.0), words=["usable"])
    training("a pixel without variance", spectra=lambda rows: spoil(slice(None), 7, 1.0, 1e4)(rows), code=0)
    training("pixel masked in all stars", spectra=lambda rows: spoil(slice(None), 7, 1.0, 0.0)(rows), code=0)
    training("one star without pixels", spectra=lambda rows: spoil(5, slice(None), 1.0, 0.0)(rows), code=0)
    training("one label dependent on others", stars=lambda rows: _dependent(rows), code=0)


def _dependent(rows):
    x = (rows["toy_teff"] - 5200) / 2000
    rows["toy_logg"] = 3 + 0.5 * x
    return rows


def test_identifiers(world, play, judge):
    """Whole numbers as identifiers stay exact; doubled ones are refused where one is looked up."""
    verdict = judge(8)
    odd = np.array([0, -1, 2**63 - 1, 1 - 2**63, 2**53 + 1], "i8")

    def numbers(name, values):
        if name != "toy_id":
            return values
        new = np.arange(len(values), dtype="i8") + 1000
        new[:5] = odd
        return new

    rewriting.catalogue(world["toy"], play.folder / "c.fits", numbers)
    answer = play("crossmatch", "c.fits", "--recipe", world["recipe"], "-o", "t.fits")
    found = schema.text(read(play.folder / "t.fits")["toy_id"])[:5].tolist() if answer.code == 0 else []
    verdict.done("int64 identifiers", answer, None if found == [str(k) for k in odd] else f"came out as {found}")
    answer = play(
        "crossmatch",
        rewriting.catalogue(
            world["toy"], play.folder / "c.fits", lambda n, v: np.char.add(v, b"  ") if n == "toy_id" else v
        ),
        "--recipe",
        world["recipe"],
        "-o",
        "t.fits",
        "--overwrite",
    )
    same = answer.code == 0 and schema.text(read(play.folder / "t.fits")["toy_id"])[0] == "T0000"
    verdict.done("trailing blanks", answer, None if same else "blanks are part of the identifier")
    answer = play(
        "crossmatch",
        rewriting.catalogue(
            world["toy"], play.folder / "c.fits", lambda n, v: np.full(len(v), 1.5) if n == "toy_id" else v
        ),
        "--recipe",
        world["recipe"],
        "-o",
        "x.fits",
    )
    verdict.refused("identifiers that are no whole numbers", answer, 65, ["c.fits", "toy_id"])
    double = rewriting.product(world["stars"], play.folder / "d.fits", lambda rows: np.r_[rows, rows[:1]][::-1])
    answer = play(
        "flag", world["labels"], "-m", world["model"], "--survey", double, "--recipe", world["recipe"], "-o", "f.fits"
    )
    verdict.refused("the same identifier twice in a survey's table", answer, 65, ["d.fits"])
    (play.folder / "f.fits").unlink(missing_ok=True)
    missing = rewriting.product(world["stars"], play.folder / "d.fits", lambda rows: rows[:-3])
    answer = play(
        "flag", world["labels"], "-m", world["model"], "--survey", missing, "--recipe", world["recipe"], "-o", "f.fits"
    )
    problem = (
        None if answer.code or len(read(play.folder / "f.fits")) == len(read(world["labels"])) else "rows are lost"
    )
    verdict.done("stars that the survey's table lacks", answer, problem)


def test_grids(world, play, judge):
    """Another grid or medium than the model's: 65 with both."""
    wavelength = 5000.0 + np.arange(40)
    grids = {
        "half a pixel off": (10, wavelength + 0.5),
        "one pixel off": (10, wavelength + 1),
        "reversed": (10, wavelength[::-1]),
        "not increasing": (10, np.where(np.arange(40) == 7, 5005, wavelength)),
        "NaN": (10, np.where(np.arange(40) == 7, np.nan, wavelength)),
        "infinite": (10, wavelength * np.inf),
        "nanometres": (9, wavelength / 10),
        "log10": (9, np.log10(wavelength)),
        "metres": (9, wavelength * 1e-10),
        "micrometres": (9, wavelength * 1e-4),
    }
    for what, (row, grid) in grids.items():

        def change(name, data, grid=grid):
            if name == "WAVELENGTH":
                data["wavelength"] = grid
            return data

        rewriting.product(world["spectra"], play.folder / "s.fits", extensions=change)
        before = play.files()
        for line in (
            ["infer", "s.fits", "-m", world["model"]],
            [*world.train("s.fits", world["stars"], "--scatter-from", world["model"])],
        ):
            judge(row).refused(f"{line[0]}, {what}", play(*line, "-o", "out.fits"), 65, ["s.fits"], play, before)
    verdict = judge(10)
    verdict.refused(
        "other length", play("infer", _shorter(world, play), "-m", world["model"], "-o", "out.fits"), 65, []
    )
    with stream.open_source(world["spectra"]) as source:
        small = dict(source.extensions["WAVELENGTH"].header)
    assert small["MEDIUM"] == "air"
    data = world["spectra"].read_bytes()
    for medium in (b"vacuum", b""):
        (play.folder / "v.fits").write_bytes(_medium(data, medium))
        judge(9).refused(f"medium {medium!r}", play("infer", "v.fits", "-m", world["model"], "-o", "out.fits"), 65, [])


def _shorter(world, play):
    def columns(found):
        return [schema.Column(c.name, c.dtype, shape=(39,)) if c.name in ("flux", "ivar") else c for c in found]

    with stream.open_source(world["spectra"]) as source:
        rows, table = source.read(), schema.Table("SPECTRA", tuple(columns(list(source.table.columns))))
        out = np.zeros(len(rows), table.dtype)
        for n in table.names:
            out[n] = rows[n][:, :39] if n in ("flux", "ivar") else rows[n]
        e = source.extensions["WAVELENGTH"]
        header = {"SURVEY": "toy", "MEDIUM": "air"}
        with stream.create(
            play.folder / "short.fits",
            "spectra",
            table,
            len(out),
            [stream.Extension("WAVELENGTH", e.data[:39], e.table, {"MEDIUM": "air"})],
            header,
        ) as file:
            file.write(out)
    return play.folder / "short.fits"


def _medium(data, medium):
    """The spectra with another MEDIUM, with right checksums again."""
    with_medium = data.replace(b"MEDIUM  = 'air     '", b"MEDIUM  = '%-8s'" % medium)
    out, at = bytearray(with_medium), 0
    while at < len(out):
        end = at
        while not any(out[end + i : end + i + 80].rstrip() == b"END" for i in range(0, 2880, 80)):
            end += 2880
        end += 2880
        head = fits.parse_header(out[at:end].decode("latin-1"), "x")
        hdu = fits.Hdu(head, 0 if at == 0 else 1, "x")
        text = bytes(out[at:end])
        old = f"CHECKSUM= '{head['CHECKSUM']}'".encode()
        zero = text.replace(old, b"CHECKSUM= '0000000000000000'")
        total = fits.Sum()
        total.add(zero)
        total._fold(int(head["DATASUM"]))
        out[at:end] = zero.replace(
            b"CHECKSUM= '0000000000000000'", f"CHECKSUM= '{fits.checksum_text(total.value)}'".encode()
        )
        at = end + hdu.padded_size
    return bytes(out)


# --- columns and tables -----------------------------------------------------------------------------


def test_columns_of_products(world, play, judge):
    verdict = judge(11)

    def without(name):
        return lambda found: [c for c in found if c.name != name]

    def renamed(name, new):
        return lambda found: [schema.Column(new, c.dtype, shape=c.shape) if c.name == name else c for c in found]

    def typed(name, dtype, shape=None):
        return lambda found: [
            schema.Column(name, dtype, shape=c.shape if shape is None else shape) if c.name == name else c
            for c in found
        ]

    lines = {
        "flag": ["flag", "x.fits", "-m", world["model"]],
        "infer": ["infer", "x.fits", "-m", world["model"]],
        "train": list(world.train("x.fits", world["stars"])),
        "calibrate": ["errors", "calibrate", "x.fits"],
        "apply": ["errors", "apply", "x.fits", "--errors", world["errors"]],
    }
    cases = [
        ("flag", "labels", "teff", ("without", "renamed", "text", "shape")),
        ("infer", "spectra", "flux", ("without", "text", "shape")),
        ("infer", "spectra", "ivar", ("without", "renamed", "complex")),
        ("train", "spectra", "flux", ("without", "shape", "text")),
        ("train", "spectra", "id", ("without", "number")),
        ("calibrate", "repeat_labels", "cov", ("without", "shape", "text")),
        ("calibrate", "repeat_labels", "star_id", ("without",)),
        ("apply", "flagged", "cov", ("without", "shape", "text")),
        ("apply", "flagged", "snr_survey", ("without", "text")),
        ("flag", "labels", "star_id", ("without",)),
    ]
    for command, source, column, ways in cases:
        for way in ways:
            change = {
                "without": without(column),
                "renamed": renamed(column, column.upper() + "_"),
                "text": typed(column, "S8", ()),
                "shape": typed(column, "f4", (2,)),
                "complex": typed(column, "i4", ()),
                "number": typed(column, "f8", ()),
            }[way]
            rewriting.product(world[source], play.folder / "x.fits", columns=change)
            before = play.files()
            verdict.refused(
                f"{command}: {column} {way}",
                play(*lines[command], "-o", "out.fits"),
                65,
                ["x.fits", column],
                play,
                before,
            )
            (play.folder / "out.fits").unlink(missing_ok=True)


def test_columns_of_catalogues(world, play, judge):
    """Names in another case and other number types give the same; absent, near and text ones are named."""
    verdict = judge(11)
    line = ["crossmatch", "c.fits", "--recipe", world["recipe"], "-o", "t.fits", "--overwrite"]
    play(*line[:1], world["toy"], *line[2:])
    good = read(play.folder / "t.fits")
    for what, change in (
        ("upper case", lambda p: [(n.upper(), v) for n, v in p]),
        ("other order", lambda p: p[::-1]),
        ("unused columns", lambda p: [*p, ("x", np.zeros((len(p[0][1]), 3), "i2"))]),
    ):
        rewriting.catalogue(world["toy"], play.folder / "c.fits", columns=change)
        answer = play(*line)
        verdict.done(
            what,
            answer,
            None if answer.code or read(play.folder / "t.fits").tobytes() == good.tobytes() else "other values",
        )
    for kind in ("f4", "i4", "i2", "u1"):

        def narrow(name, values, kind=kind):
            return values.astype(kind) if name == "snr" else values

        rewriting.catalogue(world["toy"], play.folder / "c.fits", narrow)
        answer = play(*line)
        expected = good["toy_snr"].astype(kind).astype("f8")
        verdict.done(
            f"snr as {kind}",
            answer,
            None
            if answer.code or np.allclose(read(play.folder / "t.fits")["toy_snr"], expected, rtol=1e-6)
            else "other values",
        )
    for name in ("teff", "toy_id", "ra", "snr", "e_teff"):
        for what, change in (
            ("absent", lambda p, n=name: [x for x in p if x[0] != n]),
            ("near miss", lambda p, n=name: [(n + "_x" if x[0] == n else x[0], x[1]) for x in p]),
            ("text", lambda p, n=name: [(k, np.full(len(v), b"abc") if k == n else v) for k, v in p]),
            ("a vector", lambda p, n=name: [(k, np.zeros((len(v), 3)) if k == n else v) for k, v in p]),
        ):
            if (what, name) == ("text", "toy_id"):
                continue
            rewriting.catalogue(world["toy"], play.folder / "c.fits", columns=change)
            before = play.files()
            answer = play(*line)
            if answer.code == 0 and name in ("snr", "ra", "e_teff") and what in ("absent", "near miss"):
                verdict.check(
                    f"{name} {what}: null",
                    np.isnan(read(play.folder / "t.fits")[f"toy_{'snr' if name == 'snr' else name}"]).all(),
                    "values from nowhere",
                )
            else:
                verdict.refused(f"{name} {what}", answer, 65, ["c.fits", name], play, before)


def test_odd_tables(world, play, judge):
    verdict = judge(12)
    line = ["crossmatch", "c.fits", "--recipe", world["recipe"], "-o", "t.fits", "--overwrite"]

    def halves(name, values):
        return (2 * values).astype("i2") if name == "snr" else values.astype("i4") if name == "teff" else values

    with stream.open_source(world["toy"]) as source:
        names, base = list(source.columns), source.read()
    at = {n: k for k, n in enumerate(names, 1)}
    rewriting.catalogue(
        world["toy"],
        play.folder / "c.fits",
        halves,
        {f"TSCAL{at['snr']}": 0.5, f"TNULL{at['teff']}": int(base["teff"][4])},
    )
    answer = play(*line)
    rows = read(play.folder / "t.fits")
    right = (
        np.allclose(rows["toy_snr"], (2 * base["snr"]).astype("i2") * 0.5)
        and np.isnan(rows["toy_teff"][4])
        and np.allclose(np.delete(rows["toy_teff"], 4), np.delete(base["teff"].astype("i4"), 4))
        and np.allclose(rows["toy_logg"], base["logg"])
    )
    verdict.done("scaled integers and TNULL", answer, None if right else "wrong values")
    (play.folder / "t.fits").unlink()
    rewriting.catalogue(world["toy"], play.folder / "c.fits")
    plain = (play.folder / "c.fits").read_bytes()
    before = play.files()
    form, double = f"TFORM{at['star']}".encode(), f"TFORM{at['teff']}".encode()
    forms = {
        "20A2": (b"%-8s= '8A      '" % form, b"%-8s= '8A2     '" % form),
        "heap": (b"%-8s= '1D      '" % double, b"%-8s= '1PD(3)  '" % double),
        "bits": (b"%-8s= '1D      '" % double, b"%-8s= '64X     '" % double),
        "complex": (b"%-8s= '1D      '" % double, b"%-8s= '1C      '" % double),
        "unknown": (b"%-8s= '1D      '" % double, b"%-8s= '1Z      '" % double),
        "blank name": (b"'teff    '", b"'        '"),
        "doubled name": (b"'teff    '", b"'logg    '"),
        "equal but for case": (b"'teff    '", b"'LOGG    '"),
    }
    for what, (old, new) in forms.items():
        assert old in plain, what
        (play.folder / "c.fits").write_bytes(plain.replace(old, new))
        verdict.refused(what, play(*line), 65, ["c.fits"], play, before)
        (play.folder / "t.fits").unlink(missing_ok=True)
    table = schema.Table("EMPTY", (schema.Column("a", "f8"),))
    (play.folder / "c.fits").write_bytes(
        (fits.primary_hdu() + fits.table_hdu(table, np.zeros(0, table.dtype)))
        .replace(b"TFIELDS =                    1", b"TFIELDS =                    0")
        .replace(b"NAXIS1  =                    8", b"NAXIS1  =                    0")
    )
    verdict.refused("no columns", play(*line), 65, ["c.fits"], play, before)
    text = (
        world["recipe"]
        .read_text()
        .replace("file: toy_spectra.fits", 'file: "{spectrum}"')
        .replace('    row: "{spectrum}"', "    row: '1'")
    )
    (play.folder / "paths.yaml").write_text(text)
    (play.folder / "root").mkdir()
    (play.folder / "secret.fits").write_bytes(world["spectra_file"].read_bytes())
    for path in ("../secret.fits", str(play.folder / "secret.fits"), "x/../../secret.fits", "/dev/zero", "a\nb"):

        def there(rows, path=path):
            rows = rows.astype([(n, "S200" if n == "toy_spectrum" else rows.dtype[n]) for n in rows.dtype.names])
            rows["toy_spectrum"] = os.fsencode(path)
            return rows

        with stream.open_source(world["stars"]) as source:
            table = schema.Table(
                "TRAINING",
                tuple(
                    schema.Column(c.name, "S200" if c.name == "toy_spectrum" else c.dtype, shape=c.shape)
                    for c in source.table.columns
                ),
            )
            rows = there(source.read())
        with stream.create(
            play.folder / "p.fits", "training", table, len(rows), [], {"SURVEY": "toy"}, overwrite=True
        ) as out:
            out.write(rows)
        answer = play("resample", "p.fits", "--recipe", "paths.yaml", "--root", "root", "-o", "r.fits", "--overwrite")
        if answer.code == 0:
            verdict.done(
                f"path {path!r}",
                answer,
                None if (read(play.folder / "r.fits")["ivar"] == 0).all() else "a file outside --root was read",
            )
        else:
            verdict.refused(f"path {path!r}", answer, 65)


def test_sizes(world, tools, tool, play, judge, many):
    """0 and 1 rows work where they can; lies about the size are refused."""
    verdict = judge(13)
    for n in (0, 1):
        for name in tools:
            if name == "merge":
                continue
            source = world[tools[name][1]]
            if name == "crossmatch":
                with stream.open_source(source) as found:
                    rows, table = found.read()[:n], found.table
                (play.folder / "x.fits").write_bytes(fits.primary_hdu() + fits.table_hdu(table, rows))
            else:
                rewriting.product(source, play.folder / "x.fits", lambda rows, n=n: rows[:n])
            before = play.files()
            answer = play(*tool(name, "x.fits"), "-o", "out.fits")
            if name == "train" or answer.code != 0 and name == "calibrate":
                verdict.refused(f"{name}, {n} rows", answer, 65, [], play, before)
            else:
                problem = None
                if answer.code == 0 and name != "calibrate" and len(read(play.folder / "out.fits")) != n:
                    problem = "another number of rows"
                verdict.done(f"{name}, {n} rows", answer, problem)
            (play.folder / "out.fits").unlink(missing_ok=True)
    plain = rewriting.catalogue(world["toy"], play.folder / "c.fits").read_bytes()
    line = ["crossmatch", "c.fits", "--recipe", world["recipe"], "-o", "t.fits"]
    before = play.files()
    for n in (2**31 + 5, 10**12, 2**62, -1):
        (play.folder / "c.fits").write_bytes(plain.replace(b"NAXIS2  = %20d" % 160, b"NAXIS2  = %20d" % n))
        verdict.refused(f"NAXIS2 = {n}", play(*line), 65, ["c.fits"], play, before)
        verdict.refused(
            f"NAXIS2 = {n}, pipe",
            play("crossmatch", "-", *line[2:], stdin=play.folder / "c.fits"),
            65,
            [],
            play,
            before,
        )
    (play.folder / "c.fits").write_bytes(plain)
    with open(play.folder / "c.fits", "r+b") as file:
        width = sum(np.dtype(c.dtype).itemsize for c in stream.open_source(world["toy"]).table.columns)
        rows = 2**31 + 5
        file.write(
            plain[: plain.index(b"XTENSION")]
            + plain[plain.index(b"XTENSION") :].replace(b"NAXIS2  = %20d" % 160, b"NAXIS2  = %20d" % rows)
        )
        start = fits.walk(file.fileno(), "c", last=0)[0].data_start
        header = -(-(plain.index(b"END" + b" " * 77, start) + 80) // 2880) * 2880
        file.truncate(header + -(-rows * width // 2880) * 2880)
    answer = play("check", "c.fits")
    verdict.done("a sparse file of 2^31+5 rows", answer, None if b"2147483653 rows" in answer.out else repr(answer))
    for n, code in ((999, 0), (1000, 65)):
        extra = [(f"x{k}", np.zeros(160, "u1")) for k in range(n - 11)]
        try:
            rewriting.catalogue(world["toy"], play.folder / "c.fits", columns=lambda p, e=extra, n=n: [*p, *e][:n])
            wrote = 0
        except Exception as error:
            wrote = getattr(error, "code", 70)
        verdict.check(f"{n} columns", wrote == code, f"code {wrote}")
        if code == 0:
            verdict.done(f"{n} columns are read", play(*line, "--overwrite"))


def test_containers(world, play, judge):
    """gz, tile-compressed, fits-plus, a table further back, ASCII tables."""
    from astropy.io import fits as af

    verdict = judge(14)
    line = ["--recipe", world["recipe"], "-o", "t.fits", "--overwrite"]
    play("crossmatch", world["toy"], *line)
    good = sums(play.folder / "t.fits")
    data = world["toy"].read_bytes()
    (play.folder / "c.fits.gz").write_bytes(gzip.compress(data))
    for what, keywords in (
        ("gz", {}),
        ("gz in a pipe", {"stdin": play.folder / "c.fits.gz"}),
        ("< file", {"stdin": {"file": str(world["toy"])}}),
        ("foreign pipe", {"stdin": world["toy"]}),
    ):
        answer = play("crossmatch", "-" if keywords else "c.fits.gz", *line, **keywords)
        verdict.done(what, answer, None if answer.code or sums(play.folder / "t.fits") == good else "other values")
    with af.open(world["toy"]) as hdus:
        table = hdus[1].copy()
        af.HDUList([af.PrimaryHDU(np.arange(9, dtype="u1")), table]).writeto(play.folder / "plus.fits")
        answer = play("crossmatch", "plus.fits", *line)
        verdict.done(
            "fits-plus", answer, None if answer.code or sums(play.folder / "t.fits") == good else "other values"
        )
        af.HDUList([af.PrimaryHDU(), af.ImageHDU(np.zeros((2, 2))), table]).writeto(play.folder / "third.fits")
        answer = play("crossmatch", "third.fits", *line)
        verdict.done(
            "behind an image", answer, None if answer.code or sums(play.folder / "t.fits") == good else "other"
        )
        before = play.files()
        columns = [af.Column("teff", "F10.2", array=[1.0, 2.0])]
        af.TableHDU.from_columns(columns).writeto(play.folder / "ascii.fits")
        af.HDUList([af.PrimaryHDU(), af.CompImageHDU(np.zeros((20, 20), "i2"))]).writeto(play.folder / "x.fits.fz")
        before = play.files()
        for name in ("ascii.fits", "x.fits.fz"):
            verdict.refused(name, play("crossmatch", name, *line), 65, [name], play, before)
        af.PrimaryHDU(np.zeros((3, 3))).writeto(play.folder / "image.fits")
        before = play.files()
        verdict.refused("only an image", play("crossmatch", "image.fits", *line), 65, ["image.fits"], play, before)


# --- settings, models, text -------------------------------------------------------------------------

YAML = {
    "unknown key": "flag:\n  nearst: 3\n",
    "unknown section": "flagg:\n  nearest: 3\n",
    "duplicate key": "flag:\n  nearest: 3\n  nearest: 4\n",
    "a boolean for a number": "flag:\n  nearest: yes\n",
    "a text for a number": "flag:\n  limit: high\n",
    "octal as of old": "flag:\n  limit: 0x1p3\n",
    "a time": "flag:\n  limit: 12:30:00\n",
    "tab": "flag:\n\tnearest: 3\n",
    "two documents": "flag: {nearest: 3}\n---\nflag: {nearest: 4}\n",
    "list": "- 1\n- 2\n",
    "NUL": "flag:\n  nearest: 3\x00\n",
    "not UTF-8": b"flag:\n  metric: \xff\xfe\n",
    "python": "flag: !!python/object/apply:os.system ['touch x']\n",
    "alias": "a: &a [1]\nflag: *a\n",
    "merge": "a: &a {nearest: 3}\nflag:\n  <<: *a\n",
    "deep": "flag: " + "[" * 3000,
    "out of range": "flag:\n  nearest: 0\n",
    "not a number": "flag:\n  limit: .nan\n",
}


@pytest.mark.parametrize("what", YAML)
def test_yaml(world, play, judge, what):
    text = YAML[what]
    (play.folder / "run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = play.files()
    judge(20).refused(
        what,
        play("flag", world["labels"], "-m", world["model"], "--config", "run.yaml", "-o", "out.fits"),
        78,
        ["run.yaml"],
        play,
        before,
    )


WRONG = {     # tool: (options, what they stand for in a settings file or None, code of the options)
    "infer": [
        ("--starts=-1", "starts: -1", 64),
        ("--starts=x", "starts: x", 64),
        ("--fix=teff", "fix: [teff]", 64),
        ("--set=prior={teff: [1, -2]}", "prior: {teff: [1, -2]}", 64),
        ("--set=strts=3", "strts: 3", 64),
        ("--set=starts=[", None, 64),
        ("--set=prior={mass: [1, 2]}", None, 65),
        ("--config=absent.yaml", None, 66),
    ],
    "train": [
        ("--order=4", "order: 4", 64),
        ("--cross-validate=1", "cross_validate: 1", 64),
        ("--ivar-scale=-1", 'ivar_scale: "-1"', 64),
        ("--components=many", "components: many", 64),
        ("--components=3 --l1=1", 'components: "3"\n  l1: 1', 64),
        ("--l1-grid=0,1 --cross-validate=0", "l1_grid: [0, 1]\n  cross_validate: 0", 64),
        ("--set=bounds={teff: [2, 1]}", "bounds: {teff: [2, 1]}", 64),
        ("--set=censor={teff: [Fe]}", "censor: {teff: [Fe]}", 64),
        ("--group=absent", None, 65),
        ("--labels=absent", None, 65),
        ("--cross-validate=5000", None, 65),
    ],
    "flag": [
        ("--nearest=0", "nearest: 0", 64),
        ("--metric=rot", "metric: rot", 64),
        ("--labels=mass", None, 65),
        ("--recipe=RECIPE", None, 64),
    ],
    "calibrate": [
        ("--label-column=x", "label_column: x", 64),
        ("--covariance=", 'covariance: ""', 64),
        ("--rows=x", "rows: x", 64),
        ("--against=a,b", "against: [a, b]", 64),
        ("--holdout=1", "holdout: 1", 64),
        ("--set=scales={mass: 1}", None, 65),
        ("--star-column=absent", None, 65),
    ],
    "crossmatch": [
        ("--select=absent", "select: absent", 64),
        ("--left-position=here", "left_position: here", 64),
        ("--radius=4000", "radius: 4000", 64),
        ("--recipe=absent", None, 66),
    ],
    "resample": [
        ("--method=best", "method: best", 64),
        ("--visits=none", "visits: none", 64),
        ("--root=absent", None, 66),
    ],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_and_settings(world, tools, tool, play, judge, name):
    """What is wrong with the command line is 64, with a settings file 78; what the inputs lack is 65."""
    verdict = judge(20)
    line = tool(name, world[tools[name][1]])
    if name == "train":
        line = [a for a in line if a not in ("--cross-validate", "4")]
    section = "errors" if name == "calibrate" else name
    for options, setting, code in WRONG[name]:
        given = [o.replace("RECIPE", str(world["recipe"])) for o in options.split(" --")]
        given = [given[0], *(f"--{o}" for o in given[1:])]
        before = play.files()
        verdict.refused(f"{name} {options}", play(*line, *given, "-o", "out.fits"), code, [], play, before)
        if setting is not None:
            (play.folder / "run.yaml").write_text(f"{section}:\n  {setting}\n")
            answer = play(*line, "--config", "run.yaml", "-o", "out.fits")
            (play.folder / "run.yaml").unlink()
            needs_values = name == "infer" and "fix" in setting     # --values is no setting
            verdict.refused(
                f"{name}, {setting} in a file", answer, 64 if needs_values else 78, [], play, before)


def test_models(world, play, judge):
    verdict = judge(21)

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(play.folder / "executed"),)

    np.savez(play.folder / "npz.npz", theta=np.array([Bomb()], object))
    (play.folder / "executed").rmdir() if (play.folder / "executed").exists() else None
    (play.folder / "pickle.fits").write_bytes(pickle.dumps(Bomb()))

    def changed(name, change):
        def extension(found, data):
            return change(data) if found == name else data

        return extension

    def model(target, **how):
        return rewriting.product(world["model"], play.folder / target, **how)

    model(
        "nan.fits", extensions=changed("THETA", lambda t: np.where(np.arange(t.size).reshape(t.shape) == 5, np.nan, t))
    )
    model("negative.fits", extensions=changed("S2", lambda s: -s - 1))
    model("nan_s2.fits", extensions=changed("S2", lambda s: s * np.nan))
    model("short.fits", extensions=changed("THETA", lambda t: t[:-1]))
    model("terms.fits", extensions=changed("TERMS", lambda t: t[::-1].copy()))
    model("huge_terms.fits", extensions=changed("TERMS", lambda t: t + 1000))
    model("negative_terms.fits", extensions=changed("TERMS", lambda t: t - 1))

    def names(rows):
        rows["name"] = rows["name"][0]
        return rows

    model("names.fits", extensions=changed("LABELS", names))

    def scales(rows):
        rows["p97_5"] = rows["p2_5"]
        return rows

    model("scales.fits", extensions=changed("LABELS", scales))
    data = world["model"].read_bytes()
    (play.folder / "format.fits").write_bytes(
        data.replace(b"CKFORMAT=                    1", b"CKFORMAT=                    2")
    )
    (play.folder / "labels.fits").write_bytes(world["labels"].read_bytes())
    before = play.files()
    for name in [n for n in before if n not in ("executed",)]:
        (play.folder / "out.fits").unlink(missing_ok=True)
        answer = play("infer", world["spectra"], "-m", name, "-o", "out.fits")
        if name == "terms.fits" and answer.code == 0:
            verdict.done("terms in another order, said so by the file", answer)
            (play.folder / "out.fits").unlink()
            continue
        verdict.refused(f"model {name}", answer, 65, [name], play, before)
    verdict.check("nothing was executed", not (play.folder / "executed").exists())


def test_text(world, play, judge):
    """Newlines, non-ASCII and long texts in settings and names: escaped in headers, as they were in the record."""
    from cannonkit import provenance

    verdict = judge(23)
    for text in (
        "line\nbreak",
        "naïve ★",
        "x" * 500,
        'quote\'s "and" \\ backslash',
        "\x1b[31mred",
        "a & b &",
        "=",
        " lead",
    ):
        answer = play(*world.train(world["spectra"], world["stars"]), "--name", text, "-o", "m.fits", "--overwrite")
        problem = None
        if answer.code == 0:
            with stream.open_source(play.folder / "m.fits", verify=True) as source:
                given = provenance.from_header(source.header)[0]["arguments"]
            problem = None if text in given else f"the record says {given}"
            verdict.done(f"name {text[:20]!r}", answer, problem)
            verdict.done("which cc-check shows", play("check", "--tree", "m.fits"))
        else:
            verdict.refused(f"name {text[:20]!r}", answer, (64, 65, 78))


# --- the same bytes ---------------------------------------------------------------------------------


def test_parts_through_pipes(world, tools, tool, play, judge):
    """Array tasks that pipe cc-resample into cc-infer: the share is cut once, and cc-merge joins the parts."""
    verdict = judge(24)
    for k in range(3):
        task = {"ID": k, "COUNT": 3, "MIN": 0, "MAX": 2}
        env = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in task.items()}
        out = play(*tool("resample", world["stars"]), "-o", "-", env=env)
        verdict.done(f"resample, task {k}", out)
        (play.folder / "s.fits").write_bytes(out.out)
        answer = play(*tool("infer", "-"), "-o", f"l{k}.fits", stdin=play.folder / "s.fits", env=env)
        verdict.done(f"infer, task {k}", answer)
    parts = [f"l{k}.fits" for k in range(3)]
    before = play.files()
    verdict.refused("a part is missing", play("merge", "shards", *parts[1:], "-o", "x.fits"), 65, ["part-00000"],
                    play, before)
    answer = play("merge", "shards", *parts, "-o", "b.fits")
    problem = None if answer.code == 0 and sums(play.folder / "b.fits") == sums(world["labels"]) else "other bytes"
    verdict.done("merge", answer, problem)
    tree = play("check", "--tree", "b.fits").out.decode()
    verdict.check("one branch for all parts", "<- l0.fits and 2 more parts (labels)" in tree
                  and tree.count("cc-infer") == 1, tree)
    verdict.refused("merged is no part", play("merge", "shards", "b.fits", "-o", "x.fits"), 65, ["no part"])


@pytest.mark.parametrize("name", ["resample", "infer", "flag", "apply", "train", "calibrate"])
def test_same_bytes(world, tools, tool, play, judge, many, command, name):
    """Threads, chunks, shards, pipe or file: the DATASUM of every extension is the same."""
    verdict = judge(24)
    source = world[tools[name][1]]
    line = tool(name, source)
    play(*line, "-o", "a.fits")
    good = sums(play.folder / "a.fits")

    def same(what, answer):
        verdict.done(
            f"{name}, {what}", answer, None if answer.code or sums(play.folder / "b.fits") == good else "other bytes"
        )
        (play.folder / "b.fits").unlink(missing_ok=True)

    for chunk in (1, 64, 100, 1000) if name in ("infer", "flag", "apply") else ():
        same(f"chunks of {chunk}", play(*line, "-o", "b.fits", "--chunk", chunk))
    same("pipe", play(*tool(name, "-"), "-o", "b.fits", stdin=source))
    out = play(*line, "-o", "-")
    (play.folder / "b.fits").write_bytes(out.out)
    same("standard output", out)
    if name in ("resample", "infer", "flag", "apply"):
        for n in (1, 3) if not many(0, 1) else (1, 2, 3, 7, 16):
            parts = play.folder / f"parts{n}"
            parts.mkdir()
            for k in range(n):
                verdict.done(f"{name}, shard {k}/{n}", play(*line, "-o", parts, "--shard", f"{k}/{n}"))
            same(f"{n} shards", play("merge", "shards", parts, "-o", "b.fits"))
    if name in ("infer", "train", "resample", "flag") and (many(0, 1) or name == "infer"):
        for threads in (1, 2, 4) if many(0, 1) else (2,):
            done = command(line[0], *line[1:], "-o", play.folder / "b.fits", "--quiet", "--threads", str(threads))
            problem = None if done.code == 0 and sums(play.folder / "b.fits") == good else f"other bytes: {done}"
            verdict.check(f"{name}, {threads} threads", problem is None, problem)
            (play.folder / "b.fits").unlink(missing_ok=True)
    if many(0, 1) and name == "infer":
        cache = play.folder / "cache"
        cache.mkdir(mode=0o700)
        done = command(
            line[0], *line[1:], "-o", play.folder / "b.fits", "--quiet", env={"NUMBA_CACHE_DIR": cache}, timeout=900
        )
        verdict.check("infer, cold cache", done.code == 0 and sums(play.folder / "b.fits") == good, repr(done))
