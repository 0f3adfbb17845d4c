"""Training and cross-validation (paper sections 3.1, 3.3, 3.4; equations 1 to 3). Arrays in, a Model out.

`train` checks the labels, builds the terms, fits every pixel (kernels/train.py), infers every star by a model
that has not seen it, and returns the Model with a list of messages for the user.
"""
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numba
import numpy as np

from cannonkit import schema
from cannonkit.bitmasks import FIT_FAILED, PIXEL_STATUS
from cannonkit.errors import DataError, SettingError, UsageError
from cannonkit.kernels import train as kernel
from cannonkit.kernels.vectorizer import design_matrix
from cannonkit.model import Model
from cannonkit.stages import check_terms, components, folds, infer, noise
from cannonkit.stages.censor import terms_on as terms_on_of
from cannonkit.stages.vectorizer import powers_from_terms, powers_of, scaling_of

RULES = {"ml": kernel.ML, "reml": kernel.REML, "median": kernel.MEDIAN, "none": kernel.NONE,
         "fixed": kernel.FIXED}
MAX_FOLDS_AT_ONCE = 24       # memory: a fold's coefficients are those of a whole model
STARS_FOR_NOISE = 512        # the error scale is measured on so many stars
NOTHING = np.empty(0)


@dataclass
class TrainingSet:
    """What a model is trained on. n_star rows in one order.

    flux, ivar  (n_star, n_pix) float32, continuum-normalised; ivar 0 or insane values mask a pixel
    labels      (n_star, n_label) float64, label units; a row with NaN is not used
    id, star_id (n_star,) bytes; group (n_star,): equal values stay in one fold
    wavelength (n_pix,) Angstrom, segment (n_pix,) int, medium 'air' or 'vacuum'
    censor      (n_pix, n_label) uint8, 1 = the label acts (stages.censor); None: everywhere
    s2_given    (n_pix,) fixed scatter (inf: pixel not used), or None
    label_errors (n_star, n_label), label units, for misfit components; NaN: the label's median error; a
                label that is NaN throughout, or None: not known
    """

    flux: np.ndarray
    ivar: np.ndarray
    labels: np.ndarray
    id: np.ndarray
    star_id: np.ndarray
    group: np.ndarray
    wavelength: np.ndarray
    segment: np.ndarray
    medium: str
    label_names: tuple
    label_units: tuple
    censor: np.ndarray | None = None
    s2_given: np.ndarray | None = None
    label_errors: np.ndarray | None = None
    survey: str = ""
    scale_survey: str = ""
    name: str = ""


@dataclass
class Problem:
    """The arrays of kernels/train.py for one training set and one list of terms."""

    rule: int
    flux: np.ndarray
    ivar: np.ndarray
    ivar_scale: np.ndarray
    design: np.ndarray
    products: np.ndarray
    pair_index: np.ndarray
    terms_on: np.ndarray
    penalty: np.ndarray = field(default_factory=lambda: NOTHING)
    low: np.ndarray = field(default_factory=lambda: NOTHING)
    high: np.ndarray = field(default_factory=lambda: NOTHING)
    s2_given: np.ndarray = field(default_factory=lambda: NOTHING)

    def _basis(self, order):
        design = np.ascontiguousarray(self.design[order])
        products = np.ascontiguousarray(self.products[order])
        return kernel.Basis(design, products, products.astype(np.float32), self.pair_index)

    def _rules(self):
        return kernel.Rules(self.terms_on, self.penalty, self.low, self.high)

    def fit(self, advance=None):
        """(theta, s2, status, n_good) of every pixel over all stars. advance(n) is called as pixels are done."""
        n_pix, n_term = self.flux.shape[1], self.design.shape[1]
        theta, s2 = np.empty((n_pix, n_term)), np.empty(n_pix)
        status, n_good = np.empty(n_pix, np.int32), np.empty(n_pix, np.int64)
        order = np.arange(len(self.design))
        basis, rules = self._basis(order), self._rules()
        _over_pixels(n_pix, advance, lambda: (kernel.new_work(basis),), lambda first, stop, work: kernel.fit_block(
            self.rule, self.flux, self.ivar, self.ivar_scale, order, basis, rules, self.s2_given, first, stop, theta,
            s2, status, n_good, work))
        return theta, s2, status, n_good

    def fit_folds(self, fold, numbers, full_s2, likelihood=False, advance=None):
        """Fits without each of the folds `numbers`: (theta (n, n_pix, n_term), s2, status, -2 ln L, its number).

        The likelihood is that of the held-out pixels, per pixel, (0,) if not asked for.
        """
        n_pix, n_term = self.flux.shape[1], self.design.shape[1]
        place = np.full(fold.max() + 1, len(numbers))
        place[numbers] = np.arange(len(numbers))
        order = np.argsort(place[fold], kind="stable")
        start = np.searchsorted(place[fold][order], np.arange(len(numbers) + 1))
        if start[-1] < len(order):
            start = np.append(start, len(order))
        theta = np.empty((len(numbers), n_pix, n_term))
        s2, status = np.empty((len(numbers), n_pix)), np.empty((len(numbers), n_pix), np.int32)
        values, counts = np.zeros(n_pix if likelihood else 0), np.zeros(n_pix if likelihood else 0, np.int64)
        basis, rules = self._basis(order), self._rules()
        _over_pixels(n_pix, advance, lambda: (kernel.new_work(basis), kernel.new_shares(
            self.rule, basis, rules, len(start) - 1)), lambda first, stop, *own: kernel.fit_block_folds(
            self.rule, self.flux, self.ivar, self.ivar_scale, order, start, basis, rules, full_s2, first, stop, theta,
            s2, status, values, counts, *own))
        return theta, s2, status, values, counts

    def with_penalty(self, l1, bounds):
        """The same with an L1 penalty on every term but the constant, and bounds ((n_term,), (n_term,))."""
        n_term = self.design.shape[1]
        if not l1 and bounds is None:
            return replace(self, penalty=NOTHING, low=NOTHING, high=NOTHING)
        penalty = np.full(n_term, float(l1))
        penalty[0] = 0.0
        low, high = bounds if bounds is not None else (np.full(n_term, -np.inf), np.full(n_term, np.inf))
        return replace(self, penalty=penalty, low=low, high=high)


def _over_pixels(n_pix, advance, memory, work):
    """work(first, stop, *memory()) for every block of pixels, spread over numba's number of threads, each with memory
    of its own; advance(n) after each."""
    edges = [(first, min(first + kernel.N_BLOCK, n_pix)) for first in range(0, n_pix, kernel.N_BLOCK)]
    own = threading.local()

    def run(first, stop):
        if not hasattr(own, "memory"):
            own.memory = memory()
        work(first, stop, *own.memory)

    pool = ThreadPoolExecutor(numba.get_num_threads())
    try:
        for (first, stop), done in [(edge, pool.submit(run, *edge)) for edge in edges]:
            done.result()
            if advance is not None:
                advance(stop - first)
    finally:
        pool.shutdown(cancel_futures=True)


def products_of(x, powers):
    """The distinct products of two terms: (products (n_star, n_sum) f8, pair_index (n_term, n_term) i8).

    v_i v_j is a monomial of the labels; products[:, pair_index[i, j]] is it.
    """
    powers = np.asarray(powers, dtype=np.int64)
    pairs = (powers[:, None, :] + powers[None, :, :]).reshape(-1, powers.shape[1])
    monomials, index = np.unique(pairs, axis=0, return_inverse=True)
    return design_matrix(x, monomials), index.reshape(len(powers), len(powers)).astype(np.int64)


def bounds_of(bounds, powers, names):
    """(low, high) (n_term,) from {term: (lowest, highest)}; None if there are none. Raises SettingError."""
    if not bounds:
        return None
    low, high = np.full(len(powers), -np.inf), np.full(len(powers), np.inf)
    for term, pair in bounds.items():
        row = powers_from_terms([term], names)[-1]
        at = np.flatnonzero((powers == row).all(axis=1))
        if len(at) == 0:
            raise SettingError(f"bounds: the model has no term {term!r}", "bounds", "terms", "order")
        if len(pair) != 2 or not pair[0] <= pair[1]:
            raise SettingError(f"bounds: {term}: expected [lowest, highest], found {list(pair)}", "bounds")
        low[at[0]], high[at[0]] = pair
    return low, high


def statistics(difference):
    """(bias, scatter, rms) of held-out minus input labels (n_star, n_label): mean, (84-16)/2, RMS, as the
    paper's figures 3, 4, A1 to A3; NaN ignored."""
    n_label = difference.shape[1]
    result = np.full((3, n_label), np.nan)
    for i in range(n_label):
        d = difference[np.isfinite(difference[:, i]), i]
        if len(d):
            low, high = np.percentile(d, [15.8655, 84.1345])
            result[:, i] = d.mean(), 0.5 * (high - low), np.sqrt(np.mean(d ** 2))
    return result


def train(data, settings, advance=None):
    """Train and cross-validate: (Model, notes, warnings). `settings` has the fields of config.Train.

    advance(n) is called as the pixels of the full fit are done.

    Raises DataError for labels that cannot be trained on (see check_terms), no usable pixel, too few stars in a
    fold; SettingError for settings that contradict each other. Rows with a NaN label are kept, not used.
    """
    notes, warnings = [], []
    names = tuple(data.label_names)
    used = np.isfinite(data.labels).all(axis=1)
    if not used.all():
        missing = ", ".join(f"{n} {np.sum(~np.isfinite(data.labels[:, i]))}" for i, n in enumerate(names)
                            if not np.isfinite(data.labels[:, i]).all())
        warnings.append(f"{np.sum(~used)} of {len(used)} stars have a missing label and are not used ({missing})")
    labels = np.ascontiguousarray(data.labels[used], dtype=np.float64)
    powers = powers_from_terms(settings.terms, names) if settings.terms else powers_of(len(names), settings.order)
    rule = RULES["fixed" if data.s2_given is not None else settings.scatter]
    check_terms.check_labels(labels, names, len(powers), extra=int(rule == kernel.REML))
    for first, second, r in check_terms.correlated_pairs(labels, names):
        warnings.append(f"labels {first} and {second} are correlated (r = {r:.3f}): the model may tell them apart "
                        "badly")
    low, pivot, high = scaling_of(labels)
    x = (labels - pivot) / (high - low)
    products, pair_index = products_of(x, powers)
    n_pix = data.flux.shape[1]
    censor = np.ones((n_pix, len(names)), np.uint8) if data.censor is None else data.censor
    flux = data.flux if used.all() else np.ascontiguousarray(data.flux[used])
    ivar = data.ivar if used.all() else np.ascontiguousarray(data.ivar[used])
    problem = Problem(rule, flux, ivar, np.ones(n_pix), design_matrix(x, powers), products, pair_index,
                      terms_on_of(censor, powers),
                      s2_given=NOTHING if data.s2_given is None else np.asarray(data.s2_given, np.float64))
    warnings += _dependence(problem.design, powers, names)
    problem.ivar_scale, lines = _ivar_scale(problem, data.segment, settings.ivar_scale)
    notes += lines
    fold = _folds(data, used, settings)
    bounds = bounds_of(settings.bounds, powers, names)
    l1, curve = settings.l1, []
    if settings.l1_grid:
        l1, curve = _choose_l1(problem, settings.l1_grid, bounds, fold)
        notes += [f"L1 {value:g}: cross-validated -2 ln L per pixel and star {mean:.6f}" for value, mean in curve]
        notes.append(f"L1 penalty chosen: {l1:g}")
    problem = problem.with_penalty(l1, bounds)

    misfit = components.plan(settings)
    if data.s2_given is not None and misfit is not None:
        raise UsageError("components fit the scatter: they do not go with --scatter-from")

    theta, s2, status, n_good = problem.fit(advance)
    if not np.isfinite(s2).any():
        raise DataError(f"no usable pixel: in every one of {n_pix} pixels fewer of the {len(labels)} stars have data "
                        f"than there are terms ({len(powers)})")
    notes.append(status_counts(status, s2))
    for bit, what in ((kernel.ITERATION_LIMIT, "did not converge"), (kernel.SINGULAR, "have dependent terms")):
        if np.any(status & bit):
            warnings.append(f"{np.sum(status & bit != 0)} of {n_pix} pixels {what}")

    rows = np.zeros(len(used), schema.model_training_table(names).dtype.newbyteorder("="))
    rows["id"], rows["star_id"], rows["used"], rows["fold"] = data.id, data.star_id, used, -1
    for i, name in enumerate(names):
        rows[name], rows[f"cv_{name}"] = data.labels[:, i], np.nan
    rows["cv_cov"] = np.nan
    nothing = np.full(len(names), np.nan)
    options = {"scatter": "fixed" if data.s2_given is not None else settings.scatter, "l1": l1,
               "l1_curve": curve, "n_fold": 0 if fold is None else int(fold.max()) + 1}
    model = Model(
        wavelength=np.asarray(data.wavelength, np.float64), segment=np.asarray(data.segment, np.int16),
        medium=data.medium, theta=theta, s2=s2, pixel_status=status, n_good=n_good.astype(np.int32),
        ivar_scale=problem.ivar_scale, censor=censor, powers=powers, label_names=names,
        label_units=tuple(data.label_units), low=low, pivot=pivot, high=high, bias=nothing, scatter=nothing.copy(),
        rms=nothing.copy(), training=rows, survey=data.survey, scale_survey=data.scale_survey, name=data.name,
        options=options)
    found = None
    if misfit is not None:
        found, lines = _add_components(model, misfit, problem, fold, labels, None if data.label_errors is None
                                       else np.asarray(data.label_errors, np.float64)[used], settings)
        notes += lines
    if fold is not None:
        warnings += _check_folds(problem, powers, names, fold)
        cross_validate(model, problem, fold, misfit, found)
        failed = int(np.sum(model.training["cv_status"][used] & FIT_FAILED != 0))
        if failed:
            warnings.append(f"cross-validation: {failed} of {len(labels)} held-out stars could not be inferred")
        notes.append(f"cross-validation, {fold.max() + 1} folds (held-out minus input):")
        found = zip(names, model.label_units, model.bias, model.scatter, model.rms, strict=True)
        for n, u, bias, scatter, rms in found:
            notes.append(f"  {n}: bias {bias:.4g}, scatter {scatter:.4g}, rms {rms:.4g} {u}".rstrip())
    return model, notes, warnings


def _add_components(model, misfit, problem, fold, labels, label_errors, settings):
    """Turn the classic model into one with misfit components (if any are above the noise): (Fit, notes).

    labels (n_star, n_label) of the stars used, label_errors the same or None; `misfit`, a components.Plan, is given
    them.
    """
    notes = []
    if settings.label_errors == "table" and (label_errors is None or not np.any(label_errors >= 0)):
        notes.append("no errors of the training labels are known: taken for exact by the misfit components")
    elif settings.label_errors == "table":
        inferred = infer.fit(model, problem.flux, problem.ivar)
        measured = statistics(schema.label_array(inferred, model.label_names) - labels)[1]
        error = components.filled(label_errors, measured)
        unknown = ~(label_errors >= 0).any(axis=0)
        notes += [f"{name}: no training star has an error: {value:.3g}, the scatter of the classic model"
                  for name, value, missing in zip(model.label_names, measured, unknown, strict=True) if missing]
        if np.any(error > 0):
            x = model.scaled(labels)
            misfit.labels = components.Labels(x, error / model.scale, model.powers)
    if misfit.grid:
        found, model.options["components_curve"] = misfit.choose(problem, fold, model.theta, model.s2)
        notes += [f"{n} components: cross-validated -2 ln L per pixel and star {mean:.6f}"
                  for n, mean in model.options["components_curve"]]
    else:
        found = misfit.fit(problem, np.arange(len(labels)), model.theta, model.s2)
    model.theta, model.s2, model.components, model.strength = found.theta, found.s2, found.components, found.strength
    model.options["label_errors"] = "exact" if misfit.labels is None else "known"
    model.pixel_status = (model.pixel_status & ~kernel.AT_ZERO | kernel.AT_ZERO * (found.s2 == 0)).astype(np.int32)
    return found, notes + components.describe(found, misfit)


def cross_validate(model, problem, fold, misfit=None, whole=None):
    """Infer every star with a model trained without its fold; fills bias, scatter, rms and the cv_ columns.

    misfit, whole: the components.Plan and Fit of all stars, of a model with components.
    """
    names, used = model.label_names, np.flatnonzero(model.training["used"])
    rows = model.training
    rows["fold"][used] = fold
    for first in range(0, fold.max() + 1, MAX_FOLDS_AT_ONCE):
        numbers = np.arange(first, min(first + MAX_FOLDS_AT_ONCE, fold.max() + 1))
        theta, s2, status, _, _ = problem.fit_folds(fold, numbers, model.s2)
        for k, number in enumerate(numbers):
            more = {}
            if misfit is not None:
                kept = misfit.fit(problem, np.flatnonzero(fold != number), theta[k], s2[k], start=whole)
                theta[k], s2[k], more = kept.theta, kept.s2, {"components": kept.components, "strength": kept.strength}
            held = np.flatnonzero(fold == number)
            training = rows.copy()
            training["used"][used[held]] = 0
            part = replace(model, theta=theta[k], s2=s2[k], pixel_status=status[k], training=training, **more)
            found = infer.fit(part, problem.flux[held], problem.ivar[held])
            for name in names:
                rows[f"cv_{name}"][used[held]] = found[name]
            rows["cv_cov"][used[held]] = found["cov"]
            rows["cv_status"][used[held]] = found["status"]
    held_out = schema.label_array(rows[used], [f"cv_{n}" for n in names])
    model.bias, model.scatter, model.rms = statistics(held_out - schema.label_array(rows[used], names))


def status_counts(status, s2):
    """One line for the user: how many pixels, and how the fits ended. status (n_pix,) int32, s2 (n_pix,)."""
    settled = np.isfinite(s2) & (s2 > 0) & (status & kernel.ITERATION_LIMIT == 0)
    parts = [f"{np.sum(status & bit_value != 0)} {meaning}" for bit_value, meaning in
             ((1 << bit.number, bit.meaning) for bit in PIXEL_STATUS.values()) if np.any(status & bit_value)]
    return "; ".join([f"{len(status)} pixels fitted: {np.sum(settled)} converged with scatter", *parts])


def _dependence(design, powers, names, where=""):
    """Warnings about dependent terms, with the labels named."""
    found = check_terms.dependent_terms(design, powers, names)
    if not found:
        return []
    terms = [t for t, _ in found]
    labels = check_terms.labels_of(terms + [p for _, partners in found for p in partners], powers, names)
    first, partners = found[0]
    more = f" (and {len(found) - 1} more terms)" if len(found) > 1 else ""
    shown = ", ".join(partners[:6]) + (", ..." if len(partners) > 6 else "")
    return [f"dependent terms{where}: {first} is a combination of {shown}{more}; labels {', '.join(labels)} cannot be "
            "told apart. The minimum-norm solution is used: its flux is right for stars like the training "
            "stars, its coefficients are not unique. Leave a label out with --label-names"]


def _check_folds(problem, powers, names, fold):
    """Warnings about terms that are dependent only where a fold is left out. DataError: too few stars are left."""
    if check_terms.dependent_terms(problem.design, powers, names):
        return []
    warnings = []
    for k in range(fold.max() + 1):
        kept = problem.design[fold != k]
        if len(kept) < len(powers):
            raise DataError(f"cross-validation: without fold {k} there are {len(kept)} stars for {len(powers)} terms: "
                            "use more folds, fewer terms, or --cross-validate 0")
        warnings += _dependence(kept, powers, names, f" without fold {k}")
    return warnings


def _folds(data, used, settings):
    """Fold of every used star, or None without cross-validation."""
    group = np.asarray(data.group)[used]
    if settings.leave_one_group_out:
        return folds.leave_one_out(group)
    if settings.cross_validate:
        return folds.folds_of(group, settings.cross_validate, settings.seed)
    return None


def _choose_l1(problem, grid, bounds, fold):
    """(penalty with the best cross-validated likelihood, [(penalty, -2 ln L per held-out pixel of a star)])."""
    if fold is None:
        raise SettingError("l1_grid needs cross-validation: --cross-validate 12", "l1_grid", "cross_validate")
    curve = []
    for l1 in sorted(grid):
        trial = problem.with_penalty(l1, bounds)
        full_s2 = trial.fit()[1]
        value, count = 0.0, 0
        for first in range(0, fold.max() + 1, MAX_FOLDS_AT_ONCE):
            numbers = np.arange(first, min(first + MAX_FOLDS_AT_ONCE, fold.max() + 1))
            *_, values, counts = trial.fit_folds(fold, numbers, full_s2, likelihood=True)
            value, count = value + values.sum(), count + counts.sum()
        curve.append((float(l1), float(value / max(count, 1))))
    return min(curve, key=lambda pair: pair[1])[0], curve


def _ivar_scale(problem, segment, text):
    """((n_pix,) factor on ivar, notes) from the setting."""
    segment = np.asarray(segment)
    segments = np.unique(segment[segment >= 0])         # -1: gaps, without data
    if text.strip() != "measure":
        factors, notes = noise.given_ivar_scale(text, segments), []
    else:
        theta = replace(problem, rule=kernel.NONE).fit()[0]
        some = np.unique(np.linspace(0, len(problem.design) - 1, STARS_FOR_NOISE).astype(int))
        ivar = np.where(np.isfinite(problem.flux[some]) & (problem.ivar[some] > 0), problem.ivar[some], 0)
        residual = np.where(ivar > 0, problem.flux[some], 0) - problem.design[some] @ theta.T
        factors = noise.measure_ivar_scale(residual, ivar, segment)
        notes = ["ivar scale measured: " + ", ".join(f"segment {s} {f:.3f}" for s, f in factors.items())]
    scale = np.ones(len(segment))
    for s, factor in factors.items():
        scale[segment == s] = factor
    return scale, notes
