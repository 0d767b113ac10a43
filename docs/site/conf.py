"""Sphinx's settings for `make docs`: Markdown by MyST, Furo's theme, nothing from outside."""

from pathlib import Path

ROOT = Path(__file__).parents[2]

extensions = ["myst_parser"]
project = "mlplatform"
html_title = "mlplatform"
html_theme = "furo"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_extra_path = [str(ROOT / "build" / "docs-source" / "extra")]
html_permalinks_icon = "#"
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # shortened JSON, as documents show it, is none
