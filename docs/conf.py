"""How Sphinx builds these pages: `make docs`."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
project = "sslcli"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
# GitHub shows the same files, so links are plain Markdown: to files, and to headings by GitHub's names.
myst_heading_anchors = 4
nitpicky = True
html_theme = "furo"
html_title = f"sslcli {release}"
html_static_path = []
linkcheck_timeout = 20
linkcheck_retries = 2
