"""Spectra as they are: the first of a file, and pairs with their difference (Figures A4, A5)."""
import numpy as np

from cannonkit import plots, schema
from cannonkit.figures import common
from cannonkit.figures.common import Item, Missing


def spectra(run, settings):
    """The first spectra of each file, one column per camera or detector."""
    out = []
    for survey, file in run.files["spectra"].items():
        if run.root and survey.endswith("_repeat") and survey.removesuffix("_repeat") in run.files["spectra"]:
            continue    # on the page the first spectrum of each star is enough
        n = min(settings.spectra, file.n_row)
        title = f"{survey.upper().replace('_', ' ')}: the first {n} spectra of {common.count(file.n_row)}"
        if not n:
            out.append(Missing(title, f"{file.path} has no rows"))
            continue
        grid = run.extension(file, "WAVELENGTH")
        rows = run.rows_at(file, np.arange(n), ["id", "star_id", "visit", "snr", "flux", "ivar"])
        curves = [(_name(r), r["flux"], r["ivar"] > 0) for r in rows]
        good = rows["ivar"] > 0
        medium = str(grid.header.get("MEDIUM", "")).strip()
        empty = int((~good.any(axis=1)).sum())
        caption = (f"Normalised flux on the common grid ({good.shape[1]} pixels, {medium} wavelengths), masked "
                   f"pixels left out. Median S/N per pixel {np.nanmedian(rows['snr']):.0f}; "
                   f"{100 * (1 - good.mean()):.1f} % of the pixels masked"
                   f"{f'; {empty} without a usable pixel' if empty else ''}.")
        out.append(Item("spectra", f"spectra-{survey or 'all'}", title, "", caption, [file],
                        _drawing(grid.data, curves, file.mock)))
    return out or [Missing("Spectra", "no spectra product")]


def _name(row):
    name = str(schema.text(row["star_id"]) or schema.text(row["id"]))
    return f"{name}, visit {row['visit']}" if row["visit"] > 0 else name


def _drawing(grid, curves, mock):
    return lambda: plots.spectra(grid["wavelength"], grid["segment"], curves, mock)
