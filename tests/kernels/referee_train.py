"""The slow referee of training: SciPy, one pixel at a time, the objective as it is printed in the paper."""
import numpy as np
from scipy import linalg, optimize


def theta_at(flux, ivar, design, s2):
    """(theta, objective of equation 3, ln|V'WV|) at a given s2; stars with ivar = 0 are dropped."""
    good = ivar > 0
    f, v = flux[good].astype(float), design[good]
    var = 1.0 / ivar[good].astype(float) + s2
    root = 1.0 / np.sqrt(var)
    theta, _, _, _ = linalg.lstsq(v * root[:, None], f * root, lapack_driver="gelsy")
    residual = f - v @ theta
    value = np.sum(residual ** 2 / var + np.log(var))
    return theta, value, 2.0 * np.log(np.abs(np.diag(linalg.qr(v * root[:, None], mode="r")[0]))).sum()


def fit_pixel(flux, ivar, design, restricted=False):
    """The global minimum over theta and s2 >= 0 of one pixel: (theta, s2, objective)."""
    good = ivar > 0
    bottom = 1e-6 / np.max(ivar[good])
    top = 16.0 * max(1.0 / np.min(ivar[good]), np.var(flux[good].astype(float)))

    def profile(log_s2):
        _, value, log_det = theta_at(flux, ivar, design, np.exp(log_s2))
        return value + (log_det if restricted else 0.0)

    grid = np.linspace(np.log(bottom), np.log(top), 101)
    values = np.array([profile(t) for t in grid])
    best = int(np.argmin(values))
    _, zero, log_det = theta_at(flux, ivar, design, 0.0)
    zero += log_det if restricted else 0.0
    candidates = [(zero, 0.0)]
    if 0 < best < len(grid) - 1:
        found = optimize.minimize_scalar(profile, bounds=(grid[best - 1], grid[best + 1]), method="bounded",
                                         options={"xatol": 1e-9})
        candidates.append((found.fun, float(np.exp(found.x))))
    value, s2 = min(candidates)
    return theta_at(flux, ivar, design, s2)[0], s2, value


def lasso(flux, ivar, design, s2, penalty, low=None, high=None):
    """The exact Lasso at a given s2, by a bounded quadratic programme in (theta+, theta-): (theta, objective).

    The penalty is on |theta_k|; L-BFGS-B on the split variables, then an exact solve on the support it found,
    whichever is lower.
    """
    w = np.where(ivar > 0, ivar / (1.0 + ivar * s2), 0.0).astype(float)
    matrix, right = design.T @ (design * w[:, None]), design.T @ (w * flux)
    const = np.sum(w * flux.astype(float) ** 2)
    n = len(right)
    low = np.full(n, -np.inf) if low is None else low
    high = np.full(n, np.inf) if high is None else high

    def value(theta):
        return theta @ matrix @ theta - 2 * right @ theta + const + np.sum(penalty * np.abs(theta))

    def split(z):
        theta = z[:n] - z[n:]
        g = 2 * (matrix @ theta - right)
        return (theta @ matrix @ theta - 2 * right @ theta + const + np.sum(penalty * (z[:n] + z[n:])),
                np.concatenate([g + penalty, -g + penalty]))

    bounds = [(max(0.0, a), max(0.0, b)) for a, b in zip(low, high, strict=True)]
    bounds += [(max(0.0, -b), max(0.0, -a)) for a, b in zip(low, high, strict=True)]
    start = np.array([np.clip(0.0, *b) for b in bounds])
    best = optimize.minimize(split, start, jac=True, method="L-BFGS-B", bounds=bounds,
                             options={"maxiter": 200000, "maxfun": 400000, "ftol": 0.0, "gtol": 1e-12, "maxcor": 50})
    theta = best.x[:n] - best.x[n:]
    thetas = [theta]
    for level in (1e-3, 1e-5, 1e-7, 1e-9):
        free = (np.abs(theta) > level * np.abs(theta).max()) & (theta > low + level) & (theta < high - level)
        free |= penalty == 0
        trial = np.where(free, 0.0, np.clip(np.where(np.abs(theta) <= level, 0.0, theta), low, high))
        rest = right - matrix @ trial - 0.5 * penalty * np.sign(theta)
        trial[free] = np.linalg.lstsq(matrix[np.ix_(free, free)], rest[free], rcond=None)[0]
        if np.all(trial >= low) and np.all(trial <= high):
            thetas.append(trial)
    return min(((t, value(t)) for t in thetas), key=lambda pair: pair[1])
