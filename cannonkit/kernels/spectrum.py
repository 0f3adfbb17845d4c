"""From the bytes of a row to flux, weights and signal-to-noise ratios. Compiled.

Spectra stand in files as big-endian float32; the loops here read the bytes themselves, so a chunk of a table
needs no copy. A pixel is used where flux and ivar are sane numbers, ivar > 0 and the model has finite s2.
What is not sane (NaN or infinite flux, NaN, infinite, negative, subnormal or absurd ivar) is masked and
counted; ivar = 0 is a mask and not counted.
"""
import numpy as np
from numba import njit

# ivar above this (a relative error of 1e-7 per pixel of normalised flux) and |flux| above this are fill
# values.
LARGEST_IVAR = np.float32(1e14)
LARGEST_FLUX = np.float32(1e7)
# The smallest normal float32: below it are the subnormals.
SMALLEST_IVAR = np.float32(1.1754944e-38)

# The key (see to_ordered_keys) of +inf, and one below all keys.
INFINITE = np.int32(2139095040)
SMALLEST_KEY = np.int32(-2147483648)


@njit(cache=True)
def read_floats(row, at, swap, n, words):
    """Fill words[:n] (uint32, whose view as float32 holds the numbers) from 4 n bytes of `row` from byte
    `at`.

    row  uint8, contiguous; the numbers in it may stand at any address (processors of today load them all the
    same, and a copy by bytes costs ten times this loop)
    """
    source = row[at:at + 4 * n].view(np.uint32)
    if swap:
        for p in range(n):
            bits = source[p]
            words[p] = np.uint32(np.uint32(bits >> np.uint32(24))
                                 | np.uint32((bits >> np.uint32(8)) & np.uint32(0xff00))
                                 | np.uint32((bits << np.uint32(8)) & np.uint32(0xff0000))
                                 | np.uint32(bits << np.uint32(24)))
    else:
        for p in range(n):
            words[p] = source[p]


@njit(cache=True, error_model="numpy")
def is_sane(flux, ivar):
    """Both numbers can be used: finite and of a possible size, ivar > 0. NaN fails every comparison."""
    return (ivar >= SMALLEST_IVAR) & (ivar <= LARGEST_IVAR) & (np.abs(flux) <= LARGEST_FLUX)


@njit(cache=True)
def to_ordered_keys(bits):
    """Make of the bits (int32) of floats (no NaN), in place, integers in the order of the floats."""
    for p in range(bits.size):
        bits[p] ^= (bits[p] >> np.int32(31)) & np.int32(0x7fffffff)


@njit(cache=True)
def _count_upto(keys, limit):
    n = np.int32(0)
    for p in range(keys.size):       # the casts keep the sum in 32 bits: twice as many at a time
        n = np.int32(n + np.int32(keys[p] <= limit))
    return n


@njit(cache=True)
def _float_of(key, one_key):
    one_key[0] = key ^ ((key >> np.int32(31)) & np.int32(0x7fffffff))
    return np.float64(one_key.view(np.float32)[0])


@njit(cache=True)
def _next_above(keys, limit):
    """The smallest key above limit (the key of +inf if there is none)."""
    found = INFINITE
    for p in range(keys.size):
        found = min(found, keys[p] if keys[p] > limit else INFINITE)
    return found


@njit(cache=True)
def _last_upto(keys, limit):
    """The largest key that is not above limit (the smallest integer if there is none)."""
    found = SMALLEST_KEY
    for p in range(keys.size):
        found = max(found, keys[p] if keys[p] <= limit else SMALLEST_KEY)
    return found


@njit(cache=True)
def _bracket(keys, below, sample):
    """(low, high, count(keys <= low), count(keys <= high)) with the first count <= below < the second.

    From a sample of every so-manyth key; right for any keys, and close if the sample is typical.
    """
    n_sample = 0
    stride = max(1, keys.size // sample.size)
    for p in range(0, keys.size, stride):
        key = keys[p]
        if key == INFINITE or n_sample == sample.size:
            continue
        slot = n_sample
        while slot > 0 and sample[slot - 1] > key:      # insertion sort
            sample[slot] = sample[slot - 1]
            slot -= 1
        sample[slot] = key
        n_sample += 1
    if n_sample > 8:
        low, high = sample[(3 * n_sample) // 10], sample[(7 * n_sample) // 10]
        n_low, n_high = _count_upto(keys, low), _count_upto(keys, high)
        if n_low <= below and n_high > below:
            return np.int64(low), np.int64(high), np.int64(n_low), np.int64(n_high)
    lowest = INFINITE
    for p in range(keys.size):
        lowest = min(lowest, keys[p])
    return np.int64(lowest) - 1, np.int64(INFINITE), np.int64(0), np.int64(keys.size)


@njit(cache=True)
def median(values, n_used):
    """Exact median of the n_used smallest of `values` (float32; pixels not used hold +inf), NaN if n_used is 0.

    `values` is overwritten.

    A search on integer keys for one of the middle rank: each step counts, which the processor does 16 values at
    a time; about eight passes of 0.15 us for 8,575 pixels, where a selection that moves values takes 80 us. A step
    goes where the key would be if those between the ends were evenly spread, each third one to the middle of the
    ends; the last few keys are visited one by one from the nearer end.
    """
    if n_used == 0:
        return np.nan
    keys = values.view(np.int32)
    to_ordered_keys(keys)
    below = (n_used - 1) // 2        # so many before the median, or before the lower of the two middle values
    low, high, n_low, n_high = _bracket(keys, below, np.empty(64, dtype=np.int32))
    step = 0
    while high - low > 1 and below - n_low > 1 and n_high - below > 2:
        step += 1
        part = 0.5 if step % 3 == 0 else (below + 0.5 - n_low) / (n_high - n_low)
        middle = min(max(low + np.int64(part * (high - low)), low + 1), high - 1)
        n_middle = np.int64(_count_upto(keys, np.int32(middle)))
        if n_middle > below:
            high, n_high = middle, n_middle
        else:
            low, n_low = middle, n_middle
    key = np.int32(high)
    if high - low > 1 and below - n_low <= 1:      # the next key above low, or the one after it
        key = _next_above(keys, np.int32(low))
        n_low = np.int64(_count_upto(keys, key))
        if n_low <= below:
            key = _next_above(keys, key)
    elif high - low > 1:                           # the last key up to high, or the one before it
        key = _last_upto(keys, np.int32(high))
        if np.int64(_count_upto(keys, np.int32(key - 1))) > below:
            key = _last_upto(keys, np.int32(key - 1))
    one_key = np.empty(1, dtype=np.int32)
    first = _float_of(key, one_key)
    if n_used % 2 == 1 or _count_upto(keys, key) > below + 1:
        return first
    return 0.5 * (first + _float_of(_next_above(keys, key), one_key))
