"""Learned two-sample tests: a classifier, Voronoi cells, and nearest neighbours.

Classifier two-sample tests: Lopez-Paz & Oquab (2017). PQMass: Lemos et al. (2024). Conventions are those of
``hiergal.validation.two_sample``.
"""

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.spatial import KDTree

from hiergal.runtime.extras import require_extra
from hiergal.runtime.verdict import (
    ALPHA,
    Verdict,
    checked,
    exchange_verdict,
    labels_of,
    pooled_rows,
    standardised,
    verdict_of,
)

__all__ = ["FEWEST_CLASSIFIED", "classifier_test", "memorization_test", "pqmass_test"]

Rows = Float[np.ndarray, "n d"]
OtherRows = Float[np.ndarray, "m d"]

REFERENCES, TESSELLATIONS = 100, 10
FEWEST_CLASSIFIED = 20  # galaxies of each sample: half of them teach the classifier


def classifier_test(
    real: Rows, other: OtherRows, name: str, *, seed: int = 0, alpha: float = ALPHA
) -> Verdict:
    """Classify the samples by gradient-boosted trees; the statistic is its accuracy on held-out rows.

    Args:
        real: Rows of several quantities.
        other: Rows of the generator. The larger sample is cut to the size of the smaller; half of each trains.
        name: Name of the comparison.
        seed: Seed of the split and of the classifier.
        alpha: Chance of a false alarm.

    Raises:
        ValueError: If a sample has fewer than 20 rows.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> classifier_test(rng.normal(size=(300, 2)), rng.normal(1.0, 1.0, (300, 2)), "shapes").passed
        False
    """
    require_extra("validate", "the classifier")
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    real, other = checked(real, other, least=FEWEST_CLASSIFIED)
    rng = np.random.default_rng(seed)
    size = min(len(real), len(other))
    rows = [sample[rng.permutation(len(sample))[:size]] for sample in (real, other)]
    half = size // 2
    model = HistGradientBoostingClassifier(
        max_iter=100, max_leaf_nodes=15, learning_rate=0.05, random_state=seed
    )
    with threadpool_limits(
        1
    ):  # threads of such small work mostly wait for each other, and for other processes'
        model.fit(np.concatenate([r[:half] for r in rows]), np.repeat([0, 1], half))
        right = int((model.predict(rows[0][half:]) == 0).sum() + (model.predict(rows[1][half:]) == 1).sum())
    held_out = 2 * (size - half)
    accuracy = right / held_out
    p_value = float(stats.binomtest(right, held_out, 0.5, alternative="greater").pvalue)
    error = float(np.sqrt(accuracy * (1 - accuracy) / held_out))
    words = (
        f"{name}: a classifier is right for {100 * accuracy:.1f} +- {100 * error:.1f} % of held-out galaxies"
    )
    return verdict_of(f"{name} (classifier)", accuracy, error, 0.5, p_value, alpha, words)


def pqmass_test(
    real: Rows,
    other: OtherRows,
    name: str,
    *,
    references: int = REFERENCES,
    seed: int = 0,
    alpha: float = ALPHA,
) -> Verdict:
    """Compare counts in the Voronoi cells of random galaxies (PQMass); the statistic is the reduced chi-square.

    Args:
        real: Rows of several quantities, or pixels.
        other: Rows of the generator.
        name: Name of the comparison.
        references: Number of cells; the p-value holds for cells with few galaxies, too.
        seed: Seed of the cells and of the exchanges.
        alpha: Chance of a false alarm.

    Returns:
        The verdict; the statistic is the mean over ten sets of cells, the p-value from exchanges of labels.

    Raises:
        ValueError: If the samples have fewer than twice as many rows as there are cells.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> verdict = pqmass_test(rng.normal(size=(400, 3)), rng.normal(size=(400, 3)), "shapes", references=20)
        >>> verdict.passed, round(verdict.statistic)
        (True, 1)
    """
    pooled, n = pooled_rows(*standardised(real, other))
    if len(pooled) < 2 * references:
        raise ValueError(
            f"{name}: expected at least {2 * references} galaxies for {references} cells, got {len(pooled)}; ask for "
            "fewer cells"
        )
    rng = np.random.default_rng(seed)
    members = []
    for _ in range(TESSELLATIONS):
        centres = rng.choice(len(pooled), references, replace=False)
        member = np.zeros((len(pooled), references))
        member[np.arange(len(pooled)), KDTree(pooled[centres]).query(pooled)[1]] = 1
        member[centres] = 0  # the centres themselves do not count
        members.append(member[:, member.sum(axis=0) > 0])

    def chi_square(labels: Float[np.ndarray, "c nm"]) -> Float[np.ndarray, "c"]:
        mine = (labels > 0).astype(float)
        result = np.zeros(len(mine))
        for member in members:
            total, found = member.sum(axis=0), mine @ member
            size, whole = found.sum(axis=1, keepdims=True), total.sum()
            expected = size * total / whole
            # Of both samples: where one has more than its share, the other has less.
            both = (found - expected) ** 2 / expected * whole / (whole - size)
            result = result + both.sum(axis=1) / max(member.shape[1] - 1, 1)  # one cell says nothing
        return result / TESSELLATIONS

    def error(_: float, rng: np.random.Generator) -> float:
        orders = np.stack([rng.permutation(len(pooled)) for _ in range(100)])
        return float(np.std(chi_square(labels_of(orders, n))))

    return exchange_verdict(
        f"{name} (PQMass)",
        chi_square,
        len(pooled),
        n,
        lambda found, error, expected: (
            f"{name}: reduced chi-square {found:.2f} +- {error:.2f} (PQMass), {expected:.2f} for one population"
        ),
        error=error,
        rng=rng,
        alpha=alpha,
    )


def memorization_test(
    drawn: Rows,
    trained: OtherRows,
    held_out: Float[np.ndarray, "k d"],
    name: str,
    *,
    seed: int = 0,
    alpha: float = ALPHA,
) -> Verdict:
    """Test for memorisation: draws nearer to galaxies of the training than to others; the statistic is their fraction.

    Args:
        drawn: Rows of drawn galaxies: statistics, latents or pixels.
        trained: Rows of galaxies that the model was trained on.
        held_out: Rows of galaxies of the same population that it was not.
        name: Name of the comparison.
        seed: Seed of the exchanges.
        alpha: Chance of a false alarm.

    Returns:
        The verdict; the p-value is one-sided, from exchanges of galaxies between the two sets.

    Raises:
        ValueError: If a sample has fewer than two rows, or values that are not finite.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> trained, held_out = rng.normal(size=(2, 300, 4))
        >>> memorization_test(trained + 0.1 * rng.normal(size=(300, 4)), trained, held_out, "latents").passed
        False
    """
    both, size = pooled_rows(trained, held_out)
    scale = both.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    nearest = KDTree(both / scale).query(checked(drawn, both)[0] / scale)[1]

    def share(labels: Float[np.ndarray, "c nm"]) -> Float[np.ndarray, "c"]:
        return (labels[:, nearest] > 0).mean(axis=1)

    return exchange_verdict(
        f"{name} (memorisation)",
        share,
        len(both),
        size,
        lambda found, error, expected: (
            f"{name}: {100 * found:.1f} +- {100 * error:.1f} % of the draws are nearest to a galaxy of the training, "
            f"{100 * expected:.1f} % by chance"
        ),
        error=lambda found, _: float(np.sqrt(found * (1 - found) / len(drawn))),
        rng=np.random.default_rng(seed),
        alpha=alpha,
    )
