"""Configurations of GalSim: one call of the network for an image, and the same pixels whatever the processes."""

import copy
import runpy
import subprocess
import sys
import textwrap

import galsim
import galsim.config
import numpy as np
import pytest
import surveycodex
from astropy.io import fits
from astropy.table import Table
from places import ROOT
from toys import drawing_model

import hiergal.galsim.config as module
from hiergal import GenerativeGalaxyModel, save_model
from hiergal.simulate.survey_presets import survey_conditions, survey_psf


@pytest.fixture(scope="module")
def folder(drawing_folder):
    return drawing_folder


@pytest.fixture
def tiled(folder):
    """A configuration with random numbers in every place."""
    return {
        "input": {"generative_model": {"file_name": str(folder)}},
        "psf": {"type": "Moffat", "beta": 3.0, "fwhm": {"type": "Random", "min": 0.15, "max": 0.25}},
        "gal": {
            "type": "GenerativeModelGalaxy",
            "mag_auto": {"type": "Random", "min": 21, "max": 24},
            "flux_radius": {"type": "RandomGaussian", "mean": 8.0, "sigma": 0.5},
            "zphot": 0.7,
            "rotate": {"type": "Random"},
        },
        "image": {
            "type": "Tiled",
            "nx_tiles": 5,
            "ny_tiles": 4,
            "stamp_size": 24,
            "pixel_scale": 0.1,
            "random_seed": 1234,
            "noise": {"type": "Gaussian", "sigma": 0.001},
        },
    }


@pytest.fixture
def calls(monkeypatch):
    """How many galaxies the network computed, call by call."""
    found, compute = [], GenerativeGalaxyModel.profiles

    def counting(self, request, *about):
        found.append(len(request.base))
        return compute(self, request, *about)

    monkeypatch.setattr(GenerativeGalaxyModel, "profiles", counting)
    return found


def image_of(config):
    return galsim.config.BuildImage(copy.deepcopy(config)).array


def test_one_call_for_an_image(tiled, calls):
    image = image_of(tiled)
    assert calls == [20]
    assert image.shape == (96, 120) and image.max() > 50 * 0.001
    assert len({image[12 + 24 * j, 12 + 24 * i] for j in range(4) for i in range(5)}) == 20


@pytest.mark.parametrize(("block", "expected"), [(7, [7, 7, 6]), (1, [1] * 20)])
def test_blocks_change_nothing(tiled, calls, monkeypatch, block, expected):
    whole = image_of(tiled)
    calls.clear()
    monkeypatch.setattr(module, "GALAXIES_PER_CALL", block)
    np.testing.assert_array_equal(image_of(tiled), whole)
    assert calls == expected


def test_order_changes_nothing(tiled):
    whole = image_of(tiled)
    del tiled["image"]["noise"], whole
    whole = image_of(tiled)
    config = copy.deepcopy(tiled)
    galsim.config.SetupConfigImageNum(config, 0, 0)
    galsim.config.SetupInput(config)
    for number in (13, 2):
        stamp, _ = galsim.config.BuildStamp(config, obj_num=number, xsize=24, ysize=24)
        j, i = divmod(number, 5)
        np.testing.assert_array_equal(stamp.array, whole[24 * j : 24 * (j + 1), 24 * i : 24 * (i + 1)])


def test_the_same_galaxies_as_in_python(tiled, folder):
    """The object's generator, seeded as GalSim does: from the number that random_seed gives, one more for each."""
    tiled["psf"] = {"type": "Gaussian", "fwhm": 0.2}
    tiled["gal"] = {"type": "GenerativeModelGalaxy", "mag_auto": 22.0, "flux_radius": 8.0, "zphot": 0.7}
    del tiled["image"]["noise"]
    image = image_of(tiled)
    row = {"mag_auto": 22.0, "flux_radius": 8.0, "zphot": 0.7}
    (galaxy,) = GenerativeGalaxyModel(folder).sample(
        row, rng=galsim.BaseDeviate(galsim.BaseDeviate(1234).raw() + 1 + 3)
    )
    here = galsim.Convolve(galaxy, galsim.Gaussian(fwhm=0.2)).drawImage(nx=24, ny=24, scale=0.1).array
    np.testing.assert_allclose(image[:24, 72:96], here, atol=1e-6 * here.max())


@pytest.mark.slow
def test_processes_change_nothing(tiled, folder, tmp_path):
    """The galsim command, with stamps in one process, in four, and files in two."""
    images = {}
    for name, image, output in (("one", 1, 1), ("four", 4, 1), ("files", 1, 2)):
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            textwrap.dedent(
                f"""
                modules: [hiergal.galsim_config]
                input: {{generative_model: {{file_name: {folder}}}}}
                psf: {{type: Gaussian, fwhm: {{type: Random, min: 0.15, max: 0.25}}}}
                gal:
                    type: GenerativeModelGalaxy
                    mag_auto: {{type: Random, min: 21, max: 24}}
                    flux_radius: {{type: Random, min: 6, max: 10}}
                    zphot: 0.7
                image:
                    type: Scattered
                    size: 200
                    nobjects: 30
                    pixel_scale: 0.1
                    random_seed: 99
                    nproc: {image}
                    noise: {{type: Poisson, sky_level_pixel: 0.5}}
                output:
                    nfiles: 2
                    nproc: {output}
                    dir: {tmp_path}
                    file_name: {{type: NumberedFile, root: {name}, num: {{type: Sequence}}}}
                """
            )
        )
        command = [sys.executable, "-c", "from galsim.main import run_main; run_main()", str(path)]
        subprocess.run(command, check=True, timeout=300, capture_output=True)
        images[name] = [fits.getdata(file) for file in sorted(tmp_path.glob(f"{name}*.fits"))]
    assert len(images["one"]) == 2 and not np.array_equal(*images["one"])
    for other in ("four", "files"):
        np.testing.assert_array_equal(images[other], images["one"])


def test_objects_that_are_tried_again_or_skipped(tiled, calls):
    tiled["stamp"] = {
        "reject": {"type": "RandomBinomial", "p": 0.3},
        "skip": {"type": "List", "items": [0, 0, 1]},
    }
    image = image_of(tiled)
    # Skipped objects are not computed, and those that are tried again are, one by one.
    assert calls[0] == 14 and set(calls[1:]) == {1}
    assert not image[:24, 48:72].any() or abs(image[:24, 48:72]).max() < 0.01


def test_rings_and_sums(tiled, calls):
    tiled["stamp"] = {"type": "Ring", "num": 2}
    tiled["gal"] = {
        "type": "Sum",
        "items": [tiled["gal"], dict(tiled["gal"], mag_auto=24.0, flux_radius=6.0)],
        "ellip": {"type": "G1G2", "g1": 0.2, "g2": 0.0},
    }
    assert image_of(tiled).max() > 0
    assert calls == [20]  # ten pairs, two galaxies each


@pytest.mark.parametrize("latents", [8, 10])
def test_each_of_two_models_is_called_once(tiled, calls, tmp_path, latents):
    save_model(drawing_model(latents=latents), tmp_path / "other")
    inputs = [tiled["input"]["generative_model"], {"file_name": str(tmp_path / "other")}]
    galaxies = [dict(tiled["gal"], num=number) for number in (0, 1)]
    gal = {"type": "List", "items": galaxies, "index": {"type": "Sequence", "first": 0, "last": 1}}
    config = dict(tiled, input={"generative_model": inputs}, gal=gal)
    image_of(config)
    assert calls == [10, 10]


def test_many_galaxies_for_each_object(tiled, calls, monkeypatch):
    """More than are kept from one block to the next: none is forgotten before it is built."""
    monkeypatch.setattr(module, "KEPT", 10)
    image_of(dict(tiled, gal={"type": "Sum", "items": [tiled["gal"]] * 3}))
    assert calls == [60]


def test_a_catalogue_decides_how_many(tiled, calls, tmp_path):
    catalog = Table({"mag": [21.0, 22.0, 23.0], "x": [20.0, 50.0, 80.0]})
    catalog.write(tmp_path / "catalog.fits")
    tiled["input"]["catalog"] = {"file_name": "catalog.fits", "dir": str(tmp_path)}
    tiled["gal"]["mag_auto"] = {"type": "Catalog", "col": "mag"}
    position = {"type": "XY", "x": {"type": "Catalog", "col": "x"}, "y": 50}
    tiled["image"] = {"type": "Scattered", "size": 100, "pixel_scale": 0.1, "random_seed": 5}
    tiled["image"]["image_pos"] = position
    image_of(tiled)
    assert calls == [3]


def test_a_random_number_of_objects(tiled, calls):
    number = {"type": "RandomPoisson", "mean": 6}
    tiled["image"] = {
        "type": "Scattered",
        "size": 100,
        "pixel_scale": 0.1,
        "random_seed": 5,
        "nobjects": number,
    }
    whole = image_of(tiled)
    assert len(calls) == 1
    np.testing.assert_array_equal(image_of(tiled), whole)


def test_exact_fluxes_and_sizes(tiled):
    tiled["gal"] |= {"flux": 25.0, "half_light_radius": 0.2}
    config = copy.deepcopy(tiled)
    galsim.config.SetupConfigImageNum(config, 0, 0)
    galsim.config.SetupInput(config)
    galsim.config.SetupConfigObjNum(config, 0)
    galsim.config.SetupConfigRNG(config, seed_offset=1)
    del config["gal"]["rotate"]
    galaxy, safe = galsim.config.BuildGSObject(config, "gal")
    np.testing.assert_allclose([galaxy.flux, galaxy.calculateHLR()], [25.0, 0.2], rtol=1e-3)
    assert not safe


def test_conditions_from_the_population(tiled, calls):
    for name in ("mag_auto", "flux_radius"):
        del tiled["gal"][name]
    with pytest.raises(galsim.GalSimConfigError, match="missing: mag_auto, flux_radius; add them, or draw"):
        image_of(tiled)
    tiled["gal"]["missing"] = "population"
    assert image_of(tiled).max() > 0
    assert calls == [20]


def test_without_a_seed_galaxies_are_made_one_by_one(tiled, calls):
    del tiled["image"]["random_seed"]
    image_of(tiled)
    assert calls == [1] * 20


def test_galaxies_unlike_those_trained_on(tiled):
    tiled["gal"]["mag_auto"] = {"type": "List", "items": [22.0, 15.0]}
    with pytest.warns(UserWarning, match="10 of 20 galaxies"):
        image_of(tiled)
    tiled["input"]["generative_model"]["outside"] = "raise"
    with pytest.raises(ValueError, match="1 of 1 galaxies"):
        image_of(tiled)
    tiled["input"]["generative_model"]["outside"] = "ignore"
    image_of(tiled)


def test_narrow_psfs_warn(tiled):
    tiled["psf"] = {"type": "Gaussian", "fwhm": 0.05}
    with pytest.warns(UserWarning, match="got 0.05 arcsec"):
        image_of(tiled)


BAD = [
    (lambda c: c["gal"].update(magnitude=22.0), galsim.GalSimConfigError, "Unexpected attribute magnitude"),
    (lambda c: c["gal"].update(missing="maybe"), galsim.GalSimConfigValueError, "Invalid missing"),
    (lambda c: c["gal"].update(zphot="red"), galsim.GalSimConfigError, "Could not parse red"),
    (lambda c: c["input"]["generative_model"].update(outside="no"), galsim.GalSimConfigValueError, "outside"),
    (lambda c: c["input"]["generative_model"].update(file_name="/nowhere"), FileNotFoundError, "/nowhere"),
    (lambda c: c.pop("input"), galsim.GalSimConfigError, "No input generative_model available"),
]


@pytest.mark.parametrize(("spoil", "error", "message"), BAD)
def test_bad_configurations(tiled, spoil, error, message):
    spoil(tiled)
    with pytest.raises(error, match=message):
        image_of(tiled)


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_forks_of_a_process_that_uses_jax_are_refused(tiled):
    GenerativeGalaxyModel(tiled["input"]["generative_model"]["file_name"])  # JAX is in use here
    tiled["image"]["nproc"] = 2
    with pytest.raises(galsim.GalSimConfigError, match="has not used JAX yet"):
        image_of(tiled)


def test_old_galaxies_are_forgotten(folder, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 3)
    model = module.GenerativeModel(str(folder))
    conditions = (("mag_auto", 22.0), ("flux_radius", 8.0), ("zphot", 0.7))
    orders = [module.Order(tuple(np.full(10, 0.1 * i)), conditions) for i in range(5)]
    first = model.draw(orders[0], orders[1:3])
    model.draw(orders[3], orders[4:])
    assert model.find(orders[1]) is None and model.find(orders[2]) is not None
    np.testing.assert_array_equal(model.draw(orders[0]), first)
    assert model.network_calls() == 3


@pytest.mark.parametrize("survey", surveycodex.available_surveys)
def test_surveys(survey):
    about = surveycodex.get_survey(survey)
    band = about.available_filters[-1]
    found = survey_conditions(survey, band)
    assert found.pixel_scale == about.pixel_scale.value
    one_electron = found.zero_point - 2.5 * np.log10(about.get_filter(band).full_exposure_time.value)
    np.testing.assert_allclose(one_electron, about.get_filter(band).zeropoint.value)
    psf = survey_psf(survey, band)
    np.testing.assert_allclose(psf.flux, 1.0)
    # Roman's diffraction alone is 2 % wider than its nominal width in one of the bands.
    np.testing.assert_allclose(psf.calculateFWHM(), found.psf_fwhm, rtol=0.025)


def test_surveys_in_configurations():
    config = {
        "psf": {"type": "SurveyPSF", "survey": "LSST", "band": "i"},
        "value": {"type": "Survey", "survey": "LSST", "band": "i", "item": "sky_level"},
    }
    psf, safe = galsim.config.BuildGSObject(config, "psf")
    assert safe and psf == survey_psf("LSST", "i")
    sky, safe = galsim.config.ParseValue(config, "value", config, float)
    assert safe and sky == survey_conditions("LSST", "i").sky_level
    config["value"] = {"type": "Survey", "survey": "LSST", "band": "i", "item": "taste"}
    with pytest.raises(galsim.GalSimConfigValueError, match="Invalid item"):
        galsim.config.ParseValue(config, "value", config, float)
    with pytest.raises(ValueError, match="survey: expected one of CFHTLS"):
        survey_psf("Hubble", "i")
    with pytest.raises(ValueError, match="band: expected one of u, g, r, i, z, y of LSST, got 'K'"):
        survey_psf("LSST", "K")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiled", "scene"])
def test_the_configurations_of_inference_run(folder, tmp_path, name):
    """With the galsim command, in one process and in four, bit for bit the same."""
    inference = ROOT / "inference"
    main = runpy.run_path(str(inference / "scene_catalog.py"))["main"]
    main([str(tmp_path / "runs/scene_catalog.fits"), "--model", str(folder), "--field", "60", "--seed", "3"])
    images = []
    for processes in (1, 4):
        changes = {
            "input.generative_model.file_name": folder,
            "image.nproc": processes,
            "output.file_name": f"{processes}.fits",
            "eval_variables.ffield": 60.0,
        }
        words = [f"{key}={value}" for key, value in changes.items()]
        command = [sys.executable, "-c", "from galsim.main import run_main; run_main()"]
        command += [str(inference / f"{name}.yaml"), *words]
        subprocess.run(command, check=True, timeout=300, capture_output=True, cwd=tmp_path)
        images.append(fits.getdata(tmp_path / "runs" / f"{processes}.fits"))
    np.testing.assert_array_equal(*images)
    assert images[0].max() > 20 * np.median(np.abs(images[0] - np.median(images[0])))


def catalogued(tiled, tmp_path, magnitudes):
    """The same configuration with a catalogue of magnitudes."""
    Table({"mag": magnitudes}).write(tmp_path / "catalog.fits", overwrite=True)
    tiled["input"]["catalog"] = {"file_name": "catalog.fits", "dir": str(tmp_path)}
    tiled["gal"]["mag_auto"] = {"type": "Catalog", "col": "mag"}
    return tiled


class Lenient(galsim.config.StampBuilder):
    """A stamp whose failures are skipped, which GalSim's own types refuse to be told."""

    def setup(self, config, base, xsize, ysize, ignore, logger):
        return super().setup(config, base, xsize, ysize, [*ignore, "skip_failures"], logger)


galsim.config.RegisterStampType("Lenient", Lenient())


@pytest.mark.parametrize("kind", ["Tiled", "Scattered"])
def test_one_row_without_a_number_fails_alone(tiled, tmp_path, calls, kind):
    magnitudes = np.linspace(21.5, 23.5, 20)
    tiled["stamp"] = {"type": "Lenient", "skip_failures": True}
    if kind == "Scattered":
        tiled["image"] = {"type": kind, "size": 100, "pixel_scale": 0.1, "random_seed": 5, "nobjects": 20}
    else:
        del tiled["image"]["noise"]
    whole = image_of(catalogued(tiled, tmp_path, magnitudes))
    assert calls == [20]
    for bad in (np.nan, np.inf, 1e39):
        calls.clear()
        magnitudes[6] = bad
        some = image_of(catalogued(tiled, tmp_path, magnitudes))
        assert calls == [19]
        if kind == "Tiled":
            changed = np.abs(some - whole).reshape(4, 24, 5, 24).max(axis=(1, 3))
            assert np.flatnonzero(changed.ravel()).tolist() == [6] and not some[24:48, 24:48].any()
    del tiled["stamp"]
    with pytest.raises(galsim.GalSimConfigError, match="got mag_auto inf; drop this"):
        image_of(catalogued(tiled, tmp_path, np.where(np.arange(20) == 6, np.inf, 22.0)))


def test_placeholders_are_skipped_and_all_else_is_as_it_was(tiled, tmp_path):
    del tiled["image"]["noise"]
    magnitudes = np.linspace(21.5, 23.5, 20)
    whole = image_of(catalogued(tiled, tmp_path, magnitudes))
    magnitudes[[3, 11]] = 99.0, -99.0
    with pytest.warns(UserWarning, match="2 of 20 galaxies .10 %. .* 2 of them are not drawn"):
        some = image_of(catalogued(tiled, tmp_path, magnitudes))
    changed = np.abs(some - whole).reshape(4, 24, 5, 24).max(axis=(1, 3))
    assert np.flatnonzero(changed.ravel()).tolist() == [3, 11]
    assert not some[:24, 72:96].any()


def test_warnings_come_once(tiled, tmp_path, recwarn, monkeypatch):
    """Of ten blocks, and of GalSim's own that a rehearsal would repeat; again when twice as many are outside."""
    monkeypatch.setattr(module, "GALAXIES_PER_CALL", 2)
    magnitudes = np.full(20, 22.0)
    magnitudes[::2] = 15.0
    tiled["psf"] = {"type": "Gaussian", "fwhm": 0.05}
    image_of(catalogued(tiled, tmp_path, magnitudes))
    said = [str(warning.message) for warning in recwarn]
    assert sum("psf: expected" in text for text in said) == 1
    told = [text for text in said if "beyond the range" in text]
    assert [text.split(";")[0] for text in told if "so far" in text] == [
        f"{count} of {2 * count} so far" for count in (2, 4, 8)
    ]
    assert len(told) == 4


PSFS = [
    {"type": "DeltaFunction"},
    {"type": "OpticalPSF", "lam": 800, "diam": 2.4, "defocus": 0.5},
    {"type": "Airy", "lam": 800, "diam": 1.2, "obscuration": 0.3},
]


@pytest.mark.parametrize("psf", PSFS)
def test_psfs_without_a_width_to_compare_pass(tiled, psf):
    tiled["psf"] = psf
    assert image_of(tiled).max() > 0


def test_noise_pads(tiled, folder, tmp_path):
    tiled["psf"] = {"type": "Gaussian", "fwhm": 0.2}
    tiled["gal"] = {"type": "GenerativeModelGalaxy", "mag_auto": 22.0, "flux_radius": 8.0, "zphot": 0.7}
    del tiled["image"]["noise"]
    clean = image_of(tiled)
    tiled["gal"] |= {"noise_pad": 1e-4, "noise_pad_size": 2.4}
    image = image_of(tiled)
    row = {"mag_auto": 22.0, "flux_radius": 8.0, "zphot": 0.7}
    (galaxy,) = GenerativeGalaxyModel(folder).sample(
        row, rng=galsim.BaseDeviate(galsim.BaseDeviate(1234).raw() + 1 + 3), noise=1e-4, noise_pad_size=2.4
    )
    here = galsim.Convolve(galaxy, galsim.Gaussian(fwhm=0.2)).drawImage(nx=24, ny=24, scale=0.1).array
    np.testing.assert_allclose(image[:24, 72:96], here, atol=1e-6 * here.max())
    assert (image - clean)[:4].std() > 1e-3
    noise = galsim.Image(np.random.default_rng(0).normal(0, 0.01, (64, 64)), scale=0.03)
    noise.write(str(tmp_path / "noise.fits"))
    tiled["gal"]["noise_pad"] = str(tmp_path / "noise.fits")
    assert (image_of(tiled) - clean)[:4].std() > 1e-3
    tiled["gal"]["noise_pad"] = str(tmp_path / "nothing.fits")
    with pytest.raises(galsim.GalSimConfigError, match="noise_pad: expected a variance, or a file"):
        image_of(tiled)


def test_a_configuration_that_is_built_again_keeps_its_one_call(tiled, calls):
    """With other random numbers, so that nothing is remembered."""
    config = copy.deepcopy(tiled)
    first = galsim.config.BuildImage(config, image_num=0, obj_num=0).array
    second = galsim.config.BuildImage(config, image_num=0, obj_num=100).array
    assert calls == [20, 20] and not np.array_equal(first, second)
    np.testing.assert_array_equal(galsim.config.BuildImage(config, image_num=0, obj_num=0).array, first)


@pytest.mark.parametrize(("name", "processes"), [("hiergal", 2), ("hiergal.galsim_config", 1)])
def test_both_modules_register_the_types(folder, tmp_path, name, processes):
    path = tmp_path / "c.yaml"
    path.write_text(
        textwrap.dedent(
            f"""
            modules: [{name}]
            input: {{generative_model: {{file_name: {folder}}}}}
            psf: {{type: SurveyPSF, survey: Euclid_VIS, band: IE}}
            gal: {{type: GenerativeModelGalaxy, mag_auto: 22, flux_radius: 9, zphot: 0.7}}
            image:
                type: Tiled
                nx_tiles: 2
                ny_tiles: 2
                stamp_size: 24
                pixel_scale: {{type: Survey, survey: Euclid_VIS, band: IE, item: pixel_scale}}
                random_seed: 5
                nproc: {processes}
            output: {{dir: {tmp_path}, file_name: c.fits}}
            """
        )
    )
    command = [sys.executable, "-c", "from galsim.main import run_main; run_main()", str(path)]
    done = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True)
    assert fits.getdata(tmp_path / "c.fits").max() > 0
    assert "Warning" not in done.stderr
