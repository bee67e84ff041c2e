"""Labels in plain files: every format says the same, CRS and layers are never guessed, areas and dates are pushed."""

import csv
import gzip
import json
import zipfile
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from store import ducklake
from store.area_of_interest import read_area
from store.ducklake_labels import LabelTable, label_query, label_source, read_labels
from store.label_files import file_checksums, label_files
from store.label_mapping import label_place, suggestions
from utils.errors import CatalogEmptyError, ConfigError, LabelFileError, LabelTableError
from utils.geo import reproject
from utils.label_check import checked_batch

PLACES = {"a": (8.5, 47.5), "b": (8.9, 47.9), "far": (20.0, 40.0)}
SHAPES = {name: shapely.box(x, y, x + 0.001, y + 0.001) for name, (x, y) in PLACES.items()}
AOI = (8.0, 47.0, 9.0, 48.0)


@pytest.fixture(scope="module")
def spatial():
    with ducklake.connect(None) as connection:
        yield connection


def collection(shapes, epsg=None):
    features = [
        {"type": "Feature", "properties": {"uid": name}, "geometry": json.loads(shapely.to_geojson(shape))}
        for name, shape in shapes.items()
    ]
    crs = {"crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}}} if epsg else {}
    return {"type": "FeatureCollection", **crs, "features": features}


def written(folder, kind):
    """The labels as a file of one kind; returns its mapping."""
    path = folder / f"pv.{kind}"
    with ducklake.connect(None) as connection:
        (folder / "source.geojson").write_text(json.dumps(collection(SHAPES)))
        source = f"ST_Read('{folder / 'source.geojson'}')"
        drivers = {"gpkg": "GPKG", "shp": "ESRI Shapefile", "fgb": "FlatGeobuf", "geojsonl": "GeoJSONSeq"}
        if kind in drivers:
            connection.execute(
                f"COPY (SELECT uid, geom FROM {source}) TO '{path}' "
                f"(FORMAT gdal, DRIVER '{drivers[kind]}', SRS 'EPSG:4326')"
            )
        elif kind == "zip":
            connection.execute(
                f"COPY (SELECT uid, geom FROM {source}) TO '{folder / 'z.shp'}' "
                "(FORMAT gdal, DRIVER 'ESRI Shapefile', SRS 'EPSG:4326')"
            )
            with zipfile.ZipFile(path, "w") as archive:
                for part in folder.glob("z.*"):
                    archive.write(part, part.name)
        elif kind == "parquet":
            connection.execute(f"COPY (SELECT uid, geom FROM {source}) TO '{path}' (FORMAT parquet)")
        elif kind in ("geojson", "json"):
            path.write_text(json.dumps(collection(SHAPES)))
        elif kind == "plain.parquet":
            wkb = [shapely.to_wkb(shape) for shape in SHAPES.values()]
            pq.write_table(pa.table({"uid": list(SHAPES), "geom": wkb}), path)
        else:
            opener = gzip.open if kind.endswith("gz") else open
            with opener(path, "wt", newline="") as file:
                rows = csv.writer(file, delimiter="\t" if kind.startswith("tsv") else ",")
                rows.writerow(["uid", "geom"])
                rows.writerows([name, shape.wkt] for name, shape in SHAPES.items())
    geometry = "geom" if kind in ("csv", "tsv", "csv.gz", "plain.parquet") else None
    return LabelTable(file=str(path), id="uid", geometry=geometry)


def checked(spatial, mapping, **options):
    raw = read_labels(spatial, [mapping], None, **options)
    batch = checked_batch(raw, label_source(spatial, mapping, None).rules)
    assert not batch.failures()
    labels = batch.labels
    names = [name.rpartition("/")[2] for name in labels["label_id"].to_pylist()]
    return dict(zip(names, shapely.from_wkb(labels["geometry"].to_numpy(zero_copy_only=False)), strict=True))


KINDS = ["geojson", "json", "geojsonl", "gpkg", "shp", "fgb", "zip", "parquet", "plain.parquet", "csv", "tsv", "csv.gz"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_says_the_same(spatial, tmp_path, kind):
    mapping = written(tmp_path, kind)
    found = checked(spatial, mapping)
    assert set(found) == set(SHAPES)
    assert all(shapely.equals_exact(found[name].normalize(), SHAPES[name].normalize(), 1e-9) for name in SHAPES)
    assert set(checked(spatial, mapping, aoi_bbox_lonlat=AOI)) == {"a", "b"}
    raw = read_labels(spatial, [mapping], None)
    assert set(raw["label_table"].to_pylist()) == {f"file:{mapping.file}"}
    assert set(raw["dataset"].to_pylist()) == {"pv"}
    assert len(file_checksums(mapping)) == 1


def test_coordinates_in_text_columns(spatial, tmp_path):
    (tmp_path / "p.csv").write_text("id,lon,lat\n1,8.5,47.5\n2,x,47\n3,,\n4,20,40\n")
    mapping = LabelTable(file=str(tmp_path / "p.csv"), id="id", lon="lon", lat="lat")
    raw = read_labels(spatial, [mapping], None, aoi_bbox_lonlat=AOI)
    assert raw["label_id"].to_pylist() == ["1", "2", "3"]
    batch = checked_batch(raw, label_source(spatial, mapping, None).rules)
    assert batch.labels["label_id"].to_pylist() == ["p/1"]
    assert [failure.input_ids for failure in batch.failures()] == [("p/2",), ("p/3",)]


def test_a_projected_file_lands_where_it_belongs(spatial, tmp_path):
    near = {name: reproject(SHAPES[name], 4326, 32632) for name in ("a", "b")}
    (tmp_path / "u.geojson").write_text(json.dumps(collection(near, 32632)))
    mapping = LabelTable(file=str(tmp_path / "u.geojson"), id="uid")
    assert label_source(spatial, mapping, None).crs == "EPSG:32632"
    for name, shape in checked(spatial, mapping, aoi_bbox_lonlat=AOI).items():
        assert shape.symmetric_difference(SHAPES[name]).area < 1e-12
    with pytest.raises(LabelTableError, match="override_crs"):
        label_source(spatial, LabelTable(file=mapping.file, id="uid", crs="EPSG:4326"), None)
    overruled = LabelTable(file=mapping.file, id="uid", crs="EPSG:32633", override_crs=True)
    assert label_source(spatial, overruled, None).crs == "EPSG:32633"


def test_a_shapefile_without_crs_asks_for_one(spatial, tmp_path):
    mapping = written(tmp_path, "shp")
    (tmp_path / "pv.prj").unlink()
    with pytest.raises(LabelTableError, match="does not say its CRS"):
        read_labels(spatial, [mapping], None)
    stated = LabelTable(file=mapping.file, id="uid", crs="EPSG:4326")
    assert set(checked(spatial, stated)) == set(SHAPES)


def test_layers(spatial, tmp_path):
    mapping = written(tmp_path, "gpkg")
    assert set(checked(spatial, LabelTable(file=mapping.file, id="uid", layer="pv"))) == set(SHAPES)
    # ST_Read crashes the process on a layer that is not there
    with pytest.raises(LabelFileError, match="no layer 'roofs'; it has pv"):
        read_labels(spatial, [LabelTable(file=mapping.file, id="uid", layer="roofs")], None)


def test_folders_and_patterns(spatial, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name, shape in SHAPES.items():
        (folder / f"{name}.geojson").write_text(json.dumps(collection({name: shape})))
    for place in (folder, folder / "*.geojson"):
        mapping = LabelTable(file=str(place), id="uid")
        assert set(checked(spatial, mapping)) == set(SHAPES)
        assert set(read_labels(spatial, [mapping], None)["dataset"].to_pylist()) == {"set"}
    (folder / "u.geojson").write_text(json.dumps(collection(SHAPES, 32632)))
    with pytest.raises(LabelFileError, match="differ in CRS"):
        read_labels(spatial, [LabelTable(file=str(folder), id="uid")], None)
    (folder / "x.csv").write_text("uid\n1\n")
    with pytest.raises(LabelFileError, match="several kinds"):
        read_labels(spatial, [LabelTable(file=str(folder), id="uid")], None)


@pytest.mark.parametrize("name", ["no.gpkg", "empty", "a.docx"])
def test_no_file(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(LabelFileError, match=r"no label file|of no known kind"):
        label_files(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.gpkg", "a.parquet", "a.geojson", "a.zip", "a.shp"])
def test_broken_files(spatial, tmp_path, name):
    (tmp_path / name).write_bytes(b"junk" * 99)
    with pytest.raises(LabelFileError, match="cannot be read"):
        read_labels(spatial, [LabelTable(file=str(tmp_path / name), id="id")], None)


def test_rows_without_geometry_come_along(spatial, tmp_path):
    features = collection({"a": SHAPES["a"]})
    features["features"].append({"type": "Feature", "properties": {"uid": "none"}, "geometry": None})
    (tmp_path / "n.geojson").write_text(json.dumps(features))
    raw = read_labels(spatial, [LabelTable(file=str(tmp_path / "n.geojson"), id="uid")], None, aoi_bbox_lonlat=AOI)
    assert set(raw["label_id"].to_pylist()) == {"a", "none"}


class TestDates:
    """Dates of every form; what cannot be read is told, not dropped."""

    ROWS = ("2018", "2018-05", "2019-01-02", "2020-07-01T10:00:00", "soon", "", "-1", "1066")

    @pytest.fixture
    def mapping(self, tmp_path):
        lines = [f"{k},POINT(8.5 47.5),{text}" for k, text in enumerate(self.ROWS)]
        (tmp_path / "d.csv").write_text(
            "\n".join(
                ["unified_id,geometry,dataset_name,install_date"]
                + [line.replace(",POINT(8.5 47.5),", ",POINT(8.5 47.5),d,") for line in lines]
            )
        )
        return LabelTable(file=str(tmp_path / "d.csv"))

    def test_they_are_read(self, spatial, mapping):
        raw = read_labels(spatial, [mapping], None)
        assert raw["installed_on"].to_pylist() == [
            date(2018, 1, 1), date(2018, 5, 1), date(2019, 1, 2), date(2020, 7, 1), None, None, None, None,
        ]  # fmt: skip
        labels = checked_batch(raw, label_source(spatial, mapping, None).rules).labels
        assert (
            labels["repairs"].to_pylist()
            == [[]] * 4 + [["installed_on_unreadable"], []] + [["installed_on_unreadable"]] * 2
        )

    @pytest.mark.parametrize(
        ("installed", "undated", "wanted"),
        [
            ((date(2018, 2, 1), None), True, "12345 67"),
            ((date(2018, 2, 1), date(2019, 12, 31)), False, "12"),
            ((None, date(2018, 12, 31)), False, "01"),
            ((None, None), False, "0123"),
        ],
    )
    def test_they_are_pushed_down(self, spatial, mapping, installed, undated, wanted):
        raw = read_labels(spatial, [mapping], None, installed=installed, undated=undated)
        assert set(raw["label_id"].to_pylist()) == set(wanted.replace(" ", ""))

    def test_nothing_in_the_dates_says_so(self, spatial, mapping):
        with pytest.raises(CatalogEmptyError, match="installed 2030-01-01 to …"):
            read_labels(spatial, [mapping], None, installed=(date(2030, 1, 1), None), undated=False)


class TestPushDown:
    """Filters stand inside the scan."""

    @pytest.fixture
    def lake(self, tmp_path):
        catalog = tmp_path / "l.ducklake"
        with ducklake.connect(catalog, data_path=tmp_path / "files", create=True) as connection:
            connection.execute("CREATE TABLE lake.g (id INT, geometry GEOMETRY, d DATE, t VARCHAR, b BLOB)")
            connection.execute(
                "INSERT INTO lake.g SELECT i, ST_Point(i % 60, i % 50), DATE '2015-01-01' + i::INT, "
                "ST_AsText(ST_Point(i % 60, i % 50)), ST_AsWKB(ST_Point(i % 60, i % 50))::BLOB FROM range(3000) r(i)"
            )
            connection.execute("INSERT INTO lake.g VALUES (-1, NULL, NULL, 'junk', '\\x01'::BLOB)")
            connection.execute("INSERT INTO lake.g VALUES (-2, NULL, NULL, 'SRID=32632;POINT(500000 5200000)', NULL)")
        with ducklake.connect(catalog) as connection:
            yield connection

    @pytest.mark.parametrize("column", ["geometry", "b", "t"])
    def test_explain_shows_area_and_dates_in_the_lake_scan(self, lake, column):
        mapping = LabelTable(table="g", id="id", geometry=column, installed_on="d")
        newest = ducklake.latest_snapshot(lake)
        sql, parameters = label_query(lake, mapping, newest, AOI, installed=(date(2016, 1, 1), None))
        plan = lake.execute(f"EXPLAIN {sql}", parameters).fetchall()[0][1]
        above, scan = (
            "".join(line.strip("│ \n") for line in part.splitlines()).lower()
            for part in (plan[: plan.index("DUCKLAKE_SCAN")], plan[plan.index("DUCKLAKE_SCAN") :])
        )
        assert "2016-01-01" in scan
        # DuckDB does not take ST_GeomFromText into a scan: the filter of WKT stands right above it
        assert "st_intersects_extent" in (above if column == "t" else scan)
        assert ("filter" in above) == (column == "t")

    @pytest.mark.parametrize("column", ["geometry", "t", "b"])
    def test_it_finds_what_shapely_finds(self, lake, column):
        mapping = LabelTable(table="g", id="id", geometry=column)
        newest = ducklake.latest_snapshot(lake)
        raw = read_labels(lake, [mapping], newest, aoi_bbox_lonlat=(3, 3, 5.5, 5))
        wanted = {str(i) for i in range(3000) if 3 <= i % 60 <= 5 and 3 <= i % 50 <= 5}
        assert set(raw["label_id"].to_pylist()) - {"-1", "-2"} == wanted
        assert {"-1", "-2"} <= set(raw["label_id"].to_pylist())

    def test_parquet_takes_the_filter_into_its_scan(self, spatial, tmp_path):
        mapping = written(tmp_path, "parquet")
        sql, parameters = label_query(spatial, mapping, None, AOI)
        plan = spatial.execute(f"EXPLAIN {sql}", parameters).fetchall()[0][1]
        scan = plan[plan.index("READ_PARQUET") :]
        assert "st_intersects_extent" in "".join(line.strip("│ \n") for line in scan.splitlines()).lower()

    def test_parts_of_an_area(self, lake):
        """Ten thousand parts: labels near one of them, and none between."""
        mapping = LabelTable(table="g", id="id", geometry="geometry")
        newest = ducklake.latest_snapshot(lake)
        xs, ys = np.meshgrid(np.arange(100) * 0.4 + 3.05, np.arange(100) * 0.4 + 3.05)
        area = shapely.multipolygons(shapely.box(xs.ravel(), ys.ravel(), xs.ravel() + 0.01, ys.ravel() + 0.01))
        raw = read_labels(lake, [mapping], newest, area=area)
        points = {str(i): shapely.Point(i % 60, i % 50) for i in range(3000)}
        shapely.prepare(area)
        wanted = {name for name, point in points.items() if area.intersects(point)}
        assert set(raw["label_id"].to_pylist()) - {"-1", "-2"} == wanted
        nowhere = shapely.multipolygons([shapely.box(70, 70, 71, 71), shapely.box(72, 72, 73, 73)])
        assert set(read_labels(lake, [mapping], newest, area=nowhere)["label_id"].to_pylist()) == {"-1", "-2"}

    def test_parts_of_an_area_in_another_crs(self, spatial, tmp_path):
        near = {name: reproject(SHAPES[name], 4326, 32632) for name in ("a", "b")}
        (tmp_path / "u.geojson").write_text(json.dumps(collection(near, 32632)))
        mapping = LabelTable(file=str(tmp_path / "u.geojson"), id="uid")
        area = shapely.multipolygons([shapely.box(8.4, 47.4, 8.6, 47.6), shapely.box(8.0, 47.0, 8.1, 47.1)])
        assert read_labels(spatial, [mapping], None, area=area)["label_id"].to_pylist() == ["a"]

    def test_swapped_labels_come_along_where_the_data_set_is_known(self, spatial, tmp_path):
        (tmp_path / "s.csv").write_text("id,wkt\n1,POINT(8.5 47.5)\n2,POINT(47.5 8.5)\n3,POINT(20 20)\n")
        known = LabelTable(file=str(tmp_path / "s.csv"), id="id", geometry="wkt", expected_bbox_lonlat=(5, 45, 11, 48))
        plain = LabelTable(file=known.file, id="id", geometry="wkt")
        assert read_labels(spatial, [plain], None, aoi_bbox_lonlat=AOI)["label_id"].to_pylist() == ["1"]
        assert read_labels(spatial, [known], None, aoi_bbox_lonlat=AOI)["label_id"].to_pylist() == ["1", "2"]
        parts = shapely.multipolygons([shapely.box(*AOI), shapely.box(0, 0, 1, 1)])
        assert read_labels(spatial, [known], None, area=parts)["label_id"].to_pylist() == ["1", "2"]


class TestMapping:
    def test_a_preset_is_found_by_its_columns_and_gives_way(self, spatial, tmp_path):
        (tmp_path / "i.csv").write_text("unified_id,dataset_name,geometry,area_m2,other\n1,d,POINT(8 47),5,9\n")
        source = label_source(spatial, LabelTable(file=str(tmp_path / "i.csv")), None)
        assert (source.mapping.preset, source.mapping.area_m2) == ("ice_melt", "area_m2")
        mine = LabelTable(file=str(tmp_path / "i.csv"), preset="ice_melt", id="other", dataset_name="x")
        full = label_source(spatial, mine, None).mapping
        assert (full.id, full.dataset, full.dataset_name) == ("other", None, "x")

    def test_what_is_not_mapped_is_suggested(self, spatial, tmp_path):
        (tmp_path / "u.csv").write_text("FID,Latitude,Longitude,Year\n1,47,8,2018\n")
        mapping = LabelTable(file=str(tmp_path / "u.csv"))
        with pytest.raises(LabelTableError, match=r"id and geometry.*perhaps \{id: FID; lon: Longitude; lat: Latitude"):
            label_source(spatial, mapping, None)
        columns = {"FID": "VARCHAR", "Year": "VARCHAR", "geom": "GEOMETRY"}
        assert suggestions(LabelTable(file="x", id="FID", geometry="geom"), columns) == {"installed_on": "Year"}

    def test_places_of_labels(self):
        assert label_place("pv", "postgres:host=h", 4) == ("postgres:host=h", 4)
        assert label_place("file:a/pv.gpkg", "postgres:host=h", 4) == ("a/pv.gpkg", None)


BAD_AREAS = ["POLYGON((0 0, 1 1", "no.geojson", "POLYGON EMPTY", "POLYGON((0 0,500 0,500 1,0 0))"]


class TestArea:
    def test_wkt_file_and_box(self, tmp_path):
        assert read_area(None) is None
        assert read_area(None, AOI).equals(shapely.box(*AOI))
        assert read_area(shapely.box(*AOI).wkt).equals(shapely.box(*AOI))
        (tmp_path / "a.geojson").write_text(json.dumps(collection({"x": reproject(SHAPES["a"], 4326, 32632)}, 32632)))
        assert read_area(str(tmp_path / "a.geojson"), AOI).symmetric_difference(SHAPES["a"]).area < 1e-12

    @pytest.mark.parametrize(
        "aoi", ["POLYGON((0 0, 1 1", "no.geojson", "POLYGON EMPTY", "POLYGON((0 0,500 0,500 1,0 0))"]
    )
    def test_refusals(self, aoi):
        with pytest.raises(ConfigError, match="aoi"):
            read_area(aoi)

    def test_nothing_in_common(self):
        with pytest.raises(ConfigError, match="no area in common"):
            read_area("POLYGON((0 0,1 0,1 1,0 0))", AOI)


def test_a_file_without_a_byte_and_one_column_for_both_coordinates_are_refused(spatial, tmp_path):
    (tmp_path / "empty.csv").touch()
    with pytest.raises(LabelFileError, match="holds nothing, not even a header"):
        label_source(spatial, LabelTable(file=str(tmp_path / "empty.csv"), id="id", lon="x", lat="y"), None)
    with pytest.raises(ConfigError, match="lon and lat are both x"):
        LabelTable(table="pv", id="id", lon="x", lat="x")
