"""cc-mock --layout spectra: how many spectra a second, and how much memory at two sizes."""
from run import ROOT, Entry, measured

SHARED = ROOT.parent / "shared" / "data"
FEW, MANY = 64, 12_864


def _rate(*options):
    """(spectra/s between FEW and MANY, best of three, peak memory in MB at FEW and at MANY)."""
    command = ["cc-mock", "--layout", "spectra", "--quiet", *options, "-o", "-", "--count"]
    few, many = (sorted(measured([*command, n]) for _ in range(3)) for n in (FEW, MANY))
    return (MANY - FEW) / (many[0][0] - few[0][0]), few[0][1], many[0][1]


def bench_line_model():
    """The line model, noise, masks and normalisation, written to a pipe."""
    for survey, pixels, bound in (("apogee", 8575, 1500.0), ("galah", 14304, None)):
        rate, few, many = _rate("--survey", survey)
        yield Entry(f"cc-mock, {survey}, line model, {pixels} pixels", rate, bound, "spectra/s", smaller=False)
        yield Entry(f"cc-mock, {survey}, memory of {MANY:,} over that of {FEW}", many / few, 1.5, "x")


def bench_model():
    """Draws from real coefficients (jobovy/apogee) through the importer."""
    model = SHARED / "models" / "bovy_cannon_apogee_dr12_giants.fits"
    labels = SHARED / "labels" / "bovy_cannon_training_labels.ecsv"
    if not model.exists():
        print(f"skipped: {model} is not there")
        return
    rate, _, _ = _rate("--generator", "model", "--model", model, "--model-labels", labels)
    yield Entry("cc-mock, apogee, a Cannon model, 8575 pixels", rate, 3000.0, "spectra/s", smaller=False)
