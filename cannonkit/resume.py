"""Whether an output is there already, whole, and made from the same inputs with the same settings
(--resume)."""
import json
import os

from cannonkit import errors, provenance, stream


def is_done(path, record, sources):
    """True where `path` is a whole product of the run that `record` (from cli.record) and `sources` describe.

    Same command, version, settings, shard and further entries of the record (the arguments may be written in
    another way), and the same inputs: their DATASUMs where they have them, else their names. All DATASUMs of
    the output are compared with its data. A damaged output, or one of another run, is not done: False.
    Raises NoInputError where the output exists and cannot be opened.
    """
    if str(path) == "-" or not os.path.lexists(path):
        return False
    try:
        with stream.open_source(path, verify=True) as found:
            records = provenance.from_header(found.header)
    except errors.DataError:
        return False
    if not records:
        return False
    new = provenance.chain(record, sources)[0]
    return _essence(records[0]) == _essence(new)


def _essence(record):
    record = json.loads(json.dumps(record))            # as it comes back from a header
    kept = {key: value for key, value in record.items() if key not in ("id", "arguments", "inputs")}
    inputs = [i["datasum"] or i["name"] for i in record.get("inputs", ())]
    return kept, inputs
