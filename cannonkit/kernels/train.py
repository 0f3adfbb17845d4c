"""Training (paper equation 3): theta and s2 of every pixel, jointly, by blocks of pixels. Compiled.

Over theta and s2 >= 0, for each pixel,

    L = sum_n [ w_n r_n^2 - ln w_n ],  r = F - V theta,  w = ivar / (1 + ivar s2)      (+ ln|V'WV| if restricted)

theta(s2) solves M theta = V'WF with M = V'WV. M has n_term^2 entries but few distinct ones: the products of
two terms are monomials of the labels, 210 for 28 terms of 6 labels, so M of a block of pixels is one matrix
product W (pixels, stars) @ (stars, 210). Steps:

1. M and theta at s2 = 0, residuals; all minima in s2 at these residuals (scatter.scan; no products).
2. M at the minimum found; then Newton steps in (theta, ln s2) together, with that M kept:
   d theta = M^-1 (g - s2 dt h),  g = V'Wr, h = V'W^2 r,
   dt = -(s2 f + 2 s2 h'M^-1 g) / (s2^2 f' + s2 f - 2 s2^2 h'M^-1 h),
   which cost two products with 28 columns instead of one with 210. h is kept from the first step.
3. Where a step is too long or theta stops converging, M is made anew at the present s2.

What the steps converge to depends on g and f, which are sums in float64; M sets only how fast. So M is a product in
float32, which takes 0.4 of the time, except where terms are nearly dependent (a pivot below QUICK).
Restricted likelihood and penalised coefficients need theta exact at each s2 and take float64 throughout.

Folds start from the full fit: M of the full set less the fold's own share, which for all folds together costs
one product. A block is always the same N_BLOCK pixels and is computed by one thread: the bits do not depend on the
number of threads. BLAS must use one thread (process.set_threads sees to that in the commands).

Products go through the stars by tiles of TILE, whose weights stay in the cache from the pass that makes them to the
product; a block is many pixels because BLAS rearranges the terms of a tile for each product, however few its rows.
"""
from typing import NamedTuple

import numpy as np
from numba import njit

from cannonkit.kernels import dense, scatter
from cannonkit.kernels.copying import copy_matrix, copy_vector
from cannonkit.kernels.spectrum import is_sane

N_BLOCK = 128
TILE = 256

# Scatter rules.
ML, REML, MEDIAN, NONE, FIXED = 0, 1, 2, 3, 4

# Pixel status: the numbers of bitmasks.PIXEL_STATUS (a test compares them).
AT_ZERO, TOO_FEW_STARS, ALL_MASKED, SINGULAR, ITERATION_LIMIT = 1, 2, 4, 8, 16
UNUSABLE = TOO_FEW_STARS | ALL_MASKED

QUICK = 1e-3         # smallest pivot of a normal matrix from float32 sums, which are good to about 1e-6
MAX_STEP = 12        # Newton steps with one M
MAX_REFRESH = 60     # new M per minimum
MAX_POLISH = 6       # of them, with Newton steps; then the slower search
FEW = 10             # effective stars per term below which the profile is scanned itself
MAX_SWEEP = 100000   # of coordinate descent
LASSO_TOLERANCE = 1e-9

# Of functions that only compiled ones call: without the code that hands over Python's objects a third less to compile.
INNER = {"cache": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

FOLD_TOLERANCES = (1e-6, 1e-3)
START_TOLERANCE = 0.1        # step in ln s2 that ends the search at fixed residuals
TOLERANCES = (1e-8, 3e-3)    # gain of theta, step in ln s2 before the last one, which leaves about its square

# Where _converge starts: from s2 and some theta; the same with the residuals at theta in work.residual; with the
# factors of M there; with the factors and the theta that solves M; within the brackets of `memory`.
FRESH, KEPT, FACTORED, READY, BRACKETED = 0, 1, 2, 3, 4


class Basis(NamedTuple):
    """The terms at the training stars: design (n_star, n_term), the distinct products of two terms (n_star, n_sum),
    the same in float32, and pair_index (n_term, n_term): the column of them that holds v_i v_j.
    """

    design: np.ndarray
    products: np.ndarray
    products_single: np.ndarray
    pair_index: np.ndarray


class Rules(NamedTuple):
    """Which terms act in each pixel (n_pix, n_term) uint8; L1 penalty and bounds (n_term,), or (0,) for none."""

    terms_on: np.ndarray
    penalty: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Block(NamedTuple):
    """A block of pixels: data (n, n_star) float32, what is fitted, and the factor of each normal matrix.

    n_fitted: terms that act; trace: see scatter; factor, scale, n_dependent: see dense.factorise.
    """

    flux: np.ndarray
    ivar: np.ndarray
    n_good: np.ndarray
    n_fitted: np.ndarray
    theta: np.ndarray
    s2: np.ndarray
    status: np.ndarray
    trace: np.ndarray
    factor: np.ndarray
    scale: np.ndarray
    n_dependent: np.ndarray


class Work(NamedTuple):
    """Memory of a thread for its blocks, one after the other: new memory for each costs a third of the fit.

    flux, ivar, residual (n, n_star), results (n, n_term) and (n, n_sum), and, flat, what is cut to the size of a tile
    and a product: three in float64 and one in float32, and the product of a tile in both.
    """

    flux: np.ndarray
    ivar: np.ndarray
    residual: np.ndarray
    small: np.ndarray
    gradient: np.ndarray
    right: np.ndarray
    sums: np.ndarray
    one: np.ndarray
    two: np.ndarray
    three: np.ndarray
    single: np.ndarray
    part: np.ndarray
    part_single: np.ndarray


class Shares(NamedTuple):
    """Memory of a thread for folds: normal matrix and right-hand side of each share, (n_share, n, n_sum) and (n_share,
    n, n_term), V'W^2 V as the first or (0, n, n_sum) if it is not needed, and ivar (n, n_star)."""

    sums: np.ndarray
    right: np.ndarray
    squares: np.ndarray
    ivar: np.ndarray


def new_work(basis):
    """A Work for N_BLOCK pixels."""
    (n_star, n_term), n_sum = basis.design.shape, basis.products.shape[1]
    n, tile = N_BLOCK, N_BLOCK * min(TILE, n_star)
    return Work(np.empty((n, n_star), np.float32), np.empty((n, n_star), np.float32), np.empty((n, n_star)),
                np.empty((n, n_term)), np.empty((n, n_term)), np.empty((n, n_term)), np.empty((n, n_sum)),
                np.empty(tile), np.empty(tile), np.empty(tile), np.empty(tile, np.float32), np.empty(n * n_sum),
                np.empty(n * n_sum, np.float32))


def new_shares(rule, basis, rules, n_share):
    """A Shares for N_BLOCK pixels; penalised coefficients need no shares of the sums."""
    (n_star, n_term), n_sum = basis.design.shape, basis.products.shape[1]
    plain = n_share if rules.penalty.shape[0] == 0 else 0
    return Shares(np.empty((plain, N_BLOCK, n_sum)), np.empty((plain, N_BLOCK, n_term)),
                  np.empty((plain if rule == REML else 0, N_BLOCK, n_sum)), np.empty((N_BLOCK, n_star), np.float32))


@njit(**INNER, error_model="numpy")
def _read_stars(flux, ivar, stars, ivar_scale, first, stop, out_flux, out_ivar, n_good):
    """The pixels [first, stop) of some stars; what is not sane gets flux 0 and ivar 0. n_good is added to."""
    scale = ivar_scale[first:stop]
    for k in range(stars.shape[0]):
        from_flux, from_ivar = flux[stars[k], first:stop], ivar[stars[k], first:stop]
        to_flux, to_ivar = out_flux[k], out_ivar[k]
        for p in range(stop - first):
            sane = is_sane(from_flux[p], from_ivar[p])
            to_flux[p] = from_flux[p] if sane else np.float32(0.0)
            to_ivar[p] = from_ivar[p] * scale[p] if sane else 0.0
            n_good[p] += sane


@njit(**INNER)
def _transpose(source, target):
    """target[p, k] = source[k, p]."""
    for p in range(target.shape[0]):
        for k in range(target.shape[1]):
            target[p, k] = source[k, p]


@njit(**INNER)
def _load(flux, ivar, order, ivar_scale, first, stop, out_flux, out_ivar, n_good):
    """Pixels of all stars, transposed to (pixel, star), by 16 stars, which fill lines of the cache. Adds to n_good."""
    some_flux, some_ivar = np.empty((16, stop - first), np.float32), np.empty((16, stop - first), np.float32)
    for low in range(0, order.shape[0], 16):
        stars = order[low:low + 16]
        _read_stars(flux, ivar, stars, ivar_scale, first, stop, some_flux, some_ivar, n_good)
        _transpose(some_flux, out_flux[:, low:low + stars.size])
        _transpose(some_ivar, out_ivar[:, low:low + stars.size])


@njit(**INNER)
def _new_block(flux, ivar, order, ivar_scale, first, stop, n_term, work):
    """The pixels [first, stop), with their data in `work`."""
    n = stop - first
    block = Block(work.flux[:n], work.ivar[:n], np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros((n, n_term)),
                  np.zeros(n), np.zeros(n, np.int32), np.zeros(n), np.empty((n, n_term, n_term)),
                  np.empty((n, n_term)), np.zeros(n, np.int64))
    _load(flux, ivar, order, ivar_scale, first, stop, block.flux, block.ivar, block.n_good)
    return block


# A tile is the stars [lo, hi); row a of what is filled is pixel todo[a]. Loops over the pixels stand inside of these
# functions: to hand a row to a function costs as much as a good part of the row.

@njit(**INNER)
def _cut(memory, n, width):
    """An (n, width) array at the start of flat `memory`."""
    return memory[:n * width].reshape((n, width))


@njit(**INNER, error_model="numpy")
def _fill_weights(ivar, s2, todo, lo, hi, power, weights):
    """weights = (ivar / (1 + ivar s2))^power of a tile; power 1 or 2."""
    for a in range(todo.size):
        row, s2_here, out = ivar[todo[a], lo:hi], s2[todo[a]], weights[a]
        for n in range(hi - lo):
            i = np.float64(row[n])
            w = i / (1.0 + i * s2_here)
            out[n] = w if power == 1 else w * w


@njit(**INNER, error_model="numpy")
def _fill_single(ivar, s2, todo, lo, hi, weights):
    """weights = ivar / (1 + ivar s2) of a tile, in float32."""
    for a in range(todo.size):
        row, s2_here, out = ivar[todo[a], lo:hi], np.float32(s2[todo[a]]), weights[a]
        for n in range(hi - lo):
            out[n] = row[n] / (np.float32(1.0) + row[n] * s2_here)


@njit(**INNER)
def _weigh_flux(weights, flux, todo, lo, hi, product):
    """product = weights * flux of a tile."""
    for a in range(todo.size):
        row, w, out = flux[todo[a], lo:hi], weights[a], product[a]
        for n in range(hi - lo):
            out[n] = w[n] * row[n]


@njit(**INNER)
def _fill(vector, value):
    for k in range(vector.shape[0]):
        vector[k] = value


@njit(**INNER)
def _clear(matrix, n):
    for a in range(n):
        _fill(matrix[a], 0.0)


@njit(**INNER)
def _add(part, total):
    """total[:n] += part (n, m)."""
    for a in range(part.shape[0]):
        for k in range(part.shape[1]):
            total[a, k] += part[a, k]


@njit(**INNER)
def _add_product(left, right, memory, total):
    """total[:n] += left (n, m) @ right (m, k)."""
    part = _cut(memory, left.shape[0], right.shape[1])
    np.dot(left, right, part)
    _add(part, total)


@njit(**INNER)
def _subtract(a, b, difference):
    for k in range(difference.shape[0]):
        difference[k] = a[k] - b[k]


@njit(**INNER)
def _subtract_from(flux, todo, lo, hi, model):
    """model = flux - model of a tile."""
    for a in range(todo.size):
        row, out = flux[todo[a], lo:hi], model[a]
        for n in range(hi - lo):
            out[n] = row[n] - out[n]


@njit(**INNER)
def _unpack(sums, pair_index, matrix):
    """The symmetric matrix (n_term, n_term) from its distinct sums."""
    n_term = pair_index.shape[0]
    for i in range(n_term):
        for j in range(n_term):
            matrix[i, j] = sums[pair_index[i, j]]


@njit(**INNER)
def _dot(a, b):
    """A short scalar product."""
    value = 0.0
    for k in range(a.shape[0]):
        value += a[k] * b[k]
    return value


@njit(**INNER)
def _normal_equations(block, basis, todo, first, stop, work, sums, right):
    """sums, right: normal matrix and right-hand side over the stars [first, stop) at the present s2.

    Row a is pixel todo[a].
    """
    n = todo.size
    _clear(sums, n)
    _clear(right, n)
    for lo in range(first, stop, TILE):
        hi = min(lo + TILE, stop)
        weights, products = _cut(work.one, n, hi - lo), _cut(work.two, n, hi - lo)
        _fill_weights(block.ivar, block.s2, todo, lo, hi, 1, weights)
        _weigh_flux(weights, block.flux, todo, lo, hi, products)
        _add_product(weights, basis.products[lo:hi], work.part, sums)
        _add_product(products, basis.design[lo:hi], work.part, right)


@njit(**INNER)
def _weight_sums(block, basis, todo, power, first, stop, work, sums):
    """sums: V'W^power V over the stars [first, stop) at the present s2; row a is pixel todo[a]."""
    n = todo.size
    _clear(sums, n)
    for lo in range(first, stop, TILE):
        hi = min(lo + TILE, stop)
        weights = _cut(work.one, n, hi - lo)
        _fill_weights(block.ivar, block.s2, todo, lo, hi, power, weights)
        _add_product(weights, basis.products[lo:hi], work.part, sums)


@njit(**INNER)
def _solve_anew(block, basis, rules, first, todo, work):
    """theta at the present s2, exactly."""
    _normal_equations(block, basis, todo, 0, basis.design.shape[0], work, work.sums, work.right)
    _solve_exact(block, basis, rules, first, todo, work)


@njit(**INNER)
def _trace_ratios(block, basis, todo, work):
    """Restricted likelihood: block.trace (T of scatter.restricted) from work.sums (of W^2) and the factors."""
    n_term = basis.pair_index.shape[0]
    matrix = np.empty((n_term, n_term))
    for a in range(todo.size):
        p = todo[a]
        scale = block.scale[p]
        _unpack(work.sums[a], basis.pair_index, matrix)
        for i in range(n_term):
            for j in range(n_term):
                if scale[i] == 0.0 or scale[j] == 0.0:
                    matrix[i, j] = 0.0
        value = dense.trace_of_ratio(block.n_dependent[p], block.factor[p], scale, matrix)
        _, _, sum_w, sum_w2 = scatter.moments(block.ivar[p], work.residual[a], block.s2[p])
        block.trace[p] = value * sum_w / sum_w2 if sum_w2 > 0.0 else 0.0


@njit(**INNER)
def _new_traces(block, basis, todo, work):
    """block.trace at the present s2, from the factors there."""
    _weight_sums(block, basis, todo, 2, 0, basis.design.shape[0], work, work.sums)
    _trace_ratios(block, basis, todo, work)


@njit(**INNER)
def _residual_tile(block, basis, todo, lo, hi, small, residual):
    """residual[a] = F - V theta of pixel todo[a] for the stars [lo, hi); small[a] is its theta."""
    np.dot(small[:todo.size], basis.design[lo:hi].T, residual)
    _subtract_from(block.flux, todo, lo, hi, residual)


@njit(**INNER)
def _residuals(block, basis, todo, work):
    """work.residual[a] = F - V theta of pixel todo[a]."""
    for a in range(todo.size):
        copy_vector(block.theta[todo[a]], work.small[a])
    for lo in range(0, basis.design.shape[0], TILE):
        hi = min(lo + TILE, basis.design.shape[0])
        tile = _cut(work.one, todo.size, hi - lo)
        _residual_tile(block, basis, todo, lo, hi, work.small, tile)
        copy_matrix(tile, work.residual[:todo.size, lo:hi])


@njit(**INNER)
def _solve_exact(block, basis, rules, first, todo, work):
    """theta from work.sums and work.right; penalised or bounded coefficients by coordinate descent.

    `first` is the model's pixel at the block's start, where `rules` are looked up.
    """
    n_term = basis.pair_index.shape[0]
    matrix = np.empty((n_term, n_term))
    for a in range(todo.size):
        p = todo[a]
        on = rules.terms_on[first + p]
        _unpack(work.sums[a], basis.pair_index, matrix)
        block.n_dependent[p] = dense.factorise(matrix, on, block.factor[p], block.scale[p])
        if rules.penalty.shape[0] == 0:
            dense.solve(block.n_dependent[p], block.factor[p], block.scale[p], work.right[a], block.theta[p])
        else:
            sweeps = dense.lasso(matrix, work.right[a], on, rules.penalty, rules.low, rules.high, MAX_SWEEP,
                                 LASSO_TOLERANCE, block.theta[p])
            if sweeps > MAX_SWEEP:
                block.status[p] |= ITERATION_LIMIT
        if block.n_dependent[p] > 0:
            block.status[p] |= SINGULAR


@njit(**INNER)
def _curvature(block, basis, rules, first, todo, work):
    """The factors of M at the present s2 for Newton steps, from float32 sums or, where those will not do, float64."""
    n_star, n_term = basis.design.shape
    n = todo.size
    matrix = np.empty((n_term, n_term))
    rest = np.empty(n, np.int64)
    n_rest = 0
    _clear(work.sums, n)
    for lo in range(0, n_star, TILE):
        hi = min(lo + TILE, n_star)
        weights = _cut(work.single, n, hi - lo)
        _fill_single(block.ivar, block.s2, todo, lo, hi, weights)
        _add_product(weights, basis.products_single[lo:hi], work.part_single, work.sums)
    for a in range(n):
        p = todo[a]
        _unpack(work.sums[a], basis.pair_index, matrix)
        block.n_dependent[p] = 0
        if not dense.cholesky(matrix, rules.terms_on[first + p], QUICK, block.factor[p], block.scale[p]):
            rest[n_rest] = p
            n_rest += 1
    if n_rest == 0:
        return
    _weight_sums(block, basis, rest[:n_rest], 1, 0, n_star, work, work.sums)
    for a in range(n_rest):
        p = rest[a]
        _unpack(work.sums[a], basis.pair_index, matrix)
        block.n_dependent[p] = dense.factorise(matrix, rules.terms_on[first + p], block.factor[p], block.scale[p])
        if block.n_dependent[p] > 0:
            block.status[p] |= SINGULAR


@njit(**INNER)
def _weigh_less(ivar, flux, level, todo, lo, hi, product):
    """product = ivar (flux - level) of a tile, in float32; level (n,) of each row."""
    for a in range(todo.size):
        i, f, out, less = ivar[todo[a], lo:hi], flux[todo[a], lo:hi], product[a], level[a]
        for n in range(hi - lo):
            out[n] = i[n] * (f[n] - less)


@njit(**INNER)
def _solve_at_zero(block, basis, todo, work):
    """theta at s2 = 0 from the factors there, to their accuracy. Solved for F - 1, whose coefficients are small, but
    where terms are dependent: the minimum-norm solution is that for F."""
    level = np.ones(todo.size, np.float32)
    for a in range(todo.size):
        if block.n_dependent[todo[a]] > 0:
            level[a] = 0.0
    _clear(work.right, todo.size)
    for lo in range(0, basis.design.shape[0], TILE):
        hi = min(lo + TILE, basis.design.shape[0])
        products = _cut(work.one, todo.size, hi - lo)
        _weigh_less(block.ivar, block.flux, level, todo, lo, hi, products)
        _add_product(products, basis.design[lo:hi], work.part, work.right)
    for a in range(todo.size):
        p = todo[a]
        dense.solve(block.n_dependent[p], block.factor[p], block.scale[p], work.right[a], block.theta[p])
        if block.n_dependent[p] == 0:
            block.theta[p, 0] += 1.0


@njit(**INNER)
def _slopes_and_gradients(block, basis, todo, work, kept, with_gradient, with_mixed, slopes):
    """What a Newton step needs of pixel todo[a]: slopes[a], (f, f') of scatter; work.gradient[a], g = V'Wr;
    work.right[a], h = V'W^2 r (if with_mixed).

    kept: the residuals stand in work.residual. with_gradient False: the gradient is known to be zero.
    """
    n = todo.size
    moments = np.zeros((n, 4))
    _clear(work.gradient, n)
    _clear(work.right, n)
    for a in range(n):
        copy_vector(block.theta[todo[a]], work.small[a])
    for lo in range(0, basis.design.shape[0], TILE):
        hi = min(lo + TILE, basis.design.shape[0])
        residual, once, twice = (_cut(work.one, n, hi - lo), _cut(work.two, n, hi - lo), _cut(work.three, n, hi - lo))
        if kept:
            copy_matrix(work.residual[:n, lo:hi], residual)
        else:
            _residual_tile(block, basis, todo, lo, hi, work.small, residual)
        scatter.weigh(block.ivar, block.s2, todo, lo, hi, residual, once, twice, moments)
        if with_gradient:
            _add_product(once, basis.design[lo:hi], work.part, work.gradient)
        if with_mixed:
            _add_product(twice, basis.design[lo:hi], work.part, work.right)
    for a in range(n):
        slopes[a, 0], slopes[a, 1] = scatter.less_trace(moments[a, 0], moments[a, 1], moments[a, 2], moments[a, 3],
                                                        block.trace[todo[a]])


@njit(**INNER)
def _descend(block, basis, p, s2, work):
    """The minimum downhill from s2 at the residuals of pixel p, which are written to work.residual[0]."""
    residual = work.residual[0]
    np.dot(basis.design, block.theta[p], residual)
    flux = block.flux[p]
    for n in range(flux.size):
        residual[n] = flux[n] - residual[n]
    return scatter.descend(block.ivar[p], residual, block.trace[p], block.n_fitted[p], s2)


@njit(**INNER)
def _polish(block, basis, todo, work, theta_tolerance, s2_tolerance, start, left):
    """Newton steps in (theta, ln s2) with the factor of M kept; changes block.theta and block.s2.

    Returns how many pixels did not converge; left[:that] names them. `theta_tolerance` bounds the gain in the
    objective, `s2_tolerance` the relative step of s2, before a last step that is still taken. start: READY, theta is
    the solution for that M (g = 0 at first); else it is not, and the first step is one of theta alone.
    """
    n_block, n_term = block.theta.shape
    theta, s2 = block.theta, block.s2
    now = todo.copy()
    n_now = todo.size
    mixed = np.zeros((n_block, n_term))              # h of each pixel
    along = np.zeros((n_block, n_term))              # M^-1 h
    coupling = np.zeros(n_block)                     # h'M^-1 h
    previous = np.full(n_block, np.inf)
    joint = 0 if start == READY else 1               # the first step of both
    slopes = np.empty((n_block, 2))
    step = np.empty(n_term)
    n_left = 0
    for iteration in range(MAX_STEP):
        if n_now == 0:
            break
        _slopes_and_gradients(block, basis, now[:n_now], work, iteration == 0 and start == KEPT,
                              iteration > 0 or start != READY, iteration == joint, slopes)
        if iteration == joint:
            for a in range(n_now):
                p = now[a]
                copy_vector(work.right[a], mixed[p])
                dense.solve(block.n_dependent[p], block.factor[p], block.scale[p], mixed[p], along[p])
                coupling[p] = _dot(mixed[p], along[p])
        n_next = 0
        for a in range(n_now):
            p = now[a]
            dense.solve(block.n_dependent[p], block.factor[p], block.scale[p], work.gradient[a], step)
            gain = _dot(step, work.gradient[a])
            f, slope = slopes[a, 0], slopes[a, 1]
            done = False
            refresh = False
            for k in range(n_term):
                theta[p, k] += step[k]
            if iteration < joint:
                pass
            elif s2[p] > 0.0:
                curvature = s2[p] * s2[p] * (slope - 2.0 * coupling[p]) + s2[p] * f
                shift = np.inf
                if curvature > 0.0:
                    shift = -s2[p] * (f + 2.0 * _dot(mixed[p], step)) / curvature
                if abs(shift) < 0.5:
                    done = gain < theta_tolerance and abs(shift) < s2_tolerance
                    for k in range(n_term):
                        theta[p, k] -= along[p, k] * s2[p] * shift
                    s2[p] *= np.exp(shift)
                    refresh = abs(shift) > 0.25
                else:
                    s2[p] = _descend(block, basis, p, s2[p], work)
                    refresh = True
            elif f >= 0.0:
                done = gain < theta_tolerance
            else:
                s2[p] = _descend(block, basis, p, 0.0, work)
                refresh = True
            if done:
                continue
            # theta converges as fast as M stays the same: slower than by two a step, a new M is the better buy.
            refresh = refresh or (gain > 0.25 * previous[p] and gain > theta_tolerance)
            previous[p] = gain
            if refresh:
                left[n_left] = p
                n_left += 1
            else:
                now[n_next] = p
                n_next += 1
        n_now = n_next
    for a in range(n_now):
        left[n_left + a] = now[a]
    return n_left + n_now


@njit(**INNER)
def _forget(memory, todo):
    """Start of the search for the root in ln s2: no step before, no bracket, the slope at zero not known."""
    for p in todo:
        memory[p, 0] = np.nan
        memory[p, 1] = np.nan
        memory[p, 2] = -np.inf
        memory[p, 3] = np.inf
        memory[p, 4] = 0.0


@njit(**INNER)
def _next_s2(old, f, downhill, memory):
    """The next s2 > 0 of a pixel whose profile has the slope f at `old` > 0; see _search."""
    now, slope = np.log(old), old * f
    before, slope_before = memory[0], memory[1]
    if slope < 0.0:
        memory[2] = max(memory[2], now)
    else:
        memory[3] = min(memory[3], now)
    low, high = memory[2], memory[3]
    new = np.log(downhill) if downhill > 0.0 else now - 2.0
    if not np.isnan(before) and (slope - slope_before) * (now - before) > 0.0:
        new = now - slope * (now - before) / (slope - slope_before)
        new = min(max(new, now - 3.0), now + 3.0)
    if not low <= new <= high:
        new = 0.5 * (low + high) if np.isfinite(low) and np.isfinite(high) else now + (3.0 if slope < 0.0 else -3.0)
    memory[0] = now
    memory[1] = slope
    return new


@njit(**INNER)
def _search(block, basis, todo, work, memory, left):
    """The next s2 of pixels whose theta (and trace) are exact at the present one; `left`: those that moved.

    At such a theta the slope in s2 at fixed residuals is that of the profile, so this is root finding in ln s2:
    secant steps within the bracket seen so far, downhill at fixed residuals where there is no good secant. Zero
    is tried once: where the profile falls from there, it is not gone to again.
    memory (n_block, 5): ln s2 and slope of the step before, the bracket, 1 where zero is no minimum.
    """
    _residuals(block, basis, todo, work)
    n_left = 0
    for a in range(todo.size):
        p = todo[a]
        old, trace = block.s2[p], block.trace[p]
        f, _ = scatter.restricted(block.ivar[p], work.residual[a], old, trace)
        if old == 0.0 and f >= 0.0:
            continue
        new = scatter.descend(block.ivar[p], work.residual[a], trace, block.n_fitted[p], old)
        if old == 0.0:
            memory[p, 4] = 1.0
            if np.isfinite(memory[p, 3]):
                new = min(new, 0.1 * np.exp(memory[p, 3]))
            if new == 0.0:
                continue
        elif new == 0.0 and memory[p, 4] == 0.0:
            memory[p, 3] = min(memory[p, 3], np.log(old))
        else:
            new = np.exp(_next_s2(old, f, new, memory[p]))
        block.s2[p] = new
        if abs(new - old) > 1e-8 * new:
            left[n_left] = p
            n_left += 1
    return n_left


@njit(**INNER)
def _converge(rule, block, basis, rules, first, todo, work, memory, tolerances, start):
    """Go from the present s2 to the minimum of its basin; start: FRESH to BRACKETED.

    Plain likelihood polishes (tolerances: see _polish), from the present theta; where that has not settled after
    MAX_POLISH new M, where coefficients are penalised, and for restricted likelihood (whose trace belongs to M), s2
    is searched with M and theta made anew. Restricted likelihood that is READY (folds) polishes once with the trace
    that it has, which is scaled as s2 moves: good to 1e-3 of s2. memory: see _search.
    """
    n_block = block.s2.shape[0]
    now = todo.copy()
    left = np.empty(todo.size, np.int64)
    n_now = todo.size
    if start != BRACKETED:
        _forget(memory, todo)
    trace_at = np.full(n_block, -1.0)
    n_polish = MAX_POLISH
    if rule == REML:
        n_polish = 1 if start == READY else 0
    if rules.penalty.shape[0] > 0 or start == BRACKETED:
        n_polish = 0
    if start == READY:
        for p in todo:
            trace_at[p] = block.s2[p]
    for turn in range(MAX_REFRESH):
        here = now[:n_now]
        if turn > 0 or (start != READY and start != FACTORED):
            if turn < n_polish:
                _curvature(block, basis, rules, first, here, work)
            else:
                _solve_anew(block, basis, rules, first, here, work)
                if rule == REML:
                    _renew_traces(block, basis, here, work, trace_at)
        if turn < n_polish:
            n_now = _polish(block, basis, here, work, tolerances[0], tolerances[1],
                            start if turn == 0 else np.int64(FRESH), left)
        else:
            n_now = _search(block, basis, here, work, memory, left)
        if n_now == 0:
            return
        for a in range(n_now):
            now[a] = left[a]
    for p in now[:n_now]:
        block.status[p] |= ITERATION_LIMIT


@njit(**INNER)
def _renew_traces(block, basis, todo, work, trace_at):
    """The trace ratios of pixels whose s2 moved by more than 1e-5 since; scaling serves below that (see scatter)."""
    moved = np.empty(todo.size, np.int64)
    n_moved = 0
    for a in range(todo.size):
        p = todo[a]
        if abs(block.s2[p] - trace_at[p]) > 1e-5 * block.s2[p] or trace_at[p] < 0.0:
            moved[n_moved] = p
            n_moved += 1
            trace_at[p] = block.s2[p]
    if n_moved > 0:
        _new_traces(block, basis, moved[:n_moved], work)


@njit(**INNER)
def _full_objective(rule, block, basis, rules, p, work):
    """The whole objective of pixel p: equation 3, the restricted term, the penalty."""
    todo = np.full(1, p)
    _residuals(block, basis, todo, work)
    value = scatter.objective(block.ivar[p], work.residual[0], block.s2[p])
    if rule == REML:
        value += dense.log_determinant(block.n_dependent[p], block.factor[p], block.scale[p])
    for k in range(rules.penalty.shape[0]):
        value += rules.penalty[k] * abs(block.theta[p, k])
    return value


@njit(**INNER)
def _fit_block(rule, block, basis, rules, first, todo, work):
    """Fit the pixels `todo` from nothing; block.s2 is kept where the rule is FIXED."""
    n_block = block.s2.shape[0]
    theta, s2 = block.theta, block.s2
    quick = rule == ML and rules.penalty.shape[0] == 0
    if rule != FIXED:
        for p in todo:
            s2[p] = 0.0
    if quick:
        _curvature(block, basis, rules, first, todo, work)
        _solve_at_zero(block, basis, todo, work)
    else:
        _solve_anew(block, basis, rules, first, todo, work)
    if rule == NONE or rule == FIXED:
        return
    if rule == REML:
        _new_traces(block, basis, todo, work)
    _residuals(block, basis, todo, work)
    if rule == MEDIAN:
        for a in range(todo.size):
            s2[todo[a]] = scatter.median_rule(block.ivar[todo[a]], work.residual[a])
        return

    n_candidate = np.zeros(n_block, np.int64)
    at_zero = np.zeros(n_block, np.bool_)
    low = np.zeros((n_block, scatter.MAX_CANDIDATE))
    high = np.zeros((n_block, scatter.MAX_CANDIDATE))
    start = np.zeros((n_block, scatter.MAX_CANDIDATE))
    best = np.full(n_block, np.inf)
    best_s2 = np.zeros(n_block)
    few = np.empty(todo.size, np.int64)
    n_few = 0
    exactly = np.zeros(n_block, np.bool_)
    now = np.empty(todo.size, np.int64)
    memory = np.empty((n_block, 5))
    for a in range(todo.size):
        p = todo[a]
        ivar, residual = block.ivar[p], work.residual[a]
        n_candidate[p], at_zero[p], n_effective = scatter.scan(ivar, residual, block.trace[p], block.n_fitted[p],
                                                               low[p], high[p], start[p])
        exactly[p] = n_effective < FEW * block.n_fitted[p]
        if exactly[p]:
            few[n_few] = p
            n_few += 1
        else:
            for c in range(n_candidate[p]):
                start[p, c] = scatter.root(ivar, residual, block.trace[p], low[p, c], high[p, c], start[p, c],
                                           START_TOLERANCE)
    if quick and n_few > 0:
        _solve_anew(block, basis, rules, first, few[:n_few], work)
        _residuals(block, basis, few[:n_few], work)
        for a in range(n_few):
            f, _ = scatter.restricted(block.ivar[few[a]], work.residual[a], 0.0, 0.0)
            at_zero[few[a]] = f >= 0.0
    first_theta = theta.copy()
    kept = quick and n_few == 0
    n_now = 0
    for p in todo:
        if at_zero[p] and not exactly[p]:
            now[n_now] = p
            n_now += 1
    if quick and n_now > 0:
        kept = False
        _converge(rule, block, basis, rules, first, now[:n_now], work, memory, TOLERANCES, np.int64(FACTORED))
    best_theta = theta.copy()
    if n_few > 0:
        _scan_exactly(rule, block, basis, rules, first, few[:n_few], work, at_zero, n_candidate, low, high, start)
        for p in few[:n_few]:
            s2[p] = 0.0
            copy_vector(best_theta[p], theta[p])
    for p in todo:
        best_s2[p] = s2[p]
        if at_zero[p] and n_candidate[p] > 0:
            best[p] = _full_objective(rule, block, basis, rules, p, work)
    for c in range(n_candidate.max()):
        for bracketed in range(2):
            n_now = 0
            for p in todo:
                if c < n_candidate[p] and exactly[p] == (bracketed == 1):
                    s2[p] = start[p, c]
                    copy_vector(first_theta[p], theta[p])
                    memory[p, 0] = np.nan
                    memory[p, 1] = np.nan
                    memory[p, 2] = np.log(low[p, c]) if low[p, c] > 0.0 else -np.inf
                    memory[p, 3] = np.log(high[p, c])
                    memory[p, 4] = 1.0
                    now[n_now] = p
                    n_now += 1
            if n_now > 0:
                start_from = BRACKETED if bracketed == 1 else KEPT if kept and n_now == todo.size else FRESH
                kept = False
                _converge(rule, block, basis, rules, first, now[:n_now], work, memory, TOLERANCES, start_from)
            for p in now[:n_now]:
                if n_candidate[p] + at_zero[p] > 1:
                    value = _full_objective(rule, block, basis, rules, p, work)
                    if value < best[p]:
                        best[p] = value
                        best_s2[p] = s2[p]
                        copy_vector(theta[p], best_theta[p])
                    if c == n_candidate[p] - 1:
                        s2[p] = best_s2[p]
                        copy_vector(best_theta[p], theta[p])


@njit(**INNER)
def _scan_exactly(rule, block, basis, rules, first, few, work, at_zero, n_candidate, low, high, start):
    """Brackets of the minima of the profile itself, theta made anew at every s2 of a grid of steps of three.

    Where few stars carry most of the weight, theta changes so much with s2 that the profile can have more minima
    than the objective at fixed residuals shows. Fills n_candidate, low (0: zero), high and start of the pixels
    few from their slope at zero (at_zero: it is not negative).
    """
    n_block = block.s2.shape[0]
    top = np.zeros(n_block)
    negative = np.zeros(n_block, np.bool_)
    now = few.copy()
    for a in range(few.size):
        p = few[a]
        largest = 0.0
        lowest = np.inf
        for n in range(block.ivar.shape[1]):
            if block.ivar[p, n] > 0.0:
                largest = max(largest, block.ivar[p, n])
                lowest = min(lowest, block.ivar[p, n])
        n_candidate[p] = 0
        negative[p] = not at_zero[p]
        low[p, 0] = 0.0
        block.s2[p] = 0.01 / largest
        top[p] = 100.0 / lowest
    n_now = few.size
    while n_now > 0:
        _solve_anew(block, basis, rules, first, now[:n_now], work)
        if rule == REML:
            _new_traces(block, basis, now[:n_now], work)
        _residuals(block, basis, now[:n_now], work)
        n_next = 0
        for a in range(n_now):
            p = now[a]
            s2 = block.s2[p]
            f, _ = scatter.restricted(block.ivar[p], work.residual[a], s2, block.trace[p])
            c = n_candidate[p]
            if f < 0.0:
                negative[p] = True
                if c < scatter.MAX_CANDIDATE:
                    low[p, c] = s2
            elif negative[p]:
                negative[p] = False
                if c < scatter.MAX_CANDIDATE:
                    high[p, c] = s2
                    start[p, c] = np.sqrt(low[p, c] * s2) if low[p, c] > 0.0 else 0.1 * s2
                    n_candidate[p] = c + 1
            # Above the largest variance and the largest residual the slope stays positive.
            if s2 < top[p] or negative[p]:
                _, above = scatter.limits(block.ivar[p], work.residual[a], block.n_fitted[p])
                top[p] = max(top[p], above)
                if s2 < 1e30:
                    block.s2[p] = 3.0 * s2
                    now[n_next] = p
                    n_next += 1
        n_now = n_next


@njit(**INNER)
def _choose_usable(rule, block, rules, first, s2_given, todo):
    """todo[:n] = pixels with at least as many good stars as terms (one more if restricted); status of the rest.

    s2_given (n_pix,): pixels that are infinite there cannot be used either; (0,) if there is none.
    """
    n_todo = 0
    for p in range(block.s2.shape[0]):
        block.n_fitted[p] = rules.terms_on[first + p].sum()
        block.status[p] = 0
        if block.n_good[p] == 0:
            block.status[p] = ALL_MASKED
        elif block.n_good[p] < block.n_fitted[p] + (1 if rule == REML else 0):
            block.status[p] = TOO_FEW_STARS
        elif s2_given.shape[0] > 0 and not np.isfinite(s2_given[first + p]):
            block.status[p] = TOO_FEW_STARS
        else:
            todo[n_todo] = p
            n_todo += 1
    return n_todo


@njit(**INNER)
def _settle(rule, block):
    """Unusable pixels get theta 0 and s2 infinite; zero scatter is marked where it was looked for."""
    for p in range(block.s2.shape[0]):
        if block.status[p] & UNUSABLE:
            _fill(block.theta[p], 0.0)
            block.s2[p] = np.inf
        elif block.s2[p] == 0.0 and rule != NONE and rule != FIXED:
            block.status[p] |= AT_ZERO


@njit(cache=True, nogil=True)
def fit_block(rule, flux, ivar, ivar_scale, order, basis, rules, s2_given, first, stop, theta, s2, status, n_good,
              work):
    """Fit the pixels [first, stop) over all stars, N_BLOCK of them at most.

    rule        ML, REML, MEDIAN, NONE or FIXED
    flux, ivar  (n_star, n_pix)  float32; ivar 0, NaN and impossible values mask a pixel of a star
    ivar_scale  (n_pix,)         float64, multiplies ivar
    order       (n_star,)        int64, the rows of flux and ivar that belong to the rows of the basis
    basis       Basis of the training stars, finite;  rules: Rules of all pixels
    s2_given    (n_pix,)         float64 for FIXED (infinite: pixel not used), else (0,)
    theta       (n_pix, n_term)  float64, output, only these pixels
    s2          (n_pix,)         float64, output; infinite where the pixel cannot be used
    status, n_good  (n_pix,) int32 and int64, output
    work        a Work that no other thread uses
    Releases the interpreter: blocks are spread over threads by the caller (stages/train.py), because a prange
    would compile all this twice and could not show progress.
    """
    n = stop - first
    block = _new_block(flux, ivar, order, ivar_scale, first, stop, basis.design.shape[1], work)
    todo = np.empty(n, np.int64)
    chosen = todo[:_choose_usable(rule, block, rules, first, s2_given, todo)]
    if chosen.size > 0:
        if rule == FIXED:
            for p in chosen:
                block.s2[p] = s2_given[first + p]
        _fit_block(rule, block, basis, rules, first, chosen, work)
    _settle(rule, block)
    for p in range(n):
        copy_vector(block.theta[p], theta[first + p])
        s2[first + p] = block.s2[p]
        status[first + p] = block.status[p]
        n_good[first + p] = block.n_good[p]


@njit(**INNER)
def _held_out(ivar, residual, s2, first, stop):
    """Sum over the held-out stars [first, stop) of r^2 w - ln w, and their number."""
    value = 0.0
    count = 0
    for n in range(first, stop):
        i = np.float64(ivar[n])
        if i > 0.0:
            w = i / (1.0 + i * s2)
            value += w * residual[n] * residual[n] - np.log(w)
            count += 1
    return value, count


@njit(**INNER)
def _fill_shares(block, basis, fold_start, work, shares):
    """Each share of the normal equations at the present s2."""
    every = np.arange(block.s2.shape[0])
    for k in range(fold_start.shape[0] - 1):
        lo, hi = fold_start[k], fold_start[k + 1]
        _normal_equations(block, basis, every, lo, hi, work, shares.sums[k], shares.right[k])
        if shares.squares.shape[0] > 0:
            _weight_sums(block, basis, every, 2, lo, hi, work, shares.squares[k])


@njit(**INNER)
def _median_without(ivar, residual, first, stop):
    """The median rule over the stars outside [first, stop)."""
    n_kept = ivar.size - (stop - first)
    kept_ivar, kept_residual = np.empty(n_kept, np.float32), np.empty(n_kept)
    for n in range(n_kept):
        at = n if n < first else n + stop - first
        kept_ivar[n] = ivar[at]
        kept_residual[n] = residual[at]
    return scatter.median_rule(kept_ivar, kept_residual)


@njit(cache=True, nogil=True)
def fit_block_folds(rule, flux, ivar, ivar_scale, order, fold_start, basis, rules, full_s2, first, stop, fold_theta,
                    fold_s2, fold_status, likelihood, n_likelihood, work, shares):
    """Fit the pixels [first, stop) without each fold in turn, starting from the full fit's s2. At most N_BLOCK of them.

    As fit_block, but with the rows of the basis sorted by fold (order, products and design alike), and
    fold_start  (n_share + 1,) int64: share k is the rows [fold_start[k], fold_start[k + 1]). The first n_fold
                shares are left out in turn; the rest, if any, is always in
    full_s2     (n_pix,)   float64, of the full fit (infinite where unusable); the fixed values if rule is FIXED
    fold_theta  (n_fold, n_pix, n_term), fold_s2 (n_fold, n_pix) float64, fold_status (n_fold, n_pix) int32: output
    likelihood, n_likelihood  (n_pix,) float64 and int64, added to: minus twice the log-likelihood of the held-out
    stars less n ln 2 pi, and their number; nothing is done if they have no elements
    work, shares  a Work and a Shares that no other thread uses
    """
    n_star, n_term = basis.design.shape
    n_sum = basis.products.shape[1]
    n_share = fold_start.shape[0] - 1
    n = stop - first
    plain = rules.penalty.shape[0] == 0
    block = _new_block(flux, ivar, order, ivar_scale, first, stop, n_term, work)
    todo = np.empty(n, np.int64)
    start = np.zeros(n)
    all_sums = np.zeros((n, n_sum))
    all_right = np.zeros((n, n_term))
    all_squares = np.zeros((n, n_sum))
    memory = np.empty((n, 5))
    full_ivar = shares.ivar
    copy_matrix(block.ivar, full_ivar)
    for p in range(n):
        if rule != MEDIAN and np.isfinite(full_s2[first + p]):
            start[p] = full_s2[first + p]
    copy_vector(start, block.s2)
    if plain:
        _fill_shares(block, basis, fold_start, work, shares)
        for k in range(n_share):
            _add(shares.sums[k, :n], all_sums)
            _add(shares.right[k, :n], all_right)
            if rule == REML:
                _add(shares.squares[k, :n], all_squares)
    n_good = block.n_good.copy()
    for k in range(fold_theta.shape[0]):
        lo, hi = fold_start[k], fold_start[k + 1]
        for p in range(n):
            block.n_good[p] = n_good[p]
            for m in range(lo, hi):
                block.n_good[p] -= block.ivar[p, m] > 0.0
                block.ivar[p, m] = 0.0
        for p in range(n):
            _fill(block.theta[p], 0.0)
            block.s2[p] = start[p]
            block.trace[p] = 0.0
        chosen = todo[:_choose_usable(rule, block, rules, first, full_s2, todo)]
        if chosen.size > 0:
            if plain:
                for a in range(chosen.size):
                    p = chosen[a]
                    _subtract(all_sums[p], shares.sums[k, p], work.sums[a])
                    _subtract(all_right[p], shares.right[k, p], work.right[a])
            else:
                _normal_equations(block, basis, chosen, 0, n_star, work, work.sums, work.right)
            _solve_exact(block, basis, rules, first, chosen, work)
            if rule == REML:
                if plain:
                    for a in range(chosen.size):
                        _subtract(all_squares[chosen[a]], shares.squares[k, chosen[a]], work.sums[a])
                else:
                    _weight_sums(block, basis, chosen, 2, 0, n_star, work, work.sums)
                _trace_ratios(block, basis, chosen, work)
            if rule == MEDIAN:
                _residuals(block, basis, chosen, work)
                for a in range(chosen.size):
                    p = chosen[a]
                    block.s2[p] = _median_without(full_ivar[p], work.residual[a], lo, hi)
            elif rule == ML or rule == REML:
                _converge(rule, block, basis, rules, first, chosen, work, memory, FOLD_TOLERANCES, np.int64(READY))
            if likelihood.shape[0] > 0:
                _residuals(block, basis, chosen, work)
                for a in range(chosen.size):
                    p = chosen[a]
                    value, count = _held_out(full_ivar[p], work.residual[a], block.s2[p], lo, hi)
                    likelihood[first + p] += value
                    n_likelihood[first + p] += count
        copy_matrix(full_ivar[:n, lo:hi], block.ivar[:, lo:hi])
        _settle(rule, block)
        copy_matrix(block.theta, fold_theta[k, first:stop])
        copy_vector(block.s2, fold_s2[k, first:stop])
        copy_vector(block.status, fold_status[k, first:stop])
