"""The directive ``recipe-keys``: every key of a recipe with type, default and meaning, read from the typed records."""

import inspect
import re
import types
from typing import Annotated, Literal, Union, get_args, get_origin

import msgspec
from sphinx.util.docutils import SphinxDirective


class RecipeKeys(SphinxDirective):
    """Sections for all tables of a recipe."""

    def run(self):
        """Return the sections."""
        from hiergal.recipe.recipe import Recipe

        return self.parse_text_to_nodes("\n\n".join(tables(Recipe)), allow_section_headings=True)


def setup(app):
    """Register the directive."""
    app.add_directive("recipe-keys", RecipeKeys)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def tables(struct, path=()):
    """Yield the sections of a table and of those inside it, in Markdown."""
    inner, seen = [], set()
    lines = [f"## {'[' + '.'.join(path) + ']' if path else 'Keys of the whole recipe'}", summary(struct)]
    tag = struct.__struct_config__.tag
    if tag:
        lines[0] += f" of kind `{tag}`"
        lines.append(f'`kind = "{tag}"`\n: Which kind of network this table describes.')
    meanings = attributes(struct)
    for field in msgspec.structs.fields(struct):
        name = field.encode_name
        structs = [one for one in members(field.type) if is_struct(one)]
        meaning = meanings.get(field.name, "")
        assert meaning, f"{struct.__name__}.{field.name}: expected its meaning under Attributes"
        if structs:
            inner += [(one, (*path, name)) for one in structs]
            lines.append(f"`[{'.'.join((*path, name))}]`\n: {meaning}")
        else:
            lines.append(f"`{name}`\n: {meaning} *{spelled(field.type)}*, default `{value(field)}`.")
    yield "\n\n".join(lines)
    for one, where in inner:
        if (one, where) not in seen:
            seen.add((one, where))
            yield from tables(one, where)


def is_struct(kind):
    """Whether a type is a record, not a value."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def members(kind):
    """Return the types of a union, the kinds of a network, or the type itself."""
    from hiergal.recipe.network_kinds import NetworkArchitecture, kinds_of

    if isinstance(kind, type) and issubclass(kind, NetworkArchitecture):
        return list(kinds_of(kind).values())
    if get_origin(kind) is Annotated:
        return members(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [one for part in get_args(kind) for one in members(part)]
    return [kind]


def spelled(kind):
    """Name a type, its choices and its bounds."""
    if get_origin(kind) is Annotated:
        base, *notes = get_args(kind)
        bounds = [bound for note in notes if isinstance(note, msgspec.Meta) for bound in bounds_of(note)]
        return spelled(base) + (f" {', '.join(bounds)}" if bounds else "")
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is tuple:
        parts = [part for part in get_args(kind) if part is not Ellipsis]
        return "list of " + ", ".join(dict.fromkeys(map(spelled, parts)))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(spelled(part) for part in get_args(kind) if part is not type(None))
    return {int: "integer", float: "number", str: "text", bool: "true or false"}.get(kind, str(kind))


def bounds_of(meta):
    """Yield the bounds of a number in words."""
    for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"), ("multiple_of", "a multiple of")):
        if (bound := getattr(meta, name)) is not None:
            yield f"{sign} {bound:g}"


def value(field):
    """Spell a default as TOML does."""
    default = field.default
    if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    if default is msgspec.NODEFAULT:
        return "none"
    if default is None:
        return "measured" if "measured" in (field.name or "") else "unset"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return "[" + ", ".join(f'"{v}"' if isinstance(v, str) else str(v) for v in default) + "]"
    return f'"{default}"' if isinstance(default, str) else str(default)


def summary(struct):
    """Return what a docstring says before its sections."""
    return markdown(re.split(r"\n\s*(?:Attributes|Example|Raises):", inspect.getdoc(struct) or "")[0])


def attributes(struct):
    """Return the meaning of each field: the section Attributes of the docstring (Google's format)."""
    found = re.search(r"^Attributes:\n((?:    .*\n?|\n)*)", inspect.getdoc(struct) or "", re.MULTILINE)
    entries = re.split(r"^    (?=\w+:)", found[1] if found else "", flags=re.MULTILINE)[1:]
    return {name: markdown(" ".join(text.split())) for name, _, text in (e.partition(":") for e in entries)}


def markdown(text):
    """Turn reStructuredText's markup of docstrings into Markdown's."""
    text = re.sub(r":(?:py:)?(class|func|mod|meth|data):`", r"{py:\1}`", " ".join(text.split()))
    return text.replace("``", "`")
