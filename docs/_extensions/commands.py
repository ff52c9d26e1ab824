"""The directive ``commands``: every command of ``hiergal``, its arguments and options, read from the program itself."""

import re

from sphinx.util.docutils import SphinxDirective

HIDDEN = ("install_completion", "show_completion", "help")


class Commands(SphinxDirective):
    """Sections for all commands, in the order of ``hiergal --help``."""

    def run(self):
        """Return the sections."""
        from typer.main import get_command

        from hiergal.cli.app import app

        text = "\n\n".join(section(path, command) for path, command in walk(get_command(app)))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app):
    """Register the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def walk(command, path=("hiergal",)):
    """Yield the words and the object of each command below one, depth first."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from walk(child, (*path, name))


def section(path, command):
    """Describe one command in Markdown."""
    context = command.make_context(" ".join(path), [], resilient_parsing=True)
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    lines = [f"{'#' * (2 if len(path) < 3 else 3)} {' '.join(path)}", f"```console\n$ {usage}\n```"]
    lines.append(prose(command.help))
    for parameter in command.params:
        record = None if getattr(parameter, "hidden", False) else parameter.get_help_record(context)
        if record and parameter.name not in HIDDEN:
            lines.append(entry(*record))
    if command.epilog:
        lines.append(prose(command.epilog))
    return "\n\n".join(line for line in lines if line)


def entry(term, text):
    """Return one entry of a definition list; what stands in brackets at the end are default and requirement."""
    text, _, notes = " ".join(text.split("\n")).partition("  [")
    notes = f" *{escaped(notes.removesuffix(']'))}*" if notes else ""
    return f"`{term}`\n: {prose(text)}{notes}".rstrip() if text or notes else f"`{term}`\n: No description."


def prose(text):
    r"""Turn a help text into Markdown; paragraphs that are indented, or begin with \b, are examples."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", (text or "").strip("\n")):
        lines = paragraph.splitlines()
        if lines and lines[0].strip() == "\b":
            title = [line for line in lines[1:2] if line.endswith(":")]
            parts += [f"**{title[0]}**", block(lines[2:])] if title else [block(lines[1:])]
        elif lines and all(line.startswith("  ") for line in lines):
            parts.append(block(lines))
        else:
            parts.append(escaped(" ".join(paragraph.split())))
    return "\n\n".join(part for part in parts if part)


def block(lines):
    """Return lines as they are."""
    least = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "```console\n" + "\n".join(line[least:] for line in lines) + "\n```"


def escaped(text):
    """Escape what Markdown would read as markup, outside of backticks; options become code."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        part = re.sub(r"([*_<>$\[\]])", r"\\\1", parts[i])
        parts[i] = re.sub(r"(?<![\w-])(--[A-Za-z][\w\\-]*)", lambda m: f"`{m[1].replace(chr(92), '')}`", part)
    return "".join(f"`{part}`" if i % 2 else part for i, part in enumerate(parts))
