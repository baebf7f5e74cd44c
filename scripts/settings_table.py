"""Write the README's table of settings from the code: ``python -m scripts.settings_table [--check]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from pydantic.fields import FieldInfo

from app.config import Settings, variable

README: Final = Path(__file__).parent.parent / "README.md"
BEGIN: Final = "<!-- settings:begin -->"
END: Final = "<!-- settings:end -->"


def table() -> str:
    """The table in Markdown, in the order of the code."""
    rows = [
        f"| `{variable(name)}` | {_default(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| name | default | meaning |", "|---|---|---|", *rows])


def rewritten(readme: str) -> str:
    """``readme`` with the table between its markers.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise ValueError(f"the README needs {BEGIN} and {END}, once each")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Rewrite the README, or with ``--check`` return 1 where it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 when the table is out of date"
    )
    check = parser.parse_args(arguments).check
    readme = README.read_text(encoding="utf-8")
    wanted = rewritten(readme)
    if check and wanted != readme:
        print(
            "the README's table of settings is out of date: run python -m scripts.settings_table",
            file=sys.stderr,
        )
        return 1
    if wanted != readme:
        README.write_text(wanted, encoding="utf-8")
    return 0


def _default(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    if extra["shown"]:
        return str(extra["shown"])
    if field.default is None or field.default == ():
        return "none"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


if __name__ == "__main__":
    sys.exit(main())
