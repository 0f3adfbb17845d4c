"""What the models learnt: cross-validation (Figures 3, 4, A1 to A3), residual spectra (5, 6), coefficients."""
import numpy as np

from cannonkit import plots, schema
from cannonkit.figures import common
from cannonkit.figures.common import Item, Missing
from cannonkit.stages import component_shapes
from cannonkit.stages import report as stage
from cannonkit.stages.lookup import Lookup

SHOWN_COMPONENTS = 5
PAPER = {"acgs": "Figure 3", "gcaa": "Figure 4", "gcgs": "Figure A1", "acaa": "Figure A2"}
SOLAR = {"teff": 5772.0, "logg": 4.44, "fe_h": 0.0}          # IAU 2015 nominal values
SOLAR_WIDTH = {"teff": 100.0, "logg": 0.1, "fe_h": 0.05}     # how much a difference of each counts


def describe(file):
    """`apogee spectra, galah labels` of a model or labels file."""
    spectra, scale = file.header.text("SURVEY"), file.header.text("SCALE")
    return f"{spectra.upper()} spectra, {scale.upper()} labels"


def cross_validation(run, name, kind="model"):
    """(labels {name: unit}, input (n, n_label), predicted (n, n_label)) of the training stars of a model (of a kind).

    predicted is NaN where the model was trained without cross-validation.
    """
    file = run.file(kind, name)
    units = common.read_units(run, file)
    labels = [n for n in units if n in file.columns]
    columns = run.read(file, ["used", *labels, *[f"cv_{n}" for n in labels if f"cv_{n}" in file.columns]])
    used = columns["used"] != 0
    given = np.stack([columns[n][used].astype(float) for n in labels], axis=1)
    found = np.stack([columns.get(f"cv_{n}", np.full(len(used), np.nan))[used].astype(float) for n in labels], axis=1)
    return {n: units[n] for n in labels}, given, found


def one_to_one(run, settings):
    """Figures 3, 4, A1 to A3: cross-validated against input labels, one figure per model."""
    if not run.files["model"]:
        return [Missing("Cross-validation", "no model")]
    out = []
    for name, file in run.files["model"].items():
        units, given, found = cross_validation(run, name)
        title = f"{common.shout(name)}: cross-validated against input labels"
        if not np.isfinite(found).any():
            out.append(Missing(title, f"{file.path} was trained without cross-validation (--cross-validate)"))
            continue
        text = (f"Labels of {common.shout(name)} ({describe(file)}) for training stars that the model had not seen, "
                f"against the labels it is trained on.")
        out.append(agreement_item("one-to-one", f"one-to-one-{name}", title, PAPER.get(name, "Figure 3"), text, units,
                                  given, found, [file], settings, "input label", "cross-validated label"))
    return out


def with_relation(run, settings):
    """Figure A3: cross-validation of a model whose v_micro is GALAH's relation in the labels' Teff and log g."""
    kind = "relation" if run.files["relation"] or run.root is not None else "model"
    out = []
    for name, file in run.files[kind].items():
        units, given, found = cross_validation(run, name, kind)
        title = f"{common.shout(name)} with GALAH's relation for v_micro"
        if not np.isfinite(found).any():
            out.append(Missing(title, f"{file.path} was trained without cross-validation (--cross-validate)"))
            continue
        text = (f"As the figure of {common.shout(name)}, but trained with v_micro from GALAH's relation in the labels' "
                f"Teff and log g in place of a fitted one ({describe(file)}).")
        if file.mock:
            text += " Planted: in the mock, the fitted v_micro is truth with a large error, and the relation has none."
        out.append(agreement_item("vmicro-relation", f"vmicro-relation-{name}", title, "Figure A3", text, units, given,
                                  found, [file], settings, "input label", "cross-validated label"))
    return out or [Missing("A model with GALAH's relation for v_micro",
                           "no vmicro/*.model.fits (make -f configs/pipeline.mk figure-a3)")]


def agreement_item(figure, name, title, paper, text, units, given, found, files, settings, x_text, y_text):
    """One-to-one panels with bias and scatter, and their table."""
    mock = any(f.mock for f in files)
    panels, rows, numbers = [], [], []
    for i, (label, unit) in enumerate(units.items()):
        x, y = given[:, i], found[:, i]
        a = stage.agreement(x, y)
        both = stage.limits(x, y, fraction=0.985, pad=0.06)
        line = stage.running(x, y, common.edges(x, settings.bins), settings.min_count)
        panels.append((label, unit, *common.cloud(x, y, both, both, plots.few), both, line,
                       f"bias {common.quantity(a.bias, unit)}\nscatter {common.quantity(a.scatter, unit)}"))
        rows.append((a.n, a.bias, a.median, a.scatter, a.rms, a.spread, a.slope, a.low_end, a.high_end))
        numbers.append(f"{common.name(label)} {common.quantity(a.bias, unit, sign=True)} \u00b1 "
                       f"{common.quantity(a.scatter, unit)}")
    column = schema.Column
    columns = (column("n", "i8", "", "stars with both labels"),
               column("bias", "f8", "", "mean difference"), column("median", "f8", "", "median difference"),
               column("scatter", "f8", "", "half of 84th minus 16th percentile of the difference"),
               column("rms", "f8", "", "root mean square difference"),
               column("spread", "f8", "", f"half of 84th minus 16th percentile of the {x_text}"),
               column("slope", "f8", "", f"of the difference against the {x_text}"),
               column("low_end", "f8", "", f"mean difference of the tenth with the lowest {x_text}"),
               column("high_end", "f8", "", f"mean difference of the tenth with the highest {x_text}"))
    listing = common.by_label_listing(name, title, units, columns, rows, mock)
    listing.digits["slope"] = 2
    n = max((row[0] for row in rows), default=0)
    caption = (f"{text} {common.count(n)} stars; black: one to one; orange: running median with 16th and 84th "
               f"percentiles. Bias (mean) \u00b1 scatter: {'; '.join(numbers)}.")
    return Item(figure, name, title, paper, caption, files,
                lambda: plots.one_to_one(panels, x_text, y_text, mock), (listing,))


# --- Figures 5 and 6 ----------------------------------------------------------------------------

def residuals(run, settings):
    """Figures 5 and 6: observed minus model flux of the training stars, pixel by pixel, one figure per survey."""
    surveys = sorted({f.header.text("SURVEY") for f in run.files["model"].values()})
    if not surveys:
        return [Missing("Residual spectra", "no model")]
    out = []
    for survey in surveys:
        title = f"{survey.upper()} spectra minus model spectra"
        names = [n for n, f in run.files["model"].items() if f.header.text("SURVEY") == survey]
        names = [n for n in sorted(names, reverse=True) if n in run.files["labels"]]
        spectra = run.file("spectra", survey)
        if not names or spectra is None:
            out.append(Missing(title, "no labels of these models" if spectra else f"no spectra of {survey}"))
            continue
        out.append(_residual_item(run, survey, names, spectra, title, settings))
    return out


def _residual_item(run, survey, names, spectra, title, settings):
    panels, rows, files, reference, outliers, total = [], [], [spectra], None, [], 0
    for name in names:
        model, file = run.model(name), run.file("labels", name)
        places, labels = training_rows(run, name, settings.residual_stars)
        places = common.spectrum_rows(run, spectra, file, places)
        places, labels = places[places >= 0], labels[places >= 0]
        if not len(places):
            return Missing(title, f"no training star of {common.shout(name)} has labels in {file.path} and a spectrum "
                                  f"in {spectra.path}")
        difference, first = np.empty((len(places), model.n_pix), np.float32), None
        star = stage.nearest_star(*_solar(model, labels))
        for at in range(0, len(places), 256):
            part = run.rows_at(spectra, places[at:at + 256], ["flux", "ivar"])
            predicted = model.predict(labels[at:at + 256])
            good = (part["ivar"] > 0) & np.isfinite(predicted)
            difference[at:at + 256] = np.where(good, part["flux"] - predicted, np.nan)
            if at <= star < at + 256:
                first = (np.where(part["ivar"] > 0, part["flux"], np.nan)[star - at], predicted[star - at])
        low, median, high = stage.column_quantiles(difference)
        inside = np.isfinite(median)
        total = max(total, len(places))
        half = 0.5 * (high - low)[inside]
        runs = stage.outliers(median, settings.residual_limit)
        rows += [(common.shout(name), model.wavelength[a], model.wavelength[b], value) for a, b, value in runs]
        far = int((np.abs(median[inside]) > settings.residual_limit).sum())
        outliers.append(f"{common.shout(name)}: median residual within \u00b1{settings.residual_limit:g} in "
                        f"{100 * (1 - far / max(inside.sum(), 1)):.1f} % of {common.count(inside.sum())} pixels, "
                        f"half 16\u201384 range {np.median(half):.4f} (median pixel)")
        if reference is None and first is not None:
            reference = ("solar-type star", "spectrum", first)
            wavelength, segment, medium = model.wavelength, model.segment, model.medium
        files += [run.file("model", name), file]
        panels.append((f"{common.shout(name)}\nobserved \u2212 model", "residual", (low, median, high)))
        wavelength, segment, medium = model.wavelength, model.segment, model.medium
    panels = ([reference] if reference else []) + panels
    mock = any(f.mock for f in files)
    limit = max(0.03, 1.3 * float(np.nanpercentile([p[2][2] for p in panels if p[1] == "residual"], 95)))
    column = schema.Column
    table = schema.Table("TABLE", (column("model", "S16", "", "model"),
                                   column("first", "f8", "Angstrom", "first wavelength of the run of pixels"),
                                   column("last", "f8", "Angstrom", "last wavelength"),
                                   column("residual", "f8", "", "largest median residual in it")))
    item_name = f"residuals-{survey}"
    listing = common.Listing(item_name, f"Pixels with a median residual beyond {settings.residual_limit:g}", table,
                             sorted(rows, key=lambda r: -abs(r[3]))[:40], {"first": 2, "last": 2, "residual": 4}, mock)
    caption = (f"Residuals of {common.count(total)} training stars, per pixel ({medium} wavelengths): median (points) "
               f"and 16\u201384 % (band), above them the training star nearest to the Sun. {'; '.join(outliers)}.")
    paper = {"galah": "Figure 5", "apogee": "Figure 6"}.get(survey, "Figures 5, 6")
    return Item("residuals", item_name, title, paper, caption, files,
                lambda: plots.residuals(wavelength, segment, panels, limit, mock), (listing,))


def training_rows(run, name, most):
    """(rows of the labels file, labels there) of a model's training stars, at most `most` of them, evenly taken."""
    model_file, file = run.file("model", name), run.file("labels", name)
    units = common.read_units(run, model_file)
    training = run.read(model_file, ["id", "used"])
    wanted = training["id"][training["used"] != 0]
    columns = run.read(file, ["id", *units])
    rows = Lookup(columns["id"], file.path, unique=False).find(wanted)
    rows = np.unique(rows[rows >= 0])
    labels = np.stack([columns[n][rows].astype(float) for n in units], axis=1)
    good = np.isfinite(labels).all(axis=1)
    rows, labels = rows[good], labels[good]
    if len(rows) > most:
        keep = np.linspace(0, len(rows) - 1, most).astype(int)
        rows, labels = rows[keep], labels[keep]
    return rows, labels


def _solar(model, labels):
    """(labels, target, width) of the model's labels that SOLAR has."""
    own = [i for i, n in enumerate(model.label_names) if n in SOLAR]
    names = [model.label_names[i] for i in own]
    return labels[:, own], np.array([SOLAR[n] for n in names]), np.array([SOLAR_WIDTH[n] for n in names])


# --- beyond the paper ---------------------------------------------------------------------------

def coefficients(run, settings):
    """Coefficient spectra: how the flux answers to each label, with the lines of the masks."""
    if not run.files["model"]:
        return [Missing("Coefficient spectra", "no model")]
    out = []
    for name, file in run.files["model"].items():
        model = run.model(name)
        usable = model.usable
        rows = [("baseline", np.where(usable, model.theta[:, 0], np.nan))]
        strongest = []
        for i, label in enumerate(model.label_names):
            term = np.flatnonzero((model.powers.sum(axis=1) == 1) & (model.powers[:, i] == 1))
            values = np.where(usable, model.theta[:, term[0]], np.nan) if len(term) else np.full(model.n_pix, np.nan)
            rows.append((plots.TEXT.get(label, label), values))
            if np.isfinite(values).any():
                p = int(np.nanargmax(np.abs(values)))
                strongest.append(f"{common.name(label)} {values[p]:+.3f} at {model.wavelength[p]:.2f}")
        rows.append(("scatter s", np.sqrt(np.where(usable, model.s2, np.nan))))
        windows = line_windows(model, settings)
        title = f"{common.shout(name)}: coefficient spectra"
        used = sum(len(w) for w in windows.values())
        lines = (f" Shaded: {used} windows of {common.and_list(sorted({w[2] for v in windows.values() for w in v}))}."
                 if used else "")
        caption = (f"Linear coefficients of {common.shout(name)} ({describe(file)}), flux per unit of the scaled label "
                   f"(97.5th minus 2.5th percentile of the training set), baseline and scatter; {model.medium} "
                   f"wavelengths in \u00c5.{lines} Strongest: {'; '.join(strongest)}. Scatter s of the median pixel "
                   f"{np.nanmedian(rows[-1][1]):.4f}; {int((~usable).sum())} of {model.n_pix} pixels unusable.")
        out.append(Item("coefficients", f"coefficients-{name}", title, "", caption, [file],
                        _drawing(model, rows, windows, file.mock)))
    return out


def components(run, settings):
    """Misfit components: the strongest of each model that has some, and what they look like."""
    out = []
    for name, file in run.files["model"].items():
        model = run.model(name)
        if model.n_component == 0:
            continue
        windows = line_windows(model, settings)
        flat, words, rows = [w for own in windows.values() for w in own], [], []
        for k in range(min(SHOWN_COMPONENTS, model.n_component)):
            loading = model.components[:, k]
            rows.append((f"U {k + 1}", np.where(model.usable, loading, np.nan)))
            shapes = component_shapes.likeness(loading, model.theta[:, 0], model.usable, model.segment)
            found = [f"{what} {100 * share:.0f} %" for what, share in shapes.items() if share > 0.1]
            found += [f"{element} x{ratio:.1f}" for element, ratio in
                      component_shapes.elements(loading, model.usable, model.wavelength, flat)[:3] if ratio > 1.5]
            words.append(f"U {k + 1} (S/N {np.sqrt(model.strength[k]):.1f}): {', '.join(found) or 'none of these'}")
        caption = (f"The {len(rows)} strongest of {model.n_component} misfit components of {common.shout(name)} "
                   f"({describe(file)}), flux of one unit. Share of each that is smooth over "
                   f"{component_shapes.SMOOTH} pixels (continuum), a shift or a change of width of the median star's "
                   f"lines; elements whose line windows hold more than their share (x times). {'; '.join(words)}.")
        out.append(Item("components", f"components-{name}", f"{common.shout(name)}: misfit components", "", caption,
                        [file], _drawing(model, rows, windows, file.mock)))
    return out or [Missing("Misfit components", "no model has misfit components (cc-train --components)")]


def _drawing(model, rows, windows, mock):
    return lambda: plots.coefficients(model.wavelength, model.segment, rows, windows, mock)


def line_windows(model, settings):
    """{segment: [(low, high, element)]} of the line mask of the model's survey; {} where there is none."""
    from cannonkit import errors, recipe

    path = settings.line_masks.get(model.survey)
    if path is None:
        return {}
    try:
        windows = recipe.read_linemask(path)
    except errors.NoInputError:
        return {}
    out = {}
    for s in np.unique(model.segment[model.segment >= 0]):
        x = model.wavelength[model.segment == s]
        own = [(w.wave_lo, w.wave_hi, w.element) for w in windows
               if w.weight > 0 and w.medium == model.medium and w.wave_hi > x[0] and w.wave_lo < x[-1]]
        if own:
            out[int(s)] = own
    return out
