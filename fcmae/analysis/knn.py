"""Weighted k nearest neighbors, as in Wu et al. 2018 (arXiv 1805.01978, section 3.4) and DINO (arXiv 2104.14294)."""

import logging

import torch
from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)

CHUNK = 2**24  # similarities in memory at a time: 64 MB of float32


def knn_scores(
    memory_ND: Tensor,
    labels_N: Tensor,
    queries_QD: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = CHUNK,
) -> Tensor:
    """Votes of the k nearest training features for each query.

    Similarity is the cosine of two features; a neighbor's vote has weight exp(similarity / temperature).

    Args:
        memory_ND: features of the training images, floating point, on the device to compute on.
        labels_N: int64, their classes.
        queries_QD: features of the test images.
        num_classes: C, greater than any label.
        k: number of neighbors; reduced to N if larger, which is logged.
        temperature: the lower it is, the more weight the nearest neighbors have.
        chunk: similarities in memory at a time, at least N. It limits the memory and does not change the result.

    Returns:
        [Q, C] on the queries' device: log of the summed votes per class, −∞ for a class without votes.
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
        # relative to the nearest neighbor's, so that exp cannot overflow at any temperature
        votes = ((nearest.values - nearest.values[:, :1]) / temperature).exp()
        total = votes.new_zeros(len(queries), num_classes).scatter_add_(1, labels[nearest.indices], votes)
        scores.append(total.log() + nearest.values[:, :1] / temperature)
    return torch.cat(scores).to(queries_QD.device)
