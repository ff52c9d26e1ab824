"""FITS files, opened so that damage is an error: of one that is cut off, Astropy warns, and reads on."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hiergal.runtime.inputs import input_path

__all__ = ["open_fits"]

SCALED = ("BZERO", "BSCALE", "BLANK")  # keywords


@contextlib.contextmanager
def open_fits(path: str | Path, what: str = "a FITS file") -> Iterator[Any]:
    """Open a FITS file with all of its extensions, and check that it is whole.

    Every header is read, the file has to reach to the end of the last extension, and sums (``CHECKSUM``, ``DATASUM``)
    are compared where the file states them.

    Args:
        path: The file; it may be compressed.
        what: What was expected, in words, for errors.

    Raises:
        FileNotFoundError: If there is none.
        OSError: If it is damaged, cut off, or no FITS file.

    Example:
        >>> from astropy.io import fits
        >>> fits.ImageHDU(np.zeros((4, 6)), name="IMAGE").writeto("17.fits")
        >>> with open_fits("17.fits") as hdus:
        ...     hdus["IMAGE"].data.shape
        (4, 6)
    """
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyWarning

    path = input_path(path, what)
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected {what}, got no such file")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected {what}, got a folder")
    with contextlib.ExitStack() as opened:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AstropyWarning)  # of headers that it fixes
                for words in (
                    "File may have been truncated",
                    "Error validating header",
                    "(Checksum|Datasum) ver",
                ):
                    warnings.filterwarnings("error", message=f"(?s).*{words}", category=Warning)
                file = opened.enter_context(path.open("rb"))  # which Astropy leaves open where it fails
                options = {"memmap": True, "checksum": True, "lazy_load_hdus": False}
                hdus = opened.enter_context(fits.open(file, **options))
                if any(
                    set(SCALED) & set(hdu.header) for hdu in hdus
                ):  # scaled numbers are no map of the file
                    file.seek(0)
                    hdus = opened.enter_context(fits.open(file, **options | {"memmap": False}))
                missing = _missing_extensions(hdus)
        except MemoryError:
            raise
        except Exception as error:  # also of what unpacks a file that looks like a compressed one
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OSError(f"{path}: expected {what} that is whole, got a damaged one: {reason}") from None
        if missing:
            raise OSError(
                f"{path}: expected {what} that is whole, got one that lacks {missing}; copy it again"
            )
        yield hdus


def _missing_extensions(hdus: Any) -> str:
    """Name the extensions that the primary header announces and the file does not have."""
    announced = hdus[0].header.get("NEXTEND")
    if isinstance(announced, int) and len(hdus) - 1 < announced:
        return f"{announced - len(hdus) + 1} of {announced} extensions (NEXTEND)"
    return ""
