"""How methods and metrics are called where people read them."""

from __future__ import annotations


def label(name: str) -> str:
    """``whitened_pca`` as ``whitened PCA``, ``kmeans_ari`` as ``KMeans ARI``."""
    words = {"pca": "PCA", "ari": "ARI", "nmi": "NMI", "ami": "AMI", "kmeans": "KMeans", "kmedoids": "KMedoids"}
    return " ".join(words.get(word, word) for word in name.split("_"))
