"""From your dataset to training: a folder of images, one file, augmented batches, a trained network.

python examples/recipes/five_minutes.py
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from sklearn.datasets import load_digits

from ffcv_gpu.convert.image_folder import ImageFolder
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder, IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.transforms import NormalizeImage, Squeeze, ToTensor, ToTorchImage
from ffcv_gpu.writer import DatasetWriter

# 1. Your images, one sub-folder a class. Here: handwritten digits as JPEG files.
for number, (digit, label) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
    folder = Path("digits") / ("test" if number % 6 == 0 else "train") / str(label)
    folder.mkdir(parents=True, exist_ok=True)
    picture = cv2.resize((digit.reshape(8, 8) * 15).astype(np.uint8), (32, 32))
    cv2.imwrite(str(folder / f"{number}.jpg"), picture)

# 2. Pack each folder into one file. JPEGs are stored as they are.
for split in ("train", "test"):
    dataset = ImageFolder(f"digits/{split}")
    fields = {"image": RGBImageField(), "label": IntField()}
    DatasetWriter(f"digits/{split}.beton", fields, class_names=dataset.classes).from_indexed_dataset(dataset)


# 3. Load: decoding, cropping, resizing and normalising are one fused step. device="auto" takes the GPU.
def batches(split, head, **settings):
    image = [head, ToTensor(), ToTorchImage(), NormalizeImage([127.5] * 3, [127.5] * 3, np.float32)]
    label = [IntDecoder(), ToTensor(), Squeeze(1)]
    return Loader(f"digits/{split}.beton", 64, pipelines={"image": image, "label": label}, seed=0, **settings)


crop = RandomResizedCropRGBImageDecoder((28, 28), scale=(0.7, 1), ratio=(0.9, 1.1))
train = batches("train", crop, order=OrderOption.RANDOM)
test = batches("test", CenterCropRGBImageDecoder((28, 28), 1.0), drop_last=False)

# 4. Train.
layers = []
for inside, outside in ((3, 16), (16, 32)):
    layers += [torch.nn.Conv2d(inside, outside, 3, 2, 1), torch.nn.BatchNorm2d(outside), torch.nn.ReLU()]
model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(32 * 7 * 7, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(3):
    for images, labels in train:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()
with torch.no_grad():
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in test)
accuracy = right / len(test.indices)
print(f"test accuracy {accuracy:.1%}")
assert accuracy > 0.9
