"""Errors from repeats: factors (Table 4), precision against S/N (Figure 9), widths of pulls."""
import numpy as np

from cannonkit import plots, schema
from cannonkit.figures import common
from cannonkit.figures.common import Item, Missing
from cannonkit.listing import Listing

# Table 4 of the paper, in the scaled label units of its code: for comparison in the table only.
PAPER_FACTORS = {
    "acgs": {"teff": 12200, "logg": 18, "fe_h": 8.9, "alpha_fe": 1.2, "vmicro": 3.8, "vbroad": 52.1},
    "gcgs": {"teff": 7200, "logg": 8.6, "fe_h": 6.4, "alpha_fe": 0.5, "vmicro": 2.1, "vbroad": 31.5},
    "gcaa": {"teff": 6925, "logg": 8.5, "fe_h": 7.7, "alpha_fe": 0.4, "vmicro": 5.3, "vbroad": 29},
    "acaa": {"teff": 11325, "logg": 19, "fe_h": 9, "alpha_fe": 1.2, "vmicro": 12, "vbroad": 56},
}
PULL_KINDS = ("formal", "factor", "paper", "full")


def against(file):
    """What the errors were calibrated on, in words."""
    return "reference labels" if file.header.get("AGAINST") is True else "repeat observations"


def factors(run, settings):
    """Table 4: factor of the formal errors, per label and model, in label units and in scaled units."""
    if not run.files["errors"]:
        return [Missing("Error factors", "no error model (cc-errors calibrate)")]
    rows, words = [], []
    for name, file in run.files["errors"].items():
        table = run.whole(file, "FACTORS")
        for r in table:
            label = r["label"].decode().strip()
            numbers = [float(r[n]) for n in ("f_robust", "f_robust_err", "f_standard", "f_1684", "f_scaled")]
            paper = float(PAPER_FACTORS.get(name.split()[0], {}).get(label, np.nan))
            rows.append((common.shout(name), label, *numbers, paper, int(r["n_pair"]), float(r["n_independent"])))
        values = table["f_robust"][np.isfinite(table["f_robust"])]
        if len(values):
            words.append(f"{common.shout(name)} {values.min():.2f} to {values.max():.2f} "
                         f"({against(file)}, {common.count(table['n_group'].max())} stars)")
    mock = any(f.mock for f in run.files["errors"].values())
    column = schema.Column
    table = schema.Table("TABLE", (
        column("model", "S16", "", "model"), column("label", "S16", "", "label"),
        column("f", "f8", "", "factor of the formal error in label units, from 16-84 widths without outliers"),
        column("f_error", "f8", "", "its bootstrap error"),
        column("f_variance", "f8", "", "factor from variances (equation 6)"),
        column("f_1684", "f8", "", "factor from half 16-84 ranges, outliers included"),
        column("f_scaled", "f8", "", "the same for a covariance left in scaled units, the convention of Table 4"),
        column("f_paper", "f8", "", "Table 4 of the paper, scaled units, other data"),
        column("n_pair", "i8", "", "pairs"),
        column("n_independent", "f8", "", "independent differences: n - 1 per star with n spectra")))
    listing = Listing("factors", "Factors of the formal errors", table, rows,
                      {"f": 2, "f_error": 2, "f_variance": 2, "f_1684": 2, "n_independent": 0}, mock)
    kinds = {against(f) for f in run.files["errors"].values()}
    meaning = {"repeat observations": "From repeats f measures repeatability, not accuracy.",
               "reference labels": "No repeats were used with reference labels: there f is the distance from those."}
    caption = (f"Factor f by which formal errors have to grow for differences to have unit width (equation 6), in "
               f"label units. Range over the labels: {'; '.join(words)}. {' '.join(meaning[k] for k in sorted(kinds))} "
               "Table 4 of the paper is in scaled label units: compare it with f_scaled.")
    out = [Item("factors", "factors", "Factors of the formal errors", "Table 4", caption,
                list(run.files["errors"].values()), None, (listing,))]
    out += _factors_compared(run.files["errors"], {(r[0], r[1]): r[2] for r in rows}, mock)
    return out


def _factors_compared(files, factor, mock):
    """[Item]: f of the runs side by side, where some model has several; factor {(shown name, label): f}."""
    groups = {model: [common.shout(name) for name in names] for model, names in _same_model(files).items()}
    most = max(map(len, groups.values()))
    if most < 2:
        return []
    labels = list(dict.fromkeys(label for _, label in factor))
    rows = [(common.shout(model), label, *(factor.get((names[k], label), np.nan) if k < len(names) else np.nan
                                           for k in range(most)))
            for model, names in groups.items() for label in labels]
    who = [", ".join(names[k] for names in groups.values() if k < len(names)) for k in range(most)]
    columns = [schema.Column(f"f_{k}", "f8", "", f"f of {names}") for k, names in enumerate(who, 1)]
    listing = Listing("factors-compared", "Factors of the formal errors, side by side", schema.Table("TABLE", (
        schema.Column("model", "S16", "", "model"), schema.Column("label", "S16", "", "label"), *columns)), rows,
        {c.name: 2 for c in columns}, mock)
    caption = "Factor f by which formal errors have to grow, side by side: " \
        + "; ".join(f"{c.name} is {c.description}" for c in columns) + "."
    return [Item("factors", listing.name, listing.title, "", caption, list(files.values()), None, (listing,))]


def _same_model(files):
    """{model: [names]}: `acgs (run)` and `acgs 2` are of one model, trained or calibrated in different ways."""
    groups = {}
    for name in files:
        groups.setdefault(name.split()[0], []).append(name)
    return groups


def precision(run, settings):
    """Figure 9: half 16-84 range of the differences of repeats against S/N, with the fitted exponentials."""
    if not run.files["errors"]:
        return [Missing("Precision against S/N", "no error model (cc-errors calibrate)")]
    files = {name: f for name, f in sorted(run.files["errors"].items())}
    data, units = {}, {}
    for name, file in files.items():
        points, curves = run.whole(file, "POINTS"), run.whole(file, "PRECISION")
        factor = run.whole(file, "FACTORS")
        units |= {r["label"].decode().strip(): r["unit"].decode().strip() for r in factor}
        if points is None or curves is None:
            continue
        for label in schema.text(factor["label"]).tolist():
            own = points[schema.text(points["label"]) == label]
            curve = curves[(schema.text(curves["label"]) == label) & (schema.text(curves["kind"]) == "paper")]
            if len(own):
                data[name, label] = own, curve[0] if len(curve) else None
    if not data:
        return [Missing("Precision against S/N", "no precision points in the error models (made with --against?)")]
    labels = [n for n in units if any(k[1] == n for k in data)]
    panels, rows, words = [], [], []
    for label in labels:
        curves = []
        for name in files:
            if (name, label) not in data:
                curves.append(None)
                continue
            points, c = data[name, label]
            x = np.linspace(points["snr"].min(), points["snr"].max(), 200)
            y = c["a"] * np.exp(-x / c["b"]) + c["c"] if c is not None else np.full(len(x), np.nan)
            curves.append((points["snr"], points["width"], points["error"], x, y))
            if c is not None:
                top = points["snr"].max()
                at = [float(c["a"] * np.exp(-min(s, top) / c["b"]) + c["c"]) for s in (40.0, 80.0)]
                rows.append((label, units[label], common.shout(name), float(c["a"]), float(c["b"]), float(c["c"]), *at,
                             int(points["count"].sum())))
        panels.append((label, units[label], curves))
        floors = [f"{r[2]} {common.quantity(r[7], r[1])}" for r in rows if r[0] == label]
        words.append(f"{common.name(label)}: {', '.join(floors)}")
    mock = any(f.mock for f in files.values())
    column = schema.Column
    table = schema.Table("TABLE", (
        column("label", "S16", "", "label"), column("unit", "S12", "", "its unit"), column("model", "S16", "", "model"),
        column("a", "f8", "", "precision = a exp(-snr / b) + c"), column("b", "f8", "", "S/N scale"),
        column("c", "f8", "", "plateau in label units"), column("at_40", "f8", "", "precision at S/N 40"),
        column("at_80", "f8", "", "precision at S/N 80"), column("n", "i8", "", "differences")))
    listing = Listing("precision", "Precision against S/N", table, rows, {}, mock)
    caption = (f"Half of the 16\u201384 range of (lower S/N minus highest S/N spectrum of the same star), in "
               f"bins of the lower S/N, with the fitted a exp(\u2212S/N / b) + c. Precision at S/N 80: "
               f"{'; '.join(words)}.")
    names = [common.shout(n) for n in files]
    return [Item("precision", "precision", "Precision against S/N", "Figure 9", caption, list(files.values()),
                 lambda: plots.precision(panels, names, mock), (listing,))]


def pulls(run, settings):
    """Widths of pulls in bins of S/N, Teff, log g and [Fe/H]: 1 where the error is right."""
    out = []
    for name, file in run.files["pulls"].items():
        table = run.whole(file, "PULLS")
        if table is None or not len(table):
            continue
        label, axis = schema.text(table["label"]), schema.text(table["axis"])
        kinds = [k for k in PULL_KINDS if np.isfinite(table[k]).any()]
        labels = list(dict.fromkeys(label.tolist()))
        rows = [(n, k, a, float(r["centre"]), int(r["n_pair"]), float(r[k]), float(r["error"]))
                for n in labels for k in kinds
                for a in dict.fromkeys(axis.tolist()) for r in table[(axis == a) & (label == n)]]
        reference = file.header.get("AGAINST") is True
        what = "stars" if reference else "pairs"
        shown = [plots.TEXT.get(n, n) for n in labels]
        every = np.array([[_first(table[k][(axis == "all") & (label == n)]) for k in kinds] for n in labels])
        panels = [(f"all {what}, by kind of error", shown, kinds, every)]
        for a in dict.fromkeys(axis[axis != "all"].tolist()):
            panels += _bins(table, label, axis, a, labels, [k for k in kinds if k != "formal"], settings.min_count)
        whole = table[axis == "all"]
        widths = ", ".join(f"{k} {np.nanmin(whole[k]):.2f} to {np.nanmax(whole[k]):.2f}" for k in kinds
                           if np.isfinite(whole[k]).any())
        caption = (f"{common.shout(name)}: half 16\u201384 range of the differences {'from' if reference else 'of'} "
                   f"{against(file)} over their errors: 1 where the error is right. formal: of the fit; factor: "
                   f"times f; paper: the larger of that and the precision; full: the full error model. All "
                   f"{int(whole['n_pair'].max(initial=0))} {what}: {widths or 'not measured'}. Bins of fewer than "
                   f"{settings.min_count} {what} are not shown.")
        column = schema.Column
        listing = Listing(f"pulls-{name}", f"{common.shout(name)}: widths of pulls", schema.Table("TABLE", (
            column("label", "S16", "", "label"), column("error", "S16", "", "which error"),
            column("axis", "S16", "", "quantity of the bins"), column("centre", "f8", "", "median of the bin"),
            column("n_pair", "i8", "", "pairs in the bin"), column("width", "f8", "", "half 16-84 range of the pulls"),
            column("uncertainty", "f8", "", "standard error of a width of 1"))), rows,
            {"width": 2, "uncertainty": 2}, file.mock)
        out.append(Item("pulls", f"pulls-{name}", f"{common.shout(name)}: widths of pulls", "", caption, [file],
                        _heat(panels, file.mock), (listing,)))
    out += _pulls_compared(run, settings)
    return out or [Missing("Widths of pulls", "no widths of pulls (cc-errors validate -o X.pulls.fits)")]


def _pulls_compared(run, settings):
    """[Item]: widths of pulls of the formal errors of one model in several runs, a map of each model."""
    out = []
    for model, names in _same_model(run.files["pulls"]).items():
        files = [run.files["pulls"][name] for name in names]
        tables = [run.whole(file, "PULLS") for file in files]
        if len(names) < 2 or any(table is None or not len(table) for table in tables):
            continue
        merged, label = np.concatenate(tables), []
        for k, table in enumerate(tables, 1):
            label += [f"{plots.TEXT.get(n, n)}, {k}" for n in schema.text(table["label"])]
        label, axis = np.array(label), schema.text(merged["axis"])
        n_label = len(dict.fromkeys(schema.text(tables[0]["label"]).tolist()))
        order = list(dict.fromkeys(label.tolist()))
        order = [order[i + n_label * k] for i in range(n_label) for k in range(len(names))]
        every = np.array([[_first(merged["formal"][(axis == "all") & (label == n)])] for n in order])
        panels = [("all pairs, formal errors", order, ["formal"], every)]
        for a in dict.fromkeys(axis[axis != "all"].tolist()):
            panels += _bins(merged, label, axis, a, order, ["formal"], settings.min_count)
        caption = (f"Half 16\u201384 range of the differences over their formal errors: 1 where the error is right "
                   f"without a factor. {', '.join(f'{k}: {common.shout(n)}' for k, n in enumerate(names, 1))}.")
        out.append(Item("pulls", f"pulls-compared-{model}", f"{common.shout(model)}: widths of pulls, side by side", "",
                        caption, files, _heat(panels, any(f.mock for f in files))))
    return out


def _first(values):
    return values[0] if len(values) else np.nan


def _bins(table, label, axis, a, labels, kinds, min_count):
    """[panel]: widths in the bins of the quantity `a`, a row per label and kind of error; [] if no bin has
    `min_count` pairs."""
    own = {n: table[(axis == a) & (label == n)] for n in labels}
    n_bin = max(len(t) for t in own.values())
    middle = np.nanmedian([t["centre"] for t in own.values() if len(t) == n_bin], axis=0)
    values = np.full((len(labels) * len(kinds), n_bin), np.nan)
    names = []
    for n, rows in own.items():
        for k in kinds:
            values[len(names), :len(rows)] = np.where(rows["n_pair"] >= min_count, rows[k], np.nan)
            names.append(f"{plots.TEXT.get(n, n)}, {k}")
    if not np.isfinite(values).any():
        return []
    title = {"snr": "S/N"}.get(a, plots.TEXT.get(a, a))
    digits = 0 if np.nanmax(np.abs(middle)) >= 20 else 2
    return [(f"bins of {title} (their medians below)", names, [f"{m:.{digits}f}" for m in middle], values)]


def _heat(panels, mock):
    return lambda: plots.heat_map(panels, mock, "width of pulls")
