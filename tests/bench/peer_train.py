"""Run by the peer's Python: train annieslasso on the pixels of an .npz file; print seconds.

    python peer_train.py CASE.npz        arrays labels (n_star, n_label), flux, ivar (n_star, n_pix)
"""
import sys
import time

import numpy as np
import thecannon

case = np.load(sys.argv[1])
names = [f"l{i}" for i in range(case["labels"].shape[1])]
vectorizer = thecannon.vectorizer.PolynomialVectorizer(label_names=names, order=2)
model = thecannon.CannonModel(case["labels"], case["flux"], case["ivar"], vectorizer)
start = time.perf_counter()
model.train(progressbar=False)
print(f"seconds {time.perf_counter() - start}")
