"""What cc-errors calibrate measured, as rows of the errors product and back. Arrays in, arrays out."""
import math

import numpy as np

from cannonkit import schema
from cannonkit.errors import DataError
from cannonkit.stages import error_model
from cannonkit.stages import errors as stage

_FACTOR_COLUMNS = {"robust": "f_robust", "standard": "f_standard", "1684": "f_1684"}


class Calibration:
    """names, units; factors: rows of schema.FACTORS by label; curves {(label, kind): stages.errors.Curve};
    points {label: Points}; full {label: error_model.ErrorModel}."""

    def __init__(self, names, units, factors, curves, points, full):
        self.names, self.units = list(names), list(units)
        self.factors, self.curves, self.points, self.full = list(factors), curves, points, full
        self._counts = {}

    def add(self, name, factor, scale, paper, unbiased, points, n_difference, full):
        """Put in one label: a stages.errors.Factor, its scale, two Curves, Points and an ErrorModel or None."""
        f = factor
        unit = self.units[self.names.index(name)]
        self.factors.append((
            name.encode(), unit.encode(), f.robust, f.robust_error, f.robust_lo, f.robust_hi, f.standard,
            f.standard_error, f.standard_lo, f.standard_hi, f.plain, f.offset, f.n_pair, f.n_independent, f.n_group,
            f.n_outlier, scale, f.plain * scale, full.factor if full else math.nan, full.floor if full else math.nan))
        self.curves[name, "paper"], self.curves[name, "unbiased"] = paper, unbiased
        self.points[name], self._counts[name] = points, n_difference
        if full is not None:
            self.full[name] = full

    def factor_rows(self):
        """Rows of schema.FACTORS."""
        return np.array(self.factors, schema.FACTORS.dtype)

    def small_tables(self):
        """[(schema.Table, rows)] of the small extensions: PRECISION, POINTS and, where there is one, FULL."""
        curves = np.array([(n.encode(), kind.encode(), *curve[:3], int(self.points[n].count.sum()))
                           for (n, kind), curve in self.curves.items()], schema.PRECISION.dtype)
        points = np.array([(n.encode(), *p) for n in self.names
                           for p in zip(self.points[n].snr, self.points[n].width, self.points[n].error,
                                        self.points[n].count, strict=True)], schema.PRECISION_POINTS.dtype)
        found = [(schema.PRECISION, curves), (schema.PRECISION_POINTS, points)]
        if self.full:
            rows = [row for name, model in self.full.items() for row in _full_rows(name, model)]
            found.append((schema.FULL, np.array(rows, schema.FULL.dtype)))
        return found

    def factor(self, name, kind):
        """The factor of a label: kind robust, standard or 1684."""
        return float(self.factor_rows()[_FACTOR_COLUMNS[kind]][self.names.index(name)])

    def offset(self, name):
        return float(self.factor_rows()["offset"][self.names.index(name)])

    def table(self, against):
        """The factors for people, rows of texts: in label units, and in scaled units."""
        head = ("label", "unit", "f robust", "+-", "f standard", "+-", "f 16-84", "scaled: robust", "standard", "16-84",
                "stars" if against else "pairs", "worth", "outlying")
        rows = [(*head, "offset") if against else head]
        for r in self.factor_rows():
            scaled = [f"{r[n] * r['scale']:.4g}" for n in ("f_robust", "f_standard", "f_1684")]
            row = (r["label"].decode(), r["unit"].decode(), f"{r['f_robust']:.2f}", f"{r['f_robust_err']:.2f}",
                   f"{r['f_standard']:.2f}", f"{r['f_standard_err']:.2f}", f"{r['f_1684']:.2f}", *scaled,
                   f"{r['n_pair']}", f"{r['n_independent']:.0f}", f"{r['n_outlier']}")
            rows.append((*row, f"{r['offset']:.3g}") if against else row)
        return rows

    def precision_lines(self):
        """The precision curves for people."""
        for name, unit in zip(self.names, self.units, strict=True):
            curve, other = self.curves[name, "paper"], self.curves[name, "unbiased"]
            if not np.isfinite(curve.c):
                continue
            rise = f"{curve.a:.3g} exp(-snr / {curve.b:.3g}) + " if curve.a > 0 else ""
            plateau = "" if curve.c > 0 else f"; no plateau up to S/N {curve.top:.0f}"
            yield (f"{name}: precision {rise}{curve.c:.3g} {unit} (paper){plateau}; from S/N {curve.top:.0f} on "
                   f"{curve.at(curve.top):.3g}, unbiased {other.at(other.top):.3g}")


def _full_rows(name, model):
    """Rows of schema.FULL: every node of every function."""
    for function in model.functions:
        axis1 = model.axes[function.first]
        if function.second < 0:
            for x, value, count in zip(function.first_nodes, function.value, function.count, strict=True):
                yield name.encode(), axis1.encode(), b"", x, math.nan, value, count
            continue
        for i, x1 in enumerate(function.first_nodes):
            for j, x2 in enumerate(function.second_nodes):
                yield (name.encode(), axis1.encode(), model.axes[function.second].encode(), x1, x2,
                       function.value[i, j], function.count[i, j])


def _full_models(rows, factors, place):
    """{label: ErrorModel} of the rows of FULL."""
    found = {}
    for name in dict.fromkeys(rows["label"].tolist()):
        own = rows[rows["label"] == name]
        names = [a for r in own for a in (r["axis1"], r["axis2"]) if a]
        axes = list(dict.fromkeys(a.decode() for a in names))
        functions = []
        for one, two in dict.fromkeys(zip(own["axis1"].tolist(), own["axis2"].tolist(), strict=True)):
            part = own[(own["axis1"] == one) & (own["axis2"] == two)]
            nodes, nodes_2 = np.unique(part["x1"]), np.unique(part["x2"]) if two else np.zeros(0)
            shape = (len(nodes), len(nodes_2)) if two else (len(nodes),)
            if len(part) != np.prod(shape) or len(nodes) < 2 or (two and len(nodes_2) < 2) \
                    or not np.isfinite(part["value"]).all():
                raise DataError(f"{place}[FULL]: the nodes of {name.decode()!r} are not a grid: damaged")
            order = np.lexsort((part["x2"], part["x1"])) if two else np.argsort(part["x1"])
            functions.append(error_model.Function(
                axes.index(one.decode()), axes.index(two.decode()) if two else -1, nodes, nodes_2,
                part["value"][order].reshape(shape), part["count"][order].reshape(shape)))
        row = factors[factors["label"] == name][0]
        found[name.decode()] = error_model.ErrorModel(float(row["f_full"]), float(row["floor_full"]), tuple(axes),
                                                      tuple(functions))
    # A full model may be a mere factor and floor.
    for row in factors:
        name = row["label"].decode()
        if name not in found and np.isfinite(row["f_full"]):
            found[name] = error_model.ErrorModel(float(row["f_full"]), float(row["floor_full"]), (), ())
    return found


def from_tables(factors, extensions, place):
    """The Calibration of rows of FACTORS and {name: rows} of the small extensions. DataError naming `place`
    if a part is missing or damaged."""
    for name in ("PRECISION", "POINTS"):
        if name not in extensions:
            raise DataError(f"{place}: no extension {name}: damaged, or made by another version")
    names = [n.decode() for n in factors["label"].tolist()]
    curves = {(r["label"].decode(), r["kind"].decode()): stage.Curve(float(r["a"]), float(r["b"]), float(r["c"]))
              for r in extensions["PRECISION"]}
    for name in names:
        for kind in ("paper", "unbiased"):
            if (name, kind) not in curves:
                raise DataError(f"{place}[PRECISION]: no {kind} curve of {name!r}: damaged")
    data, points = extensions["POINTS"], {}
    for name in names:
        own = data[data["label"] == name.encode()]
        points[name] = stage.Points(own["snr"], own["width"], own["error"], own["count"])
        if len(own):
            for kind in ("paper", "unbiased"):
                curves[name, kind] = curves[name, kind]._replace(top=float(np.max(own["snr"])))
    full = _full_models(extensions.get("FULL", np.zeros(0, schema.FULL.dtype)), factors, place)
    units = [u.decode() for u in factors["unit"].tolist()]
    return Calibration(names, units, [tuple(r) for r in factors], curves, points, full)
