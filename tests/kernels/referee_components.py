"""The slow referee of misfit components (design.md 5): the marginal Gaussian, its covariance dense, star by star."""
import numpy as np
from scipy import linalg, optimize


def covariance(ivar, s2, loading, prior=None):
    """(good, C): the pixels with data and their covariance diag(1/ivar + s2) + L prior L' (prior None: unit)."""
    good = (ivar > 0) & np.isfinite(s2)
    own = loading[good]
    prior = np.eye(own.shape[1]) if prior is None else prior
    return good, np.diag(1.0 / ivar[good].astype(float) + s2[good]) + own @ prior @ own.T


def minus_2_log_likelihood(flux, ivar, mean, s2, loading, prior=None):
    """r'C^-1 r + ln|C| of one star, without n ln 2 pi."""
    good, c = covariance(ivar, s2, loading, prior)
    r = flux[good].astype(float) - mean[good]
    return r @ linalg.solve(c, r, assume_a="pos") + np.linalg.slogdet(c)[1]


def posterior(flux, ivar, mean, s2, loading, prior=None):
    """(mean, covariance) of z given the spectrum, from the joint Gaussian of (z, F)."""
    good, c = covariance(ivar, s2, loading, prior)
    prior = np.eye(loading.shape[1]) if prior is None else prior
    gain = linalg.solve(c, loading[good] @ prior, assume_a="pos").T
    return gain @ (flux[good].astype(float) - mean[good]), prior - gain @ loading[good] @ prior


def infer(model, flux, ivar, start):
    """(scaled labels, their covariance, chi2, z) at the minimum of r'C^-1 r, by SciPy on the whitened residuals."""
    from cannonkit.stages import vectorizer

    good, c = covariance(ivar * model.ivar_scale, np.where(model.usable, model.s2, np.inf), model.components)
    root = linalg.cholesky(c, lower=True)
    theta = model.theta[good]

    def residual(x):
        mean = theta @ vectorizer.design_matrix(x[None], model.powers)[0]
        return linalg.solve_triangular(root, flux[good].astype(float) - mean, lower=True)

    def jacobian(x):
        return -linalg.solve_triangular(root, theta @ vectorizer.gradient(x[None], model.powers)[0], lower=True)

    found = optimize.least_squares(residual, start, jacobian, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15)
    j = jacobian(found.x)
    mean = model.theta @ vectorizer.design_matrix(found.x[None], model.powers)[0]
    z, _ = posterior(flux, ivar * model.ivar_scale, mean, np.where(model.usable, model.s2, np.inf), model.components)
    return found.x, np.linalg.inv(j.T @ j), 2.0 * found.cost, z
