"""Pairs of cluster stars that a survey finds alike and the Cannon does not (Figures A4, A5; appendix B).

In NGC 104 some GALAH spectra come out more metal-rich than the survey says; their difference from a star that
does not shows what lines do it. The report states the difference and which lines stand where it is large, not its
cause.
"""
import numpy as np

from cannonkit import errors, plots, schema
from cannonkit.figures import clusters, common
from cannonkit.figures.common import Item, Missing
from cannonkit.listing import Listing, minus
from cannonkit.stages import line_candidates
from cannonkit.stages import report as stage
from cannonkit.stages.lookup import Lookup

TITLE = "Pairs of spectra and their difference"
N_PAIR = 2
N_FEATURE, FEATURE_PIXELS, APART, WITHIN = 10, 5, 1.0, 0.35     # of a range; Angstrom
SPIKE = 1.08        # flux above this in either spectrum is no absorption line
N_SPECIES = 5       # drawn


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
    place = Lookup(run.read(labels_file, ["id"])["id"], labels_file.path, unique=False).find(c["Unique_ID"])
    place[place >= 0] = common.spectrum_rows(run, spectra, labels_file, place[place >= 0])
    c = {n: v[place >= 0] for n, v in c.items()}
    place = place[place >= 0]
    found = stage.alike_pairs(np.stack([c["teff"], c["logg"], c["feh"]], axis=1), settings.pair_width,
                              c["fehCann"] - c["feh"], N_PAIR)
    title = f"{cluster}: {TITLE.lower()}"
    if not found:
        return [Missing(title, f"no two clean members with spectra in {spectra.path} have {survey.name.upper()} labels "
                               f"within {settings.pair_width} (Teff, log g, [Fe/H]) and differ in Cannon [Fe/H] minus "
                               f"survey [Fe/H]")]
    files = [run.file("clusters"), catalogue, labels_file, spectra]
    grid = run.extension(spectra, "WAVELENGTH")
    template = _template(settings, grid.data["wavelength"])
    return [_item(run, k, pair, c, place, files, grid, template, title, model, settings)
            for k, pair in enumerate(found, 1)]


def _item(run, k, pair, c, place, files, grid, template, title, model, settings):
    blue, red = pair            # consistent with the survey; more metal-rich than it says
    both = run.rows_at(files[-1], place[[blue, red]], ["flux", "ivar"])
    flux = np.where(both["ivar"] > 0, both["flux"], np.nan).astype(float)
    wavelength, segment = grid.data["wavelength"], grid.data["segment"]
    error = np.sqrt((1.0 / np.where(both["ivar"] > 0, both["ivar"], np.nan)).sum(axis=0))
    labels = [np.mean([c[n][i] for i in pair]) for n in ("teff", "logg", "feh")]
    rows, words, found = [], [], []
    for s in [v for v in np.unique(segment) if v >= 0][-2:]:
        own = segment == s
        difference = flux[1, own] - flux[0, own]
        mean, spread = stage.mean_and_error(difference)
        lines = _lines(settings, wavelength[own], grid, labels)
        usable = np.where(flux[:, own].max(axis=0) < SPIKE, difference - np.nanmedian(difference), np.nan)
        features = stage.features(wavelength[own], usable, error[own], FEATURE_PIXELS, APART, N_FEATURE)
        close = [line_candidates.near(lines, x, WITHIN) for x, _, _ in features]
        found += [(*feature, ", ".join(f"{line['species'].decode()} {line['wavelength']:.2f}" for line in near) or "-")
                  for feature, near in zip(features, close, strict=True)]
        species = [line["species"] for near in close for line in near]
        drawn = sorted(dict.fromkeys(species), key=lambda x, species=species: -species.count(x))[:N_SPECIES]
        marks = [(name.decode(), lines["wavelength"][lines["species"] == name]) for name in drawn]
        rows.append((wavelength[own], flux[0, own], flux[1, own], template[own] if template is not None else None,
                     ("consistent", "metal-rich", "template difference"),
                     minus(f"mean difference {mean:+.4f} \u00b1 {spread:.4f}"), marks, [x for x, _, _ in features]))
        words.append(minus(f"{wavelength[own][0]:.0f}\u2013{wavelength[own][-1]:.0f} \u00c5 {mean:+.4f} \u00b1 "
                           f"{spread:.4f}"))
    mock = any(f.mock for f in files)

    def star(i):
        numbers = (f"Teff {c['teff'][i]:.0f} K, log g {c['logg'][i]:.2f}, [Fe/H] {c['feh'][i]:+.2f}; Cannon "
                   f"{c['fehCann'][i] - c['feh'][i]:+.2f} of that, S/N {c['snr'][i]:.0f}")
        return f"{c['Unique_ID'][i].decode().strip()} ({minus(numbers)})"

    given = f" Black: difference of templates from {settings.pair_template}." if template is not None else ""
    caption = (f"Two clean members with alike survey labels (in brackets), spectra of {files[2].header.text('SURVEY')}"
               f", [Fe/H] of {common.shout(model)}. Blue: {star(blue)}. Red: {star(red)}. Mean flux difference, red "
               f"\u2212 blue: {'; '.join(words)}.{given} The pairs with the largest difference among those alike were "
               f"chosen, so some of it is noise. Grey: the {N_FEATURE} most significant features of each range "
               f"({FEATURE_PIXELS} pixels); below, lines of the species that stand within {WITHIN:g} \u00c5 of them.")
    column = schema.Column
    table = schema.Table("TABLE", (
        column("wavelength", "f8", "Angstrom", "middle of the feature"),
        column("difference", "f8", "", "mean flux, red minus blue, less the median of the range"),
        column("significance", "f8", "", "the same over its error"),
        column("candidates", "S96", "", "strongest line of each species there: candidates, no identification")))
    listing = Listing(f"pairs-{k}-lines", f"{title}, {k}: candidate lines", table, found,
                      {"wavelength": 2, "difference": 3, "significance": 1}, mock)
    return Item("pairs", f"pairs-{k}", f"{title}, {k}", f"Figure A{3 + k}", caption, files,
                lambda: plots.two_spectra(rows, mock), (listing,))


def _lines(settings, wavelength, grid, labels):
    """line_candidates.CANDIDATE rows of a range: of a CSV wavelength,species, or of the built-in list."""
    low, high = wavelength[0], wavelength[-1]
    if not settings.pair_lines:
        return line_candidates.of_star(low, high, grid.header.get("MEDIUM", "vacuum"), *labels)
    given = _csv(settings.pair_lines, ("wavelength", "species"))
    out = np.zeros(len(given), line_candidates.CANDIDATE)
    out["wavelength"], out["strength"] = given["wavelength"], 1.0
    out["species"] = [str(name).strip().encode() for name in given["species"]]
    return out[(out["wavelength"] >= low) & (out["wavelength"] <= high)]


def _template(settings, wavelength):
    """A template's difference on the pixels (NaN where it has none), from a CSV wavelength,difference; or None."""
    if not settings.pair_template:
        return None
    table = _csv(settings.pair_template, ("wavelength", "difference"))
    return np.interp(wavelength, table["wavelength"], table["difference"], left=np.nan, right=np.nan)


def _csv(path, columns):
    """Rows of a CSV with these columns. Raises NoInputError, DataError."""
    try:
        with open(path, encoding="utf-8") as lines:
            text = [line for line in lines if line.strip() and not line.startswith("#")]
        table = np.atleast_1d(np.genfromtxt(text, delimiter=",", names=True, comments=None, dtype=None))
        if table.dtype.names is None or not all(np.issubdtype(table[n].dtype, np.number) or n == "species"
                                                for n in columns):
            raise ValueError("no such columns, or not numbers")
        return table
    except OSError as problem:
        raise errors.NoInputError(f"{path}: {problem.strerror or problem}") from None
    except (ValueError, IndexError, TypeError) as problem:
        raise errors.DataError(f"{path}: expected the columns {','.join(columns)} ({problem})") from None
