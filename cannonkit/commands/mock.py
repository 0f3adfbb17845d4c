"""Simulate two surveys of the same sky in their own file layouts, with the truth: a mock, not observed.

--layout survey writes a directory: APOGEE DR16 (allStar, apStar and asStar files) and GALAH DR3 (allstar, allspec,
camera files) catalogues and spectra, Gaia, distance and cluster tables, and truth.fits. --layout catalogues leaves
out the spectra. --layout spectra streams the product that cc-resample makes, at any size in the same memory: of field
stars drawn on the way (--count), or of the spectra that a table names in an earlier mock (--rows, --from).

The spectra come from a line model of its own (Boltzmann, Saha, curve of growth), or from a model of cc-train; the
labels have the offsets of the paper's Table 1.

Examples:
  cc-mock -o mock --common 40 --apogee-only 10 --galah-only 10 --clusters 0 --overwrite
  cc-mock --layout spectra --survey apogee --count 200 --truth truth.fits -o spectra.fits
  cc-mock --print-config
"""
from cannonkit import cli, config

BLOCK = 32
STREAM_BLOCK = 64
RECIPES = {"apogee": "apogee_dr16", "galah": "galah_dr3"}


def build_parser():
    parser = cli.new_parser("cc-mock", __doc__)
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", required=True, metavar="DIR",
                       help="directory to write; it appears only when it is whole. With --layout spectra: a file, or - "
                       "for standard output")
    group.add_argument("--overwrite", action="store_true", help="replace DIR if it holds an earlier mock")
    group.add_argument("--dry-run", action="store_true", help="print what would be written, write nothing")
    group.add_argument("--layout", choices=("survey", "catalogues", "spectra"), default="survey",
                       help="survey: both surveys' files; catalogues: their tables only; spectra: a spectra product")
    group = parser.add_argument_group("with --layout spectra")
    group.add_argument("--survey", choices=tuple(RECIPES), default="apogee", help="whose spectra (default: apogee)")
    group.add_argument("--recipe", metavar="RECIPE", help="its recipe: grid, masks, normalisation (default: that of "
                       "the survey)")
    group.add_argument("--count", type=int, metavar="N", help="so many spectra of field stars, drawn on the way")
    group.add_argument("--truth", metavar="FILE", help="write the truth of --count's spectra, row for row")
    group.add_argument("--rows", metavar="TABLE",
                       help="the spectra that TABLE names (any table that cc-resample takes)")
    group.add_argument("--from", dest="source", metavar="TRUTH", help="truth.fits of the mock that TABLE is about")
    group.add_argument("--generator", choices=("lines", "model"), default="lines",
                       help="lines: the line model; model: draws from --model, with its scatter (only with --count)")
    group.add_argument("--model", metavar="MODEL", help="a model of cc-train, or a foreign one with --model-labels")
    group.add_argument("--model-labels", metavar="TABLE",
                       help="labels of the stars that a foreign model (images THETA, SCATTER, BASELINE, WAVE_VAC) was "
                       "trained on: a text table with columns of the labels' names")
    cli.add_settings(parser, config.Mock)
    return parser


def run(args):
    from cannonkit.directory import new_directory
    from cannonkit.stages import mock

    settings = config.resolve(config.Mock, args)
    _check_options(args)
    if args.layout == "spectra":
        _stream(args, settings)
        return
    plan = mock.plan(settings)
    n_apogee, n_galah = len(plan.apogee.star), len(plan.galah.star)
    files = args.layout == "survey"
    if cli.dry_run(args, apogee_files=n_apogee * files, galah_files=4 * n_galah * files, stars=len(plan.stars)):
        return
    with new_directory(args.output, args.overwrite, "truth.fits") as folder:
        _tables(folder, plan, settings, args)
        if files:
            with cli.Progress(n_apogee + n_galah, "spectra", args) as progress:
                _spectra(folder, plan, settings, args, progress)
    n_star = int((plan.stars["in_apogee"] | plan.stars["in_galah"]).sum())
    common = int((plan.stars["in_apogee"] & plan.stars["in_galah"]).sum())
    cli.log(f"a mock, seed {settings.seed}: {n_apogee} APOGEE and {n_galah} GALAH spectra of "
            f"{n_star} stars, {common} of them in both surveys")


def _check_options(args):
    from cannonkit import errors

    given = [name for name in ("count", "truth", "rows", "source", "model", "model_labels", "recipe")
             if getattr(args, name) is not None]
    if args.layout != "spectra":
        if given or args.generator != "lines":
            raise errors.UsageError(f"--{(given or ['generator'])[0].replace('_', '-')} is for --layout spectra")
        return
    if (args.count is None) == (args.rows is None):
        raise errors.UsageError("--layout spectra needs --count N or --rows TABLE")
    if args.count is not None and args.count < 1:
        raise errors.UsageError("--count: at least 1")
    if (args.rows is None) != (args.source is None):
        raise errors.UsageError("--rows and --from belong together")
    if args.rows is not None and args.truth is not None:
        raise errors.UsageError("--truth: the truth of --rows is what --from names")
    if (args.generator == "model") != (args.model is not None):
        raise errors.UsageError("--generator model and --model belong together")
    if args.model is not None and args.count is None:
        raise errors.UsageError("--generator model needs --count")
    if args.model_labels is not None and args.model is None:
        raise errors.UsageError("--model-labels is for --model")


# --- a spectra product, streamed --------------------------------------------------------------------


def _stream(args, settings):
    from cannonkit import errors, recipe, stream

    name = args.recipe or RECIPES[args.survey]
    survey = recipe.load_survey(name)
    if survey.spectra is None or survey.survey != args.survey:
        raise errors.ConfigError(f"{name}: not a recipe for {args.survey} spectra")
    stream.check_target(args.output, args.overwrite)
    if args.truth is not None:
        stream.check_target(args.truth, args.overwrite)
    if args.generator == "model":
        source = _FromModel(args, settings, survey)
    else:
        source = (_Drawn if args.rows is None else _Named)(args, settings, survey, name)
    try:
        if not cli.dry_run(args, spectra=source.n_row, pixels=len(source.wavelength), truth=args.truth):
            _write(args, settings, survey, source)
    finally:
        source.close()
    cli.log(f"a mock, seed {settings.seed}: {source.n_row} {args.survey} spectra of {len(source.wavelength)} pixels")


def _write(args, settings, survey, source):
    """Blocks of spectra, each made by a thread, into the product in their order, and their truth beside it."""
    import contextlib

    import numpy as np

    from cannonkit import bitmasks, mock_files, schema, stream

    mock = {"MOCK": (True, "simulated: not an observation"), "GENERATR": mock_files.GENERATOR,
            "MOCKSEED": settings.seed}
    medium = (source.medium, "wavelengths in air or vacuum")
    header = {"SURVEY": (survey.survey, "survey of the spectra"), "MEDIUM": medium,
              "LAYOUT": (f"mock: {args.generator}", "how the spectra were made"), "NORM": source.normalisation, **mock}
    wavelength = schema.WAVELENGTH.rows(len(source.wavelength), wavelength=source.wavelength, segment=source.segment)
    table = schema.spectra_table(len(source.wavelength), source.file_width)
    record = cli.record(args, settings)
    with contextlib.ExitStack() as stack:
        truth = None
        if args.truth is not None:
            truth = stack.enter_context(stream.create(args.truth, "truth", source.truth_table, source.n_row,
                                                      header=mock, record=record, overwrite=args.overwrite))
        out = stack.enter_context(stream.create(
            args.output, "spectra", table, source.n_row,
            [stream.Extension("WAVELENGTH", wavelength, schema.WAVELENGTH,
                              {"MEDIUM": medium, "SURVEY": survey.survey})],
            header=header, sources=source.sources, record=record, overwrite=args.overwrite,
            row_header=schema.bit_cards("STAT", bitmasks.SPECTRUM_STATUS)))
        progress = stack.enter_context(cli.Progress(source.n_row, "spectra", args))

        def make(known, rows):
            rows["id"], rows["star_id"], rows["visit"] = known["id"], known["star_id"], 0
            rows["snr_survey"] = known["snr"]
            rows["file"] = known["file"] if "file" in known.dtype.names else b""
            source.maker.fill(known, rows)
            return known, rows

        free = [np.zeros(STREAM_BLOCK, table.dtype) for _ in range(_threads(args) + 2)]
        blocks = ((make, known, free.pop()[: len(known)]) for known in source.blocks())
        for known, rows in _in_threads(args, blocks):
            out.write(rows)
            if truth is not None:
                truth.write(known)
            progress.advance(len(rows))
            free.append(rows.base)


def _threads(args):
    import numba

    return args.threads or numba.get_num_threads()


def _in_threads(args, jobs):
    """Results of jobs (function, arguments...) in their order; two more than there are threads are under way."""
    from collections import deque
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_threads(args)) as pool:
        pending = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(*job))
                if len(pending) > _threads(args) + 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for job in pending:
                job.cancel()


class _Lines:
    """Spectra of the line model: what both its kinds share."""

    def __init__(self, args, settings, survey, name):
        import os

        from cannonkit import recipe
        from cannonkit.stages import mock_stream, resample

        spectra = survey.spectra
        listed = None
        if spectra.normalise.method != "none" and spectra.normalise.pixels:
            pixels = recipe.read_continuum(spectra.normalise.pixels, beside=os.path.dirname(recipe.find(name)))
            listed = [(m, [p.wavelength for p in pixels if p.medium == m]) for m in ("air", "vacuum")
                      if any(p.medium == m for p in pixels)]
        plan = resample.prepare(spectra, listed)
        clear = [pixel.wavelength for pixel in recipe.read_continuum("apogee_continuum")]
        self.survey, self.settings, self.sources = args.survey, settings, []
        self.wavelength, self.segment = plan.grid.wavelength, plan.grid.segment
        self.medium, self.normalisation = plan.grid.medium, (plan.continuum.describe(), "continuum normalisation")
        self.maker = mock_stream.Stream(args.survey, plan, settings, clear)

    def close(self):
        pass


class _Drawn(_Lines):
    """Field stars drawn on the way, mock_stream.DRAWN together."""

    def __init__(self, args, settings, survey, name):
        from cannonkit.stages import mock

        super().__init__(args, settings, survey, name)
        self.n_row, self.file_width, self.truth_table = args.count, 1, mock.truth_table()

    def blocks(self):
        from cannonkit.stages import mock

        for first in range(0, self.n_row, mock.DRAWN):
            known = mock.drawn_truth(self.survey, first // mock.DRAWN, self.settings)[: self.n_row - first]
            for at in range(0, len(known), STREAM_BLOCK):
                yield known[at : at + STREAM_BLOCK]


class _Named(_Lines):
    """Spectra of an earlier mock that a table names, in the table's order; each is looked up by its file's name."""

    def __init__(self, args, settings, survey, name):
        import numpy as np

        from cannonkit import errors, schema, stream
        from cannonkit.stages import mock
        from cannonkit.targets import Targets

        super().__init__(args, settings, survey, name)
        self.truth = stream.open_source(args.source, "truth")
        try:
            self.truth.require(mock.truth_table().names)
            if self.truth.header.get("MOCKSEED") != settings.seed:
                raise errors.DataError(f"{args.source}: seed {self.truth.header.get('MOCKSEED')}, not {settings.seed}")
            files = [np.char.add(schema.text(rows["survey"]).astype("S8"), np.char.add(b" ", rows["file"]))
                     for _, rows in self.truth.chunks(16384, ["survey", "file"])]
            files = np.concatenate(files)
            self.order = np.argsort(files, kind="stable")
            self.files = files[self.order]
            self.targets = Targets(args.rows, survey)
        except BaseException:
            self.truth.close()
            raise
        self.n_row, self.file_width = self.targets.n_row, self.targets.file_width
        self.sources = [*self.targets.sources, self.truth]

    def close(self):
        self.targets.close()
        self.truth.close()

    def blocks(self):
        import numpy as np

        from cannonkit import errors
        from cannonkit.stages import mock

        for first, rows in self.targets.chunks(STREAM_BLOCK):
            wanted = np.array([f"{self.survey} {file}".encode() for file in rows.file])
            place = np.searchsorted(self.files, wanted)
            found = (place < len(self.files)) & (self.files[np.minimum(place, len(self.files) - 1)] == wanted)
            if not found.all():
                bad = int(np.argmin(found))
                raise errors.DataError(f"{self.targets.name}: row {first + bad}: {rows.file[bad]!r} is no spectrum of "
                                       f"{self.truth.name}")
            place = self.order[place]
            low, high = int(place.min()), int(place.max()) + 1
            if high - low <= 16 * STREAM_BLOCK:
                known = self.truth.rows(low, high)[place - low]
            else:
                known = np.concatenate([self.truth.rows(int(k), int(k) + 1) for k in place])
            native = np.zeros(len(known), mock.truth_table().dtype.newbyteorder("="))
            for name in native.dtype.names:
                native[name] = known[name]
            native["id"], native["star_id"] = rows.id, rows.star_id
            yield native


class _FromModel:
    """Spectra drawn from a Cannon model."""

    def __init__(self, args, settings, survey):
        from cannonkit import errors, importers, model, stream
        from cannonkit.stages import mock_model, resample

        self.settings, self.sources, self.file_width, self.n_row = settings, [], 1, args.count
        if args.model_labels is None:
            source = stream.open_source(args.model, "model")
            self.sources = [source]
            fitted = model.from_source(source)
        else:
            grid = resample.common_grid(survey.spectra.grid)
            names = importers.label_names(args.model)
            fitted = importers.polynomial(args.model, survey.survey, grid.wavelength, grid.medium,
                                          importers.read_labels(args.model_labels, names))
            fitted.segment = grid.segment
        if fitted.survey and fitted.survey != survey.survey:
            raise errors.DataError(f"{args.model}: a model of {fitted.survey} spectra, not {survey.survey}")
        self.wavelength, self.segment, self.medium = fitted.wavelength, fitted.segment, fitted.medium
        self.normalisation = ("that of the model", "continuum normalisation")
        self.maker = mock_model.Stream(fitted, survey.survey, settings)
        self.truth_table = self.maker.table

    def close(self):
        for source in self.sources:
            source.close()

    def blocks(self):
        for first in range(0, self.n_row, STREAM_BLOCK):
            yield self.maker.truth(first, min(STREAM_BLOCK, self.n_row - first))


# --- the surveys' files -----------------------------------------------------------------------------


def _tables(folder, plan, settings, args):
    import os

    import numpy as np

    from cannonkit import mock_files, stream
    from cannonkit.stages import mock

    seed = settings.seed

    def put(name, data):
        mock_files.write(os.path.join(folder, name), data)

    def put_table(name, table, columns, which):
        put(name, mock_files.table_bytes(table, columns, which, seed))

    put("apogee/allStar-r12-mock.fits", mock_files.allstar_bytes(plan.apogee.columns, len(plan.apogee.star), seed))
    every = np.arange(len(plan.galah.star))
    put_table("galah/GALAH_DR3_main_allspec_mock.fits", mock_files.GALAH, plan.galah.columns, every)
    put_table("galah/GALAH_DR3_main_allstar_mock.fits", mock_files.GALAH, plan.galah.columns,
              every[plan.galah.columns["flag_repeat"] == 0])
    gaia, distances, n = mock.gaia_columns(plan.stars, settings)
    put_table("gaia_edr3_mock.fits", mock_files.GAIA, gaia, np.arange(n))
    put_table("distances_mock.fits", mock_files.DISTANCES, distances, np.arange(n))
    members, n = mock.cluster_columns(plan.stars, settings)
    put_table("clusters_mock.fits", mock_files.CLUSTERS, members, np.arange(n))
    put("nitrogen_template.csv", _template())
    header = {"MOCK": (True, "simulated: not an observation"), "GENERATR": mock_files.GENERATOR,
              "MOCKSEED": seed}
    with stream.create(os.path.join(folder, "truth.fits"), "truth", mock.truth_table(),
                       len(plan.apogee.star) + len(plan.galah.star), header=header,
                       record=cli.record(args, settings)) as out:
        for rows in mock.truth_blocks(plan):
            out.write(rows)


def _template():
    """Bytes of a CSV wavelength,difference: a giant of NGC 104 with nitrogen enhanced by 0.8 dex minus one without."""
    from cannonkit import recipe
    from cannonkit.stages import mock_spectra

    stretches = recipe.load_survey(RECIPES["galah"]).spectra.grid.stretches
    wavelength, difference = mock_spectra.nitrogen_template([(s.start, s.step, s.n_pix) for s in stretches])
    lines = [f"{w:.3f},{d:.6f}" for w, d in zip(wavelength, difference, strict=True)]
    about = "# mock: flux of a giant like those of NGC 104 with [N/Fe] = 0.8 minus the same with 0 (air, Angstrom)"
    return "\n".join([about, "wavelength,difference", *lines, ""]).encode()


def _spectra(folder, plan, settings, args, progress):
    """Make spectra and their files block by block, each in a thread."""
    import os

    import numpy as np

    from cannonkit import mock_files, recipe
    from cannonkit.stages import mock_spectra

    clear = [pixel.wavelength for pixel in recipe.read_continuum("apogee_continuum")]
    synthesis = mock_spectra.Synthesis(clear)

    def apogee(which):
        planes, weight, shift, _ = mock_spectra.apogee_block(
            synthesis, plan.stars, mock_spectra.take(plan.apogee.observations, which), plan.visits[which], settings)
        for j, (i, row) in enumerate(zip(which, mock_files.rows(mock_files.ALLSTAR, plan.apogee.columns, which),
                                         strict=True)):
            visits = int(plan.visits[i])
            own = {name: plane[j] for name, plane in planes.items()}
            flat = bool(i % 2 == 0)
            data = mock_files.apstar_bytes(row, own, visits, weight[j], shift[j], settings.seed, flat)
            mock_files.write(os.path.join(folder, "apogee", "spectra", row["TELESCOPE"].decode().strip(),
                                          row["FIELD"].decode().strip(), row["FILE"].decode().strip()), data)
        return len(which)

    def galah(which):
        grids = start, step, _ = tuple(g[which] for g in plan.grids)
        cameras = mock_spectra.galah_block(
            synthesis, plan.stars, mock_spectra.take(plan.galah.observations, which), grids, settings)
        for j, i in enumerate(which):
            name = str(plan.galah.columns["sobject_id"][i])
            for c in range(4):
                if plan.missing_camera[i] != c:
                    data = mock_files.galah_bytes(cameras[c], name, j, start[j, c], step[j, c], settings.seed,
                                                  not plan.no_hdu4[i])
                    mock_files.write(os.path.join(folder, "galah", "spectra", f"{name}{c + 1}.fits"), data)
        return len(which)

    def jobs():
        order = np.argsort(plan.visits, kind="stable")      # files with as many rows together: small blocks
        for make, which in ((apogee, order), (galah, np.arange(len(plan.galah.star)))):
            for first in range(0, len(which), BLOCK):
                yield make, which[first:first + BLOCK]

    for n in _in_threads(args, jobs()):
        progress.advance(n)


def main(argv=None):
    return cli.main(build_parser(), run, argv)
