"""The digest of a trained model's files, by which a run recognises it."""

import hashlib
from pathlib import Path

__all__ = [
    "digest_of_model",
]


def digest_of_model(path: str | Path) -> str:
    """Return the SHA-256 of the files of a model.

    Args:
        path: A folder or a file.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(one for one in path.iterdir() if one.is_file())
    return hashlib.sha256(b"".join(hashlib.sha256(one.read_bytes()).digest() for one in files)).hexdigest()
