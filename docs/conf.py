"""Configuration of the documentation: Sphinx with MyST, executed notebooks, and an API read from the docstrings.

``make docs`` builds it without network, and every warning is an error. With ``HIERGAL_DOCS_INTERSPHINX=1``, as in the
workflow that publishes it, names of NumPyro, JAX and others are links to their documentation.
"""

import os
import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_extensions"), str(DOCS.parent)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Tutorials are the notebooks at the top of the repository, without their numbers.
for notebook in (DOCS.parent / "notebooks").glob("*.ipynb"):
    page = DOCS / "tutorials" / notebook.name.partition("_")[2]
    if not page.exists() or page.read_bytes() != notebook.read_bytes():
        page.write_bytes(notebook.read_bytes())

metadata = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
project = metadata["name"]
author = ", ".join(author["name"] for author in metadata["authors"])
copyright = author
release = version = metadata["version"]

extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "api",  # this and the next ones: docs/_extensions
    "commands",
    "mathml",
    "pages",
    "recipe_keys",
]
exclude_patterns = ["_build", "_extensions", "**.ipynb_checkpoints", "**/.*"]
templates_path = []
suppress_warnings = []

# Notebooks are committed executed, and run by the tests.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
html_math_renderer = "mathml"
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

if os.environ.get("HIERGAL_DOCS_INTERSPHINX") == "1":
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "jax": ("https://docs.jax.dev/en/latest", None),
        "flax": ("https://flax-linen.readthedocs.io/en/latest", None),
        "numpyro": ("https://num.pyro.ai/en/stable", None),
        "arviz": ("https://python.arviz.org/en/stable", None),
        "astropy": ("https://docs.astropy.org/en/stable", None),
        "galsim": ("https://galsim-developers.github.io/GalSim/_build/html", None),
    }
    intersphinx_timeout = 30

html_theme = "sphinx_book_theme"
html_title = "hiergal"
html_static_path = ["_static"]
html_css_files = ["hiergal.css"]
html_last_updated_fmt = None
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": False,
    "use_repository_button": False,
    "show_toc_level": 2,
    "home_page_in_toc": False,
    "show_navbar_depth": 1,
}
