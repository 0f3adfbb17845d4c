"""Flag stars whose labels lie outside the training set, and carry the survey's own flags along
(paper section 3.6). Output row k is input row k, with columns added.

The distance is equation 5: the mean, over the nearest training stars, of the squared differences in Teff,
log g, [Fe/H] and [alpha/Fe], each over its cross-validation RMS. With the survey's catalogue (--survey,
--recipe) the words for problem spectra, pipeline flags, invalid labels and S/N are added too.

Examples:
  cc-flag acgs.labels.fits -m acgs.model.fits -o acgs.flagged.fits
  cc-flag acgs.labels.fits -m acgs.model.fits --survey apogee_catalogue.fits --recipe apogee_dr16 -o acgs.all.fits
  cc-flag - -m acgs.model.fits --metric absolute -o - < acgs.labels.fits | cc-check -
"""
from cannonkit import cli, config


def build_parser():
    parser = cli.new_parser("cc-flag", __doc__)
    cli.add_stream_options(parser, "LABELS", chunk=16384)
    cli.add_shard_options(parser)
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
    import contextlib

    from cannonkit import headers, resume, schema, stream
    from cannonkit import model as model_file
    from cannonkit.stages import flag
    from cannonkit.survey_rows import SurveyRows

    settings = config.resolve(config.Flag, args)
    surveys = load_surveys(args)
    with contextlib.ExitStack() as files:
        model_source = files.enter_context(stream.open_source(args.model, "model"))
        model = model_file.from_source(model_source)
        training = flag.training_of(model, settings.labels, settings.nearest)
        source = files.enter_context(stream.open_source(args.input, "labels", verify=args.verify))
        source.require(["id", "star_id"], numbers=["chi2", "n_pix_used", *model.label_names])
        _check_belong(source, model, model_source)
        survey = _survey_of(source, surveys)
        sources = [source, model_source]
        record = cli.record(args, settings)
        if survey is not None:
            record["recipe"] = recipe_record(survey[1])
            sources += survey_sources(files, survey)
        start, stop = cli.shard_rows(args.shard, source.n_row)
        if args.resume and resume.is_done(args.output, record, sources):
            cli.log(f"{args.output}: is there, whole, from the same inputs and settings: nothing to do")
            return
        table = source.table.with_columns(schema.flag_columns(survey is not None))
        if cli.dry_run(args, rows=stop - start, model=args.model, training_stars=training.n_train,
                       memory=4 * min(args.chunk, stop - start) * source.hdu.axes[0]):
            return
        survey_rows = None
        if survey is not None:
            survey_rows = files.enter_context(SurveyRows(*survey, ("snr", "flag_spectra", "flag_sp", "flag_survey")))
            survey_rows.at = start
        work = _Work(settings, model, training, survey, survey_rows)
        with stream.create(args.output, "labels", table, stop - start, list(source.extensions.values()),
                           headers.kept(source.header), sources, record, args.overwrite,
                           {**headers.kept(source.hdu.header, True), **work.cards()}) as out, \
                cli.Progress(stop - start, "stars", args) as progress:
            for _, rows in source.chunks(args.chunk, start=start, stop=stop):
                out.write(work.flagged(rows, table))
                progress.advance(len(rows))
            work.check_found(source.name)
            for key, value, comment in work.counts.notes():
                out.note(key, value, comment)
    cli.log_table(work.counts.table(settings))
    if work.counts.missing:
        cli.warn(f"{work.counts.missing} of {work.counts.n_row} stars are not in {survey[0]}: their survey "
                 "flags are null")


class _Work:
    """Model, settings and survey of a run; turns input rows into output rows and counts them."""

    def __init__(self, settings, model, training, survey, survey_rows):
        self.settings, self.model, self.training = settings, model, training
        self.recipe, self.last_id = None, None
        if survey is not None:
            self.path, self.recipe = survey
            self.survey_rows = survey_rows
            self.snr_min = self.recipe.catalogue.snr_min if settings.snr_min is None else settings.snr_min
        self.counts = Counts(self.recipe)

    def cards(self):
        """Header cards of the row table: how the flags were made, and their bits."""
        settings, training = self.settings, self.training
        cards = {"CKMETRIC": (settings.metric, "of cannon_distance"),
                 "NEAREST": (settings.nearest, "training stars"),
                 "DISTMAX": (settings.limit, "flag_cannon_dist = 1 above this"),
                 "DISTLAB": (",".join(training.names), "labels of the distance"),
                 "LEVMEAN": (training.rank / training.n_train, "mean leverage of the training stars")}
        if self.recipe is not None:
            cards |= {"SNRMIN": (self.snr_min, "flag_snr = 1 where the survey's S/N is not above"),
                      **word_cards(self.recipe, "FSPB", "FPIB")}
        return cards

    def flagged(self, rows, table):
        import numpy as np

        from cannonkit import schema
        from cannonkit.stages import flag

        settings, training = self.settings, self.training
        labels = schema.label_array(rows, self.model.label_names)
        star_id = np.asarray(rows["star_id"])
        distance = {metric: flag.training_distance(labels, star_id, training, metric, settings.nearest)
                    for metric in flag.METRICS}
        values = {
            "cannon_distance": distance[settings.metric],
            "leverage": flag.leverage(labels, training),
            "outside_fraction": flag.outside_fraction(labels, training),
            "spectrum_distance": flag.spectrum_distance(rows["chi2"], rows["n_pix_used"], self.model.n_label),
            "flag_cannon_dist": flag.is_outside(distance[settings.metric], settings.limit),
            "flag_training": flag.not_in_training(star_id, training),
        }
        if self.recipe is not None:
            found, of_survey = self.survey_rows(rows["id"])
            values |= flags_of_survey(self.recipe, of_survey, found, self.snr_min, rows)
            self.counts.missing += int((~found).sum())
            self.last_id = rows["id"][0] if len(rows) else self.last_id
        written = table.rows(len(rows), rows, **values)
        self.counts.add(written, {m: flag.is_outside(d, settings.limit) for m, d in distance.items()})
        return written

    def check_found(self, name):
        """DataError if no star at all was found in the survey's catalogue."""
        from cannonkit import errors, schema

        if self.recipe is not None and self.counts.missing == self.counts.n_row > 0:
            one = schema.text([self.last_id])[0]
            raise errors.DataError(f"{self.path}: no id of {name} is in it (such as {one!r}): "
                                   "another survey, or another selection?")


def flags_of_survey(recipe, of_survey, found, snr_min, rows):
    """{column: array} of the four flags of the survey's catalogue; cc-merge uses it too."""
    from cannonkit.stages import words

    word = recipe.catalogue.flags.get("flag_spectra")
    status = rows["spectrum_status"] if "spectrum_status" in rows.dtype.names else None
    return words.survey_flags(of_survey, found, snr_min, word is not None and word.boolean, status)._asdict()


def recipe_record(recipe):
    """What the provenance says of a survey's recipe: its catalogue part."""
    from cannonkit import recipe as recipes

    return recipes.as_dict(recipe.catalogue)


def survey_sources(files, *surveys):
    """The surveys' tables as sources of provenance (FITS files; a CSV file has no DATASUM)."""
    from cannonkit import stream

    return [files.enter_context(stream.open_source(path, hdu=recipe.catalogue.hdu))
            for path, recipe in surveys if not str(path).lower().endswith(".csv")]


def _check_belong(source, model, model_source):
    """The model must be that of the labels: by its name, where both say it, and by its data, where they are known."""
    from cannonkit import errors, provenance

    for key, ours in (("MODEL", model.name), ("SURVEY", model.survey), ("SCALE", model.scale_survey)):
        theirs = source.header.text(key)
        if theirs and ours and theirs != ours:
            raise errors.DataError(f"{source.name}: {key} {theirs!r}, but the model has {ours!r}: "
                                   "the labels come from another model")
    known = provenance.models_of(source.header)
    if known and model_source.datasums() not in known:
        raise errors.DataError(f"{source.name}: its labels come from another model than {model_source.name}: the names "
                               "agree, the data do not (trained again since? run cc-infer with this one)")


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
            yield "NZERO", self.zero, "stars with every flag and word 0"
            yield "NMISSING", self.missing, "stars that the survey's table does not have"

    def table(self, settings):
        """The summary: a row per flag, its stars and their share."""
        n = self.n_row
        rows = [("stars", n), ("in the training set", n - self.flags.get("flag_training", 0))]
        rows += [(f"distance above {settings.limit:g}, {m}{' (the flag)' if m == settings.metric else ''}", k)
                 for m, k in self.metrics.items()]
        if self.recipe is not None:
            rows += [(f"{name}: {what}", self.flags.get(name, 0)) for name, what in (
                ("flag_spectra", "a bad bit"), ("flag_sp_aspcap", "a bad bit"), ("flag_survey", "an invalid label"),
                ("flag_snr", "not above the limit"))]
            rows += [("clean: no flag and no bad bit", self.clean),
                     ("clean, warnings counted: every word 0", self.zero)]
        return [(what, f"{k}", f"{100 * k / max(1, n):.1f} %") for what, k in rows]


def main(argv=None):
    return cli.main(build_parser(), run, argv)
