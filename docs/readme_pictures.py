"""The two pictures of the README.

    HIERGAL_DATA=... python docs/readme_pictures.py

``_static/posterior_draws.webp`` moves through posterior draws of a real galaxy of COSMOS (Mandelbaum et al. 2012,
doi:10.5281/zenodo.3242143, CC BY 4.0); ``_static/galaxy.png`` is what the README's six lines make.
"""

import argparse
import io
import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

import hiergal
from hiergal.survey.cosmos import write_cosmos_survey

HERE = Path(__file__).resolve().parent
DRAWS, FRAME_MS = 24, 250
PANELS = ("observed (HST/ACS)", "denoised draw", "deconvolved draw")


def main() -> None:
    """Make both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "_static")
    parser.add_argument("--galaxy", type=int, default=18, help="Row of the sample.")
    parser.add_argument("--work", type=Path, default=Path("runs/readme"), help="Folder for the survey.")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    draw_moving(args.work / "cosmos.zarr", args.galaxy, args.out / "posterior_draws.webp")
    run_six_lines(args.out / "galaxy.png")


def run_six_lines(path: Path) -> None:
    """Run the first block of Python in the README, and keep its figure."""
    text = (HERE.parent / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL).group(1)
    names: dict[str, Any] = {}
    exec(compile(code.replace('"galaxy.png"', repr(str(path))), "README.md", "exec"), names)


def draw_moving(survey: Path, row: int, path: Path) -> None:
    """Show the posterior draws of one galaxy one after the other."""
    if not survey.exists():
        sample = Path(os.environ["HIERGAL_DATA"]) / "cosmos_dev"
        write_cosmos_survey(sample, survey, exclusion_level="none", progress=False)
    observation = hiergal.open_survey(survey).read([row])
    model = hiergal.load_model("hub:mock-acs")
    posterior = hiergal.infer(model, observation, key=jax.random.key(1), draws=DRAWS, method="importance")
    sharp = posterior.images(psf=None)[:, 0]
    seen = posterior.images(psf=observation.psf)[:, 0]
    level = float(np.asarray(observation.noise.rms()).ravel()[0])
    frames = [_frame(observation, seen[k], sharp[k], level) for k in range(DRAWS)]
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, quality=80, method=6
    )


def _frame(observation: Any, seen: np.ndarray, sharp: np.ndarray, level: float) -> Image.Image:
    """One draw: the stamp, the denoised draw on the same stretch, the deconvolved draw on its own."""
    from matplotlib.figure import Figure

    from hiergal.reports.figures.style import scale_bar, show_noiseless, show_stamp

    image = np.asarray(observation.image[0])
    figure = Figure(figsize=(9, 3.25), facecolor="white")
    axes = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.9, wspace=0.02)
    show_stamp(axes[0], image, level, float(np.nanmax(image)))
    show_noiseless(axes[1], seen, level, float(np.nanmax(image)))
    show_noiseless(axes[2], sharp, level, float(np.quantile(sharp, 0.9995)))
    for one, title in zip(axes, PANELS, strict=True):
        one.set_title(title, fontsize=11)
        one.set_axis_off()
    scale_bar(axes[0], image.shape, observation.pixel_scale_arcsec)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return Image.open(buffer).convert("RGB")


if __name__ == "__main__":
    main()
