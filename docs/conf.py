from importlib.metadata import version as installed_version

project = "anybatch"
author = copyright = "the anybatch authors"
release = version = installed_version("anybatch")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
# Docstrings are prose in which a single backtick marks a name.
default_role = "code"

html_theme = "furo"
html_title = f"anybatch {release}"
