"""`edgekit inspect` on a folder of pictures, as a person runs it, and a model's features of the pictures."""

import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from typer.main import get_command

from conftest import SAMPLES, picture, save, tree_digest
from edgekit import graph
from edgekit.cli.app import build
from edgekit.data import census, dataset, images
from edgekit.errors import EdgekitError
from edgekit.measure import features


def scene(seed, height=90, width=120):
    """Draw a picture with enough in it to be told from others."""
    rng = np.random.default_rng(seed)
    canvas = picture(seed, height, width)
    for _ in range(12):
        at = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        cv2.circle(canvas, at, int(rng.integers(5, 25)), tuple(map(int, rng.integers(0, 256, 3))), cv2.FILLED)
    return canvas


def yolo(root):
    """Make a YOLO set: train with three pictures, val with two, of which one is a mirrored picture of train."""
    for split, number, pixels, lines in (
        ("train", 0, scene(0), ["0 0.5 0.5 0.1 0.1", "1 0.5 0.5 0.5 0.5", "0 0.2 0.2 0.1 0.1"]),
        ("train", 1, scene(1), ["0 0.5 0.5 0.9 0.9"]),
        ("train", 2, scene(2), []),
        ("val", 3, scene(3), ["1 0.5 0.5 1.4 0.2"]),
        ("val", 4, scene(1)[:, ::-1].copy(), ["0 0.5 0.5 0.9 0.9"]),
    ):
        save(root / "images" / split / f"{number}.jpg", pixels, cv2.IMWRITE_JPEG_QUALITY, 92)
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        (root / "labels" / split / f"{number}.txt").write_text("\n".join(lines))
    (root / "classes.txt").write_text("cat\ndog\nbird\n")
    return root


def test_a_detection_set_on_one_screen(edgekit, tmp_path):
    root = yolo(tmp_path / "set")
    (root / "images" / "train" / "broken.jpg").write_bytes((root / "images" / "train" / "0.jpg").read_bytes()[:900])
    (root / "labels" / "train" / "broken.txt").write_text("")
    before = tree_digest(root)
    done = edgekit("inspect", root)
    assert done.code == 0, done.err
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0].startswith("set    6 pictures; ")
    assert lines[0].endswith("; yolo labels")
    said = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[2:] if line}
    assert said["splits"] == "train 4, val 2"
    assert said["width"] == "120 pixels"
    assert said["format"] == "jpeg; rgb; 8 bits"
    assert said["objects"] == "6 in 4 of 5 pictures; 0 to 3 each, median 1"
    assert said["boxes"] == "33 % small, 67 % medium, 0 % large (below 32x32 pixels, below 96x96, and above)"
    assert said["unreadable"].startswith("1 picture: images/train/broken.jpg (truncated JPEG)")
    assert said["mended"].startswith("1 label mended or left out: images/val/3.jpg: ")
    assert said["copies"] == "1 picture more than once: images/train/1.jpg = images/val/4.jpg"
    assert said["leaks"].startswith("1 picture also in another split: images/val/4.jpg = images/train/1.jpg, flipped")
    assert said["class"].split() == ["train", "val", "all", "objects"]
    assert said["cat"].split() == ["2", "1", "3", "4"]
    assert said["dog"].split() == ["1", "1", "2", "2"]
    assert said["bird"].split() == ["-", "-", "-", "-"]
    assert lines[-1] == "2 of 3 classes have pictures; the largest has 1.5 times the pictures of the smallest"
    assert max(map(len, lines)) <= 100
    assert tree_digest(root) == before
    assert edgekit("inspect", root, "--strict").code == 1


def test_the_document_says_the_same(edgekit, tmp_path):
    root = yolo(tmp_path / "set")
    done = edgekit("inspect", root, "--json", "--workers", "1")
    document = done.json
    assert document["schema"] == "edgekit.inspect-folder/1"
    assert document["labels"]["kind"] == "yolo"
    assert document["pictures"]["splits"] == {"train": 3, "val": 2}
    assert document["pictures"]["bytes"] == sum(path.stat().st_size for path in (root / "images").rglob("*.jpg"))
    assert document["pictures"]["height"] == {"min": 90, "median": 90, "max": 90}
    assert document["pictures"]["channels"] == {"rgb": 5}
    assert document["objects"]["sizes"] == {"small": 2, "medium": 4, "large": 0}
    cat = {"name": "cat", "pictures": {"train": 2, "val": 1}, "objects": {"train": 3, "val": 1}}
    assert document["classes"][0] == cat
    assert document["imbalance"] == 1.5
    assert document["copies"] == {"groups": 1, "first": [["images/train/1.jpg", "images/val/4.jpg"]]}
    leak = {"first": "images/train/1.jpg", "first_split": "train", "second": "images/val/4.jpg", "second_split": "val"}
    assert document["leaks"] == {"total": 1, "first": [leak | {"how": "flipped or turned"}]}
    assert document["mended"]["total"] == 1
    assert done.out == edgekit("inspect", root, "--json", "--workers", "3").out


def test_class_folders_have_pictures_and_nothing_else(edgekit, pictures):
    document = edgekit("inspect", pictures, "--json").json
    assert document["labels"]["kind"] == "folder"
    classes = {one.pop("name"): one for one in document["classes"]}
    assert classes == {name: {"pictures": {"-": count}} for name, count in (("cats", 3), ("dogs", 4), ("dogs/big", 1))}
    assert document["pictures"]["formats"] == {"png": 4, "jpeg": 3, "gif": 1}
    assert document["pictures"]["channels"] == {"rgb": 6, "grey": 1, "rgba": 1}
    assert document["pictures"]["depths"] == {"8": 7, "16": 1}
    assert document["objects"]["total"] == 0
    text = edgekit("inspect", pictures, "--top", "1").out
    assert "leaks" not in text
    assert "objects" not in text
    assert text.endswith("and 2 more; --top 3 shows all\n")


def test_mean_and_deviation_are_those_of_the_pixels_every_picture_counting_the_same(tmp_path):
    root = tmp_path / "imgs"
    arrays = [scene(1), scene(2, 200, 40), picture(3, 30, 30, 4)]
    for number, pixels in enumerate(arrays):
        save(root / f"{number}.png", pixels)
    deep = picture(4, 30, 50, dtype=np.uint16)
    save(root / "deep.png", deep)
    save(root / "grey.png", picture(5, 30, 50, 1))
    taken = survey(root)
    colors = taken.colors()
    scaled = [pixels[..., 2::-1] / 255 for pixels in arrays] + [deep[..., ::-1] / 65535]
    mean = np.mean([pixels.mean(axis=(0, 1)) for pixels in scaled], axis=0)
    square = np.mean([np.square(pixels).mean(axis=(0, 1)) for pixels in scaled], axis=0)
    assert colors["rgb"].pictures == 4
    assert colors["rgb"].mean == pytest.approx(mean.tolist(), abs=1e-9)
    assert colors["rgb"].std == pytest.approx(np.sqrt(square - mean**2).tolist(), abs=1e-9)
    grey = picture(5, 30, 50, 1) / 255
    assert (colors["grey"].mean, colors["grey"].std) == (
        pytest.approx((grey.mean(),), abs=1e-9),
        pytest.approx((grey.std(),), abs=1e-9),
    )


def survey(root, kind=None):
    found = dataset.read(root, kind)
    task = census.Survey(found, 100_000_000)
    return census.take(found, [task.process(entry.source) for entry in found.entries])


def test_masks_are_counted_in_pixels(tmp_path):
    root = tmp_path / "set"
    for number in range(2):
        save(root / "images" / f"{number}.jpg", scene(number))
        mask = np.zeros((90, 120), np.uint8)
        mask[:10, :10], mask[80:] = 1 + number, 255
        save(root / "masks" / f"{number}.png", mask)
    (root / "mask_classes.txt").write_text("background\nroad\ncar\n")
    taken = survey(root)
    assert taken.measure == "pixels"
    assert [(one.name, one.total, dict(one.amounts)) for one in taken.classes] == [
        ("road", 1, {"-": 100}),
        ("car", 1, {"-": 100}),
    ]


def test_what_augment_made_of_a_picture_is_no_copy_of_it(edgekit, tmp_path):
    root = tmp_path / "imgs"
    for number in range(3):
        save(root / "a" / f"{number}.png", scene(number))
    save(root / "b" / "again.png", scene(1))
    done = edgekit("augment", root, "--op", "flip p=1", "-n", "1", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    document = edgekit("inspect", tmp_path / "out", "--json").json
    assert document["pictures"]["total"] == 8
    assert document["copies"]["first"] == [["a/1.png", "b/again.png"]]
    (tmp_path / "out" / "manifest.jsonl").write_text("[]\n")
    assert [len(group) for group in survey(tmp_path / "out").groups] == [2, 4, 2]


def test_the_preview_shows_what_is_labelled(edgekit, tmp_path):
    root, sheet = yolo(tmp_path / "set"), tmp_path / "sheet.png"
    assert edgekit("inspect", root, "--preview", sheet).code == 0
    drawn = images.decode(sheet.read_bytes()).pixels
    assert drawn.shape[1] > 5 * 160
    first = drawn[8:168, 8:168].astype(int)
    assert (abs(first - np.array([255, 26, 26])).sum(axis=2) < 12).sum() > 40  # class 0's colour, its boxes' frames
    digest = sheet.read_bytes()
    assert edgekit("inspect", root, "--preview", sheet, "--force").code == 0
    assert sheet.read_bytes() == digest


def test_nothing_that_can_be_read(edgekit, tmp_path):
    root = tmp_path / "imgs"
    root.mkdir()
    (root / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    document = survey(root).to_dict()
    assert document["unreadable"] == [{"key": "a.jpg", "reason": "truncated JPEG"}]
    assert document["pictures"]["width"] is None
    assert document["imbalance"] is None
    assert edgekit("inspect", root).out.splitlines()[2].startswith("unreadable 1 picture: a.jpg (truncated JPEG)")
    refused = edgekit("inspect", root, "--preview", tmp_path / "x.png")
    assert refused.code == 2
    assert "none of its pictures can be read" in refused.err


@pytest.mark.parametrize(
    ("arguments", "what", "how"),
    [
        (["imgs", "--feeds", "x.npz", "--seconds", "2"], "--feeds and --seconds: for a model", "leave out"),
        (["imgs", "--mean", "0.5", "--size", "96"], "--size and --mean: of a folder, only with", "--features MODEL"),
        (["imgs", "--layer", "x", "--out", "x.npz"], "--layer and --out: of a folder, only", "--features MODEL"),
        (["m.onnx", "--labels", "coco", "--preview", "x.png"], "--preview and --labels: for a folder", "leave out"),
        (["m.onnx", "--features", "m.onnx"], "--features: for a folder of pictures, and m.onnx", "leave out"),
        (["imgs", "--features", "m.onnx", "--top", "3"], "--top: not for --features", "leave out"),
        (["imgs", "--features", "m.onnx"], "--features needs a file", "--out features.npz"),
        (["imgs", "--features", "no.onnx", "--out", "x.npz"], "no.onnx: no such file", ""),
        (["imgs", "--features", "m.onnx", "--out", "x.npy"], "x.npy: features are written as .npz", "x.npz"),
        (["imgs", "--features", "m.onnx", "--out", "imgs/x.npz"], "imgs/x.npz: lies inside imgs", "outside"),
        (["imgs", "--features", "m.onnx", "--out", "m.npz"], "m.npz: the output exists already", "--force"),
        (["imgs", "--features", "m.onnx", "--out", "x.npz", "--layer", "flaten"], "--layer flaten: no such", "flatten"),
        (["imgs", "--preview", "x.jpg"], "x.jpg: the preview is a PNG", "x.png"),
        (["imgs", "--preview", "imgs/x.png"], "imgs/x.png: lies inside imgs", "outside"),
        (["imgs", "--preview", "x.sheet.png"], "x.sheet.png: the preview exists already", "--force"),
        (["imgs", "--preview", "x.sheet.png", "--force"], "was not made by edgekit", ""),
        (["imgs", "--labels", "voc"], "imgs: no voc labels found", "Annotations"),
        (["models"], "models: no pictures in it", "edgekit inspect models/m.onnx"),
        (["imgs", "--top", "0"], "top=0 is below 1", "at least 1"),
    ],
)
def test_wrong_arguments_say_what_and_how(tmp_path, monkeypatch, arguments, what, how):
    save(tmp_path / "imgs" / "a.png", scene(1, 28, 28))
    (tmp_path / "models").mkdir()
    for place in ("models/m.onnx", "m.onnx"):
        shutil.copy(SAMPLES / "fashion_resnet.onnx", tmp_path / place)
    (tmp_path / "m.npz").write_bytes(b"mine")
    (tmp_path / "x.sheet.png").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgekitError) as refused:
        get_command(build()).main(["inspect", "--no-config", *arguments], prog_name="edgekit", standalone_mode=False)
    assert what in refused.value.message
    assert how in refused.value.hint
    assert not (tmp_path / "x.npz").exists()
    assert not (tmp_path / "x.png").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_nothing(tmp_path):
    root = tmp_path / "imgs"
    data = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8))[1].tobytes()
    root.mkdir()
    for number in range(60):
        (root / f"{number}.png").write_bytes(data)
    command = [sys.executable, "-m", "edgekit", "inspect", str(root), "--preview", str(tmp_path / "x.png")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    time.sleep(1.0)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert out == b""
    assert err.decode().splitlines() == ["interrupted; nothing was kept"]
    assert [path.name for path in tmp_path.iterdir()] == ["imgs"]


# ---- features


def load(path):
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def hits(found):
    """Classify half of the rows by the nearest mean of the other half's; give the share that is right."""
    rows, labels = found["features"].astype(np.float64), np.array([label.split("/")[-1] for label in found["labels"]])
    even = np.arange(len(rows)) % 2 == 0
    names = sorted(set(labels))
    means = np.stack([rows[even & (labels == name)].mean(axis=0) for name in names])
    nearest = ((rows[~even, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    return float((np.array(names)[nearest] == labels[~even]).mean())


@pytest.fixture(scope="module")
def clothes(tmp_path_factory):
    """A few of the sample pictures, in two splits, and a file that is no picture."""
    root = tmp_path_factory.mktemp("features") / "imgs"
    paths = sorted((SAMPLES / "fashion").rglob("*.png"))
    for number, path in enumerate(path for path in paths if int(path.stem[-2:], 36) % 2 == 0):
        place = root / ("val" if number % 3 == 0 else "train") / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    next(iter(sorted(root.rglob("*.png")))).with_name("0.png").write_bytes(b"no picture")
    return root


def test_features_of_every_picture_in_the_order_of_the_keys(edgekit, clothes, tmp_path):
    model, out = SAMPLES / "fashion_resnet.onnx", tmp_path / "f.npz"
    done = edgekit("inspect", clothes, "--features", model, "--out", out)
    assert done.code == 0, done.err
    assert "left out: 1 unreadable picture (first: " in done.err
    found = load(out)
    count = sum(path.stem != "0" for path in clothes.rglob("*.png"))
    assert done.out == f"wrote {out}: {count} x {found['features'].shape[1]} features, from flatten\n"
    assert found["features"].dtype == np.float32
    assert found["features"].shape[0] == count
    assert list(found["keys"]) == sorted(found["keys"])
    assert all((clothes / key).is_file() for key in found["keys"])
    assert set(found["split"]) == {"train", "val"}
    for key, label, split in zip(found["keys"], found["labels"], found["split"], strict=True):
        assert key.split("/")[:2] == [split, label]
    assert hits(found) > 0.6
    first = out.read_bytes()
    strict = edgekit("inspect", clothes, "--features", model, "--out", out, "--force", "--strict", "--json")
    assert strict.code == strict.json["exit_code"] == 1
    assert strict.json["schema"] == "edgekit.features/1"
    assert strict.json["layer"] == "flatten"
    assert out.read_bytes() == first


def test_features_are_what_the_model_answers_to_each_picture(clothes):
    model, path = graph.load(SAMPLES / "fashion_resnet.onnx"), SAMPLES / "fashion_resnet.onnx"
    found = features.extract(model, path, dataset.read(clothes), {})
    pooled = features.extract(model, path, dataset.read(clothes), {}, layer="block4.add.relu")
    assert pooled.layer == "block4.add.relu"
    assert np.allclose(found.values, pooled.values, atol=1e-4)  # what the pooling does
    logits = features.extract(model, path, dataset.read(clothes), {}, layer="logits")
    head = {tensor.name: graph.array(tensor) for tensor in model.graph.initializer}
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    weights = head[gemm.input[1]].T if graph.attribute(gemm, "transB", 0) else head[gemm.input[1]]
    assert np.allclose(found.values @ weights + head[gemm.input[2]], logits.values, atol=1e-3)


def test_a_model_of_one_picture_or_of_a_fixed_batch_gives_the_same(clothes):
    path = SAMPLES / "fashion_resnet.onnx"
    found = {}
    for batch in ("N", 1, 7):
        model = graph.load(path)
        for value in (*model.graph.input, *model.graph.output):
            first = value.type.tensor_type.shape.dim[0]
            if batch == "N":
                first.dim_param = batch
            else:
                first.dim_value = batch
        found[batch] = features.extract(model, path, dataset.read(clothes), {}).values
    assert np.allclose(found["N"], found[1], atol=1e-5)
    assert np.allclose(found["N"], found[7], atol=1e-5)


def test_a_detector_has_no_features_unless_a_layer_is_named(assets):
    model = graph.load(assets / "models" / "yolox_nano_416.onnx")
    with pytest.raises(EdgekitError, match="no layer before") as refused:
        features.penultimate(model)
    assert "--layer" in refused.value.hint


def test_a_folder_of_broken_pictures_has_no_features(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    path = SAMPLES / "fashion_resnet.onnx"
    with pytest.raises(EdgekitError, match=r"none of its pictures can be read \(a.png: not a picture\)"):
        features.extract(graph.load(path), path, dataset.read(tmp_path), {})


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet8_cifar10", "reshape_13"),
        ("resnet20_cifar10", "/Reshape_output_0"),
        ("mobilenetv1_025_vww96", "reshape_28"),
        ("vit_fmnist", "/ReduceMean_output_0"),
    ],
)
def test_the_last_layer_of_a_classifier_is_found(assets, name, layer):
    assert features.penultimate(graph.load(assets / "models" / f"{name}.onnx")) == layer


@pytest.mark.parametrize(
    ("model", "folder", "least"),
    [("resnet8_cifar10", "cifar10_png100", 0.4), ("vit_fmnist", "fashion_mnist/calib", 0.7)],
)
def test_features_of_real_models_tell_classes_apart(assets, tmp_path, model, folder, least):
    path = assets / "models" / f"{model}.onnx"
    found = features.extract(graph.load(path), path, dataset.read(assets / "images" / folder), {})
    found.save(tmp_path / "f.npz")
    assert hits(load(tmp_path / "f.npz")) > least  # one of ten by chance
