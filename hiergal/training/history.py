"""The history of a training run: one JSON object a line, in step with the checkpoints."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from hiergal.runtime.files import write_whole

__all__ = ["History", "TrainInfo", "read_history"]

HISTORY = "history.jsonl"
OLD_NAMES = {
    "bound": "elbo",
    "divergence": "kl",
    "divergence_per_latent": "kl_per_latent",
}  # in earlier files


class TrainInfo(NamedTuple):
    """Evaluation on the validation galaxies.

    Attributes:
        step: Steps done.
        seconds: Time since this process began to train [s].
        loss: Mean loss of the training batches since the evaluation before: penalties and free bits included [nats per
            galaxy].
        elbo: Evidence lower bound, without free bits, with the likelihood that is trained [nats per galaxy].
        distortion: Mean negative log-likelihood of a posterior draw [nats per galaxy].
        kl: Mean Kullback-Leibler divergence of the posteriors from the prior: the rate [nats per galaxy].
        kl_per_latent: What each latent contributes to it [nats per galaxy].
        chi_square: Median reduced chi-square of a posterior draw.
    """

    step: int
    seconds: float
    loss: float
    elbo: float
    distortion: float
    kl: float
    kl_per_latent: tuple[float, ...]
    chi_square: float


def read_history(folder: str | Path) -> tuple[TrainInfo, ...]:
    """Return the evaluations of a run, from its ``history.jsonl``; none if there is no such file."""
    path = Path(folder) / HISTORY
    lines = path.read_bytes().splitlines() if path.exists() else []
    rows = ({OLD_NAMES.get(k, k): v for k, v in msgspec.json.decode(line).items()} for line in lines)
    return tuple(TrainInfo(**cast(Any, row) | {"kl_per_latent": tuple(row["kl_per_latent"])}) for row in rows)


class History:
    """The evaluations of a run.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / HISTORY

    def rows(self) -> tuple[TrainInfo, ...]:
        """Return all evaluations so far."""
        return read_history(self.folder)

    def cut(self, step: int) -> None:
        """Forget what came after the checkpoint that training goes on from."""
        self._write(info for info in self.rows() if info.step <= step)

    def add(self, info: TrainInfo) -> None:
        """Write one more."""
        self._write((*self.rows(), info))

    def _write(self, rows: Iterable[TrainInfo]) -> None:
        content = b"".join(msgspec.json.encode(info._asdict()) + b"\n" for info in rows)
        write_whole(self.path, content)
