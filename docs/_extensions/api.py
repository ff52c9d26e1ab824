"""What autodoc does not do by itself: signatures as they stand in the sources, and a check that nothing is left out.

Shapes in signatures (jaxtyping) are evaluated in Python, and their representation is long; the text of the source says
``Float[Array, "n y x"]``. Every name of ``hiergal.__all__`` has to stand on a page of the reference.
"""

import ast
import inspect
import re
import textwrap

from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


def setup(app):
    """Connect to autodoc, and to the end of reading."""
    app.connect("autodoc-process-signature", signature_of_source)
    app.connect("autodoc-process-docstring", literal_types, priority=600)  # after napoleon
    app.connect("html-page-context", repair_back_links)
    app.connect("env-check-consistency", check_complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def signature_of_source(app, what, name, obj, options, signature, return_annotation):
    """Return the arguments and the result as they are written in the source."""
    function = obj
    if inspect.isclass(obj):
        if "__init__" not in vars(obj):
            return None if not dataclass_fields(obj) else (dataclass_signature(obj), None)
        function = obj.__init__
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
        node = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    arguments = node.args
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if what == "class" or (what == "method" and "staticmethod" not in decorators):
        (arguments.posonlyargs or arguments.args)[:1] = []
    if what == "property":
        return None
    text = f"({ast.unparse(arguments)})"
    result = ast.unparse(node.returns) if node.returns is not None and what != "class" else None
    return tidy(text), tidy(result) if result else None


def dataclass_fields(cls):
    """Return the annotations of a class that is a record."""
    return getattr(cls, "__dataclass_fields__", None) or getattr(cls, "__struct_fields__", None)


def dataclass_signature(cls):
    """Return names and defaults of the fields of a record; shapes stand with the attributes."""
    try:
        parameters = inspect.signature(cls).parameters.values()
    except (TypeError, ValueError):
        return "(...)"
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    words = []
    for parameter in bare:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        simple = parameter.default in (None, True, False) or isinstance(parameter.default, int | float | str)
        default = f"={parameter.default!r}" if simple else "=..."
        words.append(parameter.name + ("" if parameter.default is parameter.empty else default))
    return f"({', '.join(words)})"


def tidy(text):
    """Drop module names that a reader knows."""
    for name in ("jax.", "np.", "numpy."):
        text = text.replace(f"[{name}", "[")
    return text


def literal_types(app, what, name, obj, options, lines):
    """Keep the types of attributes as they are: the star of a shape is no emphasis."""
    for i, line in enumerate(lines):
        if found := re.fullmatch(r"(:vartype \w+:) (.+)", line):
            lines[i] = f"{found[1]} ``{found[2]}``"


def repair_back_links(app, pagename, templatename, context, doctree):
    """Let pages of source code link back to where an object is documented, whichever of its names that is."""
    if not pagename.startswith("_modules/hiergal"):
        return
    documented = app.env.domaindata["py"]["objects"]

    def repaired(match):
        target = match[2]
        if target not in documented:
            page = match[1].rpartition("reference/")[2].removesuffix(".html")
            words = target.split(".")
            for i in range(1, len(words)):
                last = "." + ".".join(words[i:])
                found = [n for n, o in documented.items() if n.endswith(last) and o.docname.endswith(page)]
                if found:
                    target = min(found, key=len)
                    break
        return f'href="{match[1]}#{target}"'

    context["body"] = re.sub(r'href="([^"#]+)#(hiergal[\w.]*)"', repaired, context["body"])


def check_complete(app, env):
    """Warn of public names that no page documents."""
    import hiergal

    documented = set(env.domaindata["py"]["objects"])
    for name in hiergal.__all__:
        found = getattr(hiergal, name)
        names = {name, getattr(found, "__name__", name)}  # an older name stands for the newer one
        if not inspect.ismodule(found) and not any(f"hiergal.{one}" in documented for one in names):
            LOGGER.warning("hiergal.%s is public, and on no page of the reference", name, type="api")
