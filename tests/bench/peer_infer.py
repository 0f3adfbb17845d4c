"""Run by the peer's Python: infer the labels of an .npz file's spectra with annieslasso; print seconds.

    python peer_infer.py CASE.npz        arrays theta, s2, flux, ivar, low, pivot, high (training percentiles)

One process: its own `threads=` hangs. Only `test` is timed, not the making of the model.
"""
import sys
import time

import numpy as np
import thecannon

case = np.load(sys.argv[1])
names = [f"l{i}" for i in range(len(case["pivot"]))]
n_pix = len(case["s2"])
# Three training stars per label give the percentiles of the scaling; the coefficients are put in by hand.
labels = np.repeat(np.stack([case["low"], case["pivot"], case["high"]]), 40, axis=0)
vectorizer = thecannon.vectorizer.PolynomialVectorizer(label_names=names, order=2)
model = thecannon.CannonModel(labels, np.ones((len(labels), n_pix)), np.ones((len(labels), n_pix)), vectorizer)
model._theta, model._s2 = case["theta"], case["s2"]
start = time.perf_counter()
model.test(case["flux"], case["ivar"])
print(f"seconds {time.perf_counter() - start}")
