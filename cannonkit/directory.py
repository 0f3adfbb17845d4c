"""A directory as an output: built beside its place, renamed when whole, so that nothing partial is left."""
import contextlib
import os
import shutil
import tempfile

from cannonkit import errors


@contextlib.contextmanager
def new_directory(path, overwrite, sign):
    """Context manager: gives the path of a hidden temporary directory that becomes `path` at the end.

    An existing empty directory is used up. One with files is refused, unless `overwrite` is set and it
    holds the
    file `sign`, by which an earlier output of the same command is known: other people's files are never
    removed. Where the block fails, the temporary directory is removed and `path` is as it was. Raises
    CannotCreateError.
    """
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    _check(path, overwrite, sign)
    try:
        os.makedirs(parent, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=parent)
    except OSError as error:
        raise errors.CannotCreateError(f"{path}: {error.strerror}") from None
    try:
        os.chmod(temporary, 0o777 & ~_umask())
        yield temporary
        _check(path, overwrite, sign)
        _put(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _check(path, overwrite, sign):
    if not os.path.lexists(path):
        return
    if not os.path.isdir(path) or os.path.islink(path):
        raise errors.CannotCreateError(f"{path}: is there and is not a directory")
    found = os.listdir(path)
    if not found:
        return
    if not overwrite:
        raise errors.CannotCreateError(f"{path}: is there and not empty (see --overwrite)")
    if sign not in found:
        raise errors.CannotCreateError(f"{path}: not replaced: it is no earlier output (no {sign} in it)")


def _put(temporary, path):
    old = None
    try:
        if os.path.isdir(path):
            old = temporary + ".old"
            os.rename(path, old)
        os.rename(temporary, path)
    except OSError as error:
        if old is not None and not os.path.lexists(path):
            os.rename(old, path)
        raise errors.CannotCreateError(f"{path}: {error.strerror}") from None
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _umask():
    mask = os.umask(0o22)
    os.umask(mask)
    return mask
