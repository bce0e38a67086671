"""How methods and metrics are called where people read them."""

from __future__ import annotations

WORDS = {
    "pca": "PCA",
    "ari": "ARI",
    "nmi": "NMI",
    "ami": "AMI",
    "kmeans": "KMeans",
    "kmedoids": "KMedoids",
    "frechet": "Fréchet",
    "mlp": "MLP",
    "knn": "kNN",
    "svm": "SVM",
}


def label(name: str) -> str:
    """``whitened_pca`` as ``whitened PCA``, ``kmeans_ari`` as ``KMeans ARI``."""
    return " ".join(WORDS.get(word, word) for word in name.split("_"))
