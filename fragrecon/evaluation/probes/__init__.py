"""Probes: classifiers trained on frozen embeddings of whole images.

Each classifier is a class in a module of its own (`network`, `knn`, `logistic`, `svm`), derived from `base.Probe`. A
new one is also named in `scoring.probes_of` and in the choices of ``evaluation.probe.classifiers``.
"""
