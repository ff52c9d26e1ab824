"""Every command at toy size, and processes that run them: for tests of two at once, and of kills.

Starting Python and JAX takes seconds for each command, so a process of this module waits with everything imported, and
runs what it is told (:class:`Process`): either itself, again and again, or each time in a fork that may be killed. It
has not used JAX before it forks.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NamedTuple

SHAPE = (16, 24)
ROWS, PART = 10, 4  # galaxies, and how many of them are one step of a command that can be resumed
SEEDS = (1, 2)  # of the two that can be told apart
INFER = (
    "infer",
    "{in}/s.zarr",
    "--model",
    "{in}/model",
    "--method",
    "amortized",
    "--draws",
    "5",
    "--batch",
    "4",
    "--seed",
    "{seed}",
)
SAMPLE = ("sample", "{in}/c.fits", "--model", "{in}/drawing", "--out", "{out}", "--seed", "{seed}")


class Command(NamedTuple):
    """A command: its words, the name of its output, and what is there before, of the inputs, for those that update."""

    words: tuple[str, ...]
    name: str
    before: str | None = None


COMMANDS = {
    "mock": Command(
        (
            "survey",
            "mock",
            "--out",
            "{out}",
            "-n",
            "10",
            "--stamp",
            "32",
            "--workers",
            "1",
            "--seed",
            "{seed}",
        ),
        "o.zarr",
    ),
    "cutouts": Command(
        ("survey", "cutouts", "{in}/cutouts{seed}.npz", "--out", "{out}", "--magnitude-zero-point", "22.5")
        + ("--pixel-scale-arcsec", "0.1"),
        "o.zarr",
    ),
    "degrade": Command(
        (
            "survey",
            "degrade",
            "{in}/s.zarr",
            "--out",
            "{out}",
            "--noise-factor",
            "1.5",
            "--workers",
            "1",
            "--seed",
            "{seed}",
        ),
        "o.zarr",
    ),
    "sample zarr": Command(SAMPLE, "o.zarr"),
    "sample fits": Command(SAMPLE, "o.fits"),
    "infer fits": Command((*INFER, "--out", "{out}"), "o.fits"),
    "infer nc": Command((*INFER, "--out", "{out}"), "o.nc"),
    "images": Command((*INFER, "--out", "{folder}/t.parquet", "--images", "{out}"), "o.zarr"),
    "train": Command(
        ("train", "{in}/s.zarr", "--out", "{out}", "--recipe", "{in}/r.toml", "--seed", "{seed}"), "run"
    ),
    "fit-prior": Command(
        ("fit-prior", "{in}/s.zarr", "--model", "{out}", "--steps", "4", "--seed", "{seed}"), "model", "bare"
    ),
    "fit-posterior-flow": Command(
        (
            "fit-posterior-flow",
            "{in}/s.zarr",
            "--model",
            "{out}",
            "--simulations",
            "100",
            "--refine",
            "0",
            "--seed",
            "{seed}",
        ),
        "model",
        "model",
    ),
    "publish": Command(
        (
            "models",
            "publish",
            "{in}/run{seed}",
            "--about",
            "{in}/about{seed}.toml",
            "--validation",
            "{in}/validation",
        )
        + ("--calibration", "{in}/calibration", "--out", "{folder}"),
        "toy",
    ),
    "registry": Command(
        (
            "models",
            "publish",
            "{in}/run{seed}",
            "--about",
            "{in}/about{seed}.toml",
            "--validation",
            "{in}/validation",
        )
        + ("--calibration", "{in}/calibration", "--out", "{folder}", "--registry", "{folder}/shop"),
        "toy",
    ),
    "validate": Command(
        (
            "validate",
            "{in}/mock.zarr",
            "--model",
            "{in}/drawing",
            "--out",
            "{out}",
            "--workers",
            "1",
        )
        + ("--limit", "20", "--seed", "{seed}"),
        "run",
    ),
}
# What depends on the clock: seconds in a history and in a report, checkpoints.
TIMED = re.compile(r"run/(history\.jsonl|checkpoints.*|report\.html)")


def words_of(command: str, inputs: Path, folder: Path, seed: int, *more: str) -> list[str]:
    """The words of a command that writes into a folder."""
    words, name, _ = COMMANDS[command]
    places = {"in": inputs, "folder": folder, "out": folder / name, "seed": seed}
    return [word.format(**places) for word in words] + list(more)


def begin(command: str, inputs: Path, folder: Path) -> None:
    """Make the folder of a command's output, with what is updated in it."""
    folder.mkdir(parents=True)
    if COMMANDS[command].before is not None:
        shutil.copytree(inputs / COMMANDS[command].before, folder / COMMANDS[command].name)


def facts_of(folder: Path) -> dict[str, str]:
    """Names of all that is in a folder, with digests of what does not depend on the clock."""
    facts = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if re.match(r"run/checkpoints/\d+(/|$)", name):  # which of them depends on where a run went on
            continue
        known = path.is_file() and not TIMED.fullmatch(name)
        facts[name] = digest_of(path) if known else ""
    if (folder / "shop" / "index.toml").exists():
        facts["shop/index.toml"] = registry_of(folder / "shop")
    return facts


def digest_of(path: Path) -> str:
    if path.suffix != ".safetensors":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    from safetensors.numpy import load_file  # whose own order of names is another one each time

    arrays = load_file(path)
    return hashlib.sha256(
        b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))
    ).hexdigest()


def registry_of(folder: Path) -> str:
    """What a registry offers, if its files are those that it says."""
    from hiergal.hub.registry import read_registry

    entries = read_registry(str(folder))
    for entry in entries:
        content = (folder / f"{entry.name}-{entry.version}.safetensors").read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry.sha256, entry
    return str([(entry.name, entry.version) for entry in entries])


def state_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Names, times and digests of all that is in a folder."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(folder.rglob("*"))
    }


def make_inputs(folder: Path) -> None:
    """A survey, cutouts, a catalogue, a recipe, models, and what was measured of them."""
    import jax
    import msgspec
    import numpy as np
    from astropy.io import fits
    from astropy.table import Table
    from conftest import awkward_psf
    from published_run import ABOUT, CALIBRATION, VALIDATION, complete_model
    from toys import SCALE, drawing_model, tiny_model, tiny_recipe, tiny_survey

    from hiergal.hub import save_model
    from hiergal.recipe.recipe import recipe_to_toml
    from hiergal.survey import StoreHeader, write_store
    from hiergal.survey.mock.survey import write_mock_survey

    header = StoreHeader(survey="tiny", band="F814W", pixel_scale_arcsec=SCALE, magnitude_zero_point=25.94)
    write_store(folder / "s.zarr", header, [(tiny_survey(ROWS, SHAPE, awkward_psf(ROWS)), None)])
    how = {"stamp": 32, "workers": 1, "progress": False}
    write_mock_survey(folder / "mock.zarr", 40, seed=5, **how)
    others = write_mock_survey(folder / "others.zarr", 40, seed=6, **how).read()
    (folder / "others").mkdir()
    fits.PrimaryHDU(np.asarray(others.image, np.float32)).writeto(folder / "others" / "images.fits")
    Table({"identifier": others.identifier}).write(folder / "others" / "catalog.csv")
    rng = np.random.default_rng(5)
    for seed in SEEDS:
        images = rng.normal(size=(ROWS, *SHAPE)).astype(np.float32)
        psf = np.tile(np.outer([1, 2, 1], [1, 2, 1]) / 16, (ROWS, 1, 1))
        np.savez(folder / f"cutouts{seed}.npz", image=images, psf=psf, variance=np.ones_like(images))
    recipe = tiny_recipe(SHAPE, steps=6, evaluate_every=3, batch=4)
    (folder / "r.toml").write_text(recipe_to_toml(recipe))
    model = tiny_model(recipe)
    save_model(model, folder / "model")
    save_model(tiny_model(recipe, flow=False), folder / "bare")
    drawing = drawing_model()
    save_model(drawing, folder / "drawing")
    Table(np.asarray(drawing.population)[:ROWS], names=("mag_auto", "flux_radius", "zphot")).write(
        folder / "c.fits"
    )
    complete = complete_model()
    for seed in SEEDS:
        about = msgspec.structs.replace(complete.provenance, seed=seed)
        save_model(complete.replace(provenance=about), folder / f"run{seed}" / "model")
        (folder / f"about{seed}.toml").write_text(ABOUT.replace("1.0", f"{seed}.0"))
    (folder / "validation" / "figures").mkdir(parents=True)
    (folder / "validation" / "figures" / "galaxies.png").write_bytes(b"picture")
    (folder / "validation" / "metrics.json").write_text(json.dumps(VALIDATION))
    (folder / "calibration").mkdir()
    (folder / "calibration" / "coverage.png").write_bytes(b"picture")
    (folder / "calibration" / "calibration.json").write_text(json.dumps(CALIBRATION))
    jax.clear_caches()


class Said(NamedTuple):
    """What became of a command.

    Attributes:
        code: Its exit code; minus the signal that killed it.
        text: What it wrote to stderr.
        seconds: How long it took.
        steps: At how many places it could have been killed.
    """

    code: int
    text: str
    seconds: float
    steps: int

    @property
    def done(self) -> bool:
        """Whether it has done its work; 1 says that a test failed, of a model that is validated."""
        return self.code in (0, 1)

    @property
    def lines(self) -> list[str]:
        """Lines that are errors."""
        return [line for line in self.text.splitlines() if line.startswith("hiergal: ")]


class Process:
    """A process that runs commands.

    Args:
        numbers: A folder for numbers that processes leave to each other.
        fork: Whether each runs in a fork, and can be killed.
        part: Galaxies of a step, or None for the sizes that users have.
    """

    def __init__(self, numbers: Path, *, fork: bool = False, part: int | None = None) -> None:
        words = [sys.executable, __file__, str(int(fork)), str(part or 0), str(numbers)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, words: list[str], **how) -> None:
        """Begin a command; see :func:`serve` for how."""
        self._process.stdin.write(json.dumps({"words": words, **how}) + "\n")
        self._process.stdin.flush()

    def wait(self) -> Said:
        """Wait until it has ended."""
        line = self._process.stdout.readline()
        assert line, "the process that runs commands has ended"
        return Said(**json.loads(line))

    def run(self, words: list[str], **how) -> Said:
        """Run a command."""
        self.start(words, **how)
        return self.wait()

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)


def serve(fork: bool, part: int, numbers: str) -> None:
    """Run the commands that come in, a line each, and answer with what became of them.

    A line has ``words``; perhaps ``at``, the time at which to begin; and in a fork ``root``, the folder in which steps
    are counted, ``step`` and ``after``: before or after which of them it is killed; ``seconds``, after which it is
    killed; ``exchange``, whether the system can exchange two names.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import_everything(part, numbers)
    for line in sys.stdin:
        ask = json.loads(line)
        while time.time() < ask.get("at", 0):
            pass
        said = in_fork(ask) if fork else in_process(ask["words"])
        answers.write(json.dumps(said._asdict()) + "\n")
        answers.flush()


def import_everything(part: int, numbers: str) -> None:
    import importlib
    import pkgutil

    import hiergal

    for module in pkgutil.walk_packages(hiergal.__path__, "hiergal."):
        importlib.import_module(module.name)
    for name in (
        "arviz",
        "galsim",
        "matplotlib.pyplot",
        "orbax.checkpoint",
        "statmorph",
        "xarray",
        "pyarrow.parquet",
    ):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if part:
        from hiergal.posterior import survey as survey_posteriors
        from hiergal.simulate import catalog as catalog_sampling
        from hiergal.survey import prepare, writer

        writer.SHARD_GALAXIES = survey_posteriors.GALAXIES_PER_TASK = catalog_sampling.GALAXIES_PER_TASK = (
            prepare.TASK_GALAXIES
        ) = part
    remember_numbers(numbers)
    logging.getLogger("hiergal").propagate = False
    from hiergal.runtime.fork import jax_is_in_use

    assert not jax_is_in_use(), "an import uses JAX: forks would hang"


def remember_numbers(numbers: str) -> None:
    """Have fits of one seed computed once, and training compiled once: what counts here is what happens to files."""
    import jax

    from hiergal.reports import validation as report
    from hiergal.runtime.files import write_whole
    from hiergal.training import fit_posterior_flow, fit_prior, svi
    from hiergal.validation import run

    def once(module, name: str, key_of, fresh=lambda value: value) -> None:
        real, known = getattr(module, name), {}

        def call(*arguments, **options):
            key = str(key_of(*arguments, **options))
            if key not in known:
                known[key] = real(*arguments, **options)
            return fresh(known[key])

        setattr(module, name, call)

    def one_figure(found):
        from matplotlib.figure import Figure

        return {"galaxies": (Figure((1, 1)), "What twenty figures stand for.")}

    report.figures_of = one_figure
    compute = run.validate

    def validate(*arguments, seed: int, **options):
        """Numbers of a validation take long: the first process that has them leaves them to the others."""
        kept = Path(f"{numbers}/validation{seed}.pickle")
        if not kept.exists():
            write_whole(kept, pickle.dumps(compute(*arguments, seed=seed, **options)))
        return pickle.loads(kept.read_bytes())

    run.validate = validate
    once(fit_prior, "_fit_flows", lambda model, store, *, seed, **_: seed)
    once(fit_posterior_flow, "_fit_to_survey", lambda model, store, *, seed, **_: seed)
    once(
        svi,
        "_initial_state",
        lambda svi, key, *_, **__: key,
        lambda state: jax.tree.map(lambda x: x.copy(), state),
    )
    once(svi, "SVI", lambda *_, **__: "of the one recipe")
    once(svi, "_compile_step", lambda svi, recipe, n, key, mesh: key)
    once(svi, "_compiled_at_first", id)
    once(svi, "evaluator", lambda recipe, key, mesh: key)


def in_process(words: list[str]) -> Said:
    from hiergal.cli import app as cli

    sys.argv, text, began = ["hiergal", *words], io.StringIO(), time.monotonic()
    code = 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(text):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = 99
            traceback.print_exc()
    return Said(int(code), text.getvalue(), time.monotonic() - began, 0)


def in_fork(ask: dict) -> Said:
    read, write = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(read)
        count = count_steps(
            **{name: ask[name] for name in ("root", "step", "after", "exchange") if name in ask}
        )
        said = in_process(ask["words"])._replace(steps=count())
        os.write(write, json.dumps(said._asdict()).encode())
        os._exit(0)
    os.close(write)
    timer = None
    if ask.get("seconds"):
        timer = threading.Timer(ask["seconds"], os.kill, (child, signal.SIGKILL))
        timer.start()
    with os.fdopen(read) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if timer is not None:
        timer.cancel()
        timer.join()  # no thread when the next child is forked
    if os.WIFSIGNALED(status):
        return Said(-os.WTERMSIG(status), "", time.monotonic() - began, 0)
    return Said(**json.loads(said))


def count_steps(root: str = "/", step: int = 0, after: bool = False, exchange: bool = True):
    """Have this process killed at a step: a call that changes names in a folder, or writes a file through to the disk.

    Returns:
        A function that tells how many steps were made.
    """
    from hiergal.runtime import files, work

    if not exchange:
        work.exchange = lambda *names: False
    made, lock = 0, threading.Lock()

    def is_of_root(argument) -> bool:
        if isinstance(argument, int):
            try:
                argument = os.readlink(f"/proc/self/fd/{argument}")
            except OSError:  # flags, not a file
                return False
        return isinstance(argument, str | os.PathLike) and str(argument).startswith(root)

    def watched(module, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments, **options):
            nonlocal made
            if not any(map(is_of_root, arguments[:2])) and not any(map(is_of_root, options.values())):
                return real(*arguments, **options)
            with lock:
                made += 1
                now = made == step
            if now and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            done = real(*arguments, **options)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        setattr(module, name, call)

    for name in ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "fsync", "open", "ftruncate"):
        watched(os, name)
    watched(files, "_rename")
    watched(shutil, "rmtree")
    return lambda: made


if __name__ == "__main__":
    serve(sys.argv[1] == "1", int(sys.argv[2]), sys.argv[3])
