# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private variables that one process of ours leaves another.

variable      who writes it                 who reads it                    dropped
LOADED        launcher, after .env files    itself, re-executed by SIGHUP;  when read
                                            workers of multi and --detach
EXEC_ROLE     exec                          the program below               in programs that
EXEC_APP      exec                          the program below               are not ours
PROGRAM       the program below exec,       what it starts, re-executes     likewise
              startup/sitecustomize
DOCTOR        exec --doctor                 the program below               likewise
EXAMINED      the program below             what it starts                  never
SPAWN         main process of a worker      spawned pool children           never
RESOURCE      main process of a worker      spawned pool children           never
MODE          main process of a worker      spawned pool children           never
EXPORTER      supervisor                    the exporter process            with it
TREE          launch/injected.py            the program; what it forks      never
INSTEAD_OF    launch/injected.py            the tree's otel-celery          never

``startup/sitecustomize.py`` and ``inject/`` spell some of them themselves: any Python may
run them, with or without this package. Of the user's variables, a launch changes PYTHONPATH (``exec``),
OTEL_CELERY_ENV_FILE (absolute paths) and the values that ``settings/corrections.py``
corrects.
"""

from __future__ import annotations

# "<pid>:<names>": what this process took from files. "*" for the process: so do the
# workers that multi and --detach start.
LOADED = "_OTEL_CELERY_LOADED"

# The role of the program below ``exec``, and what its service may be called.
EXEC_ROLE = "_OTEL_CELERY_ROLE"
EXEC_APP = "_OTEL_CELERY_APP"

# "<name>:<pid>" of the traced program above: set by the first Python process below
# ``exec``. A process with that number has been re-executed, one of that name is a
# reloader's child; any other is somebody else's program.
PROGRAM = "_OTEL_CELERY_PROGRAM"

# Set by ``exec --doctor``: the program is run up to the start of Celery, and examined.
DOCTOR = "_OTEL_CELERY_DOCTOR"

# The file into which processes below ``exec --doctor`` write that they have examined.
EXAMINED = "_OTEL_CELERY_EXAMINED"

# Descriptors of the counters and of the metrics (-1 for none), descriptor and inode of
# each channel's write end.
SPAWN = "_OTEL_CELERY_INHERITED"

# The main process's resource, as JSON: no detector runs in a child, which has 4 s to come up.
RESOURCE = "_OTEL_CELERY_RESOURCE"

# How telemetry leaves, where the main process has had to fall back.
MODE = "_OTEL_CELERY_MODE"

# The part of an injected tree that is for this Python: ``launch/injected.py``.
TREE = "_OTEL_CELERY_TREE"

# The script of Celery's instead of which a tree's command runs; not there for a module.
INSTEAD_OF = "_OTEL_CELERY_INSTEAD_OF"

# JSON: descriptors, signals and their exporters, the import path.
EXPORTER = "_OTEL_CELERY_EXPORTER"
