"""Weighted k nearest neighbors, as in Wu et al. 2018 (arXiv 1805.01978, section 3.4) and DINO (arXiv 2104.14294)."""

import logging

import torch
from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)

CHUNK = 2**24  # similarities held at a time: 64 MB of float32


def knn_scores(
    memory_ND: Tensor,
    labels_N: Tensor,
    queries_QD: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = CHUNK,
) -> Tensor:
    """What the k most similar of the memory vote for each query.

    Similarity is the cosine of the angle between two features; a neighbor's vote weighs exp(similarity / temperature).

    Args:
        memory_ND: features of the training images, floating point, on the device that is to compute.
        labels_N: int64, their classes.
        queries_QD: features of the test images.
        num_classes: C, more than any label.
        k: neighbors; limited to N, with a line in the log.
        temperature: the lower, the more the nearest decide.
        chunk: similarities held at a time, at least N; bounds the memory taken, changes nothing else.

    Returns:
        [Q, C] on the queries' device: logarithm of the sum of the votes for each class, −∞ for a class without any.
    """
    if k > len(memory_ND):
        logger.info("k is %d, but there are %d training images: all of them vote", k, len(memory_ND))
        k = len(memory_ND)
    memory = F.normalize(memory_ND, dim=1)
    labels = labels_N.to(memory.device)
    rows = max(1, chunk // len(memory))
    scores = []
    for queries in queries_QD.split(rows):
        similarity = F.normalize(queries.to(memory.device), dim=1) @ memory.T
        nearest = similarity.topk(k, dim=1)
        # relative to the nearest one's, so that no temperature overflows
        votes = ((nearest.values - nearest.values[:, :1]) / temperature).exp()
        total = votes.new_zeros(len(queries), num_classes).scatter_add_(1, labels[nearest.indices], votes)
        scores.append(total.log() + nearest.values[:, :1] / temperature)
    return torch.cat(scores).to(queries_QD.device)
