"""Recipes by name: those that came with the package, in its wheel or in the source tree around it."""

from difflib import get_close_matches
from pathlib import Path

__all__ = ["find_recipe", "packaged_recipes"]


def packaged_recipes() -> dict[str, Path]:
    """List the recipes of the package by name: ``models/NAME/recipe.toml``, and ``NAME-X`` for ``recipe_x.toml``.

    Example:
        >>> sorted(packaged_recipes())
        ['lanusse2020', 'lanusse2020-as-coded', 'mock-acs', 'small', 'standard']
    """
    package = _package()
    folders = [package / "hub" / "models"]
    if (package.parent / "pyproject.toml").is_file():
        folders.append(package.parent / "models")
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*/recipe*.toml")):
            variant = path.stem.removeprefix("recipe").replace("_", "-")
            found.setdefault(path.parent.name + variant, path)
    return dict(sorted(found.items()))


def find_recipe(name: str | Path) -> Path:
    """Find the file of a recipe.

    Args:
        name: Name of a recipe of the package, or a path; a file of that name in the working folder comes first.

    Raises:
        FileNotFoundError: If there is neither.

    Example:
        >>> find_recipe("standard").name
        'recipe.toml'
        >>> find_recipe("standart")
        Traceback (most recent call last):
        ...
        FileNotFoundError: standart: expected a recipe of the package (...) or a TOML file; did you mean standard?
    """
    path = Path(name)
    if path.suffix or len(path.parts) > 1 or path.is_file():
        return path
    known = packaged_recipes()
    if str(name) in known:
        return known[str(name)]
    near = get_close_matches(str(name), known, 1)
    raise FileNotFoundError(
        f"{name}: expected a recipe of the package ({', '.join(known)}) or a TOML file"
        + (f"; did you mean {near[0]}?" if near else "")
    )


def _package() -> Path:
    return Path(__file__).parents[1]
