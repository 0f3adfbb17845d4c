"""Misfit components: training and inference against the marginal Gaussian with dense covariance, and on truth."""
from dataclasses import replace

import numba
import numpy as np
import pytest
from kernels import referee_components as referee
from scipy import linalg
from synthetic import draw, errors_of, labels_of, make_model

from cannonkit import config
from cannonkit import model as models
from cannonkit.errors import SettingError
from cannonkit.stages import components, infer, train
from cannonkit.stages.vectorizer import design_matrix, gradient, powers_of


def with_components(model, rng, k, amplitude=0.01):
    """The model with k smooth components."""
    p = np.arange(model.n_pix)
    waves = [np.sin(2 * np.pi * rng.uniform(1, 20) * p / model.n_pix + rng.uniform(0, 6)) for _ in range(k)]
    u = amplitude * np.stack(waves, axis=1) * 0.8 ** np.arange(k)
    return replace(model, components=u, strength=np.arange(k, 0, -1.0))


def draw_with(rng, model, n, **how):
    """(labels, flux, ivar, z) of spectra drawn from a model with components."""
    labels, flux, ivar = draw(rng, model, n, **how)
    z = rng.standard_normal((n, model.n_component))
    return labels, (flux + z @ model.components.T).astype(np.float32), ivar, z


@pytest.mark.parametrize("solver", ["sums", "pixels"])
def test_inference_against_the_dense_covariance(rng, solver):
    """Labels, covariance, chi2 and z. The referee is exact; `sums` ends with one step from float32 sums."""
    model = with_components(make_model(rng, n_pix=300, n_label=3), rng, 5)
    labels, flux, ivar, _ = draw_with(rng, model, 12)
    ivar[3, 40:200] = 0.0
    found = infer.fit(model, flux, ivar, solver=solver)
    for m in range(len(flux)):
        x, cov, chi2, z = referee.infer(model, flux[m], ivar[m], model.scaled(labels[m])[0])
        unit_cov = cov * np.outer(model.scale, model.scale)
        error = np.sqrt(np.diag(unit_cov))
        away = (labels_of(found, model)[m] - x * model.scale - model.pivot) / error
        assert np.abs(away).max() < (1e-6 if solver == "pixels" else 1e-4)
        np.testing.assert_allclose(found["cov"][m] / np.outer(error, error), unit_cov / np.outer(error, error),
                                   atol=1e-6 if solver == "pixels" else 1e-5)
        assert found["chi2"][m] == pytest.approx(chi2, rel=1e-6)
        np.testing.assert_allclose(found["z"][m], z, atol=1e-6 if solver == "pixels" else 1e-5)


def problem_of(rng, n_star=300, n_pix=200, k=3, amplitude=0.01, label_error=0.0, s=0.003, snr=(50, 200), n_label=3):
    """(scaled labels as known, Problem, truth): quadratic spectra with k components, masked pixels, S/N of a survey."""
    x = np.clip(0.4 * rng.normal(size=(n_star, n_label)), -1, 1)
    powers = powers_of(n_label, 2)
    theta = 0.03 * rng.normal(size=(n_pix, len(powers))) * 0.2 ** np.maximum(powers.sum(axis=1) - 1, 0)
    theta[:, 0] = 1.0
    # Half of a component looks like labels, as real misfit does.
    u = rng.normal(size=(n_pix, k)) + theta[:, 1:n_label + 1] / 0.03 @ rng.normal(size=(n_label, k))
    u *= amplitude * 0.8 ** np.arange(k)
    sigma = 1 / rng.uniform(*snr, size=(n_star, 1))
    clean = design_matrix(x, powers) @ theta.T + rng.standard_normal((n_star, k)) @ u.T
    flux = (clean + np.hypot(sigma, s) * rng.standard_normal(clean.shape)).astype(np.float32)
    ivar = np.where(rng.random(flux.shape) < 0.03, 0, np.broadcast_to(sigma ** -2, flux.shape)).astype(np.float32)
    known = x + label_error * rng.standard_normal(x.shape)
    products, pair_index = train.products_of(known, powers)
    problem = train.Problem(train.RULES["ml"], flux, ivar, np.ones(n_pix), design_matrix(known, powers), products,
                            pair_index, np.ones((n_pix, len(powers)), np.uint8))
    return known, problem, {"theta": theta, "components": u, "powers": powers, "x": x, "sigma": sigma, "s": s}


def labels_with(x, powers, error):
    return components.Labels(x, np.full(x.shape, error), powers) if error else None


@pytest.mark.parametrize("error", [0.0, 0.05])
def test_likelihood_and_posterior_against_the_dense_covariance(rng, error):
    """Masked pixels, a pixel that is not used, and the label errors' J S J' as part of the covariance."""
    x, problem, truth = problem_of(rng, n_star=80, n_pix=120, label_error=error)
    problem.ivar[5, 10:90] = 0.0
    theta, s2, _, _ = problem.fit()
    theta[7], s2[7] = 0.0, np.inf
    labels = labels_with(x, truth["powers"], error)
    rows = np.arange(0, 80, 2)
    stars = components._Set(problem, rows, s2, truth["powers"])
    if labels is not None:
        stars.fix(x[rows])
        stars.loosen(labels)
    mean, cov, value = stars.expect(theta, np.where(np.isfinite(s2), s2, 0.0), truth["components"])
    packed = np.triu_indices(mean.shape[1])
    for a, n in enumerate(rows):
        loading, prior = truth["components"], np.eye(3)
        if labels is not None:
            j = theta @ gradient(x[n:n + 1], truth["powers"])[0]
            loading = np.concatenate([loading, j], axis=1)
            prior = linalg.block_diag(prior, error ** 2 * np.eye(3))
        given = problem.flux[n], problem.ivar[n], theta @ problem.design[n], s2, loading, prior
        assert value[a] == pytest.approx(referee.minus_2_log_likelihood(*given), rel=1e-6)
        z, z_cov = referee.posterior(*given)
        np.testing.assert_allclose(mean[a, :3], z[:3], atol=1e-5)
        own = np.zeros((mean.shape[1],) * 2)
        own[packed] = cov[a]
        np.testing.assert_allclose(own[:3, :3], np.triu(z_cov[:3, :3]), atol=1e-6)
        if labels is not None:      # what the label errors do to the flux: J d
            np.testing.assert_allclose(theta[:, 1:] @ mean[a, 3:], j @ z[3:], atol=1e-6)


def test_ends_at_a_maximum_of_the_dense_likelihood(rng, monkeypatch):
    """Along random directions of U, theta and s2 the dense likelihood has no slope worth a thousandth, and falls."""
    monkeypatch.setattr(components, "TOLERANCE", 1e-8)
    monkeypatch.setattr(components, "MAX_ITERATION", 2000)
    x, problem, _ = problem_of(rng, n_star=120, n_pix=40, k=2, amplitude=0.02)
    theta, s2, _, _ = problem.fit()
    found = components.fit(problem, np.arange(len(x)), theta, s2, 2)
    assert found.converged and found.components.shape[1] == 2 and np.all(np.diff(found.curve) < 1e-6 * len(x))

    def total(theta, s2, u):
        return sum(referee.minus_2_log_likelihood(problem.flux[n], problem.ivar[n], theta @ problem.design[n], s2, u)
                   for n in range(len(x)))

    at = total(found.theta, found.s2, found.components)
    assert at == pytest.approx(found.curve[-1], rel=1e-6)
    positive = found.s2 > 0
    for what in range(3):
        for _ in range(4):
            step = [np.zeros_like(found.theta), np.zeros_like(found.s2), np.zeros_like(found.components)]
            step[what][:] = rng.standard_normal(step[what].shape) * (3e-4, 3e-6 * positive, 3e-4)[what]
            up = total(found.theta + step[0], found.s2 + step[1], found.components + step[2])
            down = total(found.theta - step[0], found.s2 - step[1], found.components - step[2])
            curvature = up + down - 2 * at
            assert curvature > 0
            assert (0.25 * (up - down) ** 2 / (2 * curvature)) < 0.05      # left to gain along the direction


def test_a_star_judged_without_itself(rng):
    """Posterior and likelihood from one fit of all stars are those of a fit without the star, for weights w_n w_p."""
    x, problem, truth = problem_of(rng, n_star=60, n_pix=50, k=0, label_error=0.05, n_label=2)
    n_term = len(truth["powers"])
    of_pixel = rng.uniform(0.5, 2, 50)
    problem.ivar[:] = rng.uniform(1e3, 1e4, (60, 1)) * of_pixel
    s2, labels = np.zeros(50), labels_with(x, truth["powers"], 0.05)

    def fitted(rows):
        root = np.sqrt(problem.ivar[rows, :1])
        return np.linalg.lstsq(problem.design[rows] * root, problem.flux[rows] * root, rcond=None)[0].T

    stars = components._Set(problem, np.arange(60), s2, truth["powers"])
    stars.fix(x)
    stars.loosen(labels)
    nothing = np.empty((50, 0))
    at = np.zeros((60, n_term - 1))
    mean, cov, _ = stars.expect(fitted(np.arange(60)), s2, nothing, components._without(stars, s2, at))
    plain = stars.expect(fitted(np.arange(60)), s2, nothing)
    matters = []
    for n in range(0, 60, 7):
        alone = components._Set(problem, [n], s2, truth["powers"])
        alone.fix(x[n:n + 1])
        alone.loosen(labels)
        expected = alone.expect(fitted(np.delete(np.arange(60), n)), s2, nothing)
        for found, other, what in ((mean, plain[0], expected[0][0]), (cov, plain[1], expected[1][0])):
            scale = np.abs(what).max()
            np.testing.assert_allclose(found[n], what, atol=1e-3 * scale)         # float32 sums
            matters.append(np.abs(other[n] - what).max() / scale)
    assert max(matters) > 0.1


def test_recovers_the_subspace_and_true_errors(rng):
    """Known components: principal angles as small as noise allows, pulls of new stars 1.00 +- 0.05."""
    x, problem, truth = problem_of(rng, n_star=1500, n_pix=400, k=5)
    theta, s2, _, _ = problem.fit()
    found = components.fit(problem, np.arange(len(x)), theta, s2, 20, restricted=True)
    assert found.converged and 5 <= found.components.shape[1] <= 6
    # A component of squared S/N d per unit is known to sqrt(n_pix / n_star / d) radians.
    weakest = np.min(found.strength[:5])
    angles = linalg.subspace_angles(truth["components"], found.components)
    assert angles.max() < 1.5 * np.sqrt(400 / 1500 / weakest) < 0.2
    # 400 pixels, each known to about 20 %; plain likelihood is low by 15 / 1500 (1 + sigma^2 / s2), 10 %.
    assert np.median(found.s2) == pytest.approx(truth["s"] ** 2, rel=0.04)
    classic = make_classic(truth, theta, s2, x)
    model = replace(classic, theta=found.theta, s2=found.s2, components=found.components, strength=found.strength)
    new = 3000
    labels = np.clip(0.4 * rng.normal(size=(new, 3)), -1, 1)
    sigma = 1 / rng.uniform(50, 200, size=(new, 1))
    flux = design_matrix(labels, truth["powers"]) @ truth["theta"].T
    flux += rng.standard_normal((new, 5)) @ truth["components"].T
    flux = (flux + np.hypot(sigma, truth["s"]) * rng.standard_normal(flux.shape)).astype(np.float32)
    ivar = np.broadcast_to(sigma ** -2, flux.shape).astype(np.float32)
    result = {}
    for name, one in (("classic", classic), ("components", model)):
        rows = infer.fit(one, flux, ivar)
        away = labels_of(rows, one) - labels
        result[name] = np.std(away, axis=0), np.std(away / errors_of(rows, one), axis=0), rows
    assert np.all(np.abs(result["components"][1] - 1) < 0.05)
    assert np.all(result["classic"][1] > 1.3)
    assert np.all(result["components"][0] < result["classic"][0])
    print(result["classic"][:2], result["components"][:2], np.degrees(angles))
    per_pixel = np.median(result["components"][2]["r_chi2"])
    assert per_pixel == pytest.approx(1.0, abs=0.03)


def make_classic(truth, theta, s2, x):
    """A model.Model whose label units are the scaled labels: pivot 0, width 1."""
    n_label = x.shape[1]
    model = make_model(np.random.default_rng(1), n_pix=len(theta), n_label=n_label, unusable=0)
    training = model.training[:1].repeat(len(x))
    for i, name in enumerate(model.label_names):
        training[name] = x[:, i]
    return replace(model, theta=theta, s2=s2, powers=truth["powers"], low=np.full(n_label, -0.5),
                   pivot=np.zeros(n_label), high=np.full(n_label, 0.5), training=training)


def two_kinds(rng, n):
    """Scaled labels of dwarfs and giants: no Gaussian."""
    a = rng.normal(size=(n, 3))
    giant = rng.random((n, 1)) < 0.5
    x = np.where(giant, [0.45, 0.4, 0.0] + a * [0.08, 0.15, 0.3], [-0.35, -0.4, 0.1] + a * [0.2, 0.06, 0.25])
    return np.clip(x, -1.2, 1.2)


def test_labels_with_errors_end_on_the_true_scale(rng):
    """Errors up to the labels' own spread, components like labels: new stars come out as from exact labels.

    What must be left is the scale's own uncertainty, error sqrt(numbers fitted / n_star), in quadrature.
    """
    n, n_pix, k, error = 1200, 200, 3, np.array([0.1, 0.1, 0.3])
    powers = powers_of(3, 2)
    theta = 0.03 * rng.normal(size=(n_pix, len(powers))) * 0.3 ** np.maximum(powers.sum(axis=1) - 1, 0)
    theta[:, 0] = 1.0
    u = 0.01 * (rng.normal(size=(n_pix, k)) + 0.5 * theta[:, 1:4] / 0.03 @ rng.normal(size=(3, k)))

    def spectra(n):
        x, sigma = two_kinds(rng, n), 1 / rng.uniform(20, 80, size=(n, 1))
        flux = design_matrix(x, powers) @ theta.T + rng.normal(size=(n, k)) @ u.T
        flux += np.hypot(sigma, 0.003) * rng.normal(size=flux.shape)
        return x, flux.astype(np.float32), np.broadcast_to(sigma ** -2, flux.shape).astype(np.float32)

    x, flux, ivar = spectra(n)
    new = spectra(3000)
    given = x + error * rng.normal(size=x.shape)
    width, pull, slope = {}, {}, {}
    for name, known, labels in (("exact", x, None), ("with errors", given, components.Labels(given, np.broadcast_to(
            error, x.shape).copy(), powers))):
        products, pair_index = train.products_of(known, powers)
        problem = train.Problem(train.RULES["reml"], flux, ivar, np.ones(n_pix), design_matrix(known, powers), products,
                                pair_index, np.ones((n_pix, len(powers)), np.uint8))
        theta_0, s2, _, _ = problem.fit()
        found = components.fit(problem, np.arange(n), theta_0, s2, 6, labels, restricted=True)
        classic = make_classic({"powers": powers}, theta_0, s2, x)
        for kind, model in ((name, replace(classic, theta=found.theta, s2=found.s2, components=found.components,
                                           strength=found.strength)), (f"classic {name}", classic)):
            rows = infer.fit(model, *new[1:])
            away = labels_of(rows, model) - new[0]
            width[kind], pull[kind] = np.std(away, axis=0), np.std(away / errors_of(rows, model), axis=0)
            one = np.concatenate([np.ones((3000, 1)), new[0]], axis=1)
            slope[kind] = np.diag(np.linalg.lstsq(one, away, rcond=None)[0][1:])
        if labels is not None:
            assert np.all(np.std(found.x - x, axis=0) < 0.8 * error)
    scale = error * np.sqrt((len(powers) + k) / n)
    assert np.all(width["with errors"] < 1.15 * np.hypot(width["exact"], scale))
    # Theta's own noise flattens all labels a little, exact or not.
    assert np.all(np.abs(slope["with errors"] - slope["exact"]) < 0.06)
    assert slope["classic with errors"][2] > 0.3                # what is to be undone
    assert np.all(np.abs(pull["exact"] - 1) < 0.1) and np.all(pull["with errors"] < 1.2)


def test_data_without_misfit_give_no_components(rng):
    """The classic model comes out, number for number."""
    x, problem, _ = problem_of(rng, n_star=600, n_pix=300, k=0)
    theta, s2, _, _ = problem.fit()
    found = components.fit(problem, np.arange(len(x)), theta, s2, 20)
    assert found.components.shape == (300, 0) and found.converged
    np.testing.assert_array_equal(found.theta, theta)
    np.testing.assert_array_equal(found.s2, s2)


def test_label_errors_do_not_become_components(rng):
    """No misfit but label errors of twice the spectra's own: carried, they leave the labels as sharp as before.

    Taken for exact labels, the gradients are learned and the errors grow.
    """
    x, problem, truth = problem_of(rng, n_star=800, n_pix=300, k=0, label_error=0.06)
    theta, s2, _, _ = problem.fit()
    rows = np.arange(len(x))
    labels = labels_with(x, truth["powers"], 0.06)
    fits = {"carried": components.fit(problem, rows, theta, s2, 10, labels),
            "none": components.fit(problem, rows, theta, s2, 10)}
    classic = make_classic(truth, theta, s2, x)
    error = {}
    for name, found in fits.items():
        model = replace(classic, theta=found.theta, s2=found.s2, components=found.components, strength=found.strength)
        result = infer.fit(model, problem.flux, problem.ivar)
        error[name] = np.median(errors_of(result, model), axis=0)
    known = np.median(errors_of(infer.fit(classic, problem.flux, problem.ivar), classic), axis=0)
    assert fits["carried"].components.shape[1] <= 1
    assert np.all(error["carried"] < 1.02 * known)
    assert np.all(error["none"] > 2 * known)


def survey_set(rng, n_star=240, label_error=0.0, k=2, amplitude=0.01, **more):
    """A stages.train.TrainingSet with k components, for the whole of train.train."""
    x, problem, truth = problem_of(rng, n_star=n_star, n_pix=96, k=k, amplitude=amplitude, label_error=label_error)
    ids = np.array([f"star{i:05d}" for i in range(n_star)], dtype="S")
    names = ("teff", "logg", "fe_h")
    return train.TrainingSet(problem.flux, problem.ivar, x, ids, ids, ids, np.linspace(15000, 15100, 96),
                             np.zeros(96, int), "vacuum", names, ("K", "dex", "dex"), **more), truth


def test_training_and_cross_validation_with_components(rng, tmp_path):
    """The held-out labels are sharper than the classic ones, their pulls are 1; the file holds it all."""
    data, truth = survey_set(rng, n_star=500)
    errors = np.full(data.labels.shape, 1e-4)
    data = replace(data, label_errors=errors)
    classic, _, _ = train.train(data, config.Train(scatter="reml", cross_validate=5))
    model, notes, _ = train.train(data, config.Train(scatter="reml", cross_validate=5, components="6"))
    assert classic.n_component == 0 and model.n_component == 2 and any("2 of 6 are above" in line for line in notes)
    assert np.all(model.scatter < 0.9 * classic.scatter)
    rows = model.training
    held = np.stack([rows[f"cv_{n}"] for n in model.label_names], axis=1)
    pull = (held - data.labels) / np.sqrt(np.diagonal(rows["cv_cov"], axis1=1, axis2=2))
    assert np.all(np.abs(np.std(pull, axis=0) - 1) < 0.12)               # 500 stars: 3 % each
    assert np.all(np.diff(model.strength) < 0)
    path = tmp_path / "m.fits"
    model.write(path)
    again = models.read(path)
    np.testing.assert_array_equal(again.components, model.components)
    np.testing.assert_array_equal(again.strength, model.strength)
    assert again.options["label_errors"] == "known"


def test_the_number_of_components_by_held_out_likelihood(rng, tmp_path):
    data, _ = survey_set(rng, n_star=400, k=3)
    settings = config.Train(components="auto", components_grid=(1, 3, 6, 9), cross_validate=4, label_errors="none")
    model, notes, _ = train.train(data, settings)
    curve = dict(model.options["components_curve"])
    assert set(curve) >= {0, 1, 3} and min(curve, key=curve.get) == 3 and model.n_component == 3
    assert any(line.startswith("3 components: cross-validated") for line in notes)
    model.write(tmp_path / "m.fits")
    assert dict(models.read(tmp_path / "m.fits").options["components_curve"]) == curve
    none, _, _ = train.train(survey_set(rng, n_star=400, k=0)[0], settings)
    assert none.n_component == 0 and dict(none.options["components_curve"]).keys() >= {0}


def test_same_bits_for_one_and_two_threads(rng):
    data, _ = survey_set(rng)
    before, made = numba.get_num_threads(), []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        try:
            made.append(train.train(data, config.Train(components="4", cross_validate=3, label_errors="none"))[0])
        finally:
            numba.set_num_threads(before)
    for name in ("theta", "s2", "components", "strength", "training"):
        assert getattr(made[0], name).tobytes() == getattr(made[1], name).tobytes(), name


@pytest.mark.parametrize("change, error, message", [
    ({"components": "-3"}, SettingError, "whole number"), ({"components": "many"}, SettingError, "whole number"),
    ({"scatter": "median"}, SettingError, "ml or reml"), ({"l1": 1.0}, SettingError, "L1"),
    ({"components": "auto", "cross_validate": 0}, SettingError, "cross-validation"),
])
def test_refused(rng, change, error, message):
    data, _ = survey_set(rng, n_star=60)
    with pytest.raises(error, match=message):
        train.train(data, config.Train(**{"components": "4", "cross_validate": 3, "label_errors": "none"} | change))


def test_label_errors_that_are_missing(rng):
    """A star without an error takes the median one; a label without any the scatter of the classic model."""
    error = np.full((60, 3), 0.02)
    error[3], error[4, 1], error[5, 2] = np.nan, -1.0, 0.04
    error[:, 0] = np.nan
    filled = components.filled(error, np.array([0.5, 0.6, 0.7]))
    np.testing.assert_allclose(filled[3], [0.5, 0.02, 0.02])
    np.testing.assert_allclose(filled[[4, 5], [1, 2]], [0.02, 0.04])
    data, _ = survey_set(rng, n_star=60)
    some = np.where([0, 1, 0], np.nan, 0.02) * np.ones((60, 3))
    for given, message, kind in ((None, "taken for exact", "exact"), (some, "logg: no training star has", "known"),
                                 (some * np.nan, "taken for exact", "exact")):
        model, notes, _ = train.train(replace(data, label_errors=given), config.Train(components="2", cross_validate=0))
        assert sum(message in line for line in notes) == 1
        assert model.options["label_errors"] == kind and model.n_component > 0


@pytest.mark.parametrize("solver", ["sums", "pixels"])
def test_spikes_are_left_out_of_a_second_fit(rng, solver):
    """As if they had been masked; nothing else changes, and a star that the model does not describe keeps its own."""
    model = with_components(make_model(rng, n_pix=400, n_label=3), rng, 3, 0.003)
    _, flux, ivar, _ = draw_with(rng, model, 150, snr=100.0)
    spiked, masked = flux.copy(), ivar.copy()
    for m in range(0, 100, 2):
        p = rng.choice(np.flatnonzero(ivar[m] > 0), 3, replace=False)
        spiked[m, p] += rng.choice([-1, 1], 3) * rng.uniform(0.15, 0.3, 3).astype(np.float32)
        masked[m, p] = 0
    spiked[101, ::7] += 0.3
    expected = infer.fit(model, flux, masked, solver=solver)
    plain = infer.fit(model, spiked, ivar, solver=solver)
    found = infer.fit(model, spiked, ivar, solver=solver, clip=6.0)
    use = np.arange(150) != 101
    assert found[use].tobytes() == expected[use].tobytes() != plain[use].tobytes()
    assert found[101]["n_pix_used"] == plain[101]["n_pix_used"]
    parts = [infer.fit(model, spiked[a:b], ivar[a:b], solver=solver, clip=6.0, first_row=a)
             for a, b in ((0, 70), (70, 71), (71, 150))]
    assert np.concatenate(parts).tobytes() == found.tobytes()
    swapped = infer.fit(model, spiked.astype(">f4"), ivar.astype(">f4"), solver=solver, clip=6.0)
    assert swapped.tobytes() == found.tobytes()


@pytest.mark.parametrize("solver", ["sums", "pixels"])
def test_the_same_bits_for_any_cut_and_threads(rng, solver):
    model = with_components(make_model(rng, n_pix=150, n_label=3), rng, 4)
    _, flux, ivar, _ = draw_with(rng, model, 200, snr=np.linspace(10, 300, 200))
    ivar[3] = 0.0
    fitter = infer.prepare(model, solver=solver)
    whole = fitter.fit(flux, ivar)
    parts = [fitter.fit(flux[a:b], ivar[a:b], first_row=a) for a, b in ((0, 70), (70, 71), (71, 200))]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert fitter.fit(flux, ivar).tobytes() == whole.tobytes()
    finally:
        numba.set_num_threads(before)
    assert np.isnan(whole["z"][3]).all() and np.isfinite(whole["z"][4]).all()


def test_pulls_of_labels_and_amplitudes(rng):
    """Spectra drawn from the model itself: unit pulls of labels, marginal chi2 as many as pixels."""
    model = with_components(make_model(rng, n_pix=400, n_label=3, curvature=0.1), rng, 6, amplitude=0.02)
    labels, flux, ivar, z = draw_with(rng, model, 2000, snr=rng.uniform(30, 200, 2000), spread=0.5)
    found = infer.fit(model, flux, ivar)
    pull = (labels_of(found, model) - labels) / errors_of(found, model)
    assert np.all(np.abs(np.std(pull, axis=0) - 1) < 0.05)
    assert np.mean(found["chi2"]) == pytest.approx(np.mean(found["n_pix_used"]) - 3, rel=0.005)
    assert np.std(found["z"] - z) < 0.9


def test_components_that_look_like_a_label_go_to_the_general_solver(rng):
    """A component along a gradient leaves float32 sums too little: the pixel solver's answer, not noise."""
    model = make_model(rng, n_pix=200, n_label=2, curvature=0.01)
    u = 3.0 * model.theta[:, 1:2] + 1e-4 * rng.standard_normal((200, 1))
    model = replace(model, components=u, strength=np.ones(1))
    _, flux, ivar, _ = draw_with(rng, model, 20, snr=1000.0)
    sums, pixels = (infer.fit(model, flux, ivar, solver=s) for s in ("sums", "pixels"))
    np.testing.assert_allclose(sums["cov"], pixels["cov"], rtol=1e-6)
    np.testing.assert_allclose(labels_of(sums, model), labels_of(pixels, model), rtol=1e-8)
