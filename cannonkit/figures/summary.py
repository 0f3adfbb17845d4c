"""The ten lines that say how a run went: stars in and selected, cross-validation, truth (of a mock), flags, errors."""
import os

import numpy as np

from cannonkit import bitmasks, schema
from cannonkit.figures import catalogues, common, labels, models
from cannonkit.stages import report as stage


def lines(run, settings):
    """The summary as lines of text; a part whose files are absent says so."""
    mock = any(f.mock for f in run.all_files())
    out = [f"run {run.root or ''}{' (MOCK: simulated stars)' if mock else ''}".rstrip(), _stars(run)]
    out += _models(run) if run.files["model"] else ["no model"]
    out += [_pairs(run, settings), *_flags(run), *_results(run, settings)]
    return [line for line in out if line]


def _models(run):
    """A line per model: for each label the cross-validation scatter, the scatter against the truth, the factor."""
    known = run.file("truth") is not None and bool(run.files["labels"])
    units, rows, biases = {}, [], []
    for name in run.files["model"]:
        own, given, found = models.cross_validation(run, name)
        units |= {n: u for n, u in own.items() if n not in units}
        cells = {n: [] for n in own}
        _add_scatter(cells, own, given, found, biases, common.shout(name))
        if known:
            if name in run.files["labels"]:
                own, given, found = labels.true_and_found(run, name)
                _add_scatter(cells, own, given, found)
            else:
                cells = {n: [*c, "-"] for n, c in cells.items()}
        if run.files["errors"]:
            factors = _factors(run, name)
            cells = {n: [*c, f"{factors[n]:.1f}" if n in factors else "-"] for n, c in cells.items()}
        rows.append((name, {n: "/".join(c) for n, c in cells.items()}))
    width = {n: 2 + max([len(f"{n} ({u})"), *[len(r.get(n, "")) for _, r in rows]]) for n, u in units.items()}
    what = ["cross-validation scatter"] + ["scatter against the truth (mock)"] * known \
        + ["error factor"] * bool(run.files["errors"])
    head = f"{'model':<27}" + "".join(f"{n} ({u})".rjust(width[n]) for n, u in units.items())
    out = [f"per label: {' / '.join(what)}", head]
    for name, cells in rows:
        file = run.file("model", name)
        title = f"{common.shout(name)} {file.header.text('SURVEY')}, {file.header.text('SCALE')} labels"
        out.append(f"{title:<27}" + "".join(cells.get(n, "-").rjust(width[n]) for n in units))
    if biases:
        part, text = max(biases)
        out.append(f"largest cross-validation bias: {text} ({part:.2f} of its scatter)")
    return out


def _add_scatter(cells, units, given, found, biases=None, where=""):
    """Append a column of scatters to `cells`; |mean| over scatter of each label to `biases`, where given."""
    for i, (label, unit) in enumerate(units.items()):
        m = stage.moments(found[:, i] - given[:, i])
        places = common.digits(unit)
        places = 2 if places is None else places
        if label in cells:
            cells[label].append(f"{m.scatter:.{places}f}" if m.n else "-")
        if biases is not None and m.n and m.scatter > 0:
            biases.append((abs(m.mean) / m.scatter, f"{where} {label} {m.mean:+.{places + 1}f} {unit}"))


def _factors(run, name):
    file = run.file("errors", name)
    if file is None:
        return {}
    table = run.whole(file, "FACTORS")
    return dict(zip(schema.text(table["label"]).tolist(), table["f_robust"].tolist(), strict=True))


def _stars(run):
    words = [f"{file.n_row} {survey} spectra" for survey, file in run.files["selection"].items()]
    training = run.file("training")
    if training is not None:
        selected = int((run.read(training, ["selected"])["selected"] != 0).sum())
        words += [f"{training.n_row} common stars", f"{selected} of them selected for training"]
    return "stars in: " + (", ".join(words) if words else "no selection and no training table")


def _pairs(run, settings):
    training, words = run.file("training"), []
    for a, b in run.scale_pairs():
        if training is None or a not in run.files["labels"] or b not in run.files["labels"]:
            continue
        units, left, right, selected = labels.pair_labels(run, a, b)
        every = np.ones(int(selected.sum()), bool)
        before = labels.survey_scatter(run, list(units), selected, every, left[:, 0], settings)
        words.append(f"{common.shout(a)}-{common.shout(b)} " + ", ".join(
            f"{n} {before[n][0]:.{common.digits(u) or 2}f} -> {stage.half_range(left[:, i] - right[:, i]):.3f}"
            for i, (n, u) in enumerate(units.items()) if n in ("fe_h", "alpha_fe")))
    return "survey difference -> on one scale (scatter): " + "; ".join(words) if words else ""


def _flags(run):
    words = []
    for name, file in run.files["labels"].items():
        if "flag_cannon_dist" in file.columns:
            far = int((run.read(file, ["flag_cannon_dist"])["flag_cannon_dist"] != 0).sum())
            status = run.read(file, ["status"])["status"]
            failed = int((status & bitmasks.FIT_FAILED != 0).sum())
            words.append(f"{common.shout(name)} {far} far, {failed} failed of {file.n_row}")
    return ["flags (far: from the training set; failed: no labels; clean: neither, nor a bad bit of the survey):",
            "; ".join(words)] if words else ["flags: none set"]


def _results(run, settings):
    words = []
    for file in run.files["catalogue"].values():
        good = int(catalogues.clean(run, file, catalogues.surveys_of(run, file, settings)).sum())
        words.append(f"{file.path} ({file.n_row} rows, {good} clean)")
    page = os.path.join(run.root or "", "report", "index.html")
    if run.root and os.path.exists(page):
        words.append(page)
    return ["results: " + (", ".join(words) if words else "no scaled catalogue")]
