"""The commands are alike: inputs are arguments, outputs are --out, options have one name; old spellings still work."""

import re
import shlex
import sys

import pytest
from places import ROOT
from typer.main import get_command
from typer.testing import CliRunner

import hiergal
from hiergal.cli.app import app, main
from hiergal.cli.verbs import ARGUMENT

ROOT_COMMAND = get_command(app)
OUTPUTS = {
    "quickstart": "--out", "survey mock": "--out", "survey cosmos": "--out", "survey cutouts": "--out",
    "survey degrade": "--out", "train": "--out", "fit-prior": "--model", "fit-posterior-flow": "--model",
    "infer": "--out", "deblend": "--out", "sample": "--out", "validate": "--out", "calibrate": "--out",
    "models publish": "--out",
}  # fmt: skip
# Options whose meaning is the verb's own; all others mean, and say, the same wherever they are.
OWN = {
    "--out",
    "--model",
    "--method",
    "--conditions",
    "--galaxies",
    "--noise",
    "--band",
    "--batch",
    "--images",
}
OWN |= {
    "--survey",
    "--psf",
    "--rms",
    "--flux-unit",
    "--magnitude-zero-point",
    "--pixel-scale-arcsec",
    "--workers",
}
OWN |= {"--limit"}


def verbs(group=ROOT_COMMAND, path=()):
    """All commands by their names, without groups."""
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from verbs(one, (*path, name))
        else:
            yield " ".join((*path, name)), one


UNDERSTOOD = dict(verbs())
VERBS = {name: verb for name, verb in UNDERSTOOD.items() if not verb.hidden}


def parsed(line):
    """The values that a command line gives, by the name of the parameter; nothing is run."""
    words = shlex.split(line)
    assert words.pop(0) == "hiergal"
    name = next(
        n for n in sorted(UNDERSTOOD, key=len, reverse=True) if f"{' '.join(words)} ".startswith(f"{n} ")
    )
    verb, parent = UNDERSTOOD[name], ROOT_COMMAND.context_class(ROOT_COMMAND, info_name="hiergal")
    context = verb.make_context(name, words[len(name.split()) :], parent=parent)
    return verb.now or name, context.params


def said_by(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["hiergal", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0, capsys.readouterr()


@pytest.mark.parametrize("name", VERBS)
def test_a_help_page_has_examples_that_parse(name):
    pages = {CliRunner().invoke(app, [*name.split(), flag]).output for flag in ("-h", "--help")}
    assert len(pages) == 1
    (page,) = pages
    assert page.startswith("Usage: ") and "--quiet" in page and "Examples:" in page
    examples = VERBS[name].examples
    assert examples
    for example in examples:
        assert f"    {example}\n" in page
        assert parsed(example.removeprefix("srun "))[0] == name
        out = OUTPUTS.get(name, "no output")
        assert out in example or name in ("quickstart", "models publish") or out == "no output"


def test_options_of_one_name_mean_the_same():
    texts: dict[str, set[str]] = {}
    for name, verb in VERBS.items():
        for param in verb.params:
            if not hasattr(param, "is_flag"):
                continue
            long = next(one for one in param.opts if one.startswith("--"))
            texts.setdefault(long, set()).add(param.help)
            if long == "--out":
                assert "-o" in param.opts, name
    assert {name: found for name, found in texts.items() if len(found) > 1 and name not in OWN} == {}
    for name, out in OUTPUTS.items():
        assert any(out in param.opts for param in VERBS[name].params), name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("survey mock s.zarr -n 10", "survey mock --out s.zarr -n 10"),
        ("survey mock -n10 --stamp=32 s.zarr", "survey mock --out s.zarr --galaxies 10 --stamp 32"),
        ("survey cosmos c.zarr --stamp 128", "survey cosmos --out c.zarr --stamp 128"),
        (
            "survey cosmos c.zarr --catalog dev --centre pixel",
            "survey cosmos dev --out c.zarr --center pixel",
        ),
        ("survey cutouts stamps c.zarr --survey HSC", "survey cutouts stamps --out c.zarr --name HSC"),
        (
            "survey degrade --noise-factor 2 s.zarr b.zarr",
            "survey degrade s.zarr --out b.zarr --noise-factor 2",
        ),
        ("flow run/model s.zarr --steps 4", "fit-prior s.zarr --model run/model --steps 4"),
        ("guide run/model s.zarr --overwrite", "fit-posterior-flow s.zarr --model run/model --overwrite"),
        ("validate --survey s.zarr --model m --galaxies 50", "validate s.zarr --model m --limit 50"),
        ("validate --survey=s.zarr --images x", "validate s.zarr --images x"),
        (
            "sample c.fits --model m --out o.zarr --survey LSST --band i --key id",
            "sample c.fits --model m --out o.zarr --preset LSST --band i --identifier-column id",
        ),
    ],
)
def test_an_old_spelling_is_understood_with_a_warning(old, new, caplog):
    assert parsed(f"hiergal {new}")[1] and not caplog.records
    assert parsed(f"hiergal {old}") == parsed(f"hiergal {new}")
    changed = {option for option in re.findall(r"--[a-z-]+", new) if option not in old}
    told = " ".join(record.getMessage() for record in caplog.records)
    verb = new.split()[0]
    assert (f"is now hiergal {verb}" in told) == (verb != old.split()[0])
    assert changed - {"--galaxies"} == set(re.findall(r"is now (--[a-z-]+)", told)) - {"--galaxies"}


def test_every_old_spelling_is_in_the_documentation():
    page = (ROOT / "docs" / "reference" / "old_spellings.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("|")]
    for name, verb in VERBS.items():
        of_verb = [row for row in rows if f"`hiergal {name}" in row]
        for option, now in verb.old.options.items():
            assert any(option in row and (now == ARGUMENT or now in row) for row in of_verb), (name, option)
        assert not verb.old.arguments or of_verb, name


def test_commands_of_pages_parse_in_the_new_spelling(caplog):
    pages = [ROOT / "README.md", ROOT / "models" / "README.md", *(ROOT / "docs").rglob("*.md")]
    lines = []
    for page in pages:
        for block in re.findall(r"^```\w+\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
            text = block.replace("\\\n", " ")
            lines += re.findall(r"^(?:\$ )?(hiergal [a-z].*)$", text, flags=re.MULTILINE)
    assert lines
    for line in lines:
        assert parsed(line.partition("  #")[0])
    assert not caplog.records


def test_quiet_and_version_before_and_after_the_verb(monkeypatch, capsys, tmp_path):
    for words in (("--version",), ("train", "--version"), ("models", "recipes", "--version")):
        code, said = said_by(monkeypatch, capsys, *words)
        assert (code, said.out) == (0, f"hiergal {hiergal.__version__}\n")
    mock = ("survey", "mock", "-n", "2", "--stamp", "32", "--workers", "1", "--noise", "white")
    said = said_by(monkeypatch, capsys, *mock, "--out", str(tmp_path / "loud.zarr"))[1]
    assert "writing" in said.err
    for i, words in enumerate([("--quiet", *mock), (*mock, "--quiet"), (*mock, "-q")]):
        code, said = said_by(monkeypatch, capsys, *words, "--out", str(tmp_path / f"{i}.zarr"))
        assert (code, said.err) == (0, "")


def test_recipes_by_name(monkeypatch, capsys, tmp_path):
    listed = said_by(monkeypatch, capsys, "models", "recipes")[1].out
    names = [line.split()[0] for line in listed.splitlines()]
    assert {"small", "standard", "lanusse2020"} <= set(names)
    for name in names:
        assert hiergal.load_recipe(name).shape
    shown = said_by(monkeypatch, capsys, "models", "info", "lanusse2020")[1].out
    assert "128 x 128 pixels" in shown
    code, said = said_by(monkeypatch, capsys, "train", "s", "--out", "r", "--recipe", "standart")
    assert code == 2 and "did you mean standard?" in said.err
    (tmp_path / "standard").write_text("latents")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError):  # a file of that name comes first
        hiergal.load_recipe("standard")


def test_each_recipe_is_in_the_wheel():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for path in (ROOT / "models").glob("*/recipe*.toml"):
        source = path.relative_to(ROOT)
        places = [included.get(str(one)) for one in (source, source.parent)]
        assert f"hiergal/hub/{source}" in places or f"hiergal/hub/{source.parent}" in places, source
