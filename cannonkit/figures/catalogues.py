"""The scaled catalogues: clean rows, the Galaxy (Figure 15), where in label space they extrapolate."""
import dataclasses

import numpy as np

from cannonkit import errors, plots, recipe, schema
from cannonkit.figures import common
from cannonkit.figures.common import Item, Missing
from cannonkit.figures.surveys import contour_of
from cannonkit.listing import Listing
from cannonkit.stages import flag
from cannonkit.stages import report as stage


@dataclasses.dataclass
class Survey:
    """A survey of a catalogue: its number in flag_id, name, and the bad bits of its two words."""

    flag_id: int
    name: str
    spectra_mask: int
    sp_mask: int


def surveys_of(run, file, settings):
    """[Survey] that a catalogue holds, by their flag_id; a number that no recipe has counts every bit as bad."""
    known = {}
    for path in settings.recipes:
        try:
            found = recipe.load_survey(path)
        except errors.NoInputError:
            continue
        flags = found.catalogue.flags
        masks = [flags[n].stored_mask if n in flags else 0 for n in ("flag_spectra", "flag_sp")]
        known[found.flag_id] = Survey(found.flag_id, found.survey, *masks)
    numbers = np.unique(run.read(file, ["flag_id"])["flag_id"]).tolist()
    return [known.get(k, Survey(k, f"survey {k}", -1, -1)) for k in sorted(numbers)]


def clean(run, file, surveys):
    """(n_row,) bool: rows without a flag and without a bad bit, as in sections 4.1 and 5 of the paper."""
    names = ["flag_id", "flag_Cannon_dist", "flag_survey", "flag_spectra", "flag_sp_aspcap"]
    c = run.read(file, names + (["flag_snr"] if "flag_snr" in file.columns else []))
    rows = {"flag_cannon_dist": c["flag_Cannon_dist"], "flag_survey": c["flag_survey"],
            "flag_spectra": c["flag_spectra"], "flag_sp_aspcap": c["flag_sp_aspcap"],
            "flag_snr": c.get("flag_snr", np.zeros(file.n_row, np.int16))}
    out = np.zeros(file.n_row, bool)
    for survey in surveys:
        out |= (c["flag_id"] == survey.flag_id) & flag.is_clean(rows, survey.spectra_mask, survey.sp_mask)
    return out


def flags(run, settings):
    """How many rows of each catalogue carry each flag, and how many are clean."""
    if not run.files["catalogue"]:
        return [Missing("Flags of the catalogues", "no scaled catalogue (cc-merge catalogue)")]
    rows, words = [], []
    for name, file in run.files["catalogue"].items():
        surveys = surveys_of(run, file, settings)
        good = clean(run, file, surveys)
        c = run.read(file, ["flag_id", "flag_Cannon_dist", "flag_survey", "flag_spectra", "flag_sp_aspcap", "teffCann",
                            *(["flag_snr"] if "flag_snr" in file.columns else []), "flag_training"])
        for survey in surveys:
            own = c["flag_id"] == survey.flag_id
            n = int(own.sum())
            rows.append((name, survey.name, n, int(np.isnan(c["teffCann"][own]).sum()),
                         int((c["flag_training"][own] == 0).sum()), int((c["flag_Cannon_dist"][own] != 0).sum()),
                         int((~flag.has_no_bad_bit(c["flag_spectra"][own], survey.spectra_mask)).sum()),
                         int((~flag.has_no_bad_bit(c["flag_sp_aspcap"][own], survey.sp_mask)).sum()),
                         int((c["flag_survey"][own] != 0).sum()),
                         int((c["flag_snr"][own] != 0).sum()) if "flag_snr" in c else 0,
                         int(good[own].sum()), 100 * good[own].mean() if n else np.nan))
        words.append(f"{name.upper()}-scaled: {common.count(good.sum())} of {common.count(file.n_row)} rows "
                     f"({100 * good.mean():.1f} %) clean")
    column = schema.Column
    table = schema.Table("TABLE", (
        column("scale", "S24", "", "label scale"), column("spectra", "S24", "", "survey of the spectra"),
        column("rows", "i8", "", "rows"), column("failed", "i8", "", "rows without labels"),
        column("training", "i8", "", "rows of the training set"),
        column("flag_Cannon_dist", "i8", "", "far from the training set"),
        column("flag_spectra", "i8", "", "with a bad bit of the survey's spectrum word, or no word"),
        column("flag_sp_aspcap", "i8", "", "with a bad bit of the survey's pipeline word, or no word"),
        column("flag_survey", "i8", "", "with an invalid label of the survey"),
        column("flag_snr", "i8", "", "with too low S/N"), column("clean", "i8", "", "clean rows"),
        column("clean_share", "f8", "%", "their share")))
    files = list(run.files["catalogue"].values())
    listing = Listing("flags", "Flags and clean rows", table, rows, {"clean_share": 1}, any(f.mock for f in files))
    caption = (f"{'; '.join(words)}. Clean: not far from the training set, valid survey labels, enough S/N, and "
               f"no bad bit in the survey's own two words (which also hold warnings). The paper has fewer than "
               f"half clean.")
    return [Item("flags", "flags", "Flags and clean rows of the catalogues", "section 5", caption, files, None,
                 (listing,))]


def galaxy(run, settings):
    """Figure 15: height above the plane against galactocentric radius, clean rows."""
    files = [f for f in run.files["catalogue"].values() if {"ra", "dec", "r_est"} <= set(f.columns)]
    if not files:
        return [Missing("The Galaxy", "no scaled catalogue with positions and distances")]
    data, words = [], []
    names = {f.path: n for n, f in run.files["catalogue"].items()}
    for file in files:
        good = clean(run, file, surveys_of(run, file, settings))
        c = run.read(file, ["ra", "dec", "r_est"])
        r, z = stage.galactocentric(c["ra"][good], c["dec"][good], c["r_est"][good], settings.r_sun, settings.z_sun)
        inside = np.isfinite(r)
        if inside.any():
            data.append((f"{names[file.path].upper()}-scaled", r[inside], z[inside]))
            words.append(f"{names[file.path].upper()}-scaled {common.count(inside.sum())} of "
                         f"{common.count(good.sum())} clean rows, half of them within R "
                         f"{np.percentile(r[inside], 25):.1f}\u2013{np.percentile(r[inside], 75):.1f} kpc")
    if not data:
        return [Missing("The Galaxy", "no clean row has a distance")]
    x_range = stage.limits(*[d[1] for d in data], fraction=0.995)
    y_range = stage.limits(*[d[2] for d in data], fraction=0.995)
    drawn = common.clouds([d[1:] for d in data], x_range, y_range, plots.few)
    panels = [(d[0], *cloud) for d, cloud in zip(data, drawn, strict=True)]
    mock = any(f.mock for f in files)
    caption = (f"Height Z above the plane against galactocentric radius R, from the catalogues' distances, with "
               f"the Sun at R {settings.r_sun:g} kpc and Z {1000 * settings.z_sun:g} pc; clean rows with a distance: "
               f"{'; '.join(words)}.")
    return [Item("galaxy", "galaxy", "The stars in the Galaxy", "Figure 15", caption, files, lambda: plots.plane(
        panels, "R (kpc)", "Z (kpc)", x_range, y_range, mock))]


def coverage(run, settings):
    """Where in the Kiel diagram the catalogues are far from the training set, and so extrapolate."""
    files = [f for f in run.files["catalogue"].values()
             if {"teffCann", "loggCann", "flag_Cannon_dist", "flag_training"} <= set(f.columns)]
    if not files:
        return [Missing("Coverage of the training set", "no scaled catalogue")]
    names = {f.path: n for n, f in run.files["catalogue"].items()}
    data, words = [], []
    for file in files:
        c = run.read(file, ["teffCann", "loggCann", "flag_Cannon_dist", "flag_training"])
        good = np.isfinite(c["teffCann"]) & np.isfinite(c["loggCann"])
        data.append((names[file.path], *(c[n][good] for n in c)))
        far = c["flag_Cannon_dist"][good] != 0
        words.append(f"{names[file.path].upper()}-scaled {100 * far.mean():.1f} % of {common.count(good.sum())} "
                     f"rows with labels")
    x_range = stage.limits(*[d[1] for d in data], fraction=0.998)
    y_range = stage.limits(*[d[2] for d in data], fraction=0.998)
    panels = []
    for name, teff, logg, far, outside in data:
        everyone, share = stage.coverage(teff, logg, far != 0, x_range, y_range)
        training = outside == 0
        contour, levels = contour_of(teff[training], logg[training], x_range, y_range) if training.any() else (None, ())
        panels.append((f"{name.upper()}-scaled", everyone.x_edges, everyone.y_edges, share, contour, levels))
    mock = any(f.mock for f in files)
    caption = (f"Share of rows that are far from the training set (flag_Cannon_dist), in cells of the Kiel diagram: "
               f"{'; '.join(words)}. Red: contours around 40, 70 and 95 % of the training set.")
    return [Item("coverage", "coverage", "Where the catalogues extrapolate", "section 3.6", caption, files,
                 lambda: plots.share_maps(panels, x_range, y_range, {"teff": "K", "logg": "dex"}, mock,
                                          "share far from the training set"))]
