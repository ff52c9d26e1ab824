"""Without extras: galaxies are drawn and inferred, and what needs an extra says so in one line, before any work.

One process, in which packages are out of sight, does all of it and leaves a report.
"""

import json
import os
import subprocess
import sys

import pytest
from conftest import awkward_psf
from places import ROOT, TESTS
from toys import SCALE, drawing_model, tiny_survey

from hiergal.hub.bundle import save_model
from hiergal.runtime.extras import EXTRAS, require_extra
from hiergal.survey.schema import StoreHeader
from hiergal.survey.writer import write_store

ADDRESS = "https://models.example/m.safetensors#sha256=" + 64 * "0"
COMMANDS = {
    "survey": "survey mock --out new.zarr -n 4",
    "train": "train s.zarr --out run",
    "posterior": "infer s.zarr --model model --out posterior.nc",
    "validate": "validate s.zarr --model model --out report",
    "hub": f"models fetch {ADDRESS}",
    "presets": "sample c.csv --model hub:mock-acs --preset LSST --band i --out stamps.fits",
    "cluster": "infer s.zarr --model model --scheduler tcp://nowhere:1 --out table.fits",
}
CALLS = {
    "survey": "hiergal.open_survey('s.zarr')",
    "train": "hiergal.training.svi.fit(0, None, None, None, folder='run')",
    "posterior": "hiergal.posterior.arviz_files.load_arviz('posterior.nc')",
    "validate": "hiergal.validation.run.validate(None)",
    "hub": f"hiergal.load_model('{ADDRESS}')",
    "presets": "hiergal.simulate.survey_presets.survey_conditions('LSST', 'i')",
    "cluster": "hiergal.posterior.table.check_table_name('table.parquet')",
}
CORE = """
import galsim, jax, numpy as np
from astropy.table import Table
import hiergal
catalog = Table({"mag_auto": [21.5, 22.5], "flux_radius": [14.0, 10.0], "zphot": [0.5, 0.8]})
model = hiergal.load_model("hub:mock-acs")
profiles = hiergal.draw_profiles(model, catalog, key=jax.random.key(1))
galaxies = hiergal.GenerativeGalaxyModel("hub:mock-acs").sample(catalog, rng=galsim.BaseDeviate(1))
image = galsim.Convolve(galaxies[0], galsim.Gaussian(fwhm=0.6)).drawImage(nx=32, ny=32, scale=0.2)
observation = hiergal.Observation.from_arrays(
    np.random.default_rng(0).normal(size=(1, 64, 64)), psf=np.ones((3, 3)) / 9, rms=np.ones(1), pixel_scale_arcsec=0.03,
    magnitude_zero_point=25.94, flux_unit="counts per second",
)
posterior = hiergal.infer(model, observation, key=0, method="amortized", draws=2)
report["core"] = [list(profiles.shape), float(image.array.sum()), list(posterior.latents.shape)]
run("sample c.csv --model hub:mock-acs --out galaxies.fits")
run("models list")
"""
SCRIPT = f"""
import contextlib, importlib, io, json, os, sys

report, hidden = {{}}, set()

class Hiding:
    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)

    def find_spec(self, name, path=None, target=None):
        if any(name == one or name.startswith(one + ".") for one in hidden):
            return None
        return self.real.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(one) if hasattr(one, "find_spec") else one for one in sys.meta_path]
from hiergal.runtime.extras import EXTRAS

def run(words):
    from hiergal.cli.app import main
    sys.argv, err, code = ["hiergal", *words.split()], io.StringIO(), 0
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    report["$ " + words] = [code, err.getvalue().splitlines()]

hidden |= {{module for modules in EXTRAS.values() for module in modules}}
try:
    exec({CORE!r}, {{"report": report, "run": run}})
    for extra, call in {CALLS!r}.items():
        hidden.clear()
        hidden |= set(EXTRAS[extra]) - (set(EXTRAS['survey']) if extra != 'survey' else set())
        module = call.partition("(")[0].rpartition(".")[0]
        names = {{"hiergal": importlib.import_module("hiergal")}}
        importlib.import_module(module)
        try:
            eval(call, names)
        except ModuleNotFoundError as error:
            report[extra] = str(error)
        run({COMMANDS!r}[extra])
finally:
    json.dump(report, open("report.json", "w"))
"""


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """What the process says in which extras are missing."""
    folder = tmp_path_factory.mktemp("without")
    header = StoreHeader(survey="tiny", band="F814W", pixel_scale_arcsec=SCALE, magnitude_zero_point=25.94)
    write_store(folder / "s.zarr", header, [(tiny_survey(4, (32, 32), awkward_psf(4)), None)])
    save_model(drawing_model(), folder / "model")
    (folder / "c.csv").write_text("mag_auto,flux_radius,zphot\n22.0,10.0,0.5\n")
    before = set(folder.iterdir())
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(TESTS))),
        "HIERGAL_CACHE": "cache",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((folder / "report.json").read_text())
    report["new"] = sorted(one.name for one in set(folder.iterdir()) - before)
    return report


def test_the_core_draws_and_infers(without):
    shape, flux, latents = without["core"]
    assert shape == [2, 64, 64] and flux > 0 and latents == [2, 1, 16]
    for words in ("sample c.csv --model hub:mock-acs --out galaxies.fits", "models list"):
        assert without[f"$ {words}"][0] == 0, words


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_is_one_clear_line(without, extra):
    code, lines = without[f"$ {COMMANDS[extra]}"]
    assert code == 3 and len(lines) == 1, lines
    packages = [package or module for module, package in EXTRAS[extra].items()]
    for line in (lines[0].removeprefix("hiergal: "), without[extra]):
        assert line.endswith(f'`pip install "hiergal[{extra}]"`')
        assert any(package in line for package in packages)


def test_nothing_is_begun_without_an_extra(without):
    assert without["new"] == ["galaxies.fits", "report.json"]


def test_what_is_installed_is_not_asked_for():
    for extra in EXTRAS:
        require_extra(extra, "the tests")
