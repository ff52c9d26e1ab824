"""The documentation's pages and notebooks: their code runs, and what they name exists.

``python`` blocks of a page are one program, run in an empty folder; ``hiergal`` commands in other blocks, names such as
``hiergal.infer`` and keys such as ``training.steps`` of recipes have to exist. Sphinx checks links (``make docs``).
"""

import importlib
import re
import shlex
from pathlib import Path

import msgspec
import pytest
from typer.main import get_command

from hiergal.cli.app import app
from hiergal.recipe.recipe import Recipe

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in sorted(DOCS.rglob("*.md"))
    if "_build" not in path.parts
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SLOW = {  # which compile programs of their own
    f"docs/how_to/{name}.md"
    for name in (
        "arviz",
        "check_the_fit",
        "choose_a_method",
        "credible_intervals",
        "masks",
        "own_arrays",
        "use_conditions",
    )
}
OLD = {"docs/reference/moved_modules.md", "docs/reference/old_spellings.md"}  # names that are gone
TABLES = [field.name for field in msgspec.structs.fields(Recipe)]


def blocks(text: str, *languages: str) -> list[str]:
    """Return the code blocks of a page in some languages."""
    return [body for language, body in BLOCK.findall(text) if language in languages]


def resolve(name: str) -> object:
    """Return what a dotted name refers to, importing modules on the way."""
    parts = name.split(".")
    found = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            importlib.import_module(".".join(parts[:i]))
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW))
        for page, text in PAGES.items()
        if blocks(text, "python")
    ],
)
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "page"}
    for number, block in enumerate(blocks(PAGES[page], "python"), 1):
        exec(compile(block, f"{page}, block {number}", "exec"), space)


@pytest.mark.parametrize("page", sorted(PAGES.keys() - OLD))
def test_commands_of_a_page_exist(page):
    written = [
        line.strip().removeprefix("$ ").removeprefix("srun ")
        for block in blocks(PAGES[page], "console", "bash", "sh")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    written += re.findall(r"`(hiergal [a-z][^`\n]*)`", PAGES[page])
    for line in written:
        if not line.startswith("hiergal "):
            continue
        words = [word for word in shlex.split(line)[1:] if word not in ("|", "...")]
        command = get_command(app)
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, f"{line}: expected one of {', '.join(command.commands)}"
            command = command.commands[words.pop(0)]
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
        unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]
        assert not unknown, f"{line}: expected options among {', '.join(sorted(known))}"


@pytest.mark.parametrize("page", sorted(PAGES.keys() - OLD))
def test_names_of_a_page_resolve(page):
    """Names of the package, and keys of recipes."""
    prose = BLOCK.sub("", PAGES[page])
    for name in re.findall(r"`~?(hiergal(?:\.\w+)+)", prose):
        resolve(name)
    for table, key in re.findall(rf"`({'|'.join(TABLES)})\.(\w+)`", prose):
        kinds = [type(getattr(Recipe(), table))]
        assert any(hasattr(kind(), key) for kind in kinds), f"{table}.{key}: expected a key of a recipe"


def test_names_that_do_not_exist_are_found():
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        resolve("hiergal.no_such_name")


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_tutorial_runs(path, tmp_path):
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_tutorial_is_committed_executed(path):
    """Every cell of code ran, in order, without an error, and no output names a folder of the author's machine."""
    import nbformat

    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and not any(output.output_type == "error" for output in outputs)
    texts = [o.get("text", "") + str(o.get("data", {}).get("text/plain", "")) for o in outputs]
    assert not any(re.search(r"/(home|tmp|root|work)/|site-packages", text) for text in texts)
