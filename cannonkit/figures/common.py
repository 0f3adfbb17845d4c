"""What the figures share: items, names and numbers in text, columns of tables, ranges."""
import dataclasses
import os
import shlex

import numpy as np

from cannonkit import schema
from cannonkit.listing import Listing, number
from cannonkit.stages import report as stage
from cannonkit.stages.lookup import Lookup

NAMES = {"teff": "Teff", "logg": "log g", "fe_h": "[Fe/H]", "alpha_fe": "[\u03b1/Fe]", "vmicro": "v_micro",
         "vbroad": "v_broad"}
DIGITS = {"K": 0, "dex": 3, "km/s": 2}


@dataclasses.dataclass
class Item:
    """A figure or a table of the report, with its caption.

    figure   name of the maker, as on the command line
    name     file name without suffix
    paper    which figure or table of the paper it is ('' beyond the paper)
    caption  plain text with the numbers that a reader would quote
    draw     a function without arguments that returns a matplotlib Figure, or None (a table only)
    files    run_directory.File's that it is made from
    """

    figure: str
    name: str
    title: str
    paper: str
    caption: str
    files: list
    draw: object = None
    listings: tuple = ()

    @property
    def mock(self):
        return any(f.mock for f in self.files)

    def command(self, options=()):
        """The command line that makes this item alone."""
        suffix = "png" if self.draw else "ecsv"
        return shlex.join(["cc-report", self.figure, *[f.path for f in self.files], *options,
                           "-o", f"{self.name}.{suffix}"])


@dataclasses.dataclass
class Missing:
    """A figure that cannot be made, and why."""

    title: str
    reason: str


def name(label):
    """A label in running text."""
    return NAMES.get(label, label)


def unit(label, units=None):
    return (units or {}).get(label) or schema.label(label).unit


def digits(label_unit):
    """Decimals of a value in this unit; None lets its size decide."""
    return DIGITS.get(label_unit)


def quantity(value, label_unit, sign=False, extra=0):
    """`12 K`, `0.05 dex`, `+0.3 km/s`: a value with its unit."""
    places = digits(label_unit)
    text = number(value, None if places is None else places + extra)
    if sign and text[:1] not in "\u2212\u2013" and float(value) != 0:
        text = "+" + text
    return f"{text} {label_unit}".rstrip()


def count(n):
    """An integer in running text."""
    return number(int(n))


def and_list(words):
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def shout(model):
    """The name of a model as the paper writes it."""
    return model.upper()


def base(file):
    """File name without directory and .fits: part of an item's name."""
    return os.path.basename(file.path).removesuffix(".fits").replace(".", "-")


def unit_of(file, column):
    """Unit of a column of a file, '' where it has none."""
    return file.columns[column].unit if column in file.columns else ""


def label_columns(label_units, *columns):
    """Start of a table by label: label, unit, then columns."""
    width = max([len(n) for n in label_units] + [1])
    return (schema.Column("label", f"S{width}", "", "label"), schema.Column("unit", "S12", "", "its unit"), *columns)


def value_columns(stem, what, names=("n", "mean", "scatter")):
    """Columns {name}_{stem} of a sample: count, mean and half 16-84 range."""
    meaning = {"n": ("i8", f"stars, {what}"), "mean": ("f8", f"mean, {what}, in the label's unit"),
               "median": ("f8", f"median, {what}, in the label's unit"),
               "scatter": ("f8", f"half of 84th minus 16th percentile, {what}"),
               "trend": ("f8", f"standard deviation of the running median against Teff, {what}")}
    return tuple(schema.Column(f"{n}_{stem}" if stem else n, *meaning[n][:1], "", meaning[n][1]) for n in names)


def by_label_listing(item_name, title, label_units, columns, rows, mock):
    """A table with one row per label; floats have the decimals of the label's unit."""
    table = schema.Table("TABLE", label_columns(label_units, *columns))
    places = [digits(u) for u in label_units.values()]
    plain = {c.name: places for c in columns if c.dtype == "f8"}
    full = [(label, label_units[label], *row) for label, row in zip(label_units, rows, strict=True)]
    return Listing(item_name, title, table, full, plain, mock)


def edges(values, n_bin):
    """Bin edges over the central 98 % of values (n_bin equal bins)."""
    low, high = stage.limits(values, fraction=0.98, pad=0.0)
    return np.linspace(low, high, n_bin + 1)


def cloud(x, y, x_range, y_range, few, bins=None):
    """(Density, points or None) for plots: few points are drawn one by one, the cells fit their number."""
    bins = bins or (110 if len(x) > 30000 else 70)
    return stage.density(x, y, x_range, y_range, bins), few(x, y)


def spectrum_rows(run, spectra, file, rows):
    """Rows of a spectra file for rows of a file of labels, -1 where it lacks them: the same, or by id where only some
    of the spectra were kept."""
    if spectra.n_row == file.n_row:
        return rows
    ids = run.read(file, ["id"])["id"][rows]
    return Lookup(run.read(spectra, ["id"])["id"], spectra.path, unique=False).find(ids)


def clouds(data, x_range, y_range, few):
    """`cloud` of several samples [(x, y)], all drawn in the same way: as histograms if one of them is large."""
    found = [cloud(x, y, x_range, y_range, few) for x, y in data]
    return found if all(points is not None for _, points in found) else [(density, None) for density, _ in found]


def read_units(run, model_file):
    """{label: unit} of a model, in its order."""
    rows = run.extension(model_file, "LABELS").data
    return dict(zip(schema.text(rows["name"]).tolist(), schema.text(rows["unit"]).tolist(), strict=True))
