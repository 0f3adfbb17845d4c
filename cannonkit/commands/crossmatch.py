"""Join two survey catalogues, apply the quality cuts, and write the training table (paper section 3.2).

With one table: a selection of its rows (one spectrum per star, or the repeats), with the same cuts and
labels. With an existing training table: attach more columns. Every star keeps its row; `reject` says in
named bits which cuts it fails, `selected` is 1 where it fails none.

Examples:
  cc-crossmatch mock/apogee/allStar-r12-mock.fits mock/galah/GALAH_DR3_main_allstar_mock.fits \
--recipe apogee_galah -v -o training.fits
  cc-crossmatch mock/galah/GALAH_DR3_main_allspec_mock.fits --recipe galah_dr3 --select repeats -o repeats.fits
  cc-crossmatch training.fits --attach mock/distances_mock.fits distances_geo -o training_distances.fits
"""
from cannonkit import cli, config


def build_parser():
    parser = cli.new_parser("cc-crossmatch", __doc__)
    parser.add_argument("left", metavar="LEFT", help="a survey's catalogue (FITS, or CSV by its name), or a "
                        "training table; - for standard input")
    parser.add_argument("right", metavar="RIGHT", nargs="?", help="the other survey's catalogue")
    parser.add_argument("--recipe", metavar="RECIPE",
                        help="with two catalogues a recipe of the pair, with one of the survey: a file, or "
                        "the name of an installed one (apogee_galah, apogee_dr16, galah_dr3, sky ...)")
    parser.add_argument("--attach", metavar=("TABLE", "RECIPE"), nargs=2, action="append", default=[],
                        help="add columns of another table to every survey's rows (repeatable, in order): "
                        "gaia_edr3, gaia_edr3_sky, distances_geo, distances_photogeo, clusters, or a file. "
                        "RECIPE,key=COLUMN,NAME=COLUMN says other names for its columns, on=COLUMN "
                        "the column of ours that its key is compared with")
    parser.add_argument("-v", "--verbose", action="store_true",
                        help="print how many stars each cut removes, alone and in order")
    cli.add_output_options(parser)
    cli.add_settings(parser, config.Crossmatch)
    return parser


def run(args):
    import contextlib

    from cannonkit import attach, stream

    settings = config.resolve(config.Crossmatch, args)
    attachments = [(path, attach.load(text)) for path, text in args.attach]
    with contextlib.ExitStack() as files:
        rows = _open_rows(args, settings, files)
        for line in rows.counts:
            cli.log(line)
        if cli.dry_run(args, input=" and ".join(t.name for t in rows.sources), rows=rows.n_row,
                       memory=200 * rows.n_row):  # keys, positions and their order, as measured
            return
        stream.check_target(args.output, args.overwrite, [p for p in (args.left, args.right) if p])
        columns, values, sources = _attached(rows, attachments, files)
        held_out, held_bit = _held_out(rows, settings)
        table = rows.table.with_columns(columns)
        words = []
        with stream.create(args.output, "training", table, rows.n_row, header=rows.header,
                           sources=(*rows.sources, *sources), record=cli.record(args, settings),
                           overwrite=args.overwrite, row_header=rows.rejects.cards()) as out:
            at = 0
            for chunk in rows.chunks():
                full = chunk
                if columns:
                    full = table.rows(len(chunk), chunk)
                for name, array in values.items():
                    full[name] = array[at:at + len(chunk)]
                if held_out is not None:
                    full["reject"] = full["reject"] | held_bit * held_out[at:at + len(chunk)]
                    full["selected"] = full["reject"] == 0
                out.write(full)
                words.append(full["reject"].astype("i8"))
                at += len(chunk)
            n_selected = sum(int((w == 0).sum()) for w in words)
            out.note("NSELECT", n_selected, "rows that pass every cut")
        _report(rows, words, n_selected, args.verbose)


def _open_rows(args, settings, files):
    """The rows of the output, from one catalogue, two, or a training table."""
    from dataclasses import replace

    from cannonkit import errors, joining, recipe, surveys

    if args.recipe is None:
        table = files.enter_context(surveys.open_table(args.left))
        if table.product != "training" or args.right is not None:
            raise errors.UsageError("--recipe is missing (only a training table needs none)")
        return joining.TableRows(table)
    positions = joining.position_of(settings.left_position), joining.position_of(settings.right_position)
    is_pair = recipe.is_pair(args.recipe)
    if args.right is None:
        if is_pair:
            raise errors.UsageError(f"recipe {args.recipe} is for two catalogues, one is given")
        survey = recipe.load_survey(args.recipe)
        table = files.enter_context(surveys.open_table(args.left, survey.catalogue.hdu))
        _no_product(table)
        return joining.SurveyRows(table, survey, settings.select or "catalogue", positions[0])
    if not is_pair:
        raise errors.UsageError(f"recipe {args.recipe} is for one catalogue, two are given")
    pair = recipe.load_pair(args.recipe)
    changes = {name: getattr(settings, name) for name in ("by", "radius", "find", "keep")
               if getattr(settings, name)}
    join = replace(pair.join, **changes)
    left = files.enter_context(surveys.open_table(args.left, pair.left.survey.catalogue.hdu))
    right = files.enter_context(surveys.open_table(args.right, pair.right.survey.catalogue.hdu))
    _no_product(left)
    _no_product(right)
    return joining.PairRows(left, right, pair, join, settings.select, positions)


def _no_product(table):
    from cannonkit import errors

    if table.product is not None:
        raise errors.DataError(f"{table.name}: a {table.product} product, expected a survey's catalogue "
                               "(a training table is given alone, without --recipe)")


def _attached(rows, attachments, files):
    """The attached columns of every survey: their schema.Columns, {name: array}, and the tables."""
    from dataclasses import replace

    import numpy as np

    from cannonkit import attach, errors, surveys

    if not attachments:
        return (), {}, []
    names = set(rows.table.names)
    wanted = {f"{survey}_{name}" for survey in rows.surveys for _, recipe in attachments
              for name in (*attach.needed(recipe), *recipe.columns)}
    known = rows.column([n for n in rows.table.names if n in wanted])
    columns, values, tables = [], {}, []
    for path, recipe in attachments:
        table = files.enter_context(surveys.open_table(path, recipe.hdu))
        tables.append(table)
        for survey in rows.surveys:
            ours = {}
            for name in attach.needed(recipe):
                if f"{survey}_{name}" not in known:
                    raise errors.DataError(f"attach {recipe.name}: {survey} has no column {name!r}"
                                           f"{errors.did_you_mean(f'{survey}_{name}', names)}")
                ours[name] = known[f"{survey}_{name}"]
            found = attach.Attachment(recipe, table, ours, survey, rows.epochs.get(survey, 0.0))
            cli.log(f"{table.name}: {recipe.title or recipe.name}, for {survey}: "
                    + ", ".join(f"{n} {what}" for what, n in found.counts.items()))
            if not found.found.any():
                cli.warn(f"{table.name}: none of its rows belongs to a star of {survey!r}")
            for column in found.table:
                name, new = f"{survey}_{column.name}", found.values[column.name]
                if name in known and not recipe.replace:
                    new = np.where(_missing(known[name]), new, known[name])
                elif name in known:
                    new = np.where(_missing(new) & ~found.found, known[name], new)
                if name in names:
                    column = replace(rows.table[name], dtype=column.dtype)
                columns = [c for c in columns if c.name != name]
                columns.append(replace(column, name=name))
                known[name] = values[name] = new
    return tuple(columns), values, tables


def _missing(values):
    import numpy as np

    from cannonkit import schema

    if values.dtype.kind == "f":
        return np.isnan(values)
    return values == (schema.NULL_ID if values.dtype.kind == "i" else b"")


def _held_out(rows, settings):
    from cannonkit import joining

    if settings.split >= 1.0:
        return None, 0
    held_out = joining.hold_out(rows, settings.split, settings.seed)
    meaning = f"in the {settings.split:g} of the stars that may be selected, seed {settings.seed}"
    return held_out, rows.rejects.add("HELD_OUT", meaning)


def _report(rows, words, n_selected, verbose):
    """Counts on standard error."""
    import sys

    import numpy as np

    from cannonkit.stages import cuts

    cli.log(f"{rows.n_row} rows written, {n_selected} selected")
    if not rows.n_row:
        cli.warn("no row is left: are these the right tables, in the order of the recipe?")
    if verbose:
        reject = np.concatenate(words) if words else np.zeros(0, np.int64)
        width = max([4, *(len(n) for n in rows.rejects.names)])
        lines = [f"{'cut':<{width}} {'alone':>9} {'in order':>9} {'left':>9}  what a star must satisfy"]
        lines += [f"{name:<{width}} {alone:>9} {in_order:>9} {left:>9}  {meaning}"
                  for name, meaning, alone, in_order, left in cuts.cut_table(reject, rows.rejects)]
        print("\n".join(lines), file=sys.stderr)


def main(argv=None):
    return cli.main(build_parser(), run, argv)
