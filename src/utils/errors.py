"""Every exception this project raises on purpose.

Each message says what was found, where, and what to do next, and never a secret: passwords, keys and signatures are
taken out of it (:mod:`utils.redaction`).

::

    AegirError
    ├── ConfigError                 a setting is missing, unknown or contradicts another
    │   ├── UnknownNameError        a name is not in a registry; the message lists what is
    │   ├── ExtraMissingError       a package is not installed; the message names the extra that brings it
    │   └── WeightsError            a model's weights cannot be used: empty, truncated, or of something else
    │       ├── WeightsNotFoundError    there are none at the given or the usual place
    │       │   └── DownloadForbiddenError  they could be downloaded, but the process is offline
    │       └── WeightsUnreachableError the server of the weights does not answer; the same attempt may work later
    ├── LabelError                  labels cannot be read or used
    │   ├── CatalogNotFoundError    no DuckLake catalogue at the given place
    │   │   └── CatalogUnreachableError   the database server of a catalogue does not answer or refuses
    │   │       └── CatalogBusyError      another process writes to the catalogue's file
    │   ├── LakeWriteError          the catalogue, its files or its table cannot be written
    │   ├── ExtensionMissingError   a DuckDB extension is not installed, or of another version
    │   ├── LabelFileError          a file of labels is missing, unreadable or lacks a layer or CRS
    │   ├── CatalogEmptyError       the catalogue, or the label table in it, holds nothing
    │   ├── LabelTableError         a label table lacks a mapped table or column
    │   └── LabelsOutsideImageryError   no label touches any scene
    ├── GeometryError               NaN, empty or otherwise unusable geometry
    ├── CRSError                    a CRS is missing or unknown
    ├── ImageryError                pixels cannot be read or used
    │   ├── NoImageryError          no scene covers the requested grid
    │   ├── RasterReadError         a raster is missing, corrupt or truncated
    │   │   ├── RasterUnreachableError  its server does not answer; the same read may work later
    │   │   └── RasterDeniedError       its server refuses the credentials
    │   ├── BandError               a raster lacks a needed band
    │   │   └── BandTypeError       a band's data type cannot be used
    │   ├── SceneClassError         a scene classification holds other values than its classes
    │   ├── GridError               two rasters that must share a pixel grid do not
    │   ├── NodataError             a chip holds too few valid pixels
    │   └── ImageryChangedError     a chip reads differently than when it was made
    ├── MaskError                   a mask backend cannot draw masks
    │   └── DeviceMemoryError       one image or one prompt does not fit into the memory of the model's device
    ├── ModelError                  a model cannot be used on the imagery: other bands, another GSD, no probabilities
    ├── SearchError                 a search for detections cannot start or go on
    │   ├── EmptyAreaError          the area of interest is empty, or lies outside the imagery
    │   └── RasterWriteError        a raster cannot be written: the disk is full, or its place is not writable
    ├── PromotionError              a generation of masks cannot be promoted, or a promotion not be undone
    │   └── NoGoldError             no test row holds gold or reviewed truth to judge a generation by
    ├── WorkerLostError             a worker process died, again and again, on one task
    ├── SplitError                  a split rule cannot be met
    │   └── SplitLeakError          chips of different splits overlap or stand too close
    └── StoreError                  the LanceDB store refused
        ├── TableNotFoundError      the table, or the version of it, does not exist
        ├── TagError                a tag is there already, is missing, or has no usable name
        ├── SchemaError             data does not fit the table's schema
        │   └── UpgradeError        a table of another schema version cannot be brought to this one
        ├── LeaseLostError          another run took over work that was about to be committed
        ├── StoreConflictError      other writers came first each time; nothing was committed
        ├── StoreUnreachableError   the object store does not answer; the same request may work later
        ├── StoreDeniedError        the object store refuses the credentials
        ├── BucketNotFoundError     the store's bucket does not exist
        └── StoreNotWritableError   the store's place cannot be written
"""

from typing import ClassVar

from utils.redaction import redacted


class AegirError(Exception):
    """Base of every error raised on purpose."""

    is_transient: ClassVar[bool] = False
    """Whether the same attempt may succeed later, with nothing changed."""

    def __init__(self, *args: object) -> None:
        """Keep the message without secrets."""
        super().__init__(*(redacted(value) if isinstance(value, str) else value for value in args))


class ConfigError(AegirError):
    """A setting is missing, unknown or contradicts another."""


class UnknownNameError(ConfigError):
    """A name is not in a registry.

    The message lists the names that are.
    """

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        """Build the message for an unknown ``name`` of a ``kind`` of thing."""
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(self.known) or '(none)'}")

    def __reduce__(self) -> tuple[type["UnknownNameError"], tuple[str, str, list[str]]]:
        """Travel between processes."""
        return type(self), (self.kind, self.name, self.known)


class ExtraMissingError(ConfigError):
    """A package is not installed; the message names the extra that brings it."""


class WeightsError(ConfigError):
    """A model's weights cannot be used: empty, truncated, or of something else."""


class WeightsNotFoundError(WeightsError):
    """There are no weights at the given or the usual place."""


class DownloadForbiddenError(WeightsNotFoundError):
    """Weights could be downloaded, but the process is offline."""


class WeightsUnreachableError(WeightsError):
    """The server of the weights does not answer, or the connection was cut."""

    is_transient = True


class LabelError(AegirError):
    """Labels cannot be read or used."""


class CatalogNotFoundError(LabelError):
    """There is no DuckLake catalogue at the given place."""


class CatalogUnreachableError(CatalogNotFoundError):
    """The database server of a catalogue does not answer, or refuses."""


class CatalogBusyError(CatalogUnreachableError):
    """Another process writes to the catalogue's file; the same attempt may work later."""

    is_transient = True


class LakeWriteError(LabelError):
    """The catalogue, its files or its table cannot be written."""


class ExtensionMissingError(LabelError):
    """A DuckDB extension is not installed, or of another version than DuckDB."""


class LabelFileError(LabelError):
    """A file of labels is missing, cannot be read, or lacks a layer or CRS."""


class CatalogEmptyError(LabelError):
    """The catalogue, or the label table in it, holds nothing."""


class LabelTableError(LabelError):
    """The lake lacks a mapped table or column."""


class LabelsOutsideImageryError(LabelError):
    """No label touches any scene."""


class GeometryError(AegirError):
    """A geometry is NaN, empty or otherwise unusable."""


class CRSError(AegirError):
    """A CRS is missing or unknown."""


class ImageryError(AegirError):
    """Pixels cannot be read or used."""


class NoImageryError(ImageryError):
    """No scene covers the requested grid."""


class RasterReadError(ImageryError):
    """A raster is missing, corrupt or truncated."""


class RasterUnreachableError(RasterReadError):
    """The server of a raster does not answer, or not in time."""

    is_transient = True


class RasterDeniedError(RasterReadError):
    """The server of a raster refuses the credentials."""


class BandError(ImageryError):
    """A raster lacks a needed band."""


class BandTypeError(BandError, TypeError):
    """A band's data type cannot be used."""


class SceneClassError(ImageryError):
    """A scene classification holds other values than its classes."""


class GridError(ImageryError):
    """Two rasters that must share a pixel grid do not."""


class NodataError(ImageryError):
    """A chip holds too few valid pixels."""


class ImageryChangedError(ImageryError):
    """A chip that is in the store reads differently than when it was made."""


class MaskError(AegirError):
    """A mask backend cannot draw masks: its input is unusable, or it broke its contract."""


class DeviceMemoryError(MaskError):
    """One image, or one prompt, does not fit into the memory of the model's device."""


class CalibrationError(AegirError):
    """A calibration of mask quality cannot be read, or not be fitted on what is there."""


class ModelError(AegirError):
    """A model cannot be used on the imagery: it takes other bands or another GSD, or returns no probabilities."""


class SearchError(AegirError):
    """A search for detections cannot start or go on."""


class EmptyAreaError(SearchError):
    """The area of interest is empty, or lies outside the imagery."""


class RasterWriteError(SearchError):
    """A raster cannot be written: the disk is full, or its place is not writable."""


class PromotionError(AegirError):
    """A generation of masks cannot be promoted, or a promotion not be undone."""


class NoGoldError(PromotionError):
    """No test row holds gold or reviewed truth that a generation could be judged by."""


class WorkerLostError(AegirError):
    """A worker process died, again and again, on one task."""


class SplitError(AegirError):
    """A split rule cannot be met."""


class SplitLeakError(SplitError):
    """Chips of different splits overlap or stand closer than the guard distance."""


class StoreError(AegirError):
    """The LanceDB store refused."""


class TableNotFoundError(StoreError):
    """The table, or the version of it, does not exist."""


class SchemaError(StoreError):
    """Data does not fit the table's schema."""


class TagError(StoreError):
    """A tag is there already, is missing, or has no usable name."""


class UpgradeError(SchemaError):
    """A table of another schema version cannot be brought to this one."""


class LeaseLostError(StoreError):
    """Another run took over work that was about to be committed."""


class StoreConflictError(StoreError):
    """Other writers came first each time; nothing was committed."""


class StoreUnreachableError(StoreError):
    """The object store does not answer, or not in time, after all retries."""

    is_transient = True


class StoreDeniedError(StoreError):
    """The object store refuses the credentials, or there are none."""


class BucketNotFoundError(StoreError):
    """The bucket or container of the store does not exist."""


class StoreNotWritableError(StoreError):
    """The store's place cannot be written."""
