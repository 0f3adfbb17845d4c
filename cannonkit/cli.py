"""What the ten commands share: options, messages, exit codes, progress.

A command is `build_parser()` (which opts into options with the add_* functions below), `run(args)`
and `main(argv=None)`, which is `cli.main(build_parser(), run, argv)`. Nothing here imports numpy,
numba, fitsio or yaml, so `--help`, `--version` and usage errors answer at once; what is needed
only by a running command (threads, signals) is in process.py.

Standard output carries FITS only (or the report of cc-check, --help, --print-config); everything
else goes to standard error: `log` (silenced by --quiet), `warn`, `Progress`, and one line
`cc-x: error: ...` for a failure, with a traceback only under --debug.
"""
import argparse
import os
import re
import signal
import sys
import time

from cannonkit import config, errors

BLOCK = 64  # rows: chunks and shards start at multiples of it, so that row k is at place k mod 64

_state = {"name": "cannonkit", "quiet": False, "bar": None}

# Until `main` is ready, an interrupt ends a command at once and quietly: there is nothing to clean up yet.
if os.path.basename((sys.argv or [""])[0]).startswith("cc-") \
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# --- parsers --------------------------------------------------------------------------------------

class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError (exit code 64) and suggests option names."""

    def __init__(self, prog=None, doc="", **keywords):
        description, examples = split_doc(doc)
        keywords.setdefault("description", description)
        keywords.setdefault("epilog", examples)
        super().__init__(prog=prog, formatter_class=_formatter, allow_abbrev=False, add_help=False,
                         **keywords)
        self.settings_class, self.settings_help = None, {}
        # Values such as -1e-4 are numbers, not options.
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\Z|-\.inf\Z")

    def parse_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        if "--print-config" in args[:args.index("--")] if "--" in args else "--print-config" in args:
            _require_nothing(self)
        found, extra = self.parse_known_args(args, namespace)
        if extra:
            option = next((text for text in extra if text.startswith("-") and text != "-"), None)
            if option is None:
                self.error(f"unexpected argument {extra[0]!r}")
            name = option.partition("=")[0]
            known = sorted(o for o in _option_strings(self, found) if o.startswith("--"))
            hint = errors.did_you_mean(name, known, limit=0).split(" there are")[0]
            hint = hint.rstrip("? ") + "?)" if "did you mean" in hint else ""
            self.error(f"no such option: {name}{hint}")
        return found

    def _print_message(self, message, file=None):
        """Help goes out in checked writes: a full disk is an error (argparse ignores it)."""
        (file or sys.stderr).write(message)

    def error(self, message):
        raise errors.UsageError(f"{message} (see {self.prog} --help)")


def _formatter(prog):
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=100)


def _require_nothing(parser):
    """Let --print-config stand without INPUT and -o."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _require_nothing(inner)
        elif action.option_strings:
            action.required = False
        else:
            action.required = False
            action.nargs = {None: "?", "+": "*"}.get(action.nargs, action.nargs)


def _option_strings(parser, found):
    names = list(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            inner = action.choices.get(getattr(found, action.dest, None))
            names += _option_strings(inner, found) if inner else []
    return names


def split_doc(doc):
    """(first paragraph, examples) of a docstring; the examples start at a line `Examples:`."""
    lines = [line.rstrip() for line in (doc or "").expandtabs().strip().splitlines()]
    indent = min((len(line) - len(line.lstrip()) for line in lines[1:] if line), default=0)
    doc = "\n".join(lines[:1] + [line[indent:] for line in lines[1:]])
    first = doc.split("\n\n", 1)[0]
    start = re.search(r"^Examples?\b.*:$", doc, re.MULTILINE)
    return first, doc[start.start():] if start else None


def new_parser(name, doc):
    """A command's parser with --help, --version, --quiet, --threads and --debug.

    The docstring's first paragraph is the description; what follows a line `Examples:` ends the
    help. Three examples, each a line that runs as it is.
    """
    parser = Parser(name, doc)
    _add_common_options(parser)
    return parser


def add_subcommands(parser):
    """The group to which `add_subcommand` adds; the chosen name is args.subcommand."""
    return parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True,
                                 parser_class=Parser, title="commands")


def add_subcommand(group, name, doc):
    """A parser for `cc-x NAME ...`, with the common options; `doc` is used as in new_parser."""
    inner = group.add_parser(name, doc=doc, help=split_doc(doc)[0].splitlines()[0])
    _add_common_options(inner)
    return inner


def _add_common_options(parser):
    # SUPPRESS: given before or after a subcommand's name, an option means the same.
    group = parser.add_argument_group("running")
    group.add_argument("-h", "--help", action="help", help="show this help and stop")
    group.add_argument("--version", action=_Version,
                       help="print the versions of cannonkit and its libraries, and stop")
    group.add_argument("--threads", type=_positive, metavar="N", default=argparse.SUPPRESS,
                       help="processor threads (default: NUMBA_NUM_THREADS, SLURM_CPUS_PER_TASK, or the "
                       "processors this process may use)")
    group.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS,
                       help="no progress and no counts on standard error, only warnings and errors")
    group.add_argument("--debug", action="store_true", default=argparse.SUPPRESS,
                       help="show a traceback with an error")
    group.add_argument("--report", choices=("json",), default=argparse.SUPPRESS,
                       help="end with a line of JSON: exit code, outputs with their rows and counts, seconds; on "
                       "standard error where standard output carries FITS or a report")


def add_output_options(parser, many=False):
    """-o FILE|-, --overwrite, --dry-run: args.output, args.overwrite, args.dry_run.

    many: -o can be repeated, and args.output is a list.
    """
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", required=True, metavar="FILE", action="append" if many else "store",
                       help="file to write; - for standard output. It appears only when it is whole"
                       + (" (repeatable)" if many else ""))
    group.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    group.add_argument("--dry-run", action="store_true",
                       help="check the inputs, print what would be done, write nothing")


def add_stream_options(parser, metavar="INPUT", chunk=4096, help=None, many=False):
    """The positional input (args.input), --chunk ROWS (args.chunk) and the output options (many: several -o)."""
    parser.add_argument("input", metavar=metavar, help=help or "file to read; - for standard input")
    parser.add_argument("--chunk", type=_chunk, default=chunk, metavar="ROWS",
                        help=f"rows held in memory at a time, rounded up to a multiple of {BLOCK}; "
                        f"the result does not depend on it (default: {chunk})")
    add_output_options(parser, many)


def add_shard_options(parser):
    """--shard I/N (args.shard: (I, N) or None), --resume (args.resume) and --verify (args.verify).

    In a Slurm array job the default is the task's own share, but of standard input all rows. With a shard, an
    output that is a directory (or ends with /) becomes part-IIIII-of-NNNNN.fits in it.
    """
    group = parser.add_argument_group("shards")
    group.add_argument("--shard", type=_shard, metavar="I/N", default=None,
                       help="do only the I-th (from 0) of N equal shares of the rows; in a Slurm array "
                       "job the default is this task's share (of a pipe: all of it). An output directory gets "
                       "part-I-of-N.fits")
    group.add_argument("--resume", action="store_true",
                       help="do nothing if FILE is there, whole, and made from the same inputs and settings")
    add_verify(group)


def add_verify(parser):
    """--verify (args.verify)."""
    parser.add_argument("--verify", action="store_true",
                       help="compare the DATASUM of all rows of the input before the first is used (without it, when "
                       "all have been read; not for shards and spectra)")


def add_settings(parser, cls, **help):
    """--config, --set, --print-config, and one option for each simple field of a settings class.

    cls   a dataclass of config.py
    help  help texts of fields, where they are not in the fields themselves
    Options keep their own names in args (`setting_x`), so they cannot clash with others; the
    command gets the values with config.resolve(cls, args).
    """
    import dataclasses

    from cannonkit import typed

    parser.settings_class, parser.settings_help = cls, help
    group = parser.add_argument_group("settings")
    group.add_argument("--config", metavar="FILE",
                       help=f"YAML file with a section '{config.section_name(cls)}:'")
    group.add_argument("--set", action="append", metavar="KEY=VALUE", default=None,
                       help="one setting; wins over --config (repeatable)")
    group.add_argument("--print-config", action="store_true",
                       help="print the resolved settings as YAML and stop")
    parser.set_defaults(settings_class=cls, settings_help=help)
    kinds = typed.field_types(cls)
    unknown = set(help) - set(kinds)
    if unknown:
        raise TypeError(f"{cls.__name__} has no setting {sorted(unknown)}")
    for field in dataclasses.fields(cls):
        kind = kinds[field.name]
        if not (field.init and field.metadata.get("option", True) and typed.is_simple(kind)):
            continue
        key = typed.key_of(field.name)
        if f"--{key.replace('_', '-')}" in parser._option_string_actions:
            continue  # a field called, say, `threads`: the shared option keeps the name
        words = _setting_help(field, help.get(field.name), typed)
        keywords = {"dest": f"setting_{field.name}", "default": argparse.SUPPRESS, "help": words}
        name = f"--{key.replace('_', '-')}"
        if kind is bool:
            group.add_argument(name, action=argparse.BooleanOptionalAction, **keywords)
        else:
            metavar = field.metadata.get("metavar") or key.upper()
            group.add_argument(name, type=_SettingType(field, kind), metavar=metavar, **keywords)


def _setting_help(field, words, typed):
    import dataclasses

    words = words or field.metadata.get("help", "")
    unit = field.metadata.get("unit")
    if unit:
        words += f" [{unit}]"
    choices = field.metadata.get("choices")
    if choices:
        words += f": {', '.join(str(c) for c in choices if c != '')}"
    default = field.default
    if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    if default is not dataclasses.MISSING:
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else typed.text_of(default)
        shown = field.metadata.get("shown") or ("" if default in (None, "", ()) else shown)
        words += f" (default: {shown})" if shown else ""
    return words.replace("%", "%%")


class _SettingType:
    """Turns an option's text into the field's type; wrong text is a usage error."""

    def __init__(self, field, kind):
        self.field, self.kind = field, kind

    def __call__(self, text):
        from cannonkit import typed

        try:
            return typed.option_value(text, self.field, self.kind)
        except errors.ConfigError as error:
            message = re.sub(r"^value: (key '\[\d+\]': )?", "", str(error))
            raise argparse.ArgumentTypeError(message) from None


class _Version(argparse.Action):
    """--version: cannonkit, Python and the libraries, from their metadata, importing none of them."""

    LIBRARIES = ("numpy", "scipy", "numba", "fitsio", "pyyaml", "matplotlib")

    def __init__(self, option_strings, dest, help=None):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser, namespace, values, option_string=None):
        from importlib import metadata

        import cannonkit

        words = [f"{parser.prog} (cannonkit) {cannonkit.__version__}",
                 f"Python {sys.version.split()[0]}"]
        for name in self.LIBRARIES:
            try:
                words.append(f"{name} {metadata.version(name)}")
            except metadata.PackageNotFoundError:
                words.append(f"{name} (not installed)")
        print("\n".join(words))
        parser.exit()


def _positive(text):
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def _chunk(text):
    return -(-_positive(text) // BLOCK) * BLOCK


def _shard(text):
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or not int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with 0 <= I < N, found {text!r}")
    return int(match[1]), int(match[2])


# --- shards ---------------------------------------------------------------------------------------

def shard_rows(shard, n_row):
    """(first row, row after the last) of a shard of n_row rows; all of them if shard is None.

    Shards start at multiples of 64 rows, so that a row stands at the same place of its block in
    every cut; the last shards of a small table can be empty.
    """
    if shard is None:
        return 0, n_row
    index, count = shard
    n_block = -(-n_row // BLOCK)
    return min(n_row, n_block * index // count * BLOCK), min(n_row, n_block * (index + 1) // count * BLOCK)


def part_name(shard):
    """The file name of a shard: part-00003-of-00016.fits."""
    return f"part-{shard[0]:05d}-of-{shard[1]:05d}.fits"


def _slurm_shard():
    """The shard of this Slurm array task, or None outside an array. Raises UsageError."""
    get = os.environ.get
    if get("SLURM_ARRAY_TASK_ID") is None:
        return None
    try:
        task, low, high, count, step = (int(get(f"SLURM_ARRAY_TASK_{key}", default)) for key, default in (
            ("ID", ""), ("MIN", "0"), ("MAX", "-1"), ("COUNT", ""), ("STEP", "1")))
    except ValueError:
        raise errors.UsageError("SLURM_ARRAY_TASK_ID is set, but the array's size is not readable from "
                                "SLURM_ARRAY_TASK_*; give --shard I/N") from None
    if step != 1 or (high >= 0 and high - low + 1 != count) or not 0 <= task - low < count:
        raise errors.UsageError("this Slurm array has gaps or a step, so it cuts no table into equal shares; "
                                "use --array=0-N, or give --shard I/N")
    return task - low, count


# --- messages -------------------------------------------------------------------------------------

def one_line(text, limit=2000):
    """Text for one line of a terminal: no newlines, no control characters, not endless."""
    text = " ".join(line.strip() for line in str(text).expandtabs(1).splitlines())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= limit else text[:limit - 3] + "..."


def log(text):
    """A line of counts or news on standard error; nothing with --quiet."""
    if not _state["quiet"]:
        _say(text)


def log_table(rows):
    """Rows of texts as lines of `log`, in columns: the first flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        log("  ".join(cell.rjust(width) if k else cell.ljust(width)
                      for k, (cell, width) in enumerate(zip(row, widths, strict=True))))


def warn(text):
    """A line `cc-x: warning: ...` on standard error, with --quiet too."""
    _say(f"warning: {text}")


def _say(text):
    if _state["bar"] is not None:
        _state["bar"].clear()
    try:
        sys.stderr.write(f"{_state['name']}: {one_line(text)}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # a closed or full standard error is no reason to stop
        pass


def dry_run(args, memory=None, **facts):
    """With --dry-run: print what would be done (`rows=1200`), the fate of each output and, from `memory` in bytes,
    what is needed besides the program; return True. Outputs that --resume keeps are reported by the command.
    """
    if not args.dry_run:
        return False
    facts = {"input": getattr(args, "input", None), **facts,
             "memory": None if memory is None else f"{max(1, round(memory / 1e6))} MB besides the program"}
    for name, value in facts.items():
        if value is not None:
            _say(f"would do: {name.replace('_', ' ')} {value}")
    for path in _outputs(args):
        _say(f"would do: output {path} ({_fate(args, path)})")
    return True


def _fate(args, path):
    if path == "-":
        return "standard output"
    if not os.path.lexists(path):
        return "new"
    if getattr(args, "resume", False):
        return "there, but not whole or not of these inputs and settings: made again"
    return "there: replaced" if args.overwrite else "there: refused without --overwrite"


class Progress:
    """Progress of a long loop: `with Progress(n_total, "spectra", args) as p: ... p.advance(n)`.

    On a terminal a bar, redrawn at most five times a second; elsewhere (a Slurm log) a line every
    `interval` seconds with done, total, rate and time left; with --quiet nothing. n_total None:
    the total is not known.
    """

    def __init__(self, n_total, what, args=None, interval=30.0):
        self.n_total, self.what, self.interval = n_total, what, interval
        self.quiet = _state["quiet"] or getattr(args, "quiet", False)
        try:
            self.on_terminal = sys.stderr.isatty()
        except (AttributeError, ValueError):
            self.on_terminal, self.quiet = False, True
        self.n_done, self.started, self.shown, self.drawn = 0, 0.0, 0.0, False

    def __enter__(self):
        self.started = self.shown = time.monotonic()
        if not self.quiet:
            _state["bar"] = self
        return self

    def __exit__(self, *error):
        self.clear()
        _state["bar"] = None

    def advance(self, n):
        """n more are done."""
        self.n_done += n
        if self.quiet:
            return
        now = time.monotonic()
        if now - self.shown >= (0.2 if self.on_terminal else self.interval):
            self.shown = now
            if self.on_terminal:
                self._draw()
            else:
                _say(self.text())

    def text(self):
        """`1200/5000 spectra, 24 %, 350/s, 0:00:11 left`."""
        spent = time.monotonic() - self.started
        rate = self.n_done / spent if spent > 0 else 0.0
        words = [f"{self.n_done} {self.what}" if self.n_total is None else
                 f"{self.n_done}/{self.n_total} {self.what}"]
        if self.n_total:
            words.append(f"{100 * self.n_done / self.n_total:.0f} %")
        words.append(f"{rate:.3g}/s" if rate < 1000 else f"{rate:.0f}/s")
        if self.n_total and rate > 0:
            left = int((self.n_total - self.n_done) / rate)
            words.append(f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left")
        return ", ".join(words)

    def _draw(self):
        bar = ""
        if self.n_total:
            filled = int(24 * min(1.0, self.n_done / self.n_total))
            bar = f"[{'#' * filled}{'.' * (24 - filled)}] "
        sys.stderr.write(f"\r{_state['name']}: {bar}{self.text()}\x1b[K")
        sys.stderr.flush()
        self.drawn = True

    def clear(self):
        """Take the bar off the terminal, so that a line can be printed."""
        if self.drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self.drawn = False


# --- imports --------------------------------------------------------------------------------------

def import_ahead(name):
    """Import module `name` in a thread while this one reads its input; call what is returned for the module.

    Imports hold the interpreter and reading does not, so the two together take little longer than the slower one.
    The call waits, and raises what went wrong. Until then nothing may be imported that the module imports: where
    that fails in the thread (no memory), an import here that waited for it returns half a module.
    """
    import importlib
    import threading

    interval, found = sys.getswitchinterval(), []

    def run():
        try:
            found.append(importlib.import_module(name))
        except BaseException as error:
            found.append(error)
        finally:
            sys.setswitchinterval(interval)

    thread = threading.Thread(target=run)
    if name in sys.modules:
        found.append(sys.modules[name])
    else:
        sys.setswitchinterval(0.0005)          # the reader must not wait for the interpreter long
        thread.start()

    def module():
        if not found:
            thread.join()
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    return module


# --- provenance -----------------------------------------------------------------------------------

def record(args, settings=None):
    """What made an output: command, version, arguments, resolved settings; plain data.

    Keys: command, version, arguments (the command line as given), settings (nested dict or None),
    config_digest (sha256 of the resolved settings as YAML: equal settings, equal digest, however
    they were given), shard ([I, N] or None).
    """
    import hashlib

    import cannonkit

    text = config.dump(settings) if settings is not None else ""
    return {"command": getattr(args, "command_name", _state["name"]),
            "version": cannonkit.__version__,
            "arguments": list(getattr(args, "arguments", ())),
            "settings": None if settings is None else config.plain(settings),
            "config_digest": hashlib.sha256(text.encode()).hexdigest(),
            "shard": list(args.shard) if getattr(args, "shard", None) else None}


# --- main -----------------------------------------------------------------------------------------

def main(parser, run, argv=None):
    """Parse, run, and turn whatever happens into an exit code (README, "Exit codes").

    argv None: this is the process's own command line, and signals, closed streams, threads and
    the kernel cache are set up for the whole process. With a list (tests, other programs) the
    process is left as it is. Returns the exit code.
    """
    own = argv is None
    argv = list(sys.argv[1:] if own else argv)
    before = dict(_state)
    _state.update(name=parser.prog, quiet=False, bar=None)
    args, started = None, time.monotonic()
    try:
        try:
            if own:
                from cannonkit import process

                process.start()
            if "cannonkit.stream" in sys.modules:
                sys.modules["cannonkit.stream"].finished(forget=True)
            args = parser.parse_args(argv)
            code = _run(parser, run, args, argv, own)
            _report(args, started, code)
        finally:
            if _state["bar"] is not None:
                _state["bar"].__exit__()
        _flush()
        if own:
            process.finish(code)
        return code
    except SystemExit as stop:  # --help and --version
        return _closing(stop.code if isinstance(stop.code, int) else 0)
    except BaseException as error:
        debug = args.__dict__.get("debug", False) if args is not None else "--debug" in argv
        from cannonkit import process

        if args is not None and isinstance(error, Exception):
            _report(args, started, *process.meaning(error))
        return process.failure(error, debug, own)
    finally:
        _state.update(before)


def _run(parser, run, args, argv, own):
    _state["quiet"] = args.quiet = getattr(args, "quiet", False)
    args.threads = getattr(args, "threads", None)
    args.command_name, args.arguments = parser.prog, argv
    if getattr(args, "print_config", False):
        settings = config.resolve(args.settings_class, args)
        sys.stdout.write(config.dump(settings, args.settings_help))
        return 0
    if "shard" in args.__dict__:
        if args.shard is None:
            args.shard = _slurm_shard() if own and getattr(args, "input", None) != "-" else None
        if args.shard is not None:
            parts = [_part_of(path, args.shard) for path in _outputs(args)]
            args.output = parts if isinstance(args.output, list) else parts[0]
    if own:
        from cannonkit import process

        if "-" in _outputs(args) and os.isatty(1):
            raise errors.UsageError("FITS is not written to a terminal; redirect it, or use -o FILE")
        args.threads = process.set_threads(args.threads)
    started = time.monotonic()
    try:
        code = run(args) or 0
    except errors.SettingError as error:
        raise _given_where(error, args) from error
    if own and getattr(args, "output", None) and not getattr(args, "dry_run", False):
        threads = "1 thread" if args.threads == 1 else f"{args.threads} threads"
        log(f"done in {time.monotonic() - started:.1f} s on {threads}")
    return code


def _given_where(error, args):
    """A SettingError as what it is to the user: wrong on the command line (64), or in the settings file (78)."""
    typed = [text.partition("=")[0].partition(".")[0].strip() for text in getattr(args, "set", None) or ()]
    typed += [name.removeprefix("setting_") for name in vars(args) if name.startswith("setting_")]
    if getattr(args, "config", None) is None or set(typed) & set(error.settings):
        return errors.UsageError(f"{error} (see {args.command_name} --help)")
    return errors.ConfigError(f"{args.config}: {error}")


def _report(args, started, code, error=None):
    """--report json: what happened, in one line for scripts. The outputs are those that are whole."""
    if getattr(args, "report", None) is None:
        return
    import json

    stream = sys.modules.get("cannonkit.stream")
    report = {"command": args.command_name, "code": code, "error": error and one_line(error),
              "seconds": round(time.monotonic() - started, 3), "threads": args.threads,
              "outputs": stream.finished() if stream else []}
    to = sys.stderr if "-" in _outputs(args) or not _outputs(args) else sys.stdout
    try:
        to.write(json.dumps(report) + "\n")
        to.flush()
    except (ValueError, AttributeError):
        pass


def _outputs(args):
    """The paths given with -o, as a list."""
    given = getattr(args, "output", None)
    return given if isinstance(given, list) else [] if given is None else [given]


def _part_of(path, shard):
    """The file of a shard: `path`, or the part of that name in it if it is a directory."""
    return os.path.join(path, part_name(shard)) if path != "-" and (path.endswith("/") or os.path.isdir(path)) \
        else path


def _flush():
    """Push out what is left in standard output; a full disk or a closed one shows here (74)."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except ValueError:
            pass


def _closing(code):
    try:
        _flush()
        return code
    except OSError as error:
        from cannonkit import process

        return process.failure(error, False, False)
