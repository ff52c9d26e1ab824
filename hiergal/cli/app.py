"""The ``hiergal`` command: each verb reads what the one before it wrote.

hiergal quickstart                                        everything, on the mock survey
hiergal survey mock|cosmos|cutouts|degrade --out OUT.zarr a survey
hiergal train SURVEY --out RUN                            the model and its guide
hiergal fit-prior SURVEY --model RUN/model                the latent flow: p(z | conditions)
hiergal fit-posterior-flow SURVEY --model RUN/model       the posterior flow, from simulations and the survey
hiergal infer SURVEY --model MODEL --out TABLE            posteriors of observed galaxies
hiergal deblend SCENES --sources TABLE --model MODEL ...  posteriors of overlapping galaxies
hiergal sample CATALOG --model MODEL --out FILE           new galaxies
hiergal validate SURVEY --model MODEL --out FOLDER        how real its galaxies are
hiergal calibrate SURVEY --model MODEL --out FOLDER       how often its credible intervals hold the truth
hiergal models list|info|card|fetch|verify|publish|...    trained models and recipes

Inputs are arguments, outputs are ``--out``; an option that two verbs share has one name (:mod:`hiergal.cli.options`).
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from hiergal.cli import calibrate, infer, sample
from hiergal.cli.models import models
from hiergal.cli.options import ModelFolder, Overwrite, RecipeName, Seed, Steps, SurveyIn, Workers
from hiergal.cli.survey import survey
from hiergal.cli.verbs import ARGUMENT, Old, Quiet, Verbs, Version
from hiergal.runtime.exits import (
    COULD_NOT_RUN,
    DONE,
    STOPPED,
    TEST_FAILED,
    exit_code_of,
)
from hiergal.runtime.extras import require_extra
from hiergal.runtime.formatting import plain
from hiergal.runtime.host_memory import keep_freed_memory
from hiergal.runtime.log import log_to_stderr, say
from hiergal.runtime.progress import Interrupted, Stopped, interruptions

__all__ = ["app", "main"]

DEBUG = "HIERGAL_DEBUG"  # environment variable
INTERRUPTED = (
    "stopped; the same command continues from what is finished (survey, train, infer into a table, sample, "
    "quickstart), or begins again (fit-prior, fit-posterior-flow, infer into .nc or .zarr, "
    "deblend, validate, calibrate); nothing is half-written"
)

app = Verbs(
    pretty_exceptions_enable=False,
    help=(
        "Learn what galaxies look like from survey images, infer what is behind a stamp, and draw new galaxies.\n\n"
        "Outputs: a finished result of the same command is recognised, and an interrupted one is continued; a result "
        "of other settings is replaced with --overwrite only; whatever hiergal did not write is never touched.\n\n"
        "Exit codes: 0 done, 1 a test failed, 2 wrong use, 3 could not run, 130 stopped. Progress and messages go to "
        f"stderr. With {DEBUG}=1 errors come with a traceback."
    ),
)


@app.callback()
def common(quiet: Quiet = False, version: Version = False) -> None:
    """Set up the log; these options may stand before the verb or after it."""
    log_to_stderr(quiet=quiet)


app.add_typer(survey, name="survey")
app.add_typer(models, name="models")


@app.command(
    examples=["hiergal quickstart", "hiergal quickstart --galaxies 1000 --recipe small --out runs/try"],
)
def quickstart(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything that it writes.")] = Path(
        "runs/quickstart"
    ),
    galaxies: Annotated[int, typer.Option(help="Galaxies in the mock survey.", min=400)] = 4000,
    recipe: RecipeName = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Run every step on a mock survey. Writes a report: survey, training, flow, posteriors, new galaxies.

    With HIERGAL_DATA set, the real COSMOS galaxies of its cosmos_dev folder are inferred too. The same command
    continues an interrupted run.
    """
    from hiergal.cli.quickstart.run import run_quickstart
    from hiergal.recipe.recipe import Recipe, load_recipe

    plan = load_recipe(recipe) if recipe else Recipe()
    found = run_quickstart(out, plan, galaxies=galaxies, seed=seed, overwrite=overwrite)
    for line in found.verdict:
        say(line)
    say(f"report: {found.page}")


@app.command(
    examples=[
        "hiergal train survey.zarr --out runs/first",
        "hiergal train survey.zarr --recipe standard --steps 10000 --half-precision --out runs/standard",
        "hiergal train mine.zarr --recipe mine.toml --start runs/standard/model --out runs/mine",
        "srun hiergal train survey.zarr --recipe lanusse2020 --distributed --out runs/lanusse2020",
    ],
)
def train(
    survey: SurveyIn,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run: model, checkpoints, history.")],
    recipe: RecipeName = None,
    steps: Steps = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="A trained model to go on from: its folder, or its hub: name. Its networks are the recipe's."
        ),
    ] = None,
    in_memory: Annotated[
        bool | None,
        typer.Option(
            "--in-memory/--from-disk",
            help="Keep the galaxies on the devices, or read them as they are needed; default by their size.",
        ),
    ] = None,
    half_precision: Annotated[
        bool,
        typer.Option("--half-precision", help="Round the weights, as those of published models are."),
    ] = False,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Join the processes of a job (SLURM, Open MPI).")
    ] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fit the generator and the guide. The same command continues an interrupted run."""
    from msgspec.structs import replace

    from hiergal.runtime.devices import is_first_process, join_processes

    if distributed:
        join_processes()  # before anything else of JAX
    from hiergal.hub.bundle import load_model
    from hiergal.recipe.recipe import Recipe, load_recipe
    from hiergal.survey.store import open_survey
    from hiergal.training.train_model import train_model

    plan = load_recipe(recipe) if recipe else Recipe()
    if steps is not None:
        plan = replace(plan, training=replace(plan.training, steps=steps))
    _, fitted = train_model(
        open_survey(survey),
        plan,
        out,
        seed=seed,
        start=load_model(start) if start else None,
        in_memory=in_memory,
        half_precision=half_precision,
        overwrite=overwrite,
    )
    if not is_first_process():
        return
    last = fitted.history[-1]
    say(
        f"{out / 'model'}: chi-square {last.chi_square:.3f}, ELBO {last.elbo:.1f} nats after {last.step} steps"
    )


@app.command(
    "fit-prior",
    examples=[
        "hiergal fit-prior survey.zarr --model runs/first/model",
        "hiergal fit-prior survey.zarr --model runs/first/model --condition mag_auto --condition zphot",
    ],
    old=Old(arguments=("--model", ARGUMENT), verb="flow"),
)
def fit_prior(
    survey: SurveyIn,
    model: ModelFolder,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="A column to condition on; repeat for more. Default the recipe's."),
    ] = None,
    steps: Steps = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fit the latent flow, p(z | conditions). Conditions are magnitude, size and redshift, or other columns."""
    from hiergal.survey.store import open_survey
    from hiergal.training.fit_prior import fit_prior

    conditions = tuple(condition) if condition else None
    _, fitted = fit_prior(
        model, open_survey(survey), seed=seed, conditions=conditions, steps=steps, overwrite=overwrite
    )
    if fitted is None:
        say(f"{model}: has this latent flow already; nothing to do")
        return
    say(f"{model}: latent flow with log p(z | y) = {max(fitted.validation):.2f} nats on held-out galaxies")


infer.add_to(app)
sample.add_to(app)
calibrate.add_to(app)


@app.command(
    examples=[
        "hiergal validate survey.zarr --model runs/first/model --out runs/validation",
        "hiergal validate survey.zarr --images others --out runs/others",
    ],
    old=Old(options={"--survey": ARGUMENT, "--galaxies": "--limit"}),
)
def validate(
    survey: Annotated[
        Path,
        typer.Argument(
            help="The survey; of one that was trained on, only the galaxies kept apart count.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A trained model with a latent flow: hub:NAME, a folder, a file or an https address.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a model: a folder of images.fits and catalog.fits (.ecsv, .csv) by any other generator."
        ),
    ] = None,
    profiles: Annotated[
        bool, typer.Option("--profiles", help="Those images have neither PSF nor noise yet: observe them.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for numbers, tables, figures and report.")
    ] = Path("runs/validation"),
    limit: Annotated[int, typer.Option(help="Take only the first galaxies.", min=10)] = 2000,
    alpha: Annotated[
        float, typer.Option(help="Chance of any false alarm among all tests.", min=1e-6, max=0.5)
    ] = 0.01,
    seed: Seed = 0,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare drawn galaxies with a survey. Writes a report; the exit status is 1 if a test fails."""
    from hiergal.hub.bundle import load_model
    from hiergal.hub.digest import digest_of_model
    from hiergal.hub.names import resolve
    from hiergal.reports.validation import FILES, summary_of, write_validation
    from hiergal.runtime.folder import owned_folder
    from hiergal.runtime.identity import digest_of_files
    from hiergal.runtime.version import __version__
    from hiergal.survey.schema import digest_of_store
    from hiergal.survey.store import open_survey
    from hiergal.validation.run import validate as run

    require_extra("validate", "validation")  # before the folder is made
    store, trained = open_survey(survey), None if model is None else load_model(model)
    choices: dict[str, Any] = {"profiles": profiles, "galaxies": limit, "seed": seed, "alpha": alpha}
    judged = digest_of_files(images) if images is not None else digest_of_model(resolve(str(model)))
    about = {"survey": digest_of_store(survey), "judged": judged, **choices, "version": __version__}
    names, inputs = (*FILES, "report.html", "figures"), (survey, model, images)
    with owned_folder(out, "validation", run=about, names=names, inputs=inputs, overwrite=overwrite) as own:
        if not own.finished:
            found = run(store, model=trained, images=images, workers=workers, **choices)
            name = str(images if model is None else model)
            write_validation(own.path, found, store.header, name=name, model=trained, seed=seed, alpha=alpha)
            own.done(passed=found.passed, summary=summary_of(found, name=name, alpha=alpha))
        results = own.results
    say(results["summary"])
    say(f"report: {out / 'report.html'}")
    raise typer.Exit(DONE if results["passed"] else TEST_FAILED)


def main() -> None:
    """Run the command; errors are sentences, not tracebacks."""
    keep_freed_memory()
    try:
        with interruptions():
            app(prog_name="hiergal")
    except Stopped as stop:
        _end(str(stop), STOPPED)
    except Interrupted:
        _end(INTERRUPTED, STOPPED)
    except (ValueError, TypeError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        _end(str(error), exit_code_of(error), error)
    except MemoryError as error:
        _end(
            "expected more memory than there is; take fewer galaxies at once (--batch), or draws",
            COULD_NOT_RUN,
            error,
        )
    except Exception as error:  # a fault of hiergal's
        words = " ".join(str(error).split())
        _end(
            f"unexpected {type(error).__name__}: {words[:300]}; this is a fault of hiergal: please report it with the "
            f"traceback that {DEBUG}=1 shows",
            COULD_NOT_RUN,
            error,
        )


def _end(words: str, code: int, error: BaseException | None = None) -> None:
    if error is not None and os.environ.get(DEBUG):
        traceback.print_exception(error)
    lines = "\n".join(plain(line) for line in words.splitlines())
    say(f"hiergal: {lines}", err=True)
    sys.exit(code)
