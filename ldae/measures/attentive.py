"""The attentive probe: several learned queries pool the tokens before a linear classifier.

It follows efficient probing (Psomas et al., "Attention, Please!", arXiv:2506.10178): each query attends to the tokens
themselves, without a projection of keys, and pools its own part of the projected values. A BatchNorm without affine
and the linear layer of the linear probe follow, trained by the same recipe. Tokens pass through a LayerNorm without
affine first, so that attention does not depend on the scale of an encoder's output.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ldae.measures.linear import BATCH_NORM_EPS, BATCH_NORM_MOMENTUM
from ldae.measures.measure import Encoded, Task
from ldae.measures.rates import MOMENTUM, RateSearch, lars_step

QUERIES = 8  # at most; each pools an equal part of the values


class AttentiveHeads:
    """H attentive classifiers on one input, differing in their learning rates; they do not interact."""

    def __init__(self, width: int, classes: int, rates: Tensor, generator: torch.Generator) -> None:
        """Starts all heads from the same weights.

        Args:
            width: F of the tokens.
            classes: C.
            rates: the peak learning rates (H,), on the device to work on.
            generator: of the initial weights, on the same device.
        """
        self.rates, num, device = rates, len(rates), rates.device
        self.num_queries = queries = math.gcd(width, QUERIES)

        def normal(deviation: float, *shape: int) -> Tensor:
            initial = deviation * torch.empty(shape, device=device).normal_(generator=generator)
            return initial[:, None].expand(shape[0], num, *shape[1:]).flatten(2).clone()

        self.matrices = {
            "queries": normal(0.02, width, queries),  # (F, H, Q)
            "values": normal(
                1 / math.sqrt(3 * width), width, width
            ),  # (F, H, F), PyTorch's deviation of a linear layer
            "weight": normal(0.01, width, classes),  # (F, H, C)
        }
        self.bias = torch.zeros(num, classes, device=device)
        self.momenta = {name: torch.zeros_like(matrix) for name, matrix in self.matrices.items()}
        self.bias_momentum = torch.zeros_like(self.bias)
        self.mean, self.variance = torch.zeros(num, width, device=device), torch.ones(num, width, device=device)

    def step(self, tokens: Tensor, labels: Tensor, share: float) -> None:
        """Trains every head on a batch (n, T, F) with labels (n,), at `share` of its peak rate."""
        n = len(tokens)
        parameters = [matrix.requires_grad_() for matrix in (*self.matrices.values(), self.bias)]
        with torch.enable_grad():
            pooled = self._pool(tokens)
            mean, variance = pooled.mean(0), pooled.var(0, correction=0)
            logits = self._logits((pooled - mean) * (variance + BATCH_NORM_EPS).rsqrt())  # (n, H, C)
            names = labels[:, None].expand(-1, len(self.rates))
            loss = functional.cross_entropy(logits.flatten(0, 1), names.flatten(), reduction="sum") / n
            *gradients, bias_gradient = torch.autograd.grad(loss, parameters)
        for parameter in parameters:
            parameter.requires_grad_(False)
        self.mean.lerp_(mean.detach(), BATCH_NORM_MOMENTUM)
        self.variance.lerp_(variance.detach() * (n / max(n - 1, 1)), BATCH_NORM_MOMENTUM)
        for (name, matrix), gradient in zip(self.matrices.items(), gradients, strict=True):
            lars_step(matrix, gradient, self.momenta[name], share * self.rates)
        self.bias_momentum.mul_(MOMENTUM).add_(bias_gradient)
        self.bias.sub_((share * self.rates)[:, None] * self.bias_momentum)

    def predict(self, tokens: Tensor) -> Tensor:
        """The class (n, H) that each head gives to tokens (n, T, F)."""
        normalised = (self._pool(tokens) - self.mean) * (self.variance + BATCH_NORM_EPS).rsqrt()
        return self._logits(normalised).argmax(-1)

    def _pool(self, tokens: Tensor) -> Tensor:
        """The pooled values (n, H, F) of tokens (n, T, F)."""
        n, num_tokens, width = tokens.shape
        num, queries = len(self.rates), self.num_queries
        tokens = functional.layer_norm(tokens, (width,))
        scores = (tokens.flatten(0, 1) @ self.matrices["queries"].flatten(1)).view(n, num_tokens, num * queries)
        attention = (scores / math.sqrt(width)).softmax(1)
        attended = (attention.transpose(1, 2) @ tokens).view(n, num, queries, width)  # what each query attends to
        values = self.matrices["values"].view(width, num, queries, width // queries)
        return torch.einsum("nhqf,fhqd->nhqd", attended, values).flatten(2)

    def _logits(self, pooled: Tensor) -> Tensor:
        return torch.einsum("nhf,fhc->nhc", pooled, self.matrices["weight"]) + self.bias


class Attentive(RateSearch):
    """The accuracy of a classifier that pools the tokens with learned queries."""

    def __init__(self, task: Task, example: Encoded) -> None:
        assert example.tokens is not None
        width = example.tokens.shape[2]
        super().__init__(task, *(AttentiveHeads(width, task.classes, task.rates, task.generator()) for _ in range(2)))

    def inputs(self, images: Encoded) -> Tensor:
        """The tokens (n, T, F)."""
        assert images.tokens is not None
        return images.tokens


MEASURE = Attentive
