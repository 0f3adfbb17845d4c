"""Errors from repeat observations (paper section 3.7): calibrate the formal errors, apply the calibration
to a catalogue, validate it on repeats that were kept aside.

Repeats tell how well a label is repeated, not how right it is: what is wrong in every spectrum of a star
alike cancels. `calibrate --against` compares with reference labels instead.

Examples:
  cc-errors calibrate acgs.repeats.fits -o acgs.errors.fits
  cc-errors apply acgs.flagged.fits --errors acgs.errors.fits -o acgs.final.fits
  cc-errors validate acgs.repeats.fits --errors acgs.errors.fits -o acgs.pulls.fits
"""
from cannonkit import cli, config

CALIBRATE = """Find the factor of the formal errors and the precision against S/N, from repeats (equation 6).

The input is a labels product of cc-infer with several spectra per star, or any FITS table with --labels and
the column options. A group of n spectra counts as n - 1 pairs. With --error-model full the errors become
functions of S/N, Teff, log g and [Fe/H] too. --against takes reference labels: then f measures accuracy
against them, and no repeats are needed.

Examples:
  cc-errors calibrate acgs.repeats.fits -o acgs.errors.fits
  cc-errors calibrate acgs.repeats.fits --error-model full --holdout 0.3 -o acgs.full.fits
  cc-errors calibrate kfold.fits --labels teff,logg,fe_h --label-column {}_cannon --covariance cov_cannon \
--covariance-units scaled --against {} --rows fold=1,2 -o kfold.errors.fits
"""

APPLY = """Add final errors to labels, and their covariance.
Per label the larger of f times the formal error and the precision at the survey's S/N; with --error-model full
the full model. The covariance is scaled with them.

Examples:
  cc-errors apply acgs.flagged.fits --errors acgs.errors.fits -o acgs.final.fits
  cc-errors apply acgs.flagged.fits --errors acgs.errors.fits --precision unbiased -o acgs.unbiased.fits
  cc-errors apply - --errors acgs.full.fits --error-model full -o - < acgs.flagged.fits | cc-check -
"""

VALIDATE = """Widths of pulls (difference over error) of repeats in bins of S/N, Teff, log g and [Fe/H].
With the formal errors, the factor alone, the paper's final errors and the full model side by side. 1 is right.

If calibrate left stars aside (--holdout), only those are used. --across needs no --errors: each of 5 parts of the
stars, or each value of a column of whole numbers, is judged by a calibration on the others; all are binned together.

Examples:
  cc-errors validate acgs.repeats.fits --errors acgs.errors.fits -o acgs.pulls.fits
  cc-errors validate acgs.repeats.fits --errors acgs.full.fits --bins 5 -o acgs.full.pulls.fits
  cc-errors validate acgs.repeats.fits --across 5 --error-model full -o acgs.all.pulls.fits
  cc-errors validate kfold.fits --across fold --error-model full --labels teff,logg,fe_h --label-column {}_cannon \
--covariance cov_cannon --covariance-units scaled --against {} -o kfold.pulls.fits
"""

REPEATS = "labels of repeats, or any FITS table; - for standard input"


def build_parser():
    parser = cli.new_parser("cc-errors", __doc__)
    group = cli.add_subcommands(parser)
    calibrate = cli.add_subcommand(group, "calibrate", CALIBRATE)
    calibrate.add_argument("input", metavar="REPEATS", help=REPEATS)
    cli.add_output_options(calibrate)
    cli.add_settings(calibrate, config.Errors)
    apply = cli.add_subcommand(group, "apply", APPLY)
    cli.add_stream_options(apply, "LABELS", chunk=8192)
    cli.add_shard_options(apply)
    validate = cli.add_subcommand(group, "validate", VALIDATE)
    validate.add_argument("input", metavar="REPEATS", help=REPEATS)
    cli.add_output_options(validate)
    apply.add_argument("--errors", required=True, metavar="ERRORS", help="what calibrate made")
    how = validate.add_mutually_exclusive_group(required=True)
    how.add_argument("--errors", metavar="ERRORS", help="what calibrate made")
    how.add_argument("--across", metavar="N|COLUMN", help="judge each of N parts of the stars, drawn by their names "
                     "with --seed, or each value of a column, by a calibration on the others")
    for inner in (apply, validate):
        cli.add_settings(inner, config.Errors)
    return parser


def run(args):
    return {"calibrate": _calibrate, "apply": _apply, "validate": _validate}[args.subcommand](args)


# --- calibrate --------------------------------------------------------------------------------------

def _calibrate(args):
    from cannonkit import label_tables, schema, stream
    from cannonkit.stages import repeats

    settings = config.resolve(config.Errors, args)
    with stream.open_source(args.input) as source:
        table = label_tables.read(source, settings)
        aside = repeats.kept_aside(table.star, settings.holdout, settings.seed)
        if cli.dry_run(args, rows=len(table.star), labels=",".join(table.names), memory=table.nbytes):
            return 0
        _describe(table, settings)
        calibration = _calibrated(table, settings, ~aside, source.place("star_id"), args.threads)
        against = bool(settings.against)
        header = {"MODEL": source.header.text("MODEL"), "SURVEY": source.header.text("SURVEY"),
                  "SCALE": source.header.text("SCALE"),
                  "AGAINST": (against, "compared with reference labels, not with repeats"),
                  "PAIRS": (settings.pairs, "weight of pairs"), "FACTOR": (settings.factor, "the factor to use"),
                  "DRAWS": (settings.draws, "bootstrap draws"), "HOLDOUT": (settings.holdout, "stars left aside"),
                  "HOLDSEED": (settings.seed, "seed of the choice"), "ERRMODEL": (settings.error_model, "")}
        header = {k: v for k, v in header.items() if v != ""}
        rows = calibration.factor_rows()
        small = [stream.Extension(t.name, data, t) for t, data in calibration.small_tables()]
        with stream.create(args.output, "errors", schema.FACTORS, len(rows), small, header, [source],
                           cli.record(args, settings), args.overwrite) as out:
            out.write(rows)
    cli.log_table(calibration.table(against))
    for line in calibration.precision_lines():
        cli.log(line)
    return 0


def _calibrated(table, settings, use, place, threads):
    """The stages.calibration.Calibration of a LabelTable's rows that `use` allows; DataError naming `place` where
    they have no repeats."""
    import numpy as np

    from cannonkit import errors
    from cannonkit.stages import calibration as calibrations
    from cannonkit.stages import errors as stage

    differences, pairs = differences_of(table, settings, use)
    if not settings.against and not len(pairs[0]):
        raise errors.DataError(f"{place}: no star has two spectra with labels, so there is nothing to calibrate on: "
                               "give the labels of repeats (cc-crossmatch --select repeats), or reference labels "
                               "(--against)")
    best_row, other = (None, None) if settings.against else _lower_against_best(table, use)
    measured = []
    for k, name in enumerate(table.names):
        factor = stage.factor(differences, k, settings.draws, settings.seed)
        if settings.against:
            value, snr = differences.value[:, k] - factor.offset, table.snr[pairs[0]]
            best = np.full(len(value), np.inf)
        else:
            value = table.labels[other, k] - table.labels[best_row, k]
            snr, best = table.snr[other], table.snr[best_row]
        points, paper, unbiased = stage.precision(value, snr, best, settings.snr_bins, settings.smallest_bin)
        measured.append((name, factor, table.scales[k], paper, unbiased, points, len(value)))
    models = [None] * len(measured)
    if settings.error_model == "full":
        models = _full_models(differences, table, pairs, measured, settings, threads)
    calibration = calibrations.Calibration(table.names, table.units, [], {}, {}, {})
    for parts, model in zip(measured, models, strict=True):
        calibration.add(*parts, model)
    return calibration


def _full_models(differences, table, pairs, measured, settings, threads):
    """The full error model of every label, the labels spread over the threads (NumPy works outside Python's
    lock; each label is by itself, so the answer does not depend on the threads)."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from cannonkit.stages import error_model

    axes, x = table.axes()
    if len(pairs[0]) > settings.full_pairs:
        rng = np.random.default_rng(settings.seed)
        some = np.sort(rng.choice(len(pairs[0]), settings.full_pairs, replace=False))
        differences, pairs = differences.only(some), (pairs[0][some], pairs[1][some])
        cli.log(f"the full model is fitted to {len(some)} pairs")
    first, second = x[pairs[0]], x[pairs[1]]

    def fit(k):
        _, factor, _, _, unbiased, *_ = measured[k]
        return error_model.fit(differences, k, first, second, axes, factor.robust, unbiased)
    with ThreadPoolExecutor(threads or 1) as pool:
        return list(pool.map(fit, range(len(measured))))


def _describe(table, settings):
    import numpy as np

    good = int(table.good.sum())
    if settings.against:
        cli.log(f"{len(table.star)} rows, {good} with labels, errors and reference; no repeats are used: the "
                "factor is that of label minus reference, so it measures accuracy against the reference")
    else:
        names = np.asarray(table.star)[table.good]
        _, count = np.unique(names[names != b""], return_counts=True)
        cli.log(f"{len(table.star)} rows, {good} with labels and errors; {int((count > 1).sum())} stars with "
                f"repeats, {int(count[count > 1].sum())} spectra")


def differences_of(table, settings, use):
    """(stages.errors.Differences, (first rows, second rows)) of a LabelTable's good rows that `use` allows."""
    import numpy as np

    from cannonkit.stages import errors as stage
    from cannonkit.stages import repeats

    good = table.good & use
    if settings.against:
        rows = np.flatnonzero(good)
        return stage.of_reference(table.labels, table.variance, table.reference, table.reference_variance,
                                  good), (rows, rows)
    pairs = repeats.pairs_of(table.star, good, table.visit, settings.pairs)
    return stage.of_pairs(table.labels, table.variance, pairs), (pairs.first, pairs.second)


def _lower_against_best(table, use):
    from cannonkit.stages import repeats

    best, other, _ = repeats.best_and_others(table.star, table.good & use, table.snr)
    return best, other


def read_calibration(source):
    """The stages.calibration.Calibration of an open errors product."""
    from cannonkit import errors, schema
    from cannonkit.stages import calibration

    if source.table.name != "FACTORS":
        raise errors.DataError(f"{source.name}: has {source.table.name}, expected FACTORS (of cc-errors calibrate)")
    source.require(schema.FACTORS.names)
    small = {name: extension.data for name, extension in source.extensions.items()}
    return calibration.from_tables(source.read(), small, source.name)


# --- apply --------------------------------------------------------------------------------------------

def _apply(args):
    import numpy as np

    from cannonkit import headers, label_tables, resume, schema, stream
    from cannonkit.stages import errors as stage

    settings = config.resolve(config.Errors, args)
    with stream.open_source(args.errors, "errors") as errors_source:
        calibration = read_calibration(errors_source)
        with stream.open_source(args.input, "labels", verify=args.verify) as source:
            names = label_tables.label_names(source, settings)
            units = [source.columns[n].unit for n in names]
            source.require([], numbers=[*names, settings.snr_column],
                           arrays={settings.covariance: (len(names), len(names))})
            _check_same(source, errors_source)
            scaling = Scaling(calibration, names, settings, errors_source.name)
            table = source.table.with_columns(schema.error_columns(names, dict(zip(names, units, strict=True))))
            start, stop = cli.shard_rows(args.shard, source.n_row)
            record = cli.record(args, settings)
            sources = [source, errors_source]
            if args.resume and resume.is_done(args.output, record, sources):
                cli.log(f"{args.output}: is there, whole, from the same inputs and settings: nothing to do")
                return 0
            if cli.dry_run(args, rows=stop - start, labels=",".join(names),
                           memory=4 * min(args.chunk, stop - start) * source.hdu.axes[0]):
                return 0
            cards = {"ERRMODEL": (settings.error_model, "of err_<label>"), "ERRFACT": (settings.factor, "factor used"),
                     "ERRPREC": (settings.precision, "precision curve used"),
                     "AGAINST": (errors_source.header.get("AGAINST", False), "f is against reference labels")}
            by_precision, count = np.zeros(len(names), np.int64), 0
            with stream.create(args.output, "labels", table, stop - start, list(source.extensions.values()),
                               headers.kept(source.header), sources, record, args.overwrite,
                               {**headers.kept(source.hdu.header, True), **cards}) as out, \
                    cli.Progress(stop - start, "stars", args) as progress:
                for _, rows in source.chunks(args.chunk, start=start, stop=stop):
                    cov = np.asarray(rows[settings.covariance], np.float64)
                    formal = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
                    labels = schema.label_array(rows, names)
                    snr = np.asarray(rows[settings.snr_column], np.float64)
                    error, source_bits = scaling.error(formal, labels, snr)
                    values = {f"err_{n}": error[:, k] for k, n in enumerate(names)}
                    out.write(table.rows(len(rows), rows, cov_final=stage.scaled_covariance(cov, formal, error),
                                         error_source=_bits(source_bits), **values))
                    by_precision += source_bits.sum(axis=0)
                    count += int(np.isfinite(error).any(axis=1).sum())
                    progress.advance(len(rows))
    cli.log(f"{stop - start} stars, {count} with errors; model {settings.error_model}")
    if settings.error_model == "paper" and count:
        cli.log("errors from the precision curve: " + ", ".join(
            f"{n} {100 * k / count:.0f} %" for n, k in zip(names, by_precision, strict=True)))
    return 0


def _bits(flags):
    import numpy as np

    return (flags * (1 << np.arange(flags.shape[1]))).sum(axis=1)


def _check_same(source, errors_source):
    """An error model belongs to the labels of one Cannon model: by its name, and by its data where they are known."""
    from cannonkit import errors, provenance

    for key in ("MODEL", "SURVEY", "SCALE"):
        theirs, ours = source.header.text(key), errors_source.header.text(key)
        if theirs and ours and theirs != ours:
            raise errors.DataError(f"{source.name}: {key} {theirs!r}, but {errors_source.name} was calibrated on "
                                   f"{ours!r}")
    theirs, ours = provenance.models_of(source.header), provenance.models_of(errors_source.header)
    if theirs and ours and not any(model in ours for model in theirs):
        raise errors.DataError(f"{source.name}: its labels come from another model than the repeats behind "
                               f"{errors_source.name}: the names agree, the data do not (calibrate again)")


class Scaling:
    """Final errors under the settings: `error(formal, labels, snr)` -> (errors, from precision)."""

    def __init__(self, calibration, names, settings, place):
        import numpy as np

        from cannonkit import errors

        missing = [n for n in names if n not in calibration.names]
        if missing:
            raise errors.DataError(f"{place}[FACTORS]: no label {missing[0]!r}"
                                   f"{errors.did_you_mean(missing[0], calibration.names)}")
        self.names, self.settings = names, settings
        self.factors = np.array([calibration.factor(n, settings.factor) for n in names])
        unknown = [n for n, f in zip(names, self.factors, strict=True) if not np.isfinite(f)]
        if unknown:
            raise errors.DataError(f"{place}[FACTORS]: no {settings.factor} factor of {', '.join(unknown)} was "
                                   "measured (too few repeats)")
        self.curves = [calibration.curves[n, settings.precision] for n in names]
        self.full = None
        if settings.error_model == "full":
            self.full = [calibration.full.get(n) for n in names]
            if any(m is None for m in self.full):
                raise errors.DataError(f"{place}: has no full error model: calibrate with --error-model full")

    def error(self, formal, labels, snr):
        import numpy as np

        from cannonkit.stages import errors as stage

        if self.full is None:
            return stage.final_error(formal, snr, self.factors, self.curves)
        error = np.full(formal.shape, np.nan)
        for k, model in enumerate(self.full):
            columns = [snr if axis == "snr" else labels[:, self.names.index(axis)] if axis in self.names
                       else np.full(len(snr), np.nan) for axis in model.axes]
            x = np.stack(columns, axis=1) if columns else np.zeros((len(snr), 0))
            error[:, k] = model.error(formal[:, k], x)
        return error, np.zeros(error.shape, bool)


# --- validate ------------------------------------------------------------------------------------------

def _validate(args):
    import contextlib

    import numpy as np

    from cannonkit import errors, label_tables, schema, stream
    from cannonkit.stages import errors as stage

    settings = config.resolve(config.Errors, args)
    with contextlib.ExitStack() as files:
        errors_source = files.enter_context(stream.open_source(args.errors, "errors")) if args.errors else None
        source = files.enter_context(stream.open_source(args.input))
        table = label_tables.read(source, settings, None if _whole(args.across) else args.across)
        if cli.dry_run(args, rows=len(table.star), labels=",".join(table.names), memory=table.nbytes):
            return 0
        # Per calibration, the rows that it judges.
        if errors_source is not None:
            _check_same(source, errors_source)
            judged = [(read_calibration(errors_source), _left_aside(table, settings, errors_source))]
        else:
            judged = list(_across(table, settings, source, args))
        sigma, offset, use = _errors_of(table, settings, judged, args.errors or args.input)
        differences, (first, second) = differences_of(table, settings, use >= 0)
        together = use[first] == use[second]
        differences, first, second = differences.only(together), first[together], second[together]
        rows = []
        for k, name in enumerate(table.names):
            value = differences.value[:, k] - offset[first, k]
            pulls = []
            for error in sigma.values():
                variance = error[first, k] ** 2 + (0.0 if settings.against else error[second, k] ** 2)
                pulls.append(value / np.sqrt(variance + differences.extra[:, k]))
            for axis, x in (("all", np.zeros(len(value))), *_bin_axes(table, first, second)):
                for b in stage.pull_bins(pulls, differences.weight, x, 1 if axis == "all" else settings.bins):
                    rows.append((name, axis, b, dict(zip(sigma, b.widths, strict=True))))
        if not rows:
            raise errors.DataError(f"{source.name}: no repeats to validate with")
        out_rows = schema.PULLS.empty(len(rows))
        for at, (name, axis, b, widths) in enumerate(rows):
            out_rows[at]["label"], out_rows[at]["axis"] = name.encode(), axis.encode()
            for key in ("low", "high", "centre", "n_pair", "n_independent", "error"):
                out_rows[at][key] = getattr(b, key)
            for model, width in widths.items():
                out_rows[at][model] = width
        header = {k: source.header.text(k) for k in ("MODEL", "SURVEY", "SCALE") if source.header.text(k)}
        if settings.against:
            header["AGAINST"] = True, "differences from reference labels, not of repeats"
        if args.across:
            header["ACROSS"] = args.across, "parts, each judged by the others"
        with stream.create(args.output, "errors", schema.PULLS, len(rows), [], header,
                           [s for s in (source, errors_source) if s is not None], cli.record(args, settings),
                           args.overwrite) as out:
            out.write(out_rows)
    for line in _pull_lines(out_rows, "stars" if settings.against else "pairs"):
        cli.log(line)
    return 0


def _left_aside(table, settings, errors_source):
    """(n_row,) bool: rows that the calibration of an errors product has not seen; with a warning, all."""
    import numpy as np

    from cannonkit.stages import repeats

    use = np.ones(len(table.star), bool)
    holdout = float(errors_source.header.get("HOLDOUT", 0.0))
    if settings.against:
        return use
    if holdout > 0:
        use = repeats.kept_aside(table.star, holdout, int(errors_source.header.get("HOLDSEED", 1)))
        cli.log(f"{int(use.sum())} of {len(use)} spectra are of stars that calibrate left aside")
    else:
        cli.warn(f"{errors_source.name}: no stars were left aside (calibrate --holdout); on the repeats that it was "
                 "calibrated on, widths are near 1 anyway")
    return use


def _whole(across):
    """The number of parts that --across names; 0 if it names a column."""
    return int(across) if across and across.isascii() and across.isdigit() else 0


def _across(table, settings, source, args):
    """(calibration on the other parts, rows of this part) for each part of the rows: see --across."""
    import dataclasses

    import numpy as np

    from cannonkit import errors
    from cannonkit.stages import repeats

    n_part, part = _whole(args.across), table.part
    if n_part:
        named = (table.star != b"").any()      # without names every row is a star
        part = np.arange(len(table.star)) % n_part if not named else \
            np.floor(n_part * repeats.places(table.star, settings.seed))
    values = np.unique(part[table.good])
    if not 2 <= len(values) <= 100:
        raise errors.DataError(f"{source.place('star_id' if n_part else args.across)}: {len(values)} different parts "
                               "among the rows that can be judged (--across), expected 2 to 100")
    settings = dataclasses.replace(settings, draws=2)       # nobody asks for the errors of these factors
    for value in values:
        here = part == value
        yield _calibrated(table, settings, ~here, source.place("star_id"), args.threads), here


def _errors_of(table, settings, judged, place):
    """({model: errors (n_row, n_label)}, offsets (n_row, n_label), (n_row,) place of each row's calibration, -1 for
    none) of a LabelTable by [(calibration, rows that it judges)]."""
    import dataclasses

    import numpy as np

    formal = np.sqrt(table.variance)
    kinds = ("factor", "paper", "full") if all(c.full for c, _ in judged) else ("factor", "paper")
    sigma = {"formal": formal} | {kind: np.full(formal.shape, np.nan) for kind in kinds}
    offset, use = np.zeros(formal.shape), np.full(len(formal), -1)
    for number, (calibration, here) in enumerate(judged):
        use[here] = number
        if settings.against:
            offset[here] = [calibration.offset(n) for n in table.names]
        for kind in ("paper", "full")[:len(kinds) - 1]:
            scaling = Scaling(calibration, table.names, dataclasses.replace(settings, error_model=kind), place)
            sigma[kind][here] = scaling.error(formal[here], table.labels[here], table.snr[here])[0]
            sigma["factor"][here] = formal[here] * scaling.factors
    return sigma, offset, use


def _bin_axes(table, first, second):
    """(name, value per pair) of the bins: the lower S/N of a pair, the mean of its labels."""
    import numpy as np

    axes, x = table.axes()
    for j, axis in enumerate(axes):
        pair = x[first, j], x[second, j]
        yield axis, np.minimum(*pair) if axis == "snr" else 0.5 * (pair[0] + pair[1])


def _pull_lines(rows, what):
    """Summary for people: widths of all pairs (`what`), and how many bins are within 10 % or three errors of 1."""
    import numpy as np

    models = [m for m in ("formal", "factor", "paper", "full") if np.isfinite(rows[m]).any()]
    for name in dict.fromkeys(rows["label"].tolist()):
        own = rows["label"] == name
        whole, bins = rows[own & (rows["axis"] == b"all")], rows[own & (rows["axis"] != b"all")]
        near = {m: int((np.abs(bins[m] - 1) <= np.maximum(0.1, 3 * bins["error"])).sum()) for m in models}
        yield (f"{name.decode()}: {int(whole['n_pair'][0])} {what}, pull widths "
               + ", ".join(f"{m} {whole[m][0]:.2f}" for m in models)
               + f"; bins within 10 % or 3 errors of 1, of {len(bins)}: "
               + ", ".join(f"{m} {near[m]}" for m in models))


def main(argv=None):
    return cli.main(build_parser(), run, argv)
