"""Whole files in an object store, and what it says when that does not work."""

import re

import pytest

from data.errors import InputError, StorageError
from study.bucket import Bucket
from tests.object_store import google_store, object_store  # noqa: F401


@pytest.fixture(params=["object_store", "google_store"])
def store(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def bucket(store):
    return Bucket(store.url("a/b"))


def test_a_file_goes_up_and_comes_down_under_its_name(bucket, tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    bucket.put(tmp_path / "file", "trials/0001/epochs.jsonl")
    (tmp_path / "file").write_bytes(b"123456")
    bucket.put(tmp_path / "file", "trials/0002/epochs.jsonl")
    assert {name: size for name, (size, _) in bucket.files().items()} == {"trials/0001/epochs.jsonl": 5, "trials/0002/epochs.jsonl": 6}
    assert list(bucket.files("trials/0002")) == ["trials/0002/epochs.jsonl"] and bucket.files("trials/000") == {}
    assert bucket.below("trials").files().keys() == {"0001/epochs.jsonl", "0002/epochs.jsonl"}
    assert bucket.get("trials/0001/epochs.jsonl", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == b"12345" and [p.name for p in (tmp_path / "new").iterdir()] == ["copy"]


def test_an_object_is_replaced_and_removed(bucket, tmp_path):
    for content in (b"first", b""):
        (tmp_path / "file").write_bytes(content)
        bucket.put(tmp_path / "file", "x")
    assert bucket.files()["x"][0] == 0
    bucket.remove("x")
    bucket.remove("x")
    assert bucket.files() == {} and not bucket.get("x", tmp_path / "copy") and not (tmp_path / "copy").exists()


def test_a_file_of_many_parts_arrives_whole(bucket, tmp_path):
    content = bytes(range(256)) * 100_000
    (tmp_path / "file").write_bytes(content)
    bucket.put(tmp_path / "file", "checkpoint.pt")
    assert bucket.get("checkpoint.pt", tmp_path / "copy") and (tmp_path / "copy").read_bytes() == content


def test_the_endpoint_may_come_from_the_environment(object_store, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("AWS_ENDPOINT_URL", object_store.endpoint)
    (tmp_path / "file").write_bytes(b"1")
    Bucket("s3://studies/p").put(tmp_path / "file", "x")
    assert list(Bucket(object_store.url("p")).files()) == ["x"]


def test_heads_are_the_files_of_one_name_one_folder_down(bucket, tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    for name in ("s/study.json", "t/study.json", "u/other", "v/w/study.json", "study.json"):
        bucket.put(tmp_path / "file", name)
    assert bucket.heads("study.json").keys() == {"s/study.json", "t/study.json"}


def test_a_small_object_is_read_with_its_age(bucket):
    bucket.write(b"process 1 on here", ".lock")
    text, age = bucket.read(".lock")
    assert text == "process 1 on here" and -2 < age < 600 and bucket.read("other") is None


def test_a_place_in_a_bucket_that_does_not_exist_is_not_an_empty_one(store):
    for act in (Bucket(store.url(bucket="elsewhere")).files, lambda: Bucket(store.url(bucket="elsewhere")).heads("x")):
        with pytest.raises(StorageError, match="no such bucket: elsewhere; make the bucket first, or correct its name$"):
            act()


@pytest.mark.parametrize("act", [lambda b, p: b.files(), lambda b, p: b.heads("x"), lambda b, p: b.put(p, "x")])
def test_a_bucket_that_does_not_exist_is_one_line_that_says_so(object_store, tmp_path, act):  # noqa: F811
    (tmp_path / "file").write_bytes(b"1")
    url = object_store.url("p", bucket="elsewhere")
    with pytest.raises(
        StorageError, match=re.escape(f"--output {url}: cannot ") + r".*make the bucket first, or correct its name$"
    ) as error:
        act(Bucket(url), tmp_path / "file")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_store_that_is_gone_is_one_line_that_says_so(object_store, tmp_path):  # noqa: F811
    (tmp_path / "file").write_bytes(b"1")
    bucket = Bucket(object_store.url("p"))
    bucket.put(tmp_path / "file", "x")
    object_store.stop()
    with pytest.raises(StorageError, match=r"s3://studies/p\?.*: cannot .* check the network and the endpoint") as error:
        bucket.files()  # one try takes 6 s
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host/x", "expected a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"),
        ("s3:///x", "expected a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"),
        ("s3://key:secret@bucket/x", "put them into the environment"),
        ("s3://bucket/x?secret_key=secret", "put them into the environment"),
    ],
)
def test_a_url_of_another_kind_and_one_with_credentials_is_refused(url, expected):
    with pytest.raises(InputError, match=re.escape(expected)) as error:
        Bucket(url)
    assert "secret@" not in str(error.value) and "=secret" not in str(error.value)


def test_an_option_that_pyarrow_does_not_know_is_an_error_that_names_it():
    with pytest.raises(StorageError, match="'regoin'"):
        Bucket("s3://bucket/x?regoin=eu-west-1").files()
