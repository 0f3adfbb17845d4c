"""Say what files are and whether they are whole; warm the kernel cache; predict a spectrum from a model.

The findings go to standard output, a line or a block per file. A file that is damaged, cut or not FITS
gives exit code 65, one that cannot be opened 66; all files are looked at.

Examples:
  cc-check model.fits labels.fits
  cc-check --tree catalogue.fits
  cc-check --warmup
"""
from cannonkit import cli, config


def build_parser():
    parser = cli.new_parser("cc-check", __doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", help="files to look at; - for standard input")
    parser.add_argument("--tree", action="store_true", help="show which runs made a file, and from what")
    parser.add_argument("--columns", action="store_true", help="list the columns of the row table")
    parser.add_argument("--warmup", action="store_true",
                        help="compile all kernels into the cache; once after installing, once before an array job")
    group = parser.add_argument_group("prediction")
    group.add_argument("--predict", metavar="LABEL=VALUE,...",
                       help="write the spectrum that the model FILE predicts for these labels, such as "
                       "teff=4800,logg=2.5,...; labels not given are those of the training set's median")
    group.add_argument("-o", "--output", metavar="FILE", help="where --predict writes; - for standard output")
    group.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    return parser


def run(args):
    from cannonkit import errors

    if args.predict is not None:
        return _predict(args)
    if args.output is not None:
        raise errors.UsageError("-o goes with --predict")
    if args.warmup:
        _warm_up()
    elif not args.files:
        raise errors.UsageError("no FILE given")
    code = 0
    for path in args.files:
        try:
            print("\n".join(_describe(path, args)), flush=True)
        except (errors.DataError, errors.NoInputError) as error:
            text = cli.one_line(error).removeprefix(f"{path}: ")
            damaged = isinstance(error, errors.DataError) and not text.startswith("not a FITS file")
            print(f"{path}: {'NOT GOOD: ' if damaged else ''}{text}", flush=True)
            code = max(code, error.code)
    return code


def _describe(path, args):
    from cannonkit import provenance, stream

    known = _describe_spectra(path) if str(path) != "-" else None
    if known:
        return known
    with stream.open_source(path, verify=True) as source:
        if source.product is None:
            return _describe_foreign(source, args)
        if str(path) == "-":
            for _ in source.chunks():
                pass
        head = source.header
        about = [f"{key.lower()} {head.text(key)}" for key in ("MODEL", "SURVEY", "SCALE") if head.text(key)]
        mock = ", MOCK (simulated stars)" if head.get("MOCK") is True else ""
        lines = [f"{source.name}: {provenance.kind(source.product, head)}, whole, {source.n_row} rows"
                 f"{', ' + ', '.join(about) if about else ''}{mock}"]
        records = provenance.from_header(head)
        if records:
            newest = records[0]
            lines.append(f"  made by {newest.get('command') or 'no command'} {newest.get('version', '')} "
                         f"on {head.text('DATE')} UTC")
        lines.append("  extensions: " + ", ".join([*source.extensions, f"{source.table.name} ({source.n_row} rows)"]))
        if args.columns:
            lines += _columns(source)
        if args.tree:
            lines += ["  " + line for line in provenance.tree(records)]
    return lines


def _describe_spectra(path):
    """Lines for a foreign file of spectra or images: its HDUs, and what our readers would make of it.

    None for anything that has only tables, is ours, or is no whole FITS file: others say what that is.
    """
    import os

    from cannonkit import errors, fits, readers

    try:
        fd = fits.open_fd(path)
        try:
            hdus = fits.walk(fd, str(path))
        finally:
            os.close(fd)
    except errors.DataError:
        return None
    images = [h for h in hdus if h.kind == "image" and h.data_size]
    if "CKFORMAT" in hdus[0].header or not images:
        return None
    layout, detail = "", ""
    try:
        with readers.File(os.fspath(path), str(path)) as file:
            layout = readers.layout_of(file)
        if layout == "apstar":      # two combinations of the visits, then the visits; or one spectrum
            rows = hdus[1].axes[1] if len(hdus[1].axes) == 2 else 1
            detail = f": the combined spectrum and {rows - 2} visits" if rows > 2 else ": one spectrum"
    except readers.Trouble as trouble:
        detail = f" ({trouble})"
    if not layout and any(h.kind == "table" for h in hdus):
        return None
    lines = [f"{path}: FITS, not a cannonkit product, structure whole; {len(hdus)} HDUs"]
    if layout in readers.NAMES:
        reads = "cc-resample reads it with a recipe of" if layout in _LAYOUTS else "not read by cc-resample:"
        lines.append(f"  {readers.NAMES[layout]}; {reads} layout {layout}{detail}")
    else:
        lines.append("  of no survey's layout that is known: a recipe with layout generic can say where flux and "
                     f"error stand{detail}")
    for h in hdus:
        shape = " x ".join(map(str, h.axes)) if h.data_size else "no data"
        lines.append(f"  {h.index} {h.name or '(no name)'}: {h.kind}, {shape}")
    return lines


_LAYOUTS = ("apstar", "aspcapstar", "galah_dr3", "galah_dr4")


def _describe_foreign(source, args):
    lines = [f"{source.name}: FITS, not a cannonkit product, structure whole; "
             f"table {source.table.name}: {source.n_row} rows, {len(source.columns)} usable columns"]
    lines += [f"  column {name!r} cannot be used: {why}" for name, why in source.hdu.table.problems.items()]
    lines += [f"  cc-crossmatch reads it with --recipe {name}" for name in _recipes_for(source)]
    return lines + (_columns(source) if args.columns else [])


def _recipes_for(source):
    """Names of the installed survey recipes all of whose columns a table has."""
    import os

    from cannonkit import errors, recipe
    from cannonkit.stages.catalogue import Mapping

    found = []
    for file in sorted(os.listdir(config.recipe_folder())):
        name, suffix = os.path.splitext(file)
        try:
            if suffix == ".yaml":
                survey = recipe.load_survey(name)
                Mapping(survey, source.columns, source.place())
                found.append(name)
        except (errors.ConfigError, errors.DataError):      # another kind of recipe, another table
            pass
    return found


def _columns(source):
    def kind(c):
        return c.dtype + (str(list(c.shape)) if c.shape else "")
    return [f"  {c.name:<24} {kind(c):<10} {c.unit:<10} {c.description}".rstrip() for c in source.columns.values()]


# A whole run on a few mock stars: every kernel is compiled as the commands call it.
_WARM_UP = """
mock -o mock --common 60 --apogee-only 6 --galah-only 6 --clusters 0 --apogee-repeats 12 --galah-repeats 12
crossmatch mock/apogee/allStar-r12-mock.fits mock/galah/GALAH_DR3_main_allstar_mock.fits --recipe apogee_galah -o t.fits
crossmatch mock/apogee/allStar-r12-mock.fits --recipe apogee_dr16 -o b.fits
crossmatch b.fits --attach mock/gaia_edr3_mock.fits gaia_edr3_sky -o c.fits
crossmatch mock/apogee/allStar-r12-mock.fits --recipe apogee_dr16 --select repeats -o r.fits
resample c.fits --recipe apogee_dr16 --root mock/apogee/spectra -o a.fits
resample t.fits --recipe galah_dr3 --root mock/galah/spectra -o g.fits
resample r.fits --recipe apogee_dr16 --root mock/apogee/spectra -o ar.fits
train a.fits --training t.fits --labels galah --label-names teff,logg,fe_h --scatter reml --cross-validate 2 -o m.fits
train a.fits --training t.fits --labels galah --label-names teff,logg,fe_h --order 1 --cross-validate 0 -o n.fits
infer a.fits -m m.fits -o l.fits
infer a.fits -m n.fits --solver pixels -o p.fits
infer ar.fits -m m.fits -o lr.fits
flag l.fits -m m.fits -o f.fits
errors calibrate lr.fits -o e.fits
"""


def _warm_up():
    """Compile every kernel into the cache."""
    import importlib
    import os
    import tempfile
    import time

    from cannonkit import errors

    start, here = time.monotonic(), os.getcwd()
    with tempfile.TemporaryDirectory(prefix="cannonkit-") as folder:
        os.chdir(folder)
        try:
            for line in _WARM_UP.strip().splitlines():
                name, *argv = line.split()
                if importlib.import_module(f"cannonkit.commands.{name}").main([*argv, "--quiet"]) != 0:
                    raise errors.InternalError(f"warm-up: cc-{name} failed")
        finally:
            os.chdir(here)
    cli.log(f"kernels compiled and cached, {time.monotonic() - start:.0f} s")


def _predict(args):
    import numpy as np

    from cannonkit import errors, model, schema, stream

    if len(args.files) != 1 or args.output is None:
        raise errors.UsageError("--predict takes one model FILE and -o FILE")
    fitted = model.read(args.files[0])
    labels = np.array(fitted.pivot, float)
    for item in args.predict.split(","):
        name, _, value = item.partition("=")
        place = fitted.label_index(name.strip())
        try:
            labels[place] = float(value)
        except ValueError:
            raise errors.UsageError(f"--predict {item!r}: expected LABEL=NUMBER") from None
    flux = fitted.predict(labels)[0]
    good = np.isfinite(flux)
    table = schema.spectra_table(fitted.n_pix)
    row = table.rows(1, id=b"predicted", star_id=b"predicted", visit=0, status=0, n_bad=int((~good).sum()),
                     flux=np.where(good, flux, 1.0)[None], ivar=np.where(good, 1.0, 0.0)[None])
    wavelength = schema.WAVELENGTH.rows(fitted.n_pix, wavelength=fitted.wavelength, segment=fitted.segment)
    shown = ", ".join(f"{name} {value:g}" for name, value in zip(fitted.label_names, labels, strict=True))
    for name, value, low, high in zip(fitted.label_names, labels, fitted.low, fitted.high, strict=True):
        if not low <= value <= high:
            cli.warn(f"{name} {value:g} is outside of the range of the training labels, {low:.4g} to {high:.4g}: the "
                     "prediction is an extrapolation")
    with stream.open_source(args.files[0], "model") as source:
        header = {"SURVEY": (fitted.survey, "survey of the grid"), "PREDICT": shown}
        extension = stream.Extension("WAVELENGTH", wavelength, schema.WAVELENGTH, {"MEDIUM": fitted.medium})
        with stream.create(args.output, "spectra", table, 1, [extension], header=header, sources=[source],
                           record=cli.record(args), overwrite=args.overwrite) as out:
            out.write(row)
    cli.log(f"predicted flux for {shown}; ivar is 1 in usable pixels, 0 elsewhere")


def main(argv=None):
    return cli.main(build_parser(), run, argv)
