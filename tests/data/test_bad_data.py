"""Every way in which data can be bad is one clear error that names the thing; nothing half-built stays behind."""

import gzip
import io
import json
import os
import re
import shutil
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from data.errors import DataError, InputError, LeakageError
from data.splits import build_splits, check_splits, make_splits
from data.store import load_dataset
from data.table import build_table
from tests.data.trees import NAMES, forged_png, slides, table_of, write_png, write_tree

ROWS = []  # (what the message must hold, maker), filled by `bad`


def bad(*fragments):
    """A row of the table below: the function makes bad data at `root` and returns its path; `{root}` is filled in."""

    def add(make):
        ROWS.append(pytest.param(make, fragments, id=make.__name__))
        return make

    return add


def _broken(root, content):
    """A valid tree whose first image holds `content`."""
    (write_tree(root) / NAMES[0]).write_bytes(content)
    return root


def _manifest(root, *lines, columns="path,patient,label,magnification"):
    root.mkdir(exist_ok=True)
    write_png(root / "a.png", 0)
    write_png(root / "b.png", 1)
    (root / "own.csv").write_text("\n".join([columns, *lines]))
    return root / "own.csv"


@bad("data {root}/nowhere: no such folder or file; pass --data DIR")
def missing_folder(root, patch):
    return root / "nowhere"


@bad("data {root}: no image found below it; expected BreakHis (SOB_<B|M>_")
def empty_folder(root, patch):
    (root / "BreaKHis_v1").mkdir(parents=True)
    return root


@bad("data {root}/data.rar: expected a folder, an archive (.tar.gz, .tgz, .tar, .zip) or a .csv manifest")
def another_kind_of_file(root, patch):
    root.mkdir()
    (root / "data.rar").touch()
    return root / "data.rar"


@bad("data {root}: not a BreakHis tree: none of 2 images follows SOB_<B|M>_", "a.png, b.png", "--data FILE.csv")
def a_tree_that_is_not_breakhis(root, patch):
    return _manifest(root).parent


@bad("data {root}: 1 bad file(s): sub/holiday.png (file name does not follow SOB_<B|M>_", "data.on_bad_file=skip")
def a_name_outside_the_grammar(root, patch):
    write_png(write_tree(root) / "sub" / "holiday.png", 9)
    return root


@bad("data {root}: 1 bad file(s): \udcff.png (file name does not follow")
def a_name_that_is_not_unicode(root, patch):
    try:
        Path(os.fsdecode(os.path.join(os.fsencode(write_tree(root)), b"\xff.png"))).write_bytes(b"any")
    except OSError:
        pytest.skip("this file system takes no such name")
    return root


@bad(f"data {{root}}: 1 bad file(s): {NAMES[0]} (truncated or damaged image (", "repair or remove them")
def a_truncated_png(root, patch):
    return _broken(root, write_png(root / "whole.png", 0).rename(root.parent / "whole.png").read_bytes()[:1000])


@bad(f"1 bad file(s): {NAMES[0]} (not a readable image, expected PNG, JPEG, TIFF)")
def text_in_a_png(root, patch):
    return _broken(root, b"<html>404 Not Found</html>")


@bad(f"1 bad file(s): {NAMES[0]} (not a readable image")
def an_empty_file(root, patch):
    return _broken(root, b"")


@bad(f"1 bad file(s): {NAMES[0]} (1x1 px: expected at least 32 px a side")
def a_png_of_one_pixel(root, patch):
    write_png(write_tree(root) / NAMES[0], 0, side=1)
    return root


@bad(f"1 bad file(s): {NAMES[0]} (too large: expected at most 50 megapixels (Image size (400000000 pixels)")
def a_png_of_20000_by_20000(root, patch):
    return _broken(root, forged_png(20000, 20000))


@bad(f"1 bad file(s): {NAMES[0]} (8000x8000 px: expected at least 32 px a side and at most 50 megapixels)")
def a_png_of_8000_by_8000(root, patch):
    return _broken(root, forged_png(8000, 8000))


@bad(f"1 bad file(s): {NAMES[0]} (cannot be read: Permission denied)")
def an_unreadable_file(root, patch):
    read = Path.read_bytes

    def refuse(path):
        if path.name == NAMES[0]:
            raise PermissionError(13, os.strerror(13), str(path))
        return read(path)

    patch.setattr(Path, "read_bytes", refuse)
    return write_tree(root)


@bad("data folder {root}: cannot read", "Permission denied")
def an_unreadable_folder(root, patch):
    def refuse(folder):
        raise PermissionError(13, os.strerror(13), str(folder))

    patch.setattr(os, "listdir", refuse)
    return write_tree(root)


@bad(
    f"2 bad file(s): {NAMES[0]} (exact duplicate of {NAMES[3]}, which belongs to another patient), {NAMES[3]} (exact duplicate of {NAMES[0]}"
)
def one_image_in_two_patients(root, patch):
    shutil.copy(write_tree(root) / NAMES[0], root / NAMES[3])
    return root


@bad("7 bad file(s)", "and 2 more")
def many_bad_files(root, patch):
    for number in range(7):
        write_png(write_tree(root) / f"holiday{number}.png", number)
    return root


@bad("patient 1001 stands under more than one class: expected exactly one each")
def a_patient_under_both_classes(root, patch):
    return write_tree(root, (*NAMES, "SOB_M_DC-14-1001CD-40-001.png"))


@bad("slide anna stands under more than one class: expected exactly one each", "the manifest", "--set data.mixed_labels=true")
def a_slide_under_both_classes(root, patch):
    return _manifest(root, "a.png,anna,0,40", "b.png,anna,1,40")


@bad("slide anna stands under more than one patient: expected exactly one each")
def a_slide_under_two_patients(root, patch):
    return _manifest(root, "a.png,anna,0,40,1", "b.png,anna,0,40,2", columns="path,patient,label,magnification,case")


@bad("manifest {root}/own.csv: missing columns ['label'], it has ['path', 'patient', 'class']; expected path,patient,label")
def a_manifest_with_wrong_columns(root, patch):
    return _manifest(root, "a.png,anna,0", columns="path,patient,class")


@bad("manifest {root}/own.csv: No columns to parse from file; expected CSV")
def an_empty_manifest(root, patch):
    _manifest(root).write_text("")
    return root / "own.csv"


@bad("manifest {root}/own.csv: lists no image")
def a_manifest_of_nothing(root, patch):
    return _manifest(root)


@bad("manifest {root}/own.csv, line 2: magnification 'high': expected a number such as 40")
def a_manifest_with_a_wrong_magnification(root, patch):
    return _manifest(root, "a.png,anna,0,high")


@bad("manifest {root}/own.csv, line 2: patient is empty; expected one value for each of path, patient, label")
def a_manifest_with_a_missing_value(root, patch):
    return _manifest(root, "a.png,,0,40")


@bad("manifest {root}/own.csv: ", "expected CSV with a column name or a value a field")
def a_manifest_with_a_value_too_many(root, patch):
    return _manifest(root, "a.png,anna,0,40,extra")


@bad("manifest {root}/own.csv, line 3: path 'a.png' is listed twice")
def a_manifest_with_a_path_twice(root, patch):
    return _manifest(root, "a.png,anna,0,40", "a.png,anna,0,40")


@bad("manifest {root}/own.csv: cannot read it: ", "codec can't decode")
def a_manifest_that_is_not_text(root, patch):
    _manifest(root).write_bytes(b"\xff\xfe\x00")
    return root / "own.csv"


@bad("data {root}/own.csv: 1 bad file(s): gone.png (cannot be read: No such file or directory)")
def a_manifest_of_a_missing_file(root, patch):
    return _manifest(root, "a.png,anna,0,40", "gone.png,berta,1,40")


@bad("archive {root}/data.zip: damaged or not an archive: ", "download it again")
def a_zip_that_is_none(root, patch):
    root.mkdir()
    (root / "data.zip").write_text("<html>404 Not Found</html>")
    return root / "data.zip"


@bad("archive {root}/data.tar.gz: damaged or not an archive: ", "download it again")
def a_tar_that_is_none(root, patch):
    root.mkdir()
    (root / "data.tar.gz").write_text("<html>404 Not Found</html>")
    return root / "data.tar.gz"


@bad("archive {root}/data.tar.gz: damaged or not an archive: ", "download it again")
def a_tar_cut_short(root, patch):
    archive = Path(shutil.make_archive(str(root / "data"), "gztar", write_tree(root / "tree")))
    archive.write_bytes(archive.read_bytes()[:-3000])
    return archive


@bad("archive {root}/data.zip: damaged or not an archive: ", "download it again")
def a_zip_cut_short(root, patch):
    archive = Path(shutil.make_archive(str(root / "data"), "zip", write_tree(root / "tree")))
    archive.write_bytes(archive.read_bytes()[:-3000])
    return archive


def _zip_with_damage(root, compression):
    write_tree(root / "tree")
    with zipfile.ZipFile(root / "data.zip", "w", compression) as archive:
        archive.write(root / "tree" / NAMES[0], NAMES[0])
    content = bytearray((root / "data.zip").read_bytes())
    content[60:600] = bytes(540)  # behind the member's header
    (root / "data.zip").write_bytes(content)
    return root / "data.zip"


@bad("archive {root}/data.zip: damaged or not an archive: Bad CRC-32", f"(at {NAMES[0]}); download it again")
def a_zip_with_a_damaged_member(root, patch):
    return _zip_with_damage(root, zipfile.ZIP_STORED)


@bad("archive {root}/data.zip: damaged or not an archive: Error -3 while decompressing", f"(at {NAMES[0]}); download it again")
def a_zip_with_a_damaged_compressed_member(root, patch):
    return _zip_with_damage(root, zipfile.ZIP_DEFLATED)


@bad("archive {root}/data.zip: damaged or not an archive: File", "is encrypted", f"(at {NAMES[0]})")
def a_zip_with_a_password(root, patch):
    write_tree(root / "tree")
    with zipfile.ZipFile(root / "data.zip", "w") as archive:
        archive.write(root / "tree" / NAMES[0], NAMES[0])
    content = bytearray((root / "data.zip").read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[6] |= 1  # the encrypted bit, in the member's header and in the directory
    content[directory + 8] |= 1
    (root / "data.zip").write_bytes(content)
    return root / "data.zip"


@bad("data {root}/data.zip: no image found below it")
def an_archive_without_images(root, patch):
    root.mkdir()
    with zipfile.ZipFile(root / "data.zip", "w") as archive:
        archive.writestr("README.txt", "empty")
    return root / "data.zip"


@bad("archive {root}/data.zip: more than 2 members or ", "expected a BreakHis archive", "pass its folder")
def an_archive_of_too_many_members(root, patch):
    patch.setattr("data.sources.MAX_MEMBERS", 2)
    return shutil.make_archive(str(root / "data"), "zip", write_tree(root / "tree"))


@bad("archive {root}/data.tar.gz: more than 1000000 members or 10000 bytes, unpacked", "pass its folder")
def an_archive_that_unpacks_to_too_much(root, patch):
    patch.setattr("data.sources.MAX_TOTAL_BYTES", 10_000)
    return shutil.make_archive(str(root / "data"), "gztar", write_tree(root / "tree"))


def _tar(root, *members):
    """A .tar.gz of (name, type, size, link name, content)."""
    root.mkdir()
    with tarfile.open(root / "data.tar.gz", "w:gz") as archive:
        for name, kind, size, link, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, size, link
            archive.addfile(member, content)
    return root / "data.tar.gz"


@bad(f"1 bad file(s): {NAMES[0]} (a link or a device, expected a plain file); repair or remove them")
def a_tar_with_a_symbolic_link(root, patch):
    return _tar(root, (NAMES[0], tarfile.SYMTYPE, 0, "/etc/passwd", None))


@bad(f"1 bad file(s): {NAMES[0]} (a link or a device, expected a plain file)")
def a_tar_with_a_hard_link(root, patch):
    return _tar(root, (NAMES[0], tarfile.LNKTYPE, 0, "../outside.png", None))


@bad(f"1 bad file(s): {NAMES[0]} (a link or a device, expected a plain file)")
def a_tar_with_a_device(root, patch):
    return _tar(root, (NAMES[0], tarfile.CHRTYPE, 0, "", None))


@bad(f"1 bad file(s): /{NAMES[0]} (its path leads out of the archive)")
def a_tar_with_an_absolute_path(root, patch):
    return _tar(root, (f"/{NAMES[0]}", tarfile.REGTYPE, 4, "", io.BytesIO(b"evil")))


@bad(f"1 bad file(s): a/../../{NAMES[0]} (its path leads out of the archive)")
def a_zip_with_a_path_that_leads_out(root, patch):
    root.mkdir()
    with zipfile.ZipFile(root / "data.zip", "w") as archive:
        archive.writestr(f"a/../../{NAMES[0]}", b"evil")
    return root / "data.zip"


@bad(f"1 bad file(s): {NAMES[0]} (a link or a device, expected a plain file)")
def a_zip_with_a_symbolic_link(root, patch):
    root.mkdir()
    link = zipfile.ZipInfo(NAMES[0])
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(root / "data.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    return root / "data.zip"


@bad("1 bad file(s): ", f"{NAMES[0]} (500 bytes: expected at most 100)")
def an_archive_member_of_absurd_size(root, patch):
    patch.setattr("data.sources.MAX_FILE_BYTES", 100)
    return _tar(root, (NAMES[0], tarfile.REGTYPE, 500, "", io.BytesIO(bytes(500))))


@bad(f"1 bad file(s): {NAMES[0]} (", "bytes: expected at most 100)")
def a_file_of_absurd_size(root, patch):
    patch.setattr("data.sources.MAX_FILE_BYTES", 100)
    return write_tree(root, NAMES[:1])


@bad("archive {root}/data.tar.gz: damaged or not an archive: a name of 8388608 bytes, expected at most 1048576")
def a_tar_bomb_in_a_name(root, patch):
    """4 MB of compressed zeros would be 4 GB of name, in memory before anybody sees a member."""
    return _tar(root, ("././@LongLink", tarfile.GNUTYPE_LONGNAME, 8 * 2**20, "", io.BytesIO(bytes(8 * 2**20))))


@bad("archive {root}/data.tar.gz: more than 1000000 members or 68719476736 bytes, unpacked (at padding.bin)")
def a_tar_bomb_beside_the_images(root, patch):
    root.mkdir()
    header = tarfile.TarInfo("padding.bin")
    header.size = 2**40
    (root / "data.tar.gz").write_bytes(gzip.compress(header.tobuf()))
    return root / "data.tar.gz"


@bad("archive {root}/data.zip: more than 1000000 members or 68719476736 bytes, unpacked (at ")
def a_zip_bomb_of_overlapping_members(root, patch):
    """Fifield, A better zip bomb, WOOT 2019: one block of data, claimed by every entry of the directory."""
    root.mkdir()
    with zipfile.ZipFile(root / "data.zip", "w") as archive:
        archive.writestr("padding.bin", b"0")
        info = archive.infolist()[0]
        info.file_size = 2**32 - 2
        archive.filelist.extend([info] * 20)
    return root / "data.zip"


@bad("archive {root}/data.zip: damaged or not an archive: Bad CRC-32", f"(at {NAMES[0]})")
def a_zip_bomb_whose_member_lies_about_its_size(root, patch):
    root.mkdir()
    with zipfile.ZipFile(root / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(NAMES[0], bytes(2**24))
        archive.infolist()[0].file_size = 100
    return root / "data.zip"


@bad("archive {root}/data.zip: damaged or not an archive: compressed by method 12, expected deflate or none", f"(at {NAMES[0]})")
def a_zip_whose_compression_cannot_be_bounded(root, patch):
    root.mkdir()
    with zipfile.ZipFile(root / "data.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr(NAMES[0], bytes(1000))
    return root / "data.zip"


def _tar_of_one_header_a_member(root):
    """shutil.make_archive adds a second one, for the time, and tarfile itself notices where that is damaged."""
    write_tree(root / "tree")
    with tarfile.open(root / "data.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in NAMES:
            archive.add(root / "tree" / name, name)
    return root / "data.tar"


@bad("archive {root}/data.tar: damaged or not an archive: bad checksum")
def a_tar_with_a_damaged_header_in_the_middle(root, patch):
    """tarfile takes it for the end."""
    archive = _tar_of_one_header_a_member(root)
    content = bytearray(archive.read_bytes())
    content[content.index(NAMES[2].encode())] ^= 1
    archive.write_bytes(content)
    return archive


@bad("archive {root}/data.tar: damaged or not an archive: truncated header")
def a_tar_cut_short_in_a_header(root, patch):
    archive = _tar_of_one_header_a_member(root)
    content = archive.read_bytes()
    archive.write_bytes(content[: content.index(NAMES[2].encode()) + 100])
    return archive


@bad("archive {root}/data.tar: damaged or not an archive: empty header")
def a_tar_cut_short_between_two_members(root, patch):
    archive = _tar_of_one_header_a_member(root)
    content = archive.read_bytes()
    archive.write_bytes(content[: content.index(NAMES[2].encode())])
    return archive


@bad("archive {root}/data.tar: damaged or not an archive: data behind the mark of the end")
def a_tar_with_a_header_of_zeros(root, patch):
    """A block that a download left out; tarfile takes it for the end."""
    archive = _tar_of_one_header_a_member(root)
    content = bytearray(archive.read_bytes())
    place = content.index(NAMES[3].encode())
    content[place : place + 512] = bytes(512)
    archive.write_bytes(content)
    return archive


@bad("archive {root}/data.tar.gz: damaged or not an archive: CRC check failed")
def a_tar_gz_with_other_bytes_in_an_image(root, patch):
    """Which the image itself may not notice."""
    content = bytearray(gzip.compress(_tar_of_one_header_a_member(root).read_bytes(), compresslevel=0))
    content[content.index(NAMES[0].encode()) + 512 + 100] ^= 1
    (root / "data.tar.gz").write_bytes(content)
    return root / "data.tar.gz"


@bad(f"archive {{root}}/data.tar: damaged or not an archive: File name too long (at {'a' * 300}/{NAMES[0]}); download it again")
def a_tar_with_a_name_that_no_disk_takes(root, patch):
    root.mkdir()
    with tarfile.open(root / "data.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(f"{'a' * 300}/{NAMES[0]}"))
    return root / "data.tar"


@bad("archive {root}/data.tar: damaged or not an archive: ", f"(at {NAMES[0]}/{NAMES[1]}); download it again")
def a_tar_with_a_folder_that_is_a_file(root, patch):
    root.mkdir()
    with tarfile.open(root / "data.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(NAMES[0]))
        archive.addfile(tarfile.TarInfo(f"{NAMES[0]}/{NAMES[1]}"))
    return root / "data.tar"


@bad(f"1 bad file(s): {NAMES[0]} (a link or a device, expected a plain file)")
def a_tar_with_a_sparse_member_that_lies_about_its_size(root, patch):
    """It claims 4 bytes and unpacks to 2 MiB."""
    root.mkdir()
    header = bytearray(tarfile.TarInfo(NAMES[0]).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"%011o\0" % 2**21  # in the archive
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (0, 2**21)
    header[483:495] = b"%011o\0" % 4
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (root / "data.tar").write_bytes(bytes(header) + bytes([1]) * 2**21 + bytes(10240))
    return root / "data.tar"


@bad("archive {root}/data.zip: damaged or not an archive: ")
def a_zip_with_a_name_that_is_no_text(root, patch):
    root.mkdir()
    with zipfile.ZipFile(root / "data.zip", "w") as archive:
        archive.writestr("é.png", b"")
    (root / "data.zip").write_bytes((root / "data.zip").read_bytes().replace("é".encode(), b"\xff\xff"))
    return root / "data.zip"


@bad(f"1 bad file(s): {NAMES[0]} (not a plain file)")
def a_pipe_among_the_images(root, patch):
    (write_tree(root) / NAMES[0]).unlink()
    os.mkfifo(root / NAMES[0])  # reading it would wait for ever
    return root


@bad(f"1 bad file(s): {NAMES[0]} (not a plain file)")
def a_link_to_a_device_among_the_images(root, patch):
    (write_tree(root) / NAMES[0]).unlink()
    (root / NAMES[0]).symlink_to("/dev/zero")  # reading it would never end
    return root


@bad(f"1 bad file(s): {NAMES[0]} (cannot be read: No such file or directory)")
def a_link_to_nothing_among_the_images(root, patch):
    (write_tree(root) / NAMES[0]).unlink()
    (root / NAMES[0]).symlink_to("nowhere")
    return root


@bad("data {root}/own.csv: 1 bad file(s): /dev/zero (not a plain file)")
def a_manifest_of_a_device(root, patch):
    return _manifest(root, "a.png,anna,0,40", "/dev/zero,berta,1,40")


@pytest.mark.parametrize(("make", "fragments"), ROWS)
def test_bad_data_is_one_error_that_names_the_thing(make, fragments, tmp_path, monkeypatch, own_cache):
    path = make(tmp_path / "data", monkeypatch)
    with pytest.raises(DataError) as caught:
        load_dataset(path, 32)
    message = str(caught.value)
    for fragment in fragments:
        assert fragment.format(root=tmp_path / "data") in message
    assert "\n" not in message
    monkeypatch.undo()
    assert not list(own_cache.glob("images/*"))


def test_a_member_that_lies_about_its_size_is_not_unpacked_beyond_it(tmp_path, own_cache):
    path = a_zip_bomb_whose_member_lies_about_its_size(tmp_path / "data", None)
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            load_dataset(path, 32)
        assert tracemalloc.get_traced_memory()[1] < 2**22  # it would be 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "message"), [("SOB_M_DC-14-1001-40-001.png", "patient 1001 stands under more than one class"), ("holiday.png", "holiday.png")]
)
def test_what_the_names_tell_is_found_before_anything_is_decoded(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        load_dataset(write_tree(tmp_path, (*NAMES, name)), 32, progress=lambda *_: pytest.fail("decoded"))


def test_a_table_of_nothing_is_an_error():
    with pytest.raises(DataError, match="the data set holds no image"):
        build_table([])


# --- splits ----------------------------------------------------------------------------------------------------------

# three patients a class; patient 1 has two slide folders
TABLE = table_of(*slides("B_A-14-1", "B_A-14-1CD", "B_A-14-2", "B_A-14-3", "M_DC-14-4", "M_DC-14-5", "M_DC-14-6"))
B1, B1CD, B2, B3 = (f"SOB_B_A_14-{slide}" for slide in ("1", "1CD", "2", "3"))
M4, M5, M6 = (f"SOB_M_DC_14-{number}" for number in (4, 5, 6))


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (
            {"folds": [[B1, B1CD, M4, M5, M6], [B2, B3]]},
            DataError,
            "fold 2 (2 slides) holds no slide of class malignant; expected every class",
        ),
        ({"folds": [[B1, B1CD, M4, M5], [B2, M6]], "test": [B3]}, DataError, "test (1 slides) holds no slide of class malignant"),
        ({"folds": [[B1, B1CD, M4, M5], [B2, B3, M6], []]}, DataError, "fold 3 (0 slides) holds no slide of class benign, malignant"),
        ({"folds": [[B1, B1CD, B2, B3, M4, M5, M6]]}, DataError, "1 folds; expected at least 2"),
        (
            {"folds": [[B1, B2, M4], [B1CD, B3, M5, M6]]},
            LeakageError,
            "patient 1 (fold 1, fold 2) on both sides; keep each patient in one part",
        ),
        ({"folds": [[B1, M4], [B2, M5]], "test": [B1CD, B3, M6]}, LeakageError, "patient 1 (fold 1, test) on both sides"),
        (
            {"folds": [[B1, B2, M4], [B1CD, B3, M5, M6]], "grouping": "Patient"},
            DataError,
            "grouping 'Patient': expected one of patient, slide",
        ),
        ({"folds": [[B1, B1CD, B2, M4], [B2, B3, M5, M6]]}, LeakageError, f"{B2} listed more than once; expected every slide in"),
        ({"folds": [[B1, B1CD, M4, M5], [B2, M6]], "test": [M4, B3]}, LeakageError, f"{M4} listed more than once"),
        ({"folds": [[B1, B1CD, M4], [B2, M5]]}, DataError, f"do not fit the data: not in the splits: [{B3}, {M6}], not in the data: []"),
        ({"folds": [["anna", "berta"], ["carla", "dora"]]}, DataError, "not in the data: [anna, berta, carla, dora]; use the data"),
        ({"test": [B1]}, DataError, 'expected JSON {"folds": [[patient, …], …], "test": [patient, …], "grouping": "patient"}, a table'),
        ([B1, M4], DataError, "expected JSON"),
        ({"folds": 5}, DataError, "expected JSON"),
    ],
)
def test_bad_splits_are_one_error_that_names_the_offenders(tmp_path, content, kind, message):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        build_splits(TABLE, str(path), folds=2, test_fraction=0.0, grouping="patient", seed=0)
    assert type(caught.value) is kind
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("official:6", "splits official:6: expected official:1 to official:5"),
        ("official:0", "splits official:0: expected official:1 to official:5"),
        ("official:one", "splits official:one: expected official:1 to official:5"),
        ("official:1", f"splits official:1: {B1}, {B1CD}, {B2}, {B3}, {M4} and 2 more not in the official folds"),
        ("/nowhere/splits.json", "splits /nowhere/splits.json: cannot read it: No such file or directory; pass a file, or official:1"),
    ],
)
def test_a_splits_source_that_cannot_be_used_is_an_error(source, message):
    with pytest.raises(DataError, match=re.escape(message)):
        build_splits(TABLE, source, folds=2, test_fraction=0.0, grouping="patient", seed=0)


def test_splits_that_are_not_json_are_an_error(tmp_path):
    (tmp_path / "splits.json").write_bytes(b"\xff not json")
    with pytest.raises(DataError, match=f"splits {tmp_path}/splits.json: expected JSON"):
        build_splits(TABLE, str(tmp_path / "splits.json"), folds=2, test_fraction=0.0, grouping="patient", seed=0)


@pytest.mark.parametrize(
    ("folds", "test_fraction", "grouping", "message"),
    [
        (
            4,
            0.0,
            "patient",
            "3 patients of class benign for 4 folds: expected at least 4, so that every class stands in every part; lower --folds",
        ),
        (3, 0.3, "patient", "3 patients of class benign for 3 folds and a sealed test: expected at least 4"),
        (4, 0.0, "slide", "3 slides of class malignant for 4 folds: expected at least 4"),
        (
            2,
            0.6,
            "patient",
            "1 patients of class benign for 2 folds after 4 are sealed: expected at least 2, so that every class stands in every part; lower --folds",
        ),
        (2, 0.89, "patient", "patients of class benign for 2 folds after 4 are sealed"),
        (2, 0.0, "hospital", "grouping 'hospital': expected one of patient, slide"),
    ],
)
def test_too_few_patients_for_the_splits_asked_are_an_error(folds, test_fraction, grouping, message):
    with pytest.raises(DataError, match=re.escape(message)):
        make_splits(TABLE, folds=folds, test_fraction=test_fraction, grouping=grouping, seed=0)


def test_a_sealed_test_too_small_for_both_classes_is_an_error():
    table = table_of(*slides(*(f"B_A-14-{number}" for number in range(1, 4)), *(f"M_DC-14-{number}" for number in range(4, 31))))
    with pytest.raises(DataError, match="no patient of class benign among the 2 that --test-fraction 0.05 seals: expected all classes"):
        make_splits(table, folds=2, test_fraction=0.05, grouping="patient", seed=0)


@pytest.mark.parametrize(("folds", "test_fraction", "grouping"), [(3, 0.0, "patient"), (3, 0.0, "slide"), (2, 0.3, "patient")])
def test_just_enough_slides_for_the_splits_asked_are_enough(folds, test_fraction, grouping):
    splits = make_splits(TABLE, folds=folds, test_fraction=test_fraction, grouping=grouping, seed=0)
    check_splits(splits, TABLE)
    assert len(splits.folds) == folds and bool(splits.test) == bool(test_fraction)
