"""The course as a web book: `python -m sphinx -W -b html docs docs/_build`.

Its pages are the repository's own: `pages.py` copies them here, into the same folders,
so that their links lead where they always lead. Notebooks are not executed.
"""

import sys
from pathlib import Path

from myst_nb.core.render import NbElementRenderer
from sphinx.util import logging

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

import export  # noqa: E402
import pages  # noqa: E402

REPOSITORY = pages.setting("repository")
BRANCH = pages.setting("branch")

pages.copy_pages(REPOSITORY, BRANCH)
export.export()
pages.write_playground()

project = "Diffusion models from scratch"
author = "The authors of this course"
language = "en"  # the search of Sphinx 9 fails with "en_GB"
extensions = ["myst_nb", "sphinx.ext.mathjax"]
exclude_patterns = ["_*", "jupyter_execute", "node_modules", "lesson_map.md"]

myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"

# MathJax from this book itself; see package.json
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "global"}}
suppress_warnings = ["myst.mathjax"]  # myst-parser adds its own options to these

html_theme = "sphinx_book_theme"
html_title = project
html_favicon = "static/favicon.png"
html_context = {"default_mode": "auto"}
html_static_path = ["static"]
html_css_files = ["book.css"]
html_js_files = ["offline.js"]
html_theme_options = {
    "repository_branch": BRANCH,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],
}
if REPOSITORY.startswith("https://github.com/"):
    colab = "https://colab.research.google.com"
    html_theme_options["repository_url"] = REPOSITORY
    html_theme_options["use_source_button"] = True
    html_theme_options["launch_buttons"] = {"colab_url": colab}

logger = logging.getLogger(__name__)
render_image = NbElementRenderer.render_image


def render_image_with_words(renderer, data):
    """The picture of an output, with the alternative text in the output's metadata.

    myst-nb itself looks for it in the cell's metadata only.
    """
    [image] = render_image(renderer, data)
    words = data.output_metadata.get(data.mime_type, {}).get("alt")
    if words:
        image["alt"] = words
    return [image]


def warn_of_pictures_without_words(app, doctree):
    """With -W this fails the build."""
    for image in doctree.findall(lambda node: node.tagname == "image"):
        if not image.get("alt"):
            logger.warning("a picture has no alternative text", location=image)


def leave_out_source(app, pagename, templatename, context, doctree):
    """No source button on the pages of docs/, which are not where the theme looks."""
    if "/" not in pagename and not (pages.ROOT / f"{pagename}.md").exists():
        context["page_source_suffix"] = ""


def lead_into_the_copies(app, docname, source):
    """Links between docs/ and the rest lead to the copies, which lie in docs/."""
    text = source[0].replace("](../docs/", "](../")
    if "/" not in docname:
        text = text.replace("](../README.md", "](index.md").replace("](../", "](")
    source[0] = text


def setup(app):
    app.connect("source-read", lead_into_the_copies)
    NbElementRenderer.render_image = render_image_with_words
    app.connect("doctree-read", warn_of_pictures_without_words)
    app.connect("html-page-context", leave_out_source, priority=100)
    app.connect("build-finished", pages.finish)
