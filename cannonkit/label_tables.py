"""Labels with errors from a labels product or any FITS table, for cc-errors: which columns they are in is said
by the settings (config.Errors). Rows are read by chunks; of a covariance only the diagonal is kept.
"""
from dataclasses import dataclass

import numpy as np

from cannonkit import bitmasks, errors, schema


@dataclass
class LabelTable:
    """Arrays of all rows; labels and variances are in label units.

    names, units; labels, variance (n_row, n_label), variance NaN where a label takes no part; star (n_row,)
    bytes; visit (n_row,) or None; snr (n_row,), NaN where there is none; reference, reference_variance
    (n_row, n_label), reference None without --against; good (n_row,): rows with a usable label; scales
    (n_label,): label units of one scaled unit; part (n_row,) whole numbers of the column that `read` was given.
    """

    names: tuple
    units: list
    labels: np.ndarray
    variance: np.ndarray
    star: np.ndarray
    visit: np.ndarray | None
    snr: np.ndarray
    reference: np.ndarray | None
    reference_variance: np.ndarray
    good: np.ndarray
    scales: np.ndarray
    part: np.ndarray | None = None

    @property
    def nbytes(self):
        """Bytes of the arrays."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    def axes(self):
        """Names of the quantities of the full model, and their values (n_row, n_axis)."""
        axes, columns = [], []
        if np.isfinite(self.snr).any():
            axes.append("snr")
            columns.append(self.snr)
        for name in ("teff", "logg", "fe_h"):
            if name in self.names:
                axes.append(name)
                columns.append(self.labels[:, self.names.index(name)])
        return tuple(axes), np.stack(columns, axis=1) if columns else np.zeros((len(self.star), 0))


def label_names(source, settings):
    """Labels of the settings, or those of a labels product: the columns x that have an e_x."""
    if settings is not None and settings.labels:
        return tuple(settings.labels)
    names = tuple(n[2:] for n in source.columns if n.startswith("e_") and n[2:] in source.columns)
    if not names:
        raise errors.DataError(f"{source.place()}: no labels with errors (x and e_x) among its columns: "
                               "name them with --labels and the column options")
    return names


def columns_of(settings, names):
    """{what: list of column names} of labels, formal errors and reference; raises SettingError."""

    def filled(template, name):
        if "{}" not in template:
            raise errors.SettingError(f"{name} {template!r}: {{}} must stand for the label", name)
        return [template.replace("{}", n) for n in names]

    found = {"label": filled(settings.label_column, "label_column"), "error": [], "reference": [],
             "reference_error": []}
    if not settings.covariance:
        if not settings.error_column:
            raise errors.SettingError("give --covariance or --error-column", "covariance", "error_column")
        found["error"] = filled(settings.error_column, "error_column")
    if settings.against:
        if len(settings.against) == 1 and "{}" in settings.against[0]:
            found["reference"] = filled(settings.against[0], "against")
        elif len(settings.against) == len(names):
            found["reference"] = list(settings.against)
        else:
            raise errors.SettingError(f"against names {len(settings.against)} columns for {len(names)} labels "
                                      f"({', '.join(names)})", "against", "labels")
        if settings.against_error:
            found["reference_error"] = filled(settings.against_error, "against_error")
    return found


def read(source, settings, parted=None):
    """The LabelTable of an open source; see the column options of cc-errors. parted: a column of whole numbers
    to read too. DataError, SettingError."""
    names = label_names(source, settings)
    columns = columns_of(settings, names)
    ours = source.product == "labels"
    needed = sum(columns.values(), [])
    arrays, place = {}, slice(None)
    if settings.covariance:
        of_matrix = label_names(source, None) if ours else names
        place = [of_matrix.index(n) if n in of_matrix else -1 for n in names]
        if -1 in place:
            missing = names[place.index(-1)]
            source.require([missing, f"e_{missing}"])
        arrays[settings.covariance] = (len(of_matrix), len(of_matrix))
    optional = [settings.star_column, settings.snr_column] + (["visit", "status"] if ours else [])
    others = [] if settings.against else [settings.star_column]
    selector, wanted = _row_selector(settings.rows)
    source.require(others, needed + ([] if settings.against else [settings.snr_column])
                   + [n for n in (selector, parted) if n], arrays)
    if parted and source.columns[parted].dtype[0] not in "iu":
        raise errors.DataError(f"{source.place(parted)}: not whole numbers")
    optional = [n for n in (*optional, parted) if n in source.columns]
    wide = list(dict.fromkeys([*needed, *others, *arrays, *optional, *([selector] if selector else [])]))
    parts = []
    for _, rows in source.chunks(None, wide):
        part = {what: np.stack([np.asarray(rows[n], np.float64) for n in found], axis=1)
                for what, found in columns.items() if found}
        if settings.covariance:
            matrix = rows[settings.covariance]
            part["variance"] = np.diagonal(matrix, axis1=1, axis2=2)[:, place].astype(np.float64)
        part.update((n, schema.native(rows[n]).copy()) for n in optional)
        part["use"] = np.isin(rows[selector], wanted) if selector else np.ones(len(rows), bool)
        parts.append(part)
    every = {key: np.concatenate([part[key] for part in parts]) for key in (parts[0] if parts else ())}
    # The scale of labels is that of all rows, whichever are used: calibration and validation share it.
    scales = _scales(settings, names, every.get("reference" if columns["reference"] else "label",
                                                np.zeros((0, len(names)))), source)
    use = every.get("use", np.zeros(0, bool))
    if selector:
        every = {key: value[use] for key, value in every.items()}
    n_row = int(use.sum())
    empty = np.zeros((n_row, len(names)))
    labels = every.get("label", empty)
    reference = every.get("reference", empty) if columns["reference"] else None
    if settings.covariance:
        variance = every.get("variance", empty) * (scales**2 if settings.covariance_units == "scaled" else 1.0)
    else:
        variance = every.get("error", empty) ** 2
    extra = every.get("reference_error", empty) ** 2
    star = every.get(settings.star_column, np.zeros(n_row, "S1"))
    if star.dtype.kind != "S":
        star = np.char.encode(star.astype(str), "ascii")       # whole numbers are names too
    snr = np.asarray(every.get(settings.snr_column, np.full(n_row, np.nan)), np.float64)
    # A row takes part where some label has an error; each label drops its own bad rows.
    usable = np.isfinite(labels) & np.isfinite(variance) & (variance > 0)
    if reference is not None:
        usable &= np.isfinite(reference) & np.isfinite(extra)
    good = usable.any(axis=1)
    if "status" in every:
        good &= (every["status"] & bitmasks.FIT_FAILED) == 0
    units = [source.columns[c].unit or schema.label(x).unit for x, c in zip(names, columns["label"], strict=True)]
    return LabelTable(names, units, labels, np.where(usable, variance, np.nan), star, every.get("visit"), snr,
                      reference, extra, good, scales, every.get(parted))


def _scales(settings, names, labels, source):
    """Label units of one scaled unit: --scales, else p97.5 - p2.5 of these labels."""
    unknown = set(settings.scales) - set(names)
    if unknown:
        raise errors.DataError(f"scales: no label {min(unknown)!r}{errors.did_you_mean(min(unknown), names)}")
    found = np.full(len(names), np.nan)
    for k, name in enumerate(names):
        finite = labels[np.isfinite(labels[:, k]), k]
        if name in settings.scales:
            found[k] = settings.scales[name]
        elif len(finite):
            found[k] = np.subtract(*np.percentile(finite, [97.5, 2.5]))
        if settings.covariance_units == "scaled" and not found[k] > 0:
            raise errors.DataError(f"{source.place(name)}: no spread to take the label's scale from "
                                   f"(--set scales.{name}=...)")
    return found


def _row_selector(text):
    """(column, values) of `COLUMN=1,2`; (None, None) where there is none."""
    if not text:
        return None, None
    column, equals, values = text.partition("=")
    try:
        if equals:
            return column.strip(), [int(v) for v in values.split(",")]
    except ValueError:
        pass
    raise errors.SettingError(f"rows {text!r}: expected COLUMN=1,2,...", "rows")
