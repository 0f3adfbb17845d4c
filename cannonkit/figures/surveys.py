"""What the two surveys say of their common stars: Kiel diagrams, differences, cuts (Figures 1, 2; Table 1)."""
import numpy as np

from cannonkit import plots, schema
from cannonkit.figures import common
from cannonkit.figures.common import Item, Missing
from cannonkit.listing import Listing
from cannonkit.stages import report as stage


def reference_survey(run, settings):
    """The survey whose Teff and log g order the differences: the setting, or the training table's last."""
    surveys = run.surveys()
    return settings.reference if settings.reference in surveys else surveys[-1]


def training_labels(run, survey, labels):
    """(n_row, n_label) of one survey in the training table."""
    return np.stack([run.read(run.file("training"), [f"{survey}_{n}"])[f"{survey}_{n}"].astype(np.float64)
                     for n in labels], axis=1)


def shared_labels(run):
    """Labels that both surveys have in the training table."""
    left, right = run.surveys()[:2]
    return [n for n in run.labels_of(left) if n in run.labels_of(right)]


# --- Figure 2, Table 1 --------------------------------------------------------------------------

def survey_differences(run, settings):
    """Figure 2 and Table 1: label differences of the two surveys for the training stars."""
    file = run.file("training")
    if file is None or len(run.surveys()) < 2:
        return [Missing("Differences of the surveys", "no training table of two surveys")]
    left, right = run.surveys()[:2]
    labels = shared_labels(run)
    units = {n: common.unit_of(file, f"{right}_{n}") or common.unit(n) for n in labels}
    chosen = run.read(file, ["selected"])["selected"] != 0
    if not chosen.any():
        return [Missing("Differences of the surveys", f"no row of {file.path} is selected")]
    a, b = (training_labels(run, s, labels)[chosen] for s in (left, right))
    reference = reference_survey(run, settings)
    x, logg = (training_labels(run, reference, ["teff", "logg"])[chosen].T
               if {"teff", "logg"} <= set(labels) else (b[:, 0], np.full(len(b), np.nan)))
    title = f"{left.upper()} minus {right.upper()}: labels of the surveys"
    text = (f"Label differences {left.upper()} \u2212 {right.upper()} of the {common.count(len(a))} training stars, "
            f"against Teff of {reference.upper()}.")
    return [difference_item("survey-differences", "survey-differences", title, "Figure 2, Table 1", text, labels, units,
                            a - b, x, logg, reference, [file], settings)]


def difference_item(figure, name, title, paper, text, labels, units, difference, x, logg, reference, files, settings,
                    more=()):
    """Figures 2, 7 and 8 with their table: differences (n_star, n_label) against Teff of the reference survey."""
    mock = any(f.mock for f in files)
    table = stage.differences(difference, np.zeros_like(difference), logg, settings.logg_cut)
    x_range = stage.limits(x, fraction=0.995)
    bins = common.edges(x, settings.bins)
    lines = [stage.running(x, difference[:, i], bins, settings.min_count) for i in range(len(labels))]
    trends = [stage.trend(line) for line in lines]
    panels, rows, numbers = [], [], []
    for i, label in enumerate(labels):
        y_range = stage.limits(difference[:, i], fraction=0.985, pad=0.3)
        m = table["all"][i]
        panels.append((label, units[label], *common.cloud(x, difference[:, i], x_range, y_range, plots.few), y_range,
                       lines[i], f"mean {common.quantity(m.mean, units[label])}\n"
                                 f"scatter {common.quantity(m.scatter, units[label])}"))
        row = []
        for sample in stage.SAMPLES:
            row += [table[sample][i].n, table[sample][i].mean, table[sample][i].scatter]
        rows.append((*row, trends[i]))
        numbers.append(f"{common.name(label)} {common.quantity(m.mean, units[label], sign=True)} \u00b1 "
                       f"{common.quantity(m.scatter, units[label])}")
    cut = f"log g of {reference.upper()}"
    columns = (*common.value_columns("all", "all training stars"),
               *common.value_columns("giants", f"{cut} < {settings.logg_cut:g}"),
               *common.value_columns("dwarfs", f"{cut} >= {settings.logg_cut:g}"),
               *common.value_columns("", "all training stars", ("trend",)))
    listing = common.by_label_listing(name, title, units, columns, rows, mock)
    n_giant = int((logg < settings.logg_cut).sum())
    caption = (f"{text} Red: running median and 16th and 84th percentiles. Mean \u00b1 scatter (half of the 84th minus "
               f"the 16th percentile): {'; '.join(numbers)}. {common.count(n_giant)} giants have {cut} below "
               f"{settings.logg_cut:g}; a trend in the table is the standard deviation of the running median.")
    x_text = f"{plots.label_text('teff', units.get('teff', 'K'))}, {reference.upper()}"

    def draw():
        return plots.differences(panels, x_text, x_range, mock)
    return Item(figure, name, title, paper, caption, files, draw, (listing, *more))


# --- Figure 1 -----------------------------------------------------------------------------------

def kiel(run, settings):
    """Figure 1: Kiel diagrams of each survey's labels, or of a catalogue's, with the training set's contours."""
    sources = _kiel_sources(run)
    if not sources:
        return [Missing("Kiel diagrams", "no catalogue or selection with Teff and log g")]
    training = run.file("training")
    files = list({f.path: f for _, f, *_ in sources}.values()) + ([training] if training else [])
    data, contours = [], {}
    for title, file, teff, logg, chosen, survey in sources:
        columns = run.read(file, [teff, logg])
        keep = chosen() if chosen else slice(None)
        data.append((title, columns[teff][keep].astype(float), columns[logg][keep].astype(float), survey))
    if training is not None:
        selected = run.read(training, ["selected"])["selected"] != 0
        for survey in run.surveys():
            if {f"{survey}_teff", f"{survey}_logg"} <= set(training.columns):
                contours[survey] = training_labels(run, survey, ["teff", "logg"])[selected].T
    x_range = stage.limits(*[d[1] for d in data], fraction=0.998)
    y_range = stage.limits(*[d[2] for d in data], fraction=0.998)
    panels, numbers = [], []
    drawn = common.clouds([d[1:3] for d in data], x_range, y_range, plots.few)
    for (title, teff, logg, survey), cloud in zip(data, drawn, strict=True):
        contour, levels = None, ()
        if survey in contours:
            contour, levels = contour_of(*contours[survey], x_range, y_range)
        panels.append((title, *cloud, contour, levels))
        n = int((np.isfinite(teff) & np.isfinite(logg)).sum())
        numbers.append(f"{title}: {common.count(n)} of {common.count(len(teff))} rows have both labels")
    mock = any(f.mock for f in files)
    text = f"log g against Teff. {'; '.join(numbers)}."
    if contours:
        text += (" Black: contours around 40, 70 and 95 % of the training set "
                 f"({common.count(len(next(iter(contours.values()))[0]))} stars).")
    item = Item("kiel", "kiel", "Kiel diagrams", "Figure 1", text, files,
                lambda: plots.kiel(panels, x_range, y_range, {"teff": "K", "logg": "dex"}, mock))
    return [item]


def contour_of(x, y, x_range, y_range, bins=60, fractions=(0.95, 0.7, 0.4)):
    """(smoothed Density, levels) that enclose these fractions of the stars."""
    density = stage.density(x, y, x_range, y_range, bins)
    smooth = stage.Density(stage.smooth(density.counts), *density[1:])
    return smooth, stage.contour_levels(smooth.counts, fractions)


def _kiel_sources(run):
    """[(title, file, teff column, logg column, row filter, survey)] of everything with a Kiel diagram."""
    out = []
    if run.files["selection"]:
        for survey, file in run.files["selection"].items():
            if {f"{survey}_teff", f"{survey}_logg"} <= set(file.columns):
                out.append((f"{survey.upper()}, survey labels", file, f"{survey}_teff", f"{survey}_logg", None, survey))
    for name, file in run.files["catalogue"].items():
        if "teffCann" in file.columns and "loggCann" in file.columns:
            out.append((f"{name.upper()}-scaled catalogue", file, "teffCann", "loggCann", None, name))
    if not out:
        for name, file in run.files["labels"].items():
            if {"teff", "logg"} <= set(file.columns):
                out.append((common.shout(name), file, "teff", "logg", None, file.header.text("SCALE")))
    if not out and run.file("training"):
        file = run.file("training")
        for survey in run.surveys():
            if {f"{survey}_teff", f"{survey}_logg"} <= set(file.columns):
                out.append((f"{survey.upper()}, common stars", file, f"{survey}_teff", f"{survey}_logg", None, survey))
    return out


# --- cuts ---------------------------------------------------------------------------------------

def cuts(run, settings):
    """What each quality cut removed of the common stars."""
    file = run.file("training")
    bits = reject_bits(file.row_header) if file else {}
    if not bits:
        return [Missing("Quality cuts", "no training table that names its cuts (REJBnn)")]
    columns = run.read(file, ["reject", "selected"])
    n_row, n_selected = len(columns["reject"]), int((columns["selected"] != 0).sum())
    counts = stage.cut_counts(columns["reject"], bits)
    used = [(bits[bit], fails, only) for bit, fails, only in counts]
    table = schema.Table("TABLE", (
        schema.Column("cut", "S40", "", "name of the cut"), schema.Column("meaning", "S120", "", "what it asks for"),
        schema.Column("fails", "i8", "", "stars that fail it"),
        schema.Column("only", "i8", "", "stars that fail nothing else"),
        schema.Column("share", "f8", "%", "stars that fail it, of all")))
    rows = [(cut, meaning, fails, only, 100 * fails / max(n_row, 1)) for (cut, meaning), fails, only in used]
    title = "What each quality cut removed"
    listing = Listing("cuts", title, table, rows, {"share": 1}, file.mock)
    most = max(used, key=lambda u: u[1])
    caption = (f"Of {common.count(n_row)} common stars {common.count(n_selected)} "
               f"({100 * n_selected / max(n_row, 1):.1f} %) pass every cut. Light: stars that fail the cut; "
               f"dark: stars that fail no other. {most[0][0]} removes most, {common.count(most[1])}.")
    names = [cut.replace("_", " ") for (cut, _), _, _ in used]
    values = [([u[1] for u in used], "fail this cut"), ([u[2] for u in used], "fail this cut only")]
    texts = [f"{u[1]} ({u[2]})" for u in used]
    return [Item("cuts", "cuts", title, "section 3.2", caption, [file],
                 lambda: plots.bars(names, values, texts, "stars", file.mock), (listing,))]


def reject_bits(header):
    """{bit: (name, meaning)} of the REJBnn cards."""
    out = {}
    for key, value in header.items():
        if key.startswith("REJB") and key[4:].isdigit() and isinstance(value, str):
            out[int(key[4:])] = (value, header.comments.get(key, ""))
    return dict(sorted(out.items()))
