"""Every case, by topic; docs/trust.md shows them in this order."""

from __future__ import annotations

from case import Case
from cases_data import DATA, IMAGES, SHAPES
from cases_onnx import ONNX
from cases_pt2 import PT2
from cases_text import PLANS, REPORTS, YAML
from cases_weights import PICKLES, SAFETENSORS, STATES

GROUPS: dict[str, list[Case]] = {
    "Pickles (`.pt`, `.pth`, `.th`, `.ckpt`)": PICKLES,
    "State dicts": STATES,
    "`.safetensors`": SAFETENSORS,
    "Exported programs (`.pt2`)": PT2,
    "ONNX": ONNX,
    "Recipes": YAML,
    "Plans": PLANS,
    "Folders of runs": REPORTS,
    "Image folders": IMAGES,
    "Other data": DATA,
    "Shapes": SHAPES,
}
