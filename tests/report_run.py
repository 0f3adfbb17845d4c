"""A small synthetic run directory for the tests of cc-report: every kind of file, made up by formulas.

No command is run: labels are drawn from formulas with known offsets, scatters and factors, so that tests can
compute the report's numbers in their own way.
"""
import numpy as np

from cannonkit import schema, stream
from cannonkit.stages import vectorizer

LABELS = ("teff", "logg", "fe_h", "alpha_fe", "vmicro", "vbroad")
UNITS = {"teff": "K", "logg": "dex", "fe_h": "dex", "alpha_fe": "dex", "vmicro": "km/s", "vbroad": "km/s"}
MODELS = {"acgs": ("apogee", "galah"), "gcgs": ("galah", "galah"), "gcaa": ("galah", "apogee"),
          "acaa": ("apogee", "apogee")}
OFFSET = np.array([20.0, 0.05, 0.02, -0.03, -0.05, -2.8])     # APOGEE - GALAH
ERROR = {"apogee": np.array([40.0, 0.06, 0.03, 0.02, 0.25, 0.8]), "galah": np.array([60.0, 0.1, 0.06, 0.05, 0.05, 1.0])}
PRECISION = {"apogee": np.array([45.0, 0.07, 0.03, 0.02, 0.1, 0.9]),
             "galah": np.array([40.0, 0.08, 0.03, 0.025, 0.08, 0.7])}
FLAG_ID = {"galah": 0, "apogee": 1}
N_PIX = {"apogee": 90, "galah": 120}
REJECT = ("APOGEE_SNR", "GALAH_SNR", "GALAH_FLAG_SP")


class Stars:
    """True labels and names of the stars: the first `n_common` are in both surveys."""

    def __init__(self, n_common, n_only, rng):
        n = n_common + 2 * n_only
        giant = rng.random(n) < 0.42
        teff = np.where(giant, rng.normal(4700, 250, n), rng.normal(5700, 300, n))
        logg = np.where(giant, 2.4 + (teff - 4700) / 400, 4.4 - (teff - 5700) / 4000) + rng.normal(0, 0.1, n)
        fe_h = np.clip(rng.normal(-0.15, 0.25, n), -1.3, 0.45)
        alpha = 0.05 - 0.2 * fe_h + rng.normal(0, 0.03, n)
        vmicro = 1.1 + 1e-4 * (teff - 5500) + 4e-7 * (teff - 5500) ** 2
        vbroad = np.where(giant, 6.0, 8.0) + rng.gamma(2.0, 1.0, n)
        self.n, self.n_common = n, n_common
        self.labels = np.stack([teff, logg, fe_h, alpha, vmicro, vbroad], axis=1)
        self.members = {"apogee": np.arange(n) < n_common + n_only,
                        "galah": (np.arange(n) < n_common) | (np.arange(n) >= n_common + n_only)}
        self.ids = {"apogee": np.array([f"2M{k:08d}" for k in range(n)], "S48"),
                    "galah": np.array([f"1401{k:011d}" for k in range(n)], "S48")}
        self.dr3 = np.arange(n, dtype=np.int64) + 4_000_000_000_000_000_000
        self.cluster = np.full(n, b"", "S16")
        for k, name in enumerate((b"NGC 2682", b"NGC 104", b"NGC 288")):
            chosen = slice(10 + 40 * k, 10 + 40 * k + 30 - 8 * k)
            self.cluster[chosen] = name
            self.labels[chosen, 2] = (0.0, -0.72, -1.2)[k]
        self.snr = {s: rng.uniform(15, 200, n) for s in FLAG_ID}
        self.survey = {s: self.on_scale(s) + ERROR[s] * rng.standard_normal((n, 6)) for s in FLAG_ID}
        self.reject = np.zeros(n, np.int64)
        self.reject |= (self.snr["apogee"] < 30).astype(np.int64)
        self.reject |= (self.snr["galah"] < 25).astype(np.int64) << 1
        self.reject |= (rng.random(n) < 0.1).astype(np.int64) << 2
        self.selected = (self.reject == 0) & (np.arange(n) < n_common)

    def on_scale(self, survey):
        """True labels with the survey's smooth offset."""
        sign = 0.5 if survey == "apogee" else -0.5
        out = self.labels + sign * OFFSET
        cool = 0.3 * np.exp(-((self.labels[:, 0] - 3900) / 500) ** 2)
        out[:, 2] += sign * cool
        return out


def header(mock, **values):
    return {**({"MOCK": (True, "simulated")} if mock else {}), **values}


def write_table(path, product, table, rows, mock, extensions=(), row_header=None, **values):
    path.parent.mkdir(parents=True, exist_ok=True)
    with stream.create(path, product, table, len(rows), extensions, header(mock, **values),
                       record={"command": "test"}, row_header=row_header) as out:
        out.write(rows)


def write_training(folder, stars, mock):
    table = schema.training_table(("apogee", "galah"), LABELS)
    n = stars.n_common
    values = {}
    for survey in FLAG_ID:
        for i, name in enumerate(LABELS):
            values[f"{survey}_{name}"] = stars.survey[survey][:n, i]
        values[f"{survey}_id"] = values[f"{survey}_star_id"] = stars.ids[survey][:n]
        values[f"{survey}_snr"] = stars.snr[survey][:n]
    rows = table.rows(n, selected=stars.selected[:n], reject=stars.reject[:n], **values)
    cards = {f"REJB{k:02d}": (name, f"meaning of {name}") for k, name in enumerate(REJECT)}
    write_table(folder / "training.fits", "training", table, rows, mock, row_header=cards)


def write_selection(folder, stars, survey, mock):
    table = schema.training_table((survey,), LABELS)
    there = np.flatnonzero(stars.members[survey])
    values = {f"{survey}_{name}": stars.survey[survey][there, i] for i, name in enumerate(LABELS)}
    values[f"{survey}_id"] = values[f"{survey}_star_id"] = stars.ids[survey][there]
    rows = table.rows(len(there), selected=1, reject=0, **values)
    write_table(folder / f"{survey}_catalogue.fits", "training", table, rows, mock)


def grid(survey):
    n = N_PIX[survey]
    wavelength = np.concatenate([np.linspace(a, a + 200, n // 3) for a in (15200.0, 15900.0, 16500.0)]
                                if survey == "apogee" else
                                [np.linspace(a, a + 180, n // 4) for a in (4716.0, 5650.0, 6481.0, 7694.0)])
    segment = np.repeat(np.arange(3 if survey == "apogee" else 4), n // (3 if survey == "apogee" else 4))
    return wavelength, segment.astype(np.int16)


class Fitted:
    """A made-up model: coefficients of random lines, and the label scale of the training set."""

    def __init__(self, name, stars, rng):
        self.name, (self.survey, self.scale) = name, MODELS[name]
        self.wavelength, self.segment = grid(self.survey)
        training = stars.survey[self.scale][:stars.n_common]
        self.training = training
        chosen = training[stars.selected[:stars.n_common]]
        self.low, self.pivot, self.high = np.percentile(chosen, [2.5, 50, 97.5], axis=0)
        self.powers = vectorizer.powers_of(6, 2)
        n_pix = len(self.wavelength)
        self.theta = np.where(rng.random((n_pix, 28)) < 0.15, rng.normal(0, 0.02, (n_pix, 28)), 0.0)
        self.theta[:, 0] = 1 - 0.3 * (rng.random(n_pix) < 0.3) * rng.random(n_pix)
        self.s2 = rng.uniform(0, 0.01, n_pix) ** 2
        self.s2[5], self.theta[5] = np.inf, 0.0
        noise = PRECISION[self.survey] * rng.standard_normal((stars.n_common, 6))
        self.cv = stars.on_scale(self.scale)[:stars.n_common] + noise
        self.cv[~stars.selected[:stars.n_common]] = np.nan

    def flux(self, labels):
        x = (labels - self.pivot) / (self.high - self.low)
        return vectorizer.design_matrix(x, self.powers) @ self.theta.T


def write_model(folder, fitted, stars, mock):
    n_pix, n = len(fitted.wavelength), stars.n_common
    medium = "vacuum" if fitted.survey == "apogee" else "air"
    wavelength = schema.WAVELENGTH.rows(n_pix, wavelength=fitted.wavelength, segment=fitted.segment)
    pixels = schema.MODEL_PIXELS.rows(n_pix, status=np.where(np.isfinite(fitted.s2), 0, 4), n_good=400, ivar_scale=1.0)
    d = (fitted.cv - fitted.training)[stars.selected[:n]]
    labels = schema.MODEL_LABELS.rows(6, name=[x.encode() for x in LABELS], unit=[UNITS[x].encode() for x in LABELS],
                                      p2_5=fitted.low, p50=fitted.pivot, p97_5=fitted.high, bias=np.median(d, axis=0),
                                      scatter=np.diff(np.percentile(d, [16, 84], axis=0), axis=0)[0] / 2,
                                      rms=np.sqrt((d ** 2).mean(axis=0)))
    table = schema.model_training_table(LABELS)
    values = {x: fitted.training[:, i] for i, x in enumerate(LABELS)}
    values |= {f"cv_{x}": fitted.cv[:, i] for i, x in enumerate(LABELS)}
    rows = table.rows(n, id=stars.ids[fitted.survey][:n], star_id=stars.ids[fitted.survey][:n],
                      used=stars.selected[:n], fold=np.arange(n) % 12, **values)
    small = [stream.Extension("WAVELENGTH", wavelength, schema.WAVELENGTH,
                              {"MEDIUM": medium, "SURVEY": fitted.survey}),
             stream.Extension("THETA", fitted.theta), stream.Extension("S2", fitted.s2),
             stream.Extension("PIXELS", pixels, schema.MODEL_PIXELS),
             stream.Extension("CENSOR", np.ones((n_pix, 6), np.uint8)),
             stream.Extension("LABELS", labels, schema.MODEL_LABELS),
             stream.Extension("TERMS", fitted.powers.astype(np.int32))]
    if fitted.name == "acgs":       # one of the four has misfit components
        wave = 0.01 * np.sin(np.arange(n_pix) / 40 + np.arange(2)[:, None])
        table_of = schema.model_components_table(n_pix)
        small.append(stream.Extension("COMPONENTS", table_of.rows(2, strength=[9.0, 4.0], loading=wave), table_of))
    write_table(folder / f"{fitted.name}.model.fits", "model", table, rows, mock, small, SURVEY=fitted.survey,
                SCALE=fitted.scale, MODEL=fitted.name.upper(), MEDIUM=medium)


def write_spectra(folder, fitted, stars, mock, rng):
    """The spectra that the first model of a survey would predict, with noise."""
    there = np.flatnonzero(stars.members[fitted.survey])
    n_pix = len(fitted.wavelength)
    sigma = 1 / stars.snr[fitted.survey][there]
    flux = fitted.flux(stars.on_scale(fitted.scale)[there]) + sigma[:, None] * rng.standard_normal((len(there), n_pix))
    ivar = np.repeat(sigma[:, None] ** -2, n_pix, axis=1)
    ivar[rng.random(ivar.shape) < 0.02] = 0
    table = schema.spectra_table(n_pix)
    rows = table.rows(len(there), id=stars.ids[fitted.survey][there], star_id=stars.ids[fitted.survey][there], visit=0,
                      snr=stars.snr[fitted.survey][there], snr_survey=stars.snr[fitted.survey][there],
                      flux=flux, ivar=ivar)
    wavelength = schema.WAVELENGTH.rows(n_pix, wavelength=fitted.wavelength, segment=fitted.segment)
    medium = "vacuum" if fitted.survey == "apogee" else "air"
    small = [stream.Extension("WAVELENGTH", wavelength, schema.WAVELENGTH, {"MEDIUM": medium})]
    write_table(folder / f"{fitted.survey}_spectra.fits", "spectra", table, rows, mock, small, SURVEY=fitted.survey)


def inferred(fitted, stars, rng):
    """(rows of stars, labels (n, 6)) that a model finds for the stars of its survey; one star fails."""
    there = np.flatnonzero(stars.members[fitted.survey])
    found = stars.on_scale(fitted.scale)[there] + PRECISION[fitted.survey] * rng.standard_normal((len(there), 6))
    found[-1] = np.nan
    return there, found


def write_labels(folder, fitted, stars, there, found, mock, rng):
    table = schema.labels_table(LABELS, UNITS).with_columns(schema.flag_columns())
    n = len(there)
    values = {x: found[:, i] for i, x in enumerate(LABELS)}
    far = (rng.random(n) < 0.07) & ~stars.selected[there]
    rows = table.rows(n, id=stars.ids[fitted.survey][there], star_id=stars.ids[fitted.survey][there], visit=0,
                      chi2=n, r_chi2=rng.normal(1, 0.1, n), status=np.where(np.isnan(found[:, 0]), 64, 0),
                      flag_cannon_dist=far | np.isnan(found[:, 0]), cannon_distance=np.where(far, 20, 2),
                      flag_training=~stars.selected[there], snr_survey=stars.snr[fitted.survey][there],
                      flag_spectra=0, flag_sp_aspcap=0, **values)
    write_table(folder / f"{fitted.name}.final.fits", "labels", table, rows, mock, SURVEY=fitted.survey,
                SCALE=fitted.scale, MODEL=fitted.name.upper())
    return rows


def write_errors(folder, fitted, mock, rng):
    f = np.array([2.1, 1.8, 2.5, 1.3, 3.0, 4.0])
    rows = schema.FACTORS.rows(6, label=[x.encode() for x in LABELS], unit=[UNITS[x].encode() for x in LABELS],
                               f_robust=f, f_robust_err=0.05 * f, f_standard=1.1 * f, f_1684=f, n_pair=300,
                               n_independent=200, n_group=180, scale=fitted.high - fitted.low,
                               f_scaled=f * (fitted.high - fitted.low))
    snr = np.linspace(20, 180, 12)
    points, curves = [], []
    for i, x in enumerate(LABELS):
        c = PRECISION[fitted.survey][i]
        width = c * (1 + 3 * np.exp(-snr / 35))
        points.append(schema.PRECISION_POINTS.rows(12, label=x.encode(), snr=snr, error=0.05 * width, count=40,
                                                   width=width * (1 + 0.04 * rng.standard_normal(12))))
        curves.append(schema.PRECISION.rows(2, label=x.encode(), kind=[b"paper", b"unbiased"], a=3 * c, b=35, c=c,
                                            n=480))
    small = [stream.Extension("PRECISION", np.concatenate(curves), schema.PRECISION),
             stream.Extension("POINTS", np.concatenate(points), schema.PRECISION_POINTS)]
    write_table(folder / f"{fitted.name}.errors.fits", "errors", schema.FACTORS, rows, mock, small,
                SURVEY=fitted.survey, SCALE=fitted.scale, MODEL=fitted.name.upper(), AGAINST=False)
    pulls = []
    for x in LABELS:
        for axis, n_bin in (("all", 1), ("snr", 8), ("teff", 6)):
            centre = np.linspace(20, 180, n_bin) if axis != "teff" else np.linspace(4300, 6200, n_bin)
            pulls.append(schema.PULLS.rows(n_bin, label=x.encode(), axis=axis.encode(), centre=centre, low=centre - 1,
                                           high=centre + 1, formal=rng.normal(2.2, 0.2, n_bin), n_pair=30,
                                           factor=rng.normal(1, 0.1, n_bin), paper=rng.normal(0.95, 0.1, n_bin)))
    pulls = np.concatenate(pulls)
    write_table(folder / f"{fitted.name}.pulls.fits", "errors", schema.PULLS, pulls, mock, SURVEY=fitted.survey,
                SCALE=fitted.scale, MODEL=fitted.name.upper(), AGAINST=False)


def write_catalogue(folder, scale, parts, stars, mock, rng):
    """parts: [(Fitted, star rows, found labels, rows of its labels file)] of the two surveys."""
    table = schema.catalogue_table(LABELS)
    blocks = []
    for fitted, there, found, rows in parts:
        values = {}
        for i, x in enumerate(LABELS):
            a1 = schema.A1_NAMES[x]
            values |= {f"{a1}Cann": found[:, i], f"e_{a1}Cann": PRECISION[fitted.survey][i],
                       a1: stars.survey[fitted.survey][there, i], f"e_{a1}": ERROR[fitted.survey][i]}
        n = len(there)
        low = stars.snr[fitted.survey][there] < (80 if fitted.survey == "apogee" else 25)
        blocks.append(table.rows(
            n, Unique_ID=stars.ids[fitted.survey][there], dr3_source_id=stars.dr3[there], ra=rng.uniform(0, 360, n),
            dec=np.degrees(np.arcsin(rng.uniform(-1, 1, n))), r_est=rng.gamma(2, 700, n),
            flag_id=FLAG_ID[fitted.survey], flag_spectra=0,
            flag_Cannon_dist=rows["flag_cannon_dist"], flag_training=rows["flag_training"], flag_snr=low,
            flag_sp_aspcap=np.where(rng.random(n) < 0.1, 1 << (7 if fitted.survey == "apogee" else 1), 0),
            flag_survey=0, snr=stars.snr[fitted.survey][there], star_id=stars.ids[fitted.survey][there], **values))
    write_table(folder / f"{scale}_scaled.fits", "catalogue", table, np.concatenate(blocks), mock, SCALE=scale)


def write_truth(folder, stars):
    c = schema.Column
    columns = [c("survey", "S8"), c("id", "S48"), *(c(n, "f8", UNITS[n]) for n in LABELS)]
    columns += [c(f"{s}_{n}", "f8", UNITS[n]) for s in FLAG_ID for n in LABELS]
    columns += [c("cluster", "S16"), c("second_generation", "u1")]
    table = schema.Table("TRUTH", tuple(columns))
    blocks = []
    for survey in FLAG_ID:
        there = np.flatnonzero(stars.members[survey])
        values = {n: stars.labels[there, i] for i, n in enumerate(LABELS)}
        values |= {f"{s}_{n}": stars.on_scale(s)[there, i] for s in FLAG_ID for i, n in enumerate(LABELS)}
        blocks.append(table.rows(len(there), survey=survey.encode(), id=stars.ids[survey][there],
                                 cluster=stars.cluster[there], second_generation=there % 2, **values))
    write_table(folder / "mock" / "truth.fits", "truth", table, np.concatenate(blocks), True)


def write_clusters(folder, stars):
    """A table of someone else: plain FITS without our keywords."""
    from cannonkit import fits

    c = schema.Column
    table = schema.Table("members", (c("cluster", "S16"), c("source_id", "i8"), c("memberprob", "f8")))
    inside = np.flatnonzero(stars.cluster != b"")
    rows = table.rows(len(inside) + 1, cluster=np.append(stars.cluster[inside], b"NGC 104"),
                      source_id=np.append(stars.dr3[inside], stars.dr3[0]),
                      memberprob=np.append(np.full(len(inside), 0.9), 0.2))
    (folder / "mock").mkdir(exist_ok=True)
    (folder / "mock" / "clusters_mock.fits").write_bytes(
        b"".join(bytes(part) for part in (fits.primary_hdu({"MOCK": True}), fits.table_hdu(table, rows))))


def make(folder, rng, n_common=500, n_only=200, mock=True):
    """Write the whole run; returns (Stars, {name: Fitted}, {name: (star rows, found)})."""
    stars = Stars(n_common, n_only, rng)
    write_training(folder, stars, mock)
    fitted, found, rows = {}, {}, {}
    for survey in FLAG_ID:
        write_selection(folder, stars, survey, mock)
    for name in MODELS:
        fitted[name] = Fitted(name, stars, rng)
        write_model(folder, fitted[name], stars, mock)
        found[name] = inferred(fitted[name], stars, rng)
        rows[name] = write_labels(folder, fitted[name], stars, *found[name], mock, rng)
        write_errors(folder, fitted[name], mock, rng)
    (folder / "vmicro").mkdir(exist_ok=True)
    write_model(folder / "vmicro", fitted["acaa"], stars, mock)
    for name in ("acgs", "gcgs"):
        write_spectra(folder, fitted[name], stars, mock, rng)
    for scale, names in (("galah", ("acgs", "gcgs")), ("apogee", ("acaa", "gcaa"))):
        write_catalogue(folder, scale, [(fitted[n], *found[n], rows[n]) for n in names], stars, mock, rng)
    if mock:
        write_truth(folder, stars)
        write_clusters(folder, stars)
    return stars, fitted, found


if __name__ == "__main__":
    import pathlib
    import sys

    make(pathlib.Path(sys.argv[1]), np.random.default_rng(1))
