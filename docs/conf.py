"""How Sphinx makes the site: ``make docs``. Its sources are the repository, so that links work here and on a code host."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

import sparselab

# A path that is not absolute is looked for here, beside the sources or where make runs: each extension has its own idea.
HERE = Path(__file__).parent

project = "sparselab"
author = "The sparselab developers"
copyright = author
release = sparselab.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "myst_nb",
]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "docs/**.rst", "notebooks/*.ipynb", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [
    ".*",
    "docs/_templates",
    "build",
    "dist",
    "results",
    "sparselab",
    "tests",
    "kernels",
    "benchmarks",
    "**/.ipynb_checkpoints",
]
templates_path = [str(HERE / "_templates")]

# Notebooks show the outputs that they have; nothing of the site comes from another host.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autosummary_ignore_module_all = False
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
copybutton_prompt_text = ">>> |\\.\\.\\. "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "pydata_sphinx_theme"
html_title = "sparselab"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_root"]  # index.html, which leads to docs/index.html
html_copy_source = False
html_search_scorer = str(HERE / "search_scorer.js")
html_sidebars = {"docs/start": [], "docs/gallery": []}  # no pages below them
html_show_search_summary = False  # it would be fetched, which a browser refuses for files
html_theme_options = {
    "logo": {"text": "sparselab"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


def say_no_base_that_every_class_has(app: Sphinx, tree: nodes.document) -> None:
    """``Bases: object`` is the first line of most class pages, and tells nothing."""
    for paragraph in [each for each in tree.findall(nodes.paragraph) if each.astext() == "Bases: object"]:
        paragraph.parent.remove(paragraph)


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.connect("doctree-read", say_no_base_that_every_class_has)
