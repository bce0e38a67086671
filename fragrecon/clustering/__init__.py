"""Clustering of many small problems at once, and measures of agreement.

Batched tensors in, batched tensors out: KMeans, k-medoids, balanced and spectral clustering, the number of clusters,
and `agreement` (ARI, NMI, purity, ...). Nothing here depends on models, files or the configuration. The
evaluation protocol, in `fragrecon.evaluation.clustering`, selects from these clusterings and measures.
"""
