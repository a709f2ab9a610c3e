"""What the families have in common: choosing the provider of a timm model, and finding its final norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from leapcore import (
    LayerFeatureProvider,
    LayerFeatures,
    LeapcoreError,
    create_timm_model,
    import_timm,
)

FOREIGN = {
    "num_classes": "a backbone has no classifier",
    "features_only": "layers are taken from the whole model",
    "in_chans": "images have three channels",
    "pretrained": "say weights: pretrained",
    "checkpoint_path": "name the file as weights",
    "patch_drop_rate": "tokens would have no place on the grid any more",
}


class Sample(NamedTuple):
    """A model to try a family with, made small enough for a second or two.

    Attributes:
        model: timm's name.
        image_size: Side of the images in pixels.
        options: Arguments that make it small.
    """

    model: str
    image_size: int
    options: Mapping[str, Any] = {}


class TimmFamily:
    """A backbone family over timm, which specs name.

    Args:
        name: The name.
        summary: What it takes, in a line.
        providers: A provider for each of timm's classes, by the class's name.
        modules: timm's modules that hold the family's models.
        samples: Models that show what the family takes, one of each kind.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        providers: Mapping[str, Callable[[Any], LayerFeatureProvider]],
        *,
        modules: Sequence[str],
        samples: Sequence[Sample],
    ) -> None:
        self.name = name
        self.summary = summary
        self.providers = providers
        self.modules = modules
        self.samples = samples

    def __call__(
        self, *, model: str | None, weights: str, image_size: int, options: dict[str, Any]
    ) -> LayerFeatureProvider:
        """Build a backbone for square images of ``image_size`` pixels."""
        self._refuse_foreign(options)
        network = create_timm_model(model, weights, options, image_size=image_size)
        for kind in type(network).__mro__:
            if kind.__name__ in self.providers:
                return self.providers[kind.__name__](network)
        raise LeapcoreError(
            f"{model or weights} is a {type(network).__name__}, which the backbone family '{self.name}' does "
            f"not take",
            "`leapcore backbones MODEL` finds the family that fits; 'timm' takes most others.",
        )

    def _refuse_foreign(self, options: Mapping[str, Any]) -> None:
        """Options of timm that would make something else than a backbone for colour images."""
        for name, why in FOREIGN.items():
            if name in options:
                raise LeapcoreError(f"options.{name} cannot be used: {why}", "Leave it out.")

    def models(self) -> list[str]:
        """The names of timm's models in this family's modules."""
        timm = import_timm()
        return sorted(name for module in self.modules for name in timm.list_models(module=module))


class FinalNorm(NamedTuple):
    """A model's last norm.

    Attributes:
        module: The norm.
        after_pooling: Whether the model averages its tokens first and normalises the mean.
    """

    module: nn.Module
    after_pooling: bool

    def __call__(self, features: LayerFeatures) -> LayerFeatures:
        """Normalise tokens and prefix tokens.

        Where the model normalises its mean token, that one takes the place of the prefix tokens, so that
        ``pooled`` is what the model's own head would see.
        """
        normalised = features.map(self._per_token)
        if not self.after_pooling:
            return normalised
        pooled = self._per_token(features.tokens.mean(1, keepdim=True))
        return LayerFeatures(normalised.tokens, features.grid, pooled)

    def _per_token(self, tokens: Tensor) -> Tensor:
        if not type(self.module).__name__.endswith("2d"):
            normalised: Tensor = self.module(tokens)
            return normalised
        # LayerNorm2d, BatchNorm2d: made for maps (B, C, H, W)
        as_map: Tensor = self.module(tokens.transpose(1, 2).unsqueeze(-1))
        return as_map.squeeze(-1).transpose(1, 2)


def final_norm(model: nn.Module, *paths: str) -> FinalNorm | None:
    """The first of these modules that does something; those of a head come after the pooling."""
    for path in paths:
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue
        if not isinstance(module, nn.Identity):
            return FinalNorm(module, after_pooling=path.startswith(("head.", "fc_norm")))
    return None


def normalised_at_last_width(
    provider: LayerFeatureProvider, norm: FinalNorm | None, features: LayerFeatures, layer: int
) -> LayerFeatures:
    """The features after the norm if their layer is as wide as the last one, else as they are."""
    fits = provider.layers[layer].channels == provider.layers[-1].channels
    return norm(features) if norm and fits else features
