"""The table of outcomes in docs/trust.md: ``python tests/hostile/table.py`` writes it, a test compares."""

from __future__ import annotations

from pathlib import Path

from all_cases import GROUPS
from case import Case

PAGE = Path(__file__).parents[2] / "docs" / "trust.md"
BEGIN, END = "<!-- outcomes: written by tests/hostile/table.py -->", "<!-- end of outcomes -->"


def table() -> str:
    """Every case by topic, as Markdown."""
    return "\n\n".join(f"### {topic}\n\n{_rows(cases)}" for topic, cases in GROUPS.items())


def on_page(text: str) -> str:
    """What stands between the marks."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def _rows(cases: list[Case]) -> str:
    head = ["| input | command | exit | the sentence says |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *(_row(case) for case in cases)])


def _row(case: Case) -> str:
    says = "done" if case.code == 0 else f"...{case.says}..." if case.says else "one sentence"
    return f"| {case.what} | `{case.command}` | {case.code} | {says.replace('|', '/')} |"


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", encoding="utf-8")
