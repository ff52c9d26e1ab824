"""Verbs of the ``hiergal`` command: the options that all of them take, their examples, and old spellings.

A :class:`Verbs` is a ``typer.Typer`` whose commands accept ``--quiet`` and ``--version`` after their name too, print
examples at the end of their help page, and understand the spellings of earlier versions with a warning that names the
new one (listed in ``docs/reference/old_spellings.md``).
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from hiergal.runtime.log import LOGGER, log_to_stderr, say

__all__ = ["ARGUMENT", "Old", "Quiet", "Verbs", "Version"]

ARGUMENT = "an argument"
HELP_NAMES = {"help_option_names": ["-h", "--help"]}


class Old(NamedTuple):
    """Spellings of earlier versions that a verb still understands.

    Attributes:
        options: Name of an old option, and of the option that it is now, or ``ARGUMENT``.
        arguments: For each argument of the old form, the option that it is now, or ``ARGUMENT``. The old form is
            recognised by its number of arguments, and by the absence of those options.
        verb: The verb's own name then, or "" for the same.
    """

    options: dict[str, str] = {}
    arguments: tuple[str, ...] = ()
    verb: str = ""


def _print_version(wanted: bool) -> bool:
    if wanted:
        from hiergal.runtime.version import __version__

        say(f"hiergal {__version__}")
        raise typer.Exit
    return wanted


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages below warnings.")]
Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
]
HiddenVersion = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, hidden=True)
]


class Verbs(typer.Typer):
    """A group of verbs, each with the common options, examples in its help page, and its old spellings.

    Example:
        >>> verbs = Verbs()
        >>> @verbs.command("train", examples=["hiergal train survey.zarr --out runs/first"])
        ... def train() -> None:
        ...     "Fit a model."
    """

    def __init__(self, **options: Any) -> None:
        options = {
            "no_args_is_help": True,
            "rich_markup_mode": None,
            "context_settings": HELP_NAMES,
        } | options
        super().__init__(**options)

    def command(
        self, name: str | None = None, *, examples: Sequence[str] = (), old: Old | None = None, **options: Any
    ) -> Callable:
        """Add a verb.

        Args:
            name: Its name; default that of the function.
            examples: Commands for the end of its help page.
            old: Spellings of earlier versions.
            **options: As for ``typer.Typer.command``.
        """
        if examples:
            options["epilog"] = "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)
        old = old or Old()
        kind = type("Verb", (_Verb,), {"old": old, "examples": tuple(examples)})
        decorate = [super().command(name, cls=kind, **options)]
        if old.verb:
            renamed = type("RenamedVerb", (kind,), {"now": name})
            decorate.append(super().command(old.verb, cls=renamed, hidden=True, **options))

        def add(function: Callable) -> Callable:
            verb = _with_common_options(function)
            for one in decorate:
                one(verb)
            return function

        return add


class _Verb(TyperCommand):
    """A command that understands its old spellings."""

    old = Old()
    examples: tuple[str, ...] = ()
    now: str | None = None  # the verb's name, where it was called by its old one

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if self.now and not ctx.resilient_parsing:
            LOGGER.warning("%s is now %s %s", ctx.command_path, ctx.parent.command_path, self.now)
        return super().parse_args(ctx, _in_new_spelling(args, self.params, self.old, ctx.command_path))


def _with_common_options(function: Callable) -> Callable:
    @functools.wraps(function)
    def run(*, quiet: bool = False, version: bool = False, **values: Any) -> Any:
        if quiet:
            log_to_stderr(quiet=True)
        return function(**values)

    signature = inspect.signature(function, eval_str=True)
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("quiet", Quiet), ("version", HiddenVersion))
    ]
    parameters = [*signature.parameters.values(), *extra]
    run.__dict__["__signature__"] = signature.replace(parameters=parameters)
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _in_new_spelling(words: list[str], params: Sequence[Any], old: Old, path: str) -> list[str]:
    """Translate a command line of an earlier version, with a warning for each spelling that has changed."""
    if not (old.options or old.arguments):
        return words
    takes_value = {
        name: not (p.is_flag or p.count) for p in params if hasattr(p, "is_flag") for name in p.opts
    }
    takes_value |= dict.fromkeys(old.options, True)
    options, arguments = _split(words, takes_value)
    became = [name for name in old.arguments if name != ARGUMENT]
    given = {name for name, _ in options}
    if old.arguments and len(arguments) == len(old.arguments) and not given.intersection(became):
        pairs = list(zip(old.arguments, arguments, strict=True))
        options += [(name, value) for name, value in pairs if name != ARGUMENT]
        arguments = [value for name, value in pairs if name == ARGUMENT]
        numbers = ", ".join(str(i + 1) for i, name in enumerate(old.arguments) if name != ARGUMENT)
        LOGGER.warning("%s: argument %s is now %s", path, numbers, ", ".join(became))
    known, kept = _names_of(params), []
    for name, value in options:
        new = None if name in known else old.options.get(name)
        if new is not None:
            LOGGER.warning("%s: %s is now %s", path, name, new)
        if new == ARGUMENT:
            arguments.insert(0, value or "")
        else:
            kept.append((new or name, value))
    flat = [
        name if value is None else f"{name}={value}" if name.startswith("--") else f"{name}{value}"
        for name, value in kept
    ]
    separator = ["--"] if any(value.startswith("-") for value in arguments) else []
    return [*flat, *separator, *arguments]


def _names_of(params: Sequence[Any]) -> set[str]:
    return {name for one in params if hasattr(one, "is_flag") for name in (*one.opts, *one.secondary_opts)}


def _split(
    words: Sequence[str], takes_value: dict[str, bool]
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Split words into options with their values (None for flags), and arguments."""
    options: list[tuple[str, str | None]] = []
    arguments: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            arguments += rest
        elif not word.startswith("-") or word == "-":
            arguments.append(word)
        elif word.startswith("--") and "=" in word:
            name, _, value = word.partition("=")
            options.append((name, value))
        elif not word.startswith("--") and len(word) > 2 and takes_value.get(word[:2]):
            options.append((word[:2], word[2:]))
        else:
            options.append((word, next(rest, None) if takes_value.get(word) else None))
    return options, arguments
