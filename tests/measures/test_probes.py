from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ldae.measures.attentive import AttentiveHeads
from ldae.measures.knn import KNN
from ldae.measures.linear import Heads
from ldae.measures.measure import Encoded, ProbeTask
from ldae.measures.rates import head_rate
from ldae.study.recipes import Probing


def blobs(num: int = 240, features: int = 10, classes: int = 4, spread: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = 3 + torch.randn(classes, features, generator=generator)
    labels = torch.arange(num) % classes
    return centres[labels] + spread * torch.randn(num, features, generator=generator), labels


def heads(features: int, classes: int, rates: list[float]) -> Heads:
    return Heads(features, classes, torch.tensor(rates), torch.Generator().manual_seed(3))


def test_the_first_weights_have_the_deviation_of_maes_probe() -> None:
    """`trunc_normal_(std=0.01)` as timm writes it, whose limits of -2 and 2 are 200 deviations away."""
    weight = heads(500, 400, [1.0]).weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert weight.abs().max() > 0.03


def test_training_equals_maes_probe_written_with_autograd() -> None:
    """BatchNorm1d without affine, linear, cross-entropy, and LARS as MAE defines it, parameter by parameter."""
    data, labels = blobs()
    ours = heads(10, 4, [6.4])
    norm, linear = nn.BatchNorm1d(10, affine=False, eps=1e-6), nn.Linear(10, 4)
    linear.weight.data, linear.bias.data = ours.weight[:, 0].T.clone(), ours.bias[0].clone()
    momentum = {id(p): torch.zeros_like(p) for p in linear.parameters()}
    for step in range(12):
        batch = torch.arange(step * 20, step * 20 + 20) % 240
        share = 0.3 + 0.05 * step
        ours.step(data[batch], labels[batch], share)
        loss = nn.functional.cross_entropy(linear(norm(data[batch])), labels[batch])
        linear.zero_grad()
        loss.backward()
        for parameter in linear.parameters():
            change = parameter.grad
            if parameter.ndim > 1:
                change = change * 0.001 * parameter.detach().norm() / change.norm()
            momentum[id(parameter)] = 0.9 * momentum[id(parameter)] + change
            parameter.data -= 6.4 * share * momentum[id(parameter)]
    torch.testing.assert_close(ours.weight[:, 0].T, linear.weight.data, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.bias[0], linear.bias.data, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.mean, norm.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.variance, norm.running_var, rtol=1e-4, atol=1e-6)
    norm.eval()
    assert torch.equal(ours.predict(data)[:, 0], linear(norm(data)).argmax(1))


def test_heads_of_one_pass_do_not_interact() -> None:
    data, labels = blobs()
    together = heads(10, 4, [0.5, 3.0, 20.0])
    alone = [heads(10, 4, [rate]) for rate in (0.5, 3.0, 20.0)]
    for start in range(0, 240, 40):
        batch = slice(start, start + 40)
        for each in (together, *alone):
            each.step(data[batch], labels[batch], 1.0)
    for index, single in enumerate(alone):
        torch.testing.assert_close(together.weight[:, index], single.weight[:, 0], rtol=1e-5, atol=1e-7)


def test_the_schedule_is_maes() -> None:
    for progress in np.linspace(0, 89.99, 200):
        expected = progress / 10 if progress < 10 else (1 + math.cos(math.pi * (progress - 10) / 80)) / 2
        assert head_rate(progress, epochs=90, warmup=10) == pytest.approx(expected)


def test_separable_classes_are_learned() -> None:
    data, labels = blobs()
    learned = heads(10, 4, [10.0])
    for _ in range(60):
        learned.step(data, labels, 1.0)
    assert (learned.predict(data)[:, 0] == labels).float().mean() > 0.97


def test_neighbours_vote_by_similarity() -> None:
    data, labels = blobs(spread=2.0)
    train, known, queries = data[:200], labels[:200], data[200:]
    expected = []
    for query in queries:
        similarity = nn.functional.cosine_similarity(train, query[None])
        votes = torch.zeros(4)
        for index in similarity.argsort(descending=True)[:20]:
            votes[known[index]] += torch.exp(similarity[index] / 0.07)
        expected.append(int(votes.argmax()))
    for parts in ([200], [7, 100, 93]):  # all training features at once, or part by part
        found = KNN(
            ProbeTask(4, Probing(mode="cached", rates=(1.0,), neighbours=20), torch.ones(1), 0), Encoded(queries)
        )
        found.validate(Encoded(queries), torch.zeros(len(queries), dtype=torch.long))
        for features, names in zip(train.split(parts), known.split(parts), strict=True):
            found.update(Encoded(features), names, torch.zeros(len(names), dtype=torch.bool))
        assert found.predictions().tolist() == expected


class EfficientProbing(nn.Module):
    """One attentive classifier as its paper describes it: values first, then each query's attention over its part."""

    def __init__(self, ours: AttentiveHeads) -> None:
        super().__init__()
        width, _, classes = ours.matrices["weight"].shape
        self.queries = nn.Parameter(ours.matrices["queries"][:, 0].detach().clone())  # (F, Q)
        self.values = nn.Parameter(ours.matrices["values"][:, 0].detach().clone())
        self.norm, self.linear = nn.BatchNorm1d(width, affine=False, eps=1e-6), nn.Linear(width, classes)
        self.linear.weight.data, self.linear.bias.data = (
            ours.matrices["weight"][:, 0].T.detach().clone(),
            ours.bias[0].detach().clone(),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = nn.functional.layer_norm(tokens, tokens.shape[2:])
        num_queries, width = self.queries.shape[1], tokens.shape[2]
        attention = (tokens @ self.queries / width**0.5).softmax(1)  # (n, T, Q)
        parts = (tokens @ self.values).unflatten(2, (num_queries, -1))  # (n, T, Q, F / Q)
        return self.linear(self.norm((attention[..., None] * parts).sum(1).flatten(1)))


def test_an_attentive_probe_is_efficient_probing_trained_with_lars() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens, labels = torch.randn(60, 5, 16, generator=generator), torch.arange(60) % 3
    ours = AttentiveHeads(16, 3, torch.tensor([2.0]), torch.Generator().manual_seed(1))
    theirs = EfficientProbing(ours)
    momenta = {name: torch.zeros_like(parameter) for name, parameter in theirs.named_parameters()}
    for step in range(8):
        batch = torch.arange(step * 20, step * 20 + 20) % 60
        with torch.no_grad():
            ours.step(tokens[batch], labels[batch], 0.5)
        theirs.zero_grad()
        nn.functional.cross_entropy(theirs(tokens[batch]), labels[batch]).backward()
        for name, parameter in theirs.named_parameters():
            change = parameter.grad
            assert change is not None
            if parameter.ndim > 1:
                change = change * 0.001 * parameter.detach().norm() / change.norm()
            momenta[name] = 0.9 * momenta[name] + change
            parameter.data -= 2.0 * 0.5 * momenta[name]
    torch.testing.assert_close(ours.matrices["queries"][:, 0], theirs.queries.data, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.matrices["values"][:, 0], theirs.values.data, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.matrices["weight"][:, 0].T, theirs.linear.weight.data, rtol=1e-4, atol=1e-6)
    theirs.eval()
    assert torch.equal(ours.predict(tokens)[:, 0], theirs(tokens).argmax(1))


def test_attention_finds_the_one_token_that_shows_the_class() -> None:
    """The other tokens carry the same vectors with random signs, so that their mean hides the class."""
    generator = torch.Generator().manual_seed(0)
    num, classes, width = 900, 4, 16
    labels, places = torch.arange(num) % classes, torch.randint(9, (num,), generator=generator)
    codes = nn.functional.one_hot(torch.randint(classes, (num, 9), generator=generator), width).float()
    codes[torch.arange(num), places] = nn.functional.one_hot(labels, width).float()
    codes[torch.arange(num), places, width - 1] = 1.0  # the mark of the token that counts
    tokens = 3 * codes + 0.1 * torch.randn(num, 9, width, generator=generator)
    attentive = AttentiveHeads(width, classes, torch.tensor([30.0]), torch.Generator().manual_seed(1))
    linear = heads(width, classes, [30.0])
    for _ in range(150):
        attentive.step(tokens[:600], labels[:600], 1.0)
        linear.step(tokens[:600].mean(1), labels[:600], 1.0)
    found, pooled = attentive.predict(tokens[600:])[:, 0], linear.predict(tokens[600:].mean(1))[:, 0]
    assert (found == labels[600:]).float().mean() > 0.95
    assert (pooled == labels[600:]).float().mean() < 0.7


def test_attentive_probes_of_one_pass_do_not_interact() -> None:
    tokens, labels = torch.randn(40, 5, 12, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    rates = [0.5, 3.0, 20.0]
    together, *alone = (
        AttentiveHeads(12, 3, torch.tensor(some), torch.Generator().manual_seed(1)) for some in (rates, *zip(rates))
    )
    for _ in range(4):
        for each in (together, *alone):
            each.step(tokens, labels, 1.0)
    for index, single in enumerate(alone):
        for name, matrix in together.matrices.items():
            torch.testing.assert_close(matrix[:, index], single.matrices[name][:, 0], rtol=1e-4, atol=1e-7)
