"""Names, paths and a hub that runs on this machine: what `load_backbone` finds, fetches and refuses."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fewsight.backbones import architectures, hub, loading, registry
from fewsight.backbones.architectures import untrained_backbone
from fewsight.backbones.backbone import Licence
from fewsight.backbones.description import describe, rebuild
from fewsight.backbones.features import Request
from fewsight.backbones.loading import fetch, load_backbone
from fewsight.backbones.registry import Known
from fewsight.backbones.vit import PositionRule
from fewsight.errors import IncompatibleModel, InvalidInput, MissingWeights

TARGET = "test_vit.r160_in1k"
TINY = Known("tiny", TARGET, 0.3, 22, 96, Licence("Apache-2.0", True, "weights by nobody"), 0.1, False)


class Hub(http.server.BaseHTTPRequestHandler):
    """The two requests that fetch one file: HEAD and GET of /OWNER/NAME/resolve/main/FILE."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, *, with_body):
        content = self.files.get(self.path.replace("/resolve/main/", "/"))
        self.asked.append(f"{self.command} {self.path}")
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file of weights as the hub has it, with the classification head of the published one."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without weights and without a network, and a table with one small row."""
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("FEWSIGHT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(registry, "KNOWN", (*registry.KNOWN, TINY))
    monkeypatch.setattr("fewsight.progress._said", set())
    return tmp_path


@pytest.fixture
def fake_hub(weights, monkeypatch):
    Hub.files = {f"/timm/{TARGET}/model.safetensors": weights.read_bytes()}
    Hub.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


def carried(name: str, weights: Path) -> None:
    place = hub.place_for(name)
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(weights.read_bytes())


# --- auto


def test_auto_is_the_bundled_network_and_one_line(capsys):
    for _ in range(2):
        assert load_backbone(device="cpu").name == "fewsight-bundled"
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "fewsight backbones --get dinov2-s" in told[0]


def test_auto_takes_the_better_one_where_it_is(monkeypatch, weights, capsys):
    monkeypatch.setattr(loading, "DEFAULT", "tiny")
    carried(TARGET, weights)
    backbone = load_backbone("auto", device="cpu")
    assert backbone.name == TARGET
    assert backbone.image_size == (96, 96)
    assert f"tiny is {TARGET}; weights: Apache-2.0 (commercial use allowed" in capsys.readouterr().err


def test_the_bundled_network_needs_no_timm():
    script = (
        "import sys; from fewsight.backbones.loading import load_backbone; "
        "load_backbone('fewsight-bundled', device='cpu'); print('timm' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


# --- by name


def test_weights_are_those_of_the_file_and_positions_follow_the_table(weights):
    carried(TARGET, weights)
    backbone = load_backbone("tiny", device="cpu")
    assert backbone.positions == PositionRule(0.1, antialias=False)
    assert backbone.licence == TINY.licence
    assert not backbone.training
    with torch.device("meta"):
        model = timm.create_model("test_vit", num_classes=3).eval()
    model.load_state_dict(load_file(weights), assign=True)
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), model.forward_features(images)[:, 0])


@pytest.mark.parametrize("variable", ["FEWSIGHT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_never_tries_and_names_file_size_licence_and_place(fake_hub, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(MissingWeights) as told:
        load_backbone("tiny", device="cpu")
    place = str(hub.place_for(TARGET) / "model.safetensors")
    for word in ("model.safetensors", f"timm/{TARGET}", "22 MB", "Apache-2.0", "--get tiny", place):
        assert word in str(told.value)
    assert fake_hub.asked == []


def test_a_dead_network_is_told_with_the_way_out():
    with pytest.raises(MissingWeights, match=r"does not answer.*--get tiny"):
        load_backbone("tiny", device="cpu")


def test_a_named_backbone_is_fetched_once_and_announced(fake_hub, capsys):
    first = load_backbone("tiny", device="cpu")
    told = capsys.readouterr().err
    for word in ("fetching tiny", "1.2 MB", f"timm/{TARGET}", "Apache-2.0", "weights by nobody"):
        assert word in told
    fake_hub.asked.clear()
    second = load_backbone(TARGET, device="cpu", image_size=64)
    assert fake_hub.asked == []
    assert second.image_size == (64, 64)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_model_of_the_hub(fake_hub, weights):
    model = timm.create_model("test_vit", num_classes=3)
    config = {
        "architecture": "test_vit",
        "pretrained_cfg": {**model.pretrained_cfg, "license": "cc-by-nc-4.0"},
    }
    Hub.files |= {
        "/someone/thing/config.json": json.dumps(config, default=str).encode(),
        "/someone/thing/model.safetensors": weights.read_bytes(),
    }
    backbone = load_backbone("hf-hub:someone/thing", device="cpu")
    assert backbone.licence.commercial is False
    assert backbone.dim == 64
    with pytest.raises(MissingWeights, match="404"):
        load_backbone("hf-hub:someone/else", device="cpu")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architecture": "hf-hub:evil/model"}, "unknown"),
        (
            {"architecture": "test_vit", "model_args": {"checkpoint_path": "/etc/passwd"}},
            "checkpoint_path",
        ),
        ({"architecture": "test_vit", "model_args": {"depth": 10**9}}, "out of any reason"),
        ({"architecture": ["x"]}, "not the configuration"),
        ([], "not the configuration"),
    ],
)
def test_hostile_configurations_are_refused(tmp_path, weights, config, words):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises((InvalidInput, IncompatibleModel), match=words):
        load_backbone(folder, device="cpu")


def test_unknown_names_have_a_hint():
    with pytest.raises(InvalidInput, match="Did you mean dinov2-s"):
        load_backbone("dinov2s", device="cpu")
    with pytest.raises(InvalidInput, match="no published weights"):
        load_backbone("test_vit.nothing", device="cpu")
    with pytest.raises(InvalidInput, match="does not exist"):
        load_backbone("weights/absent.pth", device="cpu")


@pytest.mark.parametrize("name", ["..", "../../x", "a", "a/b/c", "/etc/passwd", ""])
def test_names_that_the_hub_cannot_have(name):
    with pytest.raises(InvalidInput, match="OWNER/NAME"):
        load_backbone(f"hf-hub:{name}", device="cpu")


def test_an_image_size_that_does_not_fit(weights):
    carried(TARGET, weights)
    with pytest.raises(InvalidInput, match="take 96"):
        load_backbone("tiny", device="cpu", image_size=100)
    with pytest.raises(InvalidInput, match="64 to 384"):
        load_backbone("fewsight-bundled", device="cpu", image_size=16)
    assert load_backbone("tiny", device="cpu", image_size=(32, 64)).image_size == (32, 64)


def test_an_older_layout_is_renamed_by_timm(tmp_path, weights):
    """A file as DINOv2's authors publish it: with a mask token, which timm's network lacks."""
    config = {
        "architecture": "test_vit",
        "pretrained_cfg": {"num_classes": 3, "classifier": "head"},
    }
    tensors = load_file(weights)
    for extra, fits in (({"mask_token": torch.ones(1, 64)}, True), ({"surprise": torch.ones(1)}, False)):
        folder = tmp_path / str(fits)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        save_file(tensors | extra, folder / "model.safetensors")
        if fits:
            backbone = load_backbone(folder, device="cpu")
            assert torch.equal(backbone.model.norm.weight, tensors["norm.weight"])
        else:
            with pytest.raises(IncompatibleModel, match=r"do not fit.*surprise"):
                load_backbone(folder, device="cpu")


# --- fetch


def test_fetch_says_what_and_fills_a_folder_to_carry(fake_hub, tmp_path, monkeypatch, capsys):
    path = fetch("tiny", tmp_path / "stick")
    assert path == tmp_path / "stick" / TARGET / "model.safetensors"
    assert "licence Apache-2.0 (commercial use allowed" in capsys.readouterr().err
    # another machine, without a network
    monkeypatch.setenv("FEWSIGHT_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other"))
    from_folder = load_backbone(path.parent, device="cpu")
    assert from_folder.positions == PositionRule(0.1, antialias=False)
    path.parent.rename(tmp_path / "carried")
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    (tmp_path / "carried").rename(tmp_path / "cache" / "weights" / TARGET)
    from_cache = load_backbone("tiny", device="cpu")
    images = torch.randn(1, 3, 96, 96)
    assert torch.equal(from_cache(images), from_folder(images))
    fetch("tiny")
    assert "already on this machine" in capsys.readouterr().err


def test_what_cannot_be_fetched(monkeypatch):
    with pytest.raises(InvalidInput, match="nothing to fetch"):
        fetch("fewsight-bundled")
    monkeypatch.setenv("FEWSIGHT_OFFLINE", "1")
    with pytest.raises(MissingWeights, match="88 MB"):
        fetch("auto")


def test_a_damaged_download_is_told(fake_hub):
    path = f"/timm/{TARGET}/model.safetensors"
    Hub.files[path] = Hub.files[path][:-4]
    with pytest.raises(IncompatibleModel, match="does not fit its bytes"):
        fetch("tiny")


# --- by path


def test_a_published_file_by_its_shapes(tmp_path):
    model = timm.create_model("test_vit", num_classes=0, depth=2, img_size=64).eval()
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save(
        {"target_encoder": state, "prototypes": torch.ones(2, 2), "epoch": 7}, tmp_path / "msn.pth.tar"
    )
    backbone = load_backbone(tmp_path / "msn.pth.tar", device="cpu", num_heads=2)
    assert backbone.positions.offset == "msn"
    assert backbone.licence.commercial is False
    assert backbone.transform.interpolation == "bilinear"
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), model.forward_features(images)[:, 0])


def test_the_small_moco_network_has_twelve_heads(tmp_path):
    model = timm.create_model("vit_small_patch16_224", num_classes=0, depth=1, img_size=32)
    state = {f"module.base_encoder.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "moco.pth")
    assert load_backbone(tmp_path / "moco.pth", device="cpu").num_heads == 12


def test_a_folder_that_is_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InvalidInput, match=r"it holds notes\.txt"):
        load_backbone(tmp_path, device="cpu")


# --- plain data and back

NETWORKS = {
    "vit": lambda: untrained_backbone("test_vit", image_size=32, depth=2),
    "registers": lambda: untrained_backbone("vit_small_patch14_reg4_dinov2", image_size=28, depth=1),
    "beit": lambda: untrained_backbone(
        "beit_base_patch16_224", image_size=32, depth=1, embed_dim=24, num_heads=3
    ),
    "rotary": lambda: untrained_backbone("vit_small_patch16_dinov3", image_size=32, depth=1),
    "resnet": lambda: untrained_backbone("test_resnet", image_size=64),
    "conv4": lambda: untrained_backbone("conv4", width=8),
    "bundled": lambda: load_backbone("fewsight-bundled", device="cpu"),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_describe_and_rebuild(kind):
    backbone = NETWORKS[kind]().eval()
    if kind == "vit":
        backbone.add_mask_token(torch.ones(64))
        backbone.positions = PositionRule(0.1, antialias=False)
    described = json.loads(json.dumps(describe(backbone)))
    again = rebuild(described, backbone.state_dict())
    images = torch.randn(2, 3, *backbone.image_size)
    with torch.no_grad():
        assert torch.equal(again(images), backbone(images))
    assert json.loads(json.dumps(describe(again))) == described
    assert not any(tensor.is_meta for tensor in (*again.parameters(), *again.buffers()))
    assert all(p.requires_grad for p in again.parameters())


def test_rebuild_draws_no_random_weights(monkeypatch):
    """A model folder loads within a second: weights are not drawn before they are replaced."""
    backbone = NETWORKS["vit"]()
    described, tensors = describe(backbone), backbone.state_dict()
    drawn = torch.random.get_rng_state()
    rebuild(described, tensors)
    assert torch.equal(torch.random.get_rng_state(), drawn)


@pytest.mark.parametrize(
    "change",
    [
        {"origin": {"kind": "own", "name": "os:system", "arguments": {}}},
        {"origin": {"kind": "timm", "architecture": "hf-hub:evil/model", "arguments": {}}},
        {
            "origin": {
                "kind": "timm",
                "architecture": "test_vit",
                "arguments": {"pretrained": True},
            }
        },
        {"origin": {"kind": "timm", "architecture": "test_vit", "arguments": {"depth": 3}}},
        {"origin": {}},
        {"transform": {"size": [0, 0]}},
        {"positions": {"no": 1}},
        {"origin": None},
    ],
)
def test_descriptions_that_do_not_fit_are_refused(change):
    backbone = NETWORKS["vit"]()
    with pytest.raises(IncompatibleModel):
        rebuild(describe(backbone) | change, backbone.state_dict())


def test_weights_that_do_not_fit_are_named():
    backbone = NETWORKS["vit"]()
    described, tensors = describe(backbone), backbone.state_dict()
    lost = tensors.pop("model.blocks.1.attn.qkv.bias")
    with pytest.raises(IncompatibleModel, match=r"lacks model\.blocks\.1\.attn\.qkv\.bias"):
        rebuild(described, tensors)
    with pytest.raises(IncompatibleModel, match=r"qkv\.bias has shape \[191\]; expected \[192\]"):
        rebuild(described, tensors | {"model.blocks.1.attn.qkv.bias": lost[1:]})


def test_a_model_folder(tmp_path):
    backbone = NETWORKS["vit"]().eval()
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"backbone": describe(backbone)}))
    save_file(
        {f"backbone.{key}": value for key, value in backbone.state_dict().items()},
        folder / "model.safetensors",
    )
    images = torch.randn(1, 3, 32, 32)
    for path in (folder, folder.parent):
        assert torch.equal(load_backbone(path, device="cpu")(images), backbone(images))
    (folder / "model.json").write_text("{}")
    with pytest.raises(IncompatibleModel, match="does not describe"):
        load_backbone(folder, device="cpu")


def test_random_weights_depend_on_the_seed_alone():
    one, two, other = (
        untrained_backbone("test_vit", image_size=32, depth=1, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one.model.patch_embed.proj.weight, two.model.patch_embed.proj.weight)
    assert not torch.equal(one.model.patch_embed.proj.weight, other.model.patch_embed.proj.weight)
    before = torch.random.get_rng_state()
    architectures.untrained_backbone("conv4")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_features_of_a_loaded_network_serve_every_request(weights):
    carried(TARGET, weights)
    given = load_backbone("tiny", device="cpu", image_size=64).features(
        torch.randn(1, 3, 64, 64), Request("all", attention=True, keys=True, class_query=True)
    )
    assert given.blocks.patches.shape == (1, 6, 4, 4, 64)
    assert given.attention.shape == (1, 2, 4, 4)
