"""The peers' own scoring code on the values that our canvases give, beside our numbers.

::

    git clone https://github.com/yz93/LAVT-RIS CLONES/LAVT-RIS     # and the others of PEERS
    python -m maris_fast.bench.peer_scripts CLONES

Only the functions that score are taken out of the scripts, at the commits below; a model that answers with
given values, a data loader and what else they call stand in for the rest. CRIS' and VLT's need OpenCV
(``pip install opencv-python-headless``).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import re
import subprocess
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maris_fast.data_shards.importers.phrasecut import draw_instances
from maris_fast.geometry import MASK_STRIDE, ImageGeometry, to_size
from maris_fast.rle import Rle
from maris_fast.sample import Sample
from maris_fast.scoring import PROTOCOLS, Rows, whole
from maris_fast.scoring.canvas import cubic

PEERS = {
    "lavt": ("LAVT-RIS", "1da0af9f21b637c0cae9ea1363d2dd9b40e19628"),
    "cris": ("CRIS.pytorch", "e596332f8f5929a907ad66d2889e434d18f5eee7"),
    "rela": ("ReLA", "3ca955198da8ace68f8980b6fcbada0791cc51c2"),
    "lisa": ("LISA", "3cb2d4301f1af4691bd4f3938335ef06e76f155a"),
    "vlt": ("Vision-Language-Transformer", "9b24015566fa820e3eddbbd8942fa44512ec1b3c"),
    "phrasecut": ("PhraseCutDataset", "276470b7773d8a230aee5b5536876fbc485fb04b"),
}
Printed = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One expression: smooth random logits, and polygons of which some overlap."""

    logits: torch.Tensor
    geometry: ImageGeometry
    polygons: list[list[tuple[float, float]]]

    @property
    def covered(self) -> NDArray[np.int64]:
        """[H, W]: in how many polygons a pixel is, as refer.py's masks say."""
        size = self.geometry.height, self.geometry.width
        return sum(
            (draw_instances([[one]], *size).astype(np.int64) for one in self.polygons), np.zeros(size, int)
        )

    @property
    def truth(self) -> NDArray[np.bool_]:
        return self.covered > 0


def cases(number: int, *, empty: bool) -> list[Case]:
    """Of images of COCO's sizes, found better and worse; with ``empty`` every fifth means nothing."""
    random, made = np.random.default_rng(0), []
    for place in range(number):
        height, width = (int(side) for side in random.integers(240, 641, 2))
        polygons = []
        for _ in range(0 if empty and place % 5 == 0 else int(random.integers(1, 4))):
            middle, size = random.uniform(0.2, 0.8, 2), random.uniform(0.1, 0.35)
            angles = np.sort(random.uniform(0, 2 * np.pi, 7))
            corners = middle + size * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            polygons.append([(float(x * width), float(y * height)) for x, y in corners])
        one = Case(torch.zeros(0), ImageGeometry.of(height, width, 1024), polygons)
        coarse = torch.from_numpy(random.normal(size=(1, 1, 9, 9))).float()
        of_both = [torch.from_numpy(one.truth).float()[None, None], coarse]
        seen, noise = (F.interpolate(field, one.geometry.mask_size, mode="bicubic") for field in of_both)
        logits = 4 * (seen - 0.5) + float(random.uniform(0.1, 3)) * noise
        made.append(Case(logits[0], one.geometry, polygons))
    return made


def ours(name: str, given: Sequence[Case]) -> Printed:
    """What our protocol says that the script prints."""
    rows = Rows([PROTOCOLS[name]])
    for place, one in enumerate(given):
        says_none = None if name != "rela" else place % 7 == 0
        truth, twice = Rle.encode(one.truth), Rle.encode(one.covered > 1)
        sample = Sample(place, place, place, "it", truth, one.geometry, overlap=twice)
        rows.add(one.logits, sample, says_none)
    scores: Printed = whole(rows.table(), bootstrap=0)["protocols"][name]["prints"]
    return scores


class Script:
    """Definitions of a file of a peer's repository, without what it imports."""

    def __init__(self, clones: Path, name: str) -> None:
        repository, self._commit = PEERS[name]
        self._clone = clones / repository

    def define(self, file: str, names: Sequence[str], **known: Any) -> dict[str, Any]:
        """The named functions and classes; what they use of others is ``known``.

        Where they print two decimals, they print ten.
        """
        source = subprocess.run(
            ["git", "-C", str(self._clone), "show", f"{self._commit}:{file}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        source = source.replace("%.2f", "%.10f")
        wanted = [node for node in ast.parse(source).body if getattr(node, "name", None) in names]
        exec(compile(ast.Module(wanted, []), file, "exec"), known)
        return known


def lavt(script: Script, given: Sequence[Case]) -> Printed:
    canvas = PROTOCOLS["lavt"].canvas
    values = iter([canvas.values(one.logits, one.geometry) for one in given])
    logger = SimpleNamespace(log_every=lambda loader, every, header: loader)
    stubs = {"np": np, "torch": torch, "utils": SimpleNamespace(MetricLogger=lambda **_: logger)}
    defined = script.define("test.py", ["evaluate", "computeIoU"], **stubs)

    class Model:
        def eval(self) -> None: ...

        def __call__(self, image: Any, words: Any, l_mask: Any) -> torch.Tensor:
            value = next(values)
            return torch.stack([torch.zeros_like(value), value])[None]

    loader = [
        (
            torch.zeros(1),
            torch.from_numpy(canvas.truth(one.covered == 1))[None],
            torch.zeros(1, 1, 5, 1),
            torch.zeros(1, 1, 5, 1),
        )
        for one in given
    ]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        defined["evaluate"](Model(), loader, None, "cpu")
    found = re.findall(r"(Mean IoU|precision@\d.\d|overall IoU) (?:is|=) (\d+\.\d+)", said.getvalue())
    return {name: float(percent) / 100 for name, percent in found}


def rela(script: Script, given: Sequence[Case]) -> Printed:
    canvas = PROTOCOLS["rela"].canvas
    stubs = {"np": np, "OrderedDict": OrderedDict, "DatasetEvaluator": object}
    stubs |= {"logging": __import__("logging"), "itertools": __import__("itertools"), "torch": torch}
    defined = script.define(
        "gres_model/evaluation/refer_evaluation.py", ["ReferEvaluator", "computeIoU"], **stubs
    )
    evaluator = defined["ReferEvaluator"]("made up", distributed=False)
    evaluator.reset()
    for place, one in enumerate(given):
        value = canvas.values(one.logits, one.geometry)
        asked = {
            "image_id": place,
            "source": "grefcoco",
            "sentence": {"raw": "it"},
            "empty": not one.truth.any(),
            "gt_mask_merged": torch.from_numpy(canvas.truth(one.truth)),
        }
        none = torch.tensor([0.0, 1.0] if place % 7 == 0 else [1.0, 0.0])
        said = {"ref_seg": torch.stack([torch.zeros_like(value), value]), "nt_label": none}
        evaluator.process([asked], [said])
    found = evaluator.evaluate()["grefcoco"]
    return {name: n if name.endswith("_acc") else n / 100 for name, n in found.items()}


def lisa(script: Script, given: Sequence[Case]) -> Printed:
    canvas = PROTOCOLS["lisa"].canvas

    class OnCpu:
        """torch, whose histogram of whole numbers needs a GPU."""

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

        def histc(self, values: torch.Tensor, **options: Any) -> torch.Tensor:
            return torch.histc(values.float(), **options)

    alone = SimpleNamespace(all_reduce=lambda *_, **__: None, ReduceOp=SimpleNamespace(SUM=None))
    stubs: dict[str, Any] = {"np": np, "torch": OnCpu(), "Enum": Enum, "dist": alone}
    stubs = script.define("utils/utils.py", ["Summary", "AverageMeter", "intersectionAndUnionGPU"], **stubs)
    stubs |= {"tqdm": SimpleNamespace(tqdm=iter), "dict_to_cuda": lambda one: one}
    defined = script.define("train_ds.py", ["validate"], **stubs)

    class Model:
        def eval(self) -> None: ...

        def __call__(self, *, mask: torch.Tensor, value: torch.Tensor, **_: Any) -> dict[str, Any]:
            return {"pred_masks": [value[None]], "gt_masks": [mask[None]]}

    loader = [
        {
            "images": torch.zeros(1),
            "images_clip": torch.zeros(1),
            "mask": torch.from_numpy(one.covered),
            "value": canvas.values(one.logits, one.geometry),
        }
        for one in given
    ]
    giou, ciou = defined["validate"](
        loader, Model(), 0, None, SimpleNamespace(precision="fp32", local_rank=1)
    )
    return {"giou": float(giou), "ciou": float(ciou)}


def phrasecut(script: Script, given: Sequence[Case]) -> Printed:
    canvas = PROTOCOLS["phrasecut"].canvas
    stubs: dict[str, Any] = {"np": np, "Image": Image, "ImageDraw": ImageDraw}
    stubs = script.define("utils/data_transfer.py", ["polygons_to_mask"], **stubs)
    stubs = script.define("utils/iou.py", ["iou_polygons_masks"], **stubs)
    stubs |= {"subset_utils": SimpleNamespace(subsets=["all"])}
    defined = script.define("utils/evaluator.py", ["Evaluator"], **stubs)
    tasks = [
        {
            "task_ids": [place],
            "gt_Polygons": [[one.polygons]],
            "height": one.geometry.height,
            "width": one.geometry.width,
        }
        for place, one in enumerate(given)
    ]
    loader = SimpleNamespace(
        splits=["made up"],
        img_ids=range(len(tasks)),
        task_num=len(tasks),
        get_img_ref_data=tasks.__getitem__,
        get_task_subset=lambda *_: ["all"],
    )
    evaluator = defined["Evaluator"](loader)
    with contextlib.redirect_stdout(io.StringIO()):
        for place, one in enumerate(given):
            mask = canvas.values(one.logits, one.geometry) > 0
            evaluator.eval_single_img(place, {place: {"pred_mask": mask.numpy()}})
        found = evaluator.analyze_stats(mask_box=["mask"])["all"]
    levels = {f"acc{level:.1f}": float(share) for level, share in found["pred_mask_acc"].items()}
    return {name: float(found[name]) for name in ("mean_mask_iou", "cum_mask_iou")} | levels


def cris(script: Script, given: Sequence[Case]) -> Printed:
    import cv2

    size = 416
    squares, masks = [], []
    for one in given:
        scale = min(size / one.geometry.height, size / one.geometry.width)
        sides = []
        for own, resized, logits in zip(
            (one.geometry.height, one.geometry.width),
            (one.geometry.h_px, one.geometry.w_px),
            one.geometry.mask_size,
            strict=True,
        ):
            place = (torch.arange(size, dtype=torch.float64) - (size - own * scale) / 2) / scale
            inside = (place >= -0.5) & (place <= own - 0.5)
            there = cubic((place + 0.5) * resized / own / MASK_STRIDE - 0.5, logits, beyond="edge")
            sides.append((there * inside[:, None]).float())
        squares.append(sides[0] @ one.logits[0].sigmoid() @ sides[1].T)
        masks.append(one.truth)
    values = iter([square.clamp(1e-7, 1 - 1e-7).logit() for square in squares])
    stubs = {"np": np, "torch": torch, "cv2": cv2, "F": F, "time": SimpleNamespace(sleep=lambda _: None)}
    stubs |= {"tqdm": lambda loader, **_: loader, "logger": SimpleNamespace(info=lambda _: None)}
    stubs |= {"tokenize": lambda *_: torch.zeros(1)}
    defined = script.define("engine/engine.py", ["inference"], **stubs)

    class Model:
        def eval(self) -> None: ...

        def __call__(self, image: Any, words: Any) -> torch.Tensor:
            return next(values)

    with tempfile.TemporaryDirectory() as folder, _tensors_stay():
        loader = []
        for number, (one, mask) in enumerate(zip(given, masks, strict=True)):
            file = Path(folder) / f"{number}.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(file)
            height, width = one.geometry.height, one.geometry.width
            scale = min(size / height, size / width)
            x, y = (size - width * scale) / 2, (size - height * scale) / 2
            corners = np.array([[0, 0], [width, 0], [0, height]], np.float32)
            square = np.array([[x, y], [width * scale + x, y], [x, height * scale + y]], np.float32)
            param = {
                "mask_dir": [str(file)],
                "sents": ["it"],
                "ori_size": torch.tensor([[height, width]]),
                "inverse": torch.from_numpy(cv2.getAffineTransform(square, corners))[None],
            }
            loader.append((torch.zeros(1, 3, size, size), param))
        iou, levels = defined["inference"](loader, Model(), SimpleNamespace(visualize=False, word_len=17))
    return {"IoU": iou, **levels}


def vlt(script: Script, given: Sequence[Case]) -> Printed:
    import cv2

    size, squares = 416, []
    for one in given:
        own = one.geometry.height, one.geometry.width
        scale = min(size / side for side in own)
        inner = int(own[0] * scale), int(own[1] * scale)
        top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
        square = torch.full((size, size), 0.5)
        square[top : top + inner[0], left : left + inner[1]] = to_size(
            one.logits.sigmoid(), one.geometry, inner
        )[0]
        squares.append(square.clamp(1e-7, 1 - 1e-7).logit().numpy()[None, :, :, None])
    stubs: dict[str, Any] = {
        "np": np,
        "cv2": cv2,
        "keras": SimpleNamespace(callbacks=SimpleNamespace(Callback=object)),
        "progressbar": SimpleNamespace(progressbar=lambda steps, **_: steps),
        "get_random_data": lambda one, *_, **__: (
            np.zeros(1), [np.zeros(1)], np.zeros(1), [{"sent": "it"}], one.truth[..., None].astype(np.uint8)
        ),
    }  # fmt: skip
    evaluator = object.__new__(script.define("callbacks/eval.py", ["Evaluate"], **stubs)["Evaluate"])
    answers = iter(squares)
    evaluator.__dict__.update(
        val_data=list(given),
        batch_size=1,
        input_shape=(size, size),
        word_embed=None,
        config=None,
        seg_min_overlap=0.35,
        log_images=0,
        model=SimpleNamespace(predict_on_batch=lambda _: next(answers)),
    )
    iou, levels = evaluator.evaluate()
    return {"seg_iou": float(iou), **{f"prec@{level:.2f}": share for level, share in levels.items()}}


@contextlib.contextmanager
def _tensors_stay() -> Iterator[None]:
    """``Tensor.cuda`` gives the tensor itself."""
    before = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = before  # type: ignore[method-assign]


RUN: dict[str, Callable[[Script, Sequence[Case]], Printed]] = {
    "lavt": lavt,
    "cris": cris,
    "rela": rela,
    "lisa": lisa,
    "vlt": vlt,
    "phrasecut": phrasecut,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="maris_fast.bench.peer_scripts", description=__doc__)
    parser.add_argument("clones", type=Path, help="folder with the peers' repositories")
    parser.add_argument("--expressions", type=int, default=200)
    options = parser.parse_args()
    print("| protocol | number | the script | here | difference |\n|---|---|---|---|---|")
    for name, run in RUN.items():
        given = cases(options.expressions, empty=name == "rela")
        theirs, own = run(Script(options.clones, name), given), ours(name, given)
        for number, value in own.items():
            both = theirs[number], value
            print(f"| `{name}` | {number} | {both[0]:.7f} | {both[1]:.7f} | {both[0] - both[1]:+.1e} |")


if __name__ == "__main__":
    main()
