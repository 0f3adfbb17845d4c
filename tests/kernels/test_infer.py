"""Kernels of inference against plain numpy: terms, medians, bytes, sums, descents, and the two solvers."""
import numpy as np
import pytest
import synthetic
from scipy import optimize

from cannonkit.kernels import copying, minimise, pixels, residuals, spectrum, sums, terms, vectorizer
from cannonkit.stages import infer as stage
from cannonkit.stages.vectorizer import powers_of

CHOSEN = np.array([[1, 0, 0], [0, 0, 1], [2, 1, 0], [0, 3, 1], [1, 1, 1]])


def v_of(x, powers):
    return vectorizer.design_matrix(x, powers)[0]


# --- terms ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("powers", [powers_of(3, 2)[1:], powers_of(2, 3)[1:], powers_of(1, 1)[1:], CHOSEN])
def test_terms_and_their_derivatives(rng, powers):
    n_term, n_label = powers.shape
    label, power = terms.factors_of(powers)
    x = rng.normal(size=n_label)
    v, gradient = np.empty(n_term), np.empty(label.shape)
    terms.fill_terms(x, label, power, v, gradient)
    np.testing.assert_allclose(v, v_of(x, powers), rtol=1e-14)
    dense = np.zeros((n_term, n_label))
    for k, f in np.argwhere(label >= 0):
        dense[k, label[k, f]] = gradient[k, f]
    step = 1e-6                     # central differences: error about step^2 and 1e-16 / step
    for i in range(n_label):
        dx = step * np.eye(n_label)[i]
        np.testing.assert_allclose(dense[:, i], (v_of(x + dx, powers) - v_of(x - dx, powers)) / (2 * step), atol=1e-8)
    u, curvature = rng.normal(size=n_term), np.zeros((n_label, n_label))
    terms.add_curvature(x, label, power, u, curvature)
    for i in range(n_label):
        for j in range(n_label):
            di, dj = 1e-4 * np.eye(n_label)[i], 1e-4 * np.eye(n_label)[j]
            numeric = (v_of(x + di + dj, powers) - v_of(x + di - dj, powers) - v_of(x - di + dj, powers)
                       + v_of(x - di - dj, powers)) / 4e-8
            assert curvature[i, j] == pytest.approx(u @ numeric, abs=1e-6)


def test_terms_at_zero():
    """0 to the power 0 is 1, and the slope of a linear term at 0 is 1."""
    label, power = terms.factors_of(np.array([[1, 0], [2, 0], [1, 1]]))
    v, gradient = np.empty(3), np.empty(label.shape)
    terms.fill_terms(np.zeros(2), label, power, v, gradient)
    assert list(v) == [0, 0, 0] and gradient[0, 0] == 1 and gradient[1, 0] == 0 and list(gradient[2]) == [0, 0]


# --- bytes, medians -------------------------------------------------------------------------------

@pytest.mark.parametrize("at", [0, 3, 8])
@pytest.mark.parametrize("order", [">", "<"])
def test_floats_are_read_from_bytes_at_any_place(rng, at, order):
    values = rng.normal(size=37).astype(f"{order}f4")
    row = np.concatenate([np.full(at, 7, np.uint8), values.view(np.uint8), np.full(5, 9, np.uint8)])
    words = np.zeros(37, np.uint32)
    spectrum.read_floats(row, at, not values.dtype.isnative, 37, words)
    np.testing.assert_array_equal(words.view(np.float32), values)


def test_median_is_exact(rng):
    """Against numpy, for odd and even numbers, ties, negative numbers, one value, and typical S/N."""
    cases = [rng.normal(size=n) for n in (1, 2, 3, 64, 501, 8575)]
    cases += [rng.integers(-2, 3, size=n).astype(float) for n in (10, 11, 1000)]
    cases += [100 + rng.normal(size=8574), np.zeros(5), np.full(8, -3.5), np.exp(20 * rng.normal(size=999)),
              np.r_[np.full(4000, 1.0), np.full(4000, 2.0)]]
    for values in cases:
        values = values.astype(np.float32)
        for n_masked in (0, 1, 500):
            filled = rng.permutation(np.r_[values, np.full(n_masked, np.inf, np.float32)])
            found = spectrum.median(filled, len(values))
            assert found == np.median(values.astype(np.float64))
    assert np.isnan(spectrum.median(np.full(9, np.inf, np.float32), 0))


def test_copies(rng):
    a, b = rng.normal(size=(3, 2)), np.empty((3, 2))
    copying.copy_matrix(a, b)
    copying.copy_vector(a[0], b[1])
    np.testing.assert_array_equal(b, [a[0], a[0], a[2]])


# --- normal equations -----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def problem():
    """A star's pixels and its sums: (powers, theta, residual, weight, M, b, c)."""
    rng = np.random.default_rng(5)
    powers = powers_of(3, 2)[1:]
    theta = 0.1 * rng.normal(size=(200, len(powers)))
    weight = rng.uniform(0, 2, 200) ** 4 * 1e4
    weight[::7] = 0
    residual = theta @ v_of(np.array([0.3, -0.2, 0.1]), powers) + rng.normal(size=200) * 0.02
    return (powers, theta, residual, weight, theta.T @ (weight[:, None] * theta), theta.T @ (weight * residual),
            float(weight @ residual ** 2))


def equations(problem, x, pixels, prior_mean=None, prior_ivar=None):
    """(chi2, objective, hessian, full, slope) of minimise._equations."""
    powers, theta, residual, weight, matrix, vector, constant = problem
    label, power = terms.factors_of(powers)
    n_term, n_label = powers.shape
    zero = np.zeros(n_label)
    out = [np.empty(n_term), np.empty(label.shape), np.empty(n_term), np.empty((2, n_label + 1, n_term)),
           np.empty((n_label, n_label)), np.empty((n_label, n_label)), np.empty(n_label)]
    if not pixels:
        theta, residual, weight = theta[:0], residual[:0], weight[:0]
    chi2, objective = minimise._equations(
        x, label, power, matrix, vector, constant, theta, residual, weight,
        zero if prior_mean is None else prior_mean, zero if prior_ivar is None else prior_ivar, *out)
    return chi2, objective, *out[4:]


@pytest.mark.parametrize("pixels", [True, False])
def test_objective_and_derivatives(problem, pixels):
    powers, theta, residual, weight, *_ = problem
    x, mean, ivar = np.array([0.2, 0.1, -0.3]), np.array([0.1, 0.0, 0.0]), np.array([50.0, 0.0, 7.0])

    def plain(x):
        return float(weight @ (residual - theta @ v_of(x, powers)) ** 2)

    def whole(x):
        return plain(x) + float(ivar @ (x - mean) ** 2)

    chi2, objective, hessian, full, slope = equations(problem, x, pixels, mean, ivar)
    assert chi2 == pytest.approx(plain(x), rel=1e-9) and objective == pytest.approx(whole(x), rel=1e-9)
    step = 1e-5
    unit = step * np.eye(3)
    for i in range(3):
        numeric = -(whole(x + unit[i]) - whole(x - unit[i])) / (4 * step)          # minus half the gradient
        assert slope[i] == pytest.approx(numeric, rel=1e-6)
        for j in range(3):
            second = (whole(x + unit[i] + unit[j]) - whole(x + unit[i] - unit[j]) - whole(x - unit[i] + unit[j])
                      + whole(x - unit[i] - unit[j])) / (8 * step ** 2)
            assert full[i, j] == pytest.approx(second, rel=1e-4, abs=1e-2)          # rounding: 1e-16 chi2 / step^2
    jacobian = theta @ np.array([(v_of(x + unit[i], powers) - v_of(x - unit[i], powers)) / (2 * step)
                                 for i in range(3)]).T
    np.testing.assert_allclose(hessian, jacobian.T @ (weight[:, None] * jacobian) + np.diag(ivar), rtol=1e-7)


def descend(problem, x, free=(0, 1, 2), pixels=False, max_iter=50, known=()):
    """known: (x, hessian, objective) of minima."""
    powers, theta, residual, weight, matrix, vector, constant = problem
    label, power = terms.factors_of(powers)
    x, hessian, zero = np.array(x, float), np.empty((3, 3)), np.zeros(3)
    there = [np.array([one[k] for one in known], float).reshape(-1, *shape)
             for k, shape in enumerate(((3,), (3, 3), ()))]
    if not pixels:
        theta, residual, weight = theta[:0], residual[:0], weight[:0]
    return x, minimise.descend(x, np.array(free), label, power, matrix, vector, constant, theta, residual,
                               weight, zero, zero, max_iter, hessian, *there)


@pytest.mark.parametrize("pixels", [True, False])
def test_descent_finds_what_scipy_finds(problem, pixels):
    powers, theta, residual, weight, *_ = problem
    x, (chi2, objective, n_iter, state) = descend(problem, [0, 0, 0], pixels=pixels)
    found = optimize.least_squares(lambda x: np.sqrt(weight) * (residual - theta @ v_of(x, powers)), np.zeros(3),
                                   method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert state == minimise.CONVERGED and n_iter < 12 and objective == chi2
    assert chi2 == pytest.approx(2 * found.cost, rel=1e-9)
    np.testing.assert_allclose(x, found.x, atol=1e-7)


def test_descent_with_a_label_held(problem):
    powers, theta, residual, weight, *_ = problem
    x, (chi2, _, _, state) = descend(problem, [0, 0.4, 0], free=(0, 2))

    def part(free):
        return np.sqrt(weight) * (residual - theta @ v_of(np.array([free[0], 0.4, free[1]]), powers))

    found = optimize.least_squares(part, np.zeros(2), method="lm", xtol=1e-15, ftol=1e-15)
    assert state == minimise.CONVERGED and x[1] == 0.4 and chi2 == pytest.approx(2 * found.cost, rel=1e-9)
    np.testing.assert_allclose(x[[0, 2]], found.x, atol=1e-7)


def test_descent_from_its_solution_and_with_few_iterations(problem):
    there, (chi2, *_) = descend(problem, [0, 0, 0])
    x, (again, _, n_iter, state) = descend(problem, there)
    assert state == minimise.CONVERGED and n_iter == 1 and again == pytest.approx(chi2, rel=1e-12)
    np.testing.assert_allclose(x, there, atol=1e-9)
    _, (_, _, n_iter, state) = descend(problem, [0, 0, 0], max_iter=2)
    assert state == minimise.ITERATION_LIMIT and n_iter == 2


def test_descent_ends_near_a_known_minimum(problem):
    """Half an error bar from it; not where it is elsewhere, or higher than where the descent has come."""
    there, (chi2, _, n_iter, _) = descend(problem, [0, 0, 0])
    hessian = equations(problem, there, False)[2]
    x, (_, _, n_short, state) = descend(problem, [0, 0, 0], known=[(there, hessian, chi2)])
    assert state == minimise.KNOWN and 1 < n_short < n_iter
    assert (x - there) @ hessian @ (x - there) > minimise.DIFFERENT ** 2          # before the step
    for other in ((there + 5, hessian, chi2), (there, hessian, np.inf)):
        x, (again, _, n_same, state) = descend(problem, [0, 0, 0], known=[other])
        assert (state, again, n_same) == (minimise.CONVERGED, chi2, n_iter) and (x == there).all()


def test_factor_and_inverse(rng):
    root = rng.normal(size=(4, 4)) * np.array([1, 1e3, 1e-3, 1])
    matrix, free = root.T @ root, np.array([0, 1, 3])
    scale_by, factor, inverse = np.sqrt(np.diag(matrix)), np.zeros((4, 4)), np.empty((4, 4))
    pivot = minimise.factorise(matrix, 0.0, scale_by, free, factor)
    minimise.invert_factored(factor, scale_by, free, inverse)
    part = np.ix_(free, free)
    np.testing.assert_allclose(inverse[part], np.linalg.inv(matrix[part]), rtol=1e-6)
    assert (inverse[2] == 0).all() and (inverse[:, 2] == 0).all() and (inverse == inverse.T).all()
    correlation = matrix[part] / np.outer(scale_by[free], scale_by[free])
    assert pivot == pytest.approx(min(np.diag(np.linalg.cholesky(correlation)) ** 2), rel=1e-6)
    dependent = np.ones((2, 2))
    assert minimise.factorise(dependent, 0.0, np.ones(2), np.arange(2), np.zeros((2, 2))) <= 1e-15
    assert minimise.factorise(np.zeros((2, 2)), 0.0, np.zeros(2), np.arange(2), np.zeros((2, 2))) == -1


def test_linear_start(problem):
    """The linear terms of the least-squares solution with every term free."""
    powers, _, _, _, matrix, vector, _ = problem
    linear = np.array([0, 1, 2])
    low, high, start = np.full(3, -0.25), np.full(3, 0.25), np.empty(3)
    pixels.linear_start(matrix, vector, linear, low, high, start)
    np.testing.assert_allclose(start, np.clip(np.linalg.solve(matrix, vector)[:3], -0.25, 0.25), rtol=1e-4)
    pixels.linear_start(np.zeros((9, 9)), vector, linear, low, high, start)
    assert np.isnan(start).all()


# --- sums -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("n_pix", [1, 15, 1100, 1101, 2500, 77 * 1100 + 1, 130000])
def test_tiles_hold_every_pixel_once(rng, n_pix):
    theta = rng.normal(size=(n_pix, 3))
    tiles = sums.tiled(theta)
    flat = tiles.reshape(-1, 3)
    np.testing.assert_array_equal(flat[:n_pix], theta)
    assert (flat[n_pix:] == 0).all() and tiles.shape[1] % 16 == 0
    assert 0 <= len(flat) - n_pix < min(16 * len(tiles), tiles.shape[1])
    pairs = sums.pairs_of(theta).reshape(-1, 6)
    expected = [theta[:, i] * theta[:, j] for i in range(3) for j in range(i, 3)]
    np.testing.assert_array_equal(pairs[:n_pix], np.array(expected, np.float32).T)
    wide = sums.padded(tiles)
    assert wide.shape[2] == 16 and (wide[:, :, 3:] == 0).all()
    np.testing.assert_array_equal(wide[:, :, :3], tiles.astype(np.float32))
    matrix, columns = np.empty((3, 3)), np.full((6, 64), np.nan)
    columns[:, 7] = np.arange(6)
    sums.spread_pairs(columns[:, 7], matrix)
    assert (matrix == [[0, 1, 2], [1, 3, 4], [2, 4, 5]]).all()


def test_products_against_float64(rng):
    """Float32 products summed by tiles: 1e-6 of the largest term, thousands of pixels."""
    n_pix, n_term = 3000, 5
    theta = rng.normal(size=(n_pix, n_term))
    weight, residual = rng.uniform(0, 1e4, (64, n_pix)), rng.normal(size=(64, n_pix))
    tile = lambda a: np.ascontiguousarray(sums.tiled(a.T).transpose(0, 2, 1), np.float32)  # noqa: E731
    tiles = sums.tiled(theta)
    pairs = sums.pair_rows(np.ascontiguousarray(tiles.transpose(0, 2, 1)))
    sum_m, sum_b = np.empty((15, 64)), np.empty((64, 16))
    sums.add_products(tile(weight), tile(weight * residual), pairs, sums.padded(tiles),
                      np.empty((15, 64), np.float32), np.empty((64, 16), np.float32), sum_m, sum_b)
    for k in (0, 17, 63):
        full = theta.T @ (weight[k][:, None] * theta)
        matrix = np.empty((n_term, n_term))
        sums.spread_pairs(sum_m[:, k], matrix)
        np.testing.assert_allclose(matrix, full, atol=1e-6 * np.abs(full).max())
        np.testing.assert_allclose(sum_b[k, :n_term], theta.T @ (weight[k] * residual[k]), atol=1e-5 * full.max())


# --- both solvers ---------------------------------------------------------------------------------

@pytest.mark.parametrize("case", ["quadratic", "cubic", "chosen terms", "linear"])
def test_solvers_agree(rng, case):
    """Labels to 1e-3 of an error bar and better, covariance to 1e-3, chi2 to 0.1, at S/N 5 to 2,000, half of the
    pixels masked, far outside of the training set."""
    order = {"quadratic": 2, "cubic": 3, "linear": 1}.get(case)
    powers = np.r_[np.zeros((1, 3), int), np.eye(3, dtype=int), CHOSEN[2:]] if order is None else None
    model = synthetic.make_model(rng, n_pix=1500, n_label=3, order=order, powers=powers)
    snr = rng.choice([5.0, 30.0, 100.0, 2000.0], 150)
    _, flux, ivar = synthetic.draw(rng, model, 150, snr, spread=1.5)
    ivar[20:40, ::2] = 0
    fast, slow = (stage.fit(model, flux, ivar, solver=s) for s in ("sums", "pixels"))
    assert stage.prepare(model, solver="auto").solver == "sums"
    moved = (synthetic.labels_of(fast, model) - synthetic.labels_of(slow, model)) / synthetic.errors_of(slow, model)
    assert np.abs(moved).max() < 1e-5          # measured: 1e-6; the promise is 1e-3
    scale = np.sqrt(np.einsum("nii,njj->nij", slow["cov"], slow["cov"]))
    assert np.abs((fast["cov"] - slow["cov"]) / scale).max() < 1e-5
    assert np.abs(fast["chi2"] - slow["chi2"]).max() < 1e-3
    for name in ("n_pix_used", "n_pix_bad", "snr", "status"):
        np.testing.assert_array_equal(fast[name], slow[name])
    np.testing.assert_allclose(fast["snr_cannon"], slow["snr_cannon"], rtol=1e-6)     # weights are float32 in one


def test_a_star_whose_sums_are_not_good_enough_goes_to_the_pixels(rng):
    """Two labels that act almost alike: the float32 sums cannot tell them apart, the answer still agrees."""
    model = synthetic.make_model(rng, n_pix=1500, n_label=3)
    model.theta[:, 2] = model.theta[:, 1] * (1 + 1e-3 * rng.normal(size=1500))
    model.theta[:, 4:] = 0
    _, flux, ivar = synthetic.draw(rng, model, 20, 300.0, spread=0.3)
    fast, slow = (stage.fit(model, flux, ivar, solver=s) for s in ("sums", "pixels"))
    moved = (synthetic.labels_of(fast, model) - synthetic.labels_of(slow, model)) / synthetic.errors_of(slow, model)
    assert np.abs(moved).max() < 1e-3
    np.testing.assert_allclose(fast["chi2"], slow["chi2"], atol=1e-3)
    np.testing.assert_allclose(fast["cov"], slow["cov"], rtol=1e-3)
    assert (fast["n_iter"] > slow["n_iter"]).all()                     # it has been through both


# --- residuals ------------------------------------------------------------------------------------

def test_running_percentiles(rng):
    n_star, n_pix = 20000, 4
    noise = rng.normal(size=(n_star, n_pix)) * [0.001, 0.01, 0.1, 1.0] + [0.0, 0.005, 0.0, 0.0]
    flux, ivar = (1 + noise).astype(np.float32), np.ones((n_star, n_pix), np.float32)
    predicted = np.ones((n_star, n_pix))
    ivar[5, 0], flux[6, 0], predicted[7, 0], ivar[8, 0] = 0, np.nan, np.nan, -1
    counts = np.zeros((n_pix, residuals.N_BIN), np.int32)
    residuals.add_residuals(flux, ivar, predicted, counts)
    assert list(counts.sum(axis=1)) == [n_star - 4, n_star, n_star, n_star]
    found = np.empty((n_pix, 3))
    residuals.fill_quantiles(counts, np.array([0.16, 0.5, 0.84]), found)
    observed = (flux - 1.0).astype(float)
    observed[5:9, 0] = np.nan
    exact = np.nanquantile(observed, [0.16, 0.5, 0.84], axis=0).T
    # within a bin: 3.3 % of the value beyond 0.002, 6.5e-5 near zero
    assert (np.abs(found - exact) < 0.033 * np.abs(exact) + 6.5e-5).all()
    again = np.zeros_like(counts)
    for part in np.array_split(rng.permutation(n_star), 7):
        residuals.add_residuals(flux[part], ivar[part], predicted[part], again)
    np.testing.assert_array_equal(again, counts)
    counts[:] = 0
    residuals.fill_quantiles(counts, np.array([0.5]), found[:, :1])
    assert np.isnan(found[:, 0]).all()
