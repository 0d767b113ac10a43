"""Asks the scoring API of mlplatform (v2): decisions, orders, batches, later decisions,
explanations, labels, voids and values of features.

`Client` is for programs with threads, `AsyncClient` for asyncio. Both carry out the same calls
(`calls`), read the same answers (`answers`) and follow the same steps (`steps`), which are pure.
"""

from mlplatform_client.answers import (
    Answer,
    BatchResult,
    ClassProbability,
    Contribution,
    DecidingRule,
    Degradation,
    Explanation,
    FeatureGaps,
    LabelReceipt,
    ModelVersion,
    PendingDecision,
    PushReceipt,
    RankedItem,
    Ranking,
    Reason,
    Route,
    VoidReceipt,
)
from mlplatform_client.async_client import AsyncClient
from mlplatform_client.calls import Label, Terms
from mlplatform_client.client import Client
from mlplatform_client.errors import (
    AnswerNotUnderstood,
    CallFailed,
    Conflict,
    DeadlineExceeded,
    InputRefused,
    NotAllowed,
    NotAuthenticated,
    NotExplained,
    NotFound,
    Overloaded,
    Unavailable,
)
from mlplatform_client.steps import Retries
from mlplatform_client.version import __version__
from mlplatform_client.wire import Settings

__all__ = [
    "Answer",
    "AnswerNotUnderstood",
    "AsyncClient",
    "BatchResult",
    "CallFailed",
    "ClassProbability",
    "Client",
    "Conflict",
    "Contribution",
    "DeadlineExceeded",
    "DecidingRule",
    "Degradation",
    "Explanation",
    "FeatureGaps",
    "InputRefused",
    "Label",
    "LabelReceipt",
    "ModelVersion",
    "NotAllowed",
    "NotAuthenticated",
    "NotExplained",
    "NotFound",
    "Overloaded",
    "PendingDecision",
    "PushReceipt",
    "RankedItem",
    "Ranking",
    "Reason",
    "Retries",
    "Route",
    "Settings",
    "Terms",
    "Unavailable",
    "VoidReceipt",
    "__version__",
]
