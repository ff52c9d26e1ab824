"""Condense the tables of the paper's Figs. 8 and 9 into what the package ships.

    HIERGAL_DATA=... python inference/condense_paper_figures.py

Writes ``hiergal/validation/morphology_reference.toml``: 49 quantiles of each curve, and the counts in each plane, of
the real COSMOS galaxies, their parametric twins and the mocks of Lanusse et al. (2020).
"""

import os
import sys
from pathlib import Path

import numpy as np

import hiergal.validation as validation
from hiergal.validation.morphology_reference import MorphologyReference, read_paper_morphology

HEADER = """\
# Morphology of HST/ACS F814W COSMOS galaxies, of parametric fits to them and of mocks, read from Figs. 8 and 9 of F.
# Lanusse, R. Mandelbaum, S. Ravanbakhsh, C.-L. Li, P. Freeman, B. Poczos (2020), "Deep Generative Models for Galaxy
# Image Simulations". Written by inference/condense_paper_figures.py. See morphology_reference.py for what is what.
"""
NODES = 49


def main() -> None:
    """Write the file."""
    if "HIERGAL_DATA" not in os.environ:
        sys.exit("expected HIERGAL_DATA to name the folder with paper_figures/, got nothing; set it")
    folder = Path(os.environ["HIERGAL_DATA"]) / "paper_figures"
    text = HEADER + "".join(
        toml(read_paper_morphology(folder, name)) for name in ("cosmos", "parametric", "mock")
    )
    path = Path(validation.__file__).with_name("morphology_reference.toml")
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    print(f"{path.name}: {len(text) / 1000:.0f} kB")


def toml(reference: MorphologyReference) -> str:
    """Write one sample."""
    lines = []
    for name, curve in reference.curves.items():
        cdf = np.linspace(0.002, min(0.998, curve.cdf[-1]), NODES)
        lines += [f"\n[{reference.sample}.curves.{name}]", f"mean = {curve.mean:.5g}"]
        lines += [f"x = {row(np.interp(cdf, curve.cdf, curve.x))}", f"cdf = {row(cdf)}"]
    for name, plane in reference.planes.items():
        lines.append(f"\n[{reference.sample}.planes.{name}]")
        for axis, edges in (("x_edges", plane.x_edges), ("y_edges", plane.y_edges)):
            lines.append(f"{axis} = [{edges[0]:g}, {edges[-1]:g}, {len(edges)}]  # first, last, number")
        lines.append(f"counts = [\n{''.join(f'  {row(line)},{chr(10)}' for line in plane.counts)}]")
    return "\n".join(lines) + "\n"


def row(values: np.ndarray) -> str:
    """Write numbers."""
    return f"[{', '.join(f'{value:.5g}' for value in values)}]"


if __name__ == "__main__":
    main()
