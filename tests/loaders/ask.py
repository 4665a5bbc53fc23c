"""Ask other libraries what they find in a folder; test_loaders.py runs this in the environment that has them.

    python tests/loaders/ask.py LIBRARY QUESTIONS.json

QUESTIONS.json is {name: [function, argument, ...]}; prints {name: answer} as the last line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from types import ModuleType


def torchvision(kind, *arguments):
    # The compiled operators of a wheel for CUDA do not load beside a torch for CPUs; the data sets need none of them,
    # but the package wants to describe them.
    sys.modules.setdefault("torchvision._meta_registrations", ModuleType("unused"))
    from torchvision import datasets

    if kind == "ImageFolder":
        found = datasets.ImageFolder(*arguments)
        files = {Path(path).relative_to(found.root).as_posix(): number for path, number in found.samples}
        return {"classes": found.classes, "files": files, "sizes": [found[i][0].size for i in range(len(found))]}
    if kind == "CocoDetection":
        found = datasets.CocoDetection(*arguments)
        return [[picture.size, [one["bbox"] for one in target]] for picture, target in found]
    root, split = arguments
    found = datasets.VOCDetection(root, image_set=split)
    names = (
        Path(path).relative_to(Path(found.root, "VOCdevkit/VOC2012/JPEGImages")).as_posix() for path in found.images
    )
    return {name: target["annotation"].get("object", []) for name, (_, target) in zip(names, found, strict=True)}


def datasets(root, *metadata):
    import datasets as library

    library.disable_progress_bars()
    told = {"metadata_filenames": list(metadata)} if metadata else {}
    found = library.load_dataset("imagefolder", data_dir=root, **told)
    return {
        split: {
            "columns": part.column_names,
            "classes": getattr(part.features.get("label"), "names", None),
            "files": [
                [Path(one["image"]["path"]).relative_to(root).as_posix(), one.get("label")]
                for one in part.cast_column("image", library.Image(decode=False))
            ],
            "sizes": [one["image"].size for one in part],
        }
        for split, part in found.items()
    }


def ultralytics(task, yaml, cwd):
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset
    from ultralytics.utils import LOGGER

    said = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())
    LOGGER.addHandler(listener)
    os.chdir(cwd)
    data = check_det_dataset(yaml, autodownload=False)
    answer = {key: data.get(key) for key in ("nc", "names", "flip_idx", "kpt_shape")}
    for split in ("train", "val"):
        found = YOLODataset(img_path=data[split], data=data, task=task, augment=False, imgsz=64)
        for index in range(0, len(found), 8):
            found[index]  # a picture, its labels and masks as training gets them
        answer[split] = {Path(one["im_file"]).name: _labels(one) for one in found.labels}
    LOGGER.removeHandler(listener)
    usual = ("Scanning", "image access", "cache created")
    return answer | {"said": [text for text in said if text.strip() and not any(word in text for word in usual)]}


def _labels(one):
    points = one["keypoints"]
    return {
        "size": one["shape"][::-1],
        "classes": one["cls"].ravel().tolist(),
        "boxes": one["bboxes"].tolist(),
        "polygons": [part.tolist() for part in one["segments"]],
        "keypoints": None if points is None else points.tolist(),
    }


def pycocotools(path):
    from pycocotools.coco import COCO

    found = COCO(path)
    boxes = {}
    for number, image in found.imgs.items():
        own = found.loadAnns(found.getAnnIds(number))
        boxes[image["file_name"]] = [one["bbox"] for one in own]
    return {"names": [one["name"] for one in found.loadCats(found.getCatIds())], "boxes": boxes}


def main():
    library, path = sys.argv[1:]
    ask = {one.__name__: one for one in (torchvision, datasets, ultralytics, pycocotools)}[library]
    answers = {}
    for name, question in json.loads(Path(path).read_text()).items():
        try:
            answers[name] = ask(*question)
        except Exception as error:  # the answer to one question, for its test to show
            answers[name] = {"error": f"{type(error).__name__}: {error}"}
    print("\n" + json.dumps(answers))


if __name__ == "__main__":
    main()
