"""The order of imports: each folder of the package stands on a floor, and imports from its own or lower ones alone.

``python tests/test_layout.py`` prints the picture: the folders from the ground up, and what each imports.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from hiergal.runtime.upward import upward as upward_door

PACKAGE = Path(__file__).resolve().parent.parent / "hiergal"
FLOORS = (  # from the ground up
    ("runtime",),
    ("recipe", "observation"),
    ("measure",),
    ("survey",),
    ("model",),
    ("hub",),
    ("simulate",),
    ("galsim", "posterior"),
    ("training",),
    ("validation",),
    ("reports",),
    ("publish",),
    ("cli",),
)
LEVEL = {folder: level for level, floor in enumerate(FLOORS) for folder in floor}
MOST_NAMES = 20

UPWARD = {
    ("model.trained", "hiergal.galsim.model.sample_galaxies"),
    ("simulate.profiles", "hiergal.galsim.model.sample_galaxies"),
    ("posterior.posterior", "hiergal.posterior.fit_checks.check_fits"),
    ("posterior.posterior", "hiergal.posterior.images.posterior_images"),
    ("posterior.posterior", "hiergal.posterior.predictive.check_same_galaxies"),
    ("posterior.posterior", "hiergal.posterior.predictive.predict"),
    ("posterior.posterior", "hiergal.posterior.table.table_with_units"),
    ("posterior.posterior", "hiergal.posterior.to_arviz.posterior_to_arviz"),
    ("posterior.posterior", "hiergal.reports.figures.one_galaxy.posterior"),
    ("posterior.posterior", "hiergal.reports.figures.reconstruction.reconstructions"),
}

Imports = dict[str, set[str]]


def modules_in(package: Path) -> dict[str, Path]:
    """The modules of a package by their dotted names."""
    names = {path: path.relative_to(package.parent).with_suffix("").parts for path in package.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in names.items()}


def statements_of(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements that run, in functions too: what stands under ``if TYPE_CHECKING`` does not."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            yield node
            yield from statements_of(node)


def imports_of(package: Path) -> Imports:
    """For each module, the modules of the package that it imports."""
    modules, found = modules_in(package), {}
    for name, path in modules.items():
        found[name] = set()
        for node in statements_of(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                asked = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}:{node.lineno}: expected an absolute import"
                asked = [f"{node.module}.{a.name}" for a in node.names]
                asked = [one if one in modules else node.module for one in asked]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "exports":
                # Names that load when they are used.
                asked = [key.value for key in node.args[1].keys]
            else:
                continue
            found[name] |= {one for one in asked if one in modules and one != name}
    return found


def folder_of(module: str, depth: int) -> str:
    """The folder that a module stands in, to a depth; a module without one is its own."""
    parts = module.split(".")[1:]
    return ".".join(parts[:depth])


def arrows_of(imports: Imports, depth: int) -> Imports:
    """Imports between folders. A file that stands beside folders of that depth is a room of its own."""
    folders = {folder_of(name, 9).rpartition(".")[0] for name in imports}
    rooms = {name: folder_of(name, depth) for name in imports}
    # Files directly in a folder belong to it, where it is no folder of folders at this depth.
    rooms = {
        name: room if room in folders or room.count(".") < depth - 1 else room.rpartition(".")[0]
        for name, room in rooms.items()
    }
    arrows: Imports = {room: set() for room in rooms.values()}
    for name, targets in imports.items():
        arrows[rooms[name]] |= {rooms[target] for target in targets} - {rooms[name]}
    return arrows


def upward(imports: Imports) -> list[str]:
    """Imports from a floor above, or between folders of one floor."""
    return sorted(
        f"{name} imports {target}"
        for name, targets in imports.items()
        for target in targets
        for here, there in [(folder_of(name, 1), folder_of(target, 1))]
        if here in LEVEL and here != there and not LEVEL.get(there, 99) < LEVEL[here]
    )


def circle_in(arrows: Imports) -> list[str]:
    """A circle of imports, empty if there is none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.fixture(scope="module")
def imports() -> Imports:
    return imports_of(PACKAGE)


def test_nothing_imports_from_above(imports):
    assert upward(imports) == []


def test_the_door_upwards_is_used_where_it_is_known():
    """Methods and aliases of the face that are written on higher floors; each is a line (``runtime/upward.py``)."""
    found = set()
    for name, path in modules_in(PACKAGE).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "upward":
                found.add((name.removeprefix("hiergal."), node.args[0].value))
                assert callable(upward_door(node.args[0].value))
    assert found == UPWARD


def test_every_folder_has_a_floor(imports):
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(LEVEL)


def test_no_circle_of_files(imports):
    assert circle_in(imports) == []


@pytest.mark.parametrize("depth", [1, 2])
def test_no_circle_of_folders(imports, depth):
    inside = {name: targets for name, targets in imports.items() if name != "hiergal"}
    assert circle_in(arrows_of(inside, depth)) == []


def test_few_names_at_the_top():
    names = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(names) <= MOST_NAMES, sorted(names)


def test_readme_of_the_package_names_every_folder():
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    missing = [folder for folder in LEVEL if f"`{folder}/`" not in text]
    assert not missing


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ("from hiergal.cli.app import main\n", "hiergal.model.program imports hiergal.cli.app"),
        ("def f():\n    import hiergal.training.svi\n", "hiergal.model.program imports hiergal.training.svi"),
        ("from hiergal.hub import bundle\n", "hiergal.model.program imports hiergal.hub.bundle"),
    ],
)
def test_a_planted_import_is_found(tmp_path, planted, expected):
    package = tmp_path / "hiergal"
    for name in ("__init__.py", "cli/app.py", "training/svi.py", "hub/bundle.py", "hub/__init__.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    (package / "model").mkdir()
    module = package / "model" / "program.py"
    module.write_text("import numpy\n")
    assert upward(imports_of(package)) == []
    module.write_text(planted)
    assert upward(imports_of(package)) == [expected]


def test_a_planted_circle_is_found(tmp_path):
    package = tmp_path / "hiergal"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text("from hiergal import two\n")
    (package / "two.py").write_text("import os\n")
    assert circle_in(imports_of(package)) == []
    (package / "two.py").write_text("from hiergal.one import something\n")
    assert set(circle_in(imports_of(package))) == {"hiergal.one", "hiergal.two"}


def main() -> None:
    """Print the picture."""
    arrows = arrows_of(
        {name: targets for name, targets in imports_of(PACKAGE).items() if name != "hiergal"}, 1
    )
    for level, floor in enumerate(FLOORS):
        for folder in floor:
            below = sorted(arrows[folder] & set(LEVEL), key=LEVEL.__getitem__)
            print(f"{level:2d}  {folder:12s} <- {' '.join(below)}")
    print(
        f"{len(LEVEL)} folders, {len(FLOORS)} floors, {sum(len(targets) for targets in arrows.values())} arrows"
    )


if __name__ == "__main__":
    main()
