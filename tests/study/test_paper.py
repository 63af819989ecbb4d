"""Every result of the paper that its slides show stands in the study, beside its row."""

from __future__ import annotations

import pytest
from rows import ROOT

from ldae.study.study import Study

STUDY = Study.load(ROOT, {"scale": "imagenet"})

# What the slides show, in their order: (what it is, the row or the sweep and its value, measure, the paper's number).
SHOWN = [
    ("DiT-L, the starting point", "dit", None, "probe", 57.5),
    ("DiT-L, the starting point", "dit", None, "fid", 11.6),
    ("Table 1, + remove class-conditioning", "no_labels", None, "probe", 62.5),
    ("Table 1, + remove class-conditioning", "no_labels", None, "fid", 30.9),
    ("Table 1, + remove VQGAN perceptual loss", "no_perceptual", None, "probe", 58.4),
    ("Table 1, + remove VQGAN perceptual loss", "no_perceptual", None, "fid", 54.3),
    ("Table 1, + remove VQGAN adversarial loss", "no_adversarial", None, "probe", 59.0),
    ("Table 1, + remove VQGAN adversarial loss", "no_adversarial", None, "fid", 75.6),
    ("Table 1, + replace noise schedule", "conv_vae", None, "probe", 63.4),
    ("Table 1, + replace noise schedule", "conv_vae", None, "fid", 93.2),
    ("Table 3, patch-wise PCA baseline", "pca", None, "probe", 65.1),
    ("Table 3, + predict clean data", "predict_clean", None, "probe", 62.4),
    ("Table 3, + remove input scaling", "no_scaling", None, "probe", 63.6),
    ("Table 3, + operate on image input", "image_input", None, "probe", 63.6),
    ("Table 3, + operate on image output", "image_output", None, "probe", 63.9),
    ("Table 3, + predict original image", "ldae", None, "probe", 64.5),
    ("single noise level", "single_level", None, "probe", 61.5),
    ("training epochs, 400", "length", 1, "probe", 65.0),
    ("training epochs, 800", "length", 2, "probe", 67.5),
    ("training epochs, 1600", "length", 4, "probe", 69.6),
    ("model size, ViT-B", "size", "B", "probe", 60.3),
    ("model size, ViT-1/2 L", "size", "half-L", "probe", 65.0),
    ("model size, ViT-L", "size", "L", "probe", 70.9),
    ("comparison, MoCo v3 ViT-B", "moco_v3_b", None, "probe", 76.7),
    ("comparison, MoCo v3 ViT-L", "moco_v3_l", None, "probe", 77.6),
    ("comparison, MAE ViT-B", "mae_b", None, "probe", 68.0),
    ("comparison, MAE ViT-L", "mae_l", None, "probe", 75.8),
    ("comparison, l-DAE ViT-B", "ldae_b", None, "probe", 66.6),
    ("comparison, l-DAE ViT-L", "ldae_l", None, "probe", 75.0),
]
# Of the paper's App. B, which the slides do not show: accuracy after fine-tuning.
SHOWN += [
    ("fine-tuning, MoCo v3 ViT-B", "moco_v3_b", None, "finetune", 83.2),
    ("fine-tuning, MAE ViT-B", "mae_b", None, "finetune", 83.6),
    ("fine-tuning, l-DAE ViT-B", "ldae_b", None, "finetune", 83.7),
    ("fine-tuning, MoCo v3 ViT-L", "moco_v3_l", None, "finetune", 84.1),
    ("fine-tuning, MAE ViT-L", "mae_l", None, "finetune", 85.9),
    ("fine-tuning, l-DAE ViT-L", "ldae_l", None, "finetune", 84.7),
]


def test_each_number_of_the_paper_stands_beside_its_row_and_is_shown_in_a_table() -> None:
    shown = {row for table in STUDY.file.tables.values() if table.target != "none" for row in STUDY.rows(table.names)}
    for what, name, value, measure, number in SHOWN:
        (point,) = (point for point in STUDY.points(name) if value is None or point.value == value)
        assert getattr(point.paper, measure) == number, what
        assert point.variant in shown, what


def test_differences_that_the_slides_name_follow_from_the_numbers() -> None:
    probe = {name: variant.paper.probe or 0.0 for name, variant in STUDY.variants.items()}
    large, base = (next(p.paper.probe or 0.0 for p in STUDY.points("size") if p.value == size) for size in ("L", "B"))
    assert large - base == pytest.approx(10.6)
    assert probe["mae_b"] - probe["ldae_b"] == pytest.approx(1.4)
    assert probe["mae_l"] - probe["ldae_l"] == pytest.approx(0.8)
    assert probe["ldae"] - probe["single_level"] == pytest.approx(3.0)


def test_the_claims_hold_in_the_paper_by_its_own_numbers() -> None:
    """A claim that the paper's numbers contradict would be a mistake of ours."""
    paper = {name: variant.paper for name, variant in STUDY.variants.items()}
    checked = 0
    for name, claim in STUDY.file.claims.items():
        if claim.sum is not None:
            terms = [(weight, paper[row].probe) for row, weight in claim.sum.items()]
            assert all(number is not None for _, number in terms), name
            value = sum(weight * (number or 0.0) for weight, number in terms)
            if claim.above is not None:
                assert value > claim.above, name
            if claim.below is not None:
                assert value < claim.below, name
            if claim.within is not None:
                assert abs(value) <= claim.within + 1e-9, name
            checked += 1
        if claim.peak is not None:
            known = {point.value: point.paper.probe for point in STUDY.points(claim.peak) if point.paper.probe}
            assert max(known, key=lambda value: known[value] or 0.0) in (claim.among or []), name
            checked += 1
    assert checked >= 20
