# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The launcher's own exit statuses and the one error it prints itself.

LauncherError           a request that cannot be carried out; printed by ``cli.main``

Everything else keeps Celery's exit status. After start nothing of ours raises into a
task, so no other exception class is needed.
"""

from __future__ import annotations

# Statuses of sysexits.h: systemd's RestartPreventExitStatus=78 stops restart loops.
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_UNAVAILABLE = 69
EXIT_BUG = 70
EXIT_CONFIG = 78
EXIT_CANNOT_EXECUTE = 126  # as a shell has it
EXIT_NOT_FOUND = 127
EXIT_INTERRUPTED = 130


class LauncherError(Exception):
    """A request the launcher cannot carry out; the user can mend it.

    Args:
        message: Name, value, where it came from: what was expected. One sentence.
        hint: The next thing to type or to change.
        exit_status: Status of the process, one of this module's constants.
    """

    def __init__(self, message: str, hint: str, exit_status: int = EXIT_CONFIG) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_status = exit_status
