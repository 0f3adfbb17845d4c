"""Labels of the two surveys on one scale (Figures 7, 8; Table 3) and, of a mock, against its known truth."""
import numpy as np

from cannonkit import schema
from cannonkit.figures import common, models, surveys
from cannonkit.figures.common import Item, Missing
from cannonkit.stages import report as stage
from cannonkit.stages.lookup import Lookup

PAPER = {"galah": "Figure 7, Table 3", "apogee": "Figure 8, Table 3"}


def by_id(run, file, wanted, labels):
    """(n, n_label) labels of a labels file for these ids; NaN where it has no row (visit 0 counts alone)."""
    columns = run.read(file, ["id", "visit", *labels])
    ids = np.where(columns["visit"] == 0, columns["id"], b"")
    rows = Lookup(ids, file.path, unique=False).find(wanted)
    return np.stack([stage.take(columns[n], rows) for n in labels], axis=1)


def label_differences(run, settings):
    """Figures 7 and 8, Table 3: the same training stars from two surveys' spectra, on one label scale."""
    training, pairs = run.file("training"), run.scale_pairs()
    if training is None or not pairs:
        return [Missing("Differences on one scale", "no training table, or no two models of one label scale")]
    out = []
    for a, b in pairs:
        title = f"{common.shout(a)} minus {common.shout(b)}"
        if a not in run.files["labels"] or b not in run.files["labels"]:
            out.append(Missing(title, "labels of both models are needed"))
            continue
        out.append(_pair(run, a, b, title, settings))
    return out


def pair_labels(run, a, b):
    """(labels {name: unit}, labels of a, labels of b, both (n_train, n_label), training rows selected (n_row,))."""
    training = run.file("training")
    files = [run.file("labels", name) for name in (a, b)]
    labels = [n for n in surveys.shared_labels(run) if all(n in f.columns for f in files)]
    units = {n: common.unit_of(files[0], n) for n in labels}
    selected = run.read(training, ["selected"])["selected"] != 0
    found = []
    for file in files:
        column = f"{file.header.text('SURVEY')}_id"
        found.append(by_id(run, file, run.read(training, [column])[column][selected], labels))
    return units, *found, selected


def _pair(run, a, b, title, settings):
    training = run.file("training")
    files = [run.file("labels", name) for name in (a, b)]
    units, left, right, selected = pair_labels(run, a, b)
    both = np.isfinite(left).all(axis=1) & np.isfinite(right).all(axis=1)
    if not both.any():
        return Missing(title, "no training star has labels of both")
    reference = surveys.reference_survey(run, settings)
    x, logg = surveys.training_labels(run, reference, ["teff", "logg"])[selected][both].T
    scale = files[0].header.text("SCALE")
    name = f"label-differences-{a}-{b}"
    text = (f"The {common.count(both.sum())} training stars on the {scale.upper()} scale: labels from "
            f"{files[0].header.text('SURVEY').upper()} spectra ({common.shout(a)}) minus labels from "
            f"{files[1].header.text('SURVEY').upper()} spectra ({common.shout(b)}), against Teff of "
            f"{reference.upper()}. As in the paper these stars trained both models.")
    item = surveys.difference_item("label-differences", name, title, PAPER.get(scale, "Figures 7, 8, Table 3"), text,
                                   list(units), units, left[both] - right[both], x, logg, reference,
                                   [training, *files], settings)
    before = survey_scatter(run, list(units), selected, both, x, settings)
    after = {row[0]: row for row in item.listings[0].rows}
    words = [f"{common.name(n)} {common.quantity(before[n][0], units[n])} \u2192 "
             f"{common.quantity(after[n][4], units[n])}" for n in units]
    item.caption += f" Scatter of the survey labels of the same stars \u2192 on one scale: {'; '.join(words)}."
    return item


def survey_scatter(run, labels, selected, both, x, settings):
    """{label: (scatter, trend)} of the survey labels' differences of the same stars."""
    left, right = run.surveys()[:2]
    d = (surveys.training_labels(run, left, labels) - surveys.training_labels(run, right, labels))[selected][both]
    bins = common.edges(x, settings.bins)
    return {n: (stage.half_range(d[:, i]), stage.trend(stage.running(x, d[:, i], bins, settings.min_count)))
            for i, n in enumerate(labels)}


# --- truth (mock) -------------------------------------------------------------------------------

def truth(run, settings):
    """Recovered labels against the truth that the mock was made with, one figure per model."""
    file = run.file("truth")
    if file is None:
        return [Missing("Against the truth", "no table of known truth (a mock has one)")]
    if not run.files["labels"]:
        return [Missing("Against the truth", "no labels")]
    out = []
    for name, labels_file in run.files["labels"].items():
        title = f"{common.shout(name)}: recovered against true labels (mock)"
        units, true, found = true_and_found(run, name)
        if not len(true):
            out.append(Missing(title, f"no star of {labels_file.path} is in {file.path}"))
            continue
        kind = ("on that scale: the truth with the trend that the mock planted in the survey's labels"
                if on_scale(run, name) else "as their spectra were made, on no survey's scale")
        text = (f"Mock: labels that {common.shout(name)} ({models.describe(labels_file)}) found for "
                f"{common.count(len(true))} spectra near its training set, against the known labels, {kind}.")
        out.append(models.agreement_item("truth", f"truth-{name}", title, "", text, units, true, found,
                                         [file, labels_file], settings, "true label (mock)", "recovered label"))
    return out


def on_scale(run, name):
    """True where the truth table has the labels on the scale of a model ({scale}_{label})."""
    scale = run.file("labels", name).header.text("SCALE")
    return f"{scale}_teff" in run.file("truth").columns


def true_and_found(run, name):
    """(labels {name: unit}, true, found), both (n, n_label), of the good fits of a model.

    Good: no failed fit, and not flagged as far from the training set where that flag is there. The truth is on
    the model's scale where the table has that, else as the spectra were made.
    """
    truth_file, file = run.file("truth"), run.file("labels", name)
    start = f"{file.header.text('SCALE')}_" if on_scale(run, name) else ""
    labels = [n for n in schema.LABELS if n in file.columns and start + n in truth_file.columns]
    units = {n: common.unit_of(file, n) for n in labels}
    flag = ["flag_cannon_dist"] if "flag_cannon_dist" in file.columns else []
    columns = run.read(file, ["id", *labels, *flag])
    known = run.read(truth_file, ["id", "survey", *[start + n for n in labels]])
    ids = np.where(np.char.strip(known["survey"]) == file.header.text("SURVEY").encode(), known["id"], b"")
    rows = Lookup(ids, truth_file.path, unique=False).find(columns["id"])
    found = np.stack([columns[n].astype(float) for n in labels], axis=1)
    true = np.stack([stage.take(known[start + n], rows) for n in labels], axis=1)
    good = np.isfinite(found).all(axis=1) & np.isfinite(true).all(axis=1)
    if flag:
        good &= columns["flag_cannon_dist"] == 0
    return units, true[good], found[good]


def tables(run, settings):
    """Table 1 beside Table 3: what the two scales do to scatter and trend of the differences."""
    training, pairs = run.file("training"), [p for p in run.scale_pairs() if all(n in run.files["labels"] for n in p)]
    if training is None or not pairs:
        return [Missing("Scatter before and after", "no training table, or no two models of one label scale")]
    rows, units, columns, words = {}, {}, [], []
    reference = surveys.reference_survey(run, settings)
    for k, (a, b) in enumerate(pairs):
        own_units, left, right, selected = pair_labels(run, a, b)
        units = units or own_units
        x = surveys.training_labels(run, reference, ["teff"])[selected][:, 0]
        every = np.ones(int(selected.sum()), bool)
        bins = common.edges(x, settings.bins)
        if k == 0:
            before = survey_scatter(run, list(units), selected, every, x, settings)
            rows = {n: list(before[n]) for n in units}
            columns += common.value_columns("surveys", "survey labels", ("scatter", "trend"))
        stem = f"{a}_{b}"
        columns += common.value_columns(stem, f"{common.shout(a)} minus {common.shout(b)}", ("scatter", "trend"))
        for i, n in enumerate(units):
            d = left[:, i] - right[:, i]
            rows[n] += [stage.half_range(d), stage.trend(stage.running(x, d, bins, settings.min_count))]
        smaller = [n for n in units if rows[n][-2] < rows[n][0]]
        words.append(f"{common.shout(a)} \u2212 {common.shout(b)}: smaller scatter in "
                     f"{common.and_list([common.name(n) for n in smaller]) or 'no label'}")
    files = [training, *[run.file("labels", n) for pair in pairs for n in pair]]
    mock = any(f.mock for f in files)
    title = "Scatter and trend of the label differences, before and after"
    listing = common.by_label_listing("scatter-before-after", title, units, columns, rows.values(), mock)
    caption = (f"Half of the 84th minus the 16th percentile, and standard deviation of the running median "
               f"against Teff of {reference.upper()}, of the differences for the training stars. {'; '.join(words)}.")
    return [Item("before-after", "scatter-before-after", title, "Tables 1, 3", caption, files, None, (listing,))]
