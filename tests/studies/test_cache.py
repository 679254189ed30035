import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxraug.errors import InputError
from cxraug.studies import cache as cache_module
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding, ImageError, encode, pixel_sha256, read_pixels
from cxraug.studies.manifest import concat, read_manifest

N = 10
SMALL = Encoding(16)


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    generator = np.random.default_rng(0)
    for i in range(N):
        Image.fromarray(generator.integers(0, 256, (20, 24), np.uint8)).save(data / f"{i}.png")
    rows = "".join(f"{i}.png,p{i // 2},A\n" for i in range(N))
    (data / "m.csv").write_text("image,patient_id,labels\n" + rows)
    return data


@pytest.fixture
def counted(monkeypatch):
    """Names of the images that are really decoded."""
    names, lock = [], threading.Lock()

    def read(path):
        with lock:
            names.append(path.name)
        return read_pixels(path)

    monkeypatch.setattr(cache_module, "read_pixels", read)
    return names


def test_rows_and_pixels_are_aligned(folder, tmp_path):
    m = read_manifest(folder / "m.csv")
    again, cache = build_cache(m, tmp_path / "c", SMALL)
    assert again is m
    assert cache.pixels.shape == (N, 16, 16)
    for row, path in enumerate(m.paths()):
        native = read_pixels(path)
        np.testing.assert_array_equal(cache.pixels[row], encode(native, SMALL))
        assert cache.sha[row] == pixel_sha256(native)
    some = cache.take([3, 1])
    np.testing.assert_array_equal(some.pixels, cache.pixels[[3, 1]])
    assert some.sha.tolist() == [cache.sha[3], cache.sha[1]]
    assert len(cache.take(np.arange(N) < 4)) == 4


def test_nothing_is_decoded_twice(folder, tmp_path, counted):
    m = read_manifest(folder / "m.csv")
    build_cache(m, tmp_path / "c", SMALL)
    assert len(counted) == N
    build_cache(m, tmp_path / "c", SMALL)
    assert len(counted) == N


def test_one_of_several_builds_and_the_others_wait(folder, tmp_path, counted, monkeypatch):
    """As training processes do that open the same generated set at once."""
    monkeypatch.setattr(cache_module, "CHUNK", 2)
    m = read_manifest(folder / "m.csv")
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: build_cache(m, tmp_path / "c", SMALL)[1].sha.tolist(), range(6)))
    assert found == [found[0]] * 6
    assert len(counted) == N


def test_what_changes_the_pixels_builds_anew(folder, tmp_path, counted):
    m = read_manifest(folder / "m.csv")
    build_cache(m, tmp_path / "c", SMALL)
    build_cache(m, tmp_path / "c", Encoding(16, "pad"))
    assert len(counted) == 2 * N
    Image.fromarray(np.zeros((21, 21), np.uint8)).save(folder / "4.png")
    _, cache = build_cache(m, tmp_path / "c", Encoding(16, "pad"))
    assert len(counted) == 3 * N
    assert (cache.pixels[4] == 0).all()
    _, cache = build_cache(m.take([1, 0]), tmp_path / "c", Encoding(16, "pad"))
    assert len(cache) == 2


def test_an_interrupted_build_goes_on_and_ends_the_same(folder, tmp_path, monkeypatch, counted):
    monkeypatch.setattr(cache_module, "CHUNK", 3)
    m = read_manifest(folder / "m.csv")
    _, whole = build_cache(m, tmp_path / "whole", SMALL)
    counted.clear()
    save, calls = np.savez, []

    def interrupted(*arguments, **values):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        save(*arguments, **values)

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_cache(m, tmp_path / "c", SMALL)
    monkeypatch.setattr(np, "savez", save)
    counted.clear()
    _, cache = build_cache(m, tmp_path / "c", SMALL)
    assert sorted(counted) == [f"{i}.png" for i in range(6, N)]
    for name in ("pixels.npy", "sha.npy", "cache.json"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    np.testing.assert_array_equal(cache.pixels, whole.pixels)
    assert not (tmp_path / "c" / "parts").exists()


def spoil(folder):
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "6.png").write_text("not a picture")
    (folder / "7.png").unlink()


def test_a_bad_image_stops_with_its_name(folder, tmp_path):
    spoil(folder)
    with pytest.raises(ImageError) as error:
        build_cache(read_manifest(folder / "m.csv"), tmp_path / "c", SMALL)
    assert str(error.value).startswith(str(folder / "3.png"))
    assert "truncated" in str(error.value)


def test_skipped_images_are_listed_and_never_black(folder, tmp_path):
    spoil(folder)
    m = read_manifest(folder / "m.csv")
    kept, cache = build_cache(m, tmp_path / "c", SMALL, on_bad_image="skip")
    assert kept.frame["image"].tolist() == [f"{i}.png" for i in (0, 1, 2, 4, 5, 8, 9)]
    assert len(cache) == len(kept) == 7
    assert (cache.pixels.reshape(7, -1).std(axis=1) > 1).all()
    rejected = pd.read_csv(tmp_path / "c" / "rejected.csv")
    assert rejected["image"].tolist() == ["3.png", "6.png", "7.png"]
    for reason, part in zip(rejected["reason"], ("truncated", "not an image", "no such image"), strict=True):
        assert part in reason
    with pytest.raises(ImageError, match=r"3\.png: truncated"):  # the strict reader of the same cache still sees it
        build_cache(m, tmp_path / "c", SMALL)


def test_nothing_left(folder, tmp_path):
    for i in range(N):
        (folder / f"{i}.png").write_text("text")
    with pytest.raises(InputError, match="none of the 10 images can be read"):
        build_cache(read_manifest(folder / "m.csv"), tmp_path / "c", SMALL, on_bad_image="skip")


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_link_that_leads_out_is_refused(folder, tmp_path, linked):
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.fromarray(np.ones((20, 20), np.uint8)).save(outside / "secret.png")
    if linked == "file":
        (folder / "link.png").symlink_to(outside / "secret.png")
        name = "link.png"
    else:
        (folder / "sub").symlink_to(outside)
        name = "sub/secret.png"
    (folder / "m.csv").write_text(f"image,patient_id\n0.png,1\n{name},2\n")
    m = read_manifest(folder / "m.csv")
    with pytest.raises(ImageError) as error:
        build_cache(m, tmp_path / "c", SMALL)
    assert str(error.value).startswith(str(folder / name))
    assert "leads out of the data folder" in str(error.value)
    kept, _ = build_cache(m, tmp_path / "c", SMALL, on_bad_image="skip")
    assert kept.frame["image"].tolist() == ["0.png"]


def test_links_that_stay_inside_are_fine(folder, tmp_path):
    (folder / "again.png").symlink_to(folder / "0.png")
    os.symlink(folder, tmp_path / "door")  # the data folder itself may be reached through a link
    (folder / "m.csv").write_text("image,patient_id\n0.png,1\nagain.png,1\n")
    _, cache = build_cache(read_manifest(tmp_path / "door" / "m.csv"), tmp_path / "c", SMALL)
    assert cache.sha[0] == cache.sha[1]


def test_rows_from_two_folders(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(np.full((16, 16), 9, np.uint8)).save(other / "0.png")
    (other / "m.csv").write_text("image,patient_id,split\n0.png,q,train\n")
    both = concat([read_manifest(folder / "m.csv"), read_manifest(other / "m.csv")])
    _, cache = build_cache(both, tmp_path / "c", SMALL)
    assert len(cache) == N + 1
    assert (cache.pixels[N] == 9).all()


def test_an_unknown_policy(folder, tmp_path):
    with pytest.raises(InputError, match="error or skip"):
        build_cache(read_manifest(folder / "m.csv"), tmp_path / "c", SMALL, on_bad_image="black")
