"""Clustering of many small problems at once, and measures of agreement.

Batched tensors in, batched tensors out: KMeans, k-medoids, balanced and spectral clustering, the number of clusters,
and `agreement` (ARI, NMI, purity, ...). Nothing here knows of models, files or the configuration. Which clusterings and
measures make up the evaluation protocol is defined in `fragrecon.evaluation.clustering`.
"""
