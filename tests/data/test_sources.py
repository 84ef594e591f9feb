"""Sources: a folder, an archive and a manifest of the same images are the same data."""

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from data import locate
from data.errors import DataError
from data.sources import SYNTHETIC_MARKER, ArchiveSource, FolderSource, ManifestSource, breakhis_row, is_image, open_source
from data.store import load_dataset
from data.table import UNKNOWN
from tests.data.trees import NAMES, write_tree


def contents(source):
    """{file name: (row without its path, bytes)}, by reading everything."""
    rows, problems = source.rows()
    assert not problems
    return {path.rsplit("/", 1)[-1]: (rows[path][1:], source.read(path)) for path in rows}


def test_a_row_is_spelled_by_the_file_name_alone():
    assert breakhis_row("malignant/wrong/SOB_B_A-14-1001AB-40-001.png") == (
        "malignant/wrong/SOB_B_A-14-1001AB-40-001.png",
        40,
        "SOB_B_A_14-1001AB",
        "1001",
        "A",
        "benign",
    )


@pytest.mark.parametrize(
    "nesting", ["", "BreaKHis_v1/histology_slides/breast/x/40X", "archive/BreaKHis_v1/BreaKHis_v1/histology_slides/breast"]
)
def test_nesting_does_not_matter(tmp_path, nesting):
    flat = write_tree(tmp_path / "flat")
    write_tree(tmp_path / "nested" / nesting)
    assert contents(open_source(tmp_path / "nested")) == contents(open_source(flat))


def test_hidden_files_and_other_files_are_not_images(tmp_path):
    tree = write_tree(tmp_path)
    (tree / "._SOB_B_A-14-1001-40-001.png").write_bytes(b"resource fork of a Mac")
    (tree / "README.txt").write_text("about")
    write_tree(tree / ".thumbnails", ("SOB_B_A-14-9999-40-001.png",))
    assert sorted(contents(open_source(tree))) == sorted(NAMES)
    assert is_image("a/b.TIFF") and not is_image("a/b.npy") and not is_image("a/.b.png")


@pytest.mark.parametrize(("kind", "suffix"), [("zip", ".zip"), ("zip", ".ZIP"), ("gztar", ".tar.gz"), ("gztar", ".tgz"), ("tar", ".tar")])
def test_an_archive_holds_what_its_folder_holds(tmp_path, kind, suffix):
    write_tree(tmp_path / "tree" / "BreaKHis_v1")
    made = Path(shutil.make_archive(str(tmp_path / "made"), kind, tmp_path / "tree"))
    archive = open_source(made.rename(tmp_path / f"data{suffix}")).unpack(tmp_path / "scratch")
    folder = open_source(tmp_path / "tree")
    assert archive.rows() == folder.rows() and len(contents(archive)) == len(NAMES) and contents(archive) == contents(folder)


def test_what_could_write_outside_is_left_out_of_an_archive_and_named_and_nothing_is_written(tmp_path, monkeypatch):
    folder = tmp_path / "inside"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr(f"../{NAMES[0]}", b"hostile")
        archive.writestr(NAMES[1], b"data")
    source = open_source(folder / "data.zip").unpack(folder / "scratch")
    rows, problems = source.rows()
    assert list(rows) == [NAMES[1]] and problems == {f"../{NAMES[0]}": "its path leads out of the archive"}
    assert source.read(NAMES[1]) == b"data"
    assert os.listdir(tmp_path) == ["inside"] and sorted(os.listdir(folder)) == ["data.zip", "scratch"]
    assert os.listdir(folder / "scratch") == [NAMES[1]]


def test_links_are_followed_and_each_thing_is_read_once(tmp_path):
    elsewhere = write_tree(tmp_path / "elsewhere", NAMES[2:])
    tree = write_tree(tmp_path / "tree", NAMES[:2])
    (tree / "patients").symlink_to(elsewhere)
    (tree / "again").symlink_to(elsewhere)
    (elsewhere / "ring").symlink_to(tree)
    (tree / NAMES[2]).symlink_to(elsewhere / NAMES[2])
    rows, problems = open_source(tree).rows()
    assert sorted(path.rpartition("/")[2] for path in rows) == sorted(NAMES) and not problems


def test_a_link_to_nothing_or_to_itself_is_a_bad_file_that_can_be_left_out(tmp_path):
    tree = write_tree(tmp_path)
    for number, target in ((5, "nowhere"), (6, "SOB_B_A-14-1006-40-001.png")):
        (tree / f"SOB_B_A-14-100{number}-40-001.png").symlink_to(target)
    assert set(load_dataset(tree, 32, "skip").skipped) == {"SOB_B_A-14-1005-40-001.png", "SOB_B_A-14-1006-40-001.png"}


@pytest.mark.parametrize("packed", [False, True])
def test_what_editors_and_archivers_leave_beside_the_images_is_no_image(tmp_path, packed):
    tree = write_tree(tmp_path / "tree")
    for place in (".ipynb_checkpoints", "__MACOSX", "a/.Trash"):
        write_tree(tree / place, (f"{NAMES[0]}",))
    (tree / f"._{NAMES[0]}").write_bytes(b"resource fork")
    (tree / "Thumbs.db").write_bytes(b"thumbs")
    source = open_source(tree)
    if packed:
        source = open_source(shutil.make_archive(str(tmp_path / "data"), "zip", tree)).unpack(tmp_path / "scratch")
        assert sorted(os.listdir(tmp_path / "scratch")) == sorted(NAMES)
    rows, problems = source.rows()
    assert sorted(rows) == sorted(NAMES) and not problems


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archive_without_a_root_has_the_paths_of_its_folder_and_its_own_name(tmp_path, kind):
    """`tar czf data.tar.gz .` writes ./name."""
    write_tree(tmp_path / "tree" / "a")
    (tmp_path / "tree" / "a" / "holiday.png").write_bytes(b"")
    made = shutil.make_archive(str(tmp_path / "data"), kind, tmp_path / "tree")
    dataset = load_dataset(made, 32, "skip")
    assert dataset.table.path.tolist() == [f"a/{name}" for name in NAMES] and list(dataset.skipped) == ["a/holiday.png"]
    assert dataset.name == made


def test_what_an_archive_says_of_owners_modes_and_times_does_not_count(tmp_path):
    tree = write_tree(tmp_path / "tree")
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        for name in NAMES:
            member = archive.gettarinfo(tree / name, name)
            member.mode, member.uid, member.mtime, member.pax_headers = 0, 2**30, 0, {"mtime": "1e300"}
            with (tree / name).open("rb") as file:
                archive.addfile(member, file)
    assert load_dataset(tmp_path / "data.tar", 32).fingerprint == load_dataset(tree, 32).fingerprint


def test_of_a_member_that_an_archive_holds_twice_the_last_counts(tmp_path):
    tree = write_tree(tmp_path / "tree")
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        for file, name in ((NAMES[1], NAMES[0]), *zip(NAMES, NAMES, strict=True)):
            archive.add(tree / file, name)
    assert load_dataset(tmp_path / "data.tar", 32).fingerprint == load_dataset(tree, 32).fingerprint


def test_an_archive_of_windows_is_read(tmp_path):
    tree = write_tree(tmp_path / "tree")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for name in NAMES:
            archive.writestr(f"slides\\{name}", (tree / name).read_bytes())
    assert load_dataset(tmp_path / "data.zip", 32).table.path.tolist() == [f"slides/{name}" for name in NAMES]


@pytest.mark.parametrize("suffix", [".PNG", ".jpg", ".JPEG", ".tif", ".TIFF"])
def test_every_usual_ending_is_a_name_of_breakhis(suffix):
    assert breakhis_row(NAMES[0].replace(".png", suffix))[1:] == breakhis_row(NAMES[0])[1:]


def test_a_manifest_describes_own_data(tmp_path):
    manifest = tmp_path / "own.csv"
    lines = ("path,slide,label,magnification,patient,subtype", "a.tif,p1,Malignant,40X,c1,DC", "b.tif,,0, 20 ,p2,", "")
    manifest.write_text("\n".join(lines), encoding="utf-8-sig")  # as Excel writes it
    rows, problems = ManifestSource(manifest).rows()
    assert not problems
    assert rows == {"a.tif": ("a.tif", 40, "p1", "c1", "DC", "malignant"), "b.tif": ("b.tif", 20, "p2", "p2", "", "benign")}


def test_a_manifest_of_a_tree_is_that_tree(tmp_path):
    tree = write_tree(tmp_path / "tree")
    rows = [breakhis_row(f"tree/{name}") for name in NAMES]
    lines = [f"{path},{slide},{label},{magnification},{patient},{subtype}" for path, magnification, slide, patient, subtype, label in rows]
    (tmp_path / "all.csv").write_text("\n".join(["path,slide,label,magnification,patient,subtype", *lines]))
    assert contents(open_source(tmp_path / "all.csv")) == contents(open_source(tree))


def _write(tree):
    os.utime(tree / NAMES[0], ns=(1, 1))


@pytest.mark.parametrize(
    "change",
    [_write, lambda tree: (tree / NAMES[0]).unlink(), lambda tree: write_tree(tree, ("SOB_B_A-14-1005-40-001.png",)),
     lambda tree: (tree / NAMES[0]).rename(tree / "SOB_B_A-14-1001-40-009.png")],
    ids=["written", "removed", "added", "renamed"],
)  # fmt: skip
def test_the_stamp_of_a_folder_sees_every_change(tmp_path, change):
    tree = write_tree(tmp_path)
    before = FolderSource(tree).stamp()
    assert FolderSource(tree).stamp() == before
    change(tree)
    assert FolderSource(tree).stamp() != before


@pytest.mark.parametrize("line", ["q,0,40", "p,1,40", "p,0,100"])
def test_the_stamp_of_a_manifest_sees_what_it_says_of_an_image(tmp_path, line):
    write_tree(tmp_path / "tree")
    stamps = set()
    for said in ("p,0,40", line):
        (tmp_path / "one.csv").write_text(f"path,patient,label,magnification\ntree/{NAMES[0]},{said}\n")
        stamps.add(open_source(tmp_path / "one.csv").stamp())
    assert len(stamps) == 2


def test_the_stamps_of_manifest_and_archive_see_a_write(tmp_path):
    tree = write_tree(tmp_path / "tree")
    (tmp_path / "one.csv").write_text(f"path,patient,label,magnification\ntree/{NAMES[0]},p,0,40\n")
    shutil.make_archive(str(tmp_path / "data"), "zip", tree)
    for path, touched in ((tmp_path / "one.csv", tree / NAMES[0]), (tmp_path / "data.zip", tmp_path / "data.zip")):
        before = open_source(path).stamp()
        os.utime(touched, ns=(1, 1))
        assert open_source(path).stamp() != before


def _below_the_marker(tree):
    return tree / "BreaKHis_v1"


def _above_the_marker(tree):
    return tree.parent


def _archive_of(tree):
    return shutil.make_archive(str(tree.parent / "data"), "zip", tree)


def _manifest_beside_it(tree):
    (tree / "own.csv").write_text(f"path,patient,label,magnification\nBreaKHis_v1/{NAMES[0]},p,0,40\n")
    return tree / "own.csv"


@pytest.mark.parametrize("of", [Path, _below_the_marker, _above_the_marker, _archive_of, _manifest_beside_it])
@pytest.mark.parametrize("marked", [True, False])
def test_the_synthetic_marker_is_seen_in_whatever_holds_the_images(tmp_path, of, marked):
    write_tree(tmp_path / "tree" / "BreaKHis_v1")
    if marked:
        (tmp_path / "tree" / SYNTHETIC_MARKER).write_text("{}")
    source = open_source(of(tmp_path / "tree"))
    if isinstance(source, ArchiveSource):
        source = source.unpack(tmp_path / "scratch")
    assert source.synthetic is marked


def test_a_cache_inside_a_synthetic_data_set_makes_no_archive_synthetic(tmp_path, monkeypatch):
    (tmp_path / SYNTHETIC_MARKER).write_text("{}")
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "cache"))
    archive = shutil.make_archive(str(tmp_path / "data"), "zip", write_tree(tmp_path / "tree"))
    assert load_dataset(archive, 32).synthetic is False


def test_breakhis_is_found_by_environment_else_in_the_usual_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(locate, "PARENTS", (".", "data"))
    (tmp_path / "breakhis").mkdir()  # empty: passed over
    assert locate.find_breakhis() is None
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "breakhis.zip").touch()
    assert locate.find_breakhis().resolve() == tmp_path / "data" / "breakhis.zip"
    write_tree(tmp_path / "data" / "BreaKHis_v1")
    assert locate.find_breakhis().resolve() == tmp_path / "data" / "BreaKHis_v1"
    monkeypatch.setenv("BREAKHIS_ROOT", "/somewhere/else")
    assert str(locate.find_breakhis()) == "/somewhere/else"


# patients to be predicted --------------------------------------------------------------------------------------------


def unlabelled(folder, *lines):
    """A manifest of the images of NAMES with these lines."""
    write_tree(folder / "tree")
    (folder / "new.csv").write_text("\n".join(lines) + "\n")
    return folder / "new.csv"


def without_a_column(folder):
    return unlabelled(folder, "path,patient,magnification", *(f"tree/{name},p{n},40" for n, name in enumerate(NAMES)))


def without_a_value(folder):
    return unlabelled(folder, "path,patient,label,magnification", *(f"tree/{name},p{n}, ,40" for n, name in enumerate(NAMES)))


@pytest.mark.parametrize("manifest", [without_a_column, without_a_value])
def test_a_manifest_without_labels_is_read_where_none_are_needed(tmp_path, manifest):
    dataset = load_dataset(manifest(tmp_path), 32, labelled=False)
    assert dataset.table.slide.tolist() == ["p0", "p1", "p2", "p3"] == dataset.table.patient.tolist()
    assert dataset.table.label.tolist() == [UNKNOWN] * 4


@pytest.mark.parametrize(
    ("manifest", "message"),
    [(without_a_column, r"missing columns \['label'\]"), (without_a_value, "line 2: label '': expected a class for every image")],
)
def test_a_manifest_without_labels_cannot_be_trained_on_also_after_it_was_predicted(tmp_path, manifest, message):
    path = manifest(tmp_path)
    load_dataset(path, 32, labelled=False)
    with pytest.raises(DataError, match=message):
        load_dataset(path, 32)


def test_labels_that_are_known_are_kept_where_none_are_needed(tmp_path):
    lines = [f"tree/{name},p{n},40,{label}" for n, (name, label) in enumerate(zip(NAMES, ("benign", "1", "", "0"), strict=True))]
    path = unlabelled(tmp_path, "path,patient,magnification,label", *lines)
    assert load_dataset(path, 32, labelled=False).table.label.tolist() == [0, 1, UNKNOWN, 0]


def test_a_wrong_label_is_no_unknown_one(tmp_path):
    path = unlabelled(tmp_path, "path,patient,label,magnification", f"tree/{NAMES[0]},p,maybe,40")
    table = load_dataset(path, 32, labelled=False).table
    assert table.classes == ("maybe",) and table.label.tolist() == [0]


def test_a_patient_of_which_one_image_only_has_a_label_is_a_contradiction(tmp_path):
    path = unlabelled(tmp_path, "path,patient,label,magnification", f"tree/{NAMES[0]},p,1,40", f"tree/{NAMES[1]},p,,40")
    with pytest.raises(DataError, match="slide p stands under more than one class"):
        load_dataset(path, 32, labelled=False)


def test_the_names_of_a_tree_say_the_labels_also_where_none_are_needed(tmp_path):
    tree = write_tree(tmp_path)
    assert load_dataset(tree, 32, labelled=False).table.label.tolist() == load_dataset(tree, 32).table.label.tolist() == [0, 0, 1, 1]
