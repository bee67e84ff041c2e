"""Calibrated quality: what IoU to expect of a mask with these scores, learnt where truth is known.

Per backend, settings and kind of prompt two steps are fitted on masks with known IoU:

1. *Combination.* A mean of the scores in :data:`COMBINED`, its weights by non-negative least squares of IoU on them
   (Lawson & Hanson 1974; :func:`scipy.optimize.nnls`), so that no score may count against a mask.
2. *Isotonic regression* of IoU on that mean (:func:`scipy.optimize.isotonic_regression`; Zadrozny & Elkan 2002), over
   groups of at least :data:`GROUP` neighbours, linear between the groups and level beyond them.

``quality`` is therefore the IoU to expect, in 0 to 1. Masks whose prompt lies on no object count with IoU 0, so that
false labels lower it.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, nnls  # type: ignore[import-untyped,unused-ignore]

from utils.errors import CalibrationError
from utils.quality import UNJUDGED
from utils.risk_coverage import spearman

FORMAT = 1
"""Version of the layout of a calibration file."""

COMBINED = (
    "predicted_iou", "logit_stability", "stability", "box_agreement", "contrast", "ring_contrast", "solidity",
)  # fmt: skip
"""Scores that may enter the combination."""

ANY_KIND = "any"
"""The kind of an entry for prompts whose own kind has too few masks."""

LEAST_MASKS = 30
"""Fewest masks with truth a calibration is fitted on."""

GROUP = 5
"""Fewest masks behind one value of the isotonic regression."""

_DIGITS = 6
_TEXTS = ("backend", "kind", "settings_recipe")


@dataclass(frozen=True, kw_only=True)
class MeasuredMask:
    """A mask whose truth is known."""

    backend: str
    """Mask backend (registry name)."""
    settings_recipe: str
    """Hash of the settings it was made with (:func:`settings_recipe`)."""
    kind: str
    """Kind of its prompt: point, box or polygon."""
    scores: Mapping[str, float]
    """Named scores, each in 0 to 1."""
    iou: float
    """IoU with its object, 0 to 1; 0 where its prompt lies on none."""
    group: str = ""
    """What is resampled together: an object, a tile, a chip."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How scores of one backend become quality for one kind of prompt."""

    backend: str
    """Mask backend (registry name)."""
    kind: str
    """point, box, polygon or any."""
    settings_recipe: str
    """Hash of the settings the masks were made with."""
    weights: tuple[tuple[str, float], ...]
    """Score → weight, above 0, sorted by name."""
    knots: tuple[tuple[float, float], ...]
    """``(combined score, expected IoU)``, both in 0 to 1, the first rising, the second never falling."""
    n: int
    """Masks it was fitted on."""
    mean_iou: float
    """Their mean IoU."""
    rank_correlation: float
    """Spearman correlation of combined score and IoU on them."""

    def combined(self, scores: Mapping[str, float]) -> float | None:
        """Weighted mean of the known scores, 0 to 1; None where those with half of the weight are missing."""
        known = [(scores[name], weight) for name, weight in self.weights if name in scores]
        total, held = sum(weight for _, weight in self.weights), sum(weight for _, weight in known)
        if 2 * held <= total:
            return None
        return sum(value * weight for value, weight in known) / held

    def quality(self, scores: Mapping[str, float]) -> float | None:
        """Expected IoU, 0 to 1; None where the scores do not suffice."""
        combined = self.combined(scores)
        if combined is None or not np.isfinite(combined):
            return None
        x, y = np.array(self.knots).T
        return float(np.interp(combined, x, y))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Entries fitted together, and on what."""

    entries: tuple[Entry, ...]
    """One per backend, settings and kind of prompt."""
    data: tuple[str, ...]
    """Names of the data with truth."""
    protocol: str
    """How prompts, masks and truth were made and compared."""
    seeds: tuple[int, ...] = ()
    """Seeds behind generated data."""

    @property
    def version(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the content."""
        return _digest(_content(self))

    def entry(self, backend: str, kind: str, recipe: str) -> Entry | None:
        """The entry for masks of a backend under settings: of their own kind of prompt, else of any; None without."""
        own = {one.kind: one for one in self.entries if (one.backend, one.settings_recipe) == (backend, recipe)}
        return own.get(kind) or own.get(ANY_KIND)

    def quality(
        self, backend: str, kind: str, recipe: str, scores: Mapping[str, float], flags: Collection[str] = ()
    ) -> float | None:
        """Expected IoU of a mask, 0 to 1; None where nothing fitted tells.

        An ``empty`` mask or one ``not_in_chip`` has quality 0 where its backend is calibrated; one without context,
        which is only its prompt, is told nothing.
        """
        found = self.entry(backend, kind, recipe)
        if found is None or "no_context" in flags:
            return None
        return 0.0 if set(UNJUDGED) & set(flags) else found.quality(scores)


def settings_recipe(settings: Mapping[str, Any]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the settings masks are made with, as canonical JSON."""
    return _digest(settings)


def fitted(
    masks: Sequence[MeasuredMask],
    *,
    data: Sequence[str],
    protocol: str,
    seeds: Sequence[int] = (),
    least_masks: int = LEAST_MASKS,
) -> Calibration:
    """A calibration of these masks: an entry per backend, settings and kind with enough of them, and one for any kind.

    Raises:
        CalibrationError: no backend has ``least_masks`` masks, or a score or IoU lies outside 0 to 1.
    """
    _check_measured(masks)
    entries = []
    for backend, recipe in sorted({(mask.backend, mask.settings_recipe) for mask in masks}):
        own = [mask for mask in masks if (mask.backend, mask.settings_recipe) == (backend, recipe)]
        by_kind = {kind: [mask for mask in own if mask.kind == kind] for kind in sorted({mask.kind for mask in own})}
        for kind, chosen in [*by_kind.items(), (ANY_KIND, own)]:
            if len(chosen) >= least_masks:
                entries.append(_fitted_entry(backend, recipe, kind, chosen))
    if not entries:
        raise CalibrationError(
            f"{len(masks)} masks with truth are too few: a calibration needs {least_masks} of one backend and "
            "settings; take more labels, or a larger area with truth"
        )
    return Calibration(entries=tuple(entries), data=tuple(data), protocol=protocol, seeds=tuple(seeds))


def held_out_quality(
    masks: Sequence[MeasuredMask], *, folds: int = 5, least_masks: int = LEAST_MASKS
) -> NDArray[np.float64]:
    """Quality of each mask from a calibration fitted on the other groups, shape (n,); NaN where none tells.

    Whole groups (:attr:`MeasuredMask.group`) go into one fold: in the order of a hash of their names, in turn.

    Args:
        masks: with truth.
        folds: 2 or more, or as many as there are groups.
        least_masks: see :func:`fitted`.
    """
    names = sorted({mask.group for mask in masks}, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    fold = {name: number % max(2, folds) for number, name in enumerate(names)}
    quality = np.full(len(masks), np.nan)
    for number in sorted(set(fold.values())):
        others = [mask for mask in masks if fold[mask.group] != number]
        try:
            calibration = fitted(others, data=(), protocol="", least_masks=least_masks)
        except CalibrationError:
            continue
        for i, mask in enumerate(masks):
            if fold[mask.group] == number:
                told = calibration.quality(mask.backend, mask.kind, mask.settings_recipe, mask.scores)
                quality[i] = np.nan if told is None else told
    return quality


def _check_measured(masks: Sequence[MeasuredMask]) -> None:
    for mask in masks:
        values = {"iou": mask.iou, **mask.scores}
        wrong = {name: value for name, value in values.items() if not 0 <= value <= 1}
        if wrong:
            raise CalibrationError(f"scores and IoU lie in 0 to 1; a {mask.kind} mask of {mask.backend} has {wrong}")


def _fitted_entry(backend: str, recipe: str, kind: str, masks: Sequence[MeasuredMask]) -> Entry:
    iou = np.array([mask.iou for mask in masks])
    # a score that only some masks have would make their combinations differ in kind
    names = [name for name in COMBINED if sum(name in mask.scores for mask in masks) >= 0.9 * len(masks)]
    if not names:
        raise CalibrationError(f"{kind} masks of {backend} carry none of the scores {', '.join(COMBINED)}")
    weights = _weights(masks, names, iou)
    entry = Entry(
        backend=backend,
        kind=kind,
        settings_recipe=recipe,
        weights=weights,
        knots=((0.0, 0.0),),
        n=len(masks),
        mean_iou=round(float(iou.mean()), _DIGITS),
        rank_correlation=0.0,
    )
    combined = [entry.combined(mask.scores) for mask in masks]
    x = np.array([np.nan if value is None else value for value in combined])
    told = np.isfinite(x)
    correlation = round(spearman(x[told], iou[told]), _DIGITS)
    return replace(entry, knots=_knots(x[told], iou[told]), rank_correlation=correlation)


def _weights(
    masks: Sequence[MeasuredMask], names: list[str], iou: NDArray[np.float64]
) -> tuple[tuple[str, float], ...]:
    table = np.array([[mask.scores.get(name, np.nan) for name in names] for mask in masks])
    whole = np.isfinite(table).all(axis=1)
    # an intercept of either sign beside weights that are not negative
    columns = np.column_stack([table[whole], np.ones(whole.sum()), -np.ones(whole.sum())])
    found = nnls(columns, iou[whole])[0][: len(names)]
    if not found.sum() > 0:
        found = np.ones(len(names))
    shares = np.round(found / found.sum(), _DIGITS)
    return tuple(sorted((name, float(share)) for name, share in zip(names, shares, strict=True) if share > 0))


def _knots(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    """Isotonic regression of ``y`` on ``x`` over groups of neighbours; equal ``x`` stay together."""
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    starts = [0]
    for i in range(1, len(x)):
        if i - starts[-1] >= GROUP and x[i] > x[i - 1] and len(x) - i >= GROUP:
            starts.append(i)
    counts = np.diff([*starts, len(x)])
    xs, ys = (np.add.reduceat(values, starts) / counts for values in (x, y))
    levels = isotonic_regression(ys, weights=counts).x
    pairs = [(round(float(a), _DIGITS), round(float(b), _DIGITS)) for a, b in zip(xs, levels, strict=True)]
    # the inner points of a level stretch say nothing
    kept = [
        pair
        for i, pair in enumerate(pairs)
        if i in (0, len(pairs) - 1) or not pairs[i - 1][1] == pair[1] == pairs[i + 1][1]
    ]
    return tuple(dict(kept).items())


def to_json(calibration: Calibration) -> str:
    """The calibration as the text of a file, its version first."""
    return json.dumps({"version": calibration.version, **_content(calibration)}, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str, place: str) -> Calibration:
    """The calibration in the text of a file.

    Args:
        text: JSON as :func:`to_json` writes it.
        place: where it was found, for messages.

    Raises:
        CalibrationError: it is no JSON, of another layout, lacks a field, holds values no calibration can have, or its
            content is not what its version says.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CalibrationError(f"{place} is no JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise CalibrationError(
            f"{place} is no calibration of format {FORMAT} (found {found!r}); make it again with "
            "`python -m dataflows calibrate`"
        )
    try:
        calibration = Calibration(
            entries=tuple(_entry(entry, place) for entry in values["entries"]),
            data=tuple(str(name) for name in values["data"]),
            protocol=str(values["protocol"]),
            seeds=tuple(int(seed) for seed in values["seeds"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CalibrationError(f"{place}: a field is missing or of the wrong kind: {error!r}") from error
    if not calibration.entries:
        raise CalibrationError(f"{place} holds no entry")
    if values.get("version") != calibration.version:
        raise CalibrationError(
            f"{place} was changed by hand: its content is version {calibration.version}, it says "
            f"{values.get('version')!r}; make it again with `python -m dataflows calibrate`"
        )
    return calibration


def _entry(values: Mapping[str, Any], place: str) -> Entry:
    entry = Entry(
        **{name: str(values[name]) for name in _TEXTS},
        weights=tuple((str(name), float(weight)) for name, weight in sorted(values["weights"].items())),
        knots=tuple((float(x), float(y)) for x, y in values["knots"]),
        n=int(values["n"]),
        mean_iou=float(values["mean_iou"]),
        rank_correlation=float(values["rank_correlation"]),
    )
    x, y = np.array(entry.knots, np.float64).reshape(-1, 2).T
    weights = np.array([weight for _, weight in entry.weights])
    sound = len(x) and len(weights) and np.isfinite(weights).all() and (weights > 0).all()
    ordered = (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()
    if not sound or not ordered or not all((values >= 0).all() and (values <= 1).all() for values in (x, y)):
        raise CalibrationError(
            f"{place}: the entry {entry.backend}/{entry.kind} needs weights above 0 and knots in 0 to 1 that rise"
        )
    return entry


def _content(calibration: Calibration) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "target": "iou",
        "data": list(calibration.data),
        "protocol": calibration.protocol,
        "seeds": list(calibration.seeds),
        "entries": [
            {
                **{name: getattr(entry, name) for name in _TEXTS},
                "n": entry.n,
                "mean_iou": entry.mean_iou,
                "rank_correlation": entry.rank_correlation,
                "weights": dict(entry.weights),
                "knots": [list(knot) for knot in entry.knots],
            }
            for entry in calibration.entries
        ],
    }


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
