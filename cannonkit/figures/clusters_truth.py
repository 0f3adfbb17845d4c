"""Scatter of a mock's clusters beside what was planted in them, and its second generations (the truth is known)."""
import numpy as np

from cannonkit import schema
from cannonkit.figures import catalogues, clusters
from cannonkit.figures.common import Item, Missing
from cannonkit.listing import Listing, minus
from cannonkit.stages import report as stage
from cannonkit.stages.lookup import Lookup

TITLE = "Scatter of clusters beside what the mock planted"


def known(run, settings):
    """A table: [Fe/H] of clean cluster members against the truth on the catalogue's scale."""
    truth = run.file("truth")
    if truth is None or "cluster" not in truth.columns:
        return [Missing(TITLE, "no table of known truth with the stars' clusters (a mock has one)")]
    members, missing = clusters.members_of(run, settings, TITLE)
    if missing:
        return missing
    rows, words = [], []
    for scale, file in run.files["catalogue"].items():
        column = f"{scale}_fe_h"
        if column not in truth.columns:
            continue
        for survey in members.surveys[scale]:
            rows += _rows(run, members, truth, scale, file, survey, column, words)
    if not rows:
        return [Missing(TITLE, f"no clean cluster member is in {truth.path}")]
    c = schema.Column
    table = schema.Table("TABLE", (
        c("cluster", "S24", "", "cluster"), c("scale", "S24", "", "label scale"),
        c("spectra", "S24", "", "survey of the spectra"), c("n", "i8", "", "clean members"),
        c("std", "f8", "dex", "standard deviation of Cannon [Fe/H]"),
        c("planted", "f8", "dex", "standard deviation of the true [Fe/H] on that scale: its trend, planted"),
        c("off_std", "f8", "dex", "standard deviation of Cannon minus true [Fe/H]"),
        c("field", "f8", "dex", "half of 84th minus 16th percentile of the same for clean field stars"),
        c("error", "f8", "dex", "median final error"),
        c("n_first", "i8", "", "members of the first generation"),
        c("first", "f8", "dex", "their mean Cannon minus true [Fe/H]"), c("e_first", "f8", "dex", "its standard error"),
        c("n_second", "i8", "", "members of the second generation (planted: nitrogen, which is no label)"),
        c("second", "f8", "dex", "their mean Cannon minus true [Fe/H]"),
        c("e_second", "f8", "dex", "its standard error")))
    rows.sort(key=lambda row: -row[3])
    digits = {x.name: 3 for x in table.columns if x.dtype == "f8"}
    listing = Listing("clusters-known", TITLE, table, rows, digits, True)
    caption = (f"Mock: the stars of a cluster have one metallicity; on a survey's scale it follows Teff as that scale "
               f"does (column planted). What is left, off_std, is noise and what the model misses in each star, as for "
               f"field stars; the final errors, from repeats, hold the first alone. {' '.join(words)}").strip()
    files = [truth, *clusters.files_of(run)]
    return [Item("clusters-known", "clusters-known", TITLE, "", caption, files, None, (listing,))]


def _rows(run, members, truth, scale, file, survey, column, words):
    names = ["Unique_ID", "flag_id", "fehCann", "e_fehCann"]
    values = run.read(file, names)
    told = run.read(truth, ["id", "survey", column, "cluster",
                            *(["second_generation"] if "second_generation" in truth.columns else [])])
    ids = np.where(np.char.strip(told["survey"]) == survey.name.encode(), told["id"], b"")
    place = Lookup(ids, truth.path, unique=False).find(values["Unique_ID"])
    own = (values["flag_id"] == survey.flag_id) & (place >= 0)
    own &= catalogues.clean(run, file, [survey]) & np.isfinite(values["fehCann"])
    off = values["fehCann"].astype(float) - stage.take(told[column], place)
    field = np.flatnonzero(own)
    field = stage.half_range(off[field[np.char.strip(told["cluster"][place[field]]) == b""]])
    out = []
    for cluster in members.names:
        inside = members.rows.get((scale, cluster), np.empty(0, int))
        inside = inside[own[inside]]
        if len(inside) < 5:
            continue
        second = told["second_generation"][place[inside]] != 0 if "second_generation" in told else \
            np.zeros(len(inside), bool)
        generations = []
        for which in (~second, second):
            generations += [int(which.sum()), *stage.mean_and_error(off[inside[which]])]
        out.append((cluster, scale, survey.name, len(inside), float(np.std(values["fehCann"][inside], ddof=1)),
                    float(np.std(told[column][place[inside]], ddof=1)), float(np.std(off[inside], ddof=1)), field,
                    float(np.nanmedian(values["e_fehCann"][inside])), *generations))
        if min(generations[0], generations[3]) >= 5:
            first, second = (f"{generations[k]:+.3f} \u00b1 {generations[k + 1]:.3f}" for k in (1, 4))
            words.append(f"{cluster}, {survey.name.upper()} spectra on the {scale.upper()} scale: second generation "
                         f"(planted) {minus(second)} dex off the truth, first {minus(first)}.")
    return out
