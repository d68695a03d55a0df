"""Run a command, and turn every error into one line on stderr and an exit code."""

import argparse
import errno
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from sceneparse.cli.output import results_only
from sceneparse.errors import Explained, InputError, Preempted, one_line, reason_of
from sceneparse.runtime.shell import escape_unprintable

# The remedy of commands with --output for a place that cannot be written.
OTHER_OUTPUT = "choose another place with --output"


def version_block() -> str:
    """Return the installed versions, one per line, as a bug report needs them."""
    try:
        from sceneparse.runtime.versions import version_rows

        rows = version_rows()
    except ImportError as error:  # which may be what is to be reported
        rows = {"python": platform.python_version(), "torch": f"cannot be imported: {error}"}
    return "\n".join(f"{name:<11}{value}" for name, value in rows.items())


class _PrintVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:  # noqa: ANN401
        print(version_block())
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """Prints one line about a wrong argument instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        # File names, which may hold line breaks, arrive as arguments too.
        problem = one_line(message.removeprefix("argument "))
        self.exit(2, f"error: {problem}; run `{self.prog} --help`\n")


def command_parser(verb: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return the parser of `sceneparse VERB` with the options that all commands share."""
    parser = _Parser(
        prog=f"sceneparse {verb}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    parser.add_argument(
        "--version", action=_PrintVersion, nargs=0, help="print the installed versions and exit"
    )
    return parser


def run(
    parser: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None = None,
) -> NoReturn:
    """Parse the arguments, run `main`, and exit with 0 or with an error line and its code."""
    escape_unprintable()
    # Settings may stand before and after options.
    options = parser.parse_intermixed_args(arguments)
    for name, value in vars(options).items():
        setattr(options, name, _with_home(value))
    # The benchmarks have an option --json with the name of a file.
    quiet, as_json = (getattr(options, name, False) is True for name in ("quiet", "json"))
    try:
        with _machine_errors(), results_only(quiet=quiet, as_json=as_json):
            from sceneparse.runtime.progress import log_on_main

            log_on_main(quiet=quiet)
            main(options)
    except Explained as error:
        if options.debug:
            traceback.print_exc()
        rank = os.environ.get("RANK", "0")
        who = "" if rank == "0" else f"[process {rank}] "
        _print_error(f"{who}{'stopped' if isinstance(error, Preempted) else 'error'}: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _print_error("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        exit_without_reader()
    except Exception as error:
        sys.exit(_report_unexpected(error, debug=options.debug))
    sys.exit(0)


def _with_home(value: Any) -> Any:  # noqa: ANN401 - of any option
    """Expand ~ in a path, or in paths of a list; shells do not after = or in quotes."""
    if isinstance(value, list):
        return [_with_home(part) for part in value]
    if isinstance(value, str | Path) and str(value).startswith("~"):
        return type(value)(os.path.expanduser(value))  # noqa: PTH111 - raises for no such user
    return value


def _report_unexpected(error: Exception, *, debug: bool) -> int:
    """Print what to do about a bug or a lack of memory; return the exit code."""
    out_of_memory = _is_out_of_memory(error)
    if debug or not out_of_memory:
        traceback.print_exc()
    if out_of_memory:
        _print_error(
            f"error: out of memory ({one_line(reason_of(error))}); make batches, crops, images or "
            "the network smaller, or close other programs"
        )
        return InputError.exit_code
    _print_error(
        f"a bug in sceneparse; please report it with the lines above and\n{version_block()}"
    )
    return 1


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out; PyTorch on the CPU shows it only in its message."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


# A full, broken or read-only disk, or too many open files: no bugs of this package.
_MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}


@contextmanager
def _machine_errors() -> Iterator[None]:
    """Turn an error of disk or system into InputError with the file, wherever it happened."""
    try:
        yield
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise InputError(f"{where}{error.strerror}") from error


@contextmanager
def writing(place: object, remedy: str = "") -> Iterator[None]:
    """Raise InputError that names `place`, and a remedy, if something cannot be written."""
    try:
        yield
    except ConnectionError:  # the reader of the output left, or another process
        raise
    except OSError as error:
        then = f"; {remedy}" if remedy else ""
        raise InputError(f"cannot write '{place}': {reason_of(error)}{then}") from error


def create_output(folder: Path) -> None:
    """Create a folder for results; raise OSError now if no file can be written into it."""
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def exit_without_reader() -> NoReturn:
    """Exit quietly, because nobody reads our output any more."""
    sys.stderr.close()
    sys.exit(141)


def _print_error(text: str) -> None:
    sys.stderr.write(text + "\n")
