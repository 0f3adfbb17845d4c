"""Run by the peer's Python: from its files to its trained model, as its guide does it; prints the seconds of training.

    python peer_train.py FLUX.npy IVAR.npy LABELS.npy N_PIXEL MODEL

Arrays: flux and ivar (n_star, n_pix), labels (n_star, n_label).
All of `train` is at its documented defaults: one process, L-BFGS-B. Only the first N_PIXEL pixels are trained, as
columns of the whole arrays; the model that is written has all of them.
"""
import sys
import time

import numpy as np
import thecannon

flux, ivar, labels = (np.load(path) for path in sys.argv[1:4])
n_pixel = int(sys.argv[4])
names = tuple(f"l{i}" for i in range(labels.shape[1]))
vectorizer = thecannon.vectorizer.PolynomialVectorizer(names, 2)
model = thecannon.CannonModel(labels, flux, ivar, vectorizer)
part = thecannon.CannonModel(labels, flux[:, :n_pixel], ivar[:, :n_pixel], vectorizer)
start = time.perf_counter()
theta, s2, _ = part.train()
print(f"\nseconds {time.perf_counter() - start}")
copies = -(-flux.shape[1] // n_pixel)
model._theta, model._s2 = np.tile(theta, (copies, 1))[:flux.shape[1]], np.tile(s2, copies)[:flux.shape[1]]
model.write(sys.argv[5], overwrite=True)
