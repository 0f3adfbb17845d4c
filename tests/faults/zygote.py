"""A process with the libraries loaded that runs each task in a fork of its own: real exits, signals and
limits of a real process, without a second of imports each time.

Started by conftest.py. One JSON task per line on standard input, one JSON answer per line on standard
output. The forked child calls a function of probes.py; what it returns comes back, with how the child
ended (code as a shell shows it, 128 + n for signal n; 999 where it did not end in time), its largest
memory and its time. It runs no kernel itself (a process that has run OpenMP cannot be forked), but has
those of the cache in memory, with Numba's own thread pool, which survives a fork.
"""

import json
import os
import signal
import sys
import time
import traceback


def run(task, answers):
    """Run one task in a child; returns its answer."""
    read, write = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            os.close(read)
            for fd in answers:
                os.close(fd)
            import probes

            value = getattr(probes, task["function"])(**task["arguments"])
            code = value.pop("code", 0) if isinstance(value, dict) else 0
            os.write(write, json.dumps(value).encode())
        except BaseException:
            os.write(write, json.dumps({"traceback": traceback.format_exc()}).encode())
        finally:
            os._exit(code)
    os.close(write)
    deadline = started + task.get("timeout", 60)
    late = False
    pieces = []
    os.set_blocking(read, False)
    while True:
        try:
            while data := os.read(read, 1 << 20):
                pieces.append(data)
        except BlockingIOError:
            pass
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline and not late:
            late = True
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.001)
    os.set_blocking(read, True)
    while data := os.read(read, 1 << 20):
        pieces.append(data)
    os.close(read)
    code = os.waitstatus_to_exitcode(status)
    code = 999 if late else 128 - code if code < 0 else code
    value = json.loads(b"".join(pieces) or b"null")
    return {"code": code, "value": value, "memory": usage.ru_maxrss * 1024, "seconds": time.monotonic() - started}


def main():
    answers = os.dup(1), os.dup(0)
    os.dup2(2, 1)  # a stray print of a child is no answer
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import probes

    probes.load()
    with os.fdopen(os.dup(answers[1])) as tasks:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for line in tasks:
            # The children must not hold the two ends of this conversation open.
            task = json.loads(line)
            if task["function"] == "load_kernels":  # here, so that all later children have them
                answer = {"code": 0, "value": probes.load_kernels(), "memory": 0, "seconds": 0}
            else:
                answer = run(task, (*answers, tasks.fileno()))
            os.write(answers[0], json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
