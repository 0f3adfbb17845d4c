"""Catalogue rows (Table A1 of the paper), the stars of both surveys, and parts of an array job.

Arrays in, arrays out. A catalogue row is one spectrum: its labels on the catalogue's scale, its flags, and what
its own survey says of the star. A star of both surveys has two rows, which point at each other.
"""
import collections
from typing import NamedTuple

import numpy as np

from cannonkit import schema
from cannonkit.errors import DataError
from cannonkit.stages import words
from cannonkit.stages.lookup import Lookup

# Catalogue column <- column of the flagged labels with final errors.
FROM_LABELS = {
    "Unique_ID": "id", "star_id": "star_id", "snrCann": "snr_cannon", "Cannon_distance": "cannon_distance",
    "flag_Cannon_dist": "flag_cannon_dist", "flag_training": "flag_training", "fit_status": "status",
    "spectrum_status": "spectrum_status", "leverage": "leverage", "outside_fraction": "outside_fraction",
    "spectrum_distance": "spectrum_distance", "second_delta_chi2": "second_delta_chi2",
    "error_source": "error_source", "cov": "cov_final",
}
TEXTS = ("id", "star_id")
NUMBERS = ("chi2", "n_pix_used", "cannon_distance", "flag_cannon_dist", "flag_training")   # that there must be
# Catalogue column <- column of the survey's catalogue; labels come on top.
FROM_SURVEY = {n: n for n in ("dr2_source_id", "dr3_source_id", "ra", "dec", "snr", "r_est", "r_lo", "r_hi",
                              "parallax", "e_parallax", "reject")}


def survey_columns():
    """Columns of a survey's catalogue that catalogue rows are made of."""
    labels = [c for name in schema.A1_NAMES for c in (name, f"e_{name}")]
    return (*FROM_SURVEY.values(), *labels, "flag_spectra", "flag_sp", "flag_survey")


def reduced_chi2(chi2, n_pix_used, n_label):
    """chi2 / (n_pix_used - n_label - 1), as the code of the paper divides; NaN without degrees of freedom."""
    nu = np.asarray(n_pix_used, np.float64) - n_label - 1
    return np.asarray(chi2, np.float64) / np.where(nu > 0, nu, np.nan)


def catalogue_rows(table, labels, names, survey, flags, flag_id):
    """Rows of schema.catalogue_table for a chunk of one survey's spectra.

    table   schema.Table; labels: structured rows with FROM_LABELS, the labels and err_<label>
    names   the label names; survey: (found, rows) of the survey's catalogue, missing values where not found
    flags   {flag_spectra, flag_sp_aspcap, flag_survey, flag_snr: array}; flag_id: the survey's number
    Null ids that a survey writes as 0 or below become null; other_row and other_id are left to the caller.
    """
    found, of_survey = survey
    values = {ours: labels[theirs] for ours, theirs in FROM_LABELS.items() if theirs in labels.dtype.names}
    for name in names:
        if name in schema.A1_NAMES:
            values[f"{schema.A1_NAMES[name]}Cann"] = labels[name]
            values[f"e_{schema.A1_NAMES[name]}Cann"] = labels[f"err_{name}"]
    values["r_chi_sq"] = reduced_chi2(labels["chi2"], labels["n_pix_used"], len(names))
    values["flag_id"] = flag_id
    values.update(flags)
    ours = {**FROM_SURVEY, **{a1: name for name, a1 in schema.A1_NAMES.items()},
            **{f"e_{a1}": f"e_{name}" for name, a1 in schema.A1_NAMES.items()}}
    values.update((a1, of_survey[name]) for a1, name in ours.items() if name in of_survey.dtype.names)
    rows = table.rows(len(labels), **values)
    rows["reject"][~found] = schema.NULL_ID
    for name in ("dr2_source_id", "dr3_source_id"):
        rows[name][rows[name] <= 0] = schema.NULL_ID
    return rows


def cross_reference(keys):
    """For the rows of one or more tables in turn, the row of the other table with the same star.

    keys  one (n_row,) bytes array per table, names that the tables have in common; blank = no partner
    Returns (n_total,) int64: row among all, -1 for none. Of several rows of a star the first is taken, and the
    answer is mutual: row r points at s only if s points at r.
    """
    offsets = np.cumsum([0, *(len(k) for k in keys)])
    other = np.full(offsets[-1], -1, np.int64)
    tables = [Lookup(k, unique=False) for k in keys]
    for a in range(len(keys)):
        for b in range(a + 1, len(keys)):
            rows_a = tables[a].firsts()
            in_b = tables[b].find(keys[a][rows_a])
            there = in_b >= 0
            rows_a, rows_b = rows_a[there] + offsets[a], in_b[there] + offsets[b]
            free = (other[rows_a] < 0) & (other[rows_b] < 0)
            other[rows_a[free]], other[rows_b[free]] = rows_b[free], rows_a[free]
    return other


class Combined(NamedTuple):
    """Inverse-variance mean of two measurements; see `combine`."""

    labels: np.ndarray   # (n, n_label)
    cov: np.ndarray      # (n, n_label, n_label)
    chi2: np.ndarray     # (n,) of the difference; NaN where no label is in both
    dof: np.ndarray      # (n,) labels that both have


def combine(labels, cov, other_labels, other_cov):
    """Mean of two rows of each star, label by label with weights 1 / variance.

    labels (n, n_label), cov (n, n_label, n_label): final errors; a label without finite value or variance in
    one row is taken from the other. The covariance is propagated through those weights, so a label's mean
    always lies between the two. chi2 = d' (C1 + C2)^-1 d over the labels that both have, d their difference:
    about dof if the two agree within their errors.
    """
    n, n_label = labels.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        w1 = 1 / np.diagonal(cov, axis1=1, axis2=2)
        w2 = 1 / np.diagonal(other_cov, axis1=1, axis2=2)
    good1 = np.isfinite(labels) & np.isfinite(w1) & (w1 > 0)
    good2 = np.isfinite(other_labels) & np.isfinite(w2) & (w2 > 0)
    w1, w2 = np.where(good1, w1, 0.0), np.where(good2, w2, 0.0)
    total = w1 + w2
    with np.errstate(divide="ignore", invalid="ignore"):
        share1, share2 = w1 / total, w2 / total               # NaN where neither row has the label
    mean = share1 * np.where(good1, labels, 0) + share2 * np.where(good2, other_labels, 0)
    clean1 = np.where(good1[:, :, None] & good1[:, None, :], cov, 0)
    clean2 = np.where(good2[:, :, None] & good2[:, None, :], other_cov, 0)
    both_cov = (share1[:, :, None] * share1[:, None, :] * clean1 + share2[:, :, None] * share2[:, None, :] * clean2)
    both = good1 & good2
    dof = both.sum(axis=1)
    difference = np.where(both, np.where(both, labels, 0) - np.where(both, other_labels, 0), 0.0)
    sum_cov = np.where(both[:, :, None] & both[:, None, :], clean1 + clean2, np.eye(n_label))
    chi2 = np.full(n, np.nan)
    rows = np.flatnonzero(dof)
    if len(rows):
        # In units of each label's own sigma, so that kelvin and dex do not spoil the solution.
        sigma = np.sqrt(np.diagonal(sum_cov[rows], axis1=1, axis2=2))
        scaled = sum_cov[rows] / (sigma[:, :, None] * sigma[:, None, :])
        d = difference[rows] / sigma
        try:
            solved = np.linalg.solve(scaled, d[:, :, None])[:, :, 0]
        except np.linalg.LinAlgError:
            solved = (np.linalg.pinv(scaled, hermitian=True) @ d[:, :, None])[:, :, 0]
        chi2[rows] = np.sum(d * solved, axis=1)
    return Combined(mean, both_cov, chi2, dof)


def is_clean(rows, spectra_mask, sp_mask):
    """The paper's clean star for rows of a catalogue with one survey's masks: (n,) bool."""
    view = {"flag_cannon_dist": rows["flag_Cannon_dist"], **{n: rows[n] for n in (
        "flag_survey", "flag_snr", "flag_spectra", "flag_sp_aspcap")}}
    return words.is_clean(view, spectra_mask, sp_mask)


# --- parts of an array job -----------------------------------------------------------------------------

class Part(NamedTuple):
    """What is compared between the parts of a job."""

    name: str
    shard: tuple | None     # (i, n), or None for a file that is no part
    run: str                # identity of the run: command, version, settings, inputs
    layout: str             # product, columns
    small: tuple            # ((name, DATASUM), ...) of the small extensions
    n_row: int


def ordered_parts(parts):
    """The parts in order, all there: a list of places in `parts`. DataError names every part that is missing,
    twice there, of another run or layout, or cut from the table in another way."""
    problems = []
    problems += [f"{p.name} is no part of an array job (its history has no shard)" for p in parts if p.shard is None]
    whole = [p for p in parts if p.shard is not None]
    if whole:
        run, layout, small = (_most(getattr(p, field) for p in whole) for field in ("run", "layout", "small"))
        count = _most(p.shard[1] for p in whole)
        for p in whole:
            if p.run != run:
                problems.append(f"{p.name} is of another run (other inputs, settings or version)")
            elif p.layout != layout or p.small != small:
                problems.append(f"{p.name} has other columns or extensions than the others")
            elif p.shard[1] != count:
                problems.append(f"{p.name} is part {p.shard[0]} of {p.shard[1]}, the others are of {count}: "
                                "its rows overlap theirs")
        seen = collections.defaultdict(list)
        for p in whole:
            if p.shard[1] == count and p.run == run:
                seen[p.shard[0]].append(p.name)
        problems += [f"part {i} is there twice: {' and '.join(names)}" for i, names in sorted(seen.items())
                     if len(names) > 1]
        missing = [i for i in range(count) if i not in seen]
        if missing:
            shown = ", ".join(f"part-{i:05d}-of-{count:05d}.fits" for i in missing[:20])
            more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
            problems.append(f"missing: {shown}{more}")
    if problems:
        raise DataError("; ".join(problems))
    return sorted(range(len(parts)), key=lambda k: parts[k].shard[0])


def _most(values):
    """The commonest value, the first of equally common ones."""
    return collections.Counter(values).most_common(1)[0][0]
