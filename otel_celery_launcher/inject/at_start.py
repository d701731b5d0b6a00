# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Run by Python at the start of each process whose ``PYTHONPATH`` names an injected tree.

``otel-celery inject`` puts this file at the top of the tree, as ``sitecustomize.py``. It
removes its folder from ``sys.path``, hands over to ``launch/injected.py`` where the
program may be one to trace, and runs the ``sitecustomize`` that it hid. It raises
nothing. Any Python may run it, 2.7 too, so it has the syntax of all of them and imports
next to nothing.
"""

import os
import sys

PROGRAM = "_OTEL_CELERY_PROGRAM"  # as in ipc/inherited.py


def _say(text):
    # type: (str) -> None
    """Write a line where somebody reads it, once below a program."""
    if PROGRAM in os.environ:
        return
    os.environ[PROGRAM] = ":" + str(os.getpid())
    try:
        sys.stderr.write("otel-celery: " + text + "\n")
    except Exception:  # noqa: BLE001 - closed, full, or a broken pipe
        return


def _command_line():
    # type: () -> list[str]
    words = getattr(sys, "orig_argv", None)  # from Python 3.10 on
    if words:
        return list(words)
    try:
        with open("/proc/self/cmdline") as file:
            return file.read().split("\0")[:-1]
    except Exception:  # noqa: BLE001 - not Linux, or no text
        return []


def _may_be_traced(words):
    # type: (list[str]) -> bool
    """Return whether a closer look is due; most programs are let go here."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if "_OTEL_CELERY_ROLE" in os.environ:  # below `otel-celery exec`, which does it
        return False
    choice = os.environ.get("OTEL_CELERY_INJECT", "").strip().lower()
    if choice == "python":
        return True
    return choice != "none" and any(word.endswith("celery") for word in words[1:])


def _inject(folder, words):
    # type: (str, list[str]) -> None
    name = "python" + ".".join(str(number) for number in sys.version_info[:2])
    if "t" in getattr(sys, "abiflags", ""):  # free-threaded
        name += "t"
    home = os.path.join(folder, name)
    if not os.path.isdir(home):
        known = sorted(each for each in os.listdir(folder) if each[:6] == "python")
        _say(
            "the injected tree " + folder + " is for " + ", ".join(known) + ", and this"
            " is " + name + ": the program runs untraced; make it with: otel-celery"
            " inject --python " + name[6:]
        )
        return
    launcher = os.path.join(home, "launcher")
    sys.path.insert(0, launcher)
    from otel_celery_launcher.launch.injected import start

    if not start(folder, home, words):
        sys.path.remove(launcher)


def _run_hidden():
    # type: () -> None
    """Run the application's or the distribution's own ``sitecustomize``."""
    own = sys.modules.pop("sitecustomize", None)
    try:
        __import__("sitecustomize")
    except ImportError as exc:
        if getattr(exc, "name", "sitecustomize") != "sitecustomize":
            raise
    finally:
        if own is not None:  # the import system looks for it
            sys.modules.setdefault("sitecustomize", own)


def _start():
    # type: () -> None
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [each for each in sys.path if os.path.abspath(each) != folder]
    try:
        words = _command_line()
        if _may_be_traced(words):
            _inject(folder, words)
    except Exception as exc:  # noqa: BLE001 - the boundary: it stops no program
        _say(
            "a failure of the injected tree ("
            + repr(exc)
            + "): the program runs untraced"
        )
    _run_hidden()


if __name__ == "sitecustomize":
    _start()
