"""Settings of segmentation without weights, and the pixels it works on."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from utils.errors import ConfigError
from utils.types import ChipGrid


@dataclass(frozen=True, kw_only=True)
class ClassicalSettings:
    """Settings of the method. Lengths in metres mean ground size, ``_px`` means sensor noise, shares are of the box."""

    median_px: int = 1
    """Median filter against sensor noise and compression, pixels, odd; 1 leaves the pixels as they are."""
    blur_m: float = 0.4
    """Standard deviation of the Gaussian under which modules and their joints become one colour, metres."""
    fine_weight: float = 1.0
    """Weight of the unblurred colours beside the blurred ones."""
    context_share: float = 0.4
    """Width of the surroundings around the box, as a share of its longest side."""
    min_context_m: float = 3.0
    """Least width of the surroundings, metres."""
    own_colours: int = 2
    """Colours that describe the object."""
    other_colours: int = 14
    """Colours that describe what is not the object."""
    least_spread: float = 4.0
    """Least standard deviation of the object's colours, CIELAB units."""
    strongest: float = 4.0
    """Bound of the log-odds a pixel's colour can earn."""
    warm_from: float = 10.0
    """How much warmer (CIELAB a + b) than the object's cool part a pixel may be: modules are cool."""
    warm_weight: float = 5.0
    """Log-odds a pixel loses that is much warmer."""
    bias: float = 0.8
    """Log-odds added everywhere: above 0 favours larger masks."""
    directions: int = 2
    """Directions of edges from which rectangles are drawn."""
    jitter_share: float = 0.1
    """Standard deviation of a box's edges, as a share of the side they bound."""
    shapeless_share: float = 0.1
    """Probability that the object in a box is no rectangle."""
    shape_weight: float = 1.2
    """Weight of the prompt's log-odds beside those of the colours."""
    rectangle_samples: float = 8.0
    """Independent looks at colours that a rectangle of the box's size is worth."""
    rounds: int = 2
    """Times the colours are learnt."""
    smooth_m: float = 0.15
    """Standard deviation of the Gaussian over the log-odds, metres."""
    growth_share: float = 0.2
    """How far the object may reach beyond the box, as a share of its sides."""
    polygon_shift_m: float = 0.7
    """Standard deviation of a coarse polygon's outline, metres."""
    close_m: float = 1.0
    """Closing radius, metres: bridges gaps between modules."""
    open_m: float = 0.3
    """Opening radius, metres: drops threads."""
    point_core_m: float = 0.75
    """Radius of the disc around a point that is on or off the object, metres."""
    point_box_m: float = 12.0
    """Width of the search box of a prompt that is a bare point, metres."""
    piece_share: float = 0.1
    """Pieces below this share of the largest are dropped; several arrays in one box stay."""
    min_context_ratio: float = 0.15
    """Least surroundings, as a share of the prompt's own pixels, without which a low contrast decides nothing."""
    min_contrast: float = 0.1
    """Contrast below which a prompt without surroundings is left as it is."""
    small_px: float = 10.0
    """A box whose shortest side is below this many pixels is flagged small."""

    def __post_init__(self) -> None:
        """Refuse settings that leave nothing to compute with."""
        own = {setting.name: vars(self)[setting.name] for setting in fields(ClassicalSettings)}
        wrong = {name: value for name, value in own.items() if not value >= 0}
        above = (
            "fine_weight",
            "own_colours",
            "other_colours",
            "least_spread",
            "strongest",
            "directions",
            "jitter_share",
            "rounds",
        )
        wrong |= {name: own[name] for name in (*above, "point_core_m", "point_box_m") if not own[name]}
        whole = ("median_px", "own_colours", "other_colours", "directions", "rounds")
        wrong |= {name: own[name] for name in whole if own[name] != int(own[name])}
        if not 0 < self.shapeless_share <= 1:
            wrong["shapeless_share"] = self.shapeless_share
        if self.median_px % 2 == 0:
            wrong["median_px"] = self.median_px
        if wrong:
            raise ConfigError(
                "settings of the classical backend are not negative, median_px is odd, counts are whole, "
                f"shapeless_share lies above 0 and up to 1, "
                f"and {', '.join(above)}, point_core_m and point_box_m are above 0; "
                f"found {wrong}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """The part of a chip that matters to one prompt."""

    colours: NDArray[np.float32]
    """Colour features, shape (rows, columns, planes); the first plane is lightness."""
    valid: NDArray[np.bool_]
    """True where pixels hold data, shape (rows, columns)."""
    grid: ChipGrid
    """Where the pixels lie."""
