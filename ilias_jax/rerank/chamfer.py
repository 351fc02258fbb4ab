"""Chamfer stub."""

import jax.numpy as jnp
import numpy as np

from ilias_jax.rerank.descriptors import LocalSettings


class Chamfer:
    inputs = "descriptors"
    usual = LocalSettings(num_descriptors=100)
    takes_detector_map = False
    projection = "l2"
    storage = "float16"
    parameters = None
    input_dim = None

    def __init__(self, config):
        self.config = config

    @classmethod
    def create(cls, config, mesh):
        return cls(config)

    def project(self, parameters, v):
        return v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-12)

    def score(self, queries, images, indices, sims):
        q = queries.dense().astype(np.float32)
        d = images.dense().astype(np.float32)
        out = np.zeros(indices.shape, np.float32)
        for b in range(len(q)):
            n = queries.counts[b]
            s = np.einsum("nd,mtd->mnt", q[b, :n], d[indices[b]])
            s = np.where(images.mask[indices[b]][:, None, :], s, -np.inf)
            out[b] = s.max(-1).mean(-1)
        return out

    def combine(self, sims, scores):
        w = self.config.similarity_weight
        return scores if w is None else w * sims + (1 - w) * scores

    def facts(self):
        return {"similarity_weight": self.config.similarity_weight}
