"""What a command says when it cannot go on: one message on stderr and an exit code, whatever was wrong."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from medvlm_r1.errors import UserError, explain_missing_extra

_IN_THE_WAY = "a file stands where a folder is wanted; give another path, or move the file away"
_PLACES = {
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EISDIR: "a folder stands where a file is wanted; give the path of a file",
    errno.ENOENT: "no such file or folder, and none can be made there; check the path",
    errno.ENAMETOOLONG: "the name is longer than the disk takes; give a shorter one",
    errno.ELOOP: "links that lead in a circle; give the path they were meant for",
}


class Interrupted(Exception):
    """Ctrl-C with what it says; typer keeps a KeyboardInterrupt to itself and says nothing."""


def run_told(command: Callable[[], object]) -> int:
    """Run a command; what stops it is told on stderr, in one message without a traceback.

    Args:
        command: gives its exit code, or nothing when it is done.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    Raises:
        Exception: nothing a user could mend, so a fault of this program: its traceback belongs in a report.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal's own encoding may lack letters of a file's name or of what a model wrote.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with explain_missing_extra():
            code = command()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except UserError as error:
        return _say(str(error), error.exit_code)
    except typer.TyperException as error:
        return _say(wrong_usage(error), error.exit_code)
    except typer.Abort:
        return _say("Nothing was done.", 1)
    except BrokenPipeError:
        # The reader has gone (`| head`); Python would complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        said = _of_the_disk(error)
        if said is None:
            raise
        return _say(said, 1)
    except UnicodeEncodeError as error:
        bytes_ = ascii(error.object[error.start : error.end])
        return _say(f"a name holds bytes that are no {error.encoding} ({bytes_}); rename the file or folder.", 1)
    except (KeyboardInterrupt, Interrupted) as interrupt:
        said = str(interrupt) or "Interrupted. What is finished is kept; the same command again goes on from there."
        print(file=sys.stderr)
        return _say(said, 130)


def wrong_usage(error: typer.TyperException) -> str:
    """What the parser refused: what was seen, what is wanted, and where to read on; empty where it showed the help."""
    context = getattr(error, "ctx", None)
    said = _refused(error, context).rstrip(".")
    if not said:
        return ""
    return f"{said}{'' if said.endswith('?') else '.'} See `{context.command_path if context else 'medvlm-r1'} --help`."


def _refused(error: Any, context: Any) -> str:
    from medvlm_r1.data.names import did_you_mean

    said: str = error.format_message()
    if context is not None and hasattr(error, "option_name") and said.startswith("No such option"):
        options = [name for one in context.command.get_params(context) for name in one.opts if name.startswith("--")]
        return f"no such option {error.option_name!r}; {did_you_mean(error.option_name, options)}"
    if said.startswith("No such command") and "Did you mean" not in said:
        return f"{said} Known: {', '.join(context.command.list_commands(context))}"
    parameter = getattr(error, "param", None)
    if parameter is None:
        return said
    hint = parameter.get_error_hint()
    if said.startswith("Missing"):
        about = (parameter.help or "").rstrip(".")
        return f"missing {parameter.param_type_name} {hint}" + (f": {about}" if about else "")
    wanted = str(error.message).removeprefix("Value error, ").partition(", unable to parse")[0]
    wanted = wanted.replace("Input should be", "wanted")
    faults = getattr(error.__cause__, "errors", None)
    seen = repr(faults()[0]["input"]) if faults else ""
    return f"{hint}: {wanted}" if not seen or seen in wanted else f"{hint} is {seen}; {wanted}"


def _of_the_disk(error: OSError) -> str | None:
    from medvlm_r1.disk import refusal

    said = refusal(error)
    if said is not None:
        return f"{said}; the same command goes on from there."
    place = _PLACES.get(error.errno or 0)
    return None if place is None or error.filename is None else f"{os.fsdecode(error.filename)}: {place}."


def _say(said: str, code: int) -> int:
    if said:
        print(f"medvlm-r1: {said}", file=sys.stderr)
    return code
