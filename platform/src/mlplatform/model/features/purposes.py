"""The views that a model may not use, because another folder declares the same values for other
purposes.

A folder is its team's: the team also writes the tag that says what a view may be used for. So of a
view that several folders declare, a purpose is allowed only if each of them allows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mlplatform.model.features.views import ExternalSource, FeatureView, external
from mlplatform.runtime.errors import ConfigInvalid


@dataclass(frozen=True, slots=True)
class DeclaredViews:
    """The views of a model's folder, and the purposes for which the model uses features."""

    model: str
    purposes: tuple[str, ...]
    views: tuple[FeatureView, ...]


@dataclass(frozen=True, slots=True)
class RefusedView:
    """A view that a model uses for a purpose which another folder does not allow.

    Args:
        other: the model whose folder declares the same values.
        allowed: the purposes that folder allows.
        owner: the owner of the values, as that folder says.
        topic: the topic that both views read; None if they have one name, which is all that a push
            needs to reach both.
    """

    model: str
    view: str
    purpose: str
    other: str
    other_view: str
    allowed: tuple[str, ...]
    owner: str
    topic: str | None

    def error(self) -> ConfigInvalid:
        """The error for a model folder with this view."""
        same, way = f"its view {self.other_view}", "another name for a view of other values"
        if self.topic is not None:
            same, way = f"{same} of topic {self.topic}", "another topic"
        wanted = (
            f"one of {', '.join(self.allowed)}, as {self.other} allows for {same}; {self.owner} "
            f"may allow more in the folder of {self.other}, or take {way}"
        )
        return ConfigInvalid(f"{self.model}: view {self.view}: purpose", self.purpose, wanted)


def refused_views(declared: Sequence[DeclaredViews]) -> tuple[RefusedView, ...]:
    """The views that may not be used as their models would, by model and view.

    Two views have the same values if they have one name, because a push to it reaches both, or one
    topic. Their owners are not compared: each is a text that the folder's team writes.
    """
    return tuple(refused for one in declared for refused in _refused(one, declared))


def _refused(one: DeclaredViews, declared: Iterable[DeclaredViews]) -> Iterator[RefusedView]:
    for view, source in _sourced(one):
        for other in declared:
            if other.model == one.model:
                continue
            for same, allowing in _sourced(other):
                is_topic = source.topic is not None and source.topic == allowing.topic
                if view.name != same.name and not is_topic:
                    continue
                for purpose in sorted({*one.purposes} - {*allowing.purposes}):
                    yield RefusedView(
                        model=one.model,
                        view=view.name,
                        purpose=purpose,
                        other=other.model,
                        other_view=same.name,
                        allowed=allowing.purposes,
                        owner=allowing.owner,
                        topic=None if view.name == same.name else source.topic,
                    )


def _sourced(declared: DeclaredViews) -> Iterator[tuple[FeatureView, ExternalSource]]:
    for view in external(declared.views):
        assert view.external is not None
        yield view, view.external
