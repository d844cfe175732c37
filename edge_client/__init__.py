"""The library inside the inference app: serves models and features from memory, and admits how current they are.

    from edge_client import EdgeClient

Names are imported when they are first used (PEP 562), so that importing `edge_client.protocol` costs nothing. What is
not in `__all__` may change tomorrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_client.blocking import EdgeClient
    from edge_client.blocking_features import Features
    from edge_client.client import AsyncEdgeClient
    from edge_client.config import EdgeConfig
    from edge_client.core.feature_reading import FeatureReading, FeatureReason, FeatureVerdict
    from edge_client.core.reading import Change, Guarantee, Reading, Reason
    from edge_client.core.status import ClientStatus, FeaturesStatus, ModelStatus
    from edge_client.errors import (
        ArtifactCorruptError,
        ArtifactUnavailableError,
        BusUnavailableError,
        ClosedError,
        ConfigError,
        EdgeError,
        EdgeIdTakenError,
        FallbackRefusedError,
        FeatureQueueFullError,
        FeatureSpoolError,
        FeatureSpoolTakenError,
        FeatureStoreError,
        FeatureStoreRefusedError,
        FeatureStoreUnavailableError,
        FeatureValueError,
        LoaderError,
        LocalTierError,
        ModelNotReadyError,
        NotStrongError,
        ProtocolError,
        TooStaleError,
        UnknownModelError,
        UnsupportedRegionError,
    )
    from edge_client.runtime.artifact import Artifact
    from edge_client.runtime.features import AsyncFeatures
    from edge_client.runtime.model import AsyncModel

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "ArtifactCorruptError",
    "ArtifactUnavailableError",
    "AsyncEdgeClient",
    "AsyncFeatures",
    "AsyncModel",
    "BusUnavailableError",
    "Change",
    "ClientStatus",
    "ClosedError",
    "ConfigError",
    "EdgeClient",
    "EdgeConfig",
    "EdgeError",
    "EdgeIdTakenError",
    "FallbackRefusedError",
    "FeatureQueueFullError",
    "FeatureReading",
    "FeatureReason",
    "FeatureSpoolError",
    "FeatureSpoolTakenError",
    "FeatureStoreError",
    "FeatureStoreRefusedError",
    "FeatureStoreUnavailableError",
    "FeatureValueError",
    "FeatureVerdict",
    "Features",
    "FeaturesStatus",
    "Guarantee",
    "LoaderError",
    "LocalTierError",
    "ModelNotReadyError",
    "ModelStatus",
    "NotStrongError",
    "ProtocolError",
    "Reading",
    "Reason",
    "TooStaleError",
    "UnknownModelError",
    "UnsupportedRegionError",
]

_HOMES = {
    "AsyncEdgeClient": "edge_client.client",
    "EdgeClient": "edge_client.blocking",
    "EdgeConfig": "edge_client.config",
    "Artifact": "edge_client.runtime.artifact",
    "AsyncFeatures": "edge_client.runtime.features",
    "AsyncModel": "edge_client.runtime.model",
    "Change": "edge_client.core.reading",
    "ClientStatus": "edge_client.core.status",
    "FeatureReading": "edge_client.core.feature_reading",
    "FeatureReason": "edge_client.core.feature_reading",
    "FeatureVerdict": "edge_client.core.feature_reading",
    "Features": "edge_client.blocking_features",
    "FeaturesStatus": "edge_client.core.status",
    "Guarantee": "edge_client.core.reading",
    "ModelStatus": "edge_client.core.status",
    "Reading": "edge_client.core.reading",
    "Reason": "edge_client.core.reading",
}
"""Where a public name lives; the errors, which are the rest of `__all__`, live in `edge_client.errors`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "edge_client.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
