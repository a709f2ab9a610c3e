"""Inputs of golden/metrics.json, regenerated with numpy only (legacy RandomState: version stable).

make(case) -> (X, Y) float32 arrays.  All maths in float64, cast to float32 at the very end.
"""

import numpy as np


def make(case):
    r = np.random.RandomState(case["seed"])
    n, d1, d2 = case["N"], case["D1"], case["D2"]
    A = r.randn(n, d1)
    B = r.randn(n, d2)
    W = r.randn(d1, d2) / np.sqrt(d1)
    k = case["kind"]
    if k == "independent":
        X, Y = A, B
    elif k == "identical":
        X, Y = A, A.copy()
    elif k == "correlated":  # Y = (1-t)*A@W + t*B
        t = case["t"]
        X, Y = A, (1.0 - t) * (A @ W) + t * B
    elif k == "offset":  # same as correlated, with big means
        t = case["t"]
        X, Y = A + 3.0, (1.0 - t) * (A @ W) + t * B - 7.0
    elif k == "scaled":  # Y = s*A
        X, Y = A, case["s"] * A
    elif k == "bothscaled":
        X, Y = case["s"] * A, case["s"] * A
    elif k == "orthogonal":  # Y = A@Q, Q orthogonal (QR of a d1 x d1 normal)
        Q, R = np.linalg.qr(r.randn(d1, d1))
        Q = Q * np.sign(np.diag(R))
        X, Y = A, A @ Q
    elif k == "rowperm":
        X, Y = A, A[r.permutation(n)]
    elif k == "lowrank":  # rank-2 student
        U = r.randn(n, 2)
        X, Y = U @ r.randn(2, d1), U @ r.randn(2, d2) + 0.1 * B
    elif k == "constant":
        X, Y = np.ones((n, d1)) * 2.5, B
    elif k == "negated":
        X, Y = A, -A
    elif k == "layernormed":  # tokens as after a LayerNorm(elementwise_affine=False)
        Z = 0.5 * (A @ W) + 0.5 * B
        Y = (Z - Z.mean(1, keepdims=True)) / np.sqrt(Z.var(1, keepdims=True) + 1e-6)
        X = A
    else:
        raise ValueError(k)
    return X.astype(np.float32), Y.astype(np.float32)


def cka64(X, Y):
    X = X.astype(np.float64)
    Y = Y.astype(np.float64)
    X = X - X.mean(0)
    Y = Y - Y.mean(0)
    den = np.sqrt(((X.T @ X) ** 2).sum() * ((Y.T @ Y) ** 2).sum())
    return 0.0 if den < 1e-12 else float(((X.T @ Y) ** 2).sum() / den)


def cos64(X, Y):
    X = X.astype(np.float64)
    Y = Y.astype(np.float64)
    x = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)
    y = Y / np.maximum(np.linalg.norm(Y, axis=1, keepdims=True), 1e-12)
    return float((x * y).sum(1).mean())
