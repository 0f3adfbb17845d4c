"""Misfit components: F = theta v(x) + U z + noise by maximum marginal likelihood (design.md 5). Arrays in and out.

    fit = components.fit(problem, rows, theta, s2, 20)        # theta, s2: of the classic fit of the stars `rows`

starts from principal components of what the classic fit leaves, and iterates kernels/components.py until -2 ln L of
all stars falls by less than TOLERANCE for each number in U. After each iteration z is brought back to zero mean at
given labels and unit variance by changing theta and U so that the model stays the same (parameter expansion): that is
what many iterations of plain expectation maximisation approach.

Errors of the training labels leave residuals along the label gradients J_n. Where they are given, J_n S_n J_n' is
part of the covariance in training (J from the classic fit), and U does not learn it: errors of inferred labels are
then against the truth. Where they are not, U can be kept outside the label gradients of the mean star.
"""
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np

from cannonkit.errors import ConfigError, DataError
from cannonkit.kernels import components as kernel
from cannonkit.kernels import sums
from cannonkit.kernels.train import N_BLOCK
from cannonkit.stages import vectorizer

TOLERANCE = 0.02        # gain of -2 ln L in an iteration per number in U; noise alone gains 1 in all
MAX_ITERATION = 100
LEAST_FROZEN = 0.1      # squared signal-to-noise ratio of what label errors do, below which it is left out
OVERSAMPLE = 10         # columns of the randomised decomposition beyond those wanted
POWER = 2               # its power iterations
SEED = 1


@dataclass
class Fit:
    """theta (n_pix, n_term), s2 (n_pix,), components (n_pix, k), strength (k,) of one set of stars.

    k is at most what was asked for: components below the edge of pure noise are left out. curve: -2 ln L of all
    stars, without n ln 2 pi, at the start and after each iteration; converged: it stopped on TOLERANCE.
    """

    theta: np.ndarray
    s2: np.ndarray
    components: np.ndarray
    strength: np.ndarray
    curve: list
    converged: bool


@dataclass
class Labels:
    """What is known of the errors of the training labels: scaled errors (n_star, n_label), terms and their gradient."""

    gradient: np.ndarray        # (n_star, n_term, n_label), dv/dx
    error: np.ndarray           # (n_star, n_label), scaled label units


class _Set:
    """The stars of one fit, cut into blocks; knows nothing of what is fitted but the frozen part of the loading."""

    def __init__(self, problem, rows, theta, s2, labels):
        self.problem, self.rows = problem, np.ascontiguousarray(rows, dtype=np.int64)
        self.n, self.n_pix = len(self.rows), problem.flux.shape[1]
        self.usable = np.isfinite(s2)
        self.scale = np.where(self.usable, problem.ivar_scale, 0.0)
        self.design = np.ascontiguousarray(problem.design[rows])
        self.frozen, self.mix = np.empty((self.n_pix, 0)), None
        if labels is not None:
            self._freeze(np.where(self.usable[:, None], theta, 0.0), np.where(self.usable, s2, 0.0), labels)

    def _freeze(self, theta, s2, labels):
        """The label gradients as a fixed loading, of the directions in which label errors matter (LEAST_FROZEN).

        J_n T_n = theta G_n T_n, with T_n the errors. In the metric of the mean weights, theta is turned to the
        eigenvectors of the mean of J_n T_n T_n' J_n'; those far below the noise are left out.
        """
        mix = labels.gradient[self.rows] * labels.error[self.rows][:, None, :]
        metric = theta.T @ (self.mean_weights(s2)[0][:, None] * theta)
        values, vectors = np.linalg.eigh(metric)
        on = values > 1e-12 * max(values.max(), 1e-300)
        root = vectors[:, on] * np.sqrt(values[on])                        # metric = root root'
        own, turn = np.linalg.eigh(root.T @ (np.einsum("nij,nkj->ik", mix, mix) / self.n) @ root)
        turn = turn[:, own > LEAST_FROZEN]
        self.frozen = np.ascontiguousarray(theta @ (vectors[:, on] / np.sqrt(values[on])) @ turn)
        self.mix = np.ascontiguousarray((root @ turn).T @ mix)

    def over_stars(self, work, size=64):
        _spread([(a, min(a + size, self.n)) for a in range(0, self.n, size)], work)

    def over_pixels(self, work):
        _spread([(a, min(a + N_BLOCK, self.n_pix)) for a in range(0, self.n_pix, N_BLOCK)], work)

    def expect(self, theta, s2, components, design=None):
        """(mean, cov, -2 ln L of each star) of y: see the kernel. `design` (n, m) other terms than the problem's."""
        design = self.design if design is None else design
        loading = np.concatenate([components, self.frozen], axis=1)
        n_loading = loading.shape[1]
        mean, value = np.empty((self.n, n_loading)), np.empty(self.n)
        cov = np.empty((self.n, n_loading * (n_loading + 1) // 2))
        mix = self.mix_of(components.shape[1])
        tiles = (_rows_of(theta), s2, sums.tiled(loading), sums.pairs_of(loading), mix)
        self.over_stars(lambda a, b: kernel.expect(self.problem.flux, self.problem.ivar, self.scale, self.rows, design,
                                                   *tiles, a, b, mean, cov, value))
        return mean, cov, value

    def mix_of(self, n_component):
        """H_n: the identity for the components, G_n T_n for the frozen part."""
        if self.frozen.shape[1] == 0:
            return np.empty((0, n_component, n_component))
        n_frozen, n_label = self.mix.shape[1:]
        mix = np.zeros((self.n, n_component + n_frozen, n_component + n_label))
        mix[:, np.arange(n_component), np.arange(n_component)] = 1.0
        mix[:, n_component:, n_component:] = self.mix
        return mix

    def mean_weights(self, s2):
        """((n_pix,), (n,)): mean weight of each pixel, and each star's weights in units of that."""
        of_pixel, of_star = np.empty(self.n_pix), np.empty(self.n)
        kernel.mean_weights(self.problem.flux, self.problem.ivar, self.scale, self.rows, s2, of_pixel, of_star)
        return of_pixel, of_star


def fit(problem, rows, theta, s2, n_component, labels=None, span=None, restricted=False, start=None):
    """Fit up to n_component components to the stars `rows` (n,) of a stages.train.Problem: a Fit.

    theta, s2   the classic fit of the same stars: start, and theta_0 of the label gradients; pixels with s2
                infinite stay out (theta and components 0)
    labels      Labels of all the problem's stars, or None for exact labels
    span        (n_pix, m) directions that components must keep out of, or None
    restricted  s2 makes up for the degrees of freedom that theta and U take (to first order)
    start       Fit of more stars (of all, for a fold): its theta and s2 save iterations. Its components serve only to
                tell label errors from misfit in the residuals of `rows`; the principal components are found anew
    """
    stars = _Set(problem, rows, theta, s2, labels)
    classic = theta, s2
    known = np.empty((len(s2), 0))
    if start is not None:
        theta, s2, known = start.theta, start.s2, start.components
    theta, s2 = np.where(stars.usable[:, None], theta, 0.0), np.where(stars.usable & np.isfinite(s2), s2, 0.0)
    kept = _nothing_kept(*theta.shape)
    components = _start(stars, theta, s2, n_component, known)
    if start is None and components.shape[1]:
        # Once more: the classic s2 holds the misfit, so that it says too little of the noise of good spectra.
        s2 = np.maximum(s2 - np.sum(components ** 2, axis=1), 0.0)
        mean, cov, _ = stars.expect(theta, s2, components)
        _maximise(stars, theta, s2, components, mean, cov, 0.0, kept)
        components = _start(stars, theta, s2, n_component, components)
    everywhere = np.asarray(problem.terms_on)[stars.usable].all(axis=0)
    outside = _outside(span, stars, s2)
    components, k = outside(components), components.shape[1]
    spent = float(theta.shape[1] + k) if restricted else 0.0
    curve, converged, before = [], k == 0, None
    for _ in range(MAX_ITERATION):
        mean, cov, value = stars.expect(theta, s2, components)
        curve.append(float(value.sum()))
        gain = curve[-2] - curve[-1] if before is not None else np.inf
        if k == 0 or gain < TOLERANCE * k * np.count_nonzero(stars.usable):
            converged = True
            break
        before = theta.copy(), s2.copy(), components.copy()
        _maximise(stars, theta, s2, components, mean, cov, spent, kept)
        theta, components = _expand(stars, theta, components, mean[:, :k], cov, everywhere)
        components = outside(components)
    if before is not None and curve[-1] > curve[-2]:
        curve.pop()
        theta, s2, components = before
    if k == 0:
        theta, s2 = classic
    components, strength = canonical(components, stars.mean_weights(np.where(stars.usable, s2, 0.0))[0])
    return Fit(theta, np.where(stars.usable, s2, np.inf), components, strength, curve, converged)


def held_out(problem, rows, found, theta_0, labels=None):
    """-2 ln L, without n ln 2 pi, of stars `rows` that a Fit has not seen; theta_0 as in its own `fit`."""
    stars = _Set(problem, rows, theta_0, found.s2, labels)
    return stars.expect(found.theta, np.where(stars.usable, found.s2, 0.0), found.components)[2].sum()


def _spread(edges, work):
    """work(first, stop) for every block, over numba's number of threads; the bits do not depend on how many."""
    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        for done in [pool.submit(work, *edge) for edge in edges]:
            done.result()


def _rows_of(theta):
    """(n_tile, n_term, tile) tiles of theta'."""
    return np.ascontiguousarray(sums.tiled(theta).transpose(0, 2, 1))


def _start(stars, theta, s2, n_component, known):
    """(n_pix, k): principal components of the classic fit's standardised residuals, shrunk by the noise.

    A sample covariance eigenvalue of a component with variance l in units of the noise is (1 + l)(1 + g / l), with g
    pixels per star: that is inverted, and what is not above the edge of pure noise, (1 + sqrt g)^2 and two widths of
    the Tracy-Widom law (one sample of noise in a hundred has more), is left out. What label errors explain is no
    misfit and is taken off. What the components `known` (n_pix, any) explain stands in for masked pixels: zeros there
    would be noise in proportion to the misfit.
    """
    design, explained = stars.design, np.zeros((stars.n, 0))
    if known.shape[1] + stars.frozen.shape[1]:
        mean = stars.expect(theta, s2, known)[0]
        design = np.concatenate([design, mean], axis=1)
        theta = np.concatenate([theta, known, stars.frozen], axis=1)
        explained = mean[:, :known.shape[1]]
    weight, of_star = stars.mean_weights(s2)
    back, explained = known * np.sqrt(weight)[:, None], explained * np.sqrt(of_star)[:, None]
    width = min(n_component + OVERSAMPLE, stars.n, stars.n_pix)
    tiles = _rows_of(theta)
    probe = np.random.default_rng(SEED).standard_normal((stars.n_pix, width))
    total = np.zeros(stars.n)
    for _ in range(POWER + 1):
        probe = np.linalg.qr(probe)[0].astype(np.float32)
        parts = {}

        def project(a, b, probe=probe, parts=parts):
            x = np.empty((b - a, stars.n_pix), np.float32)
            kernel.standardise(stars.problem.flux, stars.problem.ivar, stars.scale, stars.rows, design, tiles, s2, a, b,
                               x)
            x += (explained[a:b] @ back.T).astype(np.float32)
            total[a:b] = np.einsum("ij,ij->i", x, x, dtype=np.float64)
            parts[a] = x.T @ (x @ probe)

        stars.over_stars(project, 256)
        last, probe = probe, sum(parts[a].astype(np.float64) for a in sorted(parts))
    # Eigenvectors of X'X within the span of the last probe: Ritz vectors.
    q, r = np.linalg.qr(last.astype(np.float64))
    values, vectors = np.linalg.eigh((q.T @ probe) @ np.linalg.inv(r))
    values, vectors = values[::-1][:n_component], (q @ vectors)[:, ::-1][:, :n_component]
    n_used = np.count_nonzero(weight)
    freedom = stars.n - stars.design.shape[1]
    values, ratio = values / freedom, n_used / freedom
    edge = (1.0 + np.sqrt(ratio)) ** 2 * (1.0 + 2.02 * (freedom ** -0.5 + n_used ** -0.5) ** (1 / 3)
                                          / (freedom ** 0.5 + n_used ** 0.5))
    noise = total.sum() / freedom / n_used
    for _ in range(5):                       # the noise is what the components leave
        excess = values / noise - 1.0 - ratio
        kept = values / noise > edge
        own = 0.5 * (excess + np.sqrt(np.maximum(excess ** 2 - 4.0 * ratio, 0.0)))
        noise = (total.sum() / freedom - np.sum(noise * own[kept])) / n_used
    scale = np.zeros(stars.n_pix)
    scale[weight > 0] = 1.0 / np.sqrt(weight[weight > 0])
    return np.ascontiguousarray(vectors[:, kept] * np.sqrt(noise * own[kept]) * scale[:, None])


def _maximise(stars, theta, s2, components, mean, cov, spent, kept):
    """One maximisation step, in place; the arrays that the kernel wants made from the posterior."""
    problem, k, n_loading = stars.problem, components.shape[1], mean.shape[1]
    row, column = np.triu_indices(n_loading)
    n_second = int(np.sum(row < k))
    second = (cov[:, :n_second] + mean[:, row[:n_second]] * mean[:, column[:n_second]]).astype(np.float32)
    loading = np.concatenate([components, stars.frozen], axis=1)
    arrays = (stars.design, np.ascontiguousarray(stars.design.T), np.ascontiguousarray(problem.products[stars.rows]),
              problem.pair_index, problem.terms_on, loading, mean, np.ascontiguousarray(mean.T), second,
              np.ascontiguousarray(cov.T, dtype=np.float32))
    stars.over_pixels(lambda a, b: kernel.maximise(problem.flux, problem.ivar, stars.scale, stars.rows, *arrays, k,
                                                   spent, a, b, theta, s2, components, kept))


def _nothing_kept(n_pix, n_term):
    return kernel.Kept(np.empty((n_pix, n_term, n_term)), np.empty((n_pix, n_term)), np.zeros(n_pix, np.int64),
                       np.full(n_pix, np.nan))


def _expand(stars, theta, components, mean, cov, everywhere):
    """theta and components with z made zero in the mean at given labels and of unit variance, the model the same."""
    k = components.shape[1]
    design = stars.design * everywhere
    on_terms = np.linalg.lstsq(design, mean, rcond=1e-10)[0]
    left = mean - design @ on_terms
    row, column = np.triu_indices(k + stars.frozen.shape[1])
    inside = (row < k) & (column < k)
    spread = np.empty((k, k))
    spread[row[inside], column[inside]] = spread[column[inside], row[inside]] = cov[:, inside].mean(axis=0)
    root = np.linalg.cholesky(left.T @ left / stars.n + spread)
    return theta + components @ on_terms.T, np.ascontiguousarray(components @ root)


def _outside(span, stars, s2):
    """A function that projects components out of the directions `span`, in the metric of the mean weights."""
    if span is None:
        return lambda components: components
    weight = stars.mean_weights(s2)[0][:, None]
    inverse = np.linalg.pinv(span.T @ (weight * span), rcond=1e-10, hermitian=True)
    return lambda components: np.ascontiguousarray(
        components - span @ (inverse @ (span.T @ (weight * components))))


def canonical(components, weight):
    """(components, strength): U rotated so that U' diag(weight) U is diagonal: strength, falling.

    The sign is that of the pixel that weighs most. strength is the squared signal-to-noise ratio of one unit of z in
    a mean training spectrum.
    """
    values, vectors = np.linalg.eigh(components.T @ (weight[:, None] * components))
    turned = components @ vectors[:, ::-1]
    if turned.size:
        largest = np.argmax(np.abs(turned) * np.sqrt(weight)[:, None], axis=0)
        turned = turned * np.where(turned[largest, np.arange(turned.shape[1])] < 0, -1.0, 1.0)
    return np.ascontiguousarray(turned), np.maximum(values[::-1], 0.0)


@dataclass
class Plan:
    """How many components are wanted and how label errors are treated; what cc-train's settings come to.

    n_component: at most so many; grid: numbers to choose from by held-out likelihood, () if the number is given
    labels: Labels or None; span: keep U outside the label gradients of the mean star (the linear terms' theta)
    """

    n_component: int
    grid: tuple
    labels: Labels | None
    linear: np.ndarray | None       # which terms are one label: the gradients at the pivot, or None
    restricted: bool

    @property
    def label_errors(self):
        """What was done about them: carried (known), span or none."""
        return "carried" if self.labels is not None else "span" if self.linear is not None else "none"

    def fit(self, problem, rows, theta, s2, n_component=None, start=None):
        span = None if self.linear is None else np.where(np.isfinite(s2)[:, None], theta[:, self.linear], 0.0)
        return fit(problem, rows, theta, s2, self.n_component if n_component is None else n_component, self.labels,
                   span, self.restricted, start)

    def choose(self, problem, fold, theta, s2):
        """[(number, -2 ln L per held-out pixel of a star)] for the grid, up to where it is worse twice running.

        The number wanted becomes the smallest whose -2 ln L of all stars is within 2 of the least.
        theta (n_fold, n_pix, n_term), s2 (n_fold, n_pix): the classic fits without each fold.
        """
        stars, curve = np.arange(len(fold)), []
        n_value = sum(np.count_nonzero((problem.ivar[a:a + 64] > 0) & np.isfinite(problem.flux[a:a + 64]))
                      for a in range(0, len(fold), 64))
        for number in sorted({0, *self.grid}):
            total, most = 0.0, 0
            for k in range(len(theta)):
                found = self.fit(problem, stars[fold != k], theta[k], s2[k], number)
                total += held_out(problem, stars[fold == k], found, theta[k], self.labels)
                most = max(most, found.components.shape[1])
            curve.append((number, float(total / n_value)))
            if most < number or (len(curve) > 2 and curve[-1][1] > curve[-2][1] > curve[-3][1]):
                break
        least = min(value for _, value in curve)
        self.n_component = min(number for number, value in curve if value <= least + 2.0 / n_value)
        return curve


def plan(settings, powers, x, label_error):
    """The Plan of cc-train's settings, or None for the classic model.

    x (n_star, n_label) scaled labels, label_error the same for their errors or None where none are known.
    Raises ConfigError for settings that do not go with components.
    """
    text = str(settings.components).strip()
    if text == "0":
        return None
    if text != "auto" and not text.isdecimal():
        raise ConfigError(f"components {text!r}: expected a whole number from 0, or auto")
    if settings.scatter not in ("ml", "reml"):
        raise ConfigError(f"--components goes with --scatter ml or reml, not {settings.scatter}")
    if settings.l1 or settings.l1_grid or settings.bounds:
        raise ConfigError("--components goes with neither an L1 penalty nor bounds of coefficients")
    grid = tuple(settings.components_grid) if text == "auto" else ()
    if text == "auto" and not (settings.cross_validate or settings.leave_one_group_out):
        raise ConfigError("--components auto needs cross-validation: --cross-validate 12")
    labels = linear = None
    if settings.label_errors == "table" and label_error is not None:
        labels = Labels(vectorizer.gradient(x, powers), label_error) if np.any(label_error > 0) else None
    elif settings.label_errors != "none":
        linear = np.flatnonzero(powers.sum(axis=1) == 1)
    return Plan(max(grid) if grid else int(text), grid, labels, linear, settings.scatter == "reml")


def filled(label_errors, used, names, scale):
    """Errors of the labels of the stars used, scaled; gaps take the label's median. None if there are none at all."""
    if label_errors is None:
        return None
    error = np.array(label_errors[used], dtype=np.float64)
    error[~(np.isfinite(error) & (error >= 0))] = np.nan
    for i, name in enumerate(names):
        known = np.isfinite(error[:, i])
        if not known.any():
            raise DataError(f"label {name!r}: no training star has an error: use --label-errors span or none")
        error[~known, i] = np.median(error[known, i])
    return error / scale


def describe(found, plan):
    """Lines for the user."""
    k = found.components.shape[1]
    lines = [f"misfit components: {k} of {plan.n_component} are above the noise; label errors: {plan.label_errors}; "
             f"{len(found.curve)} likelihoods, {'converged' if found.converged else 'NOT converged'}"]
    if k:
        shown = ", ".join(f"{np.sqrt(v):.3g}" for v in found.strength[:10])
        lines.append(f"  signal-to-noise of one unit of each in a mean spectrum: {shown}{', ...' if k > 10 else ''}")
    return lines
