"""How scores are named, ordered and written."""

from __future__ import annotations

import pytest

from fragrecon.report import metrics


@pytest.mark.parametrize(
    ("metric", "title", "value", "falling"),
    [
        ("kmeans_ari", "KMeans ARI", "0.1235", False),
        ("mean_clustering_score", "mean clustering score", "0.1235", False),
        ("masked_psnr", "masked PSNR, dB", "0.12", False),
        ("composite_ssim", "composite SSIM", "0.1235", False),
        ("reconstruction_mse", "reconstruction MSE", "0.12346", True),
        ("composite_lpips", "composite LPIPS", "0.1235", True),
        ("composite_fid", "composite FID", "0.12", True),
        ("composite_feature_distance", "composite feature distance", "0.1235", True),
        ("unknown_k_error", "N error", "0.12", True),
        ("whitened_pca", "whitened PCA", "0.1235", False),
        ("kmedoids_nmi", "KMedoids NMI", "0.1235", False),
        ("pcas", "pcas", "0.1235", False),
        ("loss", "loss", "0.1235", True),
    ],
)
def test_each_metric_has_a_name_a_way_to_be_written_and_a_direction(
    metric: str, title: str, value: str, falling: bool
) -> None:
    assert metrics.title(metric) == title
    assert metrics.name(metric) == title.removesuffix(", dB")
    assert metrics.text(metric, 0.123456) == value
    assert metrics.text(metric, 0.123456, "+") == f"+{value}"
    assert metrics.around(metric, 0.123456, 0.123456) == f"{value} ± {value}"
    assert metrics.around(metric, 0.123456, None) == value
    assert metrics.measure(metric).lower_is_better is falling


def test_metrics_shown_at_first_are_ordered_by_task_and_come_before_all_others() -> None:
    found = ["composite_mse", "reconstruction_mse", "masked_mse", "masked_psnr", "mean_ari", "kmeans_nmi", "kmeans_ari"]
    assert metrics.ordered([*found, "masked_psnr"]) == [
        *("kmeans_ari", "kmeans_nmi", "masked_psnr", "masked_mse", "reconstruction_mse"),
        *("composite_mse", "mean_ari"),
    ]
    assert metrics.MASKED.of(found) == ["masked_psnr", "masked_mse", "composite_mse"]
    assert metrics.CLUSTERING.of(found) == ["kmeans_ari", "kmeans_nmi", "mean_ari"]
    assert metrics.WHOLE.of(found) == ["reconstruction_mse"]
    assert metrics.compared(["masked_psnr", "mean_clustering_score", "masked_mse"]) == [
        "mean_clustering_score",
        "masked_psnr",
    ]


def test_every_family_compares_and_shows_metrics_of_its_own() -> None:
    for family in metrics.FAMILIES:
        assert (family.compared in family.shown) == (family is not metrics.OWN)  # its metrics are not known
        assert family.of(metrics.SHOWN) == list(family.shown)


def test_metrics_of_the_user_are_a_family_with_plain_names() -> None:
    assert metrics.family("own_near_share") is metrics.OWN
    assert metrics.name("own_near_share") == "near share"
    assert metrics.measure("own_near_error").lower_is_better
    assert metrics.compared(["own_near_share", "kmeans_ari"]) == []


def test_no_two_columns_of_a_table_have_one_name() -> None:
    for columns in (*(family.shown for family in metrics.FAMILIES), metrics.BEYOND, metrics.PAIRS, metrics.REASSEMBLY):
        assert len(set(map(metrics.title, columns))) == len(columns)


def test_scores_on_compressed_images_have_a_caveat_where_fragments_meet() -> None:
    record = {"data": {"images": 60, "lossy": 40}, "protocol": {"fragments_per_image": 16}}
    assert "40 of 60" in metrics.caveat(record)
    assert not metrics.caveat(record | {"data": {"images": 60, "lossy": 0}})
    assert not metrics.caveat(record | {"data": {"images": 60}})  # of a result that does not know
    assert not metrics.caveat(record | {"protocol": {"fragments_per_image": 1}})
