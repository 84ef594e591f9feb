"""The decoded cache: built once, whole or not at all, the same from any source, and true to the files."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data import store
from data.cache import atomic_folder, cache_root
from data.dataset import same_data, same_images
from data.errors import DataError, InputError
from data.sources import breakhis_row
from data.store import load_dataset
from mmnet.features import with_features
from tests.data.trees import NAMES, write_png, write_tree
from tests.mmnet.tiny import CPU, tiny_config


def test_the_cache_stands_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"
    monkeypatch.delenv("MMNET_CACHE")
    assert cache_root() == tmp_path / "mmnet-tune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "mmnet-tune"


def assert_pixels_are_those_of_the_files(dataset, tree):
    for path, pixels in zip(dataset.table.path.tolist(), dataset.images, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(tree / path)))


def test_pixels_stand_in_table_order(tmp_path):
    tree = write_tree(tmp_path, NAMES[::-1])
    dataset = load_dataset(tree, 32)
    assert dataset.images.shape == (4, 32, 32, 3) and dataset.images.dtype == np.uint8
    assert_pixels_are_those_of_the_files(dataset, tree)


def test_pixels_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        load_dataset(write_tree(tmp_path), 32).images[0] = 0


def _as_zip(tree, place):
    return shutil.make_archive(str(place / "data"), "zip", tree)


def _as_tar(tree, place):
    return shutil.make_archive(str(place / "data"), "gztar", tree)


def _as_manifest(tree, place):
    lines = ["path,slide,label,magnification,patient,subtype"]
    for file in tree.rglob("*.png"):
        path, magnification, slide, patient, subtype, label = breakhis_row(file.relative_to(place).as_posix())
        lines.append(f"{path},{slide},{label},{magnification}X,{patient},{subtype}")
    (place / "data.csv").write_text("\n".join(lines))
    return place / "data.csv"


def _nested(tree, place):
    return shutil.copytree(tree, place / "deep" / "BreaKHis_v1" / "BreaKHis_v1").parents[1]


@pytest.mark.parametrize("other", [_as_zip, _as_tar, _as_manifest, _nested])
def test_every_source_of_the_same_images_is_the_same_data_set(tmp_path, other):
    tree = write_tree(tmp_path / "tree")
    one, two = load_dataset(tree, 32), load_dataset(other(tree, tmp_path), 32)
    assert one.fingerprint == two.fingerprint
    assert one.table.slide.tolist() == two.table.slide.tolist()
    np.testing.assert_array_equal(one.images, two.images)


def decoded_again(*_):
    """The progress of a load that is to decode nothing."""
    pytest.fail("decoded again")


def test_a_second_load_decodes_nothing(tmp_path):
    tree = write_tree(tmp_path)
    first = load_dataset(tree, 32)
    second = load_dataset(tree, 32, progress=decoded_again)
    assert (second.fingerprint, second.name, second.synthetic) == (first.fingerprint, str(tree), False)
    assert second.table.path.tolist() == first.table.path.tolist()
    np.testing.assert_array_equal(second.images, first.images)


def test_the_fingerprint_is_the_same_at_every_size(tmp_path):
    tree = write_tree(tmp_path)
    assert load_dataset(tree, 32).fingerprint == load_dataset(tree, 48).fingerprint


def test_a_changed_image_is_decoded_again_and_changes_the_fingerprint(tmp_path):
    tree = write_tree(tmp_path)
    before = load_dataset(tree, 32)
    pixels = before.images[0].copy()
    write_png(tree / before.table.path[0], seed=99)
    os.utime(tree / before.table.path[0], ns=(1, 1))
    after = load_dataset(tree, 32)
    assert after.fingerprint != before.fingerprint
    assert (after.images[0] != pixels).any()


def test_what_became_of_each_file_is_told_as_long_as_the_cache_holds_what_was_before(tmp_path, own_cache):
    tree = write_tree(tmp_path)
    before = load_dataset(tree, 32)
    assert store.changed_files(before.fingerprint, before.fingerprint) == []
    (tree / NAMES[0]).unlink()
    write_png(tree / NAMES[1], seed=99)
    write_png(tree / "SOB_B_F-14-1002-40-002.png", seed=98)
    after = load_dataset(tree, 32)
    told = [f"{NAMES[0]} is gone", "SOB_B_F-14-1002-40-002.png is new", f"{NAMES[1]} is another image"]
    assert store.changed_files(after.fingerprint, before.fingerprint) == told
    assert store.changed_files(load_dataset(tree, 48).fingerprint, before.fingerprint) == told  # at any size
    for meta in own_cache.rglob("meta.json"):
        meta.write_text("damaged")
    assert store.changed_files(after.fingerprint, before.fingerprint) == []


def test_a_touched_file_is_checked_again_but_is_the_same_data(tmp_path, own_cache):
    tree = write_tree(tmp_path)
    before = load_dataset(tree, 32)
    os.utime(tree / NAMES[0], ns=(1, 1))
    seen = []
    assert load_dataset(tree, 32, progress=lambda *counts: seen.append(counts)).fingerprint == before.fingerprint
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("name", "same_name"),
    [
        ("SOB_B_A-14-1001CD-40-001.png", False),  # another slide
        ("SOB_B_A-14-1001-100-001.png", False),  # magnification
        ("SOB_M_DC-14-1001-40-001.png", False),  # label
        ("SOB_B_F-14-1001-40-001.png", False),  # subtype, of which a slide has one
        ("SOB_B_A-14-1001-40-009.png", True),  # place among the images of the slide
    ],
)
def test_another_name_is_another_data_set_and_what_it_says_of_the_image_other_contents(tmp_path, name, same_name):
    tree = write_tree(tmp_path, ["SOB_B_A-14-1001-40-001.png", *NAMES[1:]])
    before = load_dataset(tree, 32).fingerprint
    (tree / "SOB_B_A-14-1001-40-001.png").rename(tree / name)
    after = load_dataset(tree, 32).fingerprint
    assert not same_data(before, after) and same_images(before, after) == same_name


@pytest.mark.parametrize(("column", "same_name"), [("patient", False), ("subtype", True)])
def test_a_manifest_that_says_something_else_of_an_image_is_another_data_set(tmp_path, column, same_name):
    write_tree(tmp_path / "tree")
    found = []
    for value in ("one", "other"):
        lines = [f"tree/{name},p{number},{number % 2},40,{value}{number}" for number, name in enumerate(NAMES)]
        (tmp_path / "own.csv").write_text(
            "\n".join([f"path,{'slide' if column == 'patient' else 'patient'},label,magnification,{column}", *lines])
        )
        found.append(load_dataset(tmp_path / "own.csv", 32).fingerprint)
    assert not same_data(*found) and same_images(*found) == same_name


def test_two_images_of_a_slide_that_change_names_are_another_data_set_with_other_features(tmp_path, own_cache):
    """Every view of the slide is another one then, and features of before would stand under the wrong names."""
    names = [f"SOB_B_A-14-1001-40-00{number}.png" for number in (1, 2)]
    tree = write_tree(tmp_path, [*names, "SOB_M_DC-14-2001-40-001.png"])
    before = load_dataset(tree, 32)
    frozen = tiny_config({"model.frozen": True})
    features = with_features(before, frozen, CPU).features.copy()
    for old, new in zip((*names, "other"), ("other", names[0], names[1]), strict=True):
        (tree / old).rename(tree / new)
    after = load_dataset(tree, 32)
    assert not same_data(before.fingerprint, after.fingerprint) and same_images(before.fingerprint, after.fingerprint)
    told = [f"{name} is another image" for name in names]
    assert store.changed_files(after.fingerprint, before.fingerprint) == told
    np.testing.assert_array_equal(with_features(after, frozen, CPU).features, features[[1, 0, 2]])


def test_a_fingerprint_of_an_earlier_version_says_nothing_about_names():
    assert same_data("aa", "aa-11") and same_data("aa-11", "aa-11") and not same_data("aa-11", "aa-22")
    assert same_images("aa-11", "aa-22") and not same_data("aa", "bb-11") and not same_images("aa", "bb-11")


def test_progress_counts_every_readable_name_once(tmp_path, own_cache):
    tree = write_tree(tmp_path)
    write_png(tree / "holiday.png", 0)
    (tree / NAMES[0]).write_bytes(b"damaged")
    seen = []
    load_dataset(tree, 32, "skip", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_skip_leaves_out_exactly_the_bad_files(tmp_path):
    tree = write_tree(tmp_path, (*NAMES, "SOB_B_A-14-1005-40-001.png", "SOB_M_DC-14-1006-40-001.png"))
    write_png(tree / "holiday.png", 50)
    (tree / NAMES[0]).write_bytes(b"damaged")
    write_png(tree / NAMES[2], 51, side=8)
    dataset = load_dataset(tree, 32, "skip")
    assert sorted(dataset.table.path) == sorted({*os.listdir(tree)} - {"holiday.png", NAMES[0], NAMES[2]})
    assert_pixels_are_those_of_the_files(dataset, tree)


def test_what_was_left_out_is_named_with_its_reason_also_from_a_warm_cache(tmp_path):
    tree = write_tree(tmp_path, (*NAMES, "SOB_B_A-14-1005-40-001.png", "SOB_M_DC-14-1006-40-001.png"))
    write_png(tree / "holiday.png", 50)
    (tree / NAMES[0]).write_bytes(b"damaged")
    shutil.copy(tree / NAMES[1], tree / NAMES[2])
    cold = load_dataset(tree, 32, "skip")
    warm = load_dataset(tree, 32, "skip", decoded_again)
    assert warm.skipped == cold.skipped and set(cold.skipped) == {"holiday.png", *NAMES[:3]}
    assert "duplicate" in cold.skipped[NAMES[1]] and "duplicate" not in cold.skipped[NAMES[0]] and all(cold.skipped.values())
    assert cold.select_rows(np.array([0])).skipped == cold.skipped


def test_where_nothing_is_left_out_nothing_is_named(tmp_path):
    tree = write_tree(tmp_path)
    shutil.copytree(tree, tree / "BreaKHis_v1")  # second copies are not bad files
    assert load_dataset(tree, 32, "skip").skipped == load_dataset(tree, 32).skipped == {}


def test_skip_is_no_excuse_once_nothing_is_left(tmp_path):
    tree = write_tree(tmp_path, NAMES[:2])
    for name in NAMES[:2]:
        (tree / name).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"2 bad file\(s\)"):
        load_dataset(tree, 32, "skip")


def test_a_skipping_load_does_not_excuse_a_strict_one(tmp_path):
    tree = write_tree(tmp_path)
    (tree / NAMES[0]).write_bytes(b"damaged")
    load_dataset(tree, 32, "skip")
    with pytest.raises(DataError, match=NAMES[0]):
        load_dataset(tree, 32, "error")


def test_copies_within_a_slide_are_kept_once(tmp_path):
    tree = write_tree(tmp_path)
    shutil.copytree(tree, tree / "BreaKHis_v1")
    shutil.copy(tree / NAMES[0], tree / NAMES[0].replace("-001.png", "-002.png"))
    assert len(load_dataset(tree, 32).table) == 4


def test_a_copy_in_another_folder_of_the_patient_stays_once_in_each(tmp_path):
    tree = write_tree(tmp_path)
    sister = NAMES[0].replace("1001", "1001CD")
    shutil.copy(tree / NAMES[0], tree / sister)
    shutil.copytree(tree, tree / "BreaKHis_v1")
    assert sorted(load_dataset(tree, 32).table.slide)[:2] == ["SOB_B_A_14-1001", "SOB_B_A_14-1001CD"]
    assert len(load_dataset(tree, 32).table) == 5


def test_a_copy_across_patients_is_nobodys_image(tmp_path):
    tree = write_tree(tmp_path)
    shutil.copy(tree / NAMES[0], tree / NAMES[1])
    shutil.copy(tree / NAMES[0], tree / NAMES[0].replace("-40-", "-100-"))
    with pytest.raises(
        DataError, match=rf"3 bad file\(s\).*{NAMES[0]} \(exact duplicate of {NAMES[1]}, which belongs to another patient\)"
    ):
        load_dataset(tree, 32)
    assert sorted(load_dataset(tree, 32, "skip").table.path) == sorted(NAMES[2:])


def test_a_copy_is_seen_by_its_pixels_also_in_another_format(tmp_path):
    tree = write_tree(tmp_path)
    Image.open(tree / NAMES[0]).save(tree / NAMES[1].replace(".png", ".tif"))
    with pytest.raises(DataError, match=r"2 bad file\(s\).*which belongs to another patient"):
        load_dataset(tree, 32)


def test_another_image_of_the_same_name_is_named(tmp_path):
    tree = write_tree(tmp_path / "original")
    shutil.copytree(tree, tmp_path / "z_normalised")
    write_png(tmp_path / "z_normalised" / NAMES[0], seed=77)
    with pytest.raises(
        DataError, match=rf"1 bad file\(s\): z_normalised/{NAMES[0]} \(another image than original/{NAMES[0]}, which has its name"
    ):
        load_dataset(tmp_path, 32)


def test_images_of_16_bits_are_scaled_by_one_rule_which_is_told(tmp_path):
    tree = write_tree(tmp_path)
    rng = np.random.default_rng(5)
    for name, largest in zip(NAMES, (1100, 3000, 2900, 1500), strict=True):  # of a camera of 12 bits
        values = np.append(rng.integers(0, largest, 32 * 32 - 2), [largest] * 2).reshape(32, 32).astype(np.uint16)
        Image.fromarray(values).save(tree / name)
    dataset = load_dataset(tree, 32)
    assert dataset.notes == ("16- or 32-bit images hold values up to 3000: 0 to 4095 became 0 to 255",)
    assert dataset.images.max((1, 2, 3)).tolist() == [round(value * 255 / 4095) for value in (1100, 3000, 2900, 1500)]
    assert load_dataset(tree, 32, progress=decoded_again).notes == dataset.notes


def test_a_hot_pixel_darkens_no_data_set(tmp_path):
    tree = write_tree(tmp_path)
    for seed, name in enumerate(NAMES):
        values = np.random.default_rng(seed).integers(2000, 4000, (32, 32)).astype(np.uint16)
        values[0, 0] = 65535 if name == NAMES[1] else 4000
        Image.fromarray(values).save(tree / name)
    dataset = load_dataset(tree, 32)
    assert "0 to 4095 became 0 to 255" in dataset.notes[0] and 180 < dataset.images.mean() < 195


def test_images_that_are_dark_beside_the_others_are_told(tmp_path):
    tree = write_tree(tmp_path)
    for name, white in zip(NAMES, (4095, 65535, 4095, 65535), strict=True):  # of two scanners
        Image.fromarray(np.random.default_rng(white).permutation(np.linspace(0, white, 32 * 32)).reshape(32, 32).astype(np.uint16)).save(
            tree / name
        )
        shifted = np.asarray(Image.open(tree / name)).astype(np.uint16)
        Image.fromarray(np.roll(shifted, NAMES.index(name))).save(tree / name)
    scale, dark = load_dataset(tree, 32).notes
    assert "2 of 4 hold less than an eighth of it" in scale and dark.startswith("2 of 4 images have no value above 64 of 255")


def test_another_folder_whose_files_have_the_same_names_sizes_and_times_is_another_data_set(tmp_path):
    trees = [tmp_path / "original", tmp_path / "normalised"]
    for seed, tree in enumerate(trees):
        tree.mkdir()
        for number, name in enumerate(NAMES):
            file = tree / name.replace(".png", ".tif")
            Image.fromarray(np.random.default_rng(10 * seed + number).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file)
            os.utime(file, (10**9, 10**9))
    first, second = (load_dataset(tree, 32) for tree in trees)
    assert first.fingerprint != second.fingerprint and (first.images[:] != second.images[:]).any()


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_link_to_another_persons_image_is_as_good_as_a_copy_of_it(tmp_path, link):
    tree = write_tree(tmp_path)
    (tree / NAMES[1]).unlink()
    link(tree / NAMES[0], tree / NAMES[1])
    with pytest.raises(DataError, match=r"2 bad file\(s\).*which belongs to another patient"):
        load_dataset(tree, 32)


def test_in_a_manifest_file_names_may_be_the_same_in_every_folder(tmp_path):
    lines = ["path,patient,label,magnification"]
    for seed, (patient, magnification) in enumerate((patient, m) for patient in "abcd" for m in (40, 100)):
        folder = tmp_path / patient / str(magnification)
        folder.mkdir(parents=True)
        write_png(folder / "001.png", seed=seed)
        lines.append(f"{patient}/{magnification}/001.png,{patient},{int(patient > 'b')},{magnification}")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    assert len(load_dataset(tmp_path / "own.csv", 32).table) == 8


def test_what_is_left_out_is_counted_and_named(tmp_path):
    tree = write_tree(tmp_path)
    Image.open(tree / NAMES[0]).save(tree / NAMES[0].replace(".png", ".bmp"))
    Image.open(tree / NAMES[1]).save(tree / NAMES[1].replace("-001.png", "-009.png"))
    (tree / "SOB_B_A_14-9").symlink_to(tree / "gone")
    unread, copies = load_dataset(tree, 32).notes
    assert unread.startswith("2 files below it are not read (SOB_B_A-14-") and "SOB_B_A_14-9" in unread
    assert copies.startswith("1 exact copies within a slide and magnification are left out (")


def test_a_data_set_that_is_mostly_black_and_white_is_told(tmp_path):
    tree = write_tree(tmp_path)
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 2, (32, 32, 3), dtype=np.uint8) * 255
        Image.fromarray(pixels).save(tree / name)
    (note,) = load_dataset(tree, 32).notes
    assert note.startswith("100% of all values are black or white")


def test_a_failed_build_leaves_nothing_behind(tmp_path, own_cache):
    tree = write_tree(tmp_path)
    (tree / NAMES[3]).write_bytes(b"damaged")
    with pytest.raises(DataError):
        load_dataset(tree, 32)
    assert list((own_cache / "images").iterdir()) == []


def test_a_cache_without_its_last_file_is_built_again(tmp_path, own_cache):
    tree = write_tree(tmp_path)
    load_dataset(tree, 32)
    (folder,) = (own_cache / "images").iterdir()
    (folder / "meta.json").unlink()
    _other_pixels(folder)
    assert_whole_and_true_to(tree, load_dataset(tree, 32), own_cache)


@pytest.mark.parametrize("file", ["images.npy", "meta.json", "table.npz"])
def test_a_damaged_cache_is_an_error_that_says_what_to_remove(tmp_path, own_cache, file):
    tree = write_tree(tmp_path)
    load_dataset(tree, 32)
    (folder,) = (own_cache / "images").iterdir()
    (folder / file).write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"cache {folder}: damaged .*; remove that folder, it will be built again"):
        load_dataset(tree, 32)


KILLED = """
import os, signal, sys
from data.store import load_dataset
load_dataset(sys.argv[1], 32, progress=lambda done, total: done < 2 or os.kill(os.getpid(), signal.SIGKILL))
"""


def assert_whole_and_true_to(tree, dataset, cache):
    """The data set of a tree of four, and its folder the only one in the cache, with nothing else in it."""
    assert len(dataset.table) == 4
    assert_pixels_are_those_of_the_files(dataset, tree)
    (folder,) = (cache / "images").iterdir()
    assert sorted(os.listdir(folder)) == ["files.npz", "images.npy", "meta.json", "table.npz"]


def test_a_cache_is_complete_and_holds_nothing_else(tmp_path, own_cache):
    tree = write_tree(tmp_path)
    assert_whole_and_true_to(tree, load_dataset(tree, 32), own_cache)


def _counted(tree):
    """The data set of a tree, and the counts of each image that was decoded for it."""
    seen = []
    return load_dataset(tree, 32, progress=lambda *counts: seen.append(counts)), seen


def _packed(tree):
    return _as_tar(tree, tree.parent)


@pytest.mark.parametrize("of", [Path, _packed])
def test_a_killed_build_is_never_seen_and_what_it_left_goes_with_the_next(tmp_path, own_cache, of):
    tree = write_tree(tmp_path / "tree")
    source = of(tree)
    assert subprocess.run([sys.executable, "-c", KILLED, str(source)], check=False).returncode == -signal.SIGKILL
    (left,) = (path for path in (own_cache / "images").iterdir() if path.is_dir())
    assert left.name.startswith(".")
    dataset, seen = _counted(source)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert_whole_and_true_to(tree, dataset, own_cache)


@pytest.mark.parametrize("of", [Path, _packed])
def test_an_interrupted_build_leaves_nothing(tmp_path, own_cache, of):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_dataset(of(write_tree(tmp_path / "tree")), 32, progress=stop)
    assert list((own_cache / "images").iterdir()) == []


def _other_pixels(folder):
    images = np.load(folder / "images.npy", mmap_mode="r+")
    images[:] += 1
    images.flush()


def test_of_two_loads_at_once_one_decodes_and_the_other_waits(tmp_path, own_cache):
    tree = write_tree(tmp_path)
    second: list = []
    others = []

    def start_another(done, total):
        if not others:
            others.append(Thread(target=lambda: second.extend(_counted(tree))))
            others[0].start()

    first = load_dataset(tree, 32, progress=start_another)
    others[0].join()
    dataset, seen = second
    assert seen == []
    assert_whole_and_true_to(tree, first, own_cache)
    np.testing.assert_array_equal(first.images, dataset.images)


def test_the_loser_of_a_race_keeps_the_winners_folder(tmp_path):
    with atomic_folder(tmp_path / "built") as late:
        (late / "file").write_text("late")
        (tmp_path / "built").mkdir()
        (tmp_path / "built" / "file").write_text("first")
    assert (tmp_path / "built" / "file").read_text() == "first"
    assert os.listdir(tmp_path) == ["built"]


def test_a_cache_that_cannot_be_written_says_which(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=f"cache {tmp_path}/file/images: cannot write there: .*; set MMNET_CACHE"):
        load_dataset(write_tree(tmp_path / "tree"), 32)


def test_a_disk_too_small_is_refused_before_decoding(tmp_path, monkeypatch, own_cache):
    free = 2**20 + 4 * 32 * 32 * 3 - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(InputError, match=f"disk of {own_cache}.* MiB free, .* MiB needed; free some space"):
        load_dataset(write_tree(tmp_path), 32, progress=lambda *_: pytest.fail("decoded"))
    assert list((own_cache / "images").iterdir()) == []


def test_a_disk_just_large_enough_is_accepted(tmp_path, monkeypatch, own_cache):
    free = 2**20 + 4 * 32 * 32 * 3
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert len(load_dataset(write_tree(tmp_path), 32).table) == 4


def test_an_archive_is_unpacked_only_where_the_disk_takes_its_images(tmp_path, monkeypatch, own_cache):
    archive = _packed(write_tree(tmp_path / "tree"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3000))  # an image has more bytes
    monkeypatch.setattr(tarfile.TarFile, "extract", lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(InputError, match=f"disk of {own_cache}.* MiB free, .* MiB needed; free some space"):
        load_dataset(archive, 32)
    assert list((own_cache / "images").iterdir()) == []


def test_a_disk_that_fills_up_while_unpacking_is_no_damaged_archive(tmp_path, monkeypatch, own_cache):
    archive = _packed(write_tree(tmp_path / "tree"))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tarfile.TarFile, "extract", full)
    with pytest.raises(InputError, match=f"cache {own_cache}/images/.*: No space left on device; free some space or set MMNET_CACHE"):
        load_dataset(archive, 32)
    assert list((own_cache / "images").iterdir()) == []


def test_a_disk_that_fills_up_while_writing_says_so_and_leaves_nothing(tmp_path, monkeypatch, own_cache):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match=f"cache {own_cache}/images/.*: No space left on device; free some space or set MMNET_CACHE"):
        load_dataset(write_tree(tmp_path), 32)
    assert list((own_cache / "images").iterdir()) == []


def test_real_tiles_load_and_are_not_synthetic(real_dataset):
    assert real_dataset.images.shape == (len(real_dataset.table), 64, 64, 3)
    assert len(real_dataset.table) == 610 and set(real_dataset.table.magnification.tolist()) == {200}
    assert real_dataset.table.counts()["slides"] == 35
    assert not real_dataset.synthetic
    assert real_dataset.images.reshape(610, -1).std(1).min() > 5  # every tile shows something
