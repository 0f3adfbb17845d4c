"""Pairs of cluster stars that a survey finds alike and the Cannon does not (Figures A4, A5; appendix B).

In NGC 104 some GALAH spectra come out more metal-rich than the survey says; their difference from a star that
does not shows what lines do it. The report states the difference, not its cause.
"""
import numpy as np

from cannonkit import errors, plots
from cannonkit.figures import clusters, common
from cannonkit.figures.common import Item, Missing
from cannonkit.listing import minus
from cannonkit.stages import report as stage
from cannonkit.stages.lookup import Lookup

TITLE = "Pairs of spectra and their difference"
N_PAIR = 2


def pairs(run, settings):
    """Figures A4 and A5: for a cluster, the pairs with the same survey labels and the most different Cannon [Fe/H]."""
    if run.file("clusters") is None or not run.files["catalogue"] or not run.files["spectra"]:
        return [Missing(TITLE, "cluster members, a scaled catalogue, labels and spectra are needed")]
    members = clusters.Members(run, settings)
    chosen = [settings.pair_cluster] if settings.pair_cluster in members.names else members.names[:1]
    if not chosen:
        return [Missing(TITLE, "no clean catalogue row is a cluster member")]
    cluster, scales = chosen[0], sorted(run.files["catalogue"], key=lambda s: s != "galah")
    scale = scales[0]
    for survey in members.surveys[scale]:
        model = next((n for n, f in run.files["labels"].items()
                      if (f.header.text("SURVEY"), f.header.text("SCALE")) == (survey.name, scale)), None)
        if survey.name in run.files["spectra"] and model is not None:
            return _of_survey(run, settings, members, cluster, scale, survey, model)
    return [Missing(TITLE, f"no spectra with labels on the {scale} scale")]


def _of_survey(run, settings, members, cluster, scale, survey, model):
    catalogue, labels_file = run.files["catalogue"][scale], run.file("labels", model)
    spectra = run.file("spectra", survey.name)
    names = ["Unique_ID", "flag_id", "teff", "logg", "feh", "fehCann", "snr"]
    rows = members.rows.get((scale, cluster), np.empty(0, int))
    c = {n: v[rows] for n, v in run.read(catalogue, names).items()}
    own = (c["flag_id"] == survey.flag_id) & np.isfinite(c["feh"]) & np.isfinite(c["fehCann"]) \
        & np.isfinite(c["teff"]) & np.isfinite(c["logg"])
    c = {n: v[own] for n, v in c.items()}
    found = stage.alike_pairs(np.stack([c["teff"], c["logg"], c["feh"]], axis=1), settings.pair_width,
                              c["fehCann"] - c["feh"], N_PAIR)
    title = f"{cluster}: {TITLE.lower()}"
    if not found:
        return [Missing(title, f"no two clean members have {survey.name.upper()} labels within {settings.pair_width} "
                               f"(Teff, log g, [Fe/H]) and differ in Cannon [Fe/H] minus survey [Fe/H]")]
    if spectra.n_row != labels_file.n_row:
        return [Missing(title, f"{spectra.path} has {spectra.n_row} rows, {labels_file.path} {labels_file.n_row}")]
    lookup = Lookup(run.read(labels_file, ["id"])["id"], labels_file.path, unique=False)
    files = [run.file("clusters"), catalogue, labels_file, spectra]
    grid = run.extension(spectra, "WAVELENGTH")
    template = _template(settings, grid.data["wavelength"])
    return [_item(run, k, pair, c, lookup, files, grid, template, title, model, settings)
            for k, pair in enumerate(found, 1)]


def _item(run, k, pair, c, lookup, files, grid, template, title, model, settings):
    blue, red = pair            # consistent with the survey; more metal-rich than it says
    places = lookup.find(np.array([c["Unique_ID"][blue], c["Unique_ID"][red]]))
    both = run.rows_at(files[-1], places, ["flux", "ivar"])
    flux = np.where(both["ivar"] > 0, both["flux"], np.nan).astype(float)
    wavelength, segment = grid.data["wavelength"], grid.data["segment"]
    rows, words = [], []
    for s in [v for v in np.unique(segment) if v >= 0][-2:]:
        own = segment == s
        difference = flux[1, own] - flux[0, own]
        mean, error = stage.mean_and_error(difference)
        rows.append((wavelength[own], flux[0, own], flux[1, own], template[own] if template is not None else None,
                     ("consistent", "metal-rich", "template difference"),
                     minus(f"mean difference {mean:+.4f} \u00b1 {error:.4f}")))
        words.append(minus(f"{wavelength[own][0]:.0f}\u2013{wavelength[own][-1]:.0f} \u00c5 {mean:+.4f} \u00b1 "
                           f"{error:.4f}"))
    mock = any(f.mock for f in files)

    def star(i):
        numbers = (f"Teff {c['teff'][i]:.0f} K, log g {c['logg'][i]:.2f}, [Fe/H] {c['feh'][i]:+.2f}; Cannon "
                   f"{c['fehCann'][i] - c['feh'][i]:+.2f} of that, S/N {c['snr'][i]:.0f}")
        return f"{c['Unique_ID'][i].decode().strip()} ({minus(numbers)})"

    given = f" Black: difference of templates from {settings.pair_template}." if template is not None else ""
    caption = (f"Two clean members with alike survey labels (in brackets), spectra of {files[2].header.text('SURVEY')}"
               f", [Fe/H] of {common.shout(model)}. Blue: {star(blue)}. Red: {star(red)}. Mean flux difference, red "
               f"\u2212 blue: {'; '.join(words)}.{given} The pairs with the largest difference among those alike were "
               f"chosen, so some of it is noise.")
    return Item("pairs", f"pairs-{k}", f"{title}, {k}", f"Figure A{3 + k}", caption, files,
                lambda: plots.two_spectra(rows, mock))


def _template(settings, wavelength):
    """A template's difference on the pixels (NaN where it has none), from a CSV wavelength,difference; or None."""
    if not settings.pair_template:
        return None
    try:
        table = np.genfromtxt(settings.pair_template, delimiter=",", names=True, comments="#")
        x, y = table["wavelength"], table["difference"]
        return np.interp(wavelength, x, y, left=np.nan, right=np.nan)
    except OSError as problem:
        raise errors.NoInputError(f"{settings.pair_template}: {problem.strerror or problem}") from None
    except (ValueError, IndexError, TypeError) as problem:
        raise errors.DataError(f"{settings.pair_template}: expected the columns wavelength,difference "
                               f"({problem})") from None
