"""Rules of validation on very-high-resolution imagery: each node is one rule, its docstring its formula and source.

These carry the verdict where an object is too small for multispectral pixels. Colours are CIELAB units; anchors of the
scales are set by hand from what modules are made of, log-odds likewise. The calibrated model uses the measurements, not
the anchors.
"""

import numpy as np
from hamilton.function_modifiers import tag

from dataflows._findings import NEUTRAL, Together, finding, scaled
from dataflows.validation_imagery import VhrView
from utils.evidence import Finding, abstains
from utils.texture_evidence import Texture, grown, likeness

Findings = dict[str, Finding]
_FEW = "not seen in VHR imagery, or too few pixels to describe"
_UNSEEN = "not seen in VHR imagery"
_ALONE = "its surroundings were not seen in VHR imagery, or it has too few pixels to describe"


@tag(stage="validation")
def module_grid(vhr_textures: dict[str, list[Texture | None]], vhr_views: dict[str, list[VhrView]]) -> Findings:
    """Regularity at the pitch of modules: ``max ρ(d) − ρ(d/2)`` over 0.8 m ≤ |d| ≤ 2.4 m.

    ρ is the masked autocorrelation of lightness inside (``utils.texture_evidence.module_regularity``; Padfield 2012).
    Abstains at more than 0.4 m per pixel, where joints cannot be seen. Furrows and film on fields repeat as well: a
    lattice alone does not settle it.

    Log-odds: +1.25 at 0.7 and more, −0.75 at 0.15 and less.
    """
    found = {}
    for one, own in _own(vhr_textures).items():
        if own is None or own.regularity is None:
            found[one] = abstains(
                "module_grid", "no VHR imagery, or too few or too coarse pixels to see joints of modules"
            )
            continue
        odds = scaled(own.regularity, 0.15, 0.7, against=0.75, speaks_for=1.25)
        words = f"{'repeats' if odds > 0 else 'does not repeat'} at the pitch of modules ({own.regularity:+.2f})"
        found[one] = finding(
            "module_grid",
            own.regularity,
            "-1 to 2",
            odds,
            words,
            seen=vhr_views[one][0].chip,
            details={"order": own.order},
        )
    return found


@tag(stage="validation")
def panel_colour(vhr_textures: dict[str, list[Texture | None]], vhr_views: dict[str, list[VhrView]]) -> Findings:
    """How much bluer it is than its surroundings, ``b(ring) − b(inside)`` of median CIELAB colours.

    Silicon cells under an antireflective layer are bluish to black (Czirjak 2017); roofs, soil and plants are warmer.
    Lightness, blueness, the green-red axis and the whole contrast are details.

    Log-odds: +1 at 14 and more, −1 at 2 and less.
    """
    found = {}
    for one, own in _own(vhr_textures).items():
        if own is None or own.bluer is None:
            found[one] = abstains("panel_colour", _ALONE)
            continue
        odds = scaled(own.bluer, 2.0, 14.0, against=1.0, speaks_for=1.0)
        bluer = "bluer" if odds >= 0 else "hardly bluer" if own.bluer > 0 else "not bluer"
        words = f"{bluer} than around ({own.bluer:+.0f} CIELAB), lightness {own.lightness:.0f}"
        parts: dict[str, float | None] = {
            name: getattr(own, name) for name in ("lightness", "blueness", "redness", "contrast", "darker")
        }
        found[one] = finding(
            "panel_colour", own.bluer, "CIELAB", odds, words, seen=vhr_views[one][0].chip, details=parts
        )
    return found


@tag(stage="validation")
def sharp_outline(vhr_textures: dict[str, list[Texture | None]], vhr_views: dict[str, list[VhrView]]) -> Findings:
    """Mean gradient of lightness across the outline, L per metre (Scharr operator).

    The rim of an array is a step of 1 to 2 pixels; a patch found within one surface has none.

    Log-odds: +0.5 at 10 and more, −0.75 at 4 and less.
    """
    found = {}
    for one, own in _own(vhr_textures).items():
        if own is None or own.edge is None:
            found[one] = abstains("sharp_outline", _ALONE)
            continue
        odds = scaled(own.edge, 4.0, 10.0, against=0.75, speaks_for=0.5)
        words = f"outline {'blurred' if odds < 0 else 'clear'}: {own.edge:.1f} L per metre"
        found[one] = finding("sharp_outline", own.edge, "L/m", odds, words, seen=vhr_views[one][0].chip)
    return found


@tag(stage="validation")
def smooth_surface(vhr_textures: dict[str, list[Texture | None]], vhr_views: dict[str, list[VhrView]]) -> Findings:
    """Standard deviation of lightness inside without its slow part: roads, water, dark roofs and shade are even.

    Joints and cells of modules give 2 and more at 0.3 m and better; asphalt, felt, slate, water and shaded ground under
    1.5. Only where joints could be seen (0.4 m and finer). Two sides of one contrast: a surface that is even and
    hardly differs from its surroundings is a part of them.

    Log-odds: +0.25 at 2.2 and more, −1.25 at 1.2 and less; where it speaks against and the contrast to the ring is
    under 8, 0.75 less.
    """
    found = {}
    for one, own in _own(vhr_textures).items():
        if own is None or own.regularity is None:
            found[one] = abstains("smooth_surface", _FEW)
            continue
        odds = scaled(own.roughness, 1.2, 2.2, against=1.25, speaks_for=0.25)
        words = f"{'even' if odds < 0 else 'structured'} surface: lightness varies by {own.roughness:.1f}"
        if own.contrast is not None and own.contrast < 8 and odds < 0:
            odds -= 0.75
            words += ", like its surroundings"
        found[one] = finding(
            "smooth_surface",
            own.roughness,
            "L",
            odds,
            words,
            seen=vhr_views[one][0].chip,
            details={"contrast": own.contrast},
        )
    return found


@tag(stage="validation")
def cast_shadow(vhr_textures: dict[str, list[Texture | None]], vhr_views: dict[str, list[VhrView]]) -> Findings:
    """Darkness without structure: ``L(ring) − L(inside) > 10`` and an even surface is shade.

    A shadow keeps the texture of the ground at a fraction of its contrast, and turns bluish, because the sky lights it
    (Finlayson et al. 2006, IEEE TPAMI 28(1)); so blue alone does not speak for modules there. The multispectral scene
    class of shadow is looked at by ``cloud_cover``.

    Log-odds: where it is darker by over 10 and its own lightness is under 45, −2 at a roughness (``smooth_surface``) of
    1 and less, 0 at 2 and more; elsewhere 0.
    """
    found = {}
    for one, own in _own(vhr_textures).items():
        if own is None or own.darker is None:
            found[one] = abstains("cast_shadow", _ALONE)
            continue
        odds = 0.0
        if own.darker > 10 and own.lightness < 45:
            odds = scaled(own.roughness, 1.0, 2.0, against=2.0, speaks_for=0.0)
        shade = ", without structure: shade" if odds <= -1 else ", hardly structured: perhaps shade"
        words = f"{abs(own.darker):.0f} {'darker' if own.darker >= 0 else 'lighter'} than around"
        words += shade if odds <= -NEUTRAL else ""
        found[one] = finding(
            "cast_shadow",
            own.darker,
            "L",
            odds,
            words,
            seen=vhr_views[one][0].chip,
            details={"roughness": own.roughness},
        )
    return found


@tag(stage="validation")
def day_likeness(vhr_views: dict[str, list[VhrView]]) -> dict[str, float | None]:
    """Detection id → correlation of lightness on and 1 m around it between its two nearest VHR days; None without."""
    return {one: _likeness(views) for one, views in vhr_views.items()}


@tag(stage="validation")
def parked_vehicle(
    vhr_textures: dict[str, list[Texture | None]],
    vhr_views: dict[str, list[VhrView]],
    outline_shapes: dict[str, dict[str, float]],
    day_likeness: dict[str, float | None],
) -> Findings:
    """Size of a car and gone on another day: 3 to 6.5 m by 1.4 to 3.4 m, 5 to 18 m² (cars are 4 to 5 m by 1.8 m).

    Against, where the image of another day does not correlate with it; half of that where there is no other day.
    A module grid (regularity of 0.6 and more) takes half of it back.

    Log-odds of what has that size: −2 at a correlation of 0.5 and less, 0 at 0.9 and more; −1 without another day.
    """
    found = {}
    for one, own in _own(vhr_textures).items():
        shape, views = outline_shapes[one], vhr_views[one]
        if not views:
            found[one] = abstains("parked_vehicle", _UNSEEN)
            continue
        same = day_likeness[one]
        sized = 3 <= shape["length_m"] <= 6.5 and 1.4 <= shape["width_m"] <= 3.4 and 5 <= shape["area_m2"] <= 18
        odds = 0.0
        if sized and own is not None:
            odds = -1.0 if same is None else scaled(same, 0.5, 0.9, against=2.0, speaks_for=0.0)
            odds *= 1.0 if (own.regularity or 0) < 0.6 else 0.5
        words = "the size of a car" if sized else "not the size of a car"
        if same is not None:
            stays = "gone" if same < 0.6 else "changed" if same < 0.85 else "also there"
            words += f", {stays} on the other day"
        found[one] = finding(
            "parked_vehicle", shape["length_m"], "m", odds, words, seen=views[0].chip, details={"likeness": same}
        )
    return found


@tag(stage="validation")
def visual_persistence(
    vhr_views: dict[str, list[VhrView]],
    vhr_textures: dict[str, list[Texture | None]],
    day_likeness: dict[str, float | None],
) -> Findings:
    """Correlation of lightness on and 1 m around the object between its two nearest VHR days, −1 to 1.

    What stands on both days correlates. A thing that is new does not, and is not worse for it: arrays get built. So a
    low value is neutral. Figures of the other day are details.

    Log-odds: +0.3 at 0.95 and more, 0 at 0.7 and less.
    """
    found = {}
    for one, views in vhr_views.items():
        same = day_likeness[one]
        if same is None:
            found[one] = abstains("visual_persistence", "seen on one VHR day alone, or without structure")
            continue
        other = vhr_textures[one][1]
        words = f"{'the same' if same > 0.75 else 'different'} on {views[1].chip.acquired_at:%Y-%m-%d} ({same:+.2f})"
        past: dict[str, float | None] = (
            {} if other is None else {"other_regularity": other.regularity, "other_bluer": other.bluer}
        )
        found[one] = finding(
            "visual_persistence", same, "-1 to 1", scaled(same, 0.7, 0.95, against=0.0, speaks_for=0.3), words,
            seen=Together(views[0].chip, views[1].chip), details=past,
        )  # fmt: skip
    return found


def _own(textures: dict[str, list[Texture | None]]) -> dict[str, Texture | None]:
    """What was measured on the day a detection was found on; None where nothing was."""
    return {one: days[0] if days else None for one, days in textures.items()}


def _likeness(views: list[VhrView]) -> float | None:
    if len(views) < 2 or views[0].chip.data.shape != views[1].chip.data.shape:
        return None
    first, second = views[:2]
    reach = max(1, round(1.0 / first.chip.grid.gsd_m))
    near = grown(first.mask, reach) & first.chip.valid & second.chip.valid
    return likeness(np.asarray(first.chip.data, np.uint8), np.asarray(second.chip.data, np.uint8), near)
