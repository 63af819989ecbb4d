"""The accuracy of k nearest neighbours, without any training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ldae.measures.measure import Encoded, Measure, ProbeTask, Result

CHUNK = 1024  # validation images that are compared at once
TEMPERATURE = 0.07


class KNN(Measure):
    """DINO's k-NN classifier: the most similar training images vote on each validation image.

    Similarity is the cosine of the features, and the weight of a vote is exp(similarity / 0.07). Held-out images vote,
    too. All lists have an entry for each chunk of n validation images.
    """

    def __init__(self, task: ProbeTask, example: Encoded) -> None:
        self.classes, self.num_neighbours = task.classes, task.probing.neighbours
        self.queries: list[Tensor] = []  # (n, F), of length 1
        self.labels: list[Tensor] = []  # (n,)
        self.similarity: list[Tensor] = []  # (n, k) to the nearest training images so far
        self.votes: list[Tensor] = []  # (n, k) their labels

    def validate(self, part: Encoded, labels: Tensor) -> None:
        """Adds queries."""
        for features, chunk_labels in zip(part.features.split(CHUNK), labels.split(CHUNK), strict=True):
            self.queries.append(normalize(features, dim=1))
            self.labels.append(chunk_labels)
            self.similarity.append(features.new_zeros(len(features), 0))
            self.votes.append(chunk_labels.new_zeros(len(features), 0))

    def update(self, part: Encoded, labels: Tensor, held_out: Tensor) -> None:
        """Adds candidates for neighbours."""
        features = normalize(part.features, dim=1)
        for chunk, queries in enumerate(self.queries):
            nearest, indices = (queries @ features.T).topk(min(self.num_neighbours, len(features)), dim=1)
            similarity = torch.cat([self.similarity[chunk], nearest], 1)
            votes = torch.cat([self.votes[chunk], labels[indices]], 1)
            self.similarity[chunk], order = similarity.topk(min(self.num_neighbours, similarity.shape[1]), dim=1)
            self.votes[chunk] = votes.gather(1, order)

    def predictions(self) -> Tensor:
        """The class (N,) that the neighbours of each validation image vote for."""
        weights = (torch.cat(self.similarity) / TEMPERATURE).exp()
        return weights.new_zeros(len(weights), self.classes).scatter_add_(1, torch.cat(self.votes), weights).argmax(1)

    def result(self) -> Result:
        """The accuracy of the vote."""
        correct = self.predictions() == torch.cat(self.labels)
        return Result(correct.double().mean().item(), correct)


MEASURE = KNN
