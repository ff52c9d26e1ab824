"""Gain of a GalSim configuration when the network computes an image's galaxies in one call.

    python benchmarks/galsim_yaml.py hub:mock-acs

The tiles of inference/tiled.yaml, as they are, and with a call of the network for each galaxy: of blocks of one size,
filled up, as galaxies are always computed; and of one galaxy, which is faster but gives other last bits. The variants
take turns; times are medians over rounds, of the whole file: reading the model, compiling, drawing, writing. Each run
is a process of its own.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

CONFIG = Path(__file__).parents[1] / "inference" / "tiled.yaml"
RUN = """
import sys, time
start = time.perf_counter()
import galsim.config
import hiergal.galsim.config, hiergal.simulate.profiles
variant, config, model, side, survey, band, out = sys.argv[1:]
if variant != "image":
    hiergal.galsim.config._orders_ahead = lambda *_: []  # nor does it look for others
if variant == "one":
    hiergal.simulate.profiles.GALAXIES_PER_CALL_ON_CPU = hiergal.simulate.profiles.GALAXIES_PER_CALL_ON_ACCELERATOR = 1
(content,) = galsim.config.ReadConfig(config)
content["input"]["generative_model"]["file_name"] = model
content["eval_variables"] = {"ssurvey": survey, "sband": band}
content["image"] |= {"nx_tiles": int(side), "ny_tiles": int(side)}
content["output"] = {"dir": out, "file_name": variant + ".fits"}
imported = time.perf_counter()
galsim.config.Process(content)
print(time.perf_counter() - imported, imported - start)
"""
VARIANTS = {
    "image": "one call for the image",
    "block": "a call for each galaxy",
    "one": "a call of one galaxy",
}


def main(
    model: Annotated[str, typer.Argument(help="a model with a latent flow")],
    side: Annotated[int, typer.Option(help="tiles along each side", min=1)] = 20,
    survey: Annotated[str, typer.Option(help="survey of surveycodex")] = "LSST",
    band: Annotated[str, typer.Option(help="its filter")] = "i",
    rounds: Annotated[int, typer.Option(help="repetitions", min=1)] = 3,
    to: Annotated[Path | None, typer.Option("--json", help="file for the numbers")] = None,
) -> None:
    """Time all variants."""
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as out:
        for _ in range(rounds):
            for variant in VARIANTS:
                words = [sys.executable, "-c", RUN, variant, str(CONFIG), model, str(side), survey, band, out]
                answer = subprocess.run(words, check=True, capture_output=True, text=True)
                times[variant].append(float(answer.stdout.split()[-2]))
    result = {VARIANTS[variant]: statistics.median(values) for variant, values in times.items()}
    first = next(iter(result.values()))
    found = {"galaxies": side**2, "seconds": result, "ratio": {n: t / first for n, t in result.items()}}
    typer.echo(json.dumps(found, indent=2))
    if to is not None:
        to.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    typer.run(main)
