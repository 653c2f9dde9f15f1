"""Error messages of commands: one message on stderr and an exit code for every error that a user can fix."""

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from medvlm_r1.errors import UserError, explain_missing_extra

_NOT_A_FOLDER = "a file is in the place of a folder; give another path, or move the file away"
_PATH_ERRORS = {
    errno.EEXIST: _NOT_A_FOLDER,
    errno.ENOTDIR: _NOT_A_FOLDER,
    errno.EISDIR: "a folder is in the place of a file; give the path of a file",
    errno.ENOENT: "no such file or folder; check the path",
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
    errno.ELOOP: "a circle of symbolic links; give the real path",
}


class Interrupted(Exception):
    """Interruption by Ctrl-C, with a message. It replaces KeyboardInterrupt, which Typer would swallow."""


def run_command(command: Callable[[], object]) -> int:
    """Run a command and report errors on stderr, in one message without a traceback.

    Args:
        command: Function that runs the command. It returns an exit code, or None for success.

    Returns:
        The exit code: 0 for success, 1 for an error, 2 for wrong usage, 130 for an interruption.

    Raises:
        Exception: A bug in this program. The traceback belongs in a bug report.
    """
    for stream in (sys.stdout, sys.stderr):
        # The encoding of the terminal may not support every character of a file name or an answer.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with explain_missing_extra():
            code = command()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except UserError as error:
        return _print_error(str(error), error.exit_code)
    except typer.TyperException as error:
        return _print_error(_usage_message(error), error.exit_code)
    except typer.Abort:
        return _print_error("Nothing was done.", 1)
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`). Python would print an error when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        from medvlm_r1.disk import describe_os_error

        advice = _PATH_ERRORS.get(error.errno or 0)
        if message := describe_os_error(error):
            return _print_error(f"{message}. Finished work is kept; re-run to resume.", 1)
        if advice is None or error.filename is None:
            raise
        return _print_error(f"{os.fsdecode(error.filename)}: {advice}.", 1)
    except UnicodeEncodeError as error:
        invalid = ascii(error.object[error.start : error.end])
        return _print_error(f"a name has invalid {error.encoding} bytes ({invalid}); rename the file or folder.", 1)
    except (KeyboardInterrupt, Interrupted) as interrupt:
        print(file=sys.stderr)
        return _print_error(str(interrupt) or "Interrupted. Finished work is kept; re-run to resume.", 130)


def _usage_message(error: Any) -> str:
    """Message for wrong usage: what was given, what was expected, and how to get help.

    The message is empty if the help was already printed.
    """
    from medvlm_r1.data.names import did_you_mean

    context: Any = getattr(error, "ctx", None)
    parameter: Any = getattr(error, "param", None)
    message: str = error.format_message()
    if context is not None and hasattr(error, "option_name") and message.startswith("No such option"):
        options = [name for param in context.command.get_params(context) for name in param.opts if name[:2] == "--"]
        message = f"no such option {error.option_name!r}; {did_you_mean(error.option_name, options)}"
    elif message.startswith("No such command") and "Did you mean" not in message:
        message = f"{message} Known: {', '.join(context.command.list_commands(context))}"
    elif parameter is not None and message.startswith("Missing"):
        about = f": {parameter.help}" if parameter.help else ""
        message = f"missing {parameter.param_type_name} {parameter.get_error_hint()}{about}"
    elif parameter is not None:
        wanted = str(error.message).removeprefix("Value error, ").partition(", unable to parse")[0]
        wanted = wanted.replace("Input should be", "wanted")
        faults = getattr(error.__cause__, "errors", None)
        seen = repr(faults()[0]["input"]) if faults else ""
        given = f" is {seen};" if seen and seen not in wanted else ":"
        message = f"{parameter.get_error_hint()}{given} {wanted}"
    if not message:
        return ""
    command = context.command_path if context else "medvlm-r1"
    return f"{message.rstrip('.')}{'' if message.endswith('?') else '.'} See `{command} --help`."


def _print_error(message: str, code: int) -> int:
    if message:
        print(f"medvlm-r1: {message}", file=sys.stderr)
    return code
