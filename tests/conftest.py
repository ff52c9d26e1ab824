"""What all tests share: shape checks, strict broadcasting, and observations of awkward geometry.

The shapes and types in the signatures of hiergal are checked here and nowhere else: the import hook has to be in place
before any test imports the package. Arrays of different rank never combine silently. Everything runs on the CPU in
float32; a test that needs float64 asks for the fixture ``x64``.
"""

import atexit
import contextlib
import hashlib
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Most of the tests' time goes into compiling programs that run once: let LLVM not optimise them, and XLA not write each
# fusion as a kernel of its own, which takes half as long again. What users run is compiled as users compile it where
# that matters (tests/test_stack.py).
USERS_XLA_FLAGS = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = (
    f"{USERS_XLA_FLAGS} --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false"
)
# XLA's compiler adds two features to the processor's, and misses them in each program that it loads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CACHE = Path(__file__).parents[1] / ".jax_cache"
CACHE_DAYS = 14


def compilation_cache() -> Path:
    """Return a folder for compiled programs, which this run's processes and later runs share.

    JAX looks a program up by its text, its options and the version of jaxlib. The versions and the processor are in
    the folder's name so that nothing compiled for another machine is loaded where a disk is shared.
    """
    try:
        flags = next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")
        )
    except (OSError, StopIteration):
        flags = platform.processor()
    processor = hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:8]
    folder = CACHE / f"jax-{version('jax')}-jaxlib-{version('jaxlib')}-{processor}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a checkout that may not be written
        folder = Path(tempfile.mkdtemp(prefix="hiergal-tests-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def forget_old_programs() -> None:
    """Remove what was compiled long ago: of sources that have changed, or cut short when its process was killed."""
    for path in CACHE.glob("*/*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - 86400 * CACHE_DAYS:
                path.unlink()


if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers and commands inherit it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(compilation_cache())
    forget_old_programs()
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("hiergal", "signature_checks.check")
jax.config.update("jax_numpy_rank_promotion", "raise")

from hiergal.observation import Observation  # noqa: E402
from hiergal.observation.independent import PixelNoise, WhiteNoise  # noqa: E402
from hiergal.observation.noise import NoiseModel  # noqa: E402
from hiergal.observation.psf import PSF  # noqa: E402
from hiergal.observation.stationary import StationaryNoise  # noqa: E402
from hiergal.runtime.log import LOGGER  # noqa: E402

SCALE = 0.03


def pytest_addoption(parser):
    parser.addoption(
        "--slow-minutes",
        type=float,
        help="Start no test that is marked as slow later than this; the summary names those left out.",
    )


def pytest_configure():
    os.environ.setdefault("HIERGAL_TESTS_BEGAN", str(time.time()))  # workers inherit it


# Files that take long, the longest first: a worker that began one of them last would be alone at the end.
LONG = (
    "test_docs.py",
    "test_end_to_end.py",
    "test_program.py",
    "test_survey_posteriors.py",
    "test_lanusse2020.py",
    "test_galsim_config.py",
    "test_data_loss.py",
    "test_samplers.py",
    "test_noise.py",
    "test_deblend.py",
    "test_foreign_kinds.py",
    "test_svi.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_runtest_setup(item):
    limit, began = item.config.getoption("slow_minutes"), float(os.environ["HIERGAL_TESTS_BEGAN"])
    if limit is not None and item.get_closest_marker("slow") and time.time() - began > 60 * limit:
        pytest.skip(f"slow, and more than {limit:g} minutes have passed")


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Free what a file of tests has compiled.

    Every program holds memory maps of its own; a process that has as many as the kernel allows (65,530) dies of a
    segmentation fault in the next compilation. One file makes up to 22,000; fewer are kept, for the next file.
    """
    yield
    if memory_maps() > MOST_MAPS:
        jax.clear_caches()


MOST_MAPS = 30_000


def memory_maps() -> int:
    """Count the memory maps of this process; where that cannot be known, they are too many."""
    try:
        return Path("/proc/self/maps").read_text().count("\n")
    except OSError:
        return MOST_MAPS + 1


@pytest.fixture(autouse=True)
def log_of_a_library():
    """The log as it is where no command runs: a command that a test ran has taken it over."""
    for handler in [one for one in LOGGER.handlers if isinstance(one, logging.StreamHandler)]:
        LOGGER.removeHandler(handler)
    LOGGER.propagate = True


@pytest.fixture(scope="session")
def drawing_folder(tmp_path_factory) -> Path:
    """A saved model that draws galaxies, untrained."""
    from toys import drawing_model

    from hiergal.hub import save_model

    path = tmp_path_factory.mktemp("drawing") / "toy"
    save_model(drawing_model(), path)
    return path


@pytest.fixture
def noise_as_given(monkeypatch):
    """Cutouts whose noise is not measured beside the given one: that simulates a thousand stamps for each survey."""

    def measure(*_):
        raise ValueError("not measured in this test")

    monkeypatch.setattr("hiergal.survey.cutouts.survey.measure_in_cutouts", measure)


@pytest.fixture
def key() -> jax.Array:
    """A typed PRNG key, the same in every test."""
    return jax.random.key(20201117)


@pytest.fixture
def rng() -> np.random.Generator:
    """A NumPy generator, the same in every test."""
    return np.random.default_rng(20201117)


@pytest.fixture
def x64():
    """Run one test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def hiergal_data() -> Path:
    """The folder of real data, named by HIERGAL_DATA."""
    if not os.environ.get("HIERGAL_DATA"):
        pytest.skip("real data: HIERGAL_DATA is not set")
    folder = Path(os.environ["HIERGAL_DATA"])
    assert folder.is_dir(), f"HIERGAL_DATA: expected a folder, got {folder}"
    return folder


def awkward_psf(n: int, shape: tuple[int, int] = (5, 9), *, scale: float = SCALE, seed: int = 1) -> PSF:
    """Positive PSFs that sum to one, with no symmetry and their centroid away from the central pixel."""
    py, px = shape
    y, x = np.mgrid[:py, :px]
    ramp = np.exp(
        -0.5 * ((y - 0.3 * py) ** 2 + 0.3 * (x - 0.7 * px) ** 2 + 0.4 * (y - 0.3 * py) * (x - 0.7 * px))
    )
    stamp = ramp * np.random.default_rng(seed).uniform(0.5, 1.5, (n, py, px))
    return PSF((stamp / stamp.sum(axis=(1, 2), keepdims=True)).astype(np.float32), pixel_scale_arcsec=scale)


def awkward_noise(kind: str, n: int, shape: tuple[int, int], *, seed: int = 2) -> NoiseModel:
    """A noise model of each kind, different for every galaxy; the stationary one is correlated and anisotropic."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    match kind:
        case "white":
            return WhiteNoise(rng.uniform(0.5, 2.0, n).astype(np.float32))
        case "pixel":
            return PixelNoise(rng.uniform(0.5, 2.0, (n, ny, nx)).astype(np.float32))
        case "stationary":
            ky, kx = np.fft.fftfreq(ny)[:, None], np.fft.rfftfreq(nx)
            tilt = rng.uniform(1.0, 2.0, (n, 1, 1))
            power = 0.2 + np.exp(
                -8 * (ky**2 + tilt * kx**2 + 0.15 * np.sin(2 * np.pi * ky) * np.sin(2 * np.pi * kx))
            )
            return StationaryNoise(power.astype(np.float32), width=nx)
    raise ValueError(kind)


@pytest.fixture
def make_psf() -> Callable[..., PSF]:
    """The factory of awkward PSFs."""
    return awkward_psf


@pytest.fixture
def make_noise() -> Callable[..., NoiseModel]:
    """The factory of noise models: ``white``, ``pixel`` or ``stationary``."""
    return awkward_noise


@pytest.fixture
def make_observation() -> Callable[..., Observation]:
    """A factory of observations that would show a transpose, a half-pixel shift or a conjugated PSF."""

    def make(
        noise: str = "white",
        *,
        n: int = 3,
        shape: tuple[int, int] = (11, 14),
        psf_shape: tuple[int, int] = (5, 9),
        masked: bool = False,
        seed: int = 3,
    ) -> Observation:
        """Build n galaxies: off-centre blobs plus noise; NaN hides under the mask if there is one.

        Args:
            noise: One of ``white``, ``pixel``, ``stationary``.
            n: Number of galaxies.
            shape: (ny, nx) of the stamps.
            psf_shape: (py, px) of the PSFs' own stamps.
            masked: Whether to exclude some pixels of each galaxy.
            seed: Seed of the stamps; PSFs and noise models are always the same.
        """
        rng = np.random.default_rng(seed)
        model = awkward_noise(noise, n, shape)
        y, x = np.mgrid[: shape[0], : shape[1]]
        yc, xc = rng.uniform(0.3, 0.7, (2, n, 1, 1)) * np.reshape(shape, (2, 1, 1, 1))
        blob = 20 * np.exp(-((y - yc) ** 2 / 4 + (x - xc) ** 2 / 9 + (y - yc) * (x - xc) / 9))
        image = (blob + np.asarray(model.sample(jax.random.key(seed), (n, *shape)))).astype(np.float32)
        mask = rng.uniform(size=image.shape) < 0.2 if masked else None
        if masked:
            image[mask] = np.nan
        catalog = {
            "mag_auto": np.linspace(21, 25, n, dtype=np.float32),
            "flux_radius": np.linspace(12, 4, n, dtype=np.float32),
            "zphot": np.linspace(0.2, 1.5, n, dtype=np.float32),
        }
        identifier = 100 + np.arange(n)
        psf = awkward_psf(n, psf_shape)
        return Observation(image, psf, model, mask, catalog, identifier, pixel_scale_arcsec=SCALE)

    return make
