"""The recipes of a scale: how long and how fast each method trains, fine-tunes and probes."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ldae.study.base import Config, Fraction, Positive, SizeName


class Training(Config):
    """The recipe of pretraining. `rate` is per 256 images: the rate used is rate * batch / 256 (MAE's rule)."""

    steps: Positive | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    batch: Positive
    rate: Annotated[float, Field(gt=0)]
    warmup: Fraction  # of the steps
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    log_every: Positive = 50  # steps

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is None and self.epochs is None:
            raise ValueError("steps: is missing; give steps or epochs")
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps: {self.steps} and epochs: {self.epochs}; give exactly one of the two")
        return self

    @property
    def peak_rate(self) -> float:
        """The peak learning rate, by the linear rule."""
        return self.rate * self.batch / 256

    def total_steps(self, num_images: int) -> int:
        """Optimizer steps over a training set of `num_images`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * num_images / self.batch))


# A block's learning rate in fine-tuning is this share of that of the block above. The paper gives it for ViT-B and
# ViT-L; half-L has the width of the second.
LAYER_DECAY: dict[SizeName, float] = {"B": 0.85, "half-L": 0.65, "L": 0.65}


class Finetuning(Training):
    """The recipe of fine-tuning with labels (paper, App. B, which follows MAE); the defaults are the paper's."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    layer_decay: dict[SizeName, Fraction] = LAYER_DECAY  # by the size of the encoder
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of the last block's branches; the others' rise to it
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of labels; this one is MAE's, the paper names none
    mixup: Annotated[float, Field(ge=0)] = 0.8  # parameter of the Beta distribution that images are blended by
    cutmix: Annotated[float, Field(ge=0)] = 1.0  # the same, for the area that is pasted from another image
    magnitude: Annotated[float, Field(ge=0, le=10)] = 9.0  # of RandAugment's two operations an image; 0 for none

    @field_validator("layer_decay")
    @classmethod
    def _all_sizes(cls, decays: dict[SizeName, float]) -> dict[SizeName, float]:
        return LAYER_DECAY | decays


class Probing(Config):
    """The linear probe's protocol (paper, App. A, which follows MAE)."""

    mode: Literal["cached", "exact"]  # features of `views` augmentations computed once, or of a new one each epoch
    views: Annotated[int, Field(ge=0)] = 1  # of `cached`; 0: the centre crop alone
    epochs: Positive = 90
    warmup: Annotated[int, Field(ge=0)] = 10  # epochs
    batch: Positive = 16384
    rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]  # per 256 images, LARS
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of the training groups, on which the rate is chosen
    neighbours: Positive = 20  # of the k-NN classifier
    extract_batch: Positive = 256  # images a forward pass

    @property
    def centres_alone(self) -> bool:
        """Whether heads learn from the centre crops, which also choose the rate and vote."""
        return self.mode == "cached" and not self.views
