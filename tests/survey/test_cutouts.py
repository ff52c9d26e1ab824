"""Cutouts of other instruments: FITS folders, .npz files and arrays become stores; faults are told in words."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from hiergal.observation.independent import PixelNoise, WhiteNoise
from hiergal.survey import open_survey
from hiergal.survey.cutouts.survey import from_arrays, write_cutouts_survey

pytestmark = [
    pytest.mark.filterwarnings("ignore:PSF. expected its centre"),  # they are off it, on purpose
    pytest.mark.usefixtures("noise_as_given"),
]
SHAPE = (12, 17)
HEADER = {"survey": "hsc", "band": "i", "magnitude_zero_point": 22.5, "flux_unit": "nanomaggies"}


def wcs(scale_arcsec=0.168, squeeze=1.0):
    """A tangential projection with square pixels, north not up."""
    world = WCS(naxis=2)
    world.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    angle, scale = 0.3, scale_arcsec / 3600
    turn = np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    world.wcs.cd = scale * turn * [1.0, squeeze]
    return world


@pytest.fixture
def arrays(rng):
    """Three galaxies with asymmetric, off-centre PSFs."""
    psf = rng.uniform(size=(3, 5, 9)) * np.linspace(0, 1, 9)
    return {
        "image": rng.normal(size=(3, *SHAPE)).astype(np.float32),
        "psf": psf / psf.sum(axis=(1, 2), keepdims=True),
        "variance": rng.uniform(1, 2, (3, *SHAPE)),
        "mask": rng.uniform(size=(3, *SHAPE)) < 0.1,
    }


def write_galaxy(path, arrays, i, *, noise="VARIANCE", world=None, leave_out=()):
    """The five lines of the documentation, with every option."""
    hdus = fits.HDUList([fits.PrimaryHDU()])
    header = (world or wcs()).to_header()
    hdus.append(fits.ImageHDU(arrays["image"][i], header=header, name="IMAGE"))
    values = {"VARIANCE": 1.0, "RMS": 0.5, "WEIGHT": -1.0}[noise]
    hdus.append(fits.ImageHDU(arrays["variance"][i] ** values, name=noise))
    hdus.append(fits.ImageHDU(arrays["psf"][i], name="PSF"))
    hdus.append(fits.ImageHDU(arrays["mask"][i].astype(np.int16), name="MASK"))
    fits.HDUList([hdu for hdu in hdus if hdu.name not in leave_out]).writeto(path)


def assert_same(observation, arrays):
    """Compare with what was put in."""
    mask = arrays["mask"]
    np.testing.assert_array_equal(observation.mask, mask)
    np.testing.assert_array_equal(observation.image, np.where(mask, 0, arrays["image"]))
    np.testing.assert_allclose(observation.psf.stamp, arrays["psf"], rtol=1e-6)
    sigma, found = np.sqrt(arrays["variance"]), np.asarray(observation.noise.sigma)
    np.testing.assert_allclose(found[~mask], sigma[~mask], rtol=1e-6)
    np.testing.assert_allclose(
        found[mask],
        [np.median(s[~m]) for s, m in zip(sigma, mask, strict=True) for _ in range(m.sum())],
        rtol=1e-6,
    )


@pytest.mark.parametrize("noise", ["VARIANCE", "RMS", "WEIGHT"])
def test_folder_round_trip(tmp_path, arrays, noise):
    folder = tmp_path / "cutouts"
    folder.mkdir()
    for i, name in enumerate(("17.fits", "4.fits", "103.fits.gz")):
        write_galaxy(folder / name, arrays, i, noise=noise)
    order = [2, 0, 1]  # as sorted names come
    store = write_cutouts_survey(folder, tmp_path / "s.zarr", **HEADER)
    assert store.identifier.tolist() == [103, 17, 4] and store.noise_kind == "pixel"
    assert store.header.pixel_scale_arcsec == pytest.approx(0.168, rel=1e-6)
    assert (store.header.survey, store.header.band, store.header.flux_unit) == ("hsc", "i", "nanomaggies")
    assert_same(store.read(), {name: array[order] for name, array in arrays.items()})


def test_catalogue_and_psfs_of_several_sizes(tmp_path, arrays):
    for i, name in enumerate("abc"):
        one = {key: array[i : i + 1] for key, array in arrays.items()}
        one["psf"] = one["psf"][:, :, i : 9 - i]
        one["psf"] = one["psf"] / one["psf"].sum()
        write_galaxy(tmp_path / f"{name}.fits", one, 0, leave_out=["MASK"])
    table = Table(
        {"file": ["c.fits", "a.fits"], "identifier": [8, 3], "zphot": [0.5, 1.5], "note": ["x", "y"]}
    )
    table["size"] = np.array([2.5, 3.5])
    table["size"].unit = "arcsec"
    table.write(tmp_path / "catalog.ecsv")
    store = write_cutouts_survey(tmp_path, tmp_path / "s.zarr", pixel_scale_arcsec=0.16801, **HEADER)
    assert store.identifier.tolist() == [8, 3] and store.header.pixel_scale_arcsec == 0.16801
    assert sorted(store.catalog) == [
        "dec_deg",
        "north_rad",
        "parity",
        "ra_deg",
        "size",
        "zphot",
    ] and store.catalog["zphot"].tolist() == [0.5, 1.5]
    assert store.header.unit_of("size") == "arcsec"
    stamp = arrays["psf"][2, :, 2:7] / arrays["psf"][2, :, 2:7].sum()
    np.testing.assert_allclose(store.read([0]).psf.stamp[0], np.pad(stamp, ((0, 0), (2, 2))), rtol=1e-5)
    np.testing.assert_allclose(store.read([1]).image[0], arrays["image"][0])


def test_npz_and_observations(tmp_path, arrays):
    np.savez(tmp_path / "all.npz", **arrays, identifier=[5, 6, 7], mag_auto=[20.0, 21.0, 22.0])
    store = write_cutouts_survey(tmp_path / "all.npz", tmp_path / "a.zarr", pixel_scale_arcsec=0.2, **HEADER)
    assert_same(store.read(), arrays)
    assert store.identifier.tolist() == [5, 6, 7] and store.catalog["mag_auto"].tolist() == [20.0, 21.0, 22.0]
    observation = from_arrays(**arrays, pixel_scale_arcsec=0.2)
    assert_same(write_cutouts_survey(observation, tmp_path / "b.zarr", **HEADER).read(), arrays)
    assert open_survey(tmp_path / "b.zarr").identifier.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="make them agree"):
        write_cutouts_survey(observation, tmp_path / "c.zarr", pixel_scale_arcsec=0.3, **HEADER)


def test_pixels_without_data_are_masked(arrays):
    arrays["image"][0, 1, 2] = np.nan
    weight = 1 / arrays.pop("variance")
    weight[1, 3, 4], weight[2, 5, 6] = 0, np.nan
    observation = from_arrays(**arrays, weight=weight, pixel_scale_arcsec=0.2)
    expected = arrays["mask"].copy()
    expected[[0, 1, 2], [1, 3, 5], [2, 4, 6]] = True
    np.testing.assert_array_equal(observation.mask, expected)
    assert isinstance(observation.noise, PixelNoise) and np.isfinite(observation.noise.sigma).all()
    assert np.isfinite(observation.noise.log_prob(observation.image, observation.mask)).all()


def test_noise_level_is_that_of_pixels_that_were_seen(arrays):
    """However few they are; a stamp without any has some level."""
    arrays["mask"] = np.zeros(arrays["image"].shape, bool)
    arrays["mask"][0, 1:], arrays["mask"][1] = True, True
    arrays["variance"] = np.full(arrays["image"].shape, 1e-4)
    noise = from_arrays(**arrays, pixel_scale_arcsec=0.2).noise
    np.testing.assert_allclose(noise.rms(), [0.01, 1.0, 0.01], rtol=1e-5)


def test_one_noise_level_and_one_psf(arrays):
    psf = arrays["psf"][0]
    observation = from_arrays(arrays["image"], psf=psf, rms=np.array([0.1, 0.2, 0.3]), pixel_scale_arcsec=0.2)
    assert isinstance(observation.noise, WhiteNoise) and observation.psf.stamp.shape == (3, 5, 9)


def test_psfs_are_normalised_with_a_warning(arrays):
    arrays["psf"][1] *= 3
    with pytest.warns(UserWarning, match="PSFs sum to as much as 3"):
        observation = from_arrays(**arrays, pixel_scale_arcsec=0.2)
    np.testing.assert_allclose(observation.psf.stamp.sum(axis=(1, 2)), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"psf": np.ones((3, 4, 5))}, "odd number of pixels .*draw the PSF again on an odd stamp"),
        ({"psf": np.ones((2, 3, 5))}, "one for each of 3 galaxies"),
        ({"psf": -np.ones((3, 5))}, "expected positive sums"),
        ({"image": np.ones(5)}, "expected stamps of shape"),
        ({"variance": np.zeros((3, *SHAPE))}, "variance: expected positive values, .*NaN or infinity"),
        ({"variance": None, "weight": -np.ones((3, *SHAPE))}, "weights of 0 already mean no data"),
        ({"variance": None}, "expected one of variance, rms, weight, got none"),
        ({"rms": np.ones((3, *SHAPE))}, "got variance, rms"),
        ({"variance": np.ones((3, 12, 16))}, "variance: expected shape"),
        ({"mask": np.zeros((3, 12, 16), bool)}, "mask: expected the shape of the image"),
    ],
)
def test_faulty_arrays(arrays, changes, words):
    given = {name: array for name, array in (arrays | changes).items() if array is not None}
    with pytest.raises(ValueError, match=words):
        from_arrays(**given, pixel_scale_arcsec=0.2)


def test_galaxies_without_data_are_left_out_and_counted(tmp_path, arrays):
    arrays["mask"][1] = True
    observation = from_arrays(**arrays, pixel_scale_arcsec=0.2)
    with pytest.warns(UserWarning, match="1 of 3 cutouts hold no data and are left out: 1"):
        store = write_cutouts_survey(observation, tmp_path / "s.zarr", **HEADER)
    assert store.identifier.tolist() == [0, 2] and store.header.provenance["left_out"] == 1
    (tmp_path / "c").mkdir()
    for i in range(3):
        write_galaxy(tmp_path / "c" / f"{i + 7}.fits", arrays, i)
    with pytest.warns(UserWarning, match="1 of 3 cutouts hold no data and are left out: 8.fits"):
        store = write_cutouts_survey(tmp_path / "c", tmp_path / "t.zarr", **HEADER)
    assert store.identifier.tolist() == [7, 9]
    arrays["mask"][:] = True
    observation = from_arrays(**arrays, pixel_scale_arcsec=0.2)
    with pytest.raises(ValueError, match="at least one pixel that is not masked"):
        write_cutouts_survey(observation, tmp_path / "u.zarr", **HEADER)
    assert not (tmp_path / "u.zarr").exists()


def test_faulty_folders(tmp_path, arrays):
    def expect(error, words, **kwargs):
        with pytest.raises(error, match=words):
            write_cutouts_survey(folder, tmp_path / "s.zarr", **HEADER, **kwargs)

    folder = tmp_path / "cutouts"
    expect(FileNotFoundError, "expected a folder of FITS cutouts")
    folder.mkdir()
    expect(FileNotFoundError, "got none for any")
    write_galaxy(folder / "1.fits", arrays, 0, leave_out=["VARIANCE"])
    expect(ValueError, "1.fits: expected one extension of VARIANCE, RMS, WEIGHT .* got none")
    (folder / "1.fits").unlink()
    write_galaxy(folder / "1.fits", arrays, 0, leave_out=["PSF"])
    expect(ValueError, "1.fits: expected an extension PSF.*--psf FILE")
    (folder / "1.fits").unlink()
    write_galaxy(folder / "1.fits", arrays, 0)
    write_galaxy(folder / "2.fits", arrays, 1, world=wcs(0.2))
    expect(ValueError, "expected one pixel scale")
    (folder / "2.fits").unlink()
    write_galaxy(folder / "2.fits", arrays, 1, world=wcs(squeeze=1.2))
    expect(ValueError, "expected square pixels")
    (folder / "2.fits").unlink()
    write_galaxy(folder / "2.fits", arrays, 1, world=WCS(naxis=2))
    expect(ValueError, "give pixel_scale_arcsec")
    (folder / "2.fits").unlink()
    smaller = arrays | {name: arrays[name][:, :-1] for name in ("image", "variance", "mask")}
    write_galaxy(folder / "2.fits", smaller, 1)
    expect(ValueError, "to be like")
    (folder / "2.fits").unlink()
    write_galaxy(folder / "2.fits", arrays | {"variance": arrays["variance"][:, :-1]}, 1)
    expect(ValueError, "VARIANCE and IMAGE of one shape")
    (folder / "2.fits").unlink()
    write_galaxy(folder / "2.fits", arrays | {"psf": arrays["psf"][:, :-1]}, 1)
    expect(ValueError, "odd number of pixels in .*2.fits")
    Table({"name": ["1.fits"]}).write(folder / "catalog.csv")
    expect(ValueError, "expected a column 'file'")
    Table({"file": ["9.fits"]}).write(folder / "catalog.csv", overwrite=True)
    expect(FileNotFoundError, r"got none for \['9.fits'\]")
    np.savez(tmp_path / "x.npz", image=arrays["image"])
    folder = tmp_path / "x.npz"
    expect(ValueError, "expected pixel_scale_arcsec with arrays")
    expect(ValueError, r"add \['psf'\]", pixel_scale_arcsec=0.2)


def test_the_same_cutouts_are_recognised_and_others_are_refused(tmp_path, arrays):
    """From files and from arrays: nothing is written again; another source or choice needs overwrite."""
    source = tmp_path / "c.npz"
    np.savez(source, **arrays)
    about = {"survey": "demo", "band": "i", "magnitude_zero_point": 27.0, "pixel_scale_arcsec": 0.2}
    given = from_arrays(**arrays, pixel_scale_arcsec=0.2)
    for number, one in enumerate((source, given)):
        out = tmp_path / f"{number}.zarr"
        write_cutouts_survey(one, out, **about)
        written = (out / "zarr.json").stat().st_mtime_ns
        assert len(write_cutouts_survey(one, out, **about)) == len(given)
        assert (out / "zarr.json").stat().st_mtime_ns == written
        with pytest.raises(FileExistsError, match="a finished survey of another run"):
            write_cutouts_survey(given[:2], out, **about)
        with pytest.raises(FileExistsError, match="a finished survey of another run"):
            write_cutouts_survey(one, out, **about | {"band": "z"})
        assert len(write_cutouts_survey(given[:2], out, **about, overwrite=True)) == 2
    with pytest.raises(FileExistsError, match="c.npz"):
        write_cutouts_survey(source, source, **about, overwrite=True)
