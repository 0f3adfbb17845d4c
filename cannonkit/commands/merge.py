"""Join the parts of an array job (shards), or assemble a catalogue with the columns of Table A1 of the
paper from the labels of both surveys (catalogue).

Examples:
  cc-merge shards parts/ -o acgs.joined.fits
  cc-merge catalogue acgs.final.fits gcgs.final.fits --survey apogee_catalogue.fits --recipe apogee_dr16 \
--survey galah_catalogue.fits --recipe galah_dr3 -o galah_scaled.fits
  cc-merge catalogue acaa.final.fits gcaa.final.fits --survey apogee_catalogue.fits --recipe apogee_dr16 \
--survey galah_catalogue.fits --recipe galah_dr3 --best apogee_best.fits -o apogee_scaled.fits
"""
from cannonkit import cli, config

SHARDS = """Join the parts of an array job (--shard I/N) into the product that one job would have written.

The data bytes are the same. Every part is verified: one that is missing, there twice, damaged, of another run
or cut from the table in another way is named, and nothing is written.

Examples:
  cc-merge shards parts/ -o acgs.joined.fits
  cc-merge shards parts/part-*.fits -o acgs.joined.fits --overwrite
  cc-merge shards parts/ -o - | cc-flag - -m acgs.model.fits -o acgs.again.fits
"""

CATALOGUE = """Assemble a catalogue on one scale from flagged labels with final errors.
GALAH-scaled from ACGS and GCGS, APOGEE-scaled from ACAA and GCAA. One row per spectrum, in the order of the
inputs: the 44 columns of Table A1 in their order, then ours. Stars that both surveys observed keep both rows,
which point at each other (other_row, other_id).

Examples:
  cc-merge catalogue acgs.final.fits gcgs.final.fits --survey apogee_catalogue.fits --recipe apogee_dr16 \
--survey galah_catalogue.fits --recipe galah_dr3 -o galah_scaled.fits
  cc-merge catalogue acaa.final.fits gcaa.final.fits --survey apogee_catalogue.fits --recipe apogee_dr16 \
--survey galah_catalogue.fits --recipe galah_dr3 --best apogee_best.fits -o apogee_scaled.fits
  cc-merge catalogue acgs.final.fits --survey apogee_catalogue.fits --recipe apogee_dr16 -o apogee_only.fits
"""


def build_parser():
    from cannonkit.commands.flag import add_survey_options

    parser = cli.new_parser("cc-merge", __doc__)
    group = cli.add_subcommands(parser)
    shards = cli.add_subcommand(group, "shards", SHARDS)
    shards.add_argument("parts", nargs="+", metavar="PART", help="the parts, or a directory that holds them")
    cli.add_output_options(shards)
    catalogue = cli.add_subcommand(group, "catalogue", CATALOGUE)
    catalogue.add_argument("inputs", nargs="+", metavar="LABELS",
                           help="flagged labels with final errors, one file per survey, all on one scale")
    add_survey_options(catalogue)
    catalogue.add_argument("--best", metavar="FILE",
                           help="write one row per star as well: the inverse-variance mean where it has two")
    catalogue.add_argument("--chunk", type=int, default=2048, metavar="ROWS",
                           help="rows in memory at a time; the result does not depend on it (default: 2048)")
    cli.add_output_options(catalogue)
    cli.add_settings(catalogue, config.Merge)
    return parser


def run(args):
    return {"shards": _shards, "catalogue": _catalogue}[args.subcommand](args)


# --- shards -----------------------------------------------------------------------------------------

def _shards(args):
    from cannonkit import headers, stream
    from cannonkit.stages import merge

    paths = _part_paths(args.parts)
    stream.check_target(args.output, args.overwrite, paths)
    sources, parts = [], []
    for path in paths:
        source, part = _part(path)
        sources.append(source)
        parts.append(part)
    order = merge.ordered_parts(parts)
    sources = [sources[k] for k in order]
    first = sources[0]
    n_row = sum(s.n_row for s in sources)
    if cli.dry_run(args, parts=len(paths), rows=n_row, memory=4 * first.default_chunk() * first.hdu.axes[0]):
        return
    record = {**cli.record(args), "parts": len(paths)}
    with stream.create(args.output, first.product, first.table, n_row, list(first.extensions.values()),
                       headers.kept(first.header), sources, record, args.overwrite,
                       headers.kept(first.hdu.header, True)) as out, cli.Progress(n_row, "rows", args) as progress:
        for source in sources:
            with stream.open_source(source.name) as again:
                if again.datasums() != source.datasums():
                    from cannonkit import errors

                    raise errors.TryAgainError(f"{source.name}: changed while it was being read")
                for _, rows in again.chunks(reuse=True):
                    out.write(rows)
                    progress.advance(len(rows))
        for key, (value, comment) in _summed_notes(sources).items():
            out.note(key, value, comment)
    cli.log(f"{len(paths)} parts, {n_row} rows")


def _part_paths(names):
    """Files given, and those named part-*-of-*.fits in directories given. Raises UsageError for `-`."""
    import os

    from cannonkit import errors

    paths = []
    for name in names:
        if name == "-":
            raise errors.UsageError("parts cannot come from standard input: give files or a directory")
        if os.path.isdir(name):
            inside = sorted(f for f in os.listdir(name) if f.startswith("part-") and f.endswith(".fits"))
            if not inside:
                raise errors.NoInputError(f"{name}: no part-I-of-N.fits in this directory")
            paths += [os.path.join(name, f) for f in inside]
        else:
            paths.append(name)
    return paths


def _part(path):
    """(closed Source, stages.merge.Part) of a file whose every DATASUM has been verified."""
    import json

    from cannonkit import provenance, stream
    from cannonkit.stages import merge

    with stream.open_source(path, verify=True) as source:
        shard, run = provenance.run_of(provenance.from_header(source.header))
        sums = source.datasums()
        columns = [(c.name, c.dtype, c.shape, c.unit, c.null) for c in source.table.columns]
        good = source.product is not None and shard is not None
        part = merge.Part(str(path), tuple(shard) if good else None, run,
                          json.dumps([source.product, source.table.name, columns], default=str),
                          tuple((name, sums.get(name)) for name in source.extensions), source.n_row)
    return source, part


def _summed_notes(sources):
    """Counts that the parts' END headers have (whole numbers under the same key), added up."""
    from cannonkit import headers

    total = {}
    for source in sources:
        for key, (value, comment) in headers.kept(source.end_header, True).items():
            if isinstance(value, int) and not isinstance(value, bool) and not key.startswith("INS"):
                total[key] = total.get(key, (0, ""))[0] + value, comment
    return total


# --- catalogue --------------------------------------------------------------------------------------

def _catalogue(args):
    import contextlib
    from concurrent.futures import ThreadPoolExecutor

    from cannonkit import errors, schema, stream
    from cannonkit.commands.flag import load_surveys, recipe_record, survey_sources

    settings = config.resolve(config.Merge, args)
    surveys = load_surveys(args)
    if "-" in args.inputs:
        raise errors.UsageError("labels are read twice, so they cannot come from standard input")
    chunk = max(64, args.chunk)
    outputs = [args.output] + ([args.best] if args.best else [])
    if len(set(outputs)) < len(outputs):
        raise errors.UsageError("-o and --best name the same file")
    with contextlib.ExitStack() as files:
        inputs = [_Input(files, path, surveys) for path in args.inputs]
        names, units = _check_together(inputs)
        sources = [i.source for i in inputs] + survey_sources(files, *((i.path, i.recipe) for i in inputs))
        for path in outputs:
            stream.check_target(path, args.overwrite, [s.name for s in sources])
        n_row = sum(i.source.n_row for i in inputs)
        table = schema.catalogue_table(names)
        if cli.dry_run(args, input=", ".join(args.inputs), rows=n_row, columns=len(table.columns),
                       memory=200 * n_row + 8 * chunk * table.dtype.itemsize):  # ids in order, as measured
            return
        stars = _Stars(inputs, settings, surveys)
        record = {**cli.record(args, settings), "recipes": {i.survey: recipe_record(i.recipe) for i in inputs}}
        header = _catalogue_header(inputs)
        row_header = {"RADESYS": ("ICRS", "frame of ra, dec")}
        for i in inputs:
            row_header |= i.cards()
        out = files.enter_context(stream.create(args.output, "catalogue", table, n_row, [], header, sources, record,
                                                args.overwrite, row_header))
        best = None
        if args.best:
            best = _Best(files, args.best, names, n_row - stars.n_pair, header, sources, record, args.overwrite,
                         inputs, stars)
        counts = {}
        with cli.Progress(n_row, "rows", args) as progress, ThreadPoolExecutor(1) as writer:
            first, written = 0, None
            for one in inputs:
                for _, rows in one.source.chunks(chunk, reuse=1):
                    made = one.catalogue_rows(table, rows, names)
                    stars.point(made, first)
                    if written is not None:         # one chunk is written while the next is made
                        written.result()
                    written = writer.submit(out.write, made)
                    if best is not None:
                        best.add(made, rows, first, one)
                    one.count(made, counts)
                    first += len(rows)
                    progress.advance(len(rows))
            if written is not None:
                written.result()
        for one in inputs:
            one.check_found()
        out.note("NSTAR", n_row - stars.n_pair, "stars")
        out.note("NBOTH", stars.n_pair, "stars with a row of each survey")
        for key, value in counts.items():
            out.note(key, value)
    for one in inputs:
        cli.log(one.line())
        if one.missing:
            cli.warn(f"{one.missing} of {one.source.n_row} rows of {one.source.name} are not in {one.path}: their "
                     "survey columns are empty")
    cli.log(f"{n_row} rows, {n_row - stars.n_pair} stars, {stars.n_pair} of them with a row of each survey; "
            f"{sum(i.n_clean for i in inputs)} clean rows")
    if best is not None:
        cli.log(best.line())


class _Input:
    """One labels file with its survey's catalogue."""

    def __init__(self, files, path, surveys):
        from cannonkit import errors, stream
        from cannonkit.stages import merge
        from cannonkit.survey_rows import SurveyRows

        self.source = files.enter_context(stream.open_source(path, "labels"))
        self.survey = self.source.header.text("SURVEY")
        if self.survey not in surveys:
            known = f"--recipe has {', '.join(sorted(surveys))}" if surveys else "no --survey is given"
            raise errors.DataError(f"{path}: its spectra are of survey {self.survey!r}, {known}")
        self.path, self.recipe = surveys[self.survey]
        try:
            self.source.require([*merge.TEXTS, "cov_final"], numbers=merge.NUMBERS)
        except errors.DataError as error:
            raise errors.DataError(f"{error}: a catalogue is made of labels that went through cc-flag and "
                                   "cc-errors apply") from None
        self.names = tuple(n[4:] for n in self.source.columns if n.startswith("err_") and n[4:] in self.source.columns)
        self.source.require([], [x for n in self.names for x in (n, f"err_{n}")],
                            {"cov_final": (len(self.names), len(self.names))})
        self.units = tuple(self.source.columns[n].unit for n in self.names)
        self.rows_of = files.enter_context(SurveyRows(self.path, self.recipe, merge.survey_columns()))
        self.snr_min = float(self.source.hdu.header.get("SNRMIN", self.recipe.catalogue.snr_min))
        self.missing = self.n_clean = self.n_zero = self.n_fitted = 0

    @property
    def masks(self):
        flags = self.recipe.catalogue.flags
        return tuple(flags[n].stored_mask if n in flags else 0 for n in ("flag_spectra", "flag_sp"))

    def cards(self):
        """Names of this survey's bits, with its flag_id in the key: SnBnn, PnBnn, RnBnn."""
        from cannonkit import bitmasks, schema
        from cannonkit.commands.flag import word_cards

        n = self.recipe.flag_id
        cards = {f"S{n}NAME": (self.survey, f"survey of flag_id {n}"),
                 f"S{n}SNR": (self.snr_min, "flag_snr = 1 where its S/N is not above"),
                 **word_cards(self.recipe, f"S{n}B", f"P{n}B")}
        cards |= {f"R{n}B{bit:02d}": value for bit, value in self.rows_of.reject_bits().items()}
        return cards | schema.bit_cards("STAT", bitmasks.FIT_STATUS) | \
            schema.bit_cards("SPEC", bitmasks.SPECTRUM_STATUS)

    def catalogue_rows(self, table, rows, names):
        """Catalogue rows of a chunk of labels."""
        from cannonkit import schema
        from cannonkit.commands.flag import flags_of_survey
        from cannonkit.stages import merge

        found, of_survey = self.rows_of(rows["id"])
        self.missing += int((~found).sum())
        if all(c.name in rows.dtype.names for c in schema.SURVEY_FLAGS):
            flags = {c.name: rows[c.name] for c in schema.SURVEY_FLAGS}
        else:
            flags = flags_of_survey(self.recipe, of_survey, found, self.snr_min, rows)
        return merge.catalogue_rows(table, rows, names, (found, of_survey), flags, self.recipe.flag_id)

    def count(self, made, counts):
        import numpy as np

        from cannonkit.stages import merge

        clean = merge.is_clean(made, *self.masks)
        zero = merge.is_clean(made, -1, -1)
        self.n_clean += int(clean.sum())
        self.n_zero += int(zero.sum())
        self.n_fitted += int(np.isfinite(made["teffCann"]).sum())
        for key, which in (("NCLEAN", clean), ("NZERO", zero)):
            key = f"{key}{self.recipe.flag_id}"
            counts[key] = counts.get(key, 0) + int(which.sum())

    def check_found(self):
        from cannonkit import errors

        if self.missing == self.source.n_row > 0:
            raise errors.DataError(f"{self.path}: no id of {self.source.name} is in it: another survey, or another "
                                   "selection?")

    def line(self):
        n = max(1, self.source.n_row)
        return (f"{self.survey}: {self.source.n_row} rows, {self.n_fitted} with labels, {self.n_clean} clean "
                f"({100 * self.n_clean / n:.1f} %), {self.n_zero} with every word 0")


def _check_together(inputs):
    """(label names, units) of all inputs. DataError unless they are of different surveys on one scale."""
    from cannonkit import errors

    first, seen = inputs[0], {}
    for one in inputs:
        head = one.source.header
        if head.text("SCALE") != first.source.header.text("SCALE"):
            raise errors.DataError(f"{one.source.name}: labels on scale {head.text('SCALE')!r}, but "
                                   f"{first.source.name} is on {first.source.header.text('SCALE')!r}: "
                                   "a catalogue has one scale")
        if one.names != first.names or one.units != first.units:
            raise errors.DataError(f"{one.source.name}: labels {', '.join(one.names)}, but {first.source.name} has "
                                   f"{', '.join(first.names)}")
        for key, what in ((one.survey, "survey"), (one.recipe.flag_id, "flag_id")):
            if (what, key) in seen:
                raise errors.DataError(f"{one.source.name}: {what} {key!r} again, as in {seen[what, key]}")
            seen[what, key] = one.source.name
    return first.names, first.units


def _catalogue_header(inputs):
    scale = inputs[0].source.header.text("SCALE")
    models = [i.source.header.text("MODEL") for i in inputs]
    header = {"SCALE": (scale, "survey whose labels set the scale"),
              "SURVEY": (",".join(i.survey for i in inputs), "surveys of the spectra, in order of the rows"),
              "MODEL": (",".join(models), "their models"), "LABELS": (",".join(inputs[0].names), "labels of cov")}
    for one in inputs:
        head, n = one.source.hdu.header, one.recipe.flag_id
        for key, comment in (("CKMETRIC", "metric of Cannon_distance"), ("DISTMAX", "limit of flag_Cannon_dist"),
                             ("ERRMODEL", "model of the final errors"), ("ERRFACT", "factor used"),
                             ("ERRPREC", "precision curve used")):
            if key in head:
                header[f"{key[:7]}{n}"] = (head[key], f"{comment}, {one.survey}")
    return {k: v for k, v in header.items() if v[0] != ""}


class _Stars:
    """Which rows are of one star, over all inputs."""

    def __init__(self, inputs, settings, surveys):
        from concurrent.futures import ThreadPoolExecutor

        import numpy as np

        from cannonkit.stages import merge
        from cannonkit.stages.lookup import Lookup

        templates = _key_templates(settings, inputs)

        def names_of(one):
            key, own = _keys(one, templates.get(one.survey))
            Lookup(own, one.source.name)                        # an id that stands twice is refused
            return key, own
        with ThreadPoolExecutor(2) as pool:
            keys, ids = zip(*pool.map(names_of, inputs), strict=True)
        total = sum(len(i) for i in ids)
        self.other = merge.cross_reference(keys) if templates else np.full(total, -1, np.int64)
        del keys
        self.n_pair = int((self.other >= 0).sum()) // 2
        # Only the ids of rows with a partner are needed again.
        self.rows = np.flatnonzero(self.other >= 0)
        width = max([i.dtype.itemsize for i in ids], default=1)
        self.ids = np.zeros(len(self.rows), f"S{width}")
        offset = 0
        for own in ids:
            inside = (self.rows >= offset) & (self.rows < offset + len(own))
            self.ids[inside] = own[self.rows[inside] - offset]
            offset += len(own)

    def id_of(self, rows):
        """Unique_ID of catalogue rows that have a partner."""
        import numpy as np

        return self.ids[np.searchsorted(self.rows, rows)]

    def point(self, made, first):
        """Fill other_row and other_id of catalogue rows first, first + 1, ..."""
        other = self.other[first:first + len(made)]
        has = other >= 0
        made["other_row"][has] = other[has]
        made["other_id"][has] = self.id_of(other[has])


def _key_templates(settings, inputs):
    """{survey: key templates} of the pair's recipe; empty where it is not about these surveys."""
    from cannonkit import recipe

    if not settings.pair or len(inputs) < 2:
        return {}
    pair = recipe.load_pair(settings.pair)
    sides = {side.survey.survey: side.key for side in (pair.left, pair.right)}
    missing = [i.survey for i in inputs if i.survey not in sides]
    if missing:
        cli.warn(f"{settings.pair} is about {' and '.join(sides)}, not {missing[0]}: rows of one star are not "
                 "cross-referenced (--pair RECIPE)")
        return {}
    return sides


def _keys(one, templates):
    """(keys, ids) of all rows of an input, bytes; keys are blank without templates."""
    import numpy as np

    from cannonkit import schema
    from cannonkit.stages.columns import Columns

    known = {c.name: c for c in (one.source.columns["id"], one.source.columns["star_id"],
                                 schema.Column("dr2_source_id", "i8", null=schema.NULL_ID),
                                 schema.Column("dr3_source_id", "i8", null=schema.NULL_ID))}
    template = Columns(known, one.source.name).template(templates, "key") if templates else None
    gaia = [n for n in (template.needed if template else ()) if n not in ("id", "star_id")]
    ids = np.zeros(one.source.n_row, one.source.columns["id"].dtype)
    keys = np.zeros(one.source.n_row, f"S{template.width if template else 1}")
    for first, rows in one.source.chunks(8192, ["id", "star_id"], reuse=1):
        here = slice(first, first + len(rows))
        ids[here] = rows["id"]
        if gaia:
            of_survey = one.rows_of(rows["id"])[1]
            wide = np.zeros(len(rows), [*((n, rows.dtype[n]) for n in ("id", "star_id")), *((n, "i8") for n in gaia)])
            for name in ("id", "star_id"):
                wide[name] = rows[name]
            for name in gaia:
                wide[name] = of_survey[name]
            rows = wide
        if template:
            keys[here] = template.fill(rows, np.arange(first, first + len(rows)))
    one.rows_of.at = 0
    return keys, ids


class _Best:
    """The table of one row per star, written beside the catalogue in the order of each star's last row."""

    def __init__(self, files, path, names, n_row, header, sources, record, overwrite, inputs, stars):
        import numpy as np

        from cannonkit import schema, stream

        self.names, self.stars = names, stars
        self.masks = {i.recipe.flag_id: i.masks for i in inputs}
        self.table = schema.best_table(names)
        self.out = files.enter_context(stream.create(path, "catalogue", self.table, n_row, [], header, sources,
                                                     record, overwrite, {"RADESYS": ("ICRS", "frame of ra, dec")}))
        # What is kept of first rows until their partner comes: sorted by row.
        self.first_rows = stars.rows[stars.rows < stars.other[stars.rows]]
        self.kept = np.zeros(len(self.first_rows), self.table.dtype)
        self.n_row, self.n_mean, self.chi2, self.dof = n_row, 0, [], []

    def add(self, made, rows, first, one):
        """Catalogue rows first, first + 1, ... with the labels that they are made of."""
        import numpy as np

        from cannonkit import schema
        from cannonkit.stages import merge

        best = self.table.empty(len(made))
        for name in ("Unique_ID", "dr3_source_id", "ra", "dec", "other_id"):
            best[name] = made[name]
        best["row"] = first + np.arange(len(made))
        best["other_row"] = made["other_row"]
        for name in self.names:
            a1 = schema.A1_NAMES.get(name, name)
            best[f"{a1}Cann"], best[f"e_{a1}Cann"] = rows[name], rows[f"err_{name}"]
        best["cov"], best["n_used"] = rows["cov_final"], 1
        best["flag_clean"] = merge.is_clean(made, *self.masks[one.recipe.flag_id])
        here = best["row"]
        has = made["other_row"] != schema.NULL_ID
        is_first = has & (made["other_row"] > here)
        self.kept[np.searchsorted(self.first_rows, here[is_first])] = best[is_first]
        last = np.flatnonzero(has & ~is_first)
        if len(last):
            best[last] = self._mean(self.kept[np.searchsorted(self.first_rows, made["other_row"][last])], best[last])
        self.out.write(best[~is_first])

    def _mean(self, first, second):
        """One row for two of the same star each."""
        import numpy as np

        from cannonkit import schema
        from cannonkit.stages import merge

        columns = [f"{schema.A1_NAMES.get(n, n)}Cann" for n in self.names]
        values = [(schema.label_array(x, columns), np.asarray(x["cov"], np.float64)) for x in (first, second)]
        mean = merge.combine(*values[0], *values[1])
        out = first.copy()
        for name in ("dr3_source_id", "ra", "dec"):               # where the first survey has none
            empty = np.isnan(first[name]) if first[name].dtype.kind == "f" else first[name] == schema.NULL_ID
            out[name] = np.where(empty, second[name], first[name])
        both = (first["flag_clean"] == 1) == (second["flag_clean"] == 1)
        only_second = ~both & (second["flag_clean"] == 1)
        for k, column in enumerate(columns):
            error = np.sqrt(mean.cov[:, k, k])
            for name, new in ((column, mean.labels[:, k]), (f"e_{column}", error)):
                out[name] = np.where(both, new, np.where(only_second, second[name], first[name]))
        out["cov"] = np.where(both[:, None, None], mean.cov,
                              np.where(only_second[:, None, None], second["cov"], first["cov"]))
        there = [np.isfinite(labels).any(axis=1) for labels, _ in values]
        out["n_used"] = np.where(both & there[0] & there[1], 2, 1)          # a failed fit adds nothing
        out["flag_clean"] = np.maximum(first["flag_clean"], second["flag_clean"])
        out["consistency_chi2"], out["consistency_dof"] = mean.chi2, mean.dof
        self.n_mean += int((out["n_used"] == 2).sum())
        good = np.isfinite(mean.chi2)
        self.chi2.append(mean.chi2[good])
        self.dof.append(mean.dof[good])
        return out

    def line(self):
        import numpy as np

        chi2, dof = np.concatenate(self.chi2 or [[]]), np.concatenate(self.dof or [[]])
        agree = f", median consistency chi2 / dof {np.median(chi2 / dof):.2f}" if len(chi2) else ""
        return f"{self.out.target.name}: {self.n_row} stars, {self.n_mean} of them means of two rows{agree}"


def main(argv=None):
    return cli.main(build_parser(), run, argv)
