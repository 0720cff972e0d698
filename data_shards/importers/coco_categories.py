"""COCO's 80 categories, for forms that have only their numbers."""

from __future__ import annotations

_NAMES = """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant - stop_sign
parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe - backpack umbrella - - handbag
tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard
tennis_racket bottle - wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot
hot_dog pizza donut cake chair couch potted_plant bed - dining_table - - toilet - tv laptop mouse remote
keyboard cell_phone microwave oven toaster sink refrigerator - book clock vase scissors teddy_bear
hair_drier toothbrush
"""

COCO_CATEGORIES = {
    number: name.replace("_", " ") for number, name in enumerate(_NAMES.split(), start=1) if name != "-"
}
"""Names by COCO's ``category_id``, from 1 to 90."""

_BY_PLACE = [*COCO_CATEGORIES.values()]


def coco_category(place: int | None) -> str | None:
    """The name at an index from 0 to 79, as forms without gaps number them; None if out of range."""
    return _BY_PLACE[place] if place is not None and 0 <= place < len(_BY_PLACE) else None
