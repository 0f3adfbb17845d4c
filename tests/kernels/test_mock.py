"""Kernels of the mock against independent formulas and plain loops."""
import numpy as np
import pytest
from scipy.special import ndtri, wofz

from cannonkit.kernels import mock, mock_atmosphere, mock_noise, mock_stream
from cannonkit.stages import mock_atoms, mock_spectra

ELEMENTS, MOLECULES = mock_atoms.element_table(), mock_atoms.molecule_table()
SOLAR = 10.0 ** (ELEMENTS[:, 1] - 12.0)


@pytest.mark.parametrize("wavelength", [1.65, 1.8, 2.0])
@pytest.mark.parametrize("temperature", [4200.0, 5040.0, 6300.0])
def test_h_minus_free_free_agrees_with_grays_fit(wavelength, temperature):
    # Beyond 1.6419 um there is only free-free. Gray (Observation and Analysis of Stellar Photospheres, eq. 8.13)
    # fits the same calculation in another form; the two agree to 1 %.
    x = np.log10(wavelength * 1e4)
    f0 = -2.2763 - 1.6850 * x + 0.76661 * x**2 - 0.0533464 * x**3
    f1 = 15.2827 - 9.2846 * x + 1.99381 * x**2 - 0.142631 * x**3
    f2 = -197.789 + 190.266 * x - 67.9775 * x**2 + 10.6913 * x**3 - 0.625151 * x**4
    t = np.log10(5040.0 / temperature)
    gray = 1e-26 * 10.0 ** (f0 + f1 * t + f2 * t**2)
    assert mock_atmosphere.h_minus(wavelength, temperature) == pytest.approx(gray, rel=0.01)


def test_h_minus_has_its_minimum_at_1_64_micrometres():
    grid = np.arange(0.8, 2.2, 0.02)
    values = [mock_atmosphere.h_minus(w, 5500.0) for w in grid]
    assert 1.58 < grid[np.argmin(values)] < 1.70


@pytest.mark.parametrize("a", [1e-4, 0.003, 0.1, 0.7, 3.0])
def test_voigt_against_the_faddeeva_function(a):
    x = np.concatenate([np.linspace(-6.0, 6.0, 241), [0.0, 9.0, 16.0, 50.0, 400.0]])
    mine = np.array([mock.voigt(a, v) for v in x])
    # Humlicek's algorithm is good to 1e-4 of the local value (stated by its author).
    np.testing.assert_allclose(mine, wofz(x + 1j * a).real, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize("a", [1e-3, 0.03, 0.2, 0.25])
def test_series_of_the_voigt_function(a):
    part, none = np.zeros(119), np.empty((0, 6))
    mock.add_core(part, 2.0, a, 30, 89.3, 0.1, mock_spectra.voigt_series())
    x = (30 + np.arange(119) - 89.3) * 0.1
    np.testing.assert_allclose(part, 2.0 * wofz(x + 1j * a).real, atol=2e-4)      # 1e-4 of the centre's opacity
    plain = np.zeros(119)
    mock.add_core(plain, 2.0, a, 30, 89.3, 0.1, none)
    np.testing.assert_array_equal(plain, [2.0 * mock.voigt(a, v) for v in x])


@pytest.mark.parametrize("a", [1e-3, 0.2, 4.0])
def test_shoulders_of_a_line_are_those_of_the_voigt_function(a):
    part = np.zeros(300)
    mock.add_shoulder(part, 2.0, a, 100, 20.7, 0.07)
    want = [2.0 * mock.voigt(a, (100 + k - 20.7) * 0.07) for k in range(300)]
    np.testing.assert_array_equal(part, want)


def test_saha_gives_the_known_ionisation_of_solar_hydrogen_and_iron():
    # Textbook numbers at 5777 K and P_e = 20 dyn/cm2: hydrogen 1e-4, iron mostly ionised.
    hydrogen = mock_atmosphere.saha_ratio(5777.0, 20.0, 13.598, 0.5)
    iron = mock_atmosphere.saha_ratio(5777.0, 20.0, 7.902, 1.5)
    assert 5e-5 < hydrogen < 2e-4
    assert 10.0 < iron < 30.0


def test_electrons_satisfy_charge_balance():
    for temperature, pressure in ((3500.0, 1e5), (4800.0, 1e4), (5777.0, 1e5), (9000.0, 1e3)):
        pe = mock_atmosphere.electrons(temperature, pressure, SOLAR, ELEMENTS, 1e-4 * pressure)
        free = 0.0
        for e, row in enumerate(ELEMENTS):
            u = row[5] * (temperature / 5000.0) ** row[6] / (row[3] * (temperature / 5000.0) ** row[4])
            r = 2 * 0.33298 * temperature**2.5 * u * np.exp(-row[2] / (8.617333e-5 * temperature)) / pe
            free += (1.0 if e == 0 else SOLAR[e]) * r / (1.0 + r)
        assert pe == pytest.approx(pressure * free / (1.0 + 0.085 + free), rel=1e-7)


@pytest.mark.parametrize(("a", "b", "k"), [(1.0, 2.0, 1e-3), (1.0, 2.0, 1e6), (2.0, 1.0, 1e6), (1e9, 3e9, 1e-12)])
def test_free_pair_conserves_both_atoms(a, b, k):
    x, y = mock_atmosphere.free_pair(a, b, k)
    assert x > 0.0 and y > 0.0
    assert x * (1.0 + k * y) == pytest.approx(a, rel=1e-6)
    assert y * (1.0 + k * x) == pytest.approx(b, rel=1e-6)


def test_free_self_conserves_atoms():
    for total, k in ((1.0, 1e-12), (1.0, 0.3), (1.0, 1e8)):
        x = mock_atmosphere.free_self(total, k)
        assert x + 2.0 * k * x * x == pytest.approx(total, rel=1e-6)


def _atmosphere(teff, logg):
    teff, logg = np.atleast_1d(np.asarray(teff, float)), np.atleast_1d(np.asarray(logg, float))
    n = len(teff)
    state = np.zeros((n, 2, mock_atmosphere.N_STATE))
    density = np.zeros((n, 2, mock_atoms.N_SPECIES))
    depth = np.array([0.3, 0.25])
    mock_atmosphere.build_atmospheres(teff, logg, np.tile(SOLAR, (n, 1)), ELEMENTS, MOLECULES,
                                      np.array([0.5, 1.6]), depth, depth, state, density)
    return state, density


def test_solar_atmosphere_is_near_the_sun():
    state, density = _atmosphere(5777.0, 4.44)
    s = state[0, 0]
    # Models of the Sun at tau 0.3: 5,200 K, log P_gas 4.8 to 4.9, log P_e 0.7 to 1.1.
    assert 4900.0 < s[mock_atmosphere.T_LINE] < 5400.0
    assert 4.6 < np.log10(s[mock_atmosphere.PG_LINE]) < 5.1
    assert 0.5 < np.log10(s[mock_atmosphere.PE_LINE]) < 1.3
    iron = density[0, 0, mock_atoms.species_number("Fe I")]
    ion = density[0, 0, mock_atoms.species_number("Fe II")]
    assert ion > 2.0 * iron


def test_electron_pressure_follows_gravity_and_temperature():
    state, _ = _atmosphere([5000.0, 5000.0, 6000.0], [2.5, 4.5, 4.5])
    pe = state[:, 0, mock_atmosphere.PE_LINE]
    assert pe[0] < 0.5 * pe[1] < 0.5 * pe[2]


def test_carbon_monoxide_takes_the_carbon_of_cool_stars():
    _, density = _atmosphere([3600.0, 6200.0], [4.7, 4.4])
    free = density[:, 0, mock_atoms.species_number("C I")] / SOLAR[1]
    assert free[0] < 0.02 * free[1]


# --- lines -------------------------------------------------------------------------------------------

def _one_line(log_gf, v_micro=1.0, damping=-7.6, n=801):
    """Equivalent width (A) of one iron line at 5000 A in a solar atmosphere, and its flux."""
    state, density = _atmosphere(5777.0, 4.44)
    step = 1.0 / mock.LIGHT
    first = np.log(5000.0) - step * (n // 2)
    flux = np.empty((1, n))
    species = np.array([mock_atoms.species_number("Fe I")], dtype=np.int32)
    mass = np.repeat(ELEMENTS[:, 0], 2)
    mass = np.concatenate([mass, np.ones(len(MOLECULES))])
    mock.synthesise(0, first, step, np.array([5000.0]), species, np.array([4.0]), np.array([log_gf]),
                    np.array([damping]), mass, np.zeros((0, 4)), density, state, np.array([v_micro]), flux)
    return (1.0 - flux[0]).sum() * 5000.0 * step, flux[0]


def test_curve_of_growth_is_linear_then_flat_then_damped():
    gf = np.array([-4.0, -3.7, -1.4, -1.1, 1.5, 1.8])
    width = np.array([_one_line(g, n=4001)[0] for g in gf])
    slope = np.diff(np.log10(width))[::2] / 0.3
    assert 0.9 < slope[0] < 1.02          # proportional
    assert slope[1] < 0.6                 # saturated
    assert 0.4 < slope[2] < 0.62          # wings: the square root


def test_v_micro_strengthens_saturated_lines_only():
    weak = _one_line(-4.0, 2.0)[0] / _one_line(-4.0, 1.0)[0]
    strong = _one_line(-1.2, 2.0)[0] / _one_line(-1.2, 1.0)[0]
    assert abs(weak - 1.0) < 0.02
    assert strong > 1.2


def test_line_is_where_it_should_be_and_symmetric():
    _, flux = _one_line(-2.0)
    assert np.argmin(flux) == 400
    np.testing.assert_allclose(flux[350:400], flux[450:400:-1], atol=1e-6)


# --- broadening --------------------------------------------------------------------------------------

@pytest.mark.parametrize(("sigma", "rotation"), [(4.5, 0.0), (4.5, 3.0), (5.6, 25.0), (4.5, 90.0)])
def test_broadening_kernel_has_unit_sum_and_the_right_width(sigma, rotation):
    kernel = np.empty(2 * int(4.5 * sigma + rotation) + 9)
    mock.broadening_kernel(sigma, rotation, 0.0, 1.0, kernel)
    v = np.arange(kernel.size) - kernel.size // 2
    assert kernel.sum() == pytest.approx(1.0, abs=1e-12)
    assert abs((kernel * v).sum()) < 1e-9
    # Variance of a rotation profile with limb darkening 0.6, by plain integration of the textbook profile.
    x = np.linspace(-1.0, 1.0, 20001)
    g = 2.0 * 0.4 / np.pi * np.sqrt(1.0 - x**2) + 0.3 * (1.0 - x**2)
    want = sigma**2 + rotation**2 * (g * x**2).sum() / g.sum()
    assert (kernel * v**2).sum() == pytest.approx(want, rel=0.02)


def test_observe_against_plain_convolution():
    rng = np.random.default_rng(3)
    step = 1.2 / mock.LIGHT
    fine = 1.0 - 0.3 * rng.random(3000)
    first = np.log(6500.0)
    place = first + step * np.linspace(300.3, 2700.7, 500)
    out = np.empty(500)
    mock.observe(fine, first, step, place, 4.5, 4.5, 6.0, 2.0, 1.5, out)
    sigma = np.sqrt(4.5**2 + 0.5 * 2.0**2)
    want = np.empty(500)
    x = np.linspace(-1.0, 1.0, 4001)[1:-1]
    g = 2.0 * 0.4 / np.pi * np.sqrt(1.0 - x**2) + 0.3 * (1.0 - x**2)
    grid = first + step * np.arange(3000)
    velocity = np.arange(-40.0, 40.0, 0.1)
    profile = np.array([(g * np.exp(-0.5 * ((v - 6.0 * x) / sigma) ** 2)).sum() for v in velocity])
    for k in range(500):
        d = (grid - place[k] + np.log1p(1.5 / mock.LIGHT)) * mock.LIGHT
        w = np.interp(d, velocity, profile, 0.0, 0.0)
        want[k] = (w * fine).sum() / w.sum()
    # White noise as input is the worst case for eight phases of a grid step and the points of the rotation profile.
    np.testing.assert_allclose(out, want, atol=8e-4)


def test_pixels_off_the_grid_are_one():
    out = np.empty(3)
    step = 1.2 / mock.LIGHT
    mock.observe(np.full(500, 0.5), 8.0, step, np.array([7.9, 8.0 + 250 * step, 8.2]), 4.5, 4.5, 0.0, 0.0, 0.0, out)
    np.testing.assert_allclose(out, [1.0, 0.5, 1.0], atol=1e-12)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(("rotation", "macro", "shift"), [(0.0, 2.0, 0.3), (8.0, 6.0, -40.0), (90.0, 0.0, 5.0)])
def test_one_convolution_and_a_cubic_are_as_good_as_two_sums_per_pixel(linear, rotation, macro, shift):
    step = 1.2 / mock.LIGHT
    first = np.log(6500.0)
    wave = np.exp(first + step * np.arange(4000))
    lines = np.random.default_rng(8).uniform(6510.0, 6595.0, 60)
    fine = 0.99 - 0.6 * np.exp(-0.5 * ((wave[:, None] - lines) / 0.05) ** 2).max(axis=1)
    start, pixel = (6499.5, 0.064) if linear else (np.log(6499.5), 1.4e-5)
    grid = start + pixel * np.arange(1700)
    want, out = np.empty(1700), np.empty(1700)
    mock.observe(fine, first, step, np.log(grid) if linear else grid, 4.8, 4.3, rotation, macro, shift, want)
    mock_stream.observe_smooth(fine, first, step, start, pixel, linear, 4.8, 4.3, rotation, macro, shift,
                               np.empty(1700), np.empty(4000), out)
    assert (want[0], out[0], want[-1], out[-1]) == (1.0, 1.0, 1.0, 1.0)       # off the grid
    inside = (want != 1.0) & (out != 1.0)           # the last pixels that a stencil reaches differ by a few
    assert inside.sum() > 1000
    np.testing.assert_allclose(out[inside], want[inside], atol=2e-4)


# --- random numbers ----------------------------------------------------------------------------------

def test_normal_stream_is_normal_and_keys_differ():
    z = np.empty(200001)
    mock_noise.fill_normal(np.uint64(mock_noise.key_of(1, 2, 3, 4)), z)
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1.0) < 0.01      # 4 standard errors
    assert abs((z**4).mean() - 3.0) < 0.1
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 0.01
    other = np.empty(200001)
    mock_noise.fill_normal(np.uint64(mock_noise.key_of(1, 2, 4, 4)), other)
    assert abs(np.corrcoef(z, other)[0, 1]) < 0.01


def test_normal_numbers_are_quantiles_of_the_uniform_ones():
    key = np.uint64(mock_noise.key_of(1, 2, 3, 4))
    z, u = np.empty(20000), np.empty(20000)
    mock_noise.fill_normal(key, z)
    mock_noise.fill_uniforms(key, u)
    np.testing.assert_allclose(z, ndtri(u), rtol=2e-8, atol=1e-8)


def test_uniform_stays_inside_the_open_interval():
    key = np.uint64(mock_noise.key_of(7, 7, 7, 7))
    u = np.array([mock_noise.uniform(key, i) for i in range(20000)])
    assert u.min() > 0.0 and u.max() < 1.0
    assert abs(u.mean() - 0.5) < 0.01


def _planes(n_row):
    n = 5
    clean = 1.0 - 0.3 * np.random.default_rng(1).random((n, 8575))
    shape = (n, n_row, 8575)
    planes = [np.zeros(shape) for _ in range(6 if n_row > 1 else 2)]
    planes += [np.zeros((0, 0, 0))] * (6 - len(planes))
    mask = np.zeros(shape, dtype=np.int64)
    ends = np.tile(np.array([197, 3323, 3533, 6129, 6291, 8381]), (n, 1))
    mock_noise.apogee_planes(clean, np.array([2, 1, 2, 1, 2]), np.full(n, 5000.0), np.full(n, 300.0),
                             np.full(n, 20.0), np.full(n, 100.0), np.full((n, 2), 0.5), np.zeros((n, 2)),
                             np.arange(n), 1, 0.002, True, np.array([0, 9, 0, 0, 10]), ends, planes[0], planes[1],
                             mask, *planes[2:])
    return clean, planes, mask


@pytest.mark.parametrize("every", [1, 16])
def test_continuum_is_a_black_body(every):
    wave, base = 10.0 ** (4.179 + 6e-6 * np.arange(8575)), np.empty(8575)
    mock_noise.fill_continuum(wave, 3500.0, 7.0, every, base)
    want = wave**-5.0 / np.expm1(1.4387769e8 / (wave * 3500.0))
    np.testing.assert_allclose(base, 7.0 * want / (16000.0**-5 / np.expm1(1.4387769e8 / (16000.0 * 3500.0))),
                               rtol=1e-12 if every == 1 else 2e-7)


def test_a_stream_gets_the_combined_row_of_the_files():
    _, whole, mask_whole = _planes(4)
    _, one, mask_one = _planes(1)
    for a, b in zip([*whole[:2], mask_whole], [*one[:2], mask_one], strict=True):
        np.testing.assert_allclose(a[:, 0], b[:, 0], rtol=1e-6)      # its continuum has nodes at every 16th pixel


def test_apogee_noise_has_the_size_of_its_errors():
    clean, planes, mask = _planes(4)
    flux, error = planes[0], planes[1]
    good = (mask[0, 0] == 0) & (error[0, 0] > 0)
    ratio = flux[0, 0, good] / error[0, 0, good]
    assert 60.0 < np.median(ratio) < 160.0          # S/N 100 at flux 1 in each visit pair, clean flux about 0.85
    both = (error[0, 2] < 1e9) & (error[0, 3] < 1e9) & (error[0, 2] > 0)
    pull = (flux[0, 2] - flux[0, 3])[both] / np.hypot(error[0, 2], error[0, 3])[both]
    pull = pull[mask[0, 0][both] == 0]
    width = 0.5 * (np.percentile(pull - np.median(pull), 84) - np.percentile(pull - np.median(pull), 16))
    assert 0.9 < width < 1.25                       # continuum waves of the two visits add a little
