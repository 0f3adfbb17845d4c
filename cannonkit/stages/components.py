"""Misfit components: F = theta v(x) + U z + noise by maximum marginal likelihood (design.md 5). Arrays in and out.

    fit = components.fit(problem, rows, theta, s2, 20)        # theta, s2: of the classic fit of the stars `rows`

starts from principal components of what the classic fit leaves, and iterates kernels/components.py until -2 ln L of
all stars falls by less than TOLERANCE for each number in U. After each iteration z is brought back to zero mean at
given labels and unit variance by changing theta and U so that the model stays the same (parameter expansion): that is
what many iterations of plain expectation maximisation approach.

Errors of the training labels flatten theta and leave residuals along the label gradients, which components would learn.
Where they are known, the labels that the fit uses are learned first (`_learn`): the posterior mean of label and
spectrum, on the scale of the training labels by a regression. Errors in a posterior mean do not flatten a slope
(Berkson's case), so that from there on labels are exact.
"""
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numba
import numpy as np

from cannonkit.errors import SettingError
from cannonkit.kernels import components as kernel
from cannonkit.kernels import sums
from cannonkit.stages import vectorizer

TOLERANCE = 0.02        # gain of -2 ln L in an iteration per number in U; noise alone gains 1 in all
MAX_ITERATION = 100
N_BLOCK = 32            # pixels that a thread maximises together
LABEL_TURNS = 6         # principal components anew, and better labels, where labels have errors
LABEL_PIXELS = 2048     # labels are learned from so many pixels; about as many know them much better than a survey does
CHOICE_FOLDS = 4        # folds on which the number of components is chosen
FOLD_STEPS = 2          # iterations of a fold; the second gained a hundredth of TOLERANCE in a trial
OVERSAMPLE = 10         # columns of the randomised decomposition beyond those wanted
POWER = 2               # its power iterations
SEED = 1
N_BLOCK = 32            # pixels that a thread takes at a time


@dataclass
class Fit:
    """theta (n_pix, n_term), s2 (n_pix,), components (n_pix, k), strength (k,) of one set of stars.

    k is at most what was asked for: components below the edge of pure noise are left out. curve: -2 ln L of all
    stars, without n ln 2 pi, at the start and after each iteration; converged: it stopped on TOLERANCE. x (n_star,
    n_label): scaled labels that took the place of training labels with errors; None without.
    """

    theta: np.ndarray
    s2: np.ndarray
    components: np.ndarray
    strength: np.ndarray
    curve: list
    converged: bool
    x: np.ndarray | None = None

    def cut(self, number):
        """With the strongest components only; the others' variance is scatter."""
        rest = np.sum(self.components[:, number:] ** 2, axis=1)
        return replace(self, s2=self.s2 + rest, components=np.ascontiguousarray(self.components[:, :number]),
                       strength=self.strength[:number])


@dataclass
class Labels:
    """Training labels with errors, scaled: given, error (n_star, n_label); powers (n_term, n_label): the terms."""

    given: np.ndarray
    error: np.ndarray
    powers: np.ndarray


class _Set:
    """The stars of one fit, cut into blocks; knows of the data and the labels, not of what is fitted.

    design: terms at the stars' labels; powers (n_term, n_label), x (n, n_label): where these are not the problem's own.
    """

    def __init__(self, problem, rows, s2, powers=None):
        self.problem, self.rows, self.powers = problem, np.ascontiguousarray(rows, dtype=np.int64), powers
        self.n, self.n_pix = len(self.rows), problem.flux.shape[1]
        self.usable = np.isfinite(s2)
        self.scale = np.where(self.usable, problem.ivar_scale, 0.0)
        self.moving, self.mix = np.empty(0, np.int64), None
        self.design = np.ascontiguousarray(problem.design[rows])
        self.products, self.pair_index = np.ascontiguousarray(problem.products[rows]), problem.pair_index

    def fix(self, x):
        """Labels x (n, n_label), taken for exact."""
        self.x, self.design = x, vectorizer.design_matrix(x, self.powers)
        self.moving, self.mix = np.empty(0, np.int64), None
        row, column = np.triu_indices(len(self.powers))
        self.products = self.design[:, row] * self.design[:, column]
        self.pair_index = np.empty((len(self.powers),) * 2, np.int64)
        self.pair_index[row, column] = self.pair_index[column, row] = np.arange(len(row))

    def loosen(self, labels):
        """Labels with errors, the terms linear about x."""
        self.moving = np.flatnonzero(self.powers.sum(axis=1) > 0)        # all terms but the constant
        gradient = vectorizer.gradient(self.x, self.powers)
        self.gradient = gradient[:, self.moving]
        away = labels.given[self.rows] - self.x
        self.design = vectorizer.design_matrix(self.x, self.powers) + np.einsum("nti,ni->nt", gradient, away)
        self.mix = self.gradient * labels.error[self.rows][:, None, :]
        return away

    def over_stars(self, work, size=64):
        _spread([(a, min(a + size, self.n)) for a in range(0, self.n, size)], work)

    def over_pixels(self, work):
        _spread([(a, min(a + N_BLOCK, self.n_pix)) for a in range(0, self.n_pix, N_BLOCK)], work)

    def expect(self, theta, s2, components, without=None):
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
        if without is None:
            without = np.empty((0, n_loading)), np.empty((0, n_loading)), np.empty(0)
        tiles = (_rows_of(theta), s2, sums.tiled(loading), sums.pairs_of(loading), mix, *without)
        self.over_stars(lambda a, b: kernel.expect(self.problem.flux, self.problem.ivar, self.scale, self.rows,
                                                   self.design, *tiles, a, b, mean, cov, value))
        return mean, cov, value

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
    start       Fit of more stars (of all, for a fold): from its theta, s2 and labels, FOLD_STEPS iterations do, and the
                last is not evaluated. Its components only stand in for masked pixels; they are found anew
    """
    stars = _Set(problem, rows, s2, None if labels is None else labels.powers)
    classic = theta, s2
    known = np.empty((len(s2), 0))
    if start is not None:
        theta, s2, known = start.theta, start.s2, start.components
    theta, s2 = np.where(stars.usable[:, None], theta, 0.0), np.where(stars.usable & np.isfinite(s2), s2, 0.0)
    kept = _nothing_kept(*theta.shape)
    if start is not None and start.x is not None:
        stars.fix(start.x[rows])
    elif labels is not None:
        theta, s2 = _learn(stars, labels, theta, s2, n_component, kept)
    components = _start(stars, theta, s2, n_component, known)
    if start is None and components.shape[1] > 0:
        # Again: the classic s2 holds the misfit, so that it says too little of the noise of good spectra.
        if labels is None:
            s2 = np.maximum(s2 - np.sum(components ** 2, axis=1), 0.0)
        mean, cov, _ = stars.expect(theta, s2, components)
        _maximise(stars, theta, s2, components, mean, cov, 0.0, kept)
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
    if k == 0 and labels is None:
        theta, s2 = classic
    components, strength = canonical(components, stars.mean_weights(np.where(stars.usable, s2, 0.0))[0])
    x = None
    if labels is not None:
        x = labels.given.copy()
        x[rows] = stars.x
    return Fit(theta, np.where(stars.usable, s2, np.inf), components, strength, curve, converged, x)


def _learn(stars, labels, theta, s2, n_component, kept):
    """(theta, s2) of stars whose labels have errors, all of it at better labels, which become stars.x.

    In each turn the spectra are asked, each by a fit without it and with its labels' errors for a prior, and the answer
    is brought back to the scale of the training labels. A sample of the pixels is enough for that.
    """
    step = max(1, stars.n_pix // LABEL_PIXELS)
    some = replace(stars.problem, flux=np.ascontiguousarray(stars.problem.flux[:, ::step]),
                   ivar=np.ascontiguousarray(stars.problem.ivar[:, ::step]),
                   ivar_scale=stars.problem.ivar_scale[::step], terms_on=stars.problem.terms_on[::step])
    few = _Set(some, stars.rows, np.where(stars.usable, s2, np.inf)[::step], labels.powers)
    few.fix(labels.given[stars.rows])
    parts = theta[::step].copy(), s2[::step].copy(), np.empty((few.n_pix, 0)), np.empty((few.n, 0))
    for _ in range(LABEL_TURNS):
        parts = _turn(few, labels, *parts, n_component)
    stars.fix(few.x)
    nothing = np.empty((stars.n_pix, 0))
    mean, cov, _ = stars.expect(theta, s2, nothing)
    for _ in range(2):                          # each has one step of theta, one of s2
        _maximise(stars, theta, s2, nothing, mean, cov, 0.0, kept)
    return theta, s2


def _turn(stars, labels, theta, s2, components, z, n_component):
    """One turn of `_learn`: (theta, s2, components, z), with z (n, K) what the last two were fitted with."""
    away = stars.loosen(labels)
    at = np.concatenate([z, -np.einsum("nti,ni->nt", stars.gradient, away)], axis=1)
    mean, _, _ = stars.expect(theta, s2, components, _without(stars, s2, at))
    theta, components = calibrate(stars, labels, theta, components, mean)
    kept = _nothing_kept(*theta.shape)
    mean, cov, _ = stars.expect(theta, s2, components)
    _maximise(stars, theta, s2, components, mean, cov, 0.0, kept)
    components = _start(stars, theta, s2, n_component, components)
    if z.shape[1] == 0:
        s2 = np.maximum(s2 - np.sum(components ** 2, axis=1), 0.0)
    mean, cov, _ = stars.expect(theta, s2, components)
    _maximise(stars, theta, s2, components, mean, cov, 0.0, kept)
    return theta, s2, components, mean


def _without(stars, s2, at):
    """(at, share, own) of the kernel, which judge each star by a fit without it, for weights w_n w_p."""
    of_star = stars.mean_weights(s2)[1]
    k = at.shape[1] - len(stars.moving)
    terms = stars.design.copy()
    terms[:, stars.moving] += at[:, k:]
    fitted = np.concatenate([at[:, :k], terms], axis=1)
    weighted = fitted * of_star[:, None]
    solved = np.linalg.lstsq(fitted.T @ weighted, weighted.T, rcond=1e-12)[0].T
    solved /= np.maximum(1.0 - np.einsum("ni,ni->n", solved, fitted), 0.1)[:, None]
    return (np.ascontiguousarray(at), np.ascontiguousarray(solved[:, np.concatenate([np.arange(k), k + stars.moving])]),
            np.einsum("ni,ni->n", solved[:, k:], stars.design))


def calibrate(stars, labels, theta, components, mean):
    """(theta, components) on the scale of the training labels, and stars.x their labels; mean of (z, y) as expected.

    Theta from labels with errors has a stretched scale, and expectation maximisation leaves it slowly: spectra know
    labels better than the training set does, so that each step believes the scale that theta has. What spectra say has
    small errors, and the large ones of the training labels are in what it is compared with: their regression on a
    quadratic of the labels that spectra give, and on z (what a component does to labels), is free of that bias. A label
    that is censored anywhere moves no other.
    """
    powers, on = stars.powers, np.asarray(stars.problem.terms_on)[stars.usable].all(axis=0)
    k, n_label = components.shape[1], stars.x.shape[1]
    given, error = labels.given[stars.rows], labels.error[stars.rows]
    x = given + (np.linalg.pinv(stars.gradient) @ mean[:, k:, None])[:, :, 0]
    z, design = mean[:, :k], vectorizer.design_matrix(x, powers)
    scale, with_z = np.empty_like(x), np.empty((k, n_label))
    degree = powers.sum(axis=1)
    free = np.array([on[powers[:, i] == degree].all() for i in range(n_label)])
    for i in range(n_label):
        if not np.any(error[:, i] > 0):
            scale[:, i], with_z[:, i] = x[:, i], 0.0
            continue
        others = ~free
        others[i] = False
        use = (degree <= 2) & (powers[:, others] == 0).all(axis=1)
        root = 1.0 / np.maximum(error[:, i], 0.1 * np.median(error[:, i]))[:, None]
        basis = np.concatenate([design[:, use], z], axis=1) * root
        found = np.linalg.lstsq(basis, given[:, i] * root[:, 0], rcond=1e-10)[0]
        scale[:, i], slope = design[:, use] @ found[:len(found) - k], found[len(found) - k:]
        noise = np.diag(np.linalg.pinv(basis.T @ basis, hermitian=True))[len(found) - k:]
        true = max(np.mean(slope ** 2 - noise), 0.0) if k else 0.0
        with_z[:, i] = slope * true / (true + noise)              # shrunk by their scatter over the components
    change = np.linalg.lstsq(vectorizer.design_matrix(scale, powers), design, rcond=1e-10)[0]
    theta = theta @ change.T * stars.problem.terms_on
    slope = vectorizer.gradient(scale, powers).mean(axis=0)
    stars.fix(scale + z @ with_z)
    return theta, np.ascontiguousarray(components - theta @ slope @ with_z.T)


def held_out(problem, rows, found, labels=None):
    """-2 ln L, without n ln 2 pi, of stars `rows` that a Fit has not seen."""
    stars = _Set(problem, rows, found.s2, None if labels is None else labels.powers)
    given = found.theta, np.where(stars.usable, found.s2, 0.0), found.components
    if labels is not None:
        stars.fix(labels.given[rows])
        for _ in range(2):              # the terms are linear about what the spectrum says
            away = stars.loosen(labels)
            mean, _, value = stars.expect(*given)
            stars.x = stars.x + away + (np.linalg.pinv(stars.gradient) @ mean[:, given[2].shape[1]:, None])[:, :, 0]
        return value.sum()
    return stars.expect(*given)[2].sum()


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
    the Tracy-Widom law (one sample of noise in a hundred has more), is left out. What the components `known` (n_pix,
    any) explain stands in for masked pixels: zeros there would be noise in proportion to the misfit.
    """
    design, explained = stars.design, np.zeros((stars.n, 0))
    weight, of_star = stars.mean_weights(s2)
    back = known * np.sqrt(weight)[:, None]
    if known.shape[1]:
        mean = stars.expect(theta, s2, known)[0]
        design, theta = np.concatenate([design, mean], axis=1), np.concatenate([theta, known], axis=1)
        explained = mean * np.sqrt(of_star)[:, None]
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
    matrix = (q.T @ probe) @ np.linalg.inv(r)
    n_used = np.count_nonzero(weight)
    freedom = stars.n - stars.design.shape[1]
    matrix, total, ratio = 0.5 * (matrix + matrix.T) / freedom, total.sum() / freedom, n_used / freedom
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
    problem = stars.problem
    row, column = np.triu_indices(mean.shape[1])
    second = (cov + mean[:, row] * mean[:, column]).astype(np.float32)
    arrays = (stars.design, np.ascontiguousarray(stars.design.T), stars.products, stars.pair_index, problem.terms_on,
              mean, np.ascontiguousarray(mean.T), second, np.ascontiguousarray(cov.T, dtype=np.float32))
    stars.over_pixels(lambda a, b: kernel.maximise(problem.flux, problem.ivar, stars.scale, stars.rows, *arrays, spent,
                                                   a, b, theta, s2, components, kept))


def _nothing_kept(n_pix, n_term):
    return kernel.Kept(np.empty((n_pix, n_term, n_term)), np.empty((n_pix, n_term)), np.zeros(n_pix, np.int64),
                       np.full(n_pix, np.nan))


def _expand(stars, theta, components, mean, cov, everywhere):
    """theta and components with z of zero mean at given labels and of unit variance, the model the same."""
    terms = stars.design[:, everywhere]
    on_terms = np.zeros((theta.shape[1], mean.shape[1]))
    on_terms[everywhere] = np.linalg.lstsq(terms, mean, rcond=1e-12)[0]
    left = mean - terms @ on_terms[everywhere]
    root = np.linalg.cholesky((left.T @ left + _symmetric(cov.sum(axis=0))) / stars.n)
    return theta + components @ on_terms.T, np.ascontiguousarray(components @ root)


def _symmetric(packed):
    """The symmetric matrix of its upper triangle, row-major."""
    size = int(np.sqrt(2 * len(packed)))
    out = np.empty((size, size))
    row, column = np.triu_indices(size)
    out[row, column] = out[column, row] = packed
    return out


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
        """(Fit of all stars, [(number, -2 ln L per held-out pixel of a star)]) for the numbers of the grid.

        One fit of the largest number, and one without each of CHOICE_FOLDS folds, are cut to their strongest
        components; what is cut off goes to the scatter. The number wanted becomes the smallest whose -2 ln L of all
        stars held out is within 2 of the least. theta, s2: the classic fit of all stars.
        """
        stars = np.arange(len(fold))
        whole = self.fit(problem, stars, theta, s2)
        most = whole.components.shape[1]
        numbers = sorted({0, most, *(number for number in self.grid if number < most)})
        total, n_value = np.zeros(len(numbers)), 0
        for k in range(min(CHOICE_FOLDS, fold.max() + 1)):
            found, held = self.fit(problem, stars[fold != k], theta, s2, start=whole), stars[fold == k]
            total += [held_out(problem, held, found.cut(number), self.labels) for number in numbers]
            n_value += sum(np.count_nonzero((problem.ivar[a] > 0) & np.isfinite(problem.flux[a])) for a in held)
        self.n_component = numbers[np.flatnonzero(total <= total.min() + 2.0)[0]]
        if self.n_component == 0:
            whole = whole.cut(0)
            whole.theta, whole.s2 = theta, s2
        elif self.n_component < most:
            whole = self.fit(problem, stars, theta, s2, start=whole)
        return whole, [(number, float(value / n_value)) for number, value in zip(numbers, total, strict=True)]


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
