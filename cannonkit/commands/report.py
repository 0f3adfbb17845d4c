"""Draw every figure and table of the paper for one's own run, or single ones; sum a run up in ten lines.

`cc-report RUN_DIR -o DIRECTORY` writes one self-contained index.html, the figures as PNG and the tables as
ECSV; what a run lacks is named as absent. `cc-report FIGURE FILE... -o x.png` draws one figure (.png, .pdf, .svg) or
writes its table (.ecsv); factors and pulls take several RUN_DIR, to compare them. `cc-report summary RUN_DIR` prints
the summary on standard output.

Examples:
  cc-report run -o run/report
  cc-report one-to-one run/acgs.model.fits -o one-to-one.png
  cc-report summary run
"""
import contextlib

from cannonkit import cli, config

FIGURES = ("kiel", "cuts", "survey-differences", "spectra", "one-to-one", "vmicro-relation", "coefficients",
           "components", "residuals", "before-after", "label-differences", "truth", "factors", "precision", "pulls",
           "flags", "coverage", "galaxy", "clusters", "clusters-known", "clusters-kiel", "cluster-trends",
           "cluster-gravity", "pairs", "careful")
WORDS = ("page", "summary", *FIGURES)
COMPARED = ("factors", "pulls")
SIGN = "cannonkit-report.txt"    # in every report's directory: the summary
ELSEWHERE = ("one-to-one", "coefficients", "truth", "cluster-trends")    # about half of the drawing: a second process
SUFFIXES = ("png", "pdf", "svg", "ecsv")


def build_parser():
    parser = cli.new_parser("cc-report", __doc__)
    parser.add_argument("what", nargs="+", metavar="[WHAT] INPUT",
                        help=f"WHAT is page (the default), summary, or a figure or table: {', '.join(FIGURES)}. "
                             f"INPUT is "
                        "a run directory (as configs/pipeline.mk makes it), or for figures the files to draw")
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", metavar="PATH",
                       help="directory of the report; for a figure a file: .png, .pdf or .svg, .ecsv for its table")
    group.add_argument("--pdf", action="store_true", help="a report: each figure as PDF too")
    group.add_argument("--overwrite", action="store_true", help="replace the file, or a directory that a report wrote")
    group.add_argument("--dry-run", action="store_true",
                       help="check the inputs, print what would be done, write nothing")
    cli.add_settings(parser, config.Report)
    return parser


def run(args):
    import os

    from cannonkit import errors

    settings = config.resolve(config.Report, args)
    word, inputs = args.what[0], args.what[1:]
    if word not in WORDS or not inputs and os.path.exists(word):
        if inputs:
            raise errors.UsageError(f"no figure {word!r}{errors.did_you_mean(word, WORDS)}")
        word, inputs = "page", args.what
    if not inputs:
        raise errors.UsageError(f"{word} of what? give {'RUN_DIR' if word in WORDS[:2] else 'RUN_DIR or files'}")
    if word in WORDS[:2] and len(inputs) > 1:
        raise errors.UsageError(f"unexpected argument {inputs[1]!r}: {word} takes one RUN_DIR")
    if word == "summary":
        return _summary(args, settings, inputs[0])
    if args.output is None:
        raise errors.UsageError("-o is needed: where to write")
    if args.output == "-":
        raise errors.UsageError("standard output is for FITS; give -o a path")
    return _page(args, settings, inputs[0]) if word == "page" else _figure(args, settings, word, inputs)


def _open(inputs):
    """A Run: of a directory, of several to be compared, or of files."""
    import os

    from cannonkit.run_directory import Run

    if len(inputs) == 1 and not os.path.isfile(inputs[0]):
        return Run.of_directory(inputs[0])
    if len(inputs) > 1 and all(os.path.isdir(path) for path in inputs):
        return Run.of_directories(inputs)
    return Run.of_files(inputs)


def _summary(args, settings, root):
    from cannonkit import errors
    from cannonkit.figures import summary

    if args.output is not None:
        raise errors.UsageError("summary prints on standard output: no -o")
    found = _open([root])
    _say_unusable(found)
    print("\n".join(summary.lines(found, settings)), flush=True)
    return 0


def _say_unusable(found):
    for path, reason in found.unusable:
        cli.warn(f"{path} is left out: {reason}")


def _options(settings, figure="pairs"):
    """Options that repeat these settings on the command line of a figure; those of pairs (pair_*) on theirs only."""
    from cannonkit import typed

    default = config.Report()
    return [part for name, value in vars(settings).items()
            if value != getattr(default, name) and (figure == "pairs" or not name.startswith("pair_"))
            for part in ("--set", f"{name}={typed.text_of(value)}")]


def _figure(args, settings, word, inputs):
    import os

    from cannonkit import errors, plots, stream
    from cannonkit.figures import registry
    from cannonkit.figures.common import Item

    suffix = os.path.splitext(args.output)[1].lstrip(".").lower()
    if suffix not in SUFFIXES:
        raise errors.UsageError(f"-o {args.output}: expected a name that ends with .{', .'.join(SUFFIXES)}")
    stream.check_target(args.output, args.overwrite, inputs)
    if suffix != "ecsv":
        plots.require()
    if word not in COMPARED and len(inputs) > 1 and all(os.path.isdir(path) for path in inputs):
        raise errors.UsageError(f"{word} takes one RUN_DIR; several can be compared by {' and '.join(COMPARED)}")
    found = _open(inputs)
    _say_unusable(found)
    made = registry.FIGURES[word].make(found, settings)
    items = [item for item in made if isinstance(item, Item)]
    if not items:
        raise errors.DataError(f"{word}: {'; '.join(m.reason for m in made)}")
    usable = [i for i in items if (i.listings if suffix == "ecsv" else i.draw)]
    if not usable:
        raise errors.UsageError(f"{word} is a {'table: -o x.ecsv' if suffix != 'ecsv' else 'figure: -o x.png'}")
    stem = os.path.splitext(os.path.basename(args.output))[0]
    chosen = [i for i in usable if i.name == stem] or usable
    if len(chosen) > 1:
        raise errors.UsageError(f"{word} makes {len(chosen)} of them from these files: name one as -o "
                                f"{' or '.join(f'{i.name}.{suffix}' for i in chosen)}, or give fewer files")
    item = chosen[0]
    if cli.dry_run(args, input=" ".join(inputs), figure=item.title):
        return 0
    stream.write_bytes(args.output, _data(item, suffix, settings), args.overwrite)
    cli.log(f"{item.title}{' (mock)' if item.mock else ''}: {item.caption}")
    return 0


def _data(item, suffix, settings):
    """An item as the bytes of a file."""
    from cannonkit import plots

    command = item.command(_options(settings, item.figure))
    if suffix == "ecsv":
        listing = next((x for x in item.listings if x.name == item.name), item.listings[0])
        return listing.ecsv({"caption": item.caption, "command": command}).encode()
    about = {"Title": item.title, "Description": _mock(item) + item.caption, "Comment": command}
    return plots.save(item.draw(), suffix, settings.dpi, about)


def _mock(item):
    return "MOCK: simulated stars. " if item.mock else ""


def _page(args, settings, root):
    import os

    from cannonkit import page, plots
    from cannonkit.directory import new_directory
    from cannonkit.figures import registry, summary
    from cannonkit.figures.common import Missing

    plots.require()
    found = _open([root])
    _say_unusable(found)
    if cli.dry_run(args, input=root, files=len(found.all_files())):
        return 0
    mock = any(f.mock for f in found.all_files())
    sheet = page.Page(f"Report of {os.path.basename(os.path.abspath(root))}", "cannonkit cc-report", mock)
    with new_directory(args.output, args.overwrite, SIGN) as folder:
        for part in ("figures", "tables"):
            os.mkdir(os.path.join(folder, part))
        text = "\n".join(summary.lines(found, settings))
        _put(folder, SIGN, (text + "\n").encode())
        sheet.section("Summary")
        sheet.add(f"<pre>{page.escape(text)}</pre>")
        made = _make(found, folder, root, args, settings)
        section, missing, n_figure, n_table = None, [], 0, 0
        for figure, entry in registry.FIGURES.items():
            for item in made[figure]:
                if isinstance(item, Missing):
                    missing.append(item)
                    continue
                if entry.section != section:
                    section = entry.section
                    sheet.section(section)
                _add(sheet, item, folder, settings)
                n_figure += item.draw is not None
                n_table += len(item.listings)
        _closing(sheet, found, missing)
        _put(folder, "index.html", sheet.text().encode())
    cli.log(f"{n_figure} figures and {n_table} tables{' (mock)' if mock else ''}, {len(missing)} absent: "
            f"{os.path.join(args.output, 'index.html')}")
    return 0


def _put(folder, name, data):
    import os

    with open(os.path.join(folder, name), "wb") as out:
        out.write(data)


def _make(found, folder, root, args, settings):
    """{figure: items} of all figures, drawn into the folder; what the helper draws comes last."""
    import os

    from cannonkit import errors
    from cannonkit.figures import registry
    from cannonkit.figures.common import Missing

    made = {}
    with _helper(root, folder, args, settings) as helper, \
            cli.Progress(len(registry.FIGURES), "figures and tables", args) as progress:
        for figure in sorted(registry.FIGURES, key=lambda name: name in ELSEWHERE):
            try:
                made[figure] = registry.FIGURES[figure].make(found, settings)
            except errors.DataError as error:
                cli.warn(f"{figure} is left out: {error}")
                made[figure] = [Missing(figure, str(error))]
            if helper is not None and figure in ELSEWHERE:
                helper.wait()
            for path, draw in _drawings(made[figure], folder, args, settings):
                if not os.path.exists(path):
                    _put(folder, path, draw())
            progress.advance(1)
    return made


def _drawings(items, folder, args, settings):
    """[(path, function that gives the bytes)] of the figures of some items."""
    import functools
    import os

    return [(os.path.join(folder, "figures", f"{item.name}.{suffix}"), functools.partial(_data, item, suffix, settings))
            for item in items if getattr(item, "draw", None) is not None
            for suffix in (("png", "pdf") if args.pdf else ("png",))]


@contextlib.contextmanager
def _helper(root, folder, args, settings):
    """A second process that draws the figures of ELSEWHERE into `folder`, where there are processors for it.

    What it does not deliver is drawn by this one, so a helper that fails costs time and nothing else.
    """
    import subprocess
    import sys

    if (args.threads or 1) < 2:
        yield None
        return
    code = "import sys; from cannonkit.commands import report; report.draw_elsewhere(sys.argv[1:])"
    arguments = ["page", root, "-o", folder, *(["--pdf"] if args.pdf else []), *_options(settings)]
    helper = subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield helper
    finally:
        helper.kill()
        helper.wait()


def draw_elsewhere(argv):
    """What the helper does: the figures of ELSEWHERE, in the report's folder after -o."""
    import os

    from cannonkit.figures import registry

    args = build_parser().parse_args(argv)
    settings = config.resolve(config.Report, args)
    found = _open(args.what[1:])
    for figure in ELSEWHERE:
        for path, draw in _drawings(registry.FIGURES[figure].make(found, settings), args.output, args, settings):
            _put("", f"{path}.part", draw())
            os.rename(f"{path}.part", path)


def _add(sheet, item, folder, settings):
    """One item on the page, and its tables as files."""
    import os

    from cannonkit import page

    options = _options(settings, item.figure)
    tag = '<span class="tag">Mock data.</span> ' if item.mock else ""
    paper = f" (as {item.paper} of the paper)" if item.paper else ""
    sheet.add(f'<h3 id="{item.name}">{page.escape(item.title)}</h3>')
    command = f'<code class="command">{page.escape(item.command(options))}</code>'
    caption = f"{tag}{page.escape(item.caption)}{page.escape(paper)}"
    if item.draw is not None:
        with open(os.path.join(folder, "figures", f"{item.name}.png"), "rb") as lines:
            image = page.image(lines.read(), item.title)
        sheet.add(f"<figure>{image}<figcaption>{caption}</figcaption>{command}</figure>")
    else:
        sheet.add(f'<p class="caption">{caption}</p>')
    for listing in item.listings:
        meta = {"caption": item.caption, "command": item.command(options)}
        _put(folder, f"tables/{listing.name}.ecsv", listing.ecsv(meta).encode())
        if listing.rows:
            sheet.add(page.table(listing))
        sheet.add(f'<p class="caption">Table as a file: <a href="tables/{listing.name}.ecsv">'
                  f"tables/{listing.name}.ecsv</a>{'' if listing.rows else ' (no rows)'}</p>")
    if item.draw is None:
        sheet.add(command)


def _closing(sheet, found, missing):
    """What is absent, and how the run was made."""
    import os

    from cannonkit import page, provenance

    rows = [f"<li><b>{page.escape(item.title)}</b>: {page.escape(item.reason)}</li>" for item in missing]
    rows += [f"<li><code>{page.escape(pattern)}</code>: {page.escape(what)}</li>" for pattern, what in found.absent]
    rows += [f"<li><code>{page.escape(path)}</code>: {page.escape(reason)}</li>" for path, reason in found.unusable]
    if rows:
        sheet.section("Absent")
        sheet.add('<p class="caption">What this run does not have, and the figures that need it:</p>'
                  f'<ul class="missing">{"".join(rows)}</ul>')
    sheet.section("How it was made")
    ends = list(found.files["catalogue"].values()) or list(found.files["errors"].values()) \
        or list(found.files["labels"].values()) or list(found.files["model"].values())
    for file in ends:
        tree = provenance.tree(provenance.from_header(file.header))
        if tree:
            sheet.add(f"<h3>{page.escape(os.path.relpath(file.path, found.root))}</h3>"
                      f"<pre>{page.escape(chr(10).join(tree))}</pre>")


def main(argv=None):
    return cli.main(build_parser(), run, argv)
