"""Training as a stage: labels recovered, scatter recovered, censoring, cross-validation, checks of the labels."""
from dataclasses import replace

import numba
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cannonkit.bitmasks import PIXEL_STATUS, PIXEL_UNUSABLE
from cannonkit.config import Train
from cannonkit.errors import CannonkitError, DataError, SettingError
from cannonkit.kernels.spectrum import is_sane
from cannonkit.recipe import Window
from cannonkit.stages import censor, check_terms, folds, infer, noise, train, vectorizer

NAMES = ("teff", "logg", "fe_h")
PIVOT, SCALE = np.array([5000.0, 3.0, -0.2]), np.array([1000.0, 2.0, 0.8])


def training_set(rng, n_star=250, n_pix=128, s=0.01, snr=(80, 200), masked=0.02, x=None):
    """Mock spectra of a quadratic model of three labels, scatter s."""
    x = np.clip(0.4 * rng.normal(size=(n_star, 3)), -1, 1) if x is None else x
    powers = vectorizer.powers_of(x.shape[1], 2)
    theta = 0.05 * rng.normal(size=(n_pix, len(powers)))
    theta[:, 0] = 1.0
    sigma = np.repeat(1 / rng.uniform(*snr, size=(len(x), 1)), n_pix, axis=1)
    clean = vectorizer.design_matrix(x, powers) @ theta.T
    flux = clean + rng.normal(size=clean.shape) * np.hypot(sigma, s)
    ivar = np.where(rng.random(flux.shape) < masked, 0, 1 / sigma ** 2)
    ids = np.array([f"star{i:05d}" for i in range(len(x))], dtype="S")
    return train.TrainingSet(flux.astype("f4"), ivar.astype("f4"), PIVOT + SCALE * x, ids, ids, ids,
                             np.linspace(15000, 15100, n_pix), np.arange(n_pix) * 2 // n_pix, "vacuum", NAMES,
                             ("K", "dex", "dex"))


def test_recovers_the_labels_of_held_out_stars_with_unit_pulls(rng):
    data = training_set(rng, n_star=400)
    model, notes, warnings = train.train(data, Train(seed=5))
    assert warnings == []
    assert any("128 pixels fitted: 128 converged" in line for line in notes)
    rows = model.training
    assert (np.bincount(rows["fold"]) >= 33).all() and rows["fold"].max() == 11 and (rows["used"] == 1).all()
    held_out = np.stack([rows[f"cv_{n}"] for n in NAMES], axis=1)
    pull = (held_out - data.labels) / np.sqrt(np.diagonal(rows["cv_cov"], axis1=1, axis2=2))
    low, high = np.percentile(pull, [15.87, 84.13], axis=0)
    assert np.all(np.abs(0.5 * (high - low) - 1) < 0.12)            # 400 stars: 4 % each
    assert np.all(model.scatter < 0.05 * model.scale) and np.all(np.abs(model.bias) < 0.2 * model.scatter)
    np.testing.assert_allclose(model.rms, np.sqrt(np.mean((held_out - data.labels) ** 2, axis=0)))
    np.testing.assert_allclose(model.predict(data.labels), model.predict(data.labels[:, :]), rtol=0)
    residual = data.flux - model.predict(data.labels)
    assert abs(np.std(residual[data.ivar > 0]) / np.hypot(0.01, 1 / 125) - 1) < 0.1


def test_held_out_labels_are_those_of_a_model_without_the_fold(rng):
    data = training_set(rng, n_star=120, n_pix=64)
    model, _, _ = train.train(data, Train(cross_validate=4, seed=2))
    fold = model.training["fold"]
    for k in (0, 3):
        kept = fold != k
        part = replace(data, flux=data.flux[kept], ivar=data.ivar[kept], labels=data.labels[kept], id=data.id[kept],
                       star_id=data.star_id[kept], group=data.group[kept])
        alone, _, _ = train.train(part, Train(cross_validate=0))
        found = infer.fit(alone, data.flux[~kept], data.ivar[~kept])
        for i, name in enumerate(NAMES):
            difference = found[name] - model.training[f"cv_{name}"][~kept]
            assert np.abs(difference).max() < 1e-3 * model.scatter[i]


def test_same_bits_for_one_and_two_threads(rng):
    data, before, found = training_set(rng, n_star=100, n_pix=100), numba.get_num_threads(), []
    try:
        for n in (1, 2):
            numba.set_num_threads(n)
            model, _, _ = train.train(data, Train(cross_validate=3))
            found.append([model.theta.tobytes(), model.s2.tobytes(), model.training.tobytes(), model.rms.tobytes()])
    finally:
        numba.set_num_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize("n_star, n_pix", [(4418, 1024), (400, 8000)])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 1.0, 3.0])
def test_recovered_scatter(rng, n_star, n_pix, ratio):
    """Median over pixels of s2, of the truth: reml 1, ml what it must forget of it (28 terms), within 3 %.

    With equal errors the total variance is a chi2 of n - 28 degrees of freedom, whose median lies 2/3 of a degree
    below its mean: 2 % of s2 for 400 stars and s = 0.3 sigma.
    """
    x = np.clip(0.3 * rng.normal(size=(n_star, 6)), -1, 1)
    powers = vectorizer.powers_of(6, 2)
    design = vectorizer.design_matrix(x, powers)
    products, pair_index = train.products_of(x, powers)
    sigma = np.float32(0.01)
    flux = 1 + np.float32(np.hypot(1, ratio)) * sigma * rng.standard_normal((n_star, n_pix), dtype="f4")
    ivar = np.full(flux.shape, 1 / sigma ** 2, "f4")
    below = 2 / 3 / n_star * (1 + 1 / ratio ** 2)
    for rule in ("ml", "reml"):
        problem = train.Problem(train.RULES[rule], flux, ivar, np.ones(n_pix), design, products, pair_index,
                                np.ones((n_pix, 28), np.uint8))
        expected = 1 - 28 / n_star * (1 + 1 / ratio ** 2) if rule == "ml" else 1.0
        assert abs(np.median(problem.fit()[1]) / (ratio * 0.01) ** 2 - (expected - below)) < 0.03


def test_censoring_polarity(rng):
    """Outside its windows the spectrum does not change with a label; inside it does. Windows are in air here."""
    data = training_set(rng, n_star=150)
    windows = (Window("Si", 15030.0, 15036.0, "air", 1.0), Window("Si", 15000.0, 15010.0, "air", 0.0),
               Window("Mg", 15060.0, 15063.0, "vacuum", 1.0))
    mask = censor.censor_of(data.wavelength, "vacuum", windows, {"fe_h": ("Si", "Mg"), "other": ("X",)}, NAMES)
    shift = 4.1                                                     # vacuum minus air at 15030 Angstrom
    inside = ((data.wavelength > 15030 + shift) & (data.wavelength < 15036 + shift)
              | (data.wavelength >= 15060) & (data.wavelength <= 15063))
    assert mask[:, 2].astype(bool).tolist() == inside.tolist() and mask[:, :2].all()
    data.censor = mask
    model, _, _ = train.train(data, Train(cross_validate=0))
    with_label = model.powers[:, 2] > 0
    assert (model.theta[~inside][:, with_label] == 0).all() and (model.theta[inside][:, with_label] != 0).all()
    change = model.predict(PIVOT + [0, 0, 0.3]) - model.predict(PIVOT)
    assert (change[0, ~inside] == 0).all() and (change[0, inside] != 0).all()
    with pytest.raises(DataError, match="no element 'Fe'.*Mg, Si"):
        censor.censor_of(data.wavelength, "vacuum", windows, {"fe_h": ("Fe",)}, NAMES)
    with pytest.raises(DataError, match="censoring of fe_h: no pixel"):
        censor.censor_of(data.wavelength - 5000, "vacuum", windows, {"fe_h": ("Si",)}, NAMES)


def test_dependent_terms_are_named_and_predict_well(rng):
    data = training_set(rng, n_star=150)
    x = (data.labels - PIVOT) / SCALE
    x[:, 2] = 0.5 * x[:, 0] ** 2 + 0.1 * x[:, 0]
    data = training_set(rng, x=x)
    model, _, warnings = train.train(data, Train(cross_validate=3))
    text = "\n".join(warnings)
    assert "dependent terms:" in text and "labels teff, fe_h cannot be told apart" in text
    assert "128 of 128 pixels have dependent terms" in text
    residual = data.flux - model.predict(data.labels)
    assert np.std(residual[data.ivar > 0]) < 0.015


def test_terms_that_depend_only_without_a_fold_are_named(rng):
    x = np.clip(0.4 * rng.normal(size=(200, 3)), -1, 1)
    x[:, 1] = 0.3 * x[:, 0]
    x[:20, 1] += 0.1 * rng.normal(size=20)
    data = training_set(rng, x=x)
    data.group = np.where(np.arange(200) < 20, b"cluster", data.id)
    _, _, warnings = train.train(data, Train(cross_validate=4, group="cluster"))
    found = [w for w in warnings if w.startswith("dependent terms without fold")]
    assert len(found) == 1 and "teff" in found[0] and "logg" in found[0]
    assert any("labels teff and logg are correlated" in w for w in warnings)


@pytest.mark.parametrize("change, message", [
    (lambda x: x[:, 1].fill(0.2), "label 'logg' is constant over the training set"),
    (lambda x: x[4:, 1].fill(0.2), "label 'logg' is .* for at least 95 %"),
])
def test_labels_that_cannot_be_scaled(rng, change, message):
    x = np.clip(0.4 * rng.normal(size=(200, 3)), -1, 1)
    change(x)
    with pytest.raises(DataError, match=message):
        train.train(training_set(rng, x=x), Train())


def test_too_few_stars_and_unusable_pixels(rng):
    with pytest.raises(DataError, match="9 stars are too few for 10 terms"):
        train.train(training_set(rng, n_star=9), Train())
    data = training_set(rng, n_star=12)
    with pytest.raises(DataError, match="without fold 0 there are 9 stars for 10 terms"):
        train.train(data, Train(cross_validate=4))
    data.ivar[:] = 0
    with pytest.raises(DataError, match="no usable pixel"):
        train.train(data, Train(cross_validate=0))
    data = training_set(rng, n_star=60)
    data.ivar[:, 7] = 0
    data.ivar[5:, 8] = 0
    model, notes, _ = train.train(data, Train(cross_validate=3))
    assert model.pixel_status[7] == PIXEL_STATUS.ALL_MASKED and model.pixel_status[8] == PIXEL_STATUS.TOO_FEW_STARS
    assert np.isinf(model.s2[[7, 8]]).all() and not model.usable[[7, 8]].any() and model.usable.sum() == 126
    assert any("1 fewer good stars than terms; 1 no star has data" in line for line in notes)
    assert np.isfinite(model.training["cv_teff"]).all()


def test_stars_without_a_label_are_kept_and_not_used(rng):
    data = training_set(rng, n_star=100)
    data.labels[3, 1] = np.nan
    data.labels[7, 0] = np.inf
    model, _, warnings = train.train(data, Train(cross_validate=4))
    assert "2 of 100 stars have a missing label and are not used (teff 1, logg 1)" in warnings[0]
    rows = model.training
    assert len(rows) == 100 and rows["used"].sum() == 98 and rows["used"][3] == rows["used"][7] == 0
    assert rows["fold"][3] == -1 and np.isnan(rows["cv_logg"][3]) and len(model.training_labels) == 98
    part = replace(data, **{n: np.delete(getattr(data, n), [3, 7], axis=0)
                            for n in ("flux", "ivar", "labels", "id", "star_id", "group")})
    np.testing.assert_array_equal(train.train(part, Train(cross_validate=4))[0].theta, model.theta)


def test_folds_keep_groups_together_whatever_the_order_of_rows(rng):
    group = np.array([f"g{i}" for i in rng.integers(40, size=300)])
    fold = folds.folds_of(group, 12, seed=3)
    assert set(fold) == set(range(12)) and np.ptp(np.bincount(fold)) <= np.unique(group, return_counts=True)[1].max()
    assert all(len(set(fold[group == g])) == 1 for g in set(group))
    order = rng.permutation(300)
    assert (folds.folds_of(group[order], 12, seed=3) == fold[order]).all()
    assert (folds.folds_of(group, 12, seed=4) != fold).any()
    assert sorted(np.bincount(folds.folds_of(np.arange(100), 12))) == [8] * 8 + [9] * 4
    assert len(set(folds.leave_one_out(group))) == len(set(group))
    with pytest.raises(DataError, match="12 folds needs as many groups of stars; there are 3"):
        folds.folds_of(np.arange(3), 12)


def test_leave_one_group_out_and_many_folds(rng):
    data = training_set(rng, n_star=60, n_pix=64)
    model, _, _ = train.train(data, Train(leave_one_group_out=True))       # 60 folds, in batches of 24
    assert model.training["fold"].max() == 59
    few, _, _ = train.train(data, Train(cross_validate=6))
    assert np.all(np.abs(model.training["cv_teff"] - data.labels[:, 0]) < 10 * few.scatter[0])
    part = replace(data, **{n: np.delete(getattr(data, n), 45, axis=0)
                            for n in ("flux", "ivar", "labels", "id", "star_id", "group")})
    alone, _, _ = train.train(part, Train(cross_validate=0))
    held = infer.fit(alone, data.flux[45:46], data.ivar[45:46])
    assert abs(held["teff"][0] - model.training["cv_teff"][45]) < 1e-3 * few.scatter[0]


def test_error_scale_is_measured_and_used(rng):
    data = training_set(rng, n_star=300, n_pix=256, s=0.0)
    half = data.segment == 1
    data.ivar[:, half] /= 4                                        # errors twice too large
    model, notes, _ = train.train(data, Train(ivar_scale="measure", cross_validate=0))
    assert abs(model.ivar_scale[0] - 1) < 0.05 and abs(model.ivar_scale[-1] - 4) < 0.2
    assert any("ivar scale measured: segment 0" in line for line in notes)
    fixed, _, _ = train.train(data, Train(ivar_scale="1,4", cross_validate=0))
    assert set(fixed.ivar_scale[half]) == {4.0}
    plain, _, _ = train.train(data, Train(cross_validate=0))
    assert (plain.s2[half] == 0).all() and (fixed.s2[half] > 0).mean() > 0.2
    # Linear interpolation halfway between pixels, its errors propagated: neighbours are correlated, the scale holds.
    noise_only = rng.normal(size=(50, 400))
    mixed = 0.5 * (noise_only[:, 1:] + noise_only[:, :-1])
    found = noise.measure_ivar_scale(mixed, np.full(mixed.shape, 2.0), np.zeros(399, int))
    assert abs(found[0] - 1) < 0.05
    with pytest.raises(SettingError, match="one for each of the 2 segments"):
        train.train(data, Train(ivar_scale="1,2,3"))
    with pytest.raises(SettingError, match="expected 'measure'"):
        noise.given_ivar_scale("measured", [0])


def test_penalty_bounds_and_grid(rng):
    data = training_set(rng, n_star=80, n_pix=64)
    model, _, _ = train.train(data, Train(l1=2000.0, cross_validate=0))
    assert (model.theta[:, 1:] == 0).mean() > 0.1 and model.options["l1"] == 2000.0
    bounded, _, _ = train.train(data, Train(bounds={"teff": (0.0, np.inf), "teff*logg": (-0.01, 0.01)},
                                            cross_validate=0))
    assert (bounded.theta[:, 1] >= 0).all() and (bounded.theta[:, 1] == 0).any()
    assert np.abs(bounded.theta[:, 5]).max() == 0.01
    # The mock's coefficients are all of one size, so the best penalty is a small one.
    grid, notes, _ = train.train(data, Train(l1_grid=(1e5, 1.0, 1e3), cross_validate=4))
    assert [v for v, _ in grid.options["l1_curve"]] == [1.0, 1e3, 1e5] and grid.options["l1"] == 1.0
    assert any("L1 penalty chosen: 1" in line for line in notes)
    with pytest.raises(SettingError, match="l1_grid needs cross-validation"):
        train.train(data, Train(l1_grid=(1.0,), cross_validate=0))
    for bounds, message in (({"teff*teff*teff": (0.0, 1.0)}, "no term"), ({"teff": (1.0, 0.0)}, "lowest, highest"),
                            ({"mass": (0.0, 1.0)}, "no label of the model")):
        with pytest.raises(CannonkitError, match=message):
            train.train(data, Train(bounds=bounds))


def test_median_rule_gives_less_scatter_and_fixed_keeps_it(rng):
    data = training_set(rng, n_star=300, s=0.02)
    median, _, _ = train.train(data, Train(scatter="median", cross_validate=0))
    ml, _, _ = train.train(data, Train(cross_validate=0))
    # The median of chi2 with one degree of freedom is 0.455: the total variance comes out at 0.455 of the truth.
    total = 0.455 * (0.02 ** 2 + np.mean(1 / data.ivar[data.ivar > 0]))
    assert abs(np.median(median.s2) + np.mean(1 / data.ivar[data.ivar > 0]) - total) < 0.25 * total
    assert np.median(ml.s2) > 2 * np.median(median.s2)
    data.s2_given = ml.s2
    fixed, _, _ = train.train(data, Train(cross_validate=0))
    assert (fixed.s2 == ml.s2).all() and np.abs(fixed.theta - ml.theta).max() < 1e-6
    assert fixed.options["scatter"] == "fixed"


def test_terms_as_powers_and_text():
    powers = vectorizer.powers_of(3, 2)
    assert powers[:5].tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0]]
    assert [vectorizer.term_name(row, NAMES) for row in powers[4:7]] == ["teff^2", "teff*logg", "teff*fe_h"]
    assert len(vectorizer.powers_of(6, 2)) == 28 and len(vectorizer.powers_of(3, 3)) == 20
    chosen = vectorizer.powers_from_terms(["teff", "fe_h*teff", "logg^3"], NAMES)
    assert chosen.tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 3, 0]]
    for terms, message in ((["mass"], "'mass' is no label"), (["teff^x"], "not a whole number"),
                           (["teff*logg", "logg*teff"], "twice")):
        with pytest.raises(DataError, match=message):
            vectorizer.powers_from_terms(terms, NAMES)


def test_products_are_all_pairs(rng):
    x, powers = rng.normal(size=(20, 6)), vectorizer.powers_of(6, 2)
    products, index = train.products_of(x, powers)
    design = vectorizer.design_matrix(x, powers)
    assert products.shape == (20, 210)
    np.testing.assert_allclose(products[:, index], design[:, :, None] * design[:, None, :], rtol=1e-12, atol=1e-14)


def test_gradient_against_differences(rng):
    x, powers, h = rng.normal(size=(5, 3)), vectorizer.powers_of(3, 3), 1e-5
    for i in range(3):
        step = h * np.eye(3)[i]
        slope = (vectorizer.design_matrix(x + step, powers) - vectorizer.design_matrix(x - step, powers)) / (2 * h)
        np.testing.assert_allclose(vectorizer.gradient(x, powers)[:, :, i], slope, atol=1e-8)


def test_correlations_of_labels_of_any_size(rng):
    x = rng.normal(size=(100, 3))
    x[:, 2] = x[:, 0] + 0.1 * x[:, 1]
    for size in (1e-192, 1.0, 1e150):
        (pair,) = check_terms.correlated_pairs(size * x, NAMES)
        assert pair[:2] == ("teff", "fe_h") and abs(pair[2] - np.corrcoef(x[:, 0], x[:, 2])[0, 1]) < 1e-12


def test_dependent_terms_list(rng):
    x = rng.normal(size=(100, 2))
    powers = vectorizer.powers_of(2, 2)
    assert check_terms.dependent_terms(vectorizer.design_matrix(x, powers), powers, NAMES[:2]) == []
    x[:, 1] = 2 * x[:, 0]
    found = check_terms.dependent_terms(vectorizer.design_matrix(x, powers), powers, NAMES[:2])
    assert len(found) == 3 and all(partners for _, partners in found)


VALUES = st.one_of(st.floats(-2, 2), st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-30]))
IVARS = st.one_of(st.floats(0, 1e6), st.sampled_from([0.0, np.nan, np.inf, -1.0, 1e-40, 1e-30, 1e13]))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), scatter=st.sampled_from(["ml", "reml", "median", "none"]), order=st.integers(1, 3),
       n_star=st.integers(1, 24), l1=st.sampled_from([0.0, 10.0]),
       bounds=st.sampled_from([{}, {"a": (0.0, np.inf)}, {"a": (-0.1, 0.1), "b": (0.2, 0.3)}]))
def test_degenerate_input_never_gives_nan_or_a_traceback(data, scatter, order, n_star, l1, bounds):
    flux = data.draw(arrays(np.float64, (n_star, 4), elements=VALUES)).astype("f4")
    ivar = data.draw(arrays(np.float64, (n_star, 4), elements=IVARS)).astype("f4")
    labels = data.draw(arrays(np.float64, (n_star, 2), elements=st.floats(-1e4, 1e4)))
    kind = data.draw(st.sampled_from(["as drawn", "spread", "spread", "spread, some missing", "nearly equal"]))
    if kind != "as drawn":
        labels = np.random.default_rng(n_star).normal(size=(n_star, 2)) + (1e9 if kind == "nearly equal" else 0)
    if kind == "spread, some missing":
        labels[::5, 1] = np.nan
    acts = data.draw(st.none() | arrays(np.uint8, (4, 2), elements=st.integers(0, 1)))
    ids = np.arange(n_star).astype("S")
    offered = train.TrainingSet(flux, ivar, labels, ids, ids, ids, np.arange(4.0) + 5000, np.zeros(4, int), "air",
                                ("a", "b"), ("", ""), censor=acts)
    try:
        model, _, _ = train.train(offered, Train(scatter=scatter, order=order, cross_validate=2, l1=l1, bounds=bounds))
    except DataError as error:
        event(str(error)[:20])
        assert "\n" not in str(error)
        return
    event("trained")
    assert np.isfinite(model.theta).all() and not np.isnan(model.s2).any() and (model.s2 >= 0).all()
    used = model.training["used"] != 0
    good = np.array([[is_sane(f, i) for f, i in zip(*rows, strict=True)]
                     for rows in zip(flux[used], ivar[used], strict=True)]).reshape(-1, 4)
    assert (model.n_good == good.sum(axis=0)).all()
    acting = np.ones((4, len(model.powers)), bool)
    if acts is not None:
        acting = np.array([[all(a or not k for a, k in zip(pixel, power, strict=True)) for power in model.powers]
                           for pixel in acts])
        assert (model.theta[~acting] == 0).all()
    for term, (low, high) in bounds.items():
        k = [list(power) for power in model.powers].index([int(term == "a"), int(term == "b")])
        held = acting[:, k] & np.isfinite(model.s2)
        assert (low <= model.theta[held, k]).all() and (model.theta[held, k] <= high).all()
    enough = good.sum(axis=0) >= acting.sum(axis=1) + (scatter == "reml")
    assert (np.isfinite(model.s2) == enough).all()
    assert ((model.pixel_status & PIXEL_UNUSABLE == 0) == enough).all()
