"""Train a spectral model: coefficients and scatter of every pixel, and its cross-validation (paper sections
3.1, 3.3, 3.4; equations 1 to 3).

SPECTRA holds the spectra of one survey on one grid, TRAINING the labels of either survey for the same stars
(joined by id; only rows with `selected` are used). The scatter s2 of a pixel is fitted jointly with its
coefficients. Stars of either file that the other lacks are counted (-v lists them).

Examples:
  cc-train apogee_spectra.fits --training training.fits --labels galah --config configs/cannon.yaml -o acgs.model.fits
  cc-train galah_spectra.fits --training training.fits --labels galah --scatter reml --order 1 -o m.fits
  cc-resample training.fits --recipe miles --root data -o - | cc-train - --training training.fits -o m.fits
"""
from cannonkit import cli, config

LISTED = 50       # ids that -v shows of each kind


def build_parser():
    parser = cli.new_parser("cc-train", __doc__)
    cli.add_stream_options(parser, "SPECTRA", chunk=512)
    cli.add_verify(parser)
    group = parser.add_argument_group("training")
    group.add_argument("--training", required=True, metavar="TRAINING",
                       help="table of cc-crossmatch with the labels and the column `selected`")
    group.add_argument("--labels", metavar="SURVEY", default=None,
                       help="whose labels: columns SURVEY_teff, ... (default: the table's survey if it has one)")
    group.add_argument("--id", metavar="COLUMN", default=None,
                       help="column of TRAINING with the id of the spectrum (default: the spectra's survey and _id)")
    group.add_argument("--line-mask", metavar="FILE", default=None,
                       help="line windows for censoring: a file or installed name, instead of the settings' "
                       "line_masks")
    group.add_argument("--scatter-from", metavar="MODEL", default=None,
                       help="take the scatter of every pixel from this model, fit the coefficients only")
    group.add_argument("--name", default=None, help="name of the model (default: from the output's name)")
    group.add_argument("--strict", action="store_true",
                       help="a selected star with a missing label or without a spectrum is an error")
    group.add_argument("-v", "--verbose", action="store_true", help="list the stars that are not used")
    cli.add_settings(parser, config.Train)
    return parser


def run(args):
    from cannonkit import errors, stream

    settings = config.resolve(config.Train, args)
    stream.check_target(args.output, args.overwrite, [args.input, args.training])
    fixed = _model(args.scatter_from) if args.scatter_from else None
    stage = cli.import_ahead("cannonkit.stages.train")
    with stream.open_source(args.training) as table, stream.open_source(
            args.input, "spectra", verify=args.verify) as spectra:
        spectra.require_spectra()
        survey = spectra.header.text("SURVEY")
        columns = _columns(table, survey, args, settings)
        grid = spectra.extensions["WAVELENGTH"]
        if fixed is not None:
            _check_grid(fixed, grid, args, spectra.name)
        masks = _line_windows(args, settings, columns, survey)
        rows = _selected(table, columns)
        if cli.dry_run(args, training=args.training, stars=len(rows), labels=", ".join(columns.labels),
                       pixels=len(grid.data), memory=2 * len(rows) * len(grid.data) * 8):
            return
        data = _training_set(args, settings, rows, columns, spectra, stage)
        _describe(data, grid, masks, settings, survey, columns, args)
        if fixed is not None:
            data.s2_given = fixed.s2
        missing = int((~_finite(data.labels)).sum())
        if args.strict and missing:
            raise errors.DataError(f"{table.name}: {missing} selected stars have a missing label (--strict)")
        with cli.Progress(data.flux.shape[1], "pixels", args) as progress:
            model, notes, warnings = stage().train(data, settings, progress.advance)
        record = cli.record(args, settings)
        if masks is not None:
            record["line_mask"] = masks[0]
        model.write(args.output, sources=[spectra, table], record=record, overwrite=args.overwrite)
    for line in notes:
        cli.log(line)
    for line in warnings:
        cli.warn(line)


def _model(path):
    from cannonkit import model

    return model.read(path)


class Columns:
    """Columns of the training table: id, star_id, group, labels (names of the model), their columns and errors'."""

    def __init__(self, scale, id, star_id, group, labels, label_columns, error_columns, units):
        self.scale, self.id, self.star_id, self.group = scale, id, star_id, group
        self.labels, self.label_columns, self.error_columns, self.units = labels, label_columns, error_columns, units

    @property
    def all(self):
        names = [self.id, self.star_id, self.group, *self.label_columns, *self.error_columns]
        return list(dict.fromkeys(n for n in names if n))


def _columns(table, survey, args, settings):
    """Which columns of the training table are what. Raises DataError or UsageError with what there is."""
    from cannonkit import errors, schema

    names = table.table.names
    prefixes = [n.removesuffix("_id") for n in names if n.endswith("_id") and f"{n[:-3]}_star_id" in names]
    scale = args.labels
    if scale is None:
        scale = prefixes[0] if len(prefixes) == 1 else ""
        if len(prefixes) > 1:
            raise errors.UsageError(f"{table.name} has labels of {' and '.join(prefixes)}: say whose with --labels")
    elif scale not in prefixes and f"{scale}_{next(iter(settings.label_names), 'teff')}" not in names:
        raise errors.DataError(f"{table.name}: no labels of survey {scale!r}{errors.did_you_mean(scale, prefixes)}")
    prefix = f"{scale}_" if scale else ""
    labels = tuple(settings.label_names) or tuple(n for n in schema.LABELS if f"{prefix}{n}" in names)
    if not labels:
        raise errors.DataError(f"{table.name}: none of the labels {', '.join(schema.LABELS)} is a column "
                               f"{prefix}LABEL: name them with --label-names")
    id_column = args.id or (f"{survey}_id" if f"{survey}_id" in names else "id" if "id" in names else "")
    if not id_column:
        raise errors.DataError(f"{table.name}: no column {survey}_id with the ids of the spectra: name it with --id"
                               f"{errors.did_you_mean(f'{survey}_id', names)}")
    of_id = id_column.removesuffix("id")
    star_id = next((n for n in (f"{of_id}star_id", "star_id") if n in names), id_column)
    columns = Columns(scale, id_column, star_id, settings.group or star_id, labels,
                      [f"{prefix}{n}" for n in labels], [], [])
    errors_of = [f"{prefix}e_{n}" for n in labels]
    if settings.components != "0" and settings.label_errors == "table":
        columns.error_columns = errors_of if set(errors_of) <= set(names) else []
    table.require(columns.all)
    columns.units = [table.table[n].unit for n in columns.label_columns]
    return columns


def _selected(table, columns):
    """The rows of the training table that are selected (all of them without a column `selected`)."""
    from cannonkit import errors

    chosen = "selected" in table.table.names
    rows = table.read([*columns.all, *(["selected"] if chosen else [])])
    if chosen:
        rows = rows[rows["selected"] != 0]
    if len(rows) == 0:
        raise errors.DataError(f"{table.name}: no row is selected: nothing to train on")
    return rows


def _finite(labels):
    import numpy as np

    return np.isfinite(labels).all(axis=1)


def _training_set(args, settings, rows, columns, spectra, stage):
    """The spectra of the selected rows, in the order of the training table: a TrainingSet, of the module `stage()`."""
    import numpy as np

    from cannonkit import bitmasks, errors, schema

    ids = np.char.strip(np.asarray(rows[columns.id]).astype("S"))
    blank = ids == b""
    order = np.argsort(ids, kind="stable")
    twice = ids[order][1:][(ids[order][1:] == ids[order][:-1]) & ~blank[order][1:]]
    if len(twice):
        raise errors.DataError(f"{args.training}: {str(schema.text(twice[:1])[0])!r} stands in two selected rows of "
                               f"column {columns.id!r}")
    n_pix = spectra.table["flux"].shape[0]
    flux, ivar = np.zeros((len(rows), n_pix), np.float32), np.zeros((len(rows), n_pix), np.float32)
    state = np.zeros(len(rows), np.int8)           # 0 no row, 1 a row without data, 2 data
    others, listed = 0, []
    for _, part in spectra.chunks(args.chunk, ["id", "visit", "status", "flux", "ivar"], reuse=True):
        found_ids = np.char.strip(np.asarray(part["id"]).astype("S"))
        at = np.searchsorted(ids, found_ids, sorter=order)
        at = order[np.minimum(at, len(order) - 1)]
        match = (ids[at] == found_ids) & (found_ids != b"") & (part["visit"] == 0)
        others += int((~match).sum())
        listed += list(schema.text(found_ids[~match][:max(0, LISTED - len(listed))]))
        found, to = np.flatnonzero(match), at[match]
        stars, count = np.unique(to, return_counts=True)
        twice = stars[(count > 1) | (state[stars] > 0)]
        if len(twice):
            name = str(schema.text(ids[twice[:1]])[0])
            raise errors.DataError(f"{spectra.place('id')}: {name!r} stands there twice")
        usable = part["status"][found] & bitmasks.SPECTRUM_UNUSABLE == 0
        ends = np.flatnonzero((np.diff(found) != 1) | (np.diff(to) != 1)) + 1
        for run in np.split(np.arange(len(found)), ends):      # rows that stand together on both sides
            if len(run):
                source, target = (slice(i[run[0]], i[run[-1]] + 1) for i in (found, to))
                flux[target], ivar[target] = part["flux"][source], part["ivar"][source]
                state[target] = 1 + (usable[run] & np.any(ivar[target] > 0, axis=1))
    _report_missing(args, ids, state, others, listed, spectra.name)
    keep = state == 2
    if not keep.all():
        flux, ivar = _compress(flux, keep), _compress(ivar, keep)
    rows = rows[keep]
    grid = spectra.extensions["WAVELENGTH"]
    return stage().TrainingSet(
        flux=flux, ivar=ivar, labels=schema.label_array(rows, columns.label_columns),
        id=rows[columns.id], star_id=rows[columns.star_id], group=rows[columns.group],
        wavelength=grid.data["wavelength"], segment=grid.data["segment"], medium=str(grid.header["MEDIUM"]),
        label_names=columns.labels, label_units=tuple(columns.units),
        label_errors=schema.label_array(rows, columns.error_columns) if columns.error_columns else None)


def _compress(array, keep):
    """The kept rows, moved up in place: no second copy of the spectra."""
    import numpy as np

    kept = np.flatnonzero(keep)
    for to, n in enumerate(kept):
        if to != n:
            array[to] = array[n]
    return array[:len(kept)]


def _report_missing(args, ids, state, others, listed, name):
    """Count (and with -v list) stars on one side only. Raises DataError if no star has a spectrum."""
    from cannonkit import errors, schema

    cli.log(f"{len(ids)} selected stars, {int((state == 2).sum())} with a usable spectrum in {name}")
    if others:
        cli.log(f"{others} other spectra are of no selected star")
        if args.verbose:
            cli.log(f"  {', '.join(listed)}{', ...' if others > len(listed) else ''}")
    for value, what in ((0, "selected stars have no row in the spectra"),
                        (1, "selected stars have a spectrum without usable data")):
        found = ids[state == value]
        if len(found):
            most = LISTED if args.verbose else 3
            shown = ", ".join(repr(str(i)) for i in schema.text(found[:most]))
            message = f"{len(found)} {what} ({shown}{', ...' if len(found) > most else ''})"
            if args.strict:
                raise errors.DataError(f"{name}: {message} (--strict)")
            cli.warn(message)
    if not (state == 2).any():
        raise errors.DataError(f"{name}: no selected star of {args.training} has a usable spectrum there: another "
                               "survey, or other ids (--id)?")


def _line_windows(args, settings, columns, survey):
    """(name, windows) of the line mask for censoring, or None where no label of the model is censored."""
    import os

    from cannonkit import errors

    censored = [n for n in settings.censor if n in columns.labels]
    if not censored:
        return None
    from cannonkit import recipe

    name = args.line_mask or settings.line_masks.get(survey)
    if name is None:
        raise errors.SettingError(f"censor: {', '.join(censored)}: no line mask for spectra of survey {survey!r}: name "
                                  "one under line_masks, or with --line-mask", "censor", "line_masks")
    beside = None if args.line_mask or not args.config else os.path.dirname(os.path.abspath(args.config))
    return name, recipe.read_linemask(name, beside)


def _describe(data, grid, masks, settings, survey, columns, args):
    """Fill in what the model says of itself, and the censor mask."""
    import os

    from cannonkit.stages import censor

    if masks is not None:
        data.censor = censor.censor_of(data.wavelength, data.medium, masks[1], settings.censor, data.label_names)
        for i, name in enumerate(data.label_names):
            n_on = int(data.censor[:, i].sum())
            if n_on < len(data.censor):
                cli.log(f"{name} acts in {n_on} of {len(data.censor)} pixels")
    name = "" if args.output == "-" else os.path.basename(args.output).split(".")[0].upper()
    data.survey, data.scale_survey = survey, columns.scale
    data.name = args.name if args.name is not None else name


def _check_grid(fixed, grid, args, name):
    """--scatter-from: the model must have the grid of the spectra."""
    import numpy as np

    from cannonkit import errors

    if fixed.n_pix != len(grid.data) or fixed.medium != str(grid.header["MEDIUM"]) \
            or not np.array_equal(fixed.wavelength, grid.data["wavelength"]):
        raise errors.DataError(f"{args.scatter_from}: its grid ({fixed.n_pix} pixels, {fixed.medium}) is not that of "
                               f"{name} ({len(grid.data)} pixels, {grid.header['MEDIUM']})")


def main(argv=None):
    return cli.main(build_parser(), run, argv)
