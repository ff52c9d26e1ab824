"""Formulae as MathML, which browsers render by themselves: no script is fetched, so pages read well without network."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
APPLIED = re.compile(
    r"<mo>&ApplyFunction;</mo>(?!\s*<mo[^>]*>[(\[])"
)  # a name before a letter: a thin space, as in TeX


def setup(app):
    """Register the renderer under the name ``mathml``."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(translator, node):
    """Write a formula within a line."""
    translator.body.append(rendered(node, block=False))
    raise nodes.SkipNode


def block(translator, node):
    """Write a displayed formula, with its number if it has a label."""
    translator.body.append(translator.starttag(node, "div", CLASS="math-block"))
    translator.body.append(rendered(node, block=True))
    if node["number"]:
        number = translator.encode(translator.config.math_eqref_format or "({number})")
        translator.body.append(f'<span class="eqno">{number.format(number=node["number"])}</span>')
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def rendered(node, *, block):
    """Translate LaTeX to MathML; what cannot be translated is a warning, and stays as it is."""
    text = node.astext().strip()
    if block and "\\\\" in text and "\\begin" not in text:
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    try:
        return APPLIED.sub(r"<mspace width='0.17em'></mspace>", tex2mathml(text, as_block=block))
    except MathError as error:
        LOGGER.warning("formula: %s in %r", error, text, location=node, type="mathml")
        return f"<code>{text}</code>"
