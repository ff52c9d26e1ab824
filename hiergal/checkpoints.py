"""Checkpoints of training: whole or absent, and never those of another run.

Orbax writes each checkpoint to a temporary folder and renames it, so a killed run leaves the previous one. A
fingerprint of the recipe and the survey lies beside them; checkpoints that do not match it are replaced. Processes that
were joined write one checkpoint together.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import jax

from hiergal.devices import is_first_process, wait

__all__ = ["Checkpoints"]

FINGERPRINT = "fingerprint.json"


class Checkpoints:
    """The checkpoints of one training run.

    Args:
        folder: Where they are kept.
        fingerprint: What identifies the run: only checkpoints written under the same one are restored.
        keep: How many to keep.
    """

    def __init__(self, folder: str | Path, fingerprint: dict[str, Any], keep: int = 2) -> None:
        import orbax.checkpoint as ocp

        self.folder = Path(folder).absolute()
        if is_first_process():
            self._begin(
                json.loads(json.dumps(fingerprint))
            )  # as it comes back from the file: tuples are lists
        wait("checkpoints")
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Write a checkpoint, unless that step has one."""
        import orbax.checkpoint as ocp

        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(_plain_keys(state)))

    def restore(self, like: Any) -> Any:
        """Read the newest checkpoint into the structure of ``like``."""
        import orbax.checkpoint as ocp

        state = self._manager.restore(self.latest, args=ocp.args.StandardRestore(_plain_keys(like)))
        return jax.tree.map(_typed_like, state, like)

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()

    def _begin(self, fingerprint: dict[str, Any]) -> None:
        if self._stored_fingerprint() != fingerprint:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{FINGERPRINT}.partial"
        partial.write_text(json.dumps(fingerprint, indent=1))
        partial.replace(self.folder / FINGERPRINT)

    def _stored_fingerprint(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / FINGERPRINT).read_text())
        except (OSError, ValueError):
            return None


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain_keys(state: Any) -> Any:
    """Typed PRNG keys as the integers behind them, which files can hold."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)


def _typed_like(leaf: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(leaf) if _is_key(like) else leaf
