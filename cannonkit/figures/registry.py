"""All figures by the name that cc-report knows them by, in the order of the page."""
from typing import NamedTuple

from cannonkit.figures import (
    careful,
    catalogues,
    clusters,
    clusters_truth,
    errors,
    labels,
    models,
    pairs,
    spectra,
    surveys,
)


class Entry(NamedTuple):
    """One kind of figure or table."""

    section: str
    make: object    # function (run, settings) -> [Item or Missing]
    parts: tuple    # kinds of files that it can use (run_directory.PARTS)


FIGURES = {
    "kiel": Entry("The surveys and their common stars", surveys.kiel,
                  ("selection", "catalogue", "training", "labels")),
    "cuts": Entry("The surveys and their common stars", surveys.cuts, ("training",)),
    "survey-differences": Entry("The surveys and their common stars", surveys.survey_differences, ("training",)),
    "spectra": Entry("The surveys and their common stars", spectra.spectra, ("spectra",)),
    "one-to-one": Entry("The models", models.one_to_one, ("model",)),
    "vmicro-relation": Entry("The models", models.with_relation, ("relation", "model")),
    "coefficients": Entry("The models", models.coefficients, ("model",)),
    "components": Entry("The models", models.components, ("model",)),
    "residuals": Entry("The models", models.residuals, ("model", "spectra", "labels")),
    "before-after": Entry("Labels on one scale", labels.tables, ("training", "labels")),
    "label-differences": Entry("Labels on one scale", labels.label_differences, ("training", "labels")),
    "truth": Entry("Against the known truth of the mock", labels.truth, ("truth", "labels")),
    "factors": Entry("Errors", errors.factors, ("errors",)),
    "precision": Entry("Errors", errors.precision, ("errors",)),
    "pulls": Entry("Errors", errors.pulls, ("pulls",)),
    "flags": Entry("The scaled catalogues", catalogues.flags, ("catalogue",)),
    "coverage": Entry("The scaled catalogues", catalogues.coverage, ("catalogue",)),
    "galaxy": Entry("The scaled catalogues", catalogues.galaxy, ("catalogue",)),
    "clusters": Entry("Clusters", clusters.table, ("clusters", "catalogue")),
    "clusters-known": Entry("Clusters", clusters_truth.known, ("truth", "clusters", "catalogue")),
    "clusters-kiel": Entry("Clusters", clusters.kiel, ("clusters", "catalogue")),
    "cluster-trends": Entry("Clusters", clusters.trends, ("clusters", "catalogue")),
    "cluster-gravity": Entry("Clusters", clusters.gravity, ("clusters", "catalogue")),
    "pairs": Entry("Clusters", pairs.pairs, ("clusters", "catalogue", "labels", "spectra")),
    "careful": Entry("What to be careful with", careful.careful, ("model", "labels", "errors", "training")),
}
