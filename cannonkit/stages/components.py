"""Misfit components: F = theta v(x) + U z + noise by maximum marginal likelihood (design.md 5). Arrays in and out.

    fit = components.fit(problem, rows, theta, s2, 20)        # theta, s2: of the classic fit of the stars `rows`

starts from principal components of what the classic fit leaves, and iterates kernels/components.py until -2 ln L of
all stars falls by less than TOLERANCE for each number in U. After each iteration z is brought back to zero mean at
given labels and unit variance by changing theta and U so that the model stays the same (parameter expansion): that is
what many iterations of plain expectation maximisation approach.

Errors of the training labels leave residuals along the label gradients J_n, which components would learn. Where they
are known, the true labels of a star are unknowns too: Gaussian about the training labels (shrunk towards the mean of
all, as errors widen a distribution), so that J_n S_n J_n' is part of the covariance, theta is fitted to what labels
and spectrum say together, and errors of inferred labels are against the truth. Where labels are taken for exact, the
errors of inferred labels come to hold those of the training labels: they are against the label scale.
"""
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np

from cannonkit.errors import SettingError
from cannonkit.kernels import components as kernel
from cannonkit.kernels import sums
from cannonkit.stages import vectorizer

TOLERANCE = 0.02        # gain of -2 ln L in an iteration per number in U; noise alone gains 1 in all
MAX_ITERATION = 100
LABEL_STARTS = 3        # principal components anew, and terms about better labels, where labels have errors
FOLD_STEPS = 2          # iterations of a fold; the second gained a hundredth of TOLERANCE in a trial
OVERSAMPLE = 10         # columns of the randomised decomposition beyond those wanted
POWER = 2               # its power iterations
SEED = 1
N_BLOCK = 32            # pixels that a thread takes at a time


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
    """What is known of the training stars' true labels x: Gaussians of mean `centre` and covariance root root'.

    centre (n_star, n_label), root (n_star, n_label, n_label), both scaled; powers (n_term, n_label): the terms.
    """

    centre: np.ndarray
    root: np.ndarray
    powers: np.ndarray

    @property
    def moving(self):
        """Terms that change with the labels: all but the constant."""
        return np.flatnonzero(self.powers.sum(axis=1) > 0)

    def terms(self, rows, x=None):
        """(terms, gradient) of the stars `rows`: v linear about x (n, n_label; default: centre), at the centre."""
        centre = self.centre[rows]
        x = centre if x is None else x
        gradient = vectorizer.gradient(x, self.powers)
        return (vectorizer.design_matrix(x, self.powers) + np.einsum("nti,ni->nt", gradient, centre - x),
                gradient[:, self.moving])


def labels_from(x, error, powers):
    """Labels from training labels x (n_star, n_label) with errors (n_star, n_label), scaled.

    The distribution of true labels is taken for a Gaussian with the mean of x and its covariance less the mean
    S = error^2; given x it has the mean mu + C (C + S)^-1 (x - mu) and the covariance S - S (C + S)^-1 S.
    """
    mean, noise = x.mean(axis=0), error ** 2
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False) - np.diag(noise.mean(axis=0)))
    spread = (vectors * np.maximum(values, 1e-3 * values.max())) @ vectors.T
    s = noise[:, :, None] * np.eye(x.shape[1])
    gain = np.linalg.solve(spread + s, s).transpose(0, 2, 1)              # S (C + S)^-1
    values, vectors = np.linalg.eigh(s - gain @ s)
    return Labels(x - np.einsum("nij,nj->ni", gain, x - mean), vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :],
                  np.asarray(powers))


class _Set:
    """The stars of one fit, cut into blocks; knows of the data and the labels, not of what is fitted."""

    def __init__(self, problem, rows, s2, labels):
        self.problem, self.rows, self.labels = problem, np.ascontiguousarray(rows, dtype=np.int64), labels
        self.n, self.n_pix = len(self.rows), problem.flux.shape[1]
        self.usable = np.isfinite(s2)
        self.scale = np.where(self.usable, problem.ivar_scale, 0.0)
        self.moving, self.mix = np.empty(0, np.int64), None
        self.design = np.ascontiguousarray(problem.design[rows])
        if labels is not None:
            self.moving = labels.moving
            self.linearise()

    def linearise(self, x=None):
        """Terms linear about labels x (n, n_label); None: about their centre."""
        self.design, self.gradient = self.labels.terms(self.rows, x)
        self.mix = self.gradient @ self.labels.root[self.rows]

    def moved(self, change):
        """Mean of the true labels less their centre (n, n_label), from the mean of y, `change` (n, n_moving)."""
        return (np.linalg.pinv(self.gradient) @ change[:, :, None])[:, :, 0]

    def follow(self, theta, change):
        """theta for which stars of like labels are on average at their labels' centre; terms made linear there.

        Expectation maximisation comes to that slowly: spectra know labels better than the training set does, so that
        each step believes the scale that theta has. An affine map of the labels keeps the terms' space; a label that is
        censored anywhere moves no other.
        """
        centre, moved = self.labels.centre[self.rows], self.moved(change)
        powers, on = self.labels.powers, np.asarray(self.problem.terms_on)[self.usable].all(axis=0)
        one = np.concatenate([np.ones((self.n, 1)), centre], axis=1)
        shift = np.empty_like(centre)
        for i in range(centre.shape[1]):
            use = [0, *(1 + j for j in range(centre.shape[1]) if j == i or on[powers[:, j] > 0].all())]
            shift[:, i] = one[:, use] @ np.linalg.lstsq(one[:, use], moved[:, i], rcond=1e-10)[0]
        design = vectorizer.design_matrix(centre, powers)
        change_of_terms = np.linalg.lstsq(design, vectorizer.design_matrix(centre + shift, powers), rcond=1e-10)[0]
        self.linearise(centre + moved - shift)
        return theta @ change_of_terms.T * self.problem.terms_on

    def over_stars(self, work, size=64):
        _spread([(a, min(a + size, self.n)) for a in range(0, self.n, size)], work)

    def over_pixels(self, work):
        _spread([(a, min(a + N_BLOCK, self.n_pix)) for a in range(0, self.n_pix, N_BLOCK)], work)

    def expect(self, theta, s2, components):
        """(mean, cov, -2 ln L of each star) of (z, y): see the kernel."""
        loading = np.concatenate([components, theta[:, self.moving]], axis=1)
        n_loading, k = loading.shape[1], components.shape[1]
        mean, value = np.empty((self.n, n_loading)), np.empty(self.n)
        cov = np.empty((self.n, n_loading * (n_loading + 1) // 2))
        mix = np.empty((0, k, k))
        if self.mix is not None:
            n_moving, n_label = self.mix.shape[1:]
            mix = np.zeros((self.n, k + n_moving, k + n_label))
            mix[:, np.arange(k), np.arange(k)] = 1.0
            mix[:, k:, k:] = self.mix
        tiles = (_rows_of(theta), s2, sums.tiled(loading), sums.pairs_of(loading), mix)
        self.over_stars(lambda a, b: kernel.expect(self.problem.flux, self.problem.ivar, self.scale, self.rows,
                                                   self.design, *tiles, a, b, mean, cov, value))
        return mean, cov, value

    def terms(self, change):
        """(a, products, pair_index): the mean terms, with mean y `change` (n, n_moving), and products of two."""
        if self.mix is None:
            return self.design, np.ascontiguousarray(self.problem.products[self.rows]), self.problem.pair_index
        terms = self.design.copy()
        terms[:, self.moving] += change
        n_term = terms.shape[1]
        row, column = np.triu_indices(n_term)
        pair_index = np.empty((n_term, n_term), np.int64)
        pair_index[row, column] = pair_index[column, row] = np.arange(len(row))
        return terms, terms[:, row] * terms[:, column], pair_index

    def mean_weights(self, s2):
        """((n_pix,), (n,)): mean weight of each pixel, and each star's weights in units of that."""
        of_pixel, of_star = np.empty(self.n_pix), np.empty(self.n)
        kernel.mean_weights(self.problem.flux, self.problem.ivar, self.scale, self.rows, s2, of_pixel, of_star)
        return of_pixel, of_star


def fit(problem, rows, theta, s2, n_component, labels=None, restricted=False, start=None):
    """Fit up to n_component components to the stars `rows` (n,) of a stages.train.Problem: a Fit.

    theta, s2   the classic fit of the same stars; pixels with s2 infinite stay out (theta and components 0)
    labels      Labels of all the problem's stars, or None for exact labels
    restricted  s2 makes up for the degrees of freedom that theta and U take (to first order)
    start       Fit of more stars (of all, for a fold): from its theta and s2, FOLD_STEPS iterations do, and the last
                is not evaluated. Its components only tell label errors from misfit in the residuals of `rows` and
                stand in for masked pixels; the principal components are found anew
    """
    stars = _Set(problem, rows, s2, labels)
    classic = theta, s2
    known = np.empty((len(s2), 0))
    if start is not None:
        theta, s2, known = start.theta, start.s2, start.components
    theta, s2 = np.where(stars.usable[:, None], theta, 0.0), np.where(stars.usable & np.isfinite(s2), s2, 0.0)
    kept = _nothing_kept(*theta.shape)
    if start is not None and labels is not None:
        stars.linearise(labels.centre[rows] + stars.moved(stars.expect(theta, s2, known)[0][:, known.shape[1]:]))
    components = _start(stars, theta, s2, n_component, known)
    # Again: the classic s2 holds the misfit, so that it says too little of the noise of good spectra, and the classic
    # theta has seen the label errors.
    for turn in range(0 if start is not None else 1 if labels is None else LABEL_STARTS):
        if components.shape[1] == 0:
            break
        if turn == 0:
            s2 = np.maximum(s2 - np.sum(components ** 2, axis=1), 0.0)
        mean, cov, _ = stars.expect(theta, s2, components)
        _maximise(stars, theta, s2, components, mean, cov, 0.0, kept)
        if labels is not None:
            theta = stars.follow(theta, stars.expect(theta, s2, components)[0][:, components.shape[1]:])
            kept = _nothing_kept(*theta.shape)
        components = _start(stars, theta, s2, n_component, components)
    everywhere = np.asarray(problem.terms_on)[stars.usable].all(axis=0)
    k = components.shape[1]
    spent = float(theta.shape[1] + k) if restricted else 0.0
    curve, before, gain = [], None, np.inf
    for iteration in range(MAX_ITERATION + 1):
        if start is not None and iteration == FOLD_STEPS:
            converged = True
            break
        mean, cov, value = stars.expect(theta, s2, components)
        curve.append(float(value.sum()))
        if iteration > 0:
            gain = curve[-2] - curve[-1]
        converged = k == 0 or gain < TOLERANCE * k * np.count_nonzero(stars.usable)
        if converged or iteration == MAX_ITERATION:
            break
        before = theta.copy(), s2.copy(), components.copy()
        _maximise(stars, theta, s2, components, mean, cov, spent, kept)
        theta, components = _expand(stars, theta, components, mean, cov, everywhere)
    if gain < 0.0:
        theta, s2, components = before
        curve.pop()
    if k == 0:
        theta, s2 = classic
    components, strength = canonical(components, stars.mean_weights(np.where(stars.usable, s2, 0.0))[0])
    return Fit(theta, np.where(stars.usable, s2, np.inf), components, strength, curve, converged)


def held_out(problem, rows, found, labels=None):
    """-2 ln L, without n ln 2 pi, of stars `rows` that a Fit has not seen."""
    stars = _Set(problem, rows, found.s2, labels)
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
    the Tracy-Widom law (one sample of noise in a hundred has more), is left out. The covariance expected
    from label errors, and three times its sampling error, is taken off before. What the components `known` (n_pix, any)
    and label errors explain stands in for masked pixels: zeros there would be noise in proportion to the misfit.
    """
    design, explained = stars.design, np.zeros((stars.n, 0))
    weight, of_star = stars.mean_weights(s2)
    gradient = theta[:, stars.moving] * np.sqrt(weight)[:, None]
    back = np.concatenate([known * np.sqrt(weight)[:, None], gradient], axis=1)
    if back.shape[1]:
        mean = stars.expect(theta, s2, known)[0]
        design = np.concatenate([design, mean], axis=1)
        theta = np.concatenate([theta, known, theta[:, stars.moving]], axis=1)
        explained = mean * np.sqrt(of_star)[:, None]
    width = min(n_component + OVERSAMPLE + len(stars.moving), stars.n, stars.n_pix)
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
    matrix = (q.T @ probe) @ np.linalg.inv(r)
    n_used = np.count_nonzero(weight)
    freedom = stars.n - stars.design.shape[1]
    matrix, total, ratio = 0.5 * (matrix + matrix.T) / freedom, total.sum() / freedom, n_used / freedom
    if len(stars.moving):
        spread = np.einsum("n,nij,nkj->ik", of_star, stars.mix, stars.mix) / stars.n
        inside = q.T @ gradient
        matrix -= (1.0 + 3.0 * np.sqrt(2.0 / stars.n)) * (inside @ spread @ inside.T)
        total -= np.trace(gradient.T @ gradient @ spread)
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1][:n_component], (q @ vectors)[:, ::-1][:, :n_component]
    edge = (1.0 + np.sqrt(ratio)) ** 2 * (1.0 + 2.02 * (freedom ** -0.5 + n_used ** -0.5) ** (1 / 3)
                                          / (freedom ** 0.5 + n_used ** 0.5))
    noise = total / n_used
    for _ in range(5):                       # the noise is what the components leave
        excess = values / noise - 1.0 - ratio
        kept = values / noise > edge
        own = 0.5 * (excess + np.sqrt(np.maximum(excess ** 2 - 4.0 * ratio, 0.0)))
        noise = (total - np.sum(noise * own[kept])) / n_used
    scale = np.zeros(stars.n_pix)
    scale[weight > 0] = 1.0 / np.sqrt(weight[weight > 0])
    return np.ascontiguousarray(vectors[:, kept] * np.sqrt(noise * own[kept]) * scale[:, None])


def _maximise(stars, theta, s2, components, mean, cov, spent, kept):
    """One maximisation step, in place; the arrays that the kernel wants made from the posterior."""
    problem, k = stars.problem, components.shape[1]
    row, column = np.triu_indices(mean.shape[1])
    second = cov.astype(np.float32)
    of_z = column < k
    second[:, of_z] += mean[:, row[of_z]] * mean[:, column[of_z]]
    terms, products, pair_index = stars.terms(mean[:, k:])
    z = np.ascontiguousarray(mean[:, :k])
    arrays = (terms, np.ascontiguousarray(terms.T), products, pair_index, problem.terms_on, stars.moving, z,
              np.ascontiguousarray(z.T), second, np.ascontiguousarray(cov.T, dtype=np.float32))
    stars.over_pixels(lambda a, b: kernel.maximise(problem.flux, problem.ivar, stars.scale, stars.rows, *arrays, spent,
                                                   a, b, theta, s2, components, kept))


def _nothing_kept(n_pix, n_term):
    return kernel.Kept(np.empty((n_pix, n_term, n_term)), np.empty((n_pix, n_term)), np.zeros(n_pix, np.int64),
                       np.full(n_pix, np.nan))


def _expand(stars, theta, components, mean, cov, everywhere):
    """theta and components with z of zero mean at given labels and of unit variance, the model the same."""
    k, n_loading = components.shape[1], mean.shape[1]
    spread = np.empty((n_loading, n_loading))
    row, column = np.triu_indices(n_loading)
    spread[row, column] = spread[column, row] = cov.sum(axis=0)
    terms = stars.terms(mean[:, k:])[0]
    z = mean[:, :k]
    both = terms.T @ z
    both[stars.moving] += spread[k:, :k]
    square = terms.T @ terms
    square[np.ix_(stars.moving, stars.moving)] += spread[k:, k:]
    on_terms = np.zeros_like(both)
    on_terms[everywhere] = np.linalg.lstsq(square[np.ix_(everywhere, everywhere)], both[everywhere], rcond=1e-12)[0]
    left = z.T @ z + spread[:k, :k] - on_terms.T @ both - both.T @ on_terms + on_terms.T @ square @ on_terms
    root = np.linalg.cholesky(left / stars.n)
    return theta + components @ on_terms.T, np.ascontiguousarray(components @ root)


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
    labels: Labels of all stars or None (exact labels); restricted: see `fit`
    """

    n_component: int
    grid: tuple
    labels: Labels | None
    restricted: bool

    def fit(self, problem, rows, theta, s2, n_component=None, start=None):
        return fit(problem, rows, theta, s2, self.n_component if n_component is None else n_component, self.labels,
                   self.restricted, start)

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
                total += held_out(problem, stars[fold == k], found, self.labels)
                most = max(most, found.components.shape[1])
            curve.append((number, float(total / n_value)))
            if most < number or (len(curve) > 2 and curve[-1][1] > curve[-2][1] > curve[-3][1]):
                break
        least = min(value for _, value in curve)
        self.n_component = min(number for number, value in curve if value <= least + 2.0 / n_value)
        return curve


def plan(settings):
    """The Plan of cc-train's settings, without labels; None for the classic model.

    Raises SettingError for settings that do not go with components.
    """
    text = str(settings.components).strip()
    if text == "0":
        return None
    if text != "auto" and not text.isdecimal():
        raise SettingError(f"components {text!r}: expected a whole number from 0, or auto", "components")
    if settings.scatter not in ("ml", "reml"):
        raise SettingError(f"components go with scatter ml or reml, not {settings.scatter}", "components", "scatter")
    if settings.l1 or settings.l1_grid or settings.bounds:
        raise SettingError("components go with neither an L1 penalty nor bounds of coefficients", "components", "l1",
                           "l1_grid", "bounds")
    grid = tuple(settings.components_grid) if text == "auto" else ()
    if text == "auto" and not (settings.cross_validate or settings.leave_one_group_out):
        raise SettingError("components auto needs cross-validation: --cross-validate 12", "components",
                           "cross_validate")
    return Plan(max(grid) if grid else int(text), grid, None, settings.scatter == "reml")


def filled(label_errors, measured):
    """Errors (n_star, n_label) without gaps: a label's median error for a star that has none, `measured` (n_label,) for
    a label that no star has one of."""
    error = np.array(label_errors, dtype=np.float64)
    error[~(np.isfinite(error) & (error >= 0))] = np.nan
    for column, value in zip(error.T, measured, strict=True):
        known = np.isfinite(column)
        column[~known] = np.median(column[known]) if known.any() else value
    return error


def describe(found, plan):
    """Lines for the user."""
    k = found.components.shape[1]
    lines = [f"misfit components: {k} of {plan.n_component} are above the noise; labels "
             f"{'exact' if plan.labels is None else 'with errors'}; {len(found.curve)} likelihoods, "
             f"{'converged' if found.converged else 'NOT converged'}"]
    if k:
        shown = ", ".join(f"{np.sqrt(v):.3g}" for v in found.strength[:10])
        lines.append(f"  signal-to-noise of one unit of each in a mean spectrum: {shown}{', ...' if k > 10 else ''}")
    return lines
