"""Rules that take blocks out of a search by what the lake's context tables say of them, each a node of its own.

A rule prunes a block only where it is sure: a block without context is kept. Rules that are not in the settings give
None. A rule of one's own is a function ``(block_context, options) -> pruned`` named ``package.module:function``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import numpy as np
import pyarrow as pa
from hamilton.function_modifiers import tag
from numpy.typing import NDArray

from dataflows._settings import section
from store.ducklake_context import ContextTable
from utils.errors import ConfigError, UnknownNameError

_Bools = NDArray[np.bool_]
_EXACT = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class RuleFinding:
    """What one rule says of every block."""

    pruned: _Bools
    """Blocks it takes out of the search, shape (blocks,)."""
    judged: _Bools
    """Blocks it could judge; the others it keeps, shape (blocks,)."""


@dataclass(frozen=True, kw_only=True)
class NearBuildings:
    """Options of :func:`near_buildings`."""

    context: str = "buildings"
    """Context table of buildings, kind ``features``."""
    within_m: float = 100.0
    """Blocks with a building nearer than this stay, metres."""
    or_classes: tuple[str, ...] = ()
    """Land cover on which solar farms stand: blocks with enough of it stay as well."""
    classes_context: str = "land_cover"
    """Context table of land cover, kind ``classes``; asked only with ``or_classes``."""
    least_share: float = 0.05
    """Share of a block those classes must cover, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class LandCoverAllowed:
    """Options of :func:`land_cover_allowed`."""

    context: str = "land_cover"
    """Context table of land cover, kind ``classes``."""
    classes: tuple[str, ...] = ()
    """Classes that photovoltaics stand on."""
    least_share: float = 0.01
    """Share of a block they must cover for it to stay, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class LandCoverExcluded:
    """Options of :func:`land_cover_excluded`."""

    context: str = "land_cover"
    """Context table of land cover, kind ``classes``."""
    classes: tuple[str, ...] = ()
    """Classes that photovoltaics do not stand on."""
    share: float = 0.95
    """Blocks of which they cover at least this share go, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class NotWater:
    """Options of :func:`not_water`."""

    context: str = "land_cover"
    """Context table of land cover, kind ``classes``."""
    classes: tuple[str, ...] = ("water",)
    """Classes that are water."""
    share: float = 0.99
    """Blocks of which water covers at least this share go, 0 to 1."""


RULES: Final[Mapping[str, type]] = {
    "near_buildings": NearBuildings,
    "land_cover_allowed": LandCoverAllowed,
    "land_cover_excluded": LandCoverExcluded,
    "not_water": NotWater,
}
"""Rule, the name of its node → its options."""


@tag(stage="search")
def rule_options(prune: dict[str, Any], context_tables: list[ContextTable]) -> dict[str, Any]:
    """Rule of the settings → its checked options, in the settings' order.

    Raises:
        UnknownNameError: there is no such rule.
        ConfigError: an option is refused, or the context table it asks is not among those of the settings.
    """
    known = {table.name: table for table in context_tables}
    found: dict[str, Any] = {}
    for name, values in prune.items():
        if values is not None and not isinstance(values, Mapping):
            raise ConfigError(f"prune.{name} is a mapping of options, got {values!r}")
        if ":" in name:
            _ = _plugged(name)
            found[name] = dict(values or {})
            continue
        if name not in RULES:
            raise UnknownNameError("rule to prune by", name, [*RULES, "package.module:function"])
        options: Any = section(RULES[name], values or {}, f"prune.{name}")
        _check(name, options, known)
        found[name] = options
    return found


def _check(name: str, options: Any, known: Mapping[str, ContextTable]) -> None:
    asked = [(options.context, "features" if isinstance(options, NearBuildings) else "classes")]
    if isinstance(options, NearBuildings):
        asked += [(options.classes_context, "classes")] if options.or_classes else []
    elif not options.classes:
        raise ConfigError(f"prune.{name}: name at least one of the land cover's `classes`")
    for table, kind in asked:
        if table not in known:
            raise ConfigError(
                f"prune.{name} asks the context table {table!r}; `context` lists {', '.join(known) or 'none'}"
            )
        if known[table].kind != kind:
            raise ConfigError(f"prune.{name}: context table {table} is of kind {known[table].kind}, it needs {kind}")
    if isinstance(options, NearBuildings) and not 0 <= options.within_m < known[options.context].search_m:
        raise ConfigError(
            f"prune.{name}: within_m {options.within_m} must be below search_m of the context table "
            f"{options.context} ({known[options.context].search_m}): a block is pruned where the nearest building lies "
            "between the two"
        )
    for share in ("share", "least_share"):
        if not 0 < getattr(options, share, 1.0) <= 1:
            raise ConfigError(f"prune.{name}: {share} lies in 0 to 1, and is above 0")


@tag(stage="search")
def near_buildings(block_context: pa.Table, rule_options: dict[str, Any]) -> RuleFinding | None:
    """Blocks without a building near and without land for solar farms.

    A block is judged where the nearest building lies within ``search_m`` of the context table: farther off, the table
    may hold none because nobody mapped any. Land of unknown cover counts as land for solar farms.
    """
    options: NearBuildings | None = rule_options.get("near_buildings")
    if options is None:
        return None
    distance_m = block_context[f"{options.context}_distance_m"].to_numpy()
    judged = ~np.isnan(distance_m)
    pruned = judged & (np.nan_to_num(distance_m) > options.within_m)
    if options.or_classes:
        shares, unknown = _shares(block_context, options.classes_context, options.or_classes)
        pruned &= shares + unknown < options.least_share
    return RuleFinding(pruned=pruned, judged=judged)


@tag(stage="search")
def land_cover_allowed(block_context: pa.Table, rule_options: dict[str, Any]) -> RuleFinding | None:
    """Blocks with too little of the land cover that photovoltaics stand on; unknown ground counts as such."""
    options: LandCoverAllowed | None = rule_options.get("land_cover_allowed")
    if options is None:
        return None
    shares, unknown = _shares(block_context, options.context, options.classes)
    return RuleFinding(pruned=shares + unknown < options.least_share, judged=unknown < 1 - _EXACT)


@tag(stage="search")
def land_cover_excluded(block_context: pa.Table, rule_options: dict[str, Any]) -> RuleFinding | None:
    """Blocks that are all but covered by land cover on which no photovoltaics stand, such as forest."""
    options: LandCoverExcluded | None = rule_options.get("land_cover_excluded")
    return None if options is None else _covered(block_context, options.context, options.classes, options.share)


@tag(stage="search")
def not_water(block_context: pa.Table, rule_options: dict[str, Any]) -> RuleFinding | None:
    """Blocks that are all but water."""
    options: NotWater | None = rule_options.get("not_water")
    return None if options is None else _covered(block_context, options.context, options.classes, options.share)


@tag(stage="search")
def plugged_rules(block_context: pa.Table, rule_options: dict[str, Any]) -> dict[str, RuleFinding]:
    """What rules of one's own say; each gets the blocks' context and its options, and returns which blocks go.

    Raises:
        ConfigError: a rule returns something else than one truth value per block.
    """
    found = {}
    for name, options in rule_options.items():
        if ":" in name:
            pruned = np.asarray(_plugged(name)(block_context, options))
            if pruned.shape != (len(block_context),) or pruned.dtype != np.bool_:
                raise ConfigError(f"prune.{name} must return one truth value per block, shape ({len(block_context)},)")
            found[name] = RuleFinding(pruned=pruned, judged=np.ones(len(pruned), np.bool_))
    return found


@tag(stage="search")
def rule_findings(
    rule_options: dict[str, Any],
    near_buildings: RuleFinding | None,
    land_cover_allowed: RuleFinding | None,
    land_cover_excluded: RuleFinding | None,
    not_water: RuleFinding | None,
    plugged_rules: dict[str, RuleFinding],
) -> dict[str, RuleFinding]:
    """Rule → what it says of every block, in the settings' order."""
    nodes = {
        "near_buildings": near_buildings,
        "land_cover_allowed": land_cover_allowed,
        "land_cover_excluded": land_cover_excluded,
        "not_water": not_water,
        **plugged_rules,
    }
    return {name: finding for name in rule_options if (finding := nodes[name]) is not None}


def _covered(context: pa.Table, table: str, classes: Sequence[str], least: float) -> RuleFinding:
    shares, unknown = _shares(context, table, classes)
    return RuleFinding(pruned=shares >= least, judged=unknown < 1 - _EXACT)


def _shares(context: pa.Table, table: str, classes: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of each block that the classes cover together (at most), and the share of unknown cover."""
    wanted = set(classes)
    rows = context[f"{table}_class_fractions"].to_pylist()
    shares = np.array([sum(share for name, share in row or () if name in wanted) for row in rows], np.float64)
    known = np.nan_to_num(context[f"{table}_area_fraction"].to_numpy().astype(np.float64))
    return np.minimum(shares, 1.0), np.clip(1.0 - known, 0.0, 1.0)


def _plugged(name: str) -> Callable[[pa.Table, Mapping[str, Any]], Any]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"prune.{name}: there is no such function ({error}); give package.module:function") from error
    if not callable(found):
        raise ConfigError(f"prune.{name} is no function")
    return found  # type: ignore[no-any-return]
