"""Read survey spectra, mask bad pixels, put every star on the common grid and normalise (paper section 3.1).

TABLE names the stars: a training table or selection of cc-crossmatch, a survey's own catalogue (with
--select), or any table with columns id and spectrum. One row out for each row in, in order (with --visits,
more): a star whose files are missing, broken or of another survey keeps its row, all pixels masked, with a
status that says why; the counts go to standard error.

Examples:
  cc-resample training.fits --recipe apogee_dr16 --root apogee/spectra -o apogee_spectra.fits
  cc-resample allstar.fits --recipe galah_dr3 --select catalogue --root galah/spectra -o galah_spectra.fits
  cc-resample stars.fits --recipe galah_dr3 --root spectra/ -o - | cc-infer -m model.fits - -o labels.fits
"""
from cannonkit import cli, config

BLOCK = 32       # stars read and held together
FEW = 16         # of them, decoded into arrays and computed before the next
EXAMPLES = 5     # troubles shown in full


def build_parser():
    parser = cli.new_parser("cc-resample", __doc__)
    parser.add_argument("input", metavar="TABLE",
                        help="table of stars: of cc-crossmatch, a survey's own catalogue, or any table "
                        "(FITS, CSV) with columns id and spectrum, a path below --root; - for standard input")
    parser.add_argument("--recipe", required=True, metavar="RECIPE",
                        help="the survey: a recipe file, or an installed name such as apogee_dr16")
    parser.add_argument("--root", default=".", metavar="DIR",
                        help="directory of the spectra; no path leaves it (default: here)")
    parser.add_argument("--select", default="", metavar="NAME",
                        help="rows of a survey's own catalogue: a selection of the recipe, such as catalogue "
                        "(one spectrum per star, the default), repeats, all")
    parser.add_argument("--find-continuum", metavar="FILE",
                        help="also write a table (CSV) of continuum pixels, found in these spectra: flat and "
                        "near 1 for all labels of TABLE; needs spectra that are roughly normalised")
    cli.add_output_options(parser)
    cli.add_shard_options(parser)
    cli.add_settings(parser, config.Resample)
    return parser


def run(args):
    import os
    from dataclasses import replace

    from cannonkit import errors, recipe, resume, schema, stream
    from cannonkit.stages import normalise, resample
    from cannonkit.targets import Targets

    settings = config.resolve(config.Resample, args)
    survey = recipe.load_survey(args.recipe)
    if survey.spectra is None:
        raise errors.ConfigError(f"{args.recipe}: the recipe has no section 'spectra:'")
    changes = {name: getattr(settings, name) for name in ("method", "missing_segment")
               if getattr(settings, name) is not None}
    spectra = replace(survey.spectra, **changes)
    survey = replace(survey, spectra=spectra)
    plan = resample.prepare(spectra, _continuum_list(args, spectra))
    if not os.path.isdir(args.root):
        raise errors.NoInputError(f"{args.root}: no such directory (--root)")
    labels = ()
    if args.find_continuum:
        stream.check_target(args.find_continuum, args.overwrite or args.resume, [args.input])
        labels = tuple(n for n, x in survey.catalogue.labels.items() if not x.optional)
    record = {**cli.record(args, settings), "recipe": recipe.as_dict(spectra), "select": args.select}
    with Targets(args.input, survey, args.select, labels) as targets:
        for source in targets.sources if args.verify else ():
            source.verify()
        lacking = args.find_continuum and not os.path.exists(args.find_continuum)
        if args.resume and not lacking and resume.is_done(args.output, record, targets.sources):
            cli.log(f"{args.output}: is there, whole, from the same inputs and settings: nothing to do")
            return
        for what, count in targets.counts.items():
            cli.log(f"{count} {what}")
        start, stop = cli.shard_rows(args.shard, targets.n_row)
        n_pix = plan.grid.wavelength.size
        if cli.dry_run(args, rows=stop - start, pixels=n_pix, layout=spectra.layout, root=args.root,
                       normalisation=plan.continuum.describe(),
                       memory=min(stop - start, cli.BLOCK * (_threads(args) + 2)) * n_pix * 32):
            return
        work = _Work(args, settings, targets, plan, start, stop)
        try:
            table = schema.spectra_table(n_pix, targets.file_width)
            if settings.visits != "combined" or args.find_continuum:
                targets.keep(BLOCK, start, stop)
            n_row = work.count_rows()
            finder = normalise.Finder(n_pix, len(labels)) if args.find_continuum else None
            scaling = work.label_scaling() if finder else None
            with stream.create(args.output, "spectra", table, n_row, [_wavelength(plan, survey)],
                               header=_header(survey, plan, settings), sources=targets.sources, record=record,
                               overwrite=args.overwrite,
                               row_header=schema.bit_cards("STAT", work.bits)) as out, \
                    cli.Progress(n_row, "spectra", args) as progress:
                for rows, values in work.results(table):
                    out.write(rows)
                    if finder:
                        finder.add(rows["flux"], rows["ivar"], (values - scaling[0]) / scaling[1])
                    progress.advance(len(rows))
                for name, count in work.counts.items():
                    if count:
                        out.note(f"N{work.bits[name].number:02d}", count, f"spectra with status {name}"[:40])
        finally:
            work.close()
        if finder:
            _write_continuum(args, plan, finder, settings, labels, survey)
    work.report()
    if settings.max_failed is not None and work.n_unusable > settings.max_failed:
        raise errors.GateFailed(f"{work.n_unusable} spectra have no usable pixel, more than --max-failed "
                                f"{settings.max_failed}")


def _continuum_list(args, spectra):
    """[(medium, wavelengths)] of the recipe's continuum pixels, or None."""
    import os

    from cannonkit import recipe

    if spectra.normalise.method == "none" or not spectra.normalise.pixels:
        return None
    path = recipe.find(args.recipe)
    pixels = recipe.read_continuum(spectra.normalise.pixels, beside=os.path.dirname(path))
    return [(medium, [p.wavelength for p in pixels if p.medium == medium]) for medium in ("air", "vacuum")
            if any(p.medium == medium for p in pixels)]


def _wavelength(plan, survey):
    import numpy as np

    from cannonkit import schema, stream

    rows = np.zeros(plan.grid.wavelength.size, schema.WAVELENGTH.dtype)
    rows["wavelength"], rows["segment"] = plan.grid.wavelength, plan.grid.segment
    return stream.Extension("WAVELENGTH", rows, schema.WAVELENGTH,
                            {"MEDIUM": (plan.grid.medium, "wavelengths in air or vacuum"),
                             "SURVEY": (survey.survey, "survey of the spectra")})


def _header(survey, plan, settings):
    spectra, masks = plan.spectra, plan.spectra.masks
    velocity = "none"
    if spectra.velocity.header or spectra.velocity.column:
        velocity = f"taken out: {spectra.velocity.header or spectra.velocity.column}"
    windows = f"{len(masks.windows)} windows" if masks.windows else ""
    spike = f"flux > {masks.spike:g} + {masks.spike_sigma:g} sigma" if masks.spike is not None else ""
    low = f"sigma < {masks.error_below:g} of the median" if masks.error_below else ""
    parts = [" ".join(masks.bits), windows, spike, low, f"sigma > {masks.error_above:g}"]
    medium = plan.grid.medium
    converted = f"{spectra.medium} to {medium}" if spectra.medium != medium else "none"
    return {"SURVEY": (survey.survey, "survey of the spectra"),
            "MEDIUM": (medium, "wavelengths in air or vacuum"),
            "LAYOUT": (spectra.layout, "layout of the survey's files"),
            "RESAMPLE": (spectra.method, "resampling onto the common grid"),
            "NORM": (plan.continuum.describe(), "continuum normalisation"),
            "MASKS": ("; ".join(p for p in parts if p), "masked pixels"),
            "VELOCITY": (velocity, "radial velocity"),
            "CONVERT": (converted, "air and vacuum"),
            "MISSING": (spectra.missing_segment, "stars without one of their cameras"),
            "VISITS": (settings.visits, "combined spectra, visits")}


def _threads(args):
    if args.threads:
        return args.threads
    import numba

    return numba.get_num_threads()


class _Work:
    """Blocks of stars in threads, files to output rows, a few ahead; handed over in order."""

    def __init__(self, args, settings, targets, plan, start, stop):
        import queue
        import threading
        from concurrent.futures import ThreadPoolExecutor

        from cannonkit import bitmasks
        from cannonkit.readers import Reader

        self.args, self.visits, self.targets, self.plan = args, settings.visits, targets, plan
        self.start, self.stop = start, stop
        self.bits = bitmasks.SPECTRUM_STATUS
        self.reader = Reader(plan.spectra, args.root)
        self.n_thread = _threads(args)
        self.pool, self.local = ThreadPoolExecutor(self.n_thread), threading.local()
        self.free = queue.SimpleQueue()             # rows that are written
        self.counts = dict.fromkeys(self.bits, 0)
        self.n_row = self.n_good = self.n_unusable = self.n_masked = self.n_shown = 0

    def close(self):
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.reader.close()

    def _ahead(self, function):
        """function(rows) of each block of rows, computed in threads, in order; only a few blocks are held."""
        from collections import deque

        waiting = deque()
        for _, rows in self.targets.chunks(BLOCK, self.start, self.stop):
            waiting.append(self.pool.submit(function, rows))
            if len(waiting) > self.n_thread + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def count_rows(self):
        """Number of output rows."""
        if self.visits == "combined" or self.plan.spectra.layout != "apstar":
            return self.stop - self.start
        with cli.Progress(self.stop - self.start, "files looked at", self.args) as progress:
            total = 0
            for n_star, n in self._ahead(lambda rows: (len(rows.file), sum(
                    self.reader.count(file, self.visits) for file in rows.file))):
                progress.advance(n_star)
                total += n
        return total

    def label_scaling(self):
        """(centre, spread) of the labels over all rows, for --find-continuum. Raises DataError."""
        import numpy as np

        from cannonkit import errors

        labels = np.concatenate([rows.labels for _, rows in self.targets.chunks(4096, self.start, self.stop)])
        missing = np.isnan(labels).all(axis=0)
        if missing.any():
            name = self.targets.label_names[int(np.argmax(missing))]
            raise errors.DataError(f"{self.targets.name}: no row has a valid {name}, which --find-continuum needs")
        centre = np.nanmean(labels, axis=0)
        return centre, np.maximum(np.nanstd(labels, axis=0), 1e-9 * np.abs(centre) + 1e-12)

    def _block(self, rows):
        """A block from the files to the output's rows; runs in a thread of the pool."""
        import os

        import numpy as np

        from cannonkit.stages import resample

        stars, source = [], []
        for k, file in enumerate(rows.file):
            found = self.reader.read(file, rows.row[k], float(rows.velocity[k]), self.visits)
            stars += found
            source += [k] * len(found)
        out = self._empty(len(stars))
        out["id"], out["star_id"] = rows.id[source], rows.star_id[source]
        out["visit"] = [s.visit for s in stars]
        out["file"] = [os.fsencode(rows.file[k]) for k in source]
        visit_snr = np.array([s.snr for s in stars])
        out["snr_survey"] = np.where(out["visit"] > 0, visit_snr, rows.snr[source])
        work = self.local.__dict__.setdefault("work", resample.Workspace())
        for at in range(0, len(stars), FEW):        # with visits there can be many more than BLOCK
            few = slice(at, at + FEW)
            batch = resample.gather(self.plan, stars[few], work)
            shape = len(batch.status), self.plan.grid.wavelength.size
            store = work.empty("flux32", shape, np.float32), work.empty("ivar32", shape, np.float32)
            result = resample.resample(self.plan, batch, store)
            for name in ("snr", "n_bad", "status", "flux", "ivar"):
                out[name][few] = getattr(result, name)
        messages = [(rows.id[k], s.messages) for s, k in zip(stars, source, strict=True) if s.messages]
        return out, rows.labels[source], messages

    def _empty(self, n):
        """Rows to fill, in memory that has been used before if there is some."""
        import queue

        import numpy as np

        try:
            held = self.free.get_nowait()
        except queue.Empty:
            held = np.empty(0, self.dtype)
        return held[:n] if len(held) >= n else np.empty(n, self.dtype)

    def results(self, table):
        """Yield (rows for the output, their labels) block by block, in order; the rows are valid until the
        next ones are asked for."""
        self.dtype = table.dtype
        for out, labels, messages in self._ahead(self._block):
            self._count(out, messages)
            yield out, labels
            self.free.put(out if out.base is None else out.base)

    def _count(self, rows, messages):
        import numpy as np

        for name, lines in messages:
            for line in lines:
                if self.n_shown < EXAMPLES:
                    cli.warn(f"{name.decode('latin-1')}: {line}")
                self.n_shown += 1
        status, snr = rows["status"].astype(np.int64), rows["snr"].astype(np.float64)
        for name, bit in self.bits.items():
            self.counts[name] += int(np.count_nonzero(status >> bit.number & 1))
        self.n_row += len(rows)
        self.n_good += int(np.count_nonzero(status == 0))
        self.n_unusable += int(np.count_nonzero(np.isnan(snr)))
        self.n_masked += int(rows["n_bad"][np.isfinite(snr)].sum())

    def report(self):
        if self.n_shown > EXAMPLES:
            cli.warn(f"{self.n_shown - EXAMPLES} more like these")
        cli.log(f"{self.n_row} spectra, {self.n_good} without any remark, "
                f"{self.n_unusable} without a usable pixel")
        for name, count in self.counts.items():
            if count:
                cli.log(f"{count} {name}: {self.bits[name].meaning}")
        used = self.n_row - self.n_unusable
        if used:
            n_pix = int((~self.plan.dead).sum())
            cli.log(f"{100.0 * self.n_masked / (used * n_pix):.2f} % of the pixels of the usable ones are masked")
        if self.counts["MISSING_FILE"] == self.n_row > 0:
            cli.warn(f"not one of the files is below {self.args.root!r}: is --root the directory that the "
                     "table's paths start from?")


def _write_continuum(args, plan, finder, settings, labels, survey):
    """The table of continuum pixels, whole or not at all."""
    import os
    import tempfile

    import cannonkit
    from cannonkit import errors

    chosen, merit = finder.choose(plan.grid.segment, settings.continuum_fraction)
    n_star = int(finder.count.max(initial=0))
    lines = [f"# Continuum pixels of {survey.title or survey.survey}, found by cannonkit "
             f"{cannonkit.__version__} in {n_star} spectra",
             f"# flat for {', '.join(labels)}; merit up to {merit[chosen].max():.4f}; Angstrom, rest frame.",
             "wavelength,medium"]
    lines += [f"{x:.4f},{plan.grid.medium}" for x in plan.grid.wavelength[chosen]]
    path = args.find_continuum
    try:
        fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".continuum-")
        try:
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write("\n".join(lines) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise errors.TransferError(f"{path}: {error.strerror}") from None
    cli.log(f"{path}: {int(chosen.sum())} continuum pixels from {n_star} spectra")


def main(argv=None):
    return cli.main(build_parser(), run, argv)
