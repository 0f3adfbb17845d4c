"""Likeness of misfit components: each kind of misfit is known by its own name."""
import numpy as np

from cannonkit.stages import component_shapes


def lines(centres, x, width=3.0):
    """Lines of one equivalent width."""
    return 1 - sum(1.2 / width * np.exp(-0.5 * ((x - c) / width) ** 2) for c in centres)


def test_each_kind_is_found(rng):
    x = np.arange(2000.0)
    centres = rng.uniform(50, 1950, 30)
    baseline, usable, segment = lines(centres, x), np.ones(2000, bool), (x > 1000).astype(int)
    usable[:20] = False
    made = {"continuum": np.sin(2 * np.pi * x / 900), "line shift": lines(centres + 0.2, x) - baseline,
            "line width": lines(centres, x, 3.1) - baseline}
    for kind, loading in made.items():
        found = component_shapes.likeness(loading, baseline, usable, segment)
        assert max(found, key=found.get) == kind and found[kind] > 0.8
        assert all(value < 0.3 for name, value in found.items() if name != kind)
    assert component_shapes.likeness(0 * x, baseline, usable, segment)["continuum"] == 0.0
    assert component_shapes.likeness(made["continuum"], 0 * x + 1, usable, segment)["line shift"] == 0.0


def test_elements_by_their_windows():
    x = np.arange(1000.0)
    loading = np.full(1000, 0.1)
    loading[100:110] = 2.0
    windows = [(100, 109, "C"), (500, 509, "Fe"), (700, 705, "Fe"), (5000, 5001, "Xx")]
    found = component_shapes.elements(loading, np.ones(1000, bool), x, windows)
    assert [name for name, _ in found] == ["C", "Fe"]
    assert found[0][1] > 50 and found[1][1] < 1
