"""Flag stars whose labels lie outside the training set, and carry the survey's own flags along
(paper section 3.6). Output row k is input row k, with columns added.

The distance is equation 5: the mean, over the nearest training stars, of the squared differences in Teff,
log g, [Fe/H] and [alpha/Fe], each over its cross-validation RMS. With the survey's catalogue (--survey,
--recipe) the words for problem spectra, pipeline flags, invalid labels and S/N are added too.

Examples:
  cc-flag acgs.labels.fits -m acgs.model.fits -o acgs.flagged.fits
  cc-flag acgs.labels.fits -m acgs.model.fits --survey apogee_catalogue.fits --recipe apogee_dr16 -o out.fits
  cc-infer spectra.fits -m acgs.model.fits -o - | cc-flag - -m acgs.model.fits --metric absolute -o out.fits
"""
from cannonkit import cli, config


def build_parser():
    parser = cli.new_parser("cc-flag", __doc__)
    cli.add_stream_options(parser, "LABELS", chunk=16384)
    parser.add_argument("-m", "--model", required=True, metavar="MODEL",
                        help="the model that gave the labels: its training set and cross-validation")
    add_survey_options(parser)
    cli.add_settings(parser, config.Flag)
    return parser


def add_survey_options(parser):
    """--survey TABLE and --recipe RECIPE, as often as there are surveys (cc-merge has them too)."""
    parser.add_argument("--survey", action="append", metavar="TABLE", default=[],
                        help="a survey's catalogue, or its selection by cc-crossmatch; joined by id. Repeatable: "
                        "the one whose recipe names the spectra's survey is used")
    parser.add_argument("--recipe", action="append", metavar="RECIPE", default=[],
                        help="its recipe, a file or an installed name; one for each --survey, in the same order")


def load_surveys(args):
    """{survey name: (table path, recipe.Survey)} of the --survey and --recipe options."""
    from cannonkit import errors, recipe

    if len(args.survey) != len(args.recipe):
        raise errors.UsageError(f"{len(args.survey)} times --survey, but {len(args.recipe)} times --recipe: "
                                "they belong together")
    found = {}
    for table, name in zip(args.survey, args.recipe, strict=True):
        survey = recipe.load_survey(name)
        if survey.survey in found:
            raise errors.UsageError(f"--recipe {name}: survey {survey.survey!r} is given twice")
        found[survey.survey] = table, survey
    return found


def run(args):
    import numpy as np

    from cannonkit import errors, headers, schema, stream
    from cannonkit import model as model_file
    from cannonkit.stages import flag

    settings = config.resolve(config.Flag, args)
    surveys = load_surveys(args)
    with stream.open_source(args.model, "model") as model_source:
        model = model_file.from_source(model_source)
        training = flag.training_of(model, settings.labels, settings.nearest)
        with stream.open_source(args.input, "labels") as source:
            source.require(["id", "star_id", "chi2", "n_pix_used", *model.label_names])
            _check_belong(source, model)
            survey = _survey_of(source, surveys)
            boolean = False
            if survey is not None:
                path, recipe = survey
                boolean = "flag_spectra" in recipe.catalogue.flags and recipe.catalogue.flags["flag_spectra"].boolean
                snr_min = recipe.catalogue.snr_min if settings.snr_min is None else settings.snr_min
                rows_of = SurveyRows(path, recipe)
            table = source.table.with_columns(schema.flag_columns(survey is not None))
            if cli.dry_run(args, rows=source.n_row, model=args.model, training_stars=training.n_train):
                return 0
            cards = {"CKMETRIC": (settings.metric, "of cannon_distance"),
                     "NEAREST": (settings.nearest, "training stars"),
                     "DISTMAX": (settings.limit, "flag_cannon_dist = 1 above this"),
                     "DISTLAB": (",".join(training.names), "labels of the distance"),
                     "LEVMEAN": (training.rank / training.n_train, "mean leverage of the training stars")}
            if survey is not None:
                cards |= {"SNRMIN": (snr_min, "flag_snr = 1 where the survey's S/N is not above"),
                          **word_cards(recipe, "FSPB", "FPIB")}
            counts = Counts(recipe if survey is not None else None)
            sources = [source, model_source]
            with stream.create(args.output, "labels", table, source.n_row, list(source.extensions.values()),
                               headers.kept(source.header), sources, cli.record(args, settings), args.overwrite,
                               {**headers.kept(source.hdu.header, True), **cards}) as out, \
                    cli.Progress(source.n_row, "stars", args) as progress:
                for _, rows in source.chunks(args.chunk):
                    labels = schema.label_array(rows, model.label_names)
                    star_id = np.asarray(rows["star_id"])
                    distance = {m: flag.training_distance(labels, star_id, training, m, settings.nearest)
                                for m in flag.METRICS}
                    values = {
                        "cannon_distance": distance[settings.metric],
                        "leverage": flag.leverage(labels, training),
                        "outside_fraction": flag.outside_fraction(labels, training),
                        "spectrum_distance": flag.spectrum_distance(rows["chi2"], rows["n_pix_used"], model.n_label),
                        "flag_cannon_dist": flag.is_outside(distance[settings.metric], settings.limit),
                        "flag_training": flag.not_in_training(star_id, training),
                    }
                    if survey is not None:
                        found, of_survey = rows_of(rows["id"])
                        status = rows["spectrum_status"] if "spectrum_status" in rows.dtype.names else None
                        values |= flag.survey_flags(of_survey, found, snr_min, boolean, status)._asdict()
                        counts.missing += int((~found).sum())
                    written = table.rows(len(rows), rows, **values)
                    counts.add(written, {m: flag.is_outside(d, settings.limit) for m, d in distance.items()})
                    out.write(written)
                    progress.advance(len(rows))
                if survey is not None and counts.missing == counts.n_row > 0:
                    raise errors.DataError(f"{path}: no id of {source.name} is in it (such as "
                                           f"{schema.text(rows['id'][:1])[0]!r}): another survey or selection?")
                for key, value, comment in counts.notes():
                    out.note(key, value, comment)
    for line in counts.lines(settings):
        cli.log(line)
    if counts.missing:
        cli.warn(f"{counts.missing} of {counts.n_row} stars are not in {path}: their survey flags are null")
    return 0


def _check_belong(source, model):
    """Labels and model must be of one kind: the model's name, where both say it."""
    from cannonkit import errors

    for key, ours in (("MODEL", model.name), ("SURVEY", model.survey), ("SCALE", model.scale_survey)):
        theirs = source.header.text(key)
        if theirs and ours and theirs != ours:
            raise errors.DataError(f"{source.name}: {key} {theirs!r}, but the model has {ours!r}: "
                                   "the labels come from another model")


def _survey_of(source, surveys):
    """(table path, recipe) of the survey of the spectra; None if no --survey is given."""
    from cannonkit import errors

    if not surveys:
        return None
    name = source.header.text("SURVEY")
    if not name and len(surveys) == 1:
        return next(iter(surveys.values()))
    if name not in surveys:
        raise errors.DataError(f"{source.name}: its spectra are of survey {name!r}, --recipe has "
                               f"{', '.join(sorted(surveys))}")
    return surveys[name]


def word_cards(recipe, spectra_prefix, sp_prefix):
    """Header cards that name the bits of a survey's two words, and masks of the bad ones."""
    from cannonkit import bitmasks, schema

    cards = {}
    for name, prefix in (("flag_spectra", spectra_prefix), ("flag_sp", sp_prefix)):
        flag = recipe.catalogue.flags.get(name)
        if flag is None:
            continue
        mask = flag.stored_mask
        bits = "any" if mask < 0 else hex(mask)
        cards[f"{prefix[:4]}MASK"] = (mask, f"bad bits of the {recipe.survey} word: {bits}")
        if flag.boolean:
            cards[f"{prefix}00"] = ("BAD_SPECTRUM", "bad spectrum")
        elif flag.word in bitmasks.WORDS:
            cards |= schema.bit_cards(prefix, bitmasks.WORDS[flag.word])
    return cards


class SurveyRows:
    """Rows of a survey's catalogue by id: `found, rows = survey_rows(ids)`; reads only the columns it needs."""

    COLUMNS = ("id", "snr", "flag_spectra", "flag_sp", "flag_survey")

    def __init__(self, path, recipe, columns=COLUMNS):
        from cannonkit import surveys
        from cannonkit.stages.lookup import Lookup

        self.rows = surveys.read(path, recipe, columns=list(columns))
        self.lookup = Lookup(self.rows["id"], path)

    def __call__(self, ids):
        import numpy as np

        row = self.lookup.find(ids)
        if not len(self.rows):
            return np.zeros(len(row), bool), np.zeros(len(row), self.rows.dtype)
        return row >= 0, self.rows[np.maximum(row, 0)]


class Counts:
    """What the summary and END say."""

    def __init__(self, recipe):
        self.recipe, self.n_row, self.missing = recipe, 0, 0
        self.flags, self.metrics, self.clean, self.zero = {}, {}, 0, 0

    def add(self, rows, outside):
        from cannonkit.stages import flag

        self.n_row += len(rows)
        for name in ("flag_cannon_dist", "flag_training", "flag_survey", "flag_snr"):
            if name in rows.dtype.names:
                self.flags[name] = self.flags.get(name, 0) + int((rows[name] != 0).sum())
        for metric, far in outside.items():
            self.metrics[metric] = self.metrics.get(metric, 0) + int(far.sum())
        if self.recipe is not None:
            masks = self.masks
            for name, mask in masks.items():
                bad = ~flag.has_no_bad_bit(rows[name], mask)
                self.flags[name] = self.flags.get(name, 0) + int(bad.sum())
            self.clean += int(flag.is_clean(rows, masks["flag_spectra"], masks["flag_sp_aspcap"]).sum())
            self.zero += int(flag.is_clean_by_zero(rows).sum())

    @property
    def masks(self):
        flags = self.recipe.catalogue.flags
        return {ours: flags[theirs].stored_mask if theirs in flags else 0
                for ours, theirs in (("flag_spectra", "flag_spectra"), ("flag_sp_aspcap", "flag_sp"))}

    def notes(self):
        yield "NFAR", self.flags.get("flag_cannon_dist", 0), "stars with flag_cannon_dist"
        yield "NTRAIN", self.n_row - self.flags.get("flag_training", 0), "stars of the training set"
        if self.recipe is not None:
            yield "NCLEAN", self.clean, "clean stars"
            yield "NMISSING", self.missing, "stars that the survey's table does not have"

    def lines(self, settings):
        n = max(1, self.n_row)
        yield f"{self.n_row} stars, {self.n_row - self.flags.get('flag_training', 0)} of them in the training set"
        far = ", ".join(f"{m} {k} ({100 * k / n:.1f} %)" for m, k in self.metrics.items())
        yield f"farther than {settings.limit:g} by metric: {far}; the flag uses {settings.metric}"
        if self.recipe is not None:
            names = ("flag_spectra", "flag_sp_aspcap", "flag_survey", "flag_snr")
            yield "bad: " + ", ".join(f"{name} {self.flags[name]} ({100 * self.flags[name] / n:.1f} %)"
                                      for name in names)
            yield (f"clean (no flag and no bad bit): {self.clean} ({100 * self.clean / n:.1f} %); with every word "
                   f"zero, warnings counted: {self.zero} ({100 * self.zero / n:.1f} %)")


def main(argv=None):
    return cli.main(build_parser(), run, argv)
