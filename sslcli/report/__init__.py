"""Results to text, JSON and HTML.

The seam with the command line and the pipeline is three functions: ``to_json(result)`` gives plain values
under a versioned schema, ``render(console, result)`` prints the tables, and ``html.write_report(folder,
path)`` makes the page that closes a run. Results are the frozen dataclasses of ``sslcli.pipeline.results``.
"""

from sslcli.report.render import render
from sslcli.report.to_json import to_json

__all__ = ["render", "to_json"]
