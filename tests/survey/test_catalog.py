"""Catalogues: nine kinds of file and more, each giving the same table bit for bit, or one error that tells the cure."""

import gzip
import os

import astropy.units as u
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from hiergal.model.condition_columns import conditions_from
from hiergal.observation import Observation
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.psf import PSF
from hiergal.survey import StoreHeader, write_store
from hiergal.survey.tables.catalog import identifiers_from, parse_columns, read_catalog

ROWS = 5
BIG = 36411448540268969
MAG = np.array([20.25, 21.1, 23.456789012345, 24.0, 25.5])
SIZE = np.array([0.31, 0.52, 0.1, 1.0 / 3.0, 0.7])
ZPHOT = np.array([0.5, np.nan, 1.25, np.nan, 0.1])
NAMES = ["identifier", "mag_auto", "flux_radius", "zphot"]


def make_table(text=False):
    """Identifiers that no float holds, magnitudes, sizes in arcsec, and redshifts of which two are masked."""
    numbers = BIG + np.arange(ROWS)
    table = Table({"identifier": [f"J{n}-é"[:-2] for n in numbers] if text else numbers})
    table["mag_auto"] = MAG
    table["mag_auto"].unit = "mag"
    table["flux_radius"] = SIZE
    table["flux_radius"].unit = "arcsec"
    table["zphot"] = MaskedColumn(np.where(np.isnan(ZPHOT), -99.0, ZPHOT), mask=np.isnan(ZPHOT))
    return table


def write_fits(table, path):
    table.write(path, format="fits")


def write_ldac(table, path):
    header = fits.BinTableHDU.from_columns(
        [fits.Column("Field Header Card", "160A", array=np.array(["SIMPLE  = T"]))], name="LDAC_IMHEAD"
    )
    upper = table.copy()
    for name in NAMES:
        upper.rename_column(name, name.upper())
    objects = fits.table_to_hdu(upper)
    objects.name = "LDAC_OBJECTS"
    fits.HDUList([fits.PrimaryHDU(), header, objects]).writeto(path)


def write_ecsv(table, path):
    table.write(path, format="ascii.ecsv")


def with_units_in_names(table):
    table = table.copy()
    for name in ("mag_auto", "flux_radius"):
        table.rename_column(name, f"{name} [{table[name].unit}]")
    return table


def write_csv(table, path):
    with_units_in_names(table).write(path, format="ascii.csv")


def write_csv_gz(table, path):
    write_csv(table, f"{path}.plain")
    path.write_bytes(gzip.compress(path.with_name(f"{path.name}.plain").read_bytes()))


def write_tsv(table, path):
    with_units_in_names(table).write(path, format="ascii.tab")


def write_text(table, path):
    filled = with_units_in_names(table)
    filled["zphot"] = filled["zphot"].filled(np.nan)
    for name in filled.colnames:
        filled.rename_column(name, name.replace(" ", ""))
    filled.write(path, format="ascii.commented_header")


def write_parquet(table, path):
    table.write(path, format="parquet")


def write_parquet_of_pandas(table, path):
    make_frame(table).to_parquet(path)


def make_frame(table):
    frame = pd.DataFrame(
        {name: np.asarray(table[name]) for name in ("identifier", "mag_auto", "flux_radius")}
    )
    frame["zphot"] = pd.array(np.asarray(table["zphot"].filled(np.nan)), dtype="Float64")
    frame.attrs["units"] = {"mag_auto": "mag", "flux_radius": "arcsec"}
    return frame


def write_hdf5(table, path):
    table.write(path, format="hdf5", path="galaxies", serialize_meta=True)


def write_hdf5_columns(table, path):
    with h5py.File(path, "w") as file:
        for name in table.colnames:
            values = table[name].filled(np.nan) if name == "zphot" else np.asarray(table[name])
            kind = h5py.string_dtype() if values.dtype.kind == "U" else values.dtype
            file.create_dataset(f"conditions/{name}", data=values.astype(kind))
            if table[name].unit is not None:
                file[f"conditions/{name}"].attrs["unit"] = str(table[name].unit)


def write_votable(table, path):
    table.write(path, format="votable")


KINDS = {
    "fits": ("c.fits", write_fits),
    "ldac": ("c.cat", write_ldac),
    "ecsv": ("c.ecsv", write_ecsv),
    "csv": ("c.csv", write_csv),
    "csv.gz": ("c.csv.gz", write_csv_gz),
    "tsv": ("c.tsv", write_tsv),
    "text": ("c.txt", write_text),
    "parquet": ("c.parquet", write_parquet),
    "parquet of pandas": ("d.parquet", write_parquet_of_pandas),
    "hdf5": ("c.hdf5", write_hdf5),
    "hdf5 columns": ("d.h5", write_hdf5_columns),
    "votable": ("c.xml", write_votable),
}


def assert_same(found, text=False):
    """Names, units, identifiers and numbers, bit for bit."""
    expected = make_table(text)
    assert found.colnames == NAMES
    assert [found[name].unit for name in NAMES] == [None, u.mag, u.arcsec, None]
    assert found["identifier"].tolist() == expected["identifier"].tolist()
    assert found["identifier"].dtype == (expected["identifier"].dtype if text else np.int64)
    for name, values in (("mag_auto", MAG), ("flux_radius", SIZE), ("zphot", ZPHOT)):
        assert found[name].dtype == np.float64 and not hasattr(found[name], "mask")
        np.testing.assert_array_equal(np.asarray(found[name]), values)


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_catalogue(tmp_path, kind, text):
    name, write = KINDS[kind]
    write(make_table(text), tmp_path / name)
    assert_same(read_catalog(tmp_path / name, NAMES), text)
    found = read_catalog(tmp_path / name, ["zphot"])
    assert found.colnames == ["zphot"]
    np.testing.assert_array_equal(np.asarray(found["zphot"]), ZPHOT)
    (tmp_path / name).rename(tmp_path / "no_suffix")  # the content says what it is
    if kind not in ("tsv",):
        assert_same(read_catalog(tmp_path / "no_suffix", NAMES), text)


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
def test_columns_in_memory_give_the_same_catalogue(text):
    table = make_table(text)
    frame = make_frame(table)
    assert_same(read_catalog(table, NAMES), text)
    assert_same(read_catalog(frame, NAMES), text)
    assert_same(read_catalog(frame.set_index("identifier"), NAMES), text)
    units = {b"unit": b"mag"}, {b"unit": b"arcsec"}
    fields = [
        pa.field("identifier", pa.string() if text else pa.int64()),
        pa.field("mag_auto", pa.float64(), metadata=units[0]),
        pa.field("flux_radius", pa.float64(), metadata=units[1]),
        pa.field("zphot", pa.float64()),
    ]
    columns = [table["identifier"].tolist(), MAG, SIZE, pa.array(ZPHOT, mask=np.isnan(ZPHOT))]
    arrow = pa.Table.from_arrays([pa.array(one) for one in columns], schema=pa.schema(fields))
    assert_same(read_catalog(arrow, NAMES), text)
    mapping = {"IDENTIFIER": table["identifier"], "mag_auto": MAG * u.mag, "flux_radius": SIZE * u.arcsec}
    assert_same(read_catalog(mapping | {"ZPHOT": np.ma.masked_invalid(ZPHOT)}, NAMES), text)


def test_a_survey_is_a_catalogue(tmp_path):
    header = StoreHeader(
        survey="a", band="b", pixel_scale_arcsec=0.2, magnitude_zero_point=27.0, catalog_units={"size": "pix"}
    )
    catalog = {
        "flux_radius": np.array([8.0, 9.0]),
        "size": np.array([1.0, 2.0]),
        "mag_auto": np.array([20.1, 21]),
    }
    psf = PSF(np.full((2, 3, 3), 1 / 9, np.float32), pixel_scale_arcsec=0.2)
    noise, image = WhiteNoise(np.ones(2, np.float32)), np.zeros((2, 5, 5), np.float32)
    galaxies = Observation(image, psf, noise, None, catalog, np.array([BIG, BIG + 1]), pixel_scale_arcsec=0.2)
    write_store(tmp_path / "s.zarr", header, [(galaxies, None)])
    found = read_catalog(tmp_path / "s.zarr")
    assert found["identifier"].tolist() == [BIG, BIG + 1]
    assert found["flux_radius"].unit == u.Unit("0.03 arcsec") and found["size"].unit == u.Unit("0.2 arcsec")
    assert found["mag_auto"].unit == u.mag and found["mag_auto"].tolist() == [20.1, 21]


def test_parquet_of_many_files_and_integers_with_nulls(tmp_path):
    (tmp_path / "parts").mkdir()
    for part in range(2):
        table = pa.table(
            {"identifier": pa.array([BIG + 2 * part, BIG + 2 * part + 1]), "z": pa.array([1, None])}
        )
        parquet.write_table(table, tmp_path / "parts" / f"{part}.parquet")
    found = read_catalog(tmp_path / "parts")
    assert found["identifier"].tolist() == [BIG + i for i in range(4)]
    np.testing.assert_array_equal(found["z"], [1, np.nan, 1, np.nan])
    frame = pd.DataFrame({"identifier": pd.array([BIG, None], dtype="Int64")})
    with pytest.raises(ValueError, match=r"identifier: .* got none .* in row 1 \(1 of 2"):
        read_catalog(frame)


def test_missing_integers_of_fits(tmp_path):
    column = fits.Column("NUMBER", "K", null=-1, array=np.array([BIG, -1, 7]))
    fits.BinTableHDU.from_columns([column]).writeto(tmp_path / "c.fits")
    np.testing.assert_array_equal(read_catalog(tmp_path / "c.fits")["NUMBER"], [float(BIG), np.nan, 7.0])
    with pytest.raises(ValueError, match="got none .* in row 1"):
        read_catalog(tmp_path / "c.fits", columns={"identifier": "NUMBER"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,identifier\n1,36411448540268969\n2,36411448540268970\n", [BIG, BIG + 1]),
        ("a,identifier\n1,007\n2,8\n", ["007", "8"]),
        ("a,identifier\n1,J1\n2,8\n", ["J1", "8"]),
        ("a,identifier\n1,-5\n2,7.0\n", [-5, 7]),
        ("a,identifier\n1,99999999999999999999\n2,8\n", "beyond 64 bits, in row 0"),
        ("a,identifier\n1,3\n2,1.5\n", "got 1.5.* in row 1"),
        ("a,identifier\n1,3\n2,\n", r"got none \(empty or masked\) in row 1"),
        ("a,identifier\n1,J3\n2,\n", r"got none \(empty or masked\) in row 1"),
        ("a,identifier\n1,1e300\n2,5\n", "in row 0"),
        ("a,identifier\n1,7\n2,7\n", "expected another one in each row, got 7 in rows 0, 1"),
        ("a,identifier\n1,J7\n2,J7\n", "expected another one in each row, got J7 in rows 0, 1"),
    ],
)
def test_identifiers_are_exact_or_refused_by_row(tmp_path, text, expected):
    (tmp_path / "c.csv").write_text(text)
    if isinstance(expected, list):
        assert read_catalog(tmp_path / "c.csv")["identifier"].tolist() == expected
        return
    with pytest.raises(ValueError, match=expected):
        read_catalog(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([1, 2], ">i4"), [1, 2]),
        (np.array([2**63 - 1], np.uint64), [2**63 - 1]),
        (np.array([2**63], np.uint64), "beyond 64 bits"),
        ([2**63], "beyond 64 bits"),
        (np.array([np.nan, 1.0]), "in row 0"),
        (np.array([True, False]), "expected 64-bit integers or text, got bool"),
        (np.array([b"a ", b"b"]), ["a", "b"]),
        (np.array([7, "x"], object), ["7", "x"]),
        (np.array([7, None], object), "in row 1"),
        (np.array([2.0**60]), "in row 0"),
        (np.arange(4).reshape(2, 2), "one for each row"),
    ],
)
def test_identifiers_of_arrays(values, expected):
    if isinstance(expected, list):
        assert identifiers_from(values).tolist() == expected
        return
    with pytest.raises(ValueError, match=expected):
        identifiers_from(values)


def test_names_and_units_by_hand(tmp_path):
    table = Table({"MAG_BEST": MAG, "MAG_AUTO": MAG + 1, "FLUX_RADIUS": SIZE})
    table["FLUX_RADIUS"].unit = "pixel"
    table.write(tmp_path / "c.fits")
    found = read_catalog(tmp_path / "c.fits", ["mag_auto", "flux_radius"])
    np.testing.assert_array_equal(found["mag_auto"], MAG + 1)
    with pytest.raises(ValueError, match=r"flux_radius: expected .* got pix: .*FLUX_RADIUS:0.2 arcsec"):
        conditions_from(("flux_radius",), found, units={"flux_radius": "0.03 arcsec pixels"})
    named = ["mag_auto=MAG_BEST", "flux_radius=FLUX_RADIUS:0.168 arcsec"]
    found = read_catalog(tmp_path / "c.fits", ["mag_auto", "flux_radius"], columns=named)
    conditions = conditions_from(
        ("mag_auto", "flux_radius"), found, units={"flux_radius": "0.03 arcsec pixels"}
    )
    np.testing.assert_allclose(conditions, np.stack([MAG, SIZE * 0.168 / 0.03], axis=1), rtol=1e-6)
    with pytest.raises(ValueError, match="expected the column MAG for mag_auto; there are: MAG_BEST, "):
        read_catalog(tmp_path / "c.fits", ["mag_auto"], columns={"mag_auto": "MAG"})
    for wrong, words in ((["mag_auto"], "NAME=COLUMN"), (["a=B:furlongs per s"], "expected a unit")):
        with pytest.raises(ValueError, match=words):
            parse_columns(wrong)
    with pytest.raises(ValueError, match="got deg in the table and arcsec next to it"):
        read_catalog({"a": SIZE * u.deg}, columns={"size": "a:arcsec"})
    with pytest.raises(ValueError, match="mag_auto.*got Mag_Auto, MAG_AUTO"):
        read_catalog({"Mag_Auto": MAG, "MAG_AUTO": MAG}, ["mag_auto"])


def test_several_tables_in_a_file(tmp_path):
    hdus = [fits.table_to_hdu(Table({name: MAG + i})) for i, name in enumerate(("a", "MAG_AUTO", "mag_auto"))]
    hdus[2].name = "THIRD"
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "c.fits")
    with pytest.raises(ValueError, match=r"got 2, 3 \(THIRD\).*--hdu"):
        read_catalog(tmp_path / "c.fits", ["mag_auto"])
    for hdu, shift in ((2, 1), ("3", 2), ("third", 2)):
        np.testing.assert_array_equal(
            read_catalog(tmp_path / "c.fits", ["mag_auto"], hdu=hdu)["mag_auto"], MAG + shift
        )
    assert read_catalog(tmp_path / "c.fits", ["a"]).colnames == ["a"]
    with pytest.raises(ValueError, match="HDU.*7.*got.*in 1, 2, 3"):
        read_catalog(tmp_path / "c.fits", ["a"], hdu=7)


def test_sextractor_text(tmp_path):
    text = "#   1 NUMBER      Running object number\n#   2 MAG_AUTO    Kron magnitude     [mag]\n"
    (tmp_path / "c.cat").write_text(text + "  1 22.5\n  2 23.5\n")
    found = read_catalog(tmp_path / "c.cat", ["identifier", "mag_auto"], columns={"identifier": "NUMBER"})
    assert found["mag_auto"].tolist() == [22.5, 23.5] and found["mag_auto"].unit == u.mag
    assert found["identifier"].tolist() == [1, 2]


def test_what_is_no_table_is_told_in_one_line(tmp_path):
    write_fits(make_table(), tmp_path / "whole.fits")
    whole = (tmp_path / "whole.fits").read_bytes()
    np.savez(tmp_path / "whole.npz", mag_auto=MAG)
    write_parquet(make_table(), tmp_path / "whole.parquet")
    write_hdf5(make_table(), tmp_path / "whole.hdf5")
    pd.DataFrame({"identifier": [1]}).to_pickle(tmp_path / "pickle")
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "image.fits")
    cut = {
        f"cut.{kind}": (tmp_path / f"whole.{kind}").read_bytes()[:-100] for kind in ("npz", "parquet", "hdf5")
    }
    contents = cut | {
        "cut.fits": whole[:-2880],
        "empty": b"",
        "cut.gz": gzip.compress(whole)[:-40],
        "noise": bytes(range(256)) * 20,
        "utf16.csv": "mag_auto\n22\n".encode("utf-16"),
        "tex.txt": b"\\documentclass{article}\n\\begin{document}\n",
        "ragged.csv": b"mag_auto,zphot\n22\n1,2,3\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    for name in [*contents, "pickle", "image.fits", "pipe", "none.fits"]:
        with pytest.raises((OSError, ValueError), match=f"{name}: expected .* got") as caught:
            read_catalog(tmp_path / name, ["mag_auto"])
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
