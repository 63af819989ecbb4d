"""Our PCA fit, a streaming covariance and one eigendecomposition, against scikit-learn's IncrementalPCA.

Both see the same batches. IncrementalPCA is approximate, so both subspaces are compared with an exact fit's, too.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA, IncrementalPCA

from benchmarks.comparison import in_turn, save
from ldae.parts.tokenizers import pca

PATCHES, DIM, COMPONENTS, BATCH = 40_000, 768, 128, 4096


def main() -> None:
    """Measures both in turn, and how much of the variance each subspace keeps."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    spectrum = 1 / np.arange(1, DIM + 1)  # as steep as that of natural patches
    rotation = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
    data = (rng.standard_normal((PATCHES, DIM)) * spectrum @ rotation + 0.1).astype(np.float32)
    batches = torch.from_numpy(data).split(BATCH)

    def theirs() -> IncrementalPCA:
        fit = IncrementalPCA(COMPONENTS)
        for batch in batches:
            fit.partial_fit(batch.numpy())
        return fit

    report = in_turn(lambda: pca.fit(batches), theirs, 3)
    exact = PCA(COMPONENTS, svd_solver="covariance_eigh").fit(data.astype(np.float64))
    kept = {}
    for name, basis in (("ours", pca.fit(batches)["basis"][:COMPONENTS].numpy()), ("theirs", theirs().components_)):
        centred = data.astype(np.float64) - data.mean(0, dtype=np.float64)
        kept[name] = np.square(centred @ basis.T).sum() / np.square(centred @ exact.components_.T).sum()
        cosines = np.linalg.svd(basis[:32] @ exact.components_[:32].T, compute_uv=False)
        report[f"{name}_largest_angle_of_first_32_degrees"] = round(
            float(np.degrees(np.arccos(cosines.min().clip(0, 1)))), 4
        )
    report |= {f"{name}_variance_kept_of_exact": round(float(share), 9) for name, share in kept.items()}
    save("pca_fit", {"what": f"PCA of {PATCHES} patches of {DIM} dims, ours against IncrementalPCA"} | report)


if __name__ == "__main__":
    main()
