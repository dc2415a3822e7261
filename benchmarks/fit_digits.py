"""Fits the Gaussian mixture behind ``ksched.exact.digits`` to scikit-learn's handwritten digits.

Run from the repository root: ``python benchmarks/fit_digits.py``. Needs scikit-learn, which ksched itself does not.
Every digit gets its own mixture by expectation-maximisation. The covariance of a component is shrunk towards the
digit's mean within-component covariance (there are 36 images for 64 pixels), and a floor keeps constant pixels from
being exact. Writes ``ksched/data/digits.npz``; the same machine writes the same bytes again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from ksched.exact.handwritten import digits

SEED = 0
COMPONENTS = 5  # per digit; more read no better, cost time at every call and do not fit the size
SHRINKAGE = 10.0  # the shared covariance counts as this many images; larger predicts better, smaller draws sharper
FLOOR = 0.003  # variance added to every pixel, in units where paper is -1 and ink 1
ROUNDS = 40
OUTPUT = Path(__file__).parents[1] / "ksched" / "data" / "digits.npz"
ABOUT = (
    "Gaussian mixture fitted to scikit-learn's load_digits (8x8 pixels in [-1, 1], paper -1, ink 1; data: Alpaydin and "
    "Kaynak 1998, UCI repository, CC BY 4.0). Covariance of a component = L @ L.T, factors = np.tril_indices(64) of L. "
    "Made by benchmarks/fit_digits.py."
)

Mixture = tuple[np.ndarray, np.ndarray, np.ndarray]  # weights (k,), means (k, 64), Cholesky factors (k, 64, 64)


def log_joint(images: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Log of weight times density of every component at every image, shape (images, components)."""
    columns = []
    for weight, mean, factor in zip(*mixture, strict=True):
        z = np.linalg.solve(factor, (images - mean).T)
        columns.append(np.log(weight) - (z**2).sum(0) / 2 - np.log(np.diag(factor) * np.sqrt(2 * np.pi)).sum())
    return np.stack(columns, axis=1)


def fit(images: np.ndarray) -> Mixture:
    """Mixture of `COMPONENTS` Gaussians by expectation-maximisation from k-means, covariances shrunk."""
    share = np.eye(COMPONENTS)[KMeans(COMPONENTS, n_init=10, random_state=SEED).fit_predict(images)]
    for _ in range(ROUNDS):
        count = share.sum(0)
        means = share.T @ images / count[:, None]
        scatter = np.stack([(w[:, None] * (images - m)).T @ (images - m) for w, m in zip(share.T, means, strict=True)])
        shared = scatter.sum(0) / len(images)
        covariances = (scatter + SHRINKAGE * shared) / (count + SHRINKAGE)[:, None, None] + FLOOR * np.eye(64)
        mixture = count / len(images), means, np.linalg.cholesky(covariances)
        joint = log_joint(images, mixture)
        share = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    return mixture


def main() -> None:
    data = load_digits()
    images, labels = data.data / 8 - 1, data.target
    held = np.random.default_rng(SEED).random(len(images)) < 0.2
    print("digit  held-out log-likelihood, nats per image")
    for digit in range(10):
        mine = labels == digit
        score = logsumexp(log_joint(images[mine & held], fit(images[mine & ~held])), axis=1).mean()
        print(f"{digit:5}  {score:8.2f}")

    fits = [fit(images[labels == digit]) for digit in range(10)]
    rows, columns = np.tril_indices(64)
    np.savez_compressed(
        OUTPUT,
        about=np.array(ABOUT),
        weights=np.concatenate([np.mean(labels == i) * weights for i, (weights, _, _) in enumerate(fits)]).astype("f4"),
        means=np.concatenate([means for _, means, _ in fits]).astype("f2"),
        factors=np.concatenate([factors[:, rows, columns] for _, _, factors in fits]).astype("f2"),
        labels=np.repeat(np.arange(10, dtype="u1"), COMPONENTS),
    )
    print(f"{OUTPUT.name}: {OUTPUT.stat().st_size / 1000:.0f} kB")

    judge = SVC(gamma=0.02, C=10.0)
    judge.fit(images[~held], labels[~held])
    print(f"judge, on held-out real digits: {judge.score(images[held], labels[held]):.3f}")
    judge.fit(images, labels)
    mixture = digits()
    right = [np.mean(judge.predict(mixture.only(digit).sample(500, SEED).clip(-1, 1)) == digit) for digit in range(10)]
    print("samples recognised, per digit:", " ".join(f"{r:.3f}" for r in right), f"mean {np.mean(right):.3f}")


if __name__ == "__main__":
    main()
