"""The accuracy of k nearest neighbours, without any training."""

from __future__ import annotations

import torch
from torch import Tensor

from ldae.measures.measure import Encoded, Measure, Result, Task


class Neighbours:
    """DINO's k-NN classifier: a weighted vote of the most similar training features.

    Similarity is the cosine, and the weight of a vote is exp(similarity / 0.07). Training features arrive in parts.
    """

    def __init__(self, queries: Tensor, neighbours: int) -> None:
        """Starts without neighbours.

        Args:
            queries: features (n, F) to classify.
            neighbours: the number that votes.
        """
        self.neighbours = neighbours
        self._queries = torch.nn.functional.normalize(queries, dim=1)
        self._similarity = queries.new_zeros(len(queries), 0)  # (n, k) to the nearest so far
        self._labels = queries.new_zeros((len(queries), 0), dtype=torch.long)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Adds training features (N, F) with labels (N,)."""
        features = torch.nn.functional.normalize(features, dim=1)
        merged = []
        chunks = (parts.split(1024) for parts in (self._queries, self._similarity, self._labels))
        for queries, similarity, names in zip(*chunks, strict=True):
            nearest, indices = (queries @ features.T).topk(min(self.neighbours, len(features)), dim=1)
            similarity, names = torch.cat([similarity, nearest], 1), torch.cat([names, labels[indices]], 1)
            best, order = similarity.topk(min(self.neighbours, similarity.shape[1]), dim=1)
            merged.append((best, names.gather(1, order)))
        self._similarity, self._labels = (torch.cat(parts) for parts in zip(*merged, strict=True))

    def vote(self, classes: int) -> Tensor:
        """The predicted class (n,) of each query, among `classes`."""
        votes = torch.zeros(len(self._queries), classes, device=self._queries.device)
        votes.scatter_add_(1, self._labels, (self._similarity / 0.07).exp())
        return votes.argmax(1)


class KNN(Measure):
    """The accuracy of a vote of the nearest training images on the validation images."""

    def __init__(self, task: Task, example: Encoded) -> None:
        super().__init__(task, example)
        self.task = task
        self.queries: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.neighbours: Neighbours | None = None

    def validate(self, part: Encoded, labels: Tensor) -> None:
        """Adds queries."""
        self.queries.append(part.features)
        self.labels.append(labels)

    def update(self, part: Encoded, labels: Tensor, held_out: Tensor) -> None:
        """Adds candidates for neighbours, held-out images among them."""
        if self.neighbours is None:
            self.neighbours = Neighbours(torch.cat(self.queries), self.task.probing.neighbours)
        self.neighbours.update(part.features, labels)

    def result(self) -> Result:
        """The accuracy of the vote."""
        assert self.neighbours is not None
        correct = self.neighbours.vote(self.task.classes) == torch.cat(self.labels)
        return Result(correct.double().mean().item(), correct)


MEASURE = KNN
