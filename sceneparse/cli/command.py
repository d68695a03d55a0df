"""Run a command: the one place where an error becomes a line on stderr and an exit code."""

from __future__ import annotations

import argparse
import errno
import io
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from sceneparse.errors import Explained, InputError, Preempted, one_line, reason_of


def version_block() -> str:
    """Say what is installed, in the form that a bug report needs."""
    try:
        from sceneparse.runtime.versions import version_rows

        rows = version_rows()
    except ImportError as error:  # which may be what is to be reported
        rows = {"python": platform.python_version(), "torch": f"cannot be imported: {error}"}
    return "\n".join(f"{name:<11}{value}" for name, value in rows.items())


class _PrintVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:  # noqa: ANN401
        sys.stdout.write(version_block() + "\n")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """Names of files arrive as arguments, by way of the shell's *."""

    def error(self, message: str) -> NoReturn:
        super().error(one_line(message))


def command_parser(verb: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Make the parser of `sceneparse VERB` with the options that all commands share."""
    parser = _Parser(
        prog=f"sceneparse {verb}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument(
        "--version", action=_PrintVersion, nargs=0, help="print the versions a bug report needs"
    )
    return parser


def run(
    parser: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None = None,
) -> NoReturn:
    """Parse, run `main`, and exit: 0, or the code of the error with one line that explains it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files need not be text.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Settings may stand before and after options.
    options = parser.parse_intermixed_args(arguments)
    try:
        with _explained_machine():
            from sceneparse.runtime.progress import log_on_main

            log_on_main()
            main(options)
    except Explained as error:
        if options.debug:
            traceback.print_exc()
        rank = os.environ.get("RANK", "0")
        who = "" if rank == "0" else f"[process {rank}] "
        _say(f"{who}{'stopped' if isinstance(error, Preempted) else 'error'}: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left; nobody is there to be told
        sys.exit(141)
    except Exception as error:
        sys.exit(_tell_unexpected(error, debug=options.debug))
    sys.exit(0)


def _tell_unexpected(error: Exception, *, debug: bool) -> int:
    """Ask for a report of a bug, or for less of what did not fit into memory."""
    out_of_memory = _is_out_of_memory(error)
    if debug or not out_of_memory:
        traceback.print_exc()
    if out_of_memory:
        _say(
            f"error: out of memory ({one_line(reason_of(error))}); make batches, crops, images or "
            "the network smaller, or close other programs"
        )
        return InputError.exit_code
    _say(f"a bug in sceneparse; please report it with the lines above and\n{version_block()}")
    return 1


def _is_out_of_memory(error: Exception) -> bool:
    """Python, NumPy and PyTorch's GPUs have types for it; PyTorch on the CPU has words."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


# A full or broken disk, a read-only one, too many open files: not a bug of ours.
_OF_THE_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
}


@contextmanager
def _explained_machine() -> Iterator[None]:
    """Turn what the machine refuses into InputError with the file, wherever it happened."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise InputError(f"{where}{error.strerror}") from error


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
