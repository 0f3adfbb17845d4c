"""Star clusters in the scaled catalogues (Figures 10 to 14; Tables 5 and 6)."""
import os

import numpy as np

from cannonkit import errors, plots, schema
from cannonkit.figures import catalogues, common
from cannonkit.figures.common import Item, Missing
from cannonkit.listing import Listing
from cannonkit.stages import report as stage

CLUSTER_NAMES = ("cluster", "name", "cluster_name")
PROBABILITY_NAMES = ("probability", "prob", "p_mem", "memberprob", "membership")
COLOUR = (1, 0, 2, 3)      # places in plots.COLOURS: flag_id 0 (GALAH) blue, 1 (APOGEE) red, as in the paper
SHAPES = ("circles", "triangles", "squares", "diamonds")
KIND_NAMES = ("kind", "type", "cluster_type")
AGE_NAMES = ("age", "age_gyr")
ID_NAMES = ("dr3_source_id", "source_id", "gaiaedr3", "gaia_edr3_id", "dr2_source_id")


def _column(file, wanted, what):
    """The first of `wanted` among a table's columns, whatever their case; DataError naming them otherwise."""
    folded = {n.casefold(): n for n in file.columns}
    for name in wanted:
        if name in folded:
            return folded[name]
    raise errors.DataError(f"{file.path}: no column with {what}: expected one of {', '.join(wanted)} "
                           f"(there are: {', '.join(file.columns)})")


class Members:
    """Clean catalogue rows of cluster members: names, {(scale, cluster): rows}, and the groups that figures show.

    groups [(kind, clusters)]: one of '' or, where the table has a column `kind`, one a kind: open clusters from the
    young to the old (with a column `age`), others from the metal-rich to the metal-poor, as Figures 10 and 11.
    """

    def __init__(self, run, settings):
        table = run.file("clusters")
        name = _column(table, CLUSTER_NAMES, "the cluster's name")
        source = _column(table, ID_NAMES, "a Gaia source id")
        folded = {n.casefold(): n for n in table.columns}
        probability = next((folded[n] for n in PROBABILITY_NAMES if n in folded), None)
        facts = [next((folded[n] for n in names if n in folded), None) for names in (KIND_NAMES, AGE_NAMES)]
        columns = run.read(table, list(dict.fromkeys(n for n in (name, source, probability, *facts) if n)))
        keep = columns[probability] > settings.membership if probability else np.ones(table.n_row, bool)
        keep &= columns[source] > 0
        self.cluster = schema.text(columns[name][keep])
        self.ids = columns[source][keep].astype(np.int64)
        column = "dr2_source_id" if source.casefold() == "dr2_source_id" else "dr3_source_id"
        self.rows, self.surveys, count = {}, {}, {}
        for scale, file in run.files["catalogue"].items():
            self.surveys[scale] = catalogues.surveys_of(run, file, settings)
            good = catalogues.clean(run, file, self.surveys[scale])
            ids = run.read(file, [column])[column]
            order = np.argsort(self.ids, kind="stable")
            place = np.minimum(np.searchsorted(self.ids[order], ids), len(order) - 1) if len(order) else 0
            found = (self.ids[order][place] == ids) & good if len(order) else np.zeros(len(ids), bool)
            rows = np.flatnonzero(found)
            names = self.cluster[order][place[rows]] if len(rows) else np.empty(0, str)
            for cluster in np.unique(names).tolist():
                self.rows[scale, cluster] = rows[names == cluster]
                count[cluster] = max(count.get(cluster, 0), int((names == cluster).sum()))
        self.names = sorted(count, key=lambda c: (-count[c], c))
        self.groups = self._groups(run, settings, [columns.get(n) for n in facts], keep)
        self.chosen = [c for _, clusters in self.groups for c in clusters]
        found = {s.flag_id: s for surveys in self.surveys.values() for s in surveys}
        self.all_surveys = [found[k] for k in sorted(found)]


    def _groups(self, run, settings, facts, keep):
        """[(kind, clusters)] to draw; facts: columns of kind and age, or None."""
        if settings.clusters:
            return [("", [c for c in settings.clusters if c in self.names])] if set(settings.clusters) & {*self.names} \
                else []
        kind, age = ({} if f is None else dict(zip(self.cluster, f[keep].tolist(), strict=True)) for f in facts)
        kind = {c: k.decode().strip().lower() if isinstance(k, bytes) else str(k) for c, k in kind.items()}

        def metal(cluster):
            values = [run.read(f, ["fehCann"])["fehCann"][self.rows[s, cluster]]
                      for s, f in run.files["catalogue"].items() if (s, cluster) in self.rows]
            return float(np.nanmedian(np.concatenate(values))) if values else np.nan

        out = []
        for wanted in dict.fromkeys(sorted(kind.get(c, "") for c in self.names)[::-1]):
            chosen = [c for c in self.names if kind.get(c, "") == wanted][:settings.cluster_count]
            by_age = wanted == "open" and age
            value = {c: age[c] if by_age else -metal(c) for c in chosen}
            chosen.sort(key=lambda c, value=value: value[c] if np.isfinite(value[c]) else np.inf)
            out.append((wanted, chosen))
        return out


def _named(text, kind):
    """`clusters-kiel`, `clusters-kiel-open`."""
    return f"{text}-{kind.replace(' ', '-')}" if kind else text


def _title(text, kind):
    """`Clusters in ...`, `Open clusters in ...`."""
    return f"{kind.capitalize()} c{text[1:]}" if kind else text


def members_of(run, settings, title):
    """(Members, None), or (None, [Missing])."""
    if run.file("clusters") is None or not run.files["catalogue"]:
        return None, [Missing(title, "no table of cluster members, or no scaled catalogue")]
    members = Members(run, settings)
    if not members.chosen:
        return None, [Missing(title, "no clean catalogue row is a cluster member")]
    return members, None


def _rows(run):
    """Rows of the figures: [(title, scale, column suffix)]: the surveys' own values, then each scale."""
    scales = list(run.files["catalogue"])
    return [("survey", None, ""), *[(f"{s.upper()}-scaled", s, "Cann") for s in scales]]


def _values(run, members, scale, cluster, names):
    """({column: values of the members}, flag_id) of a cluster in one catalogue; scale None: members that are
    clean in any of them, each spectrum once (for the survey's own labels)."""
    if scale is None:
        parts = [(_values(run, members, s, cluster, [*names, "Unique_ID"])) for s in run.files["catalogue"]]
        flag_id = np.concatenate([part[1] for part in parts])
        values = {n: np.concatenate([part[0][n] for part in parts]) for n in [*names, "Unique_ID"]}
        once = np.unique(np.array([f"{k} {i}" for k, i in zip(flag_id, values["Unique_ID"], strict=True)], str),
                         return_index=True)[1]
        return {n: values[n][once] for n in names}, flag_id[once]
    file, rows = run.files["catalogue"][scale], members.rows.get((scale, cluster), np.empty(0, int))
    columns = run.read(file, [*names, "flag_id"])
    return {n: columns[n][rows] for n in names}, columns["flag_id"][rows]


def _survey_key(members):
    """`circles GALAH, triangles APOGEE`: which marker is which survey."""
    surveys = members.all_surveys
    return ", ".join(f"{SHAPES[k % 4]} {s.name.upper()}" for k, s in enumerate(surveys))


def kiel(run, settings):
    """Figures 10 and 11: Kiel diagrams of cluster members, coloured by [Fe/H], with isochrones where given."""
    title = "Clusters in the Kiel diagram"
    members, missing = members_of(run, settings, title)
    if missing:
        return missing
    return [_kiel(run, settings, members, kind, chosen, _title(title, kind)) for kind, chosen in members.groups]


def _kiel(run, settings, members, kind, chosen, title):
    cells, teffs, loggs, drawn = [], [], [], []
    for _, scale, suffix in _rows(run):
        line = []
        for cluster in chosen:
            names = [f"{n}{suffix}" for n in ("teff", "logg", "feh")]
            values, flag_id = _values(run, members, scale, cluster, names)
            x, y, c = (values[n] for n in names)
            cell = []
            isochrone = _isochrone(settings, cluster)
            if isochrone is not None:
                cell.append(("line", *isochrone))
                drawn.append(cluster)
            for k, survey in enumerate(members.all_surveys):
                own = (flag_id == survey.flag_id) & np.isfinite(x) & np.isfinite(y)
                if own.any():
                    cell.append((x[own], y[own], c[own], COLOUR[k % 4], k, None))
            teffs.append(x)
            loggs.append(y)
            line.append(cell)
        cells.append(line)
    x_range = stage.limits(*teffs, fraction=0.998)
    y_range = stage.limits(*loggs, fraction=0.998)
    files = files_of(run)
    mock = any(f.mock for f in files)
    titles = [t for t, _, _ in _rows(run)]
    iso = (f" Black: isochrones from {settings.isochrones}." if drawn else " No isochrones given (--isochrones).")
    caption = (f"Clean cluster members ({common.and_list(chosen)}), probability above {settings.membership:g}; "
               f"{_survey_key(members)}.{iso} {len(members.names)} clusters have at least one clean member.")
    y_text = plots.label_text("logg", "dex")
    paper = {"open": "Figure 10", "globular": "Figure 11"}.get(kind, "Figures 10, 11")
    keys = [(s.name.upper(), None, k) for k, s in enumerate(members.all_surveys)]
    return Item("clusters-kiel", _named("clusters-kiel", kind), title, paper, caption, files,
                lambda: plots.grid_of_panels(
                    chosen, titles, plots.label_text("teff", "K"), [y_text] * len(titles), cells, mock, invert_x=True,
                    invert_y=True, bar_text="[Fe/H] (dex)", x_range=x_range, ranges=[y_range] * len(titles), keys=keys,
                    line_text="isochrone" if drawn else None))


def _isochrone(settings, cluster):
    """(teff, logg) of an isochrone file CLUSTER.csv (header teff,logg), or None."""
    if not settings.isochrones:
        return None
    path = os.path.join(settings.isochrones, f"{cluster}.csv")
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as lines:
            rows = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        head = [h.strip() for h in rows[0].split(",")]
        values = np.array([[float(v) for v in row.split(",")] for row in rows[1:]])
        return values[:, head.index("teff")], values[:, head.index("logg")]
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as problem:
        raise errors.DataError(f"{path}: expected a header with teff and logg, and numbers ({problem})") from None


def files_of(run):
    return [run.file("clusters"), *run.files["catalogue"].values()]


def trends(run, settings):
    """Figures 12 and 13: [Fe/H] and [alpha/Fe] of cluster members against Teff."""
    return _trends(run, settings, "cluster-trends", "teff", "K", (("feh", "fe_h"), ("alphafe", "alpha_fe")),
                   {"open": "Figure 12", "globular": "Figure 13", "": "Figures 12, 13"}, None)


def gravity(run, settings):
    """Figure 14: [Fe/H] against log g of one cluster's members (NGC 288 where it is there)."""
    return _trends(run, settings, "cluster-gravity", "logg", "dex", (("feh", "fe_h"),), {"": "Figure 14"}, "NGC 288")


def _trends(run, settings, figure, x_name, x_unit, y_names, paper, favourite):
    what = "log g" if x_name == "logg" else "Teff"
    title = f"Clusters: {common.and_list(common.name(n) for _, n in y_names)} against {what}"
    members, missing = members_of(run, settings, title)
    if missing:
        return missing
    groups = members.groups
    if favourite:
        groups = [("", [favourite] if favourite in members.names and not settings.clusters else groups[-1][1])]
    return [item for kind, chosen in groups for item in
            _trend(run, settings, members, figure, (x_name, x_unit), y_names, paper.get(kind, paper[""]), kind, chosen)]


def _trend(run, settings, members, figure, x, y_names, paper, kind, chosen):
    (x_name, x_unit), out = x, []
    what = "log g" if x_name == "logg" else "Teff"
    for column, label in y_names:
        cells, words, ranges = [], [], []
        for row_title, scale, suffix in _rows(run):
            line, values_of_row = [], []
            for cluster in chosen:
                names = [f"{x_name}{suffix}", f"{column}{suffix}"]
                values, flag_id = _values(run, members, scale, cluster, names)
                x, y = (values[n] for n in names)
                cell = []
                for k, survey in enumerate(members.all_surveys):
                    own = (flag_id == survey.flag_id) & np.isfinite(x) & np.isfinite(y)
                    if own.any():
                        m = stage.member(y[own])
                        cell.append((x[own], y[own], None, COLOUR[k % 4], k, m.median))
                        if len(chosen) == 1:
                            words.append(f"{row_title}, {survey.name.upper()}: {common.quantity(m.median, 'dex')} "
                                         f"\u00b1 {common.quantity(m.std, 'dex')} ({m.n})")
                values_of_row.append(y)
                line.append(cell)
            cells.append(line)
            ranges.append(values_of_row)
        every = stage.limits(*[v for row in ranges for v in row], fraction=0.99, pad=0.1)
        files = files_of(run)
        mock = any(f.mock for f in files)
        titles = [t for t, _, _ in _rows(run)]
        surveys = members.all_surveys
        key = ", ".join(f"{('blue', 'red', 'green', 'purple')[k % 4]} {SHAPES[k % 4]} "
                        f"{s.name.upper()}" for k, s in enumerate(surveys))
        caption = (f"{common.name(label)} of clean cluster members against {what}; {key}; dashed: medians. "
                   f"{'Median and standard deviation: ' + '; '.join(words) + '.' if words else ''}").strip()
        name = _named(figure if len(y_names) == 1 else f"{figure}-{label.replace('_', '-')}", kind)
        arguments = (chosen, titles, plots.label_text(x_name, x_unit), [plots.label_text(label, "dex")] * len(titles),
                     cells, mock)
        keys = [(s.name.upper(), COLOUR[k % 4], k) for k, s in enumerate(surveys)]
        title = _title(f"Clusters: {common.name(label)} against {what}", kind)
        out.append(Item(figure, name, title, paper, caption, files,
                        _panels(arguments, every, len(titles), x_name == "teff", keys)))
    return out


def _panels(arguments, every, n_row, invert_x, keys):
    return lambda: plots.grid_of_panels(*arguments, invert_x=invert_x, ranges=[every] * n_row, keys=keys,
                                        line_text="median")


def table(run, settings):
    """Tables 5 and 6: median and standard deviation of [Fe/H] and [alpha/Fe] of every cluster's clean members."""
    title = "Medians and standard deviations of clusters"
    members, missing = members_of(run, settings, title)
    if missing:
        return missing
    rows, scatter = [], {}
    for cluster in members.names:
        for scale in run.files["catalogue"]:
            values, flag_id = _values(run, members, scale, cluster, ["fehCann", "feh", "alphafeCann", "alphafe",
                                                                         "e_fehCann", "e_alphafeCann"])
            for survey in members.surveys[scale]:
                own = flag_id == survey.flag_id
                if not own.any():
                    continue
                m = {n: stage.member(values[n][own]) for n in values}
                rows.append((cluster, scale, survey.name, int(own.sum()), m["fehCann"].median, m["fehCann"].std,
                             m["e_fehCann"].median, m["feh"].median, m["feh"].std, m["alphafeCann"].median,
                             m["alphafeCann"].std, m["e_alphafeCann"].median, m["alphafe"].median, m["alphafe"].std))
                if own.sum() >= 5:
                    scatter.setdefault(scale, []).append((m["fehCann"].std, m["alphafeCann"].std,
                                                          m["e_fehCann"].median, m["e_alphafeCann"].median))
    column = schema.Column
    what = {"feh_cannon": "Cannon [Fe/H]", "feh_survey": "the survey's [Fe/H]", "alpha_cannon": "Cannon [alpha/Fe]",
            "alpha_survey": "the survey's [alpha/Fe]"}
    columns = [column("cluster", "S24", "", "cluster"), column("scale", "S24", "", "label scale"),
               column("spectra", "S24", "", "survey of the spectra"), column("n", "i8", "", "clean members")]
    for stem, text in what.items():
        columns += [column(f"{stem}_median", "f8", "dex", f"median of {text}"),
                    column(f"{stem}_std", "f8", "dex", f"standard deviation of {text} (n - 1)")]
        if stem.endswith("cannon"):
            columns.append(column(f"{stem}_error", "f8", "dex", f"median final error of {text}: the scatter to expect"))
    files = files_of(run)
    digits = {c.name: 3 if c.name.endswith("error") else 2 for c in columns if c.dtype == "f8"}
    mock = any(f.mock for f in files)
    listing = Listing("clusters", title, schema.Table("TABLE", tuple(columns)), rows, digits, mock)
    words = [f"{scale.upper()}-scaled {np.mean([s[0] for s in v]):.3f} dex in [Fe/H] (final errors "
             f"{np.mean([s[2] for s in v]):.3f}) and {np.mean([s[1] for s in v]):.3f} dex in [\u03b1/Fe] "
             f"({np.mean([s[3] for s in v]):.3f})" for scale, v in scatter.items()]
    caption = (f"Clean members with probability above {settings.membership:g}. Mean standard deviation over the "
               f"rows with five members or more, and what the final errors lead to expect: "
               f"{'; '.join(words) or 'no such row'}.")
    return [Item("clusters", "clusters", title, "Tables 5, 6", caption, files, None, (listing,))]
