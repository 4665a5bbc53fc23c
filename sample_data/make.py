"""Make everything else in this folder: photographs, labelled pictures, a trained classifier, and their licences.

    python -m venv samples && . samples/bin/activate
    pip install .[samples]                       # torch and scikit-image, beside edgekit's own packages
    apt-get install dataset-fashion-mnist        # Debian or Ubuntu: the 70,000 pictures, MIT
    python sample_data/make.py                   # or a part of it: --only photos | fashion | model

photos/              photographs in the public domain, out of the scikit-image wheel, longest side 320 pixels
fashion/             20 pictures a class in train/ and 30 in val/, named by their number in Fashion-MNIST's own train
                     and test split
fashion_resnet.onnx  a small residual network, trained here on one thread on the 60,000 pictures of the train split
LICENSES.md          where each of them comes from and under which licence

Nothing is downloaded. The same packages give the same photographs and pictures to the byte; the network is the same on
the same machine and torch, and within half a point of accuracy elsewhere or with another --seed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ["tshirt_top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot"]
PER_CLASS = {"train": 20, "val": 30}
MODEL = "fashion_resnet.onnx"
LONGEST_SIDE = 320
PHOTOS = {  # what skimage/data/_fetchers.py says of each
    "astronaut.png": "Eileen Collins, NASA Great Images; public domain",
    "camera.png": "Lav Varshney; CC0 (grey)",
    "chelsea.png": "Stefan van der Walt; CC0",
    "coffee.png": "Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0",
    "retina.jpg": "Mikael Häggström, Wikimedia Commons; CC0",
    "rocket.jpg": "DSCOVR on Falcon 9, SpaceX Photos; released into the public domain",
}

LICENCES = """\
# Where the files of this folder come from (written by `make.py`)

## photos/

Scaled down from the copies in the scikit-image wheel, whose `skimage/data/_fetchers.py` names source and licence. All
are in the public domain: the work of a United States agency, or given to it by their makers.

| picture | source, licence |
|---|---|
{photos}

## fashion/

The first pictures of each class of Fashion-MNIST (https://github.com/zalandoresearch/fashion-mnist), train and test
split, out of the Debian package `dataset-fashion-mnist`. Copyright 2017, Zalando SE, https://tech.zalando.com; MIT:

> Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
> documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
> rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
> persons to whom the Software is furnished to do so, subject to the following conditions:
>
> The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
> Software.
>
> THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
> WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
> COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
> OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

## fashion_resnet.onnx

Trained by `make.py` from random weights on Fashion-MNIST's train split; under edgekit's own licence (`LICENSE`).
"""

# Every convolution, each with a batch norm behind it (epsilon 1e-5): channels in, channels out, kernel, stride.
LAYERS = {
    "stem": (1, 48, 5, 2),
    "block1_conv1": (48, 48, 3, 1),
    "block1_conv2": (48, 48, 3, 1),
    "block2_conv1": (48, 48, 3, 1),
    "block2_conv2": (48, 48, 3, 1),
    "block3_conv1": (48, 64, 3, 2),
    "block3_conv2": (64, 64, 3, 1),
    "block3_skip": (48, 64, 1, 2),
    "block4_conv1": (64, 64, 3, 1),
    "block4_conv2": (64, 64, 3, 1),
}
BLOCKS, FEATURES = 4, 64
BN_FIELDS = ("weight", "bias", "running_mean", "running_var")
EPOCHS, BATCH, PEAK_RATE = 8, 128, 0.15
Layer = Callable[..., Any]


def wire(conv: Layer, relu: Layer, add: Layer, head: Layer, x: Any) -> Any:
    """The network, written once: torch runs it on tensors, `onnx_model` on the names of tensors."""
    x = relu(conv("stem", x))
    for block in (f"block{number + 1}" for number in range(BLOCKS)):
        skip = conv(f"{block}_skip", x) if f"{block}_skip" in LAYERS else x
        x = relu(add(conv(f"{block}_conv2", relu(conv(f"{block}_conv1", x))), skip))
    return head(x)


def fashion_mnist(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read pictures (N, 28, 28) and labels (N,) of "train" or "val", which Fashion-MNIST calls "t10k"."""
    name = {"train": "train", "val": "t10k"}[split]
    try:
        pictures = gzip.decompress((FASHION_MNIST / f"{name}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((FASHION_MNIST / f"{name}-labels-idx1-ubyte.gz").read_bytes())
    except FileNotFoundError:
        raise SystemExit(f"no Fashion-MNIST in {FASHION_MNIST}: apt-get install dataset-fashion-mnist") from None
    return np.frombuffer(pictures, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def write_image(path: Path, image: np.ndarray, *options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image, options):
        raise SystemExit(f"cannot write {path}")


def make_photos(out: Path) -> None:
    folder = Path(getattr(find_spec("skimage"), "origin", "")).parent / "data"
    for name in PHOTOS:
        image = cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise SystemExit(f"no {name} in the scikit-image wheel: pip install .[samples]")
        scale = LONGEST_SIDE / max(image.shape[:2])
        photo = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        write_image(out / "photos" / Path(name).with_suffix(".jpg"), photo, cv2.IMWRITE_JPEG_QUALITY, 90)
    print(f"photos: {len(PHOTOS)}")


def make_fashion(out: Path) -> None:
    for split, per_class in PER_CLASS.items():
        pictures, labels = fashion_mnist(split)
        for label, name in enumerate(CLASSES):
            for index in np.flatnonzero(labels == label)[:per_class]:
                write_image(out / "fashion" / split / name / f"{index:05d}.png", pictures[index])
        print(f"fashion/{split}: {per_class * len(CLASSES)} pictures")


def preprocessing(pictures: np.ndarray) -> dict[str, Any]:
    """Say how a picture becomes the network's input: scaled to `range`, then (x - mean) / std."""
    mean, std = (round(float(value) / 255, 4) for value in (pictures.mean(), pictures.std()))
    scaling = {"range": [0.0, 1.0], "mean": [mean], "std": [std]}
    return {"size": [28, 28], "resize": "squash", "crop_ratio": 1.0, **scaling, "color": "grey", "layout": "NCHW"}


def network_input(pictures: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    low, high = how["range"]
    scaled = pictures.astype(np.float32) / 255 * (high - low) + low
    return np.asarray((scaled - how["mean"][0]) / how["std"][0], np.float32)[:, None]


def train(pictures: np.ndarray, labels: np.ndarray, how: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Train on one thread, the same way every time, and return the weights by name."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)

    def layer(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs))

    convs = nn.ModuleDict({name: layer(*shape) for name, shape in LAYERS.items()})
    dense = nn.Linear(FEATURES, len(CLASSES))
    net = nn.ModuleList([convs, dense]).train().to(memory_format=torch.channels_last)

    def logits(x: torch.Tensor) -> torch.Tensor:
        return wire(lambda name, x: convs[name](x), torch.relu, torch.add, lambda x: dense(x.mean((2, 3))), x)

    inputs, targets = torch.from_numpy(network_input(pictures, how)), torch.from_numpy(labels.astype(np.int64))

    def batch(chosen: torch.Tensor) -> torch.Tensor:
        """Mirror half of the pictures. Shifting them too costs a point here: Fashion-MNIST is centred."""
        x = inputs[chosen]
        mirrored = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
        return mirrored.contiguous(memory_format=torch.channels_last)

    steps = len(targets) // BATCH
    optimizer = torch.optim.SGD(net.parameters(), lr=PEAK_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=EPOCHS * steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(EPOCHS):
        start, total = time.perf_counter(), 0.0
        for chosen in torch.randperm(len(targets))[: steps * BATCH].split(BATCH):
            loss = loss_of(logits(batch(chosen)), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {total / steps:.4f}, {time.perf_counter() - start:.0f} s", flush=True)

    weights = {"head.weight": dense.weight, "head.bias": dense.bias}
    for name in LAYERS:
        conv, norm = convs[name]
        weights |= {f"{name}.weight": conv.weight} | {f"{name}.norm.{f}": getattr(norm, f) for f in BN_FIELDS}
    return {name: np.ascontiguousarray(value.detach().numpy()) for name, value in weights.items()}


def onnx_model(weights: dict[str, np.ndarray], how: dict[str, Any]) -> onnx.ModelProto:
    """Write the graph by hand: no exporter, so the batch norms stay and the bytes depend on nothing but the weights."""
    nodes: list[onnx.NodeProto] = []

    def node(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def conv(name: str, x: str) -> str:
        _, _, kernel, stride = LAYERS[name]
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        y = node("Conv", [x, f"{name}.weight"], name, **shape)
        return node("BatchNormalization", [y, *(f"{name}.norm.{f}" for f in BN_FIELDS)], f"{name}.norm", epsilon=1e-5)

    def head(x: str) -> str:
        x = node("Flatten", [node("GlobalAveragePool", [x], "pool")], "flatten")
        return node("Gemm", [x, "head.weight", "head.bias"], "logits", transB=1)

    def add(x: str, y: str) -> str:
        return node("Add", [x, y], f"{x.split('_')[0]}.add")

    wire(conv, lambda x: node("Relu", [x], f"{x}.relu"), add, head, "input")
    graph = helper.make_graph(
        nodes,
        "fashion_resnet",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(CLASSES)])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "edgekit sample_data/make.py"
    helper.set_model_props(model, {"edgekit.preprocess": json.dumps(how), "edgekit.classes": json.dumps(CLASSES)})
    onnx.checker.check_model(model, full_check=True)
    return model


def make_model(out: Path, seed: int) -> None:
    pictures, labels = fashion_mnist("train")
    how = preprocessing(pictures)
    start = time.perf_counter()
    weights = train(pictures, labels, how, seed)
    print(f"model: trained in {time.perf_counter() - start:.0f} s, seed {seed}")
    onnx.save(onnx_model(weights, how), str(out / MODEL))


def print_accuracy(out: Path) -> None:
    """Run the stored network the way its own metadata says: on the test split, then on the PNG files of val/."""
    session = ort.InferenceSession(str(out / MODEL), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    how, classes = json.loads(metadata["edgekit.preprocess"]), json.loads(metadata["edgekit.classes"])

    def right(pictures: np.ndarray, labels: np.ndarray) -> int:
        x = network_input(pictures, how)
        guesses = [session.run(None, {"input": x[i : i + 500]})[0].argmax(1) for i in range(0, len(x), 500)]
        return int((np.concatenate(guesses) == labels).sum())

    pictures, labels = fashion_mnist("val")
    print(f"accuracy: {right(pictures, labels) / len(labels):.2%} on the {len(labels):,} pictures of the test split")
    if files := sorted((out / "fashion" / "val").glob("*/*.png")):
        pictures = np.stack([np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)) for file in files])
        labels = np.array([classes.index(file.parent.name) for file in files])
        print(f"accuracy: {right(pictures, labels) / len(labels):.2%} on the {len(labels)} files of fashion/val")


def write_licences(out: Path) -> None:
    photos = "\n".join(f"| `{Path(name).stem}.jpg` | {source} |" for name, source in PHOTOS.items())
    (out / "LICENSES.md").write_text(LICENCES.format(photos=photos), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the sample data.")
    parser.add_argument("--only", choices=["photos", "fashion", "model"], help="make one part; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the training; default: 0")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder; default: where make.py is")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only in (None, "photos"):
        make_photos(options.out)
    if options.only in (None, "fashion"):
        make_fashion(options.out)
    if options.only in (None, "model"):
        make_model(options.out, options.seed)
        print_accuracy(options.out)
    write_licences(options.out)


if __name__ == "__main__":
    main()
