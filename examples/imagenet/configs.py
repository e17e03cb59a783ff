"""FFCV's published configurations for ImageNet, as data.

From https://github.com/libffcv/ffcv-imagenet, rn18_configs and rn50_configs: ResNet-18 on one GPU and
ResNet-50 on eight. `lr` is for the global batch of all ranks; train.py scales it if the batch size changes.
"""

from __future__ import annotations

from dataclasses import dataclass

#: epochs -> (first, last) epoch of the resolution ramp; the same for both networks
RAMPS = {16: (11, 13), 24: (17, 20), 32: (23, 27), 40: (29, 34), 56: (41, 48), 88: (65, 76)}


@dataclass(frozen=True)
class Config:
    """The settings of one training recipe."""

    arch: str = "resnet18"
    epochs: int = 16
    batch_size: int = 1024  # global: of all ranks together
    lr: float = 0.5
    lr_peak_epoch: int = 2
    momentum: float = 0.9
    weight_decay: float = 5e-5  # 0 for BatchNorm
    label_smoothing: float = 0.1
    blur_pool: bool = True
    min_res: int = 160
    max_res: int = 192
    ramp: tuple[int, int] = (11, 13)
    val_res: int = 256

    def resolution(self, epoch: int) -> int:
        """Return the side of training images: from `min_res` to `max_res` in steps of 32."""
        start, end = self.ramp
        if epoch <= start:
            return self.min_res
        if epoch >= end:
            return self.max_res
        along = self.min_res + (self.max_res - self.min_res) * (epoch - start) / (end - start)
        return min(self.max_res, max(self.min_res, round(along / 32) * 32))


CONFIGS = {f"rn18_{epochs}": Config(epochs=epochs, ramp=ramp) for epochs, ramp in RAMPS.items()}
CONFIGS |= {
    f"rn50_{epochs}": Config("resnet50", epochs, batch_size=8 * 512, lr=1.7, weight_decay=1e-4, ramp=ramp)
    for epochs, ramp in RAMPS.items()
}
