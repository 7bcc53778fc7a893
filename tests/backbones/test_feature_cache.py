from __future__ import annotations

import multiprocessing
import sqlite3

import pytest
import torch

from fewsight.backbones import feature_cache
from fewsight.backbones.conv4 import Conv4
from fewsight.backbones.feature_cache import FeatureCache, fingerprint, image_digest, weights_digest
from fewsight.backbones.features import BlockTokens, Features, Request
from fewsight.data.transform import Transform


def features(value: float = 0.0, size: int = 4) -> Features:
    return Features(
        cls=torch.full((1, size), value, dtype=torch.float16),
        patches=torch.randn(1, 2, 3, size),
        blocks=BlockTokens(None, torch.randn(1, 5, 2, 3, size)),
        attention=torch.rand(1, 2, 2, 3),
    )


def assert_same(one: Features, two: Features) -> bool:
    return all(
        (a is None and b is None) or (a.dtype == b.dtype and torch.equal(a, b))
        for a, b in zip((*one[:2], *one.blocks, *one[3:]), (*two[:2], *two.blocks, *two[3:]), strict=True)
    )


def test_what_was_put_comes_back_bit_for_bit(tmp_path):
    kept = features(1.5)
    with FeatureCache(tmp_path) as cache:
        assert not cache.holds("a")
        assert cache.get("a") is None
        cache.put({"a": (kept, {"note": "ünicode"})})
    with FeatureCache(tmp_path) as cache:
        assert cache.holds("a")
        found, words = cache.get("a")
    assert assert_same(found, kept)
    assert words == {"note": "ünicode"}


def test_looking_creates_nothing(tmp_path):
    with FeatureCache(tmp_path / "absent") as cache:
        assert not cache.holds("a")
        assert cache.usage().entries == 0
    feature_cache.clear(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_unused_longest_goes_first(tmp_path, monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(feature_cache.time, "time", lambda: float(next(now)))
    one = len(feature_cache._packed(features(), {}))
    with FeatureCache(tmp_path, limit=4 * one) as cache:
        for name in "abcd":
            cache.put({name: (features(), {})})
        cache.touch(["a"])
        cache.put({"e": (features(), {})})
        assert [name for name in "abcde" if cache.holds(name)] == ["a", "d", "e"]
        assert cache.usage().feature_bytes <= 4 * one


def test_usage_and_clear(tmp_path):
    with FeatureCache(tmp_path) as cache:
        cache.put({str(n): (Features(cls=torch.randn(1, 100_000)), {}) for n in range(5)})
    used = feature_cache.usage(tmp_path)
    assert used.entries == 5
    assert 2_000_000 < used.feature_bytes <= used.disk_bytes
    assert feature_cache.clear(tmp_path) == used
    assert feature_cache.usage(tmp_path).entries == 0
    assert feature_cache.usage(tmp_path).disk_bytes < 100_000


def test_the_default_place_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path))
    assert feature_cache.usage().folder == tmp_path / "features"


@pytest.mark.parametrize("damage", ["content", "file"])
def test_damage_costs_a_run_nothing(tmp_path, capsys, damage):
    with FeatureCache(tmp_path) as cache:
        cache.put({"a": (features(), {})})
    if damage == "content":
        with sqlite3.connect(tmp_path / "features.sqlite") as connection:
            connection.execute("UPDATE contents SET content = x'00112233'")
        connection.close()
    else:
        (tmp_path / "features.sqlite").write_bytes(b"no database" * 1000)
    with FeatureCache(tmp_path) as cache:
        assert cache.get("a") is None
        cache.put({"a": (features(), {})})
        if damage == "content":
            assert cache.get("a") is not None
    assert ("cannot be used" in capsys.readouterr().err) == (damage == "file")
    feature_cache.clear(tmp_path)
    with FeatureCache(tmp_path) as cache:
        cache.put({"a": (features(), {})})
        assert cache.holds("a")


def test_a_place_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with FeatureCache(tmp_path / "file" / "features") as cache:
        cache.put({"a": (features(), {})})
        assert not cache.holds("a")
    assert "going on without it" in capsys.readouterr().err


def _fill(folder, start):
    with FeatureCache(folder) as cache:
        for n in range(start, start + 20):
            cache.put({str(n): (Features(cls=torch.full((1, 8), float(n))), {})})


def test_several_processes_at_once(tmp_path):
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_fill, args=(tmp_path, 10 * n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    with FeatureCache(tmp_path) as cache:
        assert cache.usage().entries == 40
        assert all(cache.get(str(n))[0].cls[0, 0] == n for n in range(40))


def test_keys_tell_apart_all_that_makes_features():
    torch.manual_seed(0)
    network = Conv4(8)
    keys = {fingerprint(network, Request(), precision="fp32")}
    assert fingerprint(network, Request(), precision="fp32") in keys
    keys.add(fingerprint(network, Request(), precision="fp16"))
    keys.add(fingerprint(network, Request(blocks="all"), precision="fp32"))
    network.transform = Transform(size=(32, 32))
    keys.add(fingerprint(network, Request(), precision="fp32"))
    with torch.no_grad():
        next(network.parameters()).data.view(-1)[0] += 1
    keys.add(fingerprint(network, Request(), precision="fp32"))
    assert len(keys) == 5


def test_digests_depend_on_content_alone():
    image = torch.randn(3, 4, 6)
    assert image_digest(image) == image_digest(image.clone())
    assert image_digest(image) == image_digest(image.transpose(1, 2).contiguous().transpose(1, 2))
    assert len({image_digest(x) for x in (image, image + 1, image.reshape(3, 6, 4), image.double())}) == 4
    assert weights_digest(Conv4(4)) != weights_digest(Conv4(4))
