"""Labels, covariance and chi2 of every spectrum, by one model or several in one pass (paper section 3.5).

Output row k is input row k. A spectrum that cannot be fitted keeps its row, with NaN labels and a status that
says why; the counts go to standard error. Give -m MODEL -o LABELS once per model.

Examples:
  cc-infer spectra.fits -m acgs.model.fits -o acgs.labels.fits
  cc-infer spectra.fits -m acgs.model.fits -o acgs.labels.fits -m acaa.model.fits -o acaa.labels.fits --starts 10
  cc-resample stars.fits --recipe galah_dr3 -o - | cc-infer - -m m.fits -o - | cc-flag - -m m.fits -o flagged.fits
"""
from cannonkit import cli, config

CHUNK = 512         # rows: eight blocks, 35 MB of APOGEE spectra


def build_parser():
    parser = cli.new_parser("cc-infer", __doc__)
    parser.add_argument("-m", "--model", required=True, action="append", metavar="MODEL",
                        help="model file (not a pipe); repeatable, with an -o for each")
    cli.add_stream_options(parser, "SPECTRA", chunk=CHUNK, many=True)
    cli.add_shard_options(parser)
    group = parser.add_argument_group("more")
    group.add_argument("--values", metavar="FILE",
                       help="table with the column id and the labels of --fix, joined by id")
    group.add_argument("--residuals", action="append", metavar="FILE", default=[],
                       help="median, 16th and 84th percentile of observed - model flux in every pixel; repeatable, "
                       "one per model, in the same order")
    group.add_argument("--spectra", action="append", metavar="FILE", default=[],
                       help="model spectra at the labels found; repeatable, one per model, in the same order")
    group.add_argument("--spectra-of", metavar="ID,ID,...|@FILE", default="",
                       help="the stars of --spectra by id, or a file with an id on each line (default: all rows)")
    cli.add_settings(parser, config.Infer)
    return parser


def run(args):
    import contextlib

    from cannonkit import errors, resume, stream

    settings = config.resolve(config.Infer, args)
    _check_options(args, settings)
    with contextlib.ExitStack() as files:
        jobs = [_Job(files, args, settings, k) for k in range(len(args.model))]
        source = files.enter_context(stream.open_source(args.input, "spectra", verify=args.verify))
        source.require_spectra()
        held = _Held(files, args.values, settings.fix) if settings.fix else None
        record = cli.record(args, settings)
        shared = [source] if held is None else [source, held.source]
        for job in jobs:
            job.check(source)
        if args.resume:
            done = [job for job in jobs if all(resume.is_done(path, record, [*shared, job.source])
                                               for path in job.paths)]
            for job in done:
                cli.log(f"{job.output}: is there, whole, from the same inputs and settings: nothing to do")
            jobs = [job for job in jobs if job not in done]
            if not jobs:
                return
        start, stop = cli.shard_rows(args.shard, source.n_row)
        if cli.dry_run(args, model=", ".join(job.source.name for job in jobs), rows=stop - start,
                       pixels=jobs[0].model.n_pix, solver=", ".join(job.fitter.solver for job in jobs),
                       memory=_memory(source, jobs, _chunk(args))):
            return
        for path in [path for job in jobs for path in job.paths]:
            if path != "-":
                stream.check_target(path, args.overwrite or args.resume, [s.name for s in shared])
        chosen = _chosen(args.spectra_of)
        for job in jobs:
            job.open(files, source, shared, record, stop - start, chosen)
        with cli.Progress(stop - start, "spectra", args) as progress:
            begun = []
            for first, rows in source.chunks(_chunk(args), start=start, stop=stop, reuse=2):
                values = None if held is None else held.of(rows["id"])
                begun.append((rows, [job.begin(rows, first, values) for job in jobs]))
                if len(begun) > 1:      # the one before this, while this one is being fitted
                    _end(begun.pop(0), jobs, progress)
            for chunk in begun:
                _end(chunk, jobs, progress)
        for job in jobs:
            job.finish()
    for job in jobs:
        job.report()
    failed = max(job.n_failed for job in jobs)
    if settings.max_failed is not None and failed > settings.max_failed:
        raise errors.GateFailed(f"{failed} spectra have no labels, more than --max-failed {settings.max_failed}")


def _end(chunk, jobs, progress):
    """Wait for a chunk's fits and write them."""
    rows, fits = chunk
    for job, fit in zip(jobs, fits, strict=True):
        job.end(rows, fit())
    progress.advance(len(rows))


def _check_options(args, settings):
    from cannonkit import errors

    n = len(args.model)
    if len(args.output) != n:
        raise errors.UsageError(f"{n} times -m, but {len(args.output)} times -o: give one -o for each model")
    for name, given in (("--residuals", args.residuals), ("--spectra", args.spectra)):
        if len(given) not in (0, n):
            raise errors.UsageError(f"{name} is given {len(given)} times for {n} models")
    outputs = [*args.output, *args.residuals, *args.spectra]
    for path in outputs:
        if outputs.count(path) > 1:
            raise errors.UsageError(f"two outputs called {path!r}" if path != "-" else
                                    "only one output can be standard output")
    if "-" in args.model:
        raise errors.UsageError("a model is read from a file, not from standard input")
    if bool(settings.fix) != bool(args.values):
        raise errors.UsageError("--fix and --values belong together")
    if args.spectra_of and not args.spectra:
        raise errors.UsageError("--spectra-of says of which stars --spectra is; give that too")


def _chunk(args):
    """Rows of a chunk: as asked for, but a block of 64 for each thread."""
    import numba

    return max(args.chunk, cli.BLOCK * numba.get_num_threads())


def _memory(source, jobs, chunk):
    """Bytes that a run needs besides the program: three chunks, and the tables of each model."""
    width = source.hdu.axes[0]
    return 3 * chunk * width + sum(sum(a.nbytes for a in job.fitter.tiles) + 2 * job.model.theta.nbytes
                                   for job in jobs)


def _chosen(text):
    """Set of ids (bytes) of --spectra-of; None: all."""
    from cannonkit import errors

    if not text:
        return None
    if text.startswith("@"):
        try:
            with open(text[1:], encoding="utf-8") as file:
                names = file.read().split("\n")
        except OSError as error:
            raise errors.NoInputError(f"{text[1:]}: {error.strerror}") from None
    else:
        names = text.split(",")
    names = {name.strip().encode() for name in names if name.strip()}
    if not names:
        raise errors.UsageError(f"--spectra-of {text}: no id in it")
    return names


class _Held:
    """Values of labels that are held fixed, by id."""

    def __init__(self, files, path, names):
        from cannonkit import errors, schema, stream

        self.names = names
        self.source = files.enter_context(stream.open_source(path))
        self.source.require(["id", *names])
        self.values = {}
        for first, rows in self.source.chunks(16384, columns=["id", *names]):
            values = schema.label_array(rows, names)
            ids = rows["id"] if rows.dtype["id"].kind == "S" else [str(i).encode() for i in rows["id"]]
            for k, one in enumerate(ids):
                one = bytes(one).rstrip()
                if one in self.values:
                    raise errors.DataError(f"{self.source.place('id', first + k)}: {one.decode('latin-1')!r} is there "
                                           "twice: which values are meant?")
                self.values[one] = values[k]

    def of(self, ids):
        """(n_star, n_fixed) values in the order of `names`; NaN for a star that the table does not have."""
        import numpy as np

        missing = np.full(len(self.names), np.nan)
        return np.array([self.values.get(bytes(i).rstrip(), missing) for i in ids]).reshape(len(ids),
                                                                                           len(self.names))


class _Job:
    """One model: its fitter, its outputs and its counts."""

    def __init__(self, files, args, settings, k):
        from cannonkit import model as model_file
        from cannonkit import stream
        from cannonkit.stages import infer

        self.args, self.settings, self.output = args, settings, args.output[k]
        self.residual_path = args.residuals[k] if args.residuals else None
        self.spectra_path = args.spectra[k] if args.spectra else None
        self.source = files.enter_context(stream.open_source(args.model[k], "model"))
        self.model = model_file.from_source(self.source)
        self.fitter = infer.prepare(
            self.model, solver=settings.solver, starts=settings.starts, seed=settings.seed,
            max_iter=settings.max_iter, margin=settings.margin, prior=settings.prior, fixed=settings.fix,
            scaled_covariance=settings.scaled_covariance, clip=settings.clip)
        # The columns of --values come in the order of --fix, the fitter wants the model's.
        self.order = [settings.fix.index(n) for n in self.fitter.fixed_names]
        self.counts, self.n_row, self.n_failed, self.n_bad = {}, 0, 0, 0
        self.residuals, self.chosen, self.kept = None, None, []

    @property
    def paths(self):
        return [p for p in (self.output, self.residual_path, self.spectra_path) if p is not None]

    def check(self, source):
        """The spectra are on the model's grid, and of its survey."""
        from cannonkit import errors
        from cannonkit.stages import infer

        grid = source.extensions.get("WAVELENGTH")
        if grid is None:
            raise errors.DataError(f"{source.name}: spectra without a WAVELENGTH extension: damaged")
        infer.check_grid(grid.data["wavelength"], str(grid.header.get("MEDIUM", "")), self.model,
                         f"{source.name}[WAVELENGTH]")
        survey = source.header.text("SURVEY")
        if survey and self.model.survey and survey != self.model.survey:
            cli.warn(f"{source.name}: spectra of survey {survey!r}; {self.source.name} was trained on spectra of "
                     f"{self.model.survey!r}")

    def open(self, files, source, shared, record, n_row, chosen):
        """Open the outputs."""
        from cannonkit import bitmasks, headers, schema, stream
        from cannonkit.stages.residuals import Residuals

        model = self.model
        units = dict(zip(model.label_names, model.label_units, strict=True))
        self.table = schema.labels_table(model.label_names, units, source.table["id"].numpy_dtype.itemsize,
                                         model.n_component if self.settings.amplitudes else 0)
        header = {"MODEL": (model.name, "name of the model"),
                  "SURVEY": (source.header.text("SURVEY") or model.survey, "survey of the spectra"),
                  "SCALE": (model.scale_survey, "survey on whose scale the labels are")}
        scaled = self.settings.scaled_covariance
        self.row_header = {
            "COVUNIT": ("scaled" if scaled else "label", "units of cov and of the formal errors"),
            "SOLVER": (self.fitter.solver, "sums or pixels"),
            "NSTART": (len(self.fitter.starts), "starts of the fit"),
            **schema.bit_cards("STAT", bitmasks.FIT_STATUS), **schema.bit_cards("SPEC", bitmasks.SPECTRUM_STATUS)}
        overwrite = self.args.overwrite or self.args.resume
        self.inputs = [*shared, self.source]
        self.create = lambda path, *what, **more: files.enter_context(stream.create(
            path, *what, header=header, sources=self.inputs, record=record, overwrite=overwrite, **more))
        self.out = self.create(self.output, "labels", self.table, n_row, row_header=self.row_header)
        grid = source.extensions["WAVELENGTH"]
        self.grid = stream.Extension(grid.name, grid.data, grid.table, headers.kept(grid.header, True))
        if self.residual_path is not None:
            self.residuals = Residuals(model)
        if self.spectra_path is not None:
            self.chosen = chosen
            self.spectra_table = schema.spectra_table(model.n_pix, 1, source.table["id"].numpy_dtype.itemsize)
            self.spectra_out = None if chosen is not None else self.create(
                self.spectra_path, "spectra", self.spectra_table, n_row, [self.grid])

    def begin(self, rows, first, values):
        """Begin the fit of a chunk; call what is returned for the result."""
        return self.fitter.start_rows(rows, first, values if values is None else values[:, self.order])

    def end(self, rows, found):
        """Write a chunk's result."""
        import numpy as np

        from cannonkit import schema

        self.out.write(self.table.rows(
            len(rows), rows, spectrum_status=rows["status"],
            **{n: found[n] for n in found.dtype.names if n in self.table.names}))
        labels = schema.label_array(found, self.model.label_names)
        z = found["z"] if self.model.n_component else None
        self._count(found, labels)
        if self.residuals is not None:
            self.residuals.add(rows["flux"], rows["ivar"], labels, z)
        if self.spectra_path is not None:
            wanted = np.arange(len(rows)) if self.chosen is None else \
                np.flatnonzero([bytes(i).rstrip() in self.chosen for i in rows["id"]])
            if self.chosen is None:
                self.spectra_out.write(self._spectra(rows, labels, z))
            elif len(wanted):
                self.kept.append(self._spectra(rows[wanted], labels[wanted], None if z is None else z[wanted]))

    def _spectra(self, rows, labels, z):
        """Rows of a spectra table with the model's flux, misfit components included; ivar 0: the model says nothing."""
        import numpy as np

        flux = self.model.predict(labels, z)
        known = np.isfinite(flux)
        return self.spectra_table.rows(
            len(rows), None, **{n: rows[n] for n in ("id", "star_id", "visit", "snr_survey", "status")},
            file=b"", n_bad=(~known).sum(axis=1), flux=np.where(known, flux, 1.0), ivar=known)

    def _count(self, found, labels):
        import numpy as np

        from cannonkit import bitmasks

        self.n_row += len(found)
        self.n_failed += int(np.isnan(labels).any(axis=1).sum())
        self.n_bad += int(found["n_pix_bad"].sum())
        for name, bit in bitmasks.FIT_STATUS.items():
            self.counts[name] = self.counts.get(name, 0) + int((found["status"] >> bit.number & 1).sum())

    def finish(self):
        """What is written once all rows are through."""
        import numpy as np

        from cannonkit import bitmasks, schema

        for name, n in self.counts.items():
            self.out.note(f"NSTAT{bitmasks.FIT_STATUS[name].number:02d}", n, f"rows with status {name}")
        if self.residuals is not None:
            table = schema.residuals_table()
            out = self.create(self.residual_path, "residuals", table, self.model.n_pix, [self.grid])
            out.write(table.rows(self.model.n_pix, **self.residuals.table_values()))
        if self.chosen is not None:
            rows = np.concatenate(self.kept) if self.kept else self.spectra_table.empty(0)
            missing = self.chosen - {bytes(i).rstrip() for i in rows["id"]}
            if missing:
                cli.warn(f"{len(missing)} ids of --spectra-of are not among the spectra, such as "
                         f"{min(missing).decode('latin-1')!r}")
            self.create(self.spectra_path, "spectra", self.spectra_table, len(rows), [self.grid]).write(rows)

    def report(self):
        from cannonkit import bitmasks

        name = self.model.name or self.source.name
        cli.log(f"{name}: {self.n_row} spectra, {self.n_failed} without labels")
        for bit in bitmasks.FIT_STATUS.values():
            if self.counts.get(bit.name):
                cli.log(f"{name}: {self.counts[bit.name]} {bit.name}: {bit.meaning}")
        if self.n_bad:
            cli.log(f"{name}: {self.n_bad} pixels left out because of NaN flux or invalid ivar")


def main(argv=None):
    return cli.main(build_parser(), run, argv)
