"""What can go wrong, each with its exit code (the sysexits classes of the README's table).

A stage or a reader raises one of these with one line that names the file, extension, column
and row, what was found and what was expected; `cli.main` prints it and exits with `code`.
"""
import difflib


class CannonkitError(Exception):
    """Base class: a message for the user, in one line, and the exit code of the process."""

    code = 70


class GateFailed(CannonkitError):
    """The output is written, but a limit that the user set (`--max-failed`) is exceeded."""

    code = 1


class UsageError(CannonkitError):
    """The command line makes no sense."""

    code = 64


class DataError(CannonkitError):
    """An input is malformed, damaged or inconsistent with another."""

    code = 65


class NoInputError(CannonkitError):
    """An input cannot be opened."""

    code = 66


class UnavailableError(CannonkitError):
    """Something needed is not installed."""

    code = 69


class InternalError(CannonkitError):
    """Our own mistake."""


class CannotCreateError(CannonkitError):
    """The output exists already, or cannot be made."""

    code = 73


class TransferError(CannonkitError):
    """A read or a write failed: full disk, closed standard output, input/output error."""

    code = 74


class TryAgainError(CannonkitError):
    """A passing trouble (lock, quota, node): Slurm requeues on this code."""

    code = 75


class ConfigError(CannonkitError):
    """A recipe or a setting is wrong: file, line and key are in the message."""

    code = 78


class SettingError(ConfigError):
    """Settings that cannot be or do not go together, found only when they are used.

    `settings` are their names. `cli.main` makes a UsageError of it where one of them stands on the command line.
    """

    def __init__(self, message, *settings):
        super().__init__(message)
        self.settings = settings


def where(file, extension=None, column=None, row=None):
    """The place of a finding: `file[EXT]: column 'x', row 17`; parts that are None are left out."""
    place = f"{file}[{extension}]" if extension is not None else str(file)
    parts = []
    if column is not None:
        parts.append(f"column {column!r}")
    if row is not None:
        parts.append(f"row {row}")
    return f"{place}: {', '.join(parts)}" if parts else place


def did_you_mean(name, known, limit=20):
    """A suggestion for a misspelt name, and the valid ones: ` (did you mean 'teff'? there are: ...)`."""
    known = [str(k) for k in known]
    folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.6)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    shown = ", ".join(known[:limit]) + (f", ... ({len(known)} in all)" if len(known) > limit else "")
    return f" ({hint}there are: {shown})" if known else ""
