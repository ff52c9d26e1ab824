"""Checkpoints of training: whole or absent, and never those of another run.

Orbax writes each checkpoint to a temporary folder and renames it, so a killed run leaves the previous one. A
fingerprint of the recipe and the survey lies with them; others are refused, as everywhere
(:mod:`hiergal.runtime.output`). Processes that were joined write one checkpoint together.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from hiergal.runtime.devices import is_first_process, wait
from hiergal.runtime.extras import require_extra
from hiergal.runtime.files import locked, resolved, write_whole
from hiergal.runtime.identity import differences, plain
from hiergal.runtime.marks import IGNORED

__all__ = ["Checkpoints"]

FINGERPRINT, LOCK = "fingerprint.json", ".lock"


class Checkpoints:
    """The checkpoints of one training run.

    Args:
        folder: Where they are kept.
        fingerprint: What identifies the run: only checkpoints written under the same one are restored.
        history: A file that the run writes next to them: one that is there without checkpoints is not ours.
        keep: How many to keep.

    Raises:
        FileExistsError: If the folder holds something else, or checkpoints of another run.
        BlockingIOError: If another process writes checkpoints there.
    """

    def __init__(
        self, folder: str | Path, fingerprint: dict[str, Any], history: Path | None = None, keep: int = 2
    ) -> None:
        require_extra("train", "checkpoints of training")
        import orbax.checkpoint as ocp

        self.folder, self._held = resolved(folder), ExitStack()
        if is_first_process():
            self._begin(plain(fingerprint), history)
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
        self._held.close()

    def _begin(self, fingerprint: dict[str, Any], history: Path | None) -> None:
        before = self._stored_fingerprint()
        if before is None and history is not None and history.exists():
            raise FileExistsError(
                f"{history}: expected no such file, or one with the checkpoints of its run, got one without; choose "
                "another folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self.folder / LOCK
        self._check(before, fingerprint)
        self._held.enter_context(locked(lock, str(self.folder)))
        self._held.callback(lock.unlink, missing_ok=True)
        write_whole(self.folder / FINGERPRINT, json.dumps(fingerprint, indent=1).encode())

    def _check(self, before: Any, fingerprint: dict[str, Any]) -> None:
        """Refuse what is not of this run; a lock alone is that of a run that was killed at its beginning."""
        names = {child.name for child in self.folder.iterdir()}
        if {name for name in names if not IGNORED.fullmatch(name)} <= {LOCK}:
            return
        if not isinstance(before, dict):
            raise FileExistsError(
                f"{self.folder}: expected a free folder, or checkpoints of this run, got something else; choose "
                "another folder"
            )
        if before != fingerprint:
            raise FileExistsError(
                f"{self.folder}: expected checkpoints of this run, got those of one with other "
                f"{differences(before, fingerprint)}; choose another folder, or remove that one"
            )

    def _stored_fingerprint(self) -> dict[str, Any] | None:
        try:
            before = json.loads((self.folder / FINGERPRINT).read_text())
        except (OSError, ValueError):
            return None
        return before if isinstance(before, dict) else None


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain_keys(state: Any) -> Any:
    """Typed PRNG keys as the integers behind them, which files can hold."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)


def _typed_like(leaf: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(leaf) if _is_key(like) else leaf
