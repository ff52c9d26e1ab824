"""Execute the tutorials and keep what they print and draw: ``make tutorials``, or ``ARGS="calibration"`` for one.

Each runs in an empty folder of its own. Paths of the machine are cut out of messages, and times out of the metadata, so
that the same notebook gives the same file. Look at every figure before you commit them.
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

CELL = re.compile(r"\S*/ipykernel_\d+/\d+\.py:\d+: ")  # what Python calls the file of a cell
FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


def main(names: list[str]) -> None:
    """Execute all tutorials, or those named."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of tqdm, which NumPyro imports
    for path in [path for name in names for path in FOLDER.glob(f"*{name}.ipynb")] or sorted(
        FOLDER.glob("*.ipynb")
    ):
        began = time.monotonic()
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            client = NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": folder}})
            client.execute()
            tidy(notebook, folder)
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.monotonic() - began:.0f} s", flush=True)


def tidy(notebook: nbformat.NotebookNode, folder: str) -> None:
    """Drop what differs from one machine, or one run, to the next."""
    here = (f"{folder}/", f"{FOLDER.parent}/", f"{sys.prefix}/")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            output.pop("metadata", None) if output.output_type == "stream" else output.update(metadata={})
            if output.output_type == "stream":
                output.text = CELL.sub("", output.text)
                for start in here:
                    output.text = output.text.replace(start, "")


if __name__ == "__main__":
    main(sys.argv[1:])
