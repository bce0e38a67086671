"""Probes: classifiers trained on frozen embeddings of whole images.

Each classifier is a subclass of `base.Probe` in a separate module (`network`, `knn`, `logistic`, `svm`). A new one is
also added to `scoring.probes_of` and to the choices of ``evaluation.probe.classifiers`` in `config.evaluation`.
"""
