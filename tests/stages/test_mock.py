"""The mock's spectra respond to labels as real ones do; its surveys differ as the paper's do."""
import argparse

import numpy as np
import pytest
from scipy.optimize import least_squares

from cannonkit import config, recipe, schema
from cannonkit.stages import (
    mock,
    mock_lines,
    mock_spectra,
    mock_stars,
    mock_stream,
    mock_surveys,
    resample,
    vectorizer,
    wavelength,
)
from cannonkit.stages.catalogue import galah_vmicro


def settings_of(**changes):
    texts = [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in changes.items()]
    return config.resolve(config.Mock, argparse.Namespace(config=None, set=texts))


@pytest.fixture(scope="module")
def synthesis():
    clear = [pixel.wavelength for pixel in recipe.read_continuum("apogee_continuum")]
    return mock_spectra.Synthesis(clear)


SUN = {"teff": 5777.0, "logg": 4.44, "vmicro": 1.0}
GIANT = {"teff": 4500.0, "logg": 2.0, "vmicro": 1.5}


def star(**labels):
    row = np.zeros(1, dtype=mock_stars.STAR)
    row["companion"] = -1
    for name, value in labels.items():
        row[name] = value
    return row


def width(synthesis, region, vacuum, half, **labels):
    """Equivalent width (A) of what lies within `half` A of a vacuum wavelength."""
    wave = synthesis.wavelength(region)
    flux = synthesis.fine(star(**labels), region)[0]
    there = np.abs(wave - vacuum) < half
    return ((1.0 - flux)[there] * np.gradient(wave)[there]).sum()


def change(synthesis, region, air, half, base, **difference):
    """Ratio of equivalent widths after labels change by `difference`, and the first width."""
    vacuum = float(wavelength.air_to_vacuum(air))
    other = dict(base)
    for name, value in difference.items():
        other[name] = other.get(name, 0.0) + value
    first = width(synthesis, region, vacuum, half, **base)
    return width(synthesis, region, vacuum, half, **other) / first, first


# Solar equivalent widths (mA) of clean lines, from tables of the solar spectrum: right to a factor of two.
SOLAR_WIDTH = [(2, 5705.464, 38.0), (2, 5775.081, 60.0), (2, 5857.451, 132.0), (3, 6592.914, 123.0),
               (3, 6643.629, 83.0), (3, 6717.681, 120.0), (3, 6516.080, 55.0), (4, 7698.974, 154.0),
               (4, 7748.269, 103.0), (2, 5782.127, 70.0)]


@pytest.mark.parametrize(("region", "air", "want"), SOLAR_WIDTH)
def test_solar_lines_have_the_right_size(synthesis, region, air, want):
    vacuum = float(wavelength.air_to_vacuum(air))
    found = 1e3 * width(synthesis, region, vacuum, 0.45, **SUN)
    assert 0.5 * want < found < 2.0 * want


# region, air wavelength, half width, base, difference, lowest and highest ratio of widths.
RESPONSES = [
    # [Fe/H]: iron lines grow
    (2, 5705.464, 0.25, SUN, {"fe_h": -0.5}, 0.3, 0.75),
    (0, 15294.56, 1.2, GIANT, {"fe_h": -0.5}, 0.4, 0.9),
    # Teff: low excitation neutral lines fade with it, high excitation oxygen grows
    (3, 6498.939, 0.25, SUN, {"teff": 400.0}, 0.2, 0.75),
    (4, 7771.944, 0.4, SUN, {"teff": 500.0}, 1.3, 3.0),
    # Balmer wings are a thermometer
    (3, 6562.80, 30.0, SUN, {"teff": 500.0}, 1.15, 2.2),
    (3, 6562.80, 3.0, {"teff": 5000.0, "logg": 4.5, "vmicro": 1.0}, {"teff": -700.0}, 0.1, 0.8),
    # log g: ionised lines grow at lower gravity, neutral weak ones do not care
    (3, 6516.080, 0.3, {"teff": 5000.0, "logg": 3.5, "vmicro": 1.2}, {"logg": -1.5}, 1.2, 2.5),
    (1, 4798.532, 0.15, {"teff": 5000.0, "logg": 3.5, "vmicro": 1.2}, {"logg": -1.5}, 1.1, 2.5),
    (2, 5705.464, 0.25, SUN, {"logg": -0.7}, 0.85, 1.2),
    # damping: strong lines have wings that grow with pressure
    (0, 15888.41, 4.0, {"teff": 4500.0, "logg": 2.5, "vmicro": 1.5}, {"logg": 2.0}, 1.15, 3.0),
    # [alpha/Fe]: all six elements, inside the windows and outside; iron only through the electrons of Mg and Si
    (2, 5711.088, 0.3, SUN, {"alpha_fe": 0.3}, 1.1, 1.7),      # Mg
    (2, 5690.425, 0.25, SUN, {"alpha_fe": 0.3}, 1.2, 1.8),     # Si
    (3, 6717.681, 0.4, SUN, {"alpha_fe": 0.3}, 1.1, 1.7),      # Ca
    (2, 5866.451, 0.25, SUN, {"alpha_fe": 0.3}, 1.1, 1.8),     # Ti
    (0, 15478.50, 0.6, SUN, {"alpha_fe": 0.3}, 1.2, 2.0),      # S
    (4, 7774.166, 0.4, SUN, {"alpha_fe": 0.3}, 1.1, 1.8),      # O
    (0, 15765.84, 2.0, GIANT, {"alpha_fe": 0.3}, 1.05, 1.7),   # Mg in the H band
    (3, 6592.914, 0.25, SUN, {"alpha_fe": 0.3}, 0.90, 1.06),   # Fe
    # v_micro: strong lines, not weak ones
    (2, 5709.378, 0.3, GIANT, {"vmicro": 1.0}, 1.1, 1.7),
    (2, 5811.92, 0.15, SUN, {"vmicro": 1.0}, 0.97, 1.08),
    # hidden labels: N and C make CN
    (4, 7882.0, 7.0, GIANT, {"n_fe": 0.8}, 1.25, 6.0),
    (4, 7882.0, 7.0, GIANT, {"c_fe": -0.3}, 0.3, 0.85),
    (0, 15333.0, 20.0, GIANT, {"n_fe": 0.8}, 1.1, 4.0),
    # molecules come with low temperature
    (0, 15600.0, 18.0, {"teff": 4300.0, "logg": 1.5, "vmicro": 1.6}, {"teff": -600.0}, 1.1, 6.0),
    (3, 6690.0, 8.0, {"teff": 4000.0, "logg": 4.7, "vmicro": 1.0}, {"teff": -600.0}, 1.5, 40.0),
]


@pytest.mark.parametrize(("region", "air", "half", "base", "difference", "low", "high"), RESPONSES)
def test_lines_respond_to_labels_with_the_right_sign_and_size(synthesis, region, air, half, base,
difference, low, high):
    ratio, first = change(synthesis, region, air, half, base, **difference)
    assert first > 0.002                   # there is a line at all
    assert low < ratio < high


def test_apogee_continuum_pixels_are_free_of_lines(synthesis):
    pixels = np.array([p.wavelength for p in recipe.read_continuum("apogee_continuum")])
    wave = synthesis.wavelength(0)
    sun = np.interp(pixels, wave, synthesis.fine(star(**SUN), 0)[0])
    giant = np.interp(pixels, wave, synthesis.fine(star(**GIANT), 0)[0])
    assert np.median(sun) > 0.995 and np.percentile(sun, 2) > 0.97
    assert np.median(giant) > 0.99 and np.percentile(giant, 2) > 0.95
    other = synthesis.fine(star(**GIANT), 0)[0]
    assert np.percentile(other, 10) < 0.93          # the rest is full of lines


def test_every_species_of_the_formats_page_is_there():
    from cannonkit.stages import mock_atoms

    lines = mock_lines.lines_between(4700.0, 17000.0)
    there = set(np.unique(lines["species"]))
    for name in ("Fe I", "Fe II", "Ti I", "Ti II", "Mg I", "Si I", "Ca I", "Cr I", "Ni I", "Na I", "Al I",
    "K I", "Cu I",
                 "O I", "S I", "CN", "CO", "OH", "C2", "TiO"):
        assert mock_atoms.species_number(name) in there, name
    assert set(mock_lines.hydrogen_between(4700.0, 17000.0)[:, 1]) == {2.0, 4.0}


def test_bands_stand_where_they_are_seen():
    # Heads: CO 3-0 at 15582 A (vacuum), CN (2,0) from about 7872 A (air), C2 (1,0) at 4737 A.
    co = mock_lines.carbon_monoxide()
    assert abs(co["wavelength"][(co["wavelength"] > 15500)].min() - 15582.0) < 5.0
    cn = mock_lines.cyanogen()
    red = cn["wavelength"][(cn["wavelength"] > 7700) & (cn["wavelength"] < 7990)]
    assert abs(wavelength.vacuum_to_air(red.min()) - 7872.0) < 15.0


# --- stars and surveys -------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def many():
    settings = settings_of(common=6000, apogee_only=200, galah_only=200, apogee_repeats=900,
    galah_repeats=1300, odd=0.0,
                           clusters=0.0)
    return settings, mock.plan(settings)


# Table 1 of the paper: mean and half the 16-84 range of APOGEE - GALAH, giants and dwarfs.
TABLE_1 = {"teff": ((35.0, 68.0), (0.0, 94.0)), "logg": ((0.03, 0.13), (0.08, 0.10)),
           "fe_h": ((0.05, 0.10), (0.00, 0.06)), "alpha_fe": ((-0.04, 0.06), (-0.02, 0.05)),
           "vmicro": ((0.07, 0.30), (-0.14, 0.40)), "vbroad": ((-3.08, 1.21), (-2.59, 1.62))}


@pytest.mark.parametrize("label", list(TABLE_1))
def test_surveys_differ_as_in_table_1(many, label):
    _, plan = many
    s = plan.stars[plan.stars["in_apogee"] & plan.stars["in_galah"]]
    rng = np.random.default_rng(5)
    apogee, _ = mock_surveys.observed_labels(s, "apogee", True, rng)
    galah, _ = mock_surveys.observed_labels(s, "galah", True, rng)
    d = apogee[label] - galah[label]
    for which, (mean, sigma) in zip((galah["logg"] < 3.5, galah["logg"] >= 3.5), TABLE_1[label], strict=True):
        found = d[which]
        half = 0.5 * (np.percentile(found, 84) - np.percentile(found, 16))
        assert abs(found.mean() - mean) < 0.45 * sigma
        assert 0.6 * sigma < half < 1.4 * sigma


def test_metallicity_trends_of_the_text(many):
    s = np.repeat(star(logg=2.0), 4)
    s["teff"] = (4000.0, 4300.0, 4700.0, 5000.0)
    d = mock_surveys.scale_labels(s, "apogee")["fe_h"] - mock_surveys.scale_labels(s, "galah")["fe_h"]
    assert 0.3 < d[0] < 0.5 and np.all(np.diff(d) < 0) and d[3] < 0.1
    s = np.repeat(star(logg=4.2), 2)
    s["teff"] = (5600.0, 6400.0)
    d = mock_surveys.scale_labels(s, "apogee")["fe_h"] - mock_surveys.scale_labels(s, "galah")["fe_h"]
    assert abs(d[0]) < 0.06 and 0.1 < d[1] < 0.22


def test_errors_average_out_to_the_trend(many):
    _, plan = many
    s = np.repeat(plan.stars[:1], 4000)
    labels, _ = mock_surveys.observed_labels(s, "galah", True, np.random.default_rng(2))
    scale = mock_surveys.scale_labels(s[:1], "galah")
    for name in ("teff", "logg", "fe_h", "alpha_fe"):
        error = labels[name].std() / np.sqrt(4000)
        assert abs(labels[name].mean() - scale[name][0]) < 5 * error


def test_galah_v_micro_is_the_formula_and_apogee_dwarfs_stand_on_the_grid(many):
    _, plan = many
    galah = plan.galah.columns
    there = np.isfinite(galah["teff"])
    np.testing.assert_array_equal(galah["vmic"][there], galah_vmicro(galah["teff"], galah["logg"])[there])
    apogee = plan.apogee.columns
    dwarf = np.isin(apogee["ASPCAP_CLASS"], (b"GKd", b"Fd", b"Md", b"BA")) & (apogee["TEFF"] > -9000)
    assert set(np.round(np.unique(apogee["VSINI"][dwarf]), 4)) <= {1.5, 3.0, 6.0, 12.0, 24.0, 48.0, 96.0}
    giant = np.isin(apogee["ASPCAP_CLASS"], (b"GKg", b"Mg"))
    assert np.all(apogee["VSINI"][giant] < -9000.0)


def test_groups_of_repeats_have_the_papers_sizes(many):
    settings, plan = many
    for survey, extra, largest in ((plan.apogee, settings.apogee_repeats, 14), (plan.galah,
    settings.galah_repeats, 15)):
        sizes = np.bincount(survey.star)
        assert (survey.repeat > 0).sum() == extra
        assert 2 <= sizes[sizes > 1].max() <= largest
        assert sizes.max() > 3
        # The best spectrum comes first and has no DUPLICATE bit.
        for s in np.flatnonzero(sizes > 1)[:40]:
            mine = survey.star == s
            assert survey.repeat[mine][np.argmax(survey.snr[mine])] == 0
    duplicate = (plan.apogee.columns["EXTRATARG"] & 16) != 0
    np.testing.assert_array_equal(duplicate, plan.apogee.repeat > 0)


def test_alpha_of_giants_covers_the_papers_range(many):
    _, plan = many
    giant = plan.stars["logg"] < 3.5
    low, high = np.percentile(plan.stars["alpha_fe"][giant], [2.5, 97.5])
    assert -0.05 < low < 0.01 and 0.25 < high < 0.35
    assert 0.38 < giant.mean() < 0.46


def test_identifiers_are_distinct_and_need_64_bits(many):
    _, plan = many
    ids = plan.stars["dr3_source_id"]
    assert len(np.unique(ids)) == len(ids)
    assert np.any(ids.astype(float).astype(np.int64) != ids)
    assert len(np.unique(plan.stars["tmass"])) == len(plan.stars)
    assert len(np.unique(plan.galah.columns["sobject_id"])) == len(plan.galah.star)
    assert len(np.unique(plan.apogee.columns["APSTAR_ID"])) == len(plan.apogee.star)
    assert {len(str(i)) for i in plan.galah.columns["sobject_id"]} == {15}


def test_odd_stars_are_all_kinds_and_mostly_in_one_survey():
    stars = mock_stars.draw(settings_of(common=1000, apogee_only=600, galah_only=600, odd=0.5),
                            np.random.default_rng(1))
    field = stars[stars["in_apogee"] | stars["in_galah"]]
    for kind in mock_stars.KINDS:
        assert (field["kind"] == kind.encode()).sum() > 5, kind
    odd = ~np.isin(field["kind"], (b"dwarf", b"giant"))
    both = field["in_apogee"] & field["in_galah"]
    assert odd[both].mean() < 0.1 < odd[~both].mean()
    assert field["teff"][field["kind"] == b"m dwarf"].max() < 4000
    assert field["fe_h"][field["kind"] == b"metal poor"].max() <= -1.5
    binary = field["kind"] == b"binary"
    assert np.all(field["companion"][binary] >= 0)
    assert np.all(stars["companion"][field["companion"][binary]] == -1)


def test_clusters_have_one_metallicity_and_two_generations():
    stars = mock_stars.draw(settings_of(clusters=1.0, common=0, apogee_only=0, galah_only=0), np.random.default_rng(1))
    for name, kind, *_, fe_h, _alpha, _rv, n_galah, n_apogee in mock_stars.CLUSTERS:
        members = stars[stars["cluster"] == name.encode()]
        assert members["in_galah"].sum() == n_galah and members["in_apogee"].sum() == n_apogee
        assert np.all(members["fe_h"] == fe_h)
        if kind == "open":
            assert not members["second_generation"].any()
    tuc = stars[stars["cluster"] == b"NGC 104"]
    assert tuc["second_generation"][tuc["in_apogee"]].mean() < 0.25
    assert tuc["second_generation"][~tuc["in_apogee"]].mean() > 0.45
    second = tuc["second_generation"]
    assert tuc["n_fe"][second].mean() - tuc["n_fe"][~second].mean() > 0.4
    both = mock_stars.draw(settings_of(clusters=1.0, common=0, apogee_only=0, galah_only=0,
    second_generation_in_both=True),
                           np.random.default_rng(1))
    tuc = both[both["cluster"] == b"NGC 104"]
    assert tuc["second_generation"][tuc["in_apogee"]].mean() > 0.3


def test_second_generation_shows_cn_in_galahs_infrared_camera(synthesis):
    first = star(teff=4500.0, logg=1.8, fe_h=-0.76, alpha_fe=0.25, vmicro=1.5, n_fe=0.3)
    second = first.copy()
    second["n_fe"] += 0.8
    wave = wavelength.vacuum_to_air(synthesis.wavelength(4))
    d = synthesis.fine(second, 4)[0] - synthesis.fine(first, 4)[0]
    beyond = wave > 7875.0
    assert d[beyond].mean() < -1e-3
    assert abs(d[(wave > 7700) & (wave < 7860)].mean()) < 0.1 * abs(d[beyond].mean())


# --- planes ------------------------------------------------------------------------------------------

SMALL = {"common": 20, "apogee_only": 6, "galah_only": 6, "apogee_repeats": 4, "galah_repeats": 4, "clusters": 0.0,
         "odd": 1.0}


def test_plan_repeats_itself_and_the_seed_matters():
    one, two = mock.plan(settings_of(**SMALL)), mock.plan(settings_of(**SMALL))
    assert one.stars.tobytes() == two.stars.tobytes()
    assert mock.truth_rows(one).tobytes() == mock.truth_rows(two).tobytes()
    other = mock.plan(settings_of(seed=3, **SMALL))
    assert other.stars.tobytes() != one.stars.tobytes()


def test_spectra_do_not_depend_on_the_block(synthesis):
    settings = settings_of(**SMALL)
    plan = mock.plan(settings)
    which = np.arange(12)
    whole, *_ = mock_spectra.apogee_block(synthesis, plan.stars, mock_spectra.take(plan.apogee.observations, which),
                                          plan.visits[which], settings)
    part = which[5:8]
    few, *_ = mock_spectra.apogee_block(synthesis, plan.stars, mock_spectra.take(plan.apogee.observations, part),
                                        plan.visits[part], settings)
    for name in whole:
        n_row = few[name].shape[1]
        np.testing.assert_array_equal(whole[name][5:8, :n_row], few[name])
    grids = tuple(g[which] for g in plan.grids)
    whole = mock_spectra.galah_block(synthesis, plan.stars, mock_spectra.take(plan.galah.observations, which), grids,
                                     settings)
    few = mock_spectra.galah_block(synthesis, plan.stars, mock_spectra.take(plan.galah.observations, part),
                                   tuple(g[part] for g in plan.grids), settings)
    for c in range(4):
        n = int(few[c]["n_pix"].max())
        for name in ("normalised", "sigma", "counts"):
            for i in range(3):
                k = few[c]["n_pix"][i]
                np.testing.assert_array_equal(whole[c][name][5 + i, :k], few[c][name][i, :k])
        assert n <= whole[c]["n_pix"].max()


@pytest.mark.parametrize("survey", ["apogee", "galah"])
def test_streams_are_quick_to_a_stated_error(synthesis, survey):
    """kernels/mock_stream.py against kernels/mock.py: the noiseless flux of 500 field stars, odd ones included."""
    settings = settings_of()
    truth = schema.native(mock.drawn_truth(survey, 3, settings)[:500])
    stars = mock_stream.stars_of(truth)
    obs = mock_spectra.Observation(*(np.ascontiguousarray(a) for a in (
        np.arange(500), truth["number"], truth["snr"], truth["lsf"], truth["velocity_left"])))

    def clean(maker):
        if survey == "apogee":
            return mock_spectra.apogee_block(maker, stars, obs, truth["visits"].astype(int), settings, whole=False)[3]
        cameras = mock_spectra.galah_block(maker, stars, obs, mock_spectra.galah_grids(obs, settings), settings,
                                           whole=False)
        return np.concatenate([camera["clean"] for camera in cameras], axis=1)

    clear = [pixel.wavelength for pixel in recipe.read_continuum("apogee_continuum")]
    difference = np.abs(clean(mock_spectra.Synthesis(clear, quick=True)) - clean(synthesis))
    print(f"mock: {survey}, noiseless flux of streams: rms error {np.sqrt((difference**2).mean()):.1e}, "
          f"99.9 % {np.quantile(difference, 0.999):.1e}, largest {difference.max():.1e}")
    assert np.sqrt((difference**2).mean()) < 1e-5
    assert np.quantile(difference, 0.999) < 6e-5 and difference.max() < 2e-4


def test_galah_scatter_is_the_stated_share_of_hdu1(synthesis):
    settings = settings_of(junk=False, wiggles=False, common=30, apogee_only=0, galah_only=0, clusters=0, odd=0)
    plan = mock.plan(settings)
    which = np.arange(20)
    cameras = mock_spectra.galah_block(synthesis, plan.stars, mock_spectra.take(plan.galah.observations, which),
                                       tuple(g[which] for g in plan.grids), settings)
    for c, (_, _, _, share) in enumerate(mock_spectra.GALAH_CAMERAS):
        camera = cameras[c]
        ratio, snr = [], []
        for i in range(len(which)):
            n = camera["n_pix"][i]
            clean = camera["clean"][i, :n]
            ratio.append(((camera["normalised"][i, :n] - clean) / (clean * camera["sigma"][i, :n])).std())
            snr.append(1.0 / np.median(camera["sigma"][i, :n]))
        assert np.mean(ratio) == pytest.approx(share, rel=0.03)
        wanted = plan.galah.snr[which] * mock_spectra.GALAH_SNR_RATIO[c] / mock_spectra.GALAH_SNR_RATIO[1]
        np.testing.assert_allclose(snr, wanted, rtol=0.1)


def test_truth_holds_the_scales_and_what_was_planted(many):
    _, plan = many
    rows = mock.truth_rows(plan)
    assert len(rows) == len(plan.apogee.star) + len(plan.galah.star)
    galah = rows[rows["survey"] == b"galah"]
    np.testing.assert_allclose(galah["galah_vmicro"], galah_vmicro(galah["galah_teff"], galah["galah_logg"]))
    common = rows[rows["common"] == 1]
    assert set(common["star"][common["survey"] == b"apogee"]) == set(common["star"][common["survey"] == b"galah"])


# --- appendix B: what a second generation does to [Fe/H] -----------------------------------------------

CN_BEGINS = 7866.0      # Angstrom, air: the head of CN (2,0) in the mock

def test_nitrogen_deepens_cn_and_nothing_else():
    wave, difference = mock_spectra.nitrogen_template(
        [(4715.94, 0.046, 3915), (5650.06, 0.055, 3968), (6480.52, 0.064, 3960), (7693.5, 0.074, 2461)])
    assert wave.size == difference.size == 14304
    infrared, cn = wave > 7693.0, wave > CN_BEGINS
    assert difference[cn].min() < -0.05 and np.abs(difference[infrared & ~cn]).max() < 0.003
    assert difference.max() < 0.01


@pytest.fixture(scope="module")
def tucanae():
    """A quadratic Cannon of giants like NGC 104's, by plain least squares, and labels of both generations by it.

    Field giants (drawn with dredge-up and hidden scatter) train it on GALAH's four cameras at S/N 200; the
    cluster's giants, one metallicity, are fitted with all pixels and without those in which nitrogen acts.
    (The last camera alone has too few lines: there CN looks like a lower log g in some seeds, like iron in others.)
    """
    settings = settings_of(seed=5, odd=0.0, junk=False, wiggles=False)
    survey = recipe.load_survey("galah_dr3")
    plan = resample.prepare(survey.spectra)
    maker = mock_stream.Stream("galah", plan, settings, ())

    def flux_of(truth):
        rows = np.zeros(len(truth), schema.spectra_table(plan.grid.wavelength.size, 1).dtype)
        maker.fill(truth, rows)
        return np.where(rows["ivar"] > 0, schema.native(rows["flux"]), np.nan)

    def take(blocks, wanted):
        drawn = np.concatenate([schema.native(mock.drawn_truth("galah", k, settings)) for k in blocks])
        drawn["snr"] = 200.0
        return drawn[(drawn["kind"] == b"giant") & (drawn["logg"] > 1.2) & (drawn["logg"] < 3.0)][:wanted]

    def tip(stars):
        return np.clip((2.0 - stars["logg"]) / 1.5, 0.0, 1.0) * np.clip(-stars["fe_h"] / 0.8, 0.0, 1.0)

    def set_labels(stars, fe_h, alpha):     # C and N follow, as mock_stars draws them
        before = tip(stars)
        stars["c_fe"] += 0.6 * (alpha - stars["alpha_fe"])
        stars["fe_h"], stars["alpha_fe"] = fe_h, alpha
        stars["c_fe"] -= 0.3 * (tip(stars) - before)
        stars["n_fe"] += 0.4 * (tip(stars) - before)

    names = ("teff", "logg", "fe_h", "vmicro")      # [alpha/Fe] acts in its windows only: here it is the cluster's
    field = take((0, 1), 500)
    # As metal-poor as the cluster: from -1.1 to -0.3, along the mock's own branch.
    set_labels(field, np.random.default_rng(8).uniform(-1.1, -0.3, len(field)), 0.25)
    spread = np.random.default_rng(9).normal(0.0, 60.0, len(field))
    field["teff"] = mock_stars.giant_teff(field["logg"], field["fe_h"]) + spread
    cluster = take((2,), 60)
    set_labels(cluster, -0.76, 0.25)
    cluster["teff"] = mock_stars.giant_teff(cluster["logg"], -0.76)
    second = cluster.copy()
    second["n_fe"] += 0.7
    second["c_fe"] -= 0.2
    labels = np.stack([field[n] for n in names], axis=1)
    pivot, scale = labels.mean(axis=0), labels.std(axis=0)
    powers = vectorizer.powers_of(len(names), 2)
    design = vectorizer.design_matrix((labels - pivot) / scale, powers)
    flux = flux_of(field)
    use = np.isfinite(flux).all(axis=0)
    theta = np.linalg.lstsq(design, flux[:, use], rcond=None)[0]
    nitrogen = np.abs(np.nanmean(flux_of(second), axis=0) - np.nanmean(flux_of(cluster), axis=0))[use] > 0.002

    def fitted(truth, pixels):
        observed, out = flux_of(truth)[:, use][:, pixels], []
        for one in observed:
            good = np.isfinite(one)
            start = np.zeros(len(names))
            found = least_squares(lambda x, good=good, one=one: (vectorizer.design_matrix(x[None], powers)[0]
                                                                 @ theta[:, pixels][:, good]) - one[good], start)
            out.append(pivot + scale * found.x)
        return np.array(out)

    return {"first": cluster[:30], "second": second[30:], "fitted": fitted, "nitrogen": nitrogen, "flux": flux_of,
            "pixels": plan.grid.wavelength[use], "use": use,
            "predict": lambda x: vectorizer.design_matrix((x - pivot) / scale, powers) @ theta}


def test_a_second_generation_is_too_metal_rich_where_cn_is_in_the_pixels(tucanae):
    every = np.ones(tucanae["pixels"].size, bool)
    without = ~tucanae["nitrogen"]
    offset = {}
    for name, pixels in (("all", every), ("without CN", without)):
        first, second = (tucanae["fitted"](tucanae[g], pixels)[:, 2] for g in ("first", "second"))
        error = np.hypot(first.std(), second.std()) / np.sqrt(30)
        offset[name] = second.mean() - first.mean(), error
        assert abs(np.median(first) + 0.76) < 0.05
    assert 0.04 < offset["all"][0] < 0.2       # the paper's NGC 104: about 0.07
    assert offset["all"][0] > 3 * offset["all"][1]
    assert offset["all"][0] > offset["without CN"][0] + 2 * np.hypot(offset["all"][1], offset["without CN"][1])


def test_the_residual_spectrum_shows_cn(tucanae):
    every = np.ones(tucanae["pixels"].size, bool)
    found = tucanae["fitted"](tucanae["second"], every)
    residual = np.nanmean(tucanae["flux"](tucanae["second"])[:, tucanae["use"]] - tucanae["predict"](found), axis=0)
    cn = tucanae["pixels"] > CN_BEGINS
    n = int(cn.sum())
    elsewhere = residual[~cn][: (~cn).sum() // n * n].reshape(-1, n).mean(axis=1)
    # Deeper than the model thinks where CN is (the fit has taken up part of it), by more than anywhere else.
    assert residual[cn].mean() < min(elsewhere.min(), -2.5 * elsewhere.std())
