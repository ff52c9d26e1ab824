"""Cutouts as surveys write them: names, bits, PSFs of their own scale, places on the sky; damage and faults by file."""

import astropy.units as u
import galsim
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import Table
from astropy.wcs import WCS

from hiergal.survey.cutouts.psf_stamps import center_offset, resample_psf
from hiergal.survey.cutouts.survey import from_arrays, write_cutouts_survey
from hiergal.survey.sky import position_angle

pytestmark = pytest.mark.usefixtures("noise_as_given")
N, SHAPE, SCALE = 6, (24, 21), 0.168
HEADER = {"survey": "hsc", "band": "i", "magnitude_zero_point": 27.0}
PSF = galsim.Moffat(beta=3, fwhm=0.6).shear(g1=0.1, g2=0.05)


def world(angle=0.0, parity=1.0, scale=SCALE):
    """A WCS whose y axis has a position angle, centred on the stamp."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.1, 2.2]
    wcs.wcs.crpix = [(SHAPE[1] + 1) / 2, (SHAPE[0] + 1) / 2]
    turn = np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = scale / 3600 * turn @ np.diag([parity, 1.0])
    return wcs


def psf_stamp(scale=SCALE, size=15):
    return PSF.drawImage(nx=size, ny=size, scale=scale).array


@pytest.fixture
def stamps(rng):
    return 0.1 * rng.normal(size=(N, *SHAPE))


def write(folder, stamps, layout, *, psf=None, header=None, change=None):
    """Files of a layout: names with arrays, or what makes an array of a stamp."""
    folder.mkdir(exist_ok=True)
    for i, stamp in enumerate(stamps):
        hdus = fits.HDUList([fits.PrimaryHDU()])
        about = world().to_header() if header is None else header
        for role, (name, values) in layout.items():
            data = stamp if values is None else values
            hdus.append(fits.ImageHDU(np.asarray(data), header=about if role == "image" else None, name=name))
        if psf is not None:
            hdus.append(fits.ImageHDU(psf, name="PSF"))
        if change is not None:
            change(i, hdus)
        hdus.writeto(folder / f"{i + 1}.fits", checksum=True)
    return folder


ONES, ZEROS = np.ones(SHAPE), np.zeros(SHAPE, np.int32)
LAYOUTS = {
    "hiergal": ({"image": ("IMAGE", None), "rms": ("RMS", 0.1 * ONES), "mask": ("MASK", ZEROS)}, {}),
    "rubin": ({"image": ("IMAGE", None), "mask": ("MASK", ZEROS), "var": ("VARIANCE", 0.01 * ONES)}, {}),
    "hst": ({"image": ("SCI", None), "rms": ("ERR", 0.1 * ONES), "mask": ("DQ", ZEROS)}, {}),
    "drizzled": ({"image": ("SCI", None), "weight": ("WHT", 100 * ONES)}, {}),
    "jwst": (
        {
            "image": ("SCI", None),
            "rms": ("ERR", 0.1 * ONES),
            "weight": ("WHT", ONES),
            "other": ("VAR_POISSON", ONES),
        },
        {},
    ),
    "des": ({"image": ("SCI", None), "mask": ("MSK", ZEROS), "weight": ("WGT", 100 * ONES)}, {}),
    "by name": ({"image": ("A", None), "rms": ("B", 0.1 * ONES)}, {"extensions": "image=A,rms=B"}),
    "rms": ({"image": ("SCI", None)}, {"rms": 0.1}),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_layouts_of_surveys(tmp_path, stamps, kind):
    layout, options = LAYOUTS[kind]
    folder = write(tmp_path / "c", stamps, layout, psf=psf_stamp())
    store = write_cutouts_survey(folder, tmp_path / "s.zarr", **HEADER, **options)
    observation = store.read()
    np.testing.assert_array_equal(observation.image, stamps.astype(np.float32))
    np.testing.assert_allclose(observation.noise.sigma, 0.1, rtol=1e-5)
    assert not observation.mask.any()


def test_ccddata(tmp_path, stamps):
    (tmp_path / "c").mkdir()
    for i, stamp in enumerate(stamps):
        data = CCDData(
            stamp,
            unit="adu",
            uncertainty=StdDevUncertainty(0.1 * ONES),
            mask=ONES < 0,
            wcs=world(),
            psf=psf_stamp(),
        )
        data.write(tmp_path / "c" / f"{i}.fits")
    store = write_cutouts_survey(tmp_path / "c", tmp_path / "s.zarr", **HEADER)
    np.testing.assert_array_equal(store.read().image, stamps.astype(np.float32))
    np.testing.assert_allclose(store.read().noise.sigma, 0.1, rtol=1e-5)


def test_bits_of_masks(tmp_path, stamps):
    bits = np.zeros(SHAPE, np.int32)
    bits[8:16, 6:14] = 32  # detected: the galaxy
    bits[0, 0], bits[1, 1] = 2, 1 + 32
    layout = {"image": ("IMAGE", None), "rms": ("RMS", 0.1 * ONES), "mask": ("MASK", bits)}
    folder = write(tmp_path / "a", stamps, layout, psf=psf_stamp())
    with pytest.raises(ValueError, match=r"1.fits: MASK: expected 0 and 1, got .*\(1, 2, 32\).*--bad-bits"):
        write_cutouts_survey(folder, tmp_path / "a.zarr", **HEADER)
    counts = {"3": 2, "1": 1, "all": 66}
    for chosen, count in counts.items():
        store = write_cutouts_survey(folder, tmp_path / f"{chosen}.zarr", bad_bits=chosen, **HEADER)
        assert store.read([0]).mask.sum() == count

    def name_planes(i, hdus):
        hdus["MASK"].header.update({"MP_BAD": 0, "MP_SAT": 1, "HIERARCH MP_DETECTED": 5})

    folder = write(tmp_path / "b", stamps, layout, psf=psf_stamp(), change=name_planes)
    store = write_cutouts_survey(folder, tmp_path / "b.zarr", **HEADER)
    assert np.argwhere(store.read([0]).mask[0]).tolist() == [[0, 0], [1, 1]]
    store = write_cutouts_survey(folder, tmp_path / "d.zarr", bad_bits="SAT", **HEADER)
    assert np.argwhere(store.read([0]).mask[0]).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="expected planes named CR, got BAD, SAT, DETECTED"):
        write_cutouts_survey(folder, tmp_path / "e.zarr", bad_bits="CR", **HEADER)


def test_damage_names_the_file(tmp_path, stamps):
    layout = {
        "image": ("IMAGE", None),
        "rms": ("RMS", 0.1 * ONES),
        "psf": ("PSF", psf_stamp()),
        "mask": ("MASK", ZEROS),
    }
    folder = write(tmp_path / "c", stamps, layout)
    file = folder / "3.fits"
    whole = file.read_bytes()
    with fits.open(file) as hdus:
        header = hdus["MASK"]._header_offset
        data = hdus["IMAGE"]._data_offset
    flipped = bytearray(whole)
    flipped[data + 100] ^= 1
    damaged = {
        "in the header of MASK": whole[: header + 1000],
        "before MASK": whole[:header],
        "in the data of MASK": whole[:-2880],
        "a bit of IMAGE": bytes(flipped),
        "empty": b"",
        "text": b"not a FITS file\n" * 99,
    }
    for what, content in damaged.items():
        file.write_bytes(content)
        with pytest.raises((OSError, ValueError), match="3.fits") as caught:
            write_cutouts_survey(folder, tmp_path / "s.zarr", **HEADER)
        assert not (tmp_path / "s.zarr").exists(), what
        assert len(str(caught.value)) < 600 and "\n" not in str(caught.value), what
    file.write_bytes(whole)
    write_cutouts_survey(folder, tmp_path / "s.zarr", **HEADER)


@pytest.mark.parametrize(
    ("role", "data", "words"),
    [
        ("RMS", -ONES, "3.fits: rms: expected positive values"),
        ("RMS", ONES[1:], "RMS and IMAGE of one shape in .*3.fits"),
        ("PSF", np.zeros((15, 15)), "3.fits.*expected a PSF of finite pixels with a positive sum"),
        ("PSF", np.ones((14, 15)), "odd number of pixels in .*3.fits"),
        ("IMAGE", np.ones((2, *SHAPE)), "3.fits: expected a 2-d image for image"),
    ],
)
def test_one_faulty_file_is_named(tmp_path, stamps, role, data, words):
    layout = {"image": ("IMAGE", None), "rms": ("RMS", 0.1 * ONES), "psf": ("PSF", psf_stamp())}

    def spoil(i, hdus):
        if i == 2:
            hdus[role].data = data

    folder = write(tmp_path / "c", stamps, layout, change=spoil)
    with pytest.raises(ValueError, match=words):
        write_cutouts_survey(folder, tmp_path / "s.zarr", **HEADER)


def test_all_that_a_file_lacks_is_told_at_once(tmp_path, stamps):
    folder = write(tmp_path / "c", stamps, {"image": ("SCI", None)})
    with pytest.raises(
        ValueError, match="1.fits: expected one extension of VARIANCE.*; and an extension PSF.*--psf"
    ):
        write_cutouts_survey(folder, tmp_path / "s.zarr", **HEADER)
    layout = {"image": ("SCI", None), "two": ("SCI", None), "rms": ("ERR", 0.1 * ONES)}

    def number(i, hdus):
        hdus[2].ver = 2

    folder = write(tmp_path / "d", stamps, layout, psf=psf_stamp(), change=number)
    with pytest.raises(ValueError, match="got SCI:1, SCI:2; say which with --extensions image=NAME:EXTVER"):
        write_cutouts_survey(folder, tmp_path / "s.zarr", **HEADER)
    options = {"extensions": "image=SCI:2", "pixel_scale_arcsec": SCALE}
    write_cutouts_survey(folder, tmp_path / "s.zarr", **options, **HEADER)


@pytest.mark.parametrize("card", ["PIXELSCL", "OVERSAMP", "WCS"])
@pytest.mark.parametrize("factor", [2, 3])
def test_psfs_of_their_own_scale(tmp_path, stamps, card, factor):
    """What GalSim draws on fine pixels becomes what it draws on the image's."""
    layout = {"image": ("IMAGE", None), "rms": ("RMS", 0.1 * ONES)}

    def tell(i, hdus):
        header = {"PIXELSCL": SCALE / factor, "OVERSAMP": factor}
        hdus["PSF"].header.update(
            {card: header[card]} if card != "WCS" else world(scale=SCALE / factor).to_header()
        )

    fine = psf_stamp(SCALE / factor, 15 * factor + 1 - factor % 2)
    folder = write(tmp_path / "c", stamps, layout, psf=fine, change=tell)
    stamp = write_cutouts_survey(folder, tmp_path / "s.zarr", **HEADER).read([0]).psf.stamp[0]
    expected = psf_stamp(size=stamp.shape[0])
    np.testing.assert_allclose(stamp, expected / expected.sum(), atol=2e-3 * expected.max())


def test_resampling_keeps_flux_and_places():
    fine = galsim.Gaussian(fwhm=0.5).shift(0.05, -0.08).drawImage(nx=48, ny=63, scale=0.06).array
    coarse = resample_psf(fine, 0.06, 0.2)
    assert coarse.shape == (17, 13)
    expected = galsim.Gaussian(fwhm=0.5).shift(0.05, -0.08).drawImage(nx=13, ny=17, scale=0.2).array
    np.testing.assert_allclose(coarse, expected, atol=1e-3 * expected.max())
    wider = resample_psf(coarse, 0.2, 0.06)  # and back, on stamps of an odd size
    again = galsim.Gaussian(fwhm=0.5).shift(0.05, -0.08).drawImage(nx=43, ny=55, scale=0.06).array
    np.testing.assert_allclose(wider[5:-5, 5:-5], again[5:-5, 5:-5], atol=0.03 * again.max())
    np.testing.assert_allclose(center_offset(np.roll(expected, 1, axis=0))[0], -0.4 + 1, atol=0.1)


def test_a_psf_in_another_file(tmp_path, stamps):
    folder = write(tmp_path / "c", stamps, {"image": ("SCI", None), "rms": ("ERR", 0.1 * ONES)})
    fits.PrimaryHDU(psf_stamp(0.084, 31), header=fits.Header({"PIXELSCL": 0.084})).writeto(
        tmp_path / "psf.fits"
    )
    one = write_cutouts_survey(folder, tmp_path / "s.zarr", psf=tmp_path / "psf.fits", **HEADER).read()
    (tmp_path / "psfs").mkdir()
    for i in range(N):
        fits.PrimaryHDU(psf_stamp()).writeto(tmp_path / "psfs" / f"{i + 1}.fits")
    each = write_cutouts_survey(folder, tmp_path / "t.zarr", psf=tmp_path / "psfs", **HEADER).read()
    np.testing.assert_allclose(one.psf.stamp, each.psf.stamp, atol=1e-3)
    off = np.roll(psf_stamp(), 2, axis=1)
    fits.PrimaryHDU(off).writeto(tmp_path / "off.fits")
    with pytest.warns(
        UserWarning, match=r"PSF: expected its centre on the middle .*got 2 pixels off .*6 of 6"
    ):
        write_cutouts_survey(folder, tmp_path / "u.zarr", psf=tmp_path / "off.fits", **HEADER)


@pytest.mark.parametrize(("angle", "parity"), [(0.0, 1.0), (0.7, 1.0), (-2.5, 1.0), (0.7, -1.0)])
def test_places_on_the_sky(tmp_path, stamps, angle, parity):
    header = world(angle, parity).to_header()
    layout = {"image": ("SCI", None), "rms": ("ERR", 0.1 * ONES)}
    folder = write(tmp_path / "c", stamps, layout, psf=psf_stamp(), header=header)
    catalog = write_cutouts_survey(folder, tmp_path / "s.zarr", **HEADER).catalog
    np.testing.assert_allclose([catalog["ra_deg"][0], catalog["dec_deg"][0]], [150.1, 2.2], rtol=1e-9)
    np.testing.assert_allclose([catalog["north_rad"][0], catalog["parity"][0]], [angle, parity], atol=1e-6)
    # A galaxy along a line on the stamp lies along that line on the sky, as Astropy has it.
    along = 0.4
    middle = (np.array(SHAPE[::-1]) - 1) / 2
    ends = middle + np.outer([-5, 5], [np.cos(along), np.sin(along)])
    sky = world(angle, parity).pixel_to_world(*ends.T)
    expected = sky[0].position_angle(sky[1]).to_value(u.rad) % np.pi
    g1, g2 = (0.3 * np.array([f(2 * along)]) for f in (np.cos, np.sin))
    found = position_angle(g1, g2, catalog["north_rad"][:1], catalog["parity"][:1])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_catalogue_with_names_and_pixels(tmp_path, stamps):
    folder = write(
        tmp_path / "c", stamps, {"image": ("SCI", None), "rms": ("ERR", 0.1 * ONES)}, psf=psf_stamp()
    )
    table = Table(
        {"FILE": [f"{i + 1}.fits" for i in range(N)], "identifier": 36411448540268969 + np.arange(N)}
    )
    table["flux_radius"] = np.arange(N) + 2.5
    table["flux_radius"].unit = "pixel"
    table.write(folder / "catalog.fits")
    store = write_cutouts_survey(folder, tmp_path / "s.zarr", **HEADER)
    assert store.identifier.tolist() == [36411448540268969 + i for i in range(N)]
    assert store.header.unit_of("flux_radius") == "0.168 arcsec pixels"
    table["FILE"][1] = "1.fits"
    table.write(folder / "catalog.fits", overwrite=True)
    with pytest.raises(ValueError, match="expected each file once in .*got 1.fits again"):
        write_cutouts_survey(folder, tmp_path / "t.zarr", **HEADER)


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        ({"rms": 0.08 * ONES}, r"RMS|NOISE: expected the noise of blank pixels, got 0\.\d+ times"),
        ({"weight": 3000 * ONES}, "exposure time"),
        ({"mask": np.pad(ZEROS[8:-8, 8:-8], 8, constant_values=1)}, "MASK: expected a few .*is it inverted"),
        ({"rms": np.where(np.eye(*SHAPE) > 0, 1e15, 0.1)}, r"have over 10000 times the noise"),
    ],
)
def test_implausible_maps_are_named(rng, tmp_path, noise, words):
    image = 0.1 * rng.normal(size=(40, *SHAPE))
    given = {"rms": 0.1 * ONES, "mask": ZEROS} | noise
    if "weight" in given:
        given.pop("rms")
    given = {name: np.broadcast_to(value, image.shape) for name, value in given.items()}
    psf = psf_stamp() / psf_stamp().sum()
    np.savez(tmp_path / "all.npz", image=image, psf=psf, **given)
    with pytest.warns(UserWarning, match=words):
        store = write_cutouts_survey(
            tmp_path / "all.npz", tmp_path / "s.zarr", pixel_scale_arcsec=SCALE, **HEADER
        )
    if "rms" in noise and np.ptp(noise["rms"]) > 1:
        assert store.read([0]).mask.sum() == 21
    good = from_arrays(image, psf=psf, rms=np.full(image.shape, 0.1), pixel_scale_arcsec=SCALE)
    write_cutouts_survey(good, tmp_path / "good.zarr", **HEADER)  # without a warning


def test_the_unit_of_the_files(tmp_path, stamps):
    layout = {"image": ("SCI", None), "rms": ("ERR", 0.1 * ONES)}
    header = world().to_header()
    header["BUNIT"] = "nJy"
    folder = write(tmp_path / "c", stamps, layout, psf=psf_stamp(), header=header)
    about = {"survey": "a", "band": "b"}
    store = write_cutouts_survey(folder, tmp_path / "s.zarr", **about)
    assert (store.header.flux_unit, store.header.magnitude_zero_point) == ("nJy", 31.4)
    with pytest.raises(ValueError, match="expected 31.4 mag .* for fluxes in nJy, got 27"):
        write_cutouts_survey(folder, tmp_path / "t.zarr", magnitude_zero_point=27.0, **about)
    with pytest.raises(
        ValueError, match="fits: expected BUNIT to be the flux unit that is given, uJy, got nJy"
    ):
        write_cutouts_survey(folder, tmp_path / "t.zarr", flux_unit="uJy", **about)
    with fits.open(folder / "2.fits", mode="update") as hdus:
        hdus["SCI"].header["BUNIT"] = "uJy"
    with pytest.raises(ValueError, match=r"BUNIT:.*got nJy \(.*uJy \(2.fits\)"):
        write_cutouts_survey(folder, tmp_path / "t.zarr", **about)
