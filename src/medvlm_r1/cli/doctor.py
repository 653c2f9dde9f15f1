"""The `doctor` command."""

from __future__ import annotations

from medvlm_r1.cli.options import Json, print_result


def doctor_command(as_json: Json = False) -> None:
    """Print versions and devices, for a bug report.

    Example: medvlm-r1 doctor --json
    """
    from medvlm_r1.console import stderr_console
    from medvlm_r1.models.environment import versions

    # Importing torch, which lists the devices, takes seconds.
    with stderr_console().status("Looking for devices"):
        environment = versions()
    lines = []
    for name, value in environment.items():
        items = [f"{key} {version}" for key, version in value.items()] if isinstance(value, dict) else value
        lines.append(f"{name}: {', '.join(items) if isinstance(items, list) else items}")
    print_result(environment, lines, as_json=as_json)
