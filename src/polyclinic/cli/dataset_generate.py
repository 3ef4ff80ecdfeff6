"""``polyclinic dataset generate``: Fed-Synthetic with all its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.errors import ConfigError


def generate(
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write to; made if absent.")],
    centers: Annotated[int, typer.Option(metavar="N", help="Number of centers.")] = 4,
    samples: Annotated[int, typer.Option(metavar="N", help="Samples of all centers together.")] = 1000,
    features: Annotated[int, typer.Option(metavar="N", help="Features of a sample.")] = 10,
    clusters: Annotated[int, typer.Option(metavar="N", help="Number of classes.")] = 3,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed makes the same data.")] = 42,
    snr: Annotated[float, typer.Option(metavar="X", help="Signal-to-noise ratio: larger is easier.")] = 3.0,
    sample_repartition: Annotated[
        str, typer.Option(metavar="3,1,1", help="Each center's share; or one number above 1: a power law.")
    ] = "",
    noise_heterogeneity: Annotated[
        str, typer.Option(metavar="1,3,9", help="Each center's signal-to-noise ratio, instead of --snr.")
    ] = "",
    features_heterogeneity: Annotated[
        float | None, typer.Option(metavar="X", help="Shift features by up to so much, center by center.")
    ] = None,
    label_heterogeneity: Annotated[
        float | None, typer.Option(metavar="X", help="Share out classes by Dirichlet draws: 0.1 is very unequal.")
    ] = None,
    classification: Annotated[bool, typer.Option("--classification/--regression", help="Which task.")] = True,
    flamby_compatible: Annotated[
        bool, typer.Option("--flamby-compatible", help="As FLamby: seed 42 always, and shifts of classes add up.")
    ] = False,
) -> None:
    """Generate fed_synthetic: made-up data with centers that are as unequal as you like.

    Example: `polyclinic dataset generate --to made --centers 3 --sample-repartition 3,1,1 --label-heterogeneity 0.5`
    """
    from polyclinic.datasets import fed_synthetic

    shares = _numbers(sample_repartition, "--sample-repartition")
    path = fed_synthetic.generate(
        to,
        n_centers=centers,
        n_samples=samples,
        n_features=features,
        n_clusters=clusters,
        seed=seed,
        snr=snr,
        sample_repartition=shares[0] if len(shares) == 1 else shares or None,
        noise_heterogeneity=_numbers(noise_heterogeneity, "--noise-heterogeneity") or None,
        features_heterogeneity=features_heterogeneity,
        label_heterogeneity=label_heterogeneity,
        classification=classification,
        flamby_compatible=flamby_compatible,
    )
    typer.echo(f"Generated {centers} centers: {path}")
    typer.echo(f"Next: polyclinic federation create fed_synthetic --data {path}")


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",") if word.strip()]
    except ValueError as err:
        raise ConfigError(
            f"{option} takes numbers with commas between them, not {text!r}", to_do=f"write {option} 3,1,1"
        ) from err
