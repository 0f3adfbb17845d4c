"""What to be careful with: statements that the run's own numbers make, each with its number."""
from typing import NamedTuple

import numpy as np

from cannonkit import bitmasks, schema
from cannonkit.figures import common, labels, models
from cannonkit.figures.common import Item, Missing
from cannonkit.listing import Listing
from cannonkit.stages import report as stage


def careful(run, settings):
    """A table of findings: what was found, where, the number, and the limit that it is beyond."""
    rows, files = [], []
    limit = settings.trend_limit
    for name, file in run.files["model"].items():
        rows += _model_findings(run, name, file, limit)
        files.append(file)
    for name, file in run.files["labels"].items():
        rows += _label_findings(run, name, file)
        files.append(file)
    for name, file in run.files["errors"].items():
        rows += _error_findings(run, name, file)
        files.append(file)
    for a, b in run.scale_pairs():
        if run.file("training") and a in run.files["labels"] and b in run.files["labels"]:
            rows += _pair_findings(run, a, b, settings)
    if not files:
        return [Missing("What to be careful with", "no model, labels or errors")]
    return [_item(rows, files)]


class Finding(NamedTuple):
    """One statement: where (model), label, what was found, the number and its limit as text, number over limit."""

    where: str
    label: str
    finding: str
    number: str
    limit: str
    times: float


def _item(rows, files):
    """Findings, the kind with the worst of them first, and within a kind the worst first."""
    worst = {}
    for row in rows:
        worst[row.finding] = max(worst.get(row.finding, 0.0), row.times)
    rows = sorted(rows, key=lambda row: (-worst[row.finding], row.finding, -row.times, row.where, row.label))
    mock = any(f.mock for f in files)
    title = "What to be careful with"
    column = schema.Column
    columns = (column("where", "S24", "", "model or file"), column("label", "S24", "", "label"),
               column("number", "S32", "", "size"), column("limit", "S48", "", "reported beyond this"),
               column("times", "f8", "", "size over limit"))
    what = column("finding", "S160", "", "what was found")
    kinds = [(kind, sum(row.finding == kind for row in rows), first.where, first.label, first.number, first.limit,
              first.times) for kind in worst for first in [next(row for row in rows if row.finding == kind)]]
    kinds.sort(key=lambda kind: (-kind[-1], kind[0]))
    short = Listing("careful-kinds", f"{title}: kinds of findings, the worst of each",
                    schema.Table("TABLE", (what, column("count", "i8", "", "findings of this kind"), *columns)), kinds,
                    {"times": 1}, mock)
    full = Listing("careful", f"{title}: all findings", schema.Table("TABLE", (columns[0], columns[1], what,
                                                                               *columns[2:])), rows, {"times": 1}, mock)
    caption = (f"{len(rows)} findings of {len(kinds)} kinds, computed from this run. Above, each kind with its worst "
               f"case; below, all of them, worst kind first. An empty table would mean that none is beyond its limit.")
    return Item("careful", "careful", title, "", caption, files, None, (short, full))


def _model_findings(run, name, file, limit):
    out = []
    units, given, found = models.cross_validation(run, name)
    model = common.shout(name)
    if not np.isfinite(found).any():
        return [Finding(model, "all", "trained without cross-validation: its accuracy is not known", "", "", np.inf)]
    n_train = len(given)
    for i, (label, unit) in enumerate(units.items()):
        a = stage.agreement(given[:, i], found[:, i])
        shown = common.name(label)
        lost = a.n / max(n_train, 1)
        if lost < 0.99:
            out.append(Finding(model, shown, "training stars without a cross-validated label",
                               f"{100 * (1 - lost):.1f} %", "1 %", (1 - lost) / 0.01))
        if abs(a.bias) > 0.2 * a.scatter:
            out.append(Finding(model, shown, "cross-validation bias", common.quantity(a.bias, unit, sign=True),
                               f"0.2 of the scatter, {common.quantity(a.scatter, unit)}",
                               abs(a.bias) / (0.2 * a.scatter)))
        for end, value in (("lowest", a.low_end), ("highest", a.high_end)):
            if abs(value) > limit * a.scatter:
                out.append(Finding(model, shown, f"mean error for the {end} tenth of the label",
                                   common.quantity(value, unit, sign=True),
                                   f"{limit:g} of the scatter, {common.quantity(a.scatter, unit)}",
                                   abs(value) / (limit * a.scatter)))
        known = 1 - (a.scatter / a.spread) ** 2 if a.spread > 0 else np.nan
        if known < 0.5:
            out.append(Finding(model, shown, "share of the label's variance that cross-validation recovers",
                               f"{100 * max(known, 0):.0f} %", "50 %", (1 - max(known, 0)) / 0.5))
    return out


def _beyond(factor):
    """How many times a factor is outside of 0.5 to 2; infinite where it is no positive number."""
    return max(factor, 1.0 / factor) / 2.0 if factor > 0 else np.inf


def _label_findings(run, name, file):
    out, model = [], common.shout(name)
    status = run.read(file, ["status"])["status"]
    n = max(len(status), 1)
    failed = int((status & bitmasks.FIT_FAILED != 0).sum())
    if failed:
        out.append(Finding(model, "all", "spectra without labels (failed fits)", f"{failed} ({100 * failed / n:.1f} %)",
                           "0", 1 + 100 * failed / n))
    second = int((status & bitmasks.FIT_STATUS.SECOND_MINIMUM != 0).sum())
    if second > 0.01 * n:
        out.append(Finding(model, "all", "spectra with a second minimum of chi2", f"{100 * second / n:.1f} %", "1 %",
                           100 * second / n))
    unfinished = int((status & bitmasks.FIT_STATUS.ITERATION_LIMIT != 0).sum())
    if unfinished > 0.001 * n:
        out.append(Finding(model, "all", "fits that did not converge", f"{100 * unfinished / n:.2f} %", "0.1 %",
                           1000 * unfinished / n))
    if "flag_cannon_dist" in file.columns:
        far = float((run.read(file, ["flag_cannon_dist"])["flag_cannon_dist"] != 0).mean()) if len(status) else 0.0
        if far > 0.05:
            out.append(Finding(model, "all", "spectra far from the training set (extrapolated labels)",
                               f"{100 * far:.1f} %", "5 %", far / 0.05))
    if "r_chi2" in file.columns:
        middle = float(np.nanmedian(run.read(file, ["r_chi2"])["r_chi2"])) if len(status) else np.nan
        if not 0.5 <= middle <= 2.0:
            out.append(Finding(model, "all", "median reduced chi2: the errors of the spectra are off", f"{middle:.2f}",
                               "0.5 to 2", _beyond(middle)))
    return out


def _error_findings(run, name, file):
    out = []
    for row in run.whole(file, "FACTORS"):
        label, f = row["label"].decode().strip(), float(row["f_robust"])
        if f > 2 or f < 0.5:
            out.append(Finding(common.shout(name), common.name(label), "formal errors are wrong by a factor",
                               f"{f:.2f}", "0.5 to 2", _beyond(f)))
    return out


def _pair_findings(run, a, b, settings):
    from cannonkit.figures import surveys

    out = []
    units, left, right, selected = labels.pair_labels(run, a, b)
    reference = surveys.reference_survey(run, settings)
    x = surveys.training_labels(run, reference, ["teff"])[selected][:, 0]
    bins = common.edges(x, settings.bins)
    for i, (label, unit) in enumerate(units.items()):
        d = left[:, i] - right[:, i]
        scatter, trend = stage.half_range(d), stage.trend(stage.running(x, d, bins, settings.min_count))
        if trend > settings.trend_limit * scatter:
            out.append(Finding(f"{common.shout(a)} \u2212 {common.shout(b)}", common.name(label),
                               "the difference of the two spectra's labels follows Teff", common.quantity(trend, unit),
                               f"{settings.trend_limit:g} of the scatter, {common.quantity(scatter, unit)}",
                               trend / (settings.trend_limit * scatter)))
    return out
