"""Air and vacuum wavelengths against published pairs."""
import numpy as np
import pytest

from cannonkit.errors import DataError
from cannonkit.stages import wavelength


@pytest.mark.parametrize("vacuum, air", [
    (6564.614, 6562.801),      # H alpha, SDSS line list
    (5008.240, 5006.843),      # [O III], SDSS line list
    (4862.683, 4861.325),      # H beta, SDSS line list
])
def test_published_lines(vacuum, air):
    assert wavelength.vacuum_to_air(vacuum) == pytest.approx(air, abs=2e-3)
    assert wavelength.air_to_vacuum(air) == pytest.approx(vacuum, abs=2e-3)


def test_round_trip_and_convert():
    air = np.linspace(3000, 17000, 1001)
    np.testing.assert_allclose(wavelength.vacuum_to_air(wavelength.air_to_vacuum(air)), air, rtol=1e-15, atol=1e-9)
    assert wavelength.air_to_vacuum(16000.0) - 16000 == pytest.approx(4.37, abs=0.01)
    assert (wavelength.convert(air, "air", "air") == air).all()
    assert (wavelength.convert(air, "air", "vacuum") == wavelength.air_to_vacuum(air)).all()
    assert np.isnan(wavelength.air_to_vacuum(np.nan))
    with pytest.raises(DataError, match="'water'"):
        wavelength.convert(air, "air", "water")
