"""Write the table of docs/reference/engines.md from runs/engines.json, which `make test-engines` leaves."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/engines.md"
BEGIN, END = "<!-- table: python tests/engines/table.py -->\n", "<!-- end of table -->\n"
KEYS = ("test", "outcome", "engine", "check")


def table(record):
    """Return the Markdown table: a row for each check of an engine, with the largest of each figure."""
    versions = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    vllm = ", ".join(f"{name} {version}" for name, version in record["vllm"].items())
    lines = [
        f"Last run: {record['date']}, in {record['minutes']} minutes on {record['machine']}.",
        f"Versions: {versions}. The environment of vLLM: {vllm}.",
        "",
        "| engine | check | passed | result |",
        "|---|---|---|---|",
    ]
    checks = {}
    for row in record["rows"]:
        checks.setdefault((row.get("engine", "-"), row.get("check", row["test"])), []).append(row)
    engines = [engine for engine, _ in checks]
    for engine, check in sorted(checks, key=lambda key: engines.index(key[0])):
        rows = checks[engine, check]
        passed = sum(row["outcome"] == "passed" for row in rows)
        figures = {name: [row[name] for row in rows if name in row] for name in rows[0] if name not in KEYS}
        results = [
            f"{name} {max(values):.1e}" if isinstance(values[0], float) else f"{name} {max(values)}"
            for name, values in figures.items()
        ]
        result = ", ".join(results).removeprefix("result ").replace("|", "\\|") or "-"
        lines.append(f"| {engine} | {check} | {passed} of {len(rows)} | {result} |")
    return "\n".join(lines) + "\n"


def main():
    """Renew the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    record = json.loads((ROOT / "runs/engines.json").read_text(encoding="utf-8"))
    PAGE.write_text(f"{before}{BEGIN}{table(record)}{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
